//! Selectors: which tag of a repository an artifact follows. A selection never moves down, never takes a quarantined
//! release, and moves only to a tag that has pointed at one digest for the settle window.

use super::rollout::{Candidate, RolloutContext, ask_pin};
use super::{Ask, Draft, RolloutPlan, Waiting, earliest};
use crate::entry::*;
use crate::ids::{Digest, WorkloadId};
use crate::release::Release;
use crate::spec::{ArtifactSpec, Selector, WorkloadSpec};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What a selector sorts by. Only tags that it accepts have one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Version(semver::Version),
    Number(u128),
    Text(String),
}

impl Key {
    fn cmp(&self, other: &Key) -> Ordering {
        match (self, other) {
            // Build metadata does not order versions; the text does, so that the order is one.
            (Key::Version(a), Key::Version(b)) => a.cmp_precedence(b).then_with(|| a.build.cmp(&b.build)),
            (Key::Number(a), Key::Number(b)) => a.cmp(b),
            (Key::Text(a), Key::Text(b)) => a.cmp(b),
            // Numbers sort below texts; one selector gives one kind unless tags mix them.
            (Key::Number(_), _) | (Key::Text(_), Key::Version(_)) => Ordering::Less,
            (_, Key::Number(_)) | (Key::Version(_), Key::Text(_)) => Ordering::Greater,
        }
    }
}

/// Compiled once for all tags of a list. None: not a selector after all, which reading the manifest has refused.
enum Matcher {
    Semver(semver::VersionReq),
    Regex(regex::Regex),
}

impl Matcher {
    fn new(select: &Selector) -> Option<Self> {
        const COMPILED_MAX_BYTES: usize = 1 << 20;
        match select {
            Selector::Semver(text) => semver::VersionReq::parse(text).ok().map(Matcher::Semver),
            Selector::Regex(text) => regex::RegexBuilder::new(text)
                .size_limit(COMPILED_MAX_BYTES)
                .build()
                .ok()
                .map(Matcher::Regex),
        }
    }

    fn key(&self, tag: &str) -> Option<Key> {
        match self {
            Matcher::Semver(wanted) => {
                let version = semver::Version::parse(tag.strip_prefix('v').unwrap_or(tag)).ok()?;
                wanted.matches(&version).then_some(Key::Version(version))
            }
            Matcher::Regex(regex) => {
                let found = regex.captures(tag)?;
                let text = found.get(1).map_or(tag, |capture| capture.as_str());
                Some(text.parse().map_or_else(|_| Key::Text(text.to_owned()), Key::Number))
            }
        }
    }
}

/// Tags that a selector accepts, the best first.
pub fn ranked<'a>(select: &Selector, tags: &'a [String]) -> Vec<&'a str> {
    let Some(matcher) = Matcher::new(select) else {
        return Vec::new();
    };
    let mut keyed: Vec<(Key, &str)> = tags
        .iter()
        .filter_map(|tag| Some((matcher.key(tag)?, tag.as_str())))
        .collect();
    keyed.sort_by(|(a, a_tag), (b, b_tag)| b.cmp(a).then_with(|| a_tag.cmp(b_tag)));
    keyed.into_iter().map(|(_, tag)| tag).collect()
}

/// Looks for better tags, and records a selection with its pin in one batch.
pub(super) fn select(c: &RolloutContext, spec: &WorkloadSpec) -> RolloutPlan {
    let mut plan = RolloutPlan::default();
    for (artifact, from) in &spec.artifacts {
        let ArtifactSpec::Select { repository, select } = from else {
            continue;
        };
        let facts = c.tags.get(repository).cloned().unwrap_or_default();
        if facts.again_at > c.now {
            plan.wake_at = earliest(plan.wake_at, Some(facts.again_at));
        } else if !facts.asked {
            plan.asks.push(Ask::Tags {
                workload: c.id.clone(),
                repository: repository.clone(),
            });
        }
        let current = c.workload.reference(artifact);
        if let Some(tags) = &facts.tags {
            let chosen = follow(c, spec, artifact, repository, select, tags, &mut plan);
            if let Some(records) = chosen {
                plan.records = records.0;
                plan.blobs = records.1;
                return plan;
            }
        }
        if current.is_none() && plan.waiting.is_none() {
            let message = match (&facts.failure, &facts.tags) {
                (Some(failure), _) => format!("the tags of {repository} cannot be listed: {failure}"),
                (None, Some(tags)) => format!(
                    "none of the {} tags of {repository} is one that {artifact} may take",
                    tags.len()
                ),
                (None, None) => format!("listing the tags of {repository}"),
            };
            plan.waiting = Some(Waiting {
                on: "selection".into(),
                message,
                since: c.workload.changed_t,
                until: None,
            });
        }
    }
    plan
}

type Chosen = (Vec<Draft>, Vec<(Digest, Vec<u8>)>);

/// The best tag above the present one: resolved, settled, and then selected.
fn follow(
    c: &RolloutContext,
    spec: &WorkloadSpec,
    artifact: &str,
    repository: &str,
    select: &Selector,
    tags: &[String],
    plan: &mut RolloutPlan,
) -> Option<Chosen> {
    let current = c
        .workload
        .selections
        .get(artifact)
        .filter(|chosen| chosen.repository == repository && chosen.select == *select)
        .map(|chosen| chosen.tag.as_str());
    let ranked = ranked(select, tags);
    // The present tag stays even when the repository has lost it: only better ones count.
    let floor = current.and_then(|tag| Matcher::new(select)?.key(tag));
    let matcher = Matcher::new(select)?;
    for tag in ranked {
        let is_better = match (&floor, matcher.key(tag)) {
            (Some(floor), Some(key)) => key.cmp(floor) == Ordering::Greater,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if !is_better || Some(tag) == current {
            return None;
        }
        let reference = format!("{repository}:{tag}");
        if let Some(pin) = c.workload.pins.get(&reference) {
            // Known from before: a pin is for ever.
            if is_quarantined(c, spec, artifact, &pin.digest) {
                continue;
            }
            return Some((vec![selection(c, artifact, repository, select, tag, tags)], Vec::new()));
        }
        let Some(candidate) = c.pins.get(&reference).and_then(|facts| facts.candidate.as_ref()) else {
            let mut asking = RolloutPlan::default();
            ask_pin(c, &reference, &mut asking);
            // A first selection is waited for; a better tag is only looked into.
            plan.asks.append(&mut asking.asks);
            plan.wake_at = earliest(plan.wake_at, asking.wake_at);
            if current.is_none() {
                plan.waiting = asking.waiting;
            }
            return None;
        };
        if is_quarantined(c, spec, artifact, &candidate.resolved.digest) {
            continue;
        }
        let settled_at = candidate.since + c.config.settle_ms;
        if current.is_some() && candidate.seen < settled_at {
            if c.now >= settled_at {
                ask_again(c, &reference, plan);
            } else {
                plan.wake_at = earliest(plan.wake_at, Some(settled_at));
            }
            return None;
        }
        return Some(take(c, artifact, repository, select, tag, tags, candidate));
    }
    None
}

fn ask_again(c: &RolloutContext, reference: &str, plan: &mut RolloutPlan) {
    if c.pins.get(reference).is_some_and(|facts| !facts.asked) {
        plan.asks.push(Ask::Pin {
            workload: c.id.clone(),
            reference: reference.to_owned(),
        });
    }
}

fn is_quarantined(c: &RolloutContext, spec: &WorkloadSpec, artifact: &str, digest: &Digest) -> bool {
    let digests: Option<BTreeMap<String, Digest>> = spec
        .artifacts
        .keys()
        .map(|name| {
            let known = if name == artifact {
                digest.clone()
            } else {
                c.workload.pins.get(&c.workload.reference(name)?)?.digest.clone()
            };
            Some((name.clone(), known))
        })
        .collect();
    let Some(digests) = digests else { return false };
    let release = Release::from_spec(spec, &digests).id();
    let mut places = c.state.places(c.workload);
    places.any(|place| {
        let quarantine = c.workload.quarantined(&release, place.spec.captured(), spec.attempt);
        quarantine.is_some()
    })
}

fn take(
    c: &RolloutContext,
    artifact: &str,
    repository: &str,
    select: &Selector,
    tag: &str,
    tags: &[String],
    candidate: &Candidate,
) -> Chosen {
    let (pin, mut blobs) = pin_draft(c.id, c.workload.spec_seq, format!("{repository}:{tag}"), &candidate.resolved);
    blobs.sort();
    let mut chosen = selection(c, artifact, repository, select, tag, tags);
    chosen.because_previous = true;
    (vec![pin, chosen], blobs)
}

fn selection(c: &RolloutContext, artifact: &str, repository: &str, select: &Selector, tag: &str, tags: &[String]) -> Draft {
    let mut sorted: Vec<&str> = tags.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let body = Selection {
        artifact: artifact.to_owned(),
        repository: repository.to_owned(),
        select: select.clone(),
        tag: tag.to_owned(),
        candidates: u32::try_from(sorted.len()).unwrap_or(u32::MAX),
        candidates_hash: Digest::of(sorted.join("\n").as_bytes()),
    };
    Draft::new(On::workload(c.id), vec![c.workload.spec_seq], Body::Selection(body))
}

/// A pin's entry with the blobs that it names.
pub fn pin_draft(
    workload: &WorkloadId,
    because: u64,
    reference: String,
    resolved: &crate::engine::Resolved,
) -> (Draft, Vec<(Digest, Vec<u8>)>) {
    let images = Digest::of(&resolved.images);
    let body = Pin {
        reference,
        digest: resolved.digest.clone(),
        source: resolved.source.clone(),
        evidence: resolved.evidence.clone(),
    };
    let mut draft = Draft::new(On::workload(workload), vec![because], Body::Pin(body));
    draft.blobs.insert("images".into(), images.clone());
    let mut blobs = vec![(images, resolved.images.clone())];
    for (index, (digest, bytes)) in resolved.blobs.iter().enumerate() {
        draft.blobs.insert(format!("manifest/{index}"), digest.clone());
        blobs.push((digest.clone(), bytes.clone()));
    }
    (draft, blobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranking() {
        for (select, tags, expected) in [
            (
                Selector::Semver("~1.4".into()),
                vec!["1.4.0", "v1.4.10", "1.4.9", "1.5.0", "latest", "1.4.11-rc.1"],
                vec!["v1.4.10", "1.4.9", "1.4.0"],
            ),
            (
                Selector::Regex("^main-([0-9]+)$".into()),
                vec!["main-9", "main-10", "dev-11", "main-x"],
                vec!["main-10", "main-9"],
            ),
            (
                Selector::Regex("^20".into()),
                vec!["2026-01", "2026-10", "1999-01"],
                vec!["2026-10", "2026-01"],
            ),
            (Selector::Regex("(".into()), vec!["a"], vec![]),
        ] {
            let tags: Vec<String> = tags.into_iter().map(str::to_owned).collect();
            assert_eq!(ranked(&select, &tags), expected, "{select:?}");
        }
    }
}

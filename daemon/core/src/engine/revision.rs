//! A revision of the desired state, turned into entries: what changed, what is gone, what cannot be known.

use super::*;
use crate::manifest::{Delta, Desired};
use crate::spec::{TargetSpec, WorkloadSpec};
use std::cmp::Ordering;
use std::sync::Arc;

/// People of one revision that are written down; more than that is no review.
const CONTRIBUTORS_MAX: usize = 100;

/// A commit as the Git adapter and the manifest parser see it.
#[derive(Debug, Clone, Default)]
pub struct Revision {
    pub reference: String,
    pub commit: String,
    pub old: Option<String>,
    pub fast_forward: bool,
    /// False: an untrusted tip, or a non-fast-forward one that nobody has accepted. Nothing of it is taken.
    pub adopted: bool,
    /// The verdict on its signature is not what the operator requires.
    pub untrusted: bool,
    pub signer: String,
    /// Salted hash of the author's e-mail.
    pub author: String,
    /// Salted hashes of the e-mails of everybody who wrote or committed something since `old`.
    pub contributors: BTreeSet<String>,
    pub summary: String,
    pub committed_s: i64,
    /// What its files say. Their problems are for whoever read them to tell.
    pub desired: Arc<Desired>,
    /// How it differs from what the engine was told before, where that is known: only this is compared then.
    pub delta: Option<Delta>,
    pub problems: Vec<SourceProblem>,
    /// Contents that the specs name.
    pub blobs: Vec<(Digest, Vec<u8>)>,
}

impl Engine {
    pub(super) fn take_revision(&mut self, mut revision: Revision) {
        if !revision.adopted {
            let known = match (&self.state.untrusted, revision.untrusted) {
                (Some(tip), true) => tip.commit == revision.commit && tip.verdict == revision.signer,
                (None, false) => self.state.source.as_ref().and_then(|head| head.rewrite.as_ref()) == Some(&revision.commit),
                _ => false,
            };
            if !known {
                self.record_source(&revision, Vec::new(), Vec::new());
            }
            return;
        }
        let before = std::mem::replace(&mut self.desired, revision.desired.clone());
        // A difference from anything else than what was taken last says too little.
        let delta = revision.delta.take().filter(|delta| Arc::ptr_eq(&delta.since, &before));
        let kept = self.targets_with_another_plugin(&revision.desired);
        revision.problems.extend(kept.values().cloned());
        let changes = self.spec_changes(&revision.desired, delta.as_ref(), &kept);
        // A rewrite or an untrusted tip that was taken back is over only when the ledger says so.
        let as_known = |head: &crate::state::SourceHead| head.commit == revision.commit && head.rewrite.is_none();
        if self.state.source.as_ref().is_some_and(as_known) && self.state.untrusted.is_none() && changes.is_empty() {
            return;
        }
        let workloads_changed: Vec<WorkloadId> = changes.iter().filter_map(|(on, _)| on.workload.clone()).collect();
        let targets_changed = changes.iter().any(|(on, _)| on.target.is_some());
        let held = self.held_removals(&revision.desired, &kept, &changes, targets_changed);
        let blobs = std::mem::take(&mut revision.blobs);
        let source = self.record_source(&revision, workloads_changed.clone(), held.clone());
        self.blobs.extend(blobs);
        for (on, object) in changes {
            let mut draft = Draft::new(
                on,
                vec![source],
                Body::Spec(Spec {
                    commit: revision.commit.clone(),
                    object,
                }),
            );
            if let Body::Spec(Spec {
                object: SpecObject::Workload { spec: Some(spec), .. },
                ..
            }) = &draft.body
            {
                draft.blobs = spec
                    .files
                    .iter()
                    .map(|(path, digest)| (format!("file/{path}"), digest.clone()))
                    .collect();
            }
            self.append(draft, By::daemon());
        }
        // A target may place any workload; a workload concerns itself.
        if targets_changed {
            self.state.workloads.keys().for_each(|id| self.schedule.mark_all(id));
        }
        workloads_changed.iter().for_each(|id| self.schedule.mark_all(id));
    }

    /// What a target is cannot change under its name: generations there would be driven by another plugin. These keep what they are.
    fn targets_with_another_plugin(&self, desired: &Desired) -> BTreeMap<TargetName, SourceProblem> {
        let mut kept = BTreeMap::new();
        for (name, spec) in &desired.targets {
            let Some(known) = self.state.target_spec(name).filter(|known| known.plugin != spec.plugin) else {
                continue;
            };
            let mut workloads = self.state.workloads.values();
            if workloads.any(|w| w.units.get(name).is_some_and(|unit| !unit.generations.is_empty())) {
                let problem = SourceProblem {
                    code: "target-identity".into(),
                    file: String::new(),
                    line: 0,
                    column: 0,
                    message: format!(
                        "target {name} runs generations of plugin {}; give the {} one another name",
                        known.plugin, spec.plugin
                    ),
                };
                kept.insert(name.clone(), problem);
            }
        }
        kept
    }

    fn spec_changes(
        &self,
        desired: &Desired,
        delta: Option<&Delta>,
        kept: &BTreeMap<TargetName, SourceProblem>,
    ) -> Vec<(On, SpecObject)> {
        let (mut named, mut gone) = (Vec::new(), Vec::new());
        for (name, known, wanted) in joined(&self.state.targets, &desired.targets) {
            let on = || On {
                target: Some(name.clone()),
                ..On::default()
            };
            let presence = known.and_then(|known| known.presence);
            let spec = known.and_then(|known| known.spec.as_deref());
            let wanted = if kept.contains_key(name) { spec } else { wanted };
            match (spec, wanted) {
                (spec, Some(wanted)) if spec != Some(wanted) || presence != Some(Presence::Present) => {
                    let (presence, spec) = (Presence::Present, Some(wanted.clone()));
                    named.push((on(), SpecObject::Target { presence, spec }));
                }
                (Some(_), None) => {
                    let now = presence_of(desired, desired.unknown_targets.contains(name));
                    if presence != Some(now) {
                        let object = SpecObject::Target {
                            presence: now,
                            spec: None,
                        };
                        gone.push((on(), object));
                    }
                }
                _ => {}
            }
        }
        let mut compare = |id: &WorkloadId, known: Option<&WorkloadState>, wanted: Option<&Arc<WorkloadSpec>>| {
            let presence = known.and_then(|known| known.presence);
            match (known, wanted) {
                (known, Some(wanted)) => {
                    let spec = known.and_then(|known| known.spec.as_ref());
                    if spec != Some(wanted) || presence != Some(Presence::Present) {
                        let (presence, spec) = (Presence::Present, Some(WorkloadSpec::clone(wanted)));
                        named.push((On::workload(id), SpecObject::Workload { presence, spec }));
                    }
                }
                (Some(_), None) => {
                    let now = presence_of(desired, desired.unknown_workloads.contains(id));
                    if presence != Some(now) {
                        let object = SpecObject::Workload {
                            presence: now,
                            spec: None,
                        };
                        gone.push((On::workload(id), object));
                    }
                }
                (None, None) => {}
            }
        };
        match delta {
            Some(delta) => {
                for id in &delta.workloads {
                    compare(id, self.state.workloads.get(id), desired.workloads.get(id));
                }
            }
            None => {
                for (id, known, wanted) in joined(&self.state.workloads, &desired.workloads) {
                    compare(id, known, wanted);
                }
            }
        }
        named.append(&mut gone);
        named
    }

    /// Units that this revision makes leave, with those that are held already: none of them does when they are more than one
    /// revision may remove.
    fn held_removals(
        &self,
        desired: &Desired,
        kept: &BTreeMap<TargetName, SourceProblem>,
        changes: &[(On, SpecObject)],
        targets_changed: bool,
    ) -> Vec<UnitId> {
        // What a workload changes to; none: it goes.
        let changed: BTreeMap<&WorkloadId, Option<&WorkloadSpec>> = changes
            .iter()
            .filter_map(|(on, object)| match object {
                SpecObject::Workload { presence, spec } if *presence != Presence::Unknown => {
                    Some((on.workload.as_ref()?, spec.as_ref()))
                }
                _ => None,
            })
            .collect();
        let leaving_of = |id: &WorkloadId, workload: &WorkloadState| -> Vec<UnitId> {
            let before = workload.spec.as_ref().filter(|_| workload.presence != Some(Presence::Absent));
            let after = changed.get(id).copied().unwrap_or(before);
            let leaves = |(name, unit): &(&TargetName, &UnitState)| {
                if unit.generations.is_empty() || unit.phase == PhaseName::Leaving {
                    return false;
                }
                let known = self.state.target_spec(name).map(|known| &**known);
                let wanted = desired.targets.get(*name).filter(|_| !kept.contains_key(*name)).or(known);
                let is_in = |spec: Option<&WorkloadSpec>, target: Option<&TargetSpec>| {
                    spec.zip(target)
                        .is_some_and(|(spec, target)| spec.placement.includes(name, &target.labels))
                };
                // A target that left Git orphans its units: they are kept.
                wanted.is_some() && !is_in(after, wanted) && (unit.held || is_in(before, known))
            };
            let units = workload.units.iter().filter(leaves);
            let unit_id = |(name, _): (&TargetName, _)| UnitId {
                workload: id.clone(),
                target: name.clone(),
            };
            units.map(unit_id).collect()
        };
        let all = || self.state.workloads.iter();
        let leaving: Vec<UnitId> = if targets_changed {
            all().flat_map(|(id, workload)| leaving_of(id, workload)).collect()
        } else {
            let concerned = changed.keys().filter_map(|id| self.state.workloads.get_key_value(*id));
            let mut leaving: Vec<UnitId> = concerned.flat_map(|(id, workload)| leaving_of(id, workload)).collect();
            if !leaving.is_empty() {
                let others =
                    all().filter(|(id, workload)| !changed.contains_key(id) && workload.units.values().any(|unit| unit.held));
                leaving.extend(others.flat_map(|(id, workload)| leaving_of(id, workload)));
                leaving.sort();
            }
            leaving
        };
        if leaving.len() > self.config.removals_per_revision {
            leaving
        } else {
            Vec::new()
        }
    }

    fn record_source(&mut self, revision: &Revision, changed: Vec<WorkloadId>, held: Vec<UnitId>) -> Seq {
        let because = self.state.source.iter().map(|head| head.seq).collect();
        let source = Source {
            repository: self.config.repository.clone(),
            reference: revision.reference.clone(),
            old: revision.old.clone(),
            new: revision.commit.clone(),
            fast_forward: revision.fast_forward,
            adopted: revision.adopted,
            untrusted: revision.untrusted,
            signer: revision.signer.clone(),
            author: revision.author.clone(),
            contributors: revision.contributors.iter().take(CONTRIBUTORS_MAX).cloned().collect(),
            summary: events::clip(&revision.summary, 200),
            committed_s: revision.committed_s,
            changed,
            problems: revision.problems.iter().take(100).cloned().collect(),
            held,
        };
        let by = By {
            kind: "git".into(),
            id: revision.author.clone(),
            auth: revision.signer.clone(),
        };
        self.append(Draft::new(On::default(), because, Body::Source(source)), by)
    }
}

/// Of what is not among the good ones: gone only where every file could be read.
fn presence_of(desired: &Desired, unknown: bool) -> Presence {
    if unknown || !desired.absence_proven {
        Presence::Unknown
    } else {
        Presence::Absent
    }
}

/// Two maps in one pass, in the order of their keys: nothing is looked up.
fn joined<'a, K: Ord, A, B>(
    left: &'a BTreeMap<K, A>,
    right: &'a BTreeMap<K, B>,
) -> impl Iterator<Item = (&'a K, Option<&'a A>, Option<&'a B>)> {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (left.peek(), right.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let in_left = if order.is_le() { left.next() } else { None };
        let in_right = if order.is_ge() { right.next() } else { None };
        let key = in_left.map(|(key, _)| key).or(in_right.map(|(key, _)| key))?;
        Some((key, in_left.map(|(_, value)| value), in_right.map(|(_, value)| value)))
    })
}

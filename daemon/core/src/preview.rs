//! What would happen now: the real engine and planners on a copy of State, with nobody there to act. No call is made and
//! no question reaches the world. What the first steps need to be planned at all (that a tag resolves, that a plugin
//! accepts) is taken for granted, and said.

use crate::config::EngineConfig;
use crate::engine::{Engine, Input, Now, Output, Resolved, Revision};
use crate::entry::*;
use crate::ids::{Digest, ReleaseId, Seq};
use crate::plan::Ask;
use crate::plan::unit::percent;
use crate::state::State;
use crate::target::{Abilities, Report};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeSet, VecDeque};

/// Each input makes a bounded number of new ones; more than this is a bug that must not become a loop.
const INPUTS_MAX: usize = 100_000;

/// One thing that would happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// pin, select, request, refuse, supersede, launch, replace, revive, heal, retire, hold, keep, freeze or wait.
    pub action: String,
    pub workload: String,
    pub target: String,
    pub detail: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Preview {
    /// Entries in the ledger when this was asked.
    pub as_of: Seq,
    pub steps: Vec<Step>,
    /// What was taken for granted on the way, as sentences.
    pub assumed: BTreeSet<String>,
    /// What the engine would write, numbered as if nothing came between.
    pub entries: Vec<Entry>,
}

pub fn preview(config: EngineConfig, state: State, revision: Revision, wall_ms: u64) -> Preview {
    let now = Now { t: state.t, wall_ms };
    let mut preview = Preview {
        as_of: state.size,
        ..Preview::default()
    };
    let mut unresolved = BTreeSet::new();
    let mut engine = Engine::new(config, state);
    let mut inbox = VecDeque::from([Input::Revision(Box::new(revision))]);
    for _ in 0..INPUTS_MAX {
        let Some(input) = inbox.pop_front() else { break };
        for output in engine.handle(now, input) {
            match output {
                Output::Append { entries, .. } => {
                    inbox.extend(entries.last().map(|entry| Input::Durable { size: entry.seq + 1 }));
                    for entry in entries {
                        preview.steps.extend(steps_of(&entry, &engine, &mut unresolved));
                        preview.entries.push(entry);
                    }
                }
                Output::Ask(ask) => inbox.extend(assume(ask, &engine, &mut preview, &mut unresolved)),
                // Nobody is there to act or to listen.
                Output::Call(_) | Output::LoadImages { .. } | Output::Reply { .. } => {}
            }
        }
    }
    waits(&engine, &mut preview);
    preview
}

/// Releases with a digest that was made up, and these digests.
type Unresolved = BTreeSet<String>;

/// The answer that lets planning go on, for questions that come before the first effect.
fn assume(ask: Ask, engine: &Engine, preview: &mut Preview, unresolved: &mut Unresolved) -> Option<Input> {
    match ask {
        Ask::Pin { workload, reference } => {
            let known = engine
                .state()
                .workloads
                .get(&workload)
                .is_some_and(|known| known.pins.contains_key(&reference));
            if known {
                // A look whether the tag has moved: no part of what would happen.
                return None;
            }
            preview.steps.push(Step {
                action: "pin".into(),
                workload: workload.to_string(),
                target: String::new(),
                detail: format!("{reference} is resolved to a digest once, and written down"),
            });
            preview.assumed.insert(format!("{reference} can be resolved"));
            let named = reference
                .split_once('@')
                .and_then(|(_, digest)| digest.parse::<Digest>().ok());
            let digest = named.unwrap_or_else(|| {
                let digest = Digest::of(reference.as_bytes());
                unresolved.insert(digest.to_string());
                digest
            });
            let without_digest = reference.split('@').next().unwrap_or_default();
            let source = match without_digest.rsplit_once(':') {
                Some((source, tag)) if !tag.contains('/') => source.to_owned(),
                _ => without_digest.to_owned(),
            };
            let resolved = Resolved {
                digest,
                source,
                images: b"[]".to_vec(),
                accepted: BTreeSet::new(),
                blobs: Vec::new(),
                evidence: Value::Null,
            };
            Some(Input::Pinned {
                workload,
                reference,
                outcome: Ok(resolved),
            })
        }
        Ask::Check {
            workload, target, key, ..
        }
        | Ask::CheckRelease {
            workload, target, key, ..
        } => {
            preview.assumed.insert(format!("the plugin of {target} accepts {workload}"));
            let report = Report {
                problems: Vec::new(),
                abilities: Abilities::default(),
            };
            Some(Input::Checked {
                workload,
                target,
                key,
                outcome: Ok(report),
            })
        }
        Ask::Pullable { workload, release } => {
            preview
                .assumed
                .insert(format!("release {} of {workload} can still be pulled", release.short()));
            Some(Input::PullChecked {
                workload,
                release,
                outcome: Ok(()),
            })
        }
        Ask::Tags { workload, repository } => {
            preview.steps.push(Step {
                action: "select".into(),
                workload: workload.to_string(),
                target: String::new(),
                detail: format!("the tags of {repository} are listed, and the best one is taken"),
            });
            None
        }
        Ask::Observe { .. }
        | Ask::Probe { .. }
        | Ask::Measure { .. }
        | Ask::Explain { .. }
        | Ask::Room { .. }
        | Ask::Diff { .. } => None,
    }
}

fn named(release: &ReleaseId, unresolved: &Unresolved) -> String {
    if unresolved.contains(release.as_str()) {
        "a new release".into()
    } else {
        format!("release {}", release.short())
    }
}

fn steps_of(entry: &Entry, engine: &Engine, unresolved: &mut Unresolved) -> Vec<Step> {
    let workload = entry.on.workload.as_ref().map(ToString::to_string).unwrap_or_default();
    let target = entry.on.target.clone().unwrap_or_default();
    let step = |action: &str, detail: String| {
        vec![Step {
            action: action.into(),
            workload: workload.clone(),
            target: target.clone(),
            detail,
        }]
    };
    let spec = entry
        .on
        .workload
        .as_ref()
        .and_then(|id| engine.state().workloads.get(id)?.spec.as_ref());
    match &entry.body {
        Body::Source(source) if !source.adopted => step(
            "hold",
            match source.untrusted {
                true => crate::view::untrusted(&source.new, &source.signer),
                false => format!("the branch was rewritten to {}; nothing of it is taken", source.new),
            },
        ),
        Body::Source(source) => {
            let held = source.held.iter().map(|unit| Step {
                action: "hold".into(),
                workload: unit.workload.to_string(),
                target: unit.target.clone(),
                detail: format!(
                    "one of {} removals, more than one revision may make; `holdfast allow-removals {}` lets it go",
                    source.held.len(),
                    unit.workload.name()
                ),
            });
            held.collect()
        }
        Body::Spec(Spec {
            object: SpecObject::Workload {
                presence: Presence::Unknown,
                ..
            },
            ..
        }) => step(
            "keep",
            "not named, but some file cannot be read: its absence is not proven".into(),
        ),
        Body::Rollout(change) => {
            if change.artifacts.values().any(|digest| unresolved.contains(digest.as_str())) {
                unresolved.insert(change.release.to_string());
            }
            let release = named(&change.release, unresolved);
            match change.to {
                RolloutState::Rolling if change.wave == 0 => step("request", format!("{release}: {}", change.reason)),
                RolloutState::Rolling => step("request", format!("{release}: wave {}", change.wave + 1)),
                RolloutState::Refused => step("refuse", format!("{release}: {}", change.message)),
                RolloutState::Superseded => step("supersede", format!("{release}: {}", change.message)),
                _ => Vec::new(),
            }
        }
        Body::Attempt(AttemptChange::Began {
            release,
            generation,
            old,
            revived,
            heal,
            ..
        }) => {
            let strategy = spec.map(|spec| spec.strategy.name()).unwrap_or_default();
            let weights: Vec<String> = spec
                .map(|spec| spec.strategy.steps())
                .unwrap_or_default()
                .iter()
                .map(|step| format!("{}%", percent(step.weight)))
                .collect();
            let how = match weights.len() {
                0 | 1 => strategy.to_owned(),
                _ => format!("{strategy} {}", weights.join(" → ")),
            };
            let release = named(release, unresolved);
            let action = match (heal, revived, old) {
                (true, ..) => "heal",
                (_, true, _) => "revive",
                (_, _, Some(_)) => "replace",
                _ => "launch",
            };
            match old {
                Some(old) => step(
                    action,
                    format!("generation {old} by generation {generation}, {release}, {how}"),
                ),
                None => step(action, format!("{release}, generation {generation}, the first to serve")),
            }
        }
        Body::Attempt(AttemptChange::Phase {
            to: PhaseName::Leaving,
            message,
            ..
        }) => step("retire", message.clone()),
        Body::Guard(guard) => step("hold", format!("limit {} of {} is reached", guard.limit, guard.class)),
        _ => Vec::new(),
    }
}

/// What goes on waiting and would do nothing now.
fn waits(engine: &Engine, preview: &mut Preview) {
    for (id, workload) in &engine.state().workloads {
        let units = workload.units.keys().map(Some);
        for target in std::iter::once(None).chain(units) {
            let name = target.map(String::as_str).unwrap_or_default();
            let named = preview
                .steps
                .iter()
                .any(|step| step.workload == id.as_str() && step.target == name && step.action != "pin");
            if let Some(waiting) = engine.waiting(id, target).filter(|_| !named) {
                preview.steps.push(Step {
                    action: "wait".into(),
                    workload: id.to_string(),
                    target: name.to_owned(),
                    detail: format!("{}: {}", waiting.on, waiting.message),
                });
            }
        }
    }
}

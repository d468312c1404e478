//! Asks and calls: each one attempt in a task of its own, whose answer comes back as an input.

mod artifacts;
mod generation;
mod measure;
mod pin;
mod reads;
mod verbs;

pub(crate) use pin::pullable;
pub(super) use verbs::call;

use super::{Event, World};
use holdfast_core::engine::{Engine, Input};
use holdfast_core::ids::{ReleaseId, WorkloadId, deploy_id};
use holdfast_core::plan::Ask;
use holdfast_core::state::ReleaseState;
use holdfast_core::target::{CallContext, Fault, FaultClass};
use serde_json::Value;
use std::sync::{Arc, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument as _;

fn send(world: &World, input: Input) {
    // The loop is gone only when the daemon stops.
    let _ = world.events.send(Event::Input(input));
}

fn fault(class: FaultClass, message: impl Into<String>) -> Fault {
    Fault {
        class,
        message: message.into(),
        fence: None,
    }
}

/// Calls at once on one target, so that a hung one stalls only its own; and what hangs while it looks does not keep others
/// from changing something.
#[derive(Clone)]
pub(crate) struct Turns {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Read,
    Write,
}

async fn turn(world: &World, target: &str, kind: Turn) -> Option<OwnedSemaphorePermit> {
    let turns = {
        let mut targets = world.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Turns {
            reads: Arc::new(Semaphore::new(super::CALLS_PER_TARGET)),
            writes: Arc::new(Semaphore::new(super::CALLS_PER_TARGET)),
        };
        targets.entry(target.to_owned()).or_insert_with(new).clone()
    };
    let turns = match kind {
        Turn::Read => turns.reads,
        Turn::Write => turns.writes,
    };
    // It is never closed.
    turns.acquire_owned().await.ok()
}

fn context(world: &World, target: &str, config: &Value) -> CallContext {
    CallContext {
        owner: world.owner.clone(),
        target: target.to_owned(),
        config: config.to_string(),
        fence: 0,
        deploy_id: String::new(),
        resume: None,
    }
}

fn subject_of(engine: &Engine, workload: &WorkloadId, target: &str, number: u32) -> reads::Known {
    let subject = engine.state().subject(workload, target, number)?;
    let unit = engine.state().unit(workload, target)?;
    Some((subject, unit.generations.get(&number)?.plugin.clone()))
}

/// The deploy that is under way on a unit, or the one that its generation came by.
fn deploy_of(engine: &Engine, workload: &WorkloadId, target: &str) -> Option<String> {
    let unit = engine.state().unit(workload, target)?;
    let current = || unit.generations.get(&unit.current?).map(|generation| generation.attempt);
    let attempt = unit.attempt.as_ref().map(|attempt| attempt.id).or_else(current)?;
    Some(deploy_id(engine.state().epoch, attempt))
}

fn release_of(engine: &Engine, workload: &WorkloadId, release: &ReleaseId) -> Option<ReleaseState> {
    engine.state().workloads.get(workload)?.releases.get(release).cloned()
}

/// Runs a question in a task of its own, whose lines stand in the span.
fn answer(world: &World, span: &tracing::Span, question: impl Future<Output = Input> + Send + 'static) {
    let world = world.clone();
    tokio::spawn(async move { send(&world, question.await) }.instrument(span.clone()));
}

pub(super) fn ask(world: &World, engine: &Engine, ask: Ask) {
    let here = world.clone();
    let span = super::say::ask(&ask, |workload, target| deploy_of(engine, workload, target));
    match ask {
        Ask::Observe { target, begun } => {
            let place = reads::place(engine, &target);
            answer(world, &span, async move {
                let outcome = reads::observe(&here, &target, place).await;
                Input::Observed { target, begun, outcome }
            });
        }
        Ask::Pin { workload, reference } => {
            let known = engine.state().workloads.get(&workload).and_then(|w| w.pins.get(&reference));
            let known = known.map(|pin| pin.moved_to.as_ref().unwrap_or(&pin.digest).to_string());
            answer(world, &span, async move {
                let outcome = pin::pin(&here.registries, &reference, known).await;
                Input::Pinned {
                    workload,
                    reference,
                    outcome,
                }
            });
        }
        Ask::Check {
            workload,
            target,
            key,
            release,
            sources,
        } => {
            let place = reads::place(engine, &target);
            answer(world, &span, async move {
                let outcome = reads::check(&here, &workload, &target, place, &release, &sources).await;
                Input::Checked {
                    workload,
                    target,
                    key,
                    outcome,
                }
            });
        }
        Ask::CheckRelease {
            workload,
            target,
            key,
            release,
        } => {
            let place = reads::place(engine, &target);
            let known = release_of(engine, &workload, &release);
            answer(world, &span, async move {
                let outcome = reads::check_release(&here, &workload, &target, place, &release, known.as_ref()).await;
                Input::Checked {
                    workload,
                    target,
                    key,
                    outcome,
                }
            });
        }
        Ask::Probe {
            workload,
            target,
            generation,
            path,
            addresses,
        } => {
            let subject = subject_of(engine, &workload, &target, generation);
            answer(world, &span, async move {
                let (failure, asked) = measure::probe(&here, &target, subject, &path, &addresses).await;
                Input::Probed {
                    workload,
                    target,
                    generation,
                    failure,
                    asked,
                }
            });
        }
        Ask::Measure {
            workload,
            target,
            generations,
            queries,
        } => {
            let subjects = generations
                .iter()
                .map(|number| (*number, subject_of(engine, &workload, &target, *number)))
                .collect();
            answer(world, &span, async move {
                let (samples, answers) = measure::measure(&here, &target, subjects, &queries).await;
                Input::Measured {
                    workload,
                    target,
                    samples,
                    answers,
                }
            });
        }
        Ask::Explain {
            workload,
            target,
            generation,
        } => {
            let subject = subject_of(engine, &workload, &target, generation);
            answer(world, &span, async move {
                let excerpts = reads::explain(&here, &target, subject).await;
                Input::Explained {
                    workload,
                    target,
                    generation,
                    excerpts,
                }
            });
        }
        Ask::Room {
            workload,
            target,
            generation,
        } => {
            let subject = subject_of(engine, &workload, &target, generation);
            answer(world, &span, async move {
                let room = reads::room(&here, &target, subject).await;
                Input::Roomed {
                    workload,
                    target,
                    generation,
                    room,
                }
            });
        }
        Ask::Diff {
            workload,
            target,
            generation,
        } => {
            let subject = subject_of(engine, &workload, &target, generation);
            answer(world, &span, async move {
                let changes = reads::diff(&here, &target, subject).await;
                Input::Diffed {
                    workload,
                    target,
                    generation,
                    changes,
                }
            });
        }
        Ask::Tags { workload, repository } => answer(world, &span, async move {
            let outcome = pin::tags(&here.registries, &repository).await;
            Input::Tagged {
                workload,
                repository,
                outcome,
            }
        }),
        Ask::Pullable { workload, release } => {
            let known = release_of(engine, &workload, &release);
            answer(world, &span, async move {
                let outcome = pin::pullable(&here.registries, &here.blobs, known.as_ref()).await;
                Input::PullChecked {
                    workload,
                    release,
                    outcome,
                }
            });
        }
    }
}

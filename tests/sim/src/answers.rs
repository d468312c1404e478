//! Questions of a daemon, answered by the world as it is at that moment.

use crate::heap::Event;
use crate::metrics::measure;
use crate::options::Fault as Trouble;
use crate::registry::Quality;
use crate::world::World;
use holdfast_core::engine::Input;
use holdfast_core::ids::{Digest, WorkloadId};
use holdfast_core::plan::Ask;
use holdfast_core::target::{Change, Excerpt, Fault, FaultClass, GenPhase, Page, Report};

fn away() -> Fault {
    Fault {
        class: FaultClass::Unavailable,
        message: "away".into(),
        fence: None,
    }
}

impl World {
    pub(crate) fn is_away(&self, target: &str) -> bool {
        let lost = !self.faults.on && self.scenario.places[target].lost_for_good;
        lost || self.now < self.sites[target].away_until
    }

    fn checked(&self, workload: WorkloadId, target: String, key: Digest) -> Input {
        let abilities = self.scenario.places[&target].abilities.clone();
        Input::Checked {
            workload,
            target,
            key,
            outcome: Ok(Report {
                problems: Vec::new(),
                abilities,
            }),
        }
    }

    pub(crate) fn ask(&mut self, daemon: usize, ask: Ask) {
        let life = self.daemons[daemon].life;
        let input = match ask {
            Ask::Observe { target, begun } => {
                let at = self.now + self.latency(Trouble::Slow);
                return self.heap.push(
                    at,
                    Event::Read {
                        daemon,
                        life,
                        target,
                        begun,
                    },
                );
            }
            Ask::Pin { workload, reference } => {
                let outcome = self.registry.resolve(&reference, &mut self.faults, self.now);
                Input::Pinned {
                    workload,
                    reference,
                    outcome,
                }
            }
            Ask::Check {
                workload,
                target,
                key,
                release,
                ..
            } => {
                self.releases.insert(release.id(), release);
                self.checked(workload, target, key)
            }
            Ask::CheckRelease {
                workload, target, key, ..
            } => self.checked(workload, target, key),
            Ask::Probe {
                workload,
                target,
                generation,
                ..
            } => {
                let held = self.sites[&target].of(workload.as_str());
                let one = held.generations.get(&generation);
                let ready = one.is_some_and(|one| one.ready(self.now) >= one.size);
                let bad = one.is_none_or(|one| one.quality == Quality::Unhealthy);
                let away = self.is_away(&target);
                let failure = match () {
                    () if away => Some("connection refused"),
                    () if bad || !ready => Some("503"),
                    () if self.faults.strikes(Trouble::ProbeFails, 6) => Some("503"),
                    () => None,
                };
                Input::Probed {
                    workload,
                    target,
                    generation,
                    asked: true,
                    failure: failure.map(str::to_owned),
                }
            }
            Ask::Measure {
                workload,
                target,
                generations,
                queries,
            } => {
                let site = &self.sites[&target];
                let (samples, mut answers) = measure(site, workload.as_str(), &generations, &queries, &mut self.faults, self.now);
                let outage = self.now < self.metrics_away_until;
                if outage {
                    let all = answers.values_mut().flat_map(|answers| answers.values_mut());
                    all.for_each(|answer| *answer = Err("connection refused".into()));
                }
                let samples = if outage || self.is_away(&target) {
                    Err(away())
                } else {
                    samples
                };
                Input::Measured {
                    workload,
                    target,
                    samples,
                    answers,
                }
            }
            Ask::Explain {
                workload,
                target,
                generation,
            } => {
                let excerpt = Excerpt {
                    instance: "i0".into(),
                    source: "log".into(),
                    text: "last words".into(),
                };
                Input::Explained {
                    workload,
                    excerpts: if self.is_away(&target) {
                        Err(away())
                    } else {
                        Ok(vec![excerpt])
                    },
                    target,
                    generation,
                }
            }
            Ask::Room {
                workload,
                target,
                generation,
            } => {
                let site = &self.sites[&target];
                let room = site.room_left().filter(|_| site.tells_room);
                Input::Roomed {
                    workload,
                    room: if self.is_away(&target) { Err(away()) } else { Ok(room) },
                    target,
                    generation,
                }
            }
            Ask::Diff {
                workload,
                target,
                generation,
            } => {
                let held = self.sites[&target].of(workload.as_str());
                let edited = held
                    .generations
                    .get(&generation)
                    .is_some_and(|one| one.edits > 0 && !one.harmless);
                let change = Change {
                    item: "object".into(),
                    path: "/x".into(),
                    have: "1".into(),
                    want: "2".into(),
                };
                let changes = if edited { vec![change] } else { Vec::new() };
                Input::Diffed {
                    workload,
                    changes: if self.is_away(&target) { Err(away()) } else { Ok(changes) },
                    target,
                    generation,
                }
            }
            Ask::Tags { workload, repository } => {
                let outcome = self.registry.tags(&repository, &mut self.faults, self.now);
                Input::Tagged {
                    workload,
                    repository,
                    outcome,
                }
            }
            Ask::Pullable { workload, release } => {
                let known = self.releases.get(&release);
                let artifacts = known.iter().flat_map(|release| release.artifacts.values());
                Input::PullChecked {
                    outcome: self.registry.pullable(artifacts, self.now),
                    workload,
                    release,
                }
            }
        };
        self.deliver(daemon, life, input);
    }

    /// The target is read now; the page arrives later.
    pub(crate) fn read(&mut self, daemon: usize, life: u64, target: String, begun: u64) {
        let outcome = if self.is_away(&target) || self.faults.strikes(Trouble::TargetAway, 4) {
            Err(away())
        } else {
            let mut page = self.sites[&target].page(self.now);
            if self.faults.strikes(Trouble::Lies, 8) {
                lie(&mut page);
            }
            Ok(page)
        };
        self.deliver(daemon, life, Input::Observed { target, begun, outcome });
    }
}

/// Everything that starts is said to be ready. The next look may say otherwise.
fn lie(page: &mut Page) {
    for state in page.generations.iter_mut().filter(|state| state.phase == GenPhase::Starting) {
        state.phase = GenPhase::Ready;
        state.ready = state.wanted.unwrap_or(1);
        state.instances.iter_mut().for_each(|instance| instance.ready = true);
    }
}

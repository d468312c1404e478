//! A site that keeps to the protocol: idempotent verbs, fences per workload, effects counted. It may be away, and calls
//! to it may be lost before or after their effect.

use holdfast_core::engine::Call;
use holdfast_core::target::*;
use std::collections::BTreeMap;

/// What a bundle is like, by the digit in its release's template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    Good,
    /// Answers wrongly, once it has traffic.
    Erring,
    /// Never passes the HTTP check.
    Unhealthy,
    /// Says itself that it fails.
    Failing,
}

#[derive(Debug, Clone)]
pub struct Generation {
    pub release: String,
    pub fence: u64,
    pub quality: Quality,
}

#[derive(Debug, Clone, Default)]
pub struct Site {
    pub owner: Option<String>,
    pub fence: u64,
    pub generations: BTreeMap<u32, Generation>,
    pub shares: BTreeMap<u32, u32>,
    /// Fence to the verb that it had an effect for.
    pub effects: BTreeMap<u64, &'static str>,
}

fn fault(class: FaultClass, message: &str, fence: Option<u64>) -> Fault {
    Fault {
        class,
        message: message.into(),
        fence,
    }
}

impl Site {
    pub fn apply(&mut self, owner: &str, call: &Call, release: &str, quality: Quality) -> Result<Progress, Fault> {
        if call.fence < self.fence {
            return Err(fault(FaultClass::Fenced, "stale", Some(self.fence)));
        }
        match &call.verb {
            Verb::Launch { generation, .. } => match self.generations.get(generation) {
                Some(known) if known.release != release => return Err(fault(FaultClass::Conflict, "another release", None)),
                Some(_) => {}
                None => {
                    self.generations.insert(
                        *generation,
                        Generation {
                            release: release.into(),
                            fence: call.fence,
                            quality,
                        },
                    );
                }
            },
            Verb::Scale { generation, .. } => {
                if !self.generations.contains_key(generation) {
                    return Err(fault(FaultClass::Absent, "no such generation", None));
                }
            }
            Verb::Route { shares, .. } => {
                if shares
                    .iter()
                    .any(|share| share.live > 0 && !self.generations.contains_key(&share.number))
                {
                    return Err(fault(FaultClass::Absent, "no such generation", None));
                }
                self.shares = shares
                    .iter()
                    .filter(|share| share.live > 0)
                    .map(|share| (share.number, share.live))
                    .collect();
            }
            Verb::Run { .. } => {}
            Verb::Retire { generation, last } => {
                if self.shares.get(generation).is_some_and(|live| *live > 0) && !last {
                    return Err(fault(FaultClass::Conflict, "live", None));
                }
                self.generations.remove(generation);
                self.shares.remove(generation);
            }
        }
        self.owner = Some(owner.into());
        self.fence = call.fence;
        self.effects.insert(call.fence, call.verb.name());
        Ok(Progress::Done)
    }

    pub fn page(&self, workload: &str) -> Page {
        let generations = self.generations.iter().map(|(number, generation)| GenerationState {
            workload: workload.into(),
            number: *number,
            release_id: generation.release.clone(),
            fence: generation.fence,
            phase: if generation.quality == Quality::Failing {
                GenPhase::Failing
            } else {
                GenPhase::Ready
            },
            reason: String::new(),
            message: String::new(),
            wanted: None,
            ready: 1,
            restarts: 0,
            proofs: Vec::new(),
            fingerprint: "f".into(),
            objects: Vec::new(),
            instances: vec![Instance {
                name: "i".into(),
                ready: true,
                restarts: 0,
                address: format!("127.0.0.1:{number}"),
                message: String::new(),
            }],
        });
        let shares = self
            .shares
            .iter()
            .map(|(number, live)| Share {
                number: *number,
                live: *live,
            })
            .collect();
        let route = RouteState {
            workload: workload.into(),
            fence: self.fence,
            shares,
            settled: true,
            fingerprint: String::new(),
        };
        let exists = !self.generations.is_empty();
        Page {
            owner: self.owner.clone(),
            high_fence: self.fence,
            generations: generations.collect(),
            routes: if exists { vec![route] } else { Vec::new() },
            strangers: Vec::new(),
            more: None,
        }
    }
}

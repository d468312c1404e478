//! What an observation shows.

use super::{FAILS_AFTER_MS, Generation, Held, Site};
use crate::registry::Quality;
use holdfast_core::ids::GenNumber;
use holdfast_core::target::*;

impl Site {
    pub fn page(&self, now: u64) -> Page {
        let generations = self.held.iter().flat_map(|(workload, held)| {
            held.generations
                .iter()
                .map(move |(number, one)| self.generation_state(workload, *number, one, now))
        });
        let routes = self
            .held
            .iter()
            .filter(|(_, held)| held.has_route && !held.generations.is_empty());
        Page {
            owner: self.owner.clone(),
            high_fence: self.high_fence,
            generations: generations.collect(),
            routes: routes.map(|(workload, held)| self.route_state(workload, held, now)).collect(),
            strangers: Vec::new(),
            more: None,
        }
    }

    fn route_state(&self, workload: &str, held: &Held, now: u64) -> RouteState {
        let shares = held.unsettled.clone().unwrap_or_else(|| self.shares(held, now));
        RouteState {
            workload: workload.to_owned(),
            fence: held.fence,
            shares: shares.into_iter().map(|(number, live)| Share { number, live }).collect(),
            settled: held.unsettled.is_none(),
            fingerprint: String::new(),
        }
    }

    fn generation_state(&self, workload: &str, number: GenNumber, one: &Generation, now: u64) -> GenerationState {
        let ready = one.ready(now);
        let old_enough = now >= one.begun() + FAILS_AFTER_MS;
        let (phase, reason) = if one.partial {
            (GenPhase::Partial, "")
        } else if one.stuck {
            (GenPhase::Stuck, "ImagePull")
        } else if one.size == 0 {
            (GenPhase::Parked, "")
        } else if one.quality == Quality::Failing && old_enough {
            (GenPhase::Failing, "CrashLoop")
        } else if ready >= one.size {
            (GenPhase::Ready, "")
        } else {
            (GenPhase::Starting, "")
        };
        let shown = if one.partial || one.stuck { 0 } else { one.instances.len() };
        let instances = (0..shown).map(|at| Instance {
            name: format!("i{at}"),
            ready: (at as u32) < ready,
            restarts: one.restarts(now),
            address: if self.abilities.probed {
                format!("127.0.0.1:{number}")
            } else {
                String::new()
            },
            message: String::new(),
        });
        let digest = if one.wrong_digest {
            "sha256:0000000000000000000000000000000000000000000000000000000000000000".to_owned()
        } else {
            one.artifact.to_string()
        };
        GenerationState {
            workload: workload.to_owned(),
            number,
            release_id: one.release.to_string(),
            fence: one.fence,
            phase,
            reason: reason.into(),
            message: String::new(),
            wanted: (!self.is_unsized()).then_some(one.size),
            ready,
            restarts: one.restarts(now),
            proofs: vec![Proof {
                artifact: "main".into(),
                digest,
                by: EvidenceBy::Measured,
                count: shown as u32,
            }],
            fingerprint: format!("f{}", one.edits),
            objects: Vec::new(),
            instances: instances.collect(),
        }
    }
}

//! What must hold after every step, whatever went wrong.

use crate::site::{Quality, Site};
use holdfast_core::engine::{Call, Engine};
use holdfast_core::entry::*;
use holdfast_core::ids::{FULL_SHARE, GenNumber, ReleaseId};
use holdfast_core::target::Verb;
use std::collections::{BTreeMap, BTreeSet};

/// Facts collected from the acknowledged log.
#[derive(Default)]
pub struct Oracle {
    pub acknowledged: Vec<Entry>,
    /// (target, generation) that a health verdict passed.
    proven: BTreeSet<(String, GenNumber)>,
    quarantined: BTreeMap<ReleaseId, u32>,
}

impl Oracle {
    pub fn acknowledge(&mut self, entries: &[Entry]) {
        for entry in entries {
            match &entry.body {
                Body::Verdict(verdict) if verdict.about == "health" && verdict.outcome == VerdictOutcome::Pass => {
                    if let (Some(target), Some(generation)) = (&entry.on.target, entry.on.generation) {
                        self.proven.insert((target.clone(), generation));
                    }
                }
                Body::Quarantine(q) if q.action == QuarantineAction::Set => {
                    self.quarantined.insert(q.release.clone(), q.attempt);
                }
                Body::Quarantine(q) => {
                    self.quarantined.remove(&q.release);
                }
                _ => {}
            }
            self.acknowledged.push(entry.clone());
        }
    }

    /// Before a call goes out.
    pub fn check_call(&self, call: &Call, site: &Site) -> Result<(), String> {
        // Invariant 4: intent before action.
        let Some(entry) = self.acknowledged.get(call.intent as usize) else {
            return Err(format!("a call without a durable intent {}", call.intent));
        };
        let Body::Intent(intent) = &entry.body else {
            return Err(format!("entry {} is no intent", call.intent));
        };
        if intent.verb != call.verb {
            return Err("the call is not what its intent says".into());
        }
        let because = entry.on.attempt.and_then(|seq| self.acknowledged.get(seq as usize));
        match &call.verb {
            Verb::Launch { generation, .. } => {
                let Some(Body::Attempt(AttemptChange::Began { release, .. })) = because.map(|entry| &entry.body) else {
                    return Err("a launch without an attempt".into());
                };
                // Invariant 6; a repeat of a launch that was begun before the quarantine is the same effect.
                let fresh = !site.generations.contains_key(generation) && !self.reissued(call);
                if fresh && self.quarantined.contains_key(release) && self.quarantined_before(release, call.intent) {
                    return Err(format!("quarantined release {} is launched", release.short()));
                }
            }
            Verb::Route { shares, .. } => {
                for share in shares.iter().filter(|share| share.live > 0) {
                    // Invariant 3: no traffic before proof.
                    if !self.proven.contains(&(call.target.clone(), share.number)) {
                        return Err(format!("generation {} gets traffic before it is proven", share.number));
                    }
                }
            }
            Verb::Scale { .. } | Verb::Retire { .. } | Verb::Run { .. } => {}
        }
        Ok(())
    }

    fn reissued(&self, call: &Call) -> bool {
        self.acknowledged
            .iter()
            .any(|entry| matches!(&entry.body, Body::Result(outcome) if outcome.intent == call.intent))
    }

    fn quarantined_before(&self, release: &ReleaseId, intent: u64) -> bool {
        let set = self.acknowledged.iter().rev().find(
            |entry| matches!(&entry.body, Body::Quarantine(q) if q.release == *release && q.action == QuarantineAction::Set),
        );
        let retried = self.acknowledged.iter().any(|entry| matches!(&entry.body, Body::Spec(Spec { object: SpecObject::Workload { spec: Some(spec), .. }, .. }) if self.quarantined.get(release).is_some_and(|attempt| spec.attempt > *attempt)));
        set.is_some_and(|entry| entry.seq < intent) && !retried
    }

    /// After an effect on a site.
    pub fn check_site(&self, name: &str, before: &Site, after: &Site, verb: &Verb) -> Result<(), String> {
        let sum: u32 = after.shares.values().sum();
        if sum != 0 && sum != FULL_SHARE {
            return Err(format!("{name}: shares sum to {sum}"));
        }
        if let Some(number) = after.shares.keys().find(|number| !after.generations.contains_key(number)) {
            return Err(format!("{name}: a share on generation {number}, which is gone"));
        }
        // Invariant 3: whoever served before still does, unless the whole workload leaves.
        let served: u32 = before.shares.values().sum();
        let leaving = matches!(verb, Verb::Retire { last: true, .. });
        if served == FULL_SHARE && sum == 0 && !leaving {
            return Err(format!("{name}: nobody serves after {}", verb.name()));
        }
        Ok(())
    }

    pub fn check_engine(&self, engine: &Engine) -> Result<(), String> {
        for (id, workload) in &engine.state().workloads {
            for target in workload.units.keys() {
                if let Some(reason) = engine.unit_facts(id, target).and_then(|facts| facts.stalled.as_ref()) {
                    return Err(format!("{id}@{target} is stalled: {reason}"));
                }
            }
        }
        Ok(())
    }

    /// Once faults have stopped: nothing is under way, and what serves is good.
    pub fn check_rest(&self, engine: &Engine, sites: &BTreeMap<String, Site>) -> Result<(), String> {
        for (id, workload) in &engine.state().workloads {
            for (target, unit) in &workload.units {
                if unit.intent.is_some() || unit.attempt.is_some() {
                    return Err(format!(
                        "{id}@{target} did not come to rest: {:?}, waiting on {:?}",
                        unit.phase,
                        engine.waiting(id, Some(target))
                    ));
                }
                let site = &sites[target];
                let expected = unit
                    .current
                    .map(|number| BTreeMap::from([(number, FULL_SHARE)]))
                    .unwrap_or_default();
                if site.shares != expected {
                    return Err(format!("{id}@{target}: shares {:?}, expected {expected:?}", site.shares));
                }
                let there: Vec<u32> = site.generations.keys().copied().collect();
                if there != unit.current.into_iter().collect::<Vec<_>>() {
                    return Err(format!(
                        "{id}@{target}: generations {there:?} on the site, current is {:?}",
                        unit.current
                    ));
                }
                if let Some(generation) = unit.current.and_then(|number| site.generations.get(&number))
                    && matches!(generation.quality, Quality::Unhealthy | Quality::Failing)
                {
                    return Err(format!("{id}@{target}: a {:?} release serves", generation.quality));
                }
            }
        }
        Ok(())
    }
}

//! Invariant 4: intent before action, one open intent a unit, decided on what was seen after the last effect. Invariant 10:
//! what a decision rests on is hashed in its intent. And who may touch a target at all.

use super::{Check, Oracle};
use crate::site::Site;
use holdfast_core::config::EngineConfig;
use holdfast_core::engine::Call;
use holdfast_core::entry::*;
use holdfast_core::ids::{Digest, fence};
use holdfast_core::plan::unit::Inputs;
use holdfast_core::state::State;
use holdfast_core::target::Verb;

/// Invariant 10: the inputs that an intent names, planned again on the State before it, give the same verb.
pub fn replay(state: &State, config: &EngineConfig, entry: &Entry, blobs: &[(Digest, Vec<u8>)]) -> Check {
    let (Body::Intent(intent), Some(id), Some(target)) = (&entry.body, &entry.on.workload, &entry.on.target) else {
        return Ok(());
    };
    let (_, bytes) = blobs
        .iter()
        .find(|(digest, bytes)| *digest == intent.observed && Digest::of(bytes) == *digest)
        .ok_or("invariant 10: the inputs of an intent are not written down with it")?;
    let inputs: Inputs =
        serde_json::from_slice(bytes).map_err(|error| format!("invariant 10: the inputs cannot be read: {error}"))?;
    let verb = inputs.replay(state, config, id, target).and_then(|plan| plan.verb);
    if verb.as_ref() == Some(&intent.verb) {
        Ok(())
    } else {
        Err(format!(
            "invariant 10: the intent was {:?}, and its inputs give {verb:?}",
            intent.verb
        ))
    }
}

impl Oracle {
    pub(super) fn effects(&self, entry: &Entry) -> Check {
        let (Some(id), Some(target)) = (&entry.on.workload, &entry.on.target) else {
            return Ok(());
        };
        let unit = self.facts.unit(id, target);
        match &entry.body {
            Body::Intent(intent) => {
                if let Some((open, verb)) = unit.and_then(|unit| unit.open.as_ref()) {
                    return Err(format!(
                        "invariant 4: {} is intended while {} of entry {open} is open",
                        intent.verb.name(),
                        verb.name()
                    ));
                }
                if let Verb::Retire { generation, .. } = &intent.verb
                    && unit.is_none_or(|unit| *generation > unit.highest)
                {
                    return Err(format!(
                        "section 9: generation {generation} is retired, which this ledger never gave"
                    ));
                }
                let Some(seen) = self.decided_on.get(&entry.seq) else {
                    return Ok(());
                };
                let looked = !matches!(intent.verb, Verb::Launch { .. } | Verb::Run { .. });
                let last = unit.map_or(0, |unit| unit.last_result);
                if looked && last > 0 && seen.begun <= last {
                    return Err(format!(
                        "invariant 4: {} is decided on an observation begun at {}, before the result {last}",
                        intent.verb.name(),
                        seen.begun
                    ));
                }
                Ok(())
            }
            Body::Result(outcome) => match unit.and_then(|unit| unit.open.as_ref()) {
                Some((open, _)) if *open == outcome.intent => Ok(()),
                _ => Err(format!(
                    "invariant 4: a result of intent {}, which is not open",
                    outcome.intent
                )),
            },
            _ => Ok(()),
        }
    }

    /// Before a call goes out.
    pub fn check_call(&self, call: &Call) -> Check {
        let Some(entry) = self.log.get(call.intent as usize) else {
            return Err(format!("invariant 4: a call without a durable intent {}", call.intent));
        };
        let Body::Intent(intent) = &entry.body else {
            return Err(format!("invariant 4: entry {} is no intent", call.intent));
        };
        if intent.verb != call.verb || call.fence != fence(1, call.intent) {
            return Err("invariant 4: the call or its fence is not what its intent says".into());
        }
        let open = self
            .facts
            .unit(&call.workload, &call.target)
            .and_then(|unit| unit.open.as_ref());
        match open {
            Some((open, _)) if *open == call.intent => Ok(()),
            _ => Err(format!("invariant 4: a call for intent {}, which is closed", call.intent)),
        }
    }

    /// A target of another owner, or one that has seen more than this ledger, is not touched once that is known.
    pub fn check_claim(&self, call: &Call) -> Check {
        let until = self.log.len().min(call.intent as usize + 1);
        let claim = self.log[..until].iter().rev().find_map(|entry| match &entry.body {
            Body::Target(change @ (TargetChange::Claimed | TargetChange::Conflict { .. } | TargetChange::Ahead { .. }))
                if entry.on.target.as_ref() == Some(&call.target) =>
            {
                Some(change)
            }
            _ => None,
        });
        match claim {
            Some(TargetChange::Conflict { owner }) => {
                Err(format!("section 9: {} belongs to {owner} and is touched", call.target))
            }
            Some(TargetChange::Ahead { fence }) => Err(format!(
                "section 7: {} has seen fence {fence}, above our head, and is touched",
                call.target
            )),
            _ => Ok(()),
        }
    }

    /// What was launched by somebody who had a longer ledger shows that this one is an old copy.
    pub fn check_copy(&self, call: &Call, site: &Site, head_at_boot: u64) -> Check {
        if !self.seen.contains_key(&call.target) {
            return Ok(());
        }
        let ours = |seq: u64| matches!(self.log.get(seq as usize).map(|entry| &entry.body), Some(Body::Intent(_)));
        let theirs = site.held.values().flat_map(|held| held.generations.values()).find(|one| {
            let seq = one.fence.saturating_sub(fence(1, 0));
            seq >= head_at_boot && !ours(seq)
        });
        match theirs {
            Some(one) => Err(format!(
                "section 7: {} runs something launched under fence {}, which this ledger does not know, and is touched",
                call.target, one.fence
            )),
            None => Ok(()),
        }
    }
}

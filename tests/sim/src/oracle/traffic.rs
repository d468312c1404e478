//! Invariant 3: never retire the healthy before its replacement is proven. No weight on a dead generation. The capacity
//! floor of `rolling`.

use super::{Check, Oracle};
use crate::site::{Held, Site};
use holdfast_core::engine::Call;
use holdfast_core::entry::*;
use holdfast_core::ids::{FULL_SHARE, GenNumber};
use holdfast_core::spec::Strategy;
use holdfast_core::target::{Routing, Verb};

impl Oracle {
    pub(super) fn traffic(&self, entry: &Entry) -> Check {
        let Body::Intent(intent) = &entry.body else { return Ok(()) };
        let (Some(id), Some(target)) = (&entry.on.workload, &entry.on.target) else {
            return Ok(());
        };
        let Some(unit) = self.facts.unit(id, target) else {
            return Ok(());
        };
        let candidate = unit.attempt.as_ref().map(|attempt| attempt.generation);
        match &intent.verb {
            Verb::Route { shares, .. } => {
                for share in shares.iter().filter(|share| share.live > 0) {
                    let known = unit.generations.get(&share.number);
                    if !known.is_some_and(|generation| generation.healthy) {
                        return Err(format!(
                            "invariant 3: generation {} gets traffic before it is proven",
                            share.number
                        ));
                    }
                }
                let sum: u32 = shares.iter().map(|share| share.live).sum();
                if sum != FULL_SHARE && sum != 0 {
                    return Err(format!("section 6: shares sum to {sum}"));
                }
                Ok(())
            }
            Verb::Retire { generation, .. } => {
                let leaving = unit.phase == Some(PhaseName::Leaving);
                let wanted = Some(*generation) == unit.current && candidate != Some(*generation);
                let proven = candidate
                    .and_then(|number| unit.generations.get(&number))
                    .is_some_and(|one| one.healthy);
                let replaced = proven && unit.phase == Some(PhaseName::Retiring);
                if wanted && !leaving && !replaced {
                    return Err(format!(
                        "invariant 3: generation {generation} is retired before its replacement is proven"
                    ));
                }
                if candidate == Some(*generation) && unit.phase == Some(PhaseName::Retiring) {
                    return Err(format!("invariant 3: the proven generation {generation} itself is retired"));
                }
                Ok(())
            }
            Verb::Scale { generation, size: 0 } => {
                let recreates = self
                    .strategy(id)
                    .is_some_and(|strategy| matches!(strategy, Strategy::Recreate { .. }));
                let proven = candidate
                    .and_then(|number| unit.generations.get(&number))
                    .is_some_and(|one| one.healthy);
                let kept = Some(*generation) != unit.current || candidate == Some(*generation);
                let parked_late = proven && matches!(unit.phase, Some(PhaseName::Shifting | PhaseName::Retiring));
                let leaving = unit.phase == Some(PhaseName::Leaving);
                if recreates || kept || parked_late || leaving || self.needs_nothing_available(id) {
                    Ok(())
                } else {
                    Err(format!(
                        "invariant 3: generation {generation} is parked before its replacement is proven"
                    ))
                }
            }
            Verb::Launch { .. } | Verb::Scale { .. } | Verb::Run { .. } => Ok(()),
        }
    }

    /// A manifest by which all instances may be unavailable while they are replaced: `rolling` is then as `recreate`.
    fn needs_nothing_available(&self, id: &holdfast_core::ids::WorkloadId) -> bool {
        let spec = self.facts.workloads.get(id).and_then(|workload| workload.spec.as_ref());
        spec.is_some_and(|spec| {
            matches!(spec.strategy, Strategy::Rolling { max_unavailable, .. } if max_unavailable.down(spec.instances) == spec.instances)
        })
    }

    pub(super) fn strategy(&self, id: &holdfast_core::ids::WorkloadId) -> Option<&Strategy> {
        Some(&self.facts.workloads.get(id)?.spec.as_ref()?.strategy)
    }

    /// After an effect on a site.
    pub fn check_effect(&self, call: &Call, before: &Site, after: &Site, now: u64) -> Check {
        let place = |error: String| format!("{error} ({} at {}, intent {})", call.verb.name(), call.target, call.intent);
        let (was, is) = (before.of(call.workload.as_str()), after.of(call.workload.as_str()));
        self.same_content(&was, &is).map_err(place)?;
        let shares = after.shares(&is, now);
        let sum: u32 = shares.values().sum();
        if sum != 0 && sum != FULL_SHARE {
            return Err(place(format!("section 6: shares sum to {sum}")));
        }
        let dead = |number: &GenNumber| is.generations.get(number).is_none_or(|one| one.size == 0);
        if let Some((number, _)) = shares.iter().find(|(number, live)| **live > 0 && dead(number)) {
            return Err(place(format!(
                "section 11: a share on generation {number}, which is gone or parked"
            )));
        }
        // What a foreign hand did is not the fault of a decision that could not know of it.
        if is.disturbed >= call.fence || !self.is_newest(call) {
            return Ok(());
        }
        self.still_serves(call, before, &was, after, &is, now).map_err(place)?;
        self.floor(call, before, &was, after, &is, now).map_err(place)
    }

    /// A call that comes after its time may undo what came after it; a target with fences does not let it.
    fn is_newest(&self, call: &Call) -> bool {
        let unit = self.facts.unit(&call.workload, &call.target);
        let open = unit.and_then(|unit| unit.open.as_ref());
        open.is_some_and(|(seq, _)| *seq == call.intent)
    }

    fn same_content(&self, was: &Held, is: &Held) -> Check {
        for (number, one) in &was.generations {
            if let Some(now) = is.generations.get(number)
                && (now.release != one.release || now.artifact != one.artifact)
            {
                return Err(format!("invariant 2: the content of generation {number} was changed"));
            }
        }
        Ok(())
    }

    /// Whoever served before, somebody still does, unless the workload leaves or the strategy is to stop first.
    fn still_serves(&self, call: &Call, before: &Site, was: &Held, after: &Site, is: &Held, now: u64) -> Check {
        let (served, serves) = (before.serving(was, now), after.serving(is, now));
        if served == 0 || serves > 0 {
            return Ok(());
        }
        let unit = self.facts.unit(&call.workload, &call.target);
        let phase = unit.and_then(|unit| unit.phase);
        let leaving = phase == Some(PhaseName::Leaving);
        let recreates = matches!(self.strategy(&call.workload), Some(Strategy::Recreate { .. }))
            || !before.abilities.overlap
            || !before.abilities.seamless;
        // Where a ready instance is live at once, the first attempt of all may have to be taken back.
        let first = unit.is_some_and(|unit| unit.current.is_none());
        // Traffic to something that does not answer right now may still be a way back to what served before.
        let back = phase == Some(PhaseName::Undoing);
        if leaving || recreates || first || back || self.needs_nothing_available(&call.workload) {
            return Ok(());
        }
        let warming = matches!(&call.verb, Verb::Route { .. });
        if warming
            && is
                .route
                .keys()
                .any(|number| is.generations.get(number).is_some_and(|one| one.runs()))
        {
            return Ok(());
        }
        Err("invariant 3: nobody serves any more".into())
    }

    /// `rolling`: no effect of ours brings the ready ones below `instances - maxUnavailable`.
    fn floor(&self, call: &Call, before: &Site, was: &Held, after: &Site, is: &Held, now: u64) -> Check {
        let Some(workload) = self.facts.workloads.get(&call.workload) else {
            return Ok(());
        };
        let Some(spec) = &workload.spec else { return Ok(()) };
        let Strategy::Rolling {
            surge, max_unavailable, ..
        } = &spec.strategy
        else {
            return Ok(());
        };
        let unit = workload.units.get(&call.target);
        let rolling = unit.is_some_and(|unit| {
            matches!(
                unit.phase,
                Some(PhaseName::Shifting | PhaseName::Baking | PhaseName::Retiring)
            )
        });
        let amended = unit
            .and_then(|unit| unit.attempt.as_ref())
            .is_some_and(|attempt| workload.spec_seq > attempt.seq);
        if !rolling || amended || before.is_unsized() || before.abilities.routing == Routing::Single {
            return Ok(());
        }
        let floor = spec.instances - max_unavailable.down(spec.instances);
        let (had, has) = (before.serving(was, now), after.serving(is, now));
        if has < had && has < floor {
            return Err(format!("section 8: {has} of {} serve; the floor is {floor}", spec.instances));
        }
        let wanted = |held: &Held| held.generations.values().map(|one| one.size).sum::<u32>();
        let ceiling = spec.instances + surge.up(spec.instances);
        if wanted(is) > wanted(was) && wanted(is) > ceiling.max(spec.instances + 1) {
            return Err(format!("section 8: {} instances exist; the ceiling is {ceiling}", wanted(is)));
        }
        Ok(())
    }
}

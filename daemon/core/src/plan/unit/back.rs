//! The way back: why an attempt turns round, and how the old generation gets all traffic again before the candidate goes.

use super::route::{Routed, route_to, set_route};
use super::*;
use crate::ids::FULL_SHARE;
use crate::spec::Rollback;
use crate::state::JobOutcome;
use serde_json::json;

/// Reasons to turn back that hold in every phase before Retiring.
pub(super) fn stop_early(c: &UnitContext, attempt: &AttemptState) -> Option<UnitPlan> {
    let attempt_number = c.workload.attempt_number();
    if let Some(quarantine) = c.workload.quarantined(&attempt.release, &attempt.captured, attempt_number) {
        let mut plan = turn_back(c, AttemptOutcome::Stopped, "quarantined", quarantine.message.clone());
        plan.records.iter_mut().for_each(|draft| draft.because.push(quarantine.seq));
        return Some(plan);
    }
    // A removal that is held is none yet.
    if !c.is_placed() && !c.unit.held {
        return Some(turn_back(
            c,
            AttemptOutcome::Stopped,
            "unplaced",
            "the workload is no longer placed here".into(),
        ));
    }
    let request = c.workload.request.as_ref().filter(|request| request.id != attempt.request)?;
    let has_begun = c.unit.phase != PhaseName::Preparing;
    (request.now || request.paused || !has_begun || is_failing(c, attempt)).then(|| superseded(c))
}

/// Unhealthy for longer than a hiccup. What is not known, as right after a restart, is no failure.
fn is_failing(c: &UnitContext, attempt: &AttemptState) -> bool {
    let interval_ms = c.spec().map_or(0, |spec| spec.health.interval_ms);
    let health = &c.facts.health;
    health.generation == attempt.generation
        && health
            .unhealthy_since
            .is_some_and(|since| c.now.saturating_sub(since) >= UNHEALTHY_INTERVALS * interval_ms)
}

fn superseded(c: &UnitContext) -> UnitPlan {
    turn_back(c, AttemptOutcome::Stopped, "superseded", "a newer request replaces it".into())
}

/// A unit that only waits, and for something that nothing but a person or luck ends, turns to a newer request.
pub(super) fn leave_for_newer(c: &UnitContext, attempt: &AttemptState, plan: &UnitPlan) -> Option<UnitPlan> {
    let newer = c
        .workload
        .request
        .as_ref()
        .is_some_and(|request| request.id != attempt.request);
    let waits = plan
        .waiting
        .as_ref()
        .is_some_and(|waiting| UNBOUNDED_WAITS.contains(&waiting.on.as_str()));
    (newer && waits && plan.verb.is_none() && plan.records.is_empty()).then(|| superseded(c))
}

pub(super) fn turn_back(c: &UnitContext, outcome: AttemptOutcome, reason: &str, message: String) -> UnitPlan {
    c.change(AttemptChange::Undo {
        outcome,
        reason: reason.into(),
        message,
    })
}

/// A bad verdict: judged, quarantined and turned back in one batch, so that no crash can separate them.
pub(super) fn condemn(
    c: &UnitContext,
    attempt: &AttemptState,
    about: &str,
    reason: &str,
    message: String,
    evidence: serde_json::Value,
) -> UnitPlan {
    let verdict = Verdict {
        about: about.into(),
        outcome: VerdictOutcome::Fail,
        reason: reason.into(),
        message: message.clone(),
        evidence,
    };
    let manual = c.spec().is_some_and(|spec| spec.rollback == Rollback::Manual);
    if manual && attempt.judged.is_some() {
        return c.look(
            "decision",
            format!("{message}; rollback is manual: abort or advance"),
            c.unit.phase_t,
        );
    }
    let mut plan = UnitPlan::record(c.draft(Body::Verdict(verdict)));
    if manual {
        return plan;
    }
    let quarantine = Quarantine {
        action: QuarantineAction::Set,
        release: attempt.release.clone(),
        attempt: c.workload.attempt_number(),
        values: Some(attempt.captured.clone()),
        reason: reason.into(),
        message: message.clone(),
    };
    plan.records.push(Draft::following(c.on(), Body::Quarantine(quarantine)));
    let undo = AttemptChange::Undo {
        outcome: AttemptOutcome::Bad,
        reason: reason.into(),
        message,
    };
    plan.records.push(Draft::following(c.on(), Body::Attempt(undo)));
    plan
}

/// The faults of a verb that has been answered: what they mean for the attempt.
pub(super) fn give_up_after_faults(c: &UnitContext, attempt: &AttemptState) -> Option<UnitPlan> {
    let (class, message) = c.unit.last_fault.as_ref().filter(|_| c.unit.faults > 0)?;
    // What a job's failure or loss means, `jobs` says.
    let jobs = c.workload.jobs.get(&attempt.release);
    let ended = |outcome| {
        jobs.is_some_and(|jobs| {
            jobs.values()
                .any(|job| job.outcome == outcome && job.t == c.unit.last_fault_t)
        })
    };
    match class {
        FaultClass::Failed if ended(JobOutcome::Failed) => None,
        FaultClass::Absent if ended(JobOutcome::Lost) => None,
        FaultClass::Failed => Some(condemn(
            c,
            attempt,
            "health",
            "failed",
            message.clone(),
            json!({ "class": class.as_str() }),
        )),
        FaultClass::Invalid | FaultClass::Conflict | FaultClass::Fenced => {
            Some(turn_back(c, AttemptOutcome::CouldNotTry, class.as_str(), message.clone()))
        }
        _ if c.unit.faults >= FAULTS_BEFORE_GIVING_UP => {
            Some(turn_back(c, AttemptOutcome::CouldNotTry, class.as_str(), message.clone()))
        }
        _ => None,
    }
}

/// All traffic to the old generation first, then the candidate goes. Tried for ever.
pub(super) fn undo(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    let (outcome, reason, message) = attempt
        .undo
        .clone()
        .unwrap_or((AttemptOutcome::Stopped, "undone".into(), String::new()));
    let ended = || {
        c.change(AttemptChange::Ended {
            outcome,
            reason: reason.clone(),
            message: message.clone(),
            parked: c.unit.parked.clone(),
        })
    };
    let can = attempt.can();
    let size = c.wanted_instances(&can);
    let candidate_may_exist = generation(c, attempt.generation).is_some_and(|generation| generation.launched);
    let old_was_reduced = attempt
        .old
        .and_then(|old| generation(c, old))
        .is_some_and(|old| old.size < size);
    if !candidate_may_exist && !old_was_reduced {
        return ended();
    }
    let Some(seen) = c.fresh() else {
        return c.look_at_target();
    };
    let candidate = seen.generation(attempt.generation);
    if let Some(old) = attempt.old.filter(|_| !can.staged) {
        // The route that makes the old one again takes the candidate away.
        return match route_to(c, &can, seen, old, old, FULL_SHARE) {
            Routed::Yes => ended(),
            Routed::No(plan) => plan,
        };
    }
    // An old generation that is gone, or that does not come up and has no size to set, cannot come back here: what serves then
    // is up to the next look at drift.
    let old = attempt.old.and_then(|old| seen.generation(old));
    let old = old.filter(|old| old.wanted.is_some() || !c.is_short());
    if candidate.is_some() && !attempt.explained && outcome != AttemptOutcome::Stopped {
        let ask = Ask::Explain {
            workload: c.id.clone(),
            target: c.target.clone(),
            generation: attempt.generation,
        };
        let mut plan = c.wait("diagnosis", "asking the target why", c.unit.phase_t, None);
        plan.asks.push(ask);
        return plan;
    }
    let Some(old) = old else {
        // Shared objects go only with the very first generation: later, something else of the workload is wanted here.
        let last = c.unit.current.is_none() && seen.generations.len() == 1;
        return match candidate {
            None => ended(),
            Some(_) if !last && !seen.is_offline(attempt.generation) => offline(c, seen),
            Some(_) => c.act(Verb::Retire {
                generation: attempt.generation,
                last,
            }),
        };
    };
    let retire_candidate = || {
        c.act(Verb::Retire {
            generation: attempt.generation,
            last: false,
        })
    };
    let is_short = is_parked(old) || old.wanted.is_some_and(|wanted| wanted < size);
    if is_short {
        // Where two cannot be there at once, or there is no room for both, the candidate makes room first.
        let no_room = matches!(c.unit.last_fault, Some((FaultClass::Exhausted, _)));
        if (!can.overlap || no_room) && candidate.is_some() {
            return match () {
                () if seen.is_offline(attempt.generation) => retire_candidate(),
                () if can.overlap && old.ready > 0 => match route_to(c, &can, seen, old.number, old.number, FULL_SHARE) {
                    Routed::Yes => retire_candidate(),
                    Routed::No(plan) => plan,
                },
                () => offline(c, seen),
            };
        }
        return c.act(Verb::Scale {
            generation: old.number,
            size,
        });
    }
    if old.ready == 0 && old.wanted.is_some() {
        if c.is_short() {
            return c.act(Verb::Scale {
                generation: old.number,
                size,
            });
        }
        return c.look("healthy", "waiting until the old generation is ready again", c.unit.phase_t);
    }
    if let Routed::No(plan) = route_to(c, &can, seen, old.number, old.number, FULL_SHARE) {
        return plan;
    }
    match candidate {
        None => ended(),
        Some(_) => retire_candidate(),
    }
}

/// Nobody serves for a moment: where two generations cannot be there at once, or the old one is gone.
fn offline(c: &UnitContext, seen: &Seen) -> UnitPlan {
    let known = seen
        .generations
        .iter()
        .filter(|state| c.unit.generations.contains_key(&state.number));
    let shares: Vec<_> = known
        .map(|state| crate::target::Share {
            number: state.number,
            live: 0,
        })
        .collect();
    match shares.first() {
        Some(first) => {
            let lead = first.number;
            set_route(c, shares, lead)
        }
        None => c.look_at_target(),
    }
}

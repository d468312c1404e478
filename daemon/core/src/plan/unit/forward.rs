//! The way forward: prepare, launch, prove; then `shift`; then bake and retire what was before.

use super::back::{condemn, give_up_after_faults, turn_back};
use super::jobs::run_jobs;
use super::rolling::{first_rolling_size, make_room};
use super::route::{Routed, route_to};
use super::shift::{analyse, approval, shift, steps, with_measure};
use super::*;
use crate::ids::{FULL_SHARE, GenNumber};
use crate::plan::health::{NOT_PROBED, PROBE_FAILED};
use crate::spec::share_of;
use crate::target::Hook;
use serde_json::json;

/// The target's word on its room is asked for again after so long.
const ROOM_FRESH_MS: Millis = 15_000;
/// Reasons for which health is not known through no fault of the release.
const NOT_ITS_FAULT: [&str; 4] = ["probe-not-possible", NOT_PROBED, "digests", "not-seen"];

pub(super) fn advance(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    if let Some(plan) = give_up_after_faults(c, attempt) {
        return plan;
    }
    if c.workload.request.as_ref().is_some_and(|request| request.paused) && c.unit.phase != PhaseName::Proving {
        // Paused stops progress, never protection: a candidate with traffic is still watched and probed.
        if let Some(plan) = watch(c, attempt) {
            return plan;
        }
        let paused = c.look("paused", "paused; `holdfast resume` goes on", c.unit.phase_t);
        return with_probe(c, attempt, paused);
    }
    match c.unit.phase {
        PhaseName::Preparing => prepare(c, attempt),
        PhaseName::Launching => launch(c, attempt),
        PhaseName::Proving => prove(c, attempt),
        PhaseName::Shifting => shift(c, attempt),
        PhaseName::Baking => bake(c, attempt),
        PhaseName::Absent | PhaseName::Stable | PhaseName::Leaving | PhaseName::Retiring | PhaseName::Undoing => {
            UnitPlan::default()
        }
    }
}

/// The rollout's pre-flight has asked the plugin. What is left: to see the target, its room, and the jobs that come first.
fn prepare(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    let Some(spec) = c.spec() else { return UnitPlan::default() };
    if c.fresh().is_none() {
        return c.look_at_target();
    }
    if let Some(plan) = room(c, attempt, spec) {
        return plan;
    }
    if let Some(plan) = run_jobs(c, attempt, Hook::Before) {
        return plan;
    }
    c.enter(
        PhaseName::Launching,
        "admitted",
        format!("generation {} of release {}", attempt.generation, attempt.release.short()),
    )
}

/// Capacity before overlap: how many instances come beside what runs. A target that cannot tell is tried.
fn room(c: &UnitContext, attempt: &AttemptState, spec: &WorkloadSpec) -> Option<UnitPlan> {
    let can = attempt.can();
    attempt.old?;
    if is_exclusive(&can, spec) || !can.staged || attempt.revived {
        return None;
    }
    let size = c.wanted_instances(&can);
    let needed = match &spec.strategy {
        Strategy::Rolling { surge, .. } => surge.up(size),
        _ => size,
    };
    let known = c.facts.room.as_ref().filter(|room| room.generation == attempt.generation);
    let fresh = known.filter(|room| c.now < room.t + ROOM_FRESH_MS);
    match (fresh, known) {
        (Some(room), _) if room.room.is_none_or(|free| free >= needed) => None,
        (None, _) => {
            let mut plan = c.wait("room", "asking the target for its room", c.unit.phase_t, None);
            plan.asks.push(Ask::Room {
                workload: c.id.clone(),
                target: c.target.clone(),
                generation: attempt.generation,
            });
            Some(plan)
        }
        (Some(room), _) => {
            let free = room.room.unwrap_or(0);
            let message = format!(
                "{needed} more instances are needed beside those that run, and there is room for {free}: {} too few",
                needed - free
            );
            let mut plan = c.wait("room", message, c.unit.phase_t, None);
            plan.wake_at = Some(room.t + ROOM_FRESH_MS);
            Some(plan)
        }
    }
}

fn launch(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    let Some(spec) = c.spec() else { return UnitPlan::default() };
    let can = attempt.can();
    if !attempt.launched {
        return bring_up(c, attempt, spec, &can);
    }
    let Some(seen) = c.fresh() else {
        return c.look_at_target();
    };
    match seen.generation(attempt.generation) {
        Some(state) => {
            let mut plan = c.change(AttemptChange::Fingerprint {
                fingerprint: state.fingerprint.clone(),
            });
            if !can.staged {
                // Its route made it: it serves, and is judged while it does.
                plan.records
                    .extend(c.change(AttemptChange::Reached { weight: FULL_SHARE }).records);
            }
            plan.records.extend(
                c.enter(PhaseName::Proving, "seen", "the target shows the new generation")
                    .records,
            );
            plan
        }
        None if c.now.saturating_sub(attempt.launch_t) >= spec.health.timeout_ms => turn_back(
            c,
            AttemptOutcome::CouldNotTry,
            "not-seen",
            "launched, but the target never showed it".into(),
        ),
        None => c.look(
            "launch",
            "waiting until the target shows the new generation",
            attempt.launch_t,
        ),
    }
}

/// Room first where it has to be made; then the launch, the revival of a parked one, or the route that makes it.
fn bring_up(c: &UnitContext, attempt: &AttemptState, spec: &WorkloadSpec, can: &Abilities) -> UnitPlan {
    let Some(seen) = c.fresh() else {
        return c.look_at_target();
    };
    let old = attempt.old.and_then(|old| seen.generation(old));
    if !can.staged {
        // The route that makes it gives it all traffic.
        if let Some(plan) = approval(c, attempt, spec, FULL_SHARE) {
            return plan;
        }
        return match route_to(c, can, seen, attempt.generation, attempt.generation, FULL_SHARE) {
            Routed::No(plan) => plan,
            Routed::Yes => c.look(
                "launch",
                "waiting until the target shows the new generation",
                attempt.launch_t,
            ),
        };
    }
    if let Some(old) = old
        && is_exclusive(can, spec)
        && !(is_parked(old) && old.ready == 0)
    {
        return if is_parked(old) {
            c.look("park", "the old generation is being parked", c.unit.phase_t)
        } else {
            c.act(Verb::Scale {
                generation: old.number,
                size: 0,
            })
        };
    }
    if let Some(old) = old
        && let Some(plan) = make_room(c, spec, can, old)
    {
        return plan;
    }
    let (generation, size) = (attempt.generation, first_size(c, attempt, spec, can));
    c.act(if attempt.revived {
        Verb::Scale { generation, size }
    } else {
        Verb::Launch { generation, size }
    })
}

fn first_size(c: &UnitContext, attempt: &AttemptState, spec: &WorkloadSpec, can: &Abilities) -> u32 {
    let size = c.wanted_instances(can);
    match &spec.strategy {
        Strategy::Canary { .. } if attempt.old.is_some() && can.sizing == Sizing::Planned => {
            let first = steps(c, attempt, spec).first().map_or(FULL_SHARE, |step| step.0);
            share_of(size, first).max(1)
        }
        Strategy::Rolling {
            surge, max_unavailable, ..
        } if attempt.old.is_some() => first_rolling_size(size, *surge, *max_unavailable),
        _ => size,
    }
}

fn prove(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    let Some(spec) = c.spec() else { return UnitPlan::default() };
    if let Some(plan) = watch(c, attempt) {
        return plan;
    }
    let health = &c.facts.health;
    let since = c.unit.phase_t;
    let deadline = attempt.launch_t + spec.health.timeout_ms;
    let Some(healthy_since) = health.healthy_since.filter(|_| health.generation == attempt.generation) else {
        let mut plan = with_probe(
            c,
            attempt,
            c.look("healthy", message_or(&health.message, "not ready yet"), since),
        );
        if c.now < deadline {
            plan.end_by(deadline);
        } else {
            plan.look_at = Some(c.now);
        }
        return plan;
    };
    let stable_at = healthy_since + spec.health.stable_ms;
    // The stretch is judged by a look from after its end: what happened since an older one is not known.
    if c.now < stable_at || c.looked_since() < stable_at {
        let mut plan = with_probe(c, attempt, c.look("stable", "healthy; watching that it stays so", since));
        if c.now < stable_at {
            plan.end_by(stable_at);
        } else {
            plan.look_at = Some(c.now);
        }
        return plan;
    }
    if spec.health.telemetry_required && c.facts.reported != Some(attempt.generation) {
        if c.now >= deadline {
            let message = "it never reported any telemetry, which its manifest requires".to_owned();
            return turn_back(c, AttemptOutcome::CouldNotTry, "no-telemetry", message);
        }
        let waiting = with_probe(
            c,
            attempt,
            c.look("telemetry", "it has not reported any telemetry yet", since),
        );
        let mut plan = with_measure(c, attempt, spec, waiting);
        plan.end_by(deadline);
        return plan;
    }
    let verdict = Verdict {
        about: "health".into(),
        outcome: VerdictOutcome::Pass,
        reason: "stable".into(),
        message: format!("healthy for {} ms without a break", c.now - healthy_since),
        evidence: json!({ "restarts": health.restarts, "stable_ms": spec.health.stable_ms }),
    };
    let mut plan = UnitPlan::record(c.draft(Body::Verdict(verdict)));
    plan.records
        .extend(c.enter(PhaseName::Shifting, "proven", "healthy; traffic may come").records);
    plan
}

/// Ends an attempt whose candidate is bad, too late or gone. None: nothing wrong so far.
pub(super) fn watch(c: &UnitContext, attempt: &AttemptState) -> Option<UnitPlan> {
    if matches!(c.unit.phase, PhaseName::Preparing | PhaseName::Launching) {
        return None;
    }
    let spec = c.spec()?;
    let Some(state) = c.fresh()?.generation(attempt.generation) else {
        return Some(turn_back(
            c,
            AttemptOutcome::CouldNotTry,
            "vanished",
            "the new generation is gone from the target".into(),
        ));
    };
    let health = &c.facts.health;
    let known = health.generation == attempt.generation;
    let reason = if known { health.reason.as_str() } else { "" };
    let evidence = || {
        json!({
            "reason": reason,
            "phase": state.phase,
            "ready": state.ready,
            "wanted": state.wanted,
            "restarts": state.restarts,
            "instances": state.instances.iter().take(20).collect::<Vec<_>>(),
        })
    };
    let reason_or = |fallback: &str| message_or(reason, fallback);
    if state.phase == GenPhase::Failing {
        let text = message_or(&state.message, "the release fails");
        return Some(condemn(c, attempt, "health", &reason_or("failing"), text, evidence()));
    }
    if !known {
        return None;
    }
    if reason == "wrong-digest" {
        return Some(turn_back(c, AttemptOutcome::CouldNotTry, reason, health.message.clone()));
    }
    // A time-out is judged by a look from after it.
    let looked_since = c.looked_since();
    let unhealthy_ms = health.unhealthy_since.map(|since| looked_since.saturating_sub(since));
    let too_late = if c.unit.phase == PhaseName::Proving {
        health.healthy_since.is_none() && looked_since.saturating_sub(attempt.launch_t) >= spec.health.timeout_ms
    } else {
        // Instances that were asked for just now may take as long to start as the first ones did.
        let starting = matches!(state.phase, GenPhase::Starting | GenPhase::Ready)
            && state.wanted.is_some_and(|wanted| state.ready < wanted)
            && !matches!(reason, "restarted" | PROBE_FAILED);
        let patience_ms = if starting {
            spec.health.timeout_ms
        } else {
            UNHEALTHY_INTERVALS * spec.health.interval_ms
        };
        unhealthy_ms.is_some_and(|ms| ms >= patience_ms)
    };
    if !too_late {
        return None;
    }
    let text = message_or(&health.message, "it did not become healthy in time");
    let blamed = health.started && state.phase != GenPhase::Stuck && !NOT_ITS_FAULT.contains(&reason);
    Some(if blamed {
        condemn(c, attempt, "health", &reason_or("not-healthy"), text, evidence())
    } else {
        turn_back(c, AttemptOutcome::CouldNotTry, &reason_or("not-started"), text)
    })
}

/// All traffic is there; the old generation is kept until jobs, bake and health have had their say.
fn bake(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    let Some(spec) = c.spec() else { return UnitPlan::default() };
    if let Some(plan) = watch(c, attempt) {
        return plan;
    }
    if let Some(plan) = run_jobs(c, attempt, Hook::After) {
        return plan;
    }
    let (plan, pass) = analyse(c, attempt, spec, c.unit.phase_t);
    if let Some(plan) = plan {
        return plan;
    }
    let bake_ms = if is_way_back(c, attempt) { 0 } else { spec.strategy.bake_ms() };
    let until = c.unit.phase_t + bake_ms;
    let over = bake_ms == 0 || attempt.passed.is_some() || (c.now >= until && pass.is_ok());
    if over && c.facts.health.healthy_since.is_some() {
        let mut plan = UnitPlan {
            records: if bake_ms > 0 { pass.unwrap_or_default() } else { Vec::new() },
            ..UnitPlan::default()
        };
        plan.records.extend(
            c.enter(PhaseName::Retiring, "baked", "proven; the old generation may go")
                .records,
        );
        return plan;
    }
    let waiting = if over {
        c.look(
            "healthy",
            message_or(&c.facts.health.message, "waiting until it is healthy"),
            c.unit.phase_t,
        )
    } else if c.now < until {
        c.look(
            "bake",
            "all traffic is on the new generation; the old one is kept",
            c.unit.phase_t,
        )
    } else {
        c.look("analysis", pass.err().unwrap_or_default(), c.unit.phase_t)
    };
    let mut plan = with_measure(c, attempt, spec, with_probe(c, attempt, waiting));
    if c.now < until {
        plan.end_by(until);
    }
    plan
}

/// The point of no return: whatever is not the new generation is parked or goes, once nothing reaches it.
pub(super) fn retire(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    let Some(seen) = c.fresh() else {
        return c.look_at_target();
    };
    let state = seen
        .generation(attempt.generation)
        .filter(|state| state.wanted.is_some() || !c.is_short());
    let Some(state) = state else {
        return replaced_in_vain(c, attempt, seen);
    };
    if c.is_short()
        && let Some(size) = state.wanted.filter(|wanted| state.ready < *wanted)
    {
        return c.act(Verb::Scale {
            generation: attempt.generation,
            size,
        });
    }
    let can = attempt.can();
    let from = attempt.old.unwrap_or(attempt.generation);
    if let Routed::No(plan) = route_to(c, &can, seen, from, attempt.generation, FULL_SHARE) {
        return plan;
    }
    let keep = to_keep(c, attempt, seen);
    for state in &seen.generations {
        if state.number == attempt.generation || !c.unit.generations.contains_key(&state.number) {
            continue;
        }
        if !keep.contains(&state.number) {
            // What is not staged went with the route that replaced it.
            if can.staged {
                return c.act(Verb::Retire {
                    generation: state.number,
                    last: false,
                });
            }
        } else if !is_parked(state) {
            return c.act(Verb::Scale {
                generation: state.number,
                size: 0,
            });
        }
    }
    c.change(AttemptChange::Ended {
        outcome: AttemptOutcome::Succeeded,
        reason: "stable".into(),
        message: format!("generation {} serves alone", attempt.generation),
        parked: keep,
    })
}

/// The proven generation is gone before everything else was. What it replaced serves again, if it is still there; if not, what
/// is missing is healed like any drift.
fn replaced_in_vain(c: &UnitContext, attempt: &AttemptState, seen: &Seen) -> UnitPlan {
    match attempt.old.and_then(|old| seen.generation(old)) {
        Some(_) => turn_back(
            c,
            AttemptOutcome::CouldNotTry,
            "vanished",
            "the new generation is gone from the target, or does not come up again".into(),
        ),
        None => c.change(AttemptChange::Ended {
            outcome: AttemptOutcome::Succeeded,
            reason: "vanished".into(),
            message: format!("generation {} was proven, and is gone since", attempt.generation),
            parked: to_keep(c, attempt, seen),
        }),
    }
}

/// The last `standby` generations that are still there stay for a way back; a quarantined one never does.
fn to_keep(c: &UnitContext, attempt: &AttemptState, seen: &Seen) -> Vec<GenNumber> {
    let standby = c.spec().map_or(0, |spec| spec.standby) as usize;
    if standby == 0 || !attempt.can().staged {
        return Vec::new();
    }
    let is_good = |number: &GenNumber| {
        *number != attempt.generation
            && seen.generation(*number).is_some()
            && generation(c, *number).is_some_and(|state| {
                let attempt = c.workload.attempt_number();
                c.workload.quarantined(&state.release, &state.captured, attempt).is_none()
            })
    };
    // What had to be healed is not what was proven any more.
    let replaced = attempt.old.filter(|_| !attempt.heal);
    let mut keep: Vec<GenNumber> = c.unit.parked.iter().copied().chain(replaced).filter(is_good).collect();
    keep.dedup();
    let surplus = keep.len().saturating_sub(standby);
    keep.drain(..surplus);
    keep
}

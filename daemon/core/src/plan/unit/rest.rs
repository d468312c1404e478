//! No attempt: stable, absent, or on the way out.

use super::drift::heal;
use super::*;
use crate::ids::{FULL_SHARE, GenNumber};

pub(super) fn rest(c: &UnitContext) -> UnitPlan {
    if c.unit.phase == PhaseName::Leaving && c.state.target_spec(c.target).is_some() {
        return if c.is_placed() { stay(c) } else { leave(c) };
    }
    // A target that left Git orphans its generations: they are kept, and only reported.
    if c.state.target_spec(c.target).is_none() {
        return idle(c);
    }
    if c.is_placed() {
        return heal(c);
    }
    match c.unit.phase {
        PhaseName::Absent => heal(c),
        _ if c.unit.held => c.wait(
            "removal-guard",
            format!(
                "its revision removes more than the limit; `holdfast allow-removals {}` lets it go",
                c.id.name()
            ),
            c.unit.phase_t,
            None,
        ),
        _ => depart(c),
    }
}

pub(super) fn idle(c: &UnitContext) -> UnitPlan {
    UnitPlan {
        look_at: Some(c.looked_t() + IDLE_LOOK_MS),
        ..UnitPlan::default()
    }
}

/// Removals come last: after the grace, and after what else this revision launches on the target is proven.
fn depart(c: &UnitContext) -> UnitPlan {
    let target = c.state.targets.get(c.target);
    let frozen = c.workload.frozen.as_ref().or_else(|| target?.frozen.as_ref());
    if let Some(frozen) = frozen {
        let text = format!("frozen by {}: {}; `holdfast thaw` lets it leave", frozen.by, frozen.reason);
        return c.wait("frozen", text, frozen.t, None);
    }
    let since = c.workload.changed_t.max(target.map_or(0, |target| target.changed_t));
    let until = since + c.config.removal_grace_ms;
    if c.now < until {
        return c.wait("grace", "no manifest places it here any more", since, Some(until));
    }
    let head = c.state.source.as_ref().map(|head| head.commit.as_str());
    let unproven = c.state.workloads.iter().find(|(id, workload)| {
        let unit = workload.units.get(c.target);
        *id != c.id
            && Some(workload.commit.as_str()) == head
            && unit.is_some_and(|unit| unit.attempt.is_some() && unit.phase != PhaseName::Undoing)
    });
    if let Some((id, _)) = unproven {
        return c.look(
            "prune-last",
            format!("{id} is not proven here yet; removals come last"),
            since,
        );
    }
    let change = AttemptChange::Phase {
        to: PhaseName::Leaving,
        reason: "removed".into(),
        message: "no manifest places it here any more".into(),
    };
    UnitPlan::record(Draft::new(c.on(), vec![c.workload.spec_seq], Body::Attempt(change)))
}

/// Placed again while it was leaving. What still serves whole stays; what was begun to be taken away is taken away whole,
/// and the rollout launches anew.
fn stay(c: &UnitContext) -> UnitPlan {
    let Some(seen) = c.fresh() else {
        return c.look_at_target();
    };
    let whole = c.unit.current.is_some_and(|number| {
        let routed = seen.route.is_none() || seen.share(number) == FULL_SHARE;
        seen.generation(number).is_some_and(|state| !is_parked(state)) && routed
    });
    if whole {
        c.enter(
            PhaseName::Stable,
            "placed",
            "placed here again before anything was taken away",
        )
    } else {
        leave(c)
    }
}

/// What has no traffic goes first, and what is last takes the shared objects with it.
fn leave(c: &UnitContext) -> UnitPlan {
    let Some(seen) = c.fresh() else {
        return c.look_at_target();
    };
    // Also what came back after it was given up: the last one takes the shared objects only when nothing hangs off them.
    let ours: Vec<GenNumber> = seen
        .generations
        .iter()
        .map(|state| state.number)
        .filter(|number| *number < c.unit.next_generation)
        .collect();
    match ours.as_slice() {
        [] => c.enter(PhaseName::Absent, "gone", "nothing of it is left on the target"),
        [only] => c.act(Verb::Retire {
            generation: *only,
            last: true,
        }),
        [first, second, ..] => {
            let off_line = seen.share(*first) == 0 && Some(*first) != c.unit.current;
            c.act(Verb::Retire {
                generation: if off_line { *first } else { *second },
                last: false,
            })
        }
    }
}

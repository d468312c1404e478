//! Rolling: new instances come and old ones go by turns, under a floor of ready ones and a ceiling of all.

use super::back::condemn;
use super::forward::watch;
use super::route::{Routed, route_to};
use super::shift::{analyse, with_measure};
use super::*;
use crate::ids::FULL_SHARE;
use crate::spec::Count;
use crate::target::Routing;

/// Surge and unavailable instances of `size`; at least one of them is above 0, or nothing could move.
fn limits(size: u32, surge: Count, max_unavailable: Count) -> (u32, u32) {
    let (surge, unavailable) = (surge.up(size), max_unavailable.down(size));
    if surge == 0 && unavailable == 0 {
        (1, 0)
    } else {
        (surge, unavailable)
    }
}

pub(super) fn first_rolling_size(size: u32, surge: Count, max_unavailable: Count) -> u32 {
    let (surge, unavailable) = limits(size, surge, max_unavailable);
    let first = if surge > 0 { surge } else { unavailable };
    first.clamp(1, size.max(1))
}

/// Without surge, old instances go before the first new ones can come.
pub(super) fn make_room(c: &UnitContext, spec: &WorkloadSpec, can: &Abilities, old: &GenerationState) -> Option<UnitPlan> {
    let Strategy::Rolling {
        surge, max_unavailable, ..
    } = &spec.strategy
    else {
        return None;
    };
    let size = c.wanted_instances(can);
    let (surge, unavailable) = limits(size, *surge, *max_unavailable);
    let floor = size.saturating_sub(unavailable);
    (surge == 0 && old.wanted.is_some_and(|wanted| wanted > floor)).then(|| {
        c.act(Verb::Scale {
            generation: old.number,
            size: floor,
        })
    })
}

fn is_stable(c: &UnitContext, attempt: &AttemptState, spec: &WorkloadSpec) -> bool {
    let health = &c.facts.health;
    let since = health.healthy_since.filter(|_| health.generation == attempt.generation);
    since.is_some_and(|since| c.looked_since() >= since.max(health.sized_t) + spec.health.stable_ms)
}

/// One turn: traffic for the new instances that are ready, then old ones that are not needed go, then new ones come.
pub(super) fn roll(
    c: &UnitContext,
    attempt: &AttemptState,
    spec: &WorkloadSpec,
    surge: Count,
    max_unavailable: Count,
) -> UnitPlan {
    if let Some(plan) = watch(c, attempt) {
        return plan;
    }
    let (plan, _) = analyse(c, attempt, spec, c.unit.phase_t);
    if let Some(plan) = plan {
        return plan;
    }
    let can = attempt.can();
    let Some(seen) = c.fresh() else {
        return c.look_at_target();
    };
    let Some(new) = seen.generation(attempt.generation) else {
        return c.look_at_target();
    };
    let old = attempt.old.and_then(|old| seen.generation(old));
    let size = c.wanted_instances(&can);
    let (surge, unavailable) = limits(size, surge, max_unavailable);
    let counts = |state: Option<&GenerationState>| state.map_or((0, 0), |state| (state.wanted.unwrap_or(size), state.ready));
    let ((new_wanted, new_ready), (old_wanted, old_ready)) = (counts(Some(new)), counts(old));
    let floor = size.saturating_sub(unavailable);
    // What came up just now has to stay so for as long as any candidate; until then only what had its turn before counts.
    let had_their_turn = (u64::from(attempt.weight) * u64::from(size) / u64::from(FULL_SHARE)) as u32;
    let new_ready = if is_stable(c, attempt, spec) {
        new_ready
    } else {
        new_ready.min(had_their_turn)
    };
    let free = (size + surge).saturating_sub(new_wanted + old_wanted);
    // Enough of them, or as many as there can be before the last old ones go.
    let old_is_gone = attempt.old.is_some() && old.is_none();
    let enough = new_ready >= size
        || (old_is_gone && new_ready > 0)
        || (new_ready >= floor && new_ready == new_wanted && free == 0 && old_wanted > 0);
    let weight = if enough {
        FULL_SHARE
    } else {
        let share = u64::from(new_ready) * u64::from(FULL_SHARE) / u64::from(size.max(1));
        share as u32 / can.finest_share.max(1) * can.finest_share.max(1)
    };
    let healthy = c.facts.health.generation == attempt.generation && c.facts.health.unhealthy_since.is_none();
    if weight > attempt.weight && (healthy || can.routing == Routing::Fixed) {
        let from = attempt.old.unwrap_or(attempt.generation);
        return match route_to(c, &can, seen, from, attempt.generation, weight) {
            Routed::Yes => c.change(AttemptChange::Reached { weight }),
            Routed::No(plan) => plan,
        };
    }
    if attempt.weight == FULL_SHARE && old_wanted == 0 && new_ready >= size {
        return c.enter(PhaseName::Baking, "shifted", "all instances are of the new generation");
    }
    // The last old instances carry the rest of the traffic until the new ones have all of it.
    let least_old = u32::from(attempt.weight < FULL_SHARE && can.routing != Routing::Fixed);
    let spare = (new_ready + old_ready).saturating_sub(floor);
    let fewer = old_wanted.saturating_sub(spare).max(least_old.min(old_wanted));
    if let Some(old) = old.filter(|_| fewer < old_wanted) {
        return c.act(Verb::Scale {
            generation: old.number,
            size: fewer,
        });
    }
    if let Some(old) = old.filter(|old| c.is_short() && old_ready < old_wanted && old.number != new.number) {
        return c.act(Verb::Scale {
            generation: old.number,
            size: old_wanted,
        });
    }
    if new_wanted < size && free > 0 && healthy {
        return c.act(Verb::Scale {
            generation: new.number,
            size: size.min(new_wanted + free),
        });
    }
    // A turn that never ends is the release's: what was scaled up does not become ready.
    let stuck_ms = c.now.saturating_sub(attempt.weight_t.max(c.unit.phase_t));
    if new_ready < new_wanted && new.phase != GenPhase::Stuck && stuck_ms >= spec.health.timeout_ms {
        let message = format!("{new_ready} of {new_wanted} new instances are ready after {stuck_ms} ms");
        let evidence = serde_json::json!({ "ready": new_ready, "wanted": new_wanted });
        return condemn(c, attempt, "health", "not-ready", message, evidence);
    }
    let text = format!("{new_ready} of {size} new instances are ready, {old_ready} old ones serve");
    let waiting = with_probe(c, attempt, c.look("ready", text, c.unit.phase_t));
    with_measure(c, attempt, spec, waiting)
}

//! Bringing traffic to where it should be, and believing only what is read back.

use super::*;
use crate::ids::{FULL_SHARE, GenNumber};
use crate::target::{Routing, Share};

pub(super) enum Routed {
    /// Read back everywhere, by an observation begun after the last effect.
    Yes,
    No(UnitPlan),
}

/// Brings `weight` of the traffic to `to` and the rest to `from`. A target whose instances are live once they are ready has
/// nothing to route.
pub(super) fn route_to(c: &UnitContext, can: &Abilities, seen: &Seen, from: GenNumber, to: GenNumber, weight: u32) -> Routed {
    if can.routing == Routing::Fixed {
        return Routed::Yes;
    }
    let known = |number: GenNumber| c.unit.generations.contains_key(&number);
    let mut shares: Vec<Share> = seen
        .generations
        .iter()
        .filter(|state| known(state.number))
        .map(|state| Share {
            number: state.number,
            live: 0,
        })
        .collect();
    // What is not staged is not seen before its route makes it.
    if !can.staged && known(to) && !shares.iter().any(|share| share.number == to) {
        shares.push(Share { number: to, live: 0 });
    }
    for share in &mut shares {
        if share.number == to {
            share.live = weight;
        } else if share.number == from {
            share.live = FULL_SHARE - weight;
        }
    }
    let settled = seen.route.as_ref().is_some_and(|route| route.settled);
    // In a pool, what has no ready instance has no share, whatever was set; only where traffic goes to, there has to be one.
    let is_silent = |number: GenNumber| {
        let state = seen.generation(number);
        can.routing == Routing::Pooled && number != to && state.is_some_and(|state| state.ready == 0)
    };
    let reads = |share: &Share| is_silent(share.number) || reads_as(can, seen.share(share.number), share.live);
    if settled && shares.iter().all(reads) {
        return Routed::Yes;
    }
    if shares.iter().map(|share| share.live).sum::<u32>() != FULL_SHARE {
        return Routed::No(c.look("target", "waiting until the target shows both generations", c.unit.phase_t));
    }
    let lead = if weight == FULL_SHARE { to } else { from };
    Routed::No(set_route(c, shares, lead))
}

/// A route that was done and does not read back is set again, not at once.
pub(super) fn set_route(c: &UnitContext, shares: Vec<Share>, lead: GenNumber) -> UnitPlan {
    let again_at = c.facts.call.routed_t + backoff_ms(c.facts.call.route_repeats);
    if c.facts.call.route_repeats == 0 || c.now >= again_at {
        return c.act(Verb::Route { shares, lead });
    }
    let mut plan = c.look("route", "the weights do not read back as set yet", c.unit.phase_t);
    plan.wake_at = earliest(plan.wake_at, Some(again_at));
    plan
}

/// Whether an observed share is the wanted one. In a pool a share follows the ready instances: only in or out can be set.
pub(super) fn reads_as(can: &Abilities, seen: u32, wanted: u32) -> bool {
    match can.routing {
        Routing::Pooled if wanted > 0 && wanted < FULL_SHARE => seen > 0,
        _ => can.same_share(seen, wanted),
    }
}

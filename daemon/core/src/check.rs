//! The plan checker: the invariants of the design, stated a second time and without the planners' code, over every plan
//! before it is carried out. It shares only types with them. A violation stalls the unit, loudly, and changes nothing.

use crate::entry::*;
use crate::ids::{FULL_SHARE, GenNumber};
use crate::plan::UnitPlan;
use crate::plan::unit::UnitContext;
use crate::state::Claim;
use crate::target::{GenPhase, GenerationState, Share, Verb};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("invariant 4: {0} while the intent of another effect is open")]
    SecondIntent(&'static str),
    #[error("invariant 1: launch of a release whose artifacts are not all pinned")]
    Unpinned,
    #[error("invariant 2: launch of generation {0}, which is not the attempt's")]
    NotTheCandidate(GenNumber),
    #[error("invariant 3: generation {0} would be retired while it has a share of the traffic")]
    RetireLive(GenNumber),
    #[error("invariant 3: generation {0} would be retired before its replacement is proven and has all traffic")]
    RetireUnreplaced(GenNumber),
    #[error("invariant 3: generation {0} would get traffic before it is proven")]
    Unproven(GenNumber),
    #[error("invariant 3: the way back leads to {0}, which is not the generation that served before")]
    WrongWayBack(GenNumber),
    #[error("invariant 6: a quarantined release would be launched or get more traffic")]
    Quarantined,
    #[error("invariant 6: a bad verdict without its quarantine in the same batch")]
    VerdictAlone,
    #[error("invariant 8: an effect on a target of another owner")]
    Foreign,
    #[error("invariant 11: a removal that no revision proves, or that is held")]
    UnprovenRemoval,
    #[error("shares {0:?} do not sum to the whole, or name a generation that is not there")]
    Shares(Vec<Share>),
    #[error("the weight of the new generation would fall from {from} to {to}")]
    WeightFalls { from: u32, to: u32 },
    #[error("an effect decided on an observation from before the last effect ended")]
    Stale,
}

pub fn check_unit_plan(c: &UnitContext, plan: &UnitPlan) -> Result<(), Violation> {
    check_records(c, &plan.records)?;
    match &plan.verb {
        Some(verb) => check_verb(c, verb),
        None => Ok(()),
    }
}

fn check_records(c: &UnitContext, records: &[crate::plan::Draft]) -> Result<(), Violation> {
    let bodies = || records.iter().map(|draft| &draft.body);
    let ends_bad = bodies().any(|body| {
        matches!(
            body,
            Body::Attempt(AttemptChange::Undo {
                outcome: AttemptOutcome::Bad,
                ..
            })
        )
    });
    let quarantines = bodies().any(|body| matches!(body, Body::Quarantine(q) if q.action == QuarantineAction::Set));
    if ends_bad && !quarantines {
        return Err(Violation::VerdictAlone);
    }
    for body in bodies() {
        if let Body::Attempt(AttemptChange::Phase {
            to: PhaseName::Leaving, ..
        }) = body
            && (placed(c) || c.unit.held)
        {
            return Err(Violation::UnprovenRemoval);
        }
    }
    Ok(())
}

fn check_verb(c: &UnitContext, verb: &Verb) -> Result<(), Violation> {
    if c.unit.intent.is_some() {
        return Err(Violation::SecondIntent(verb.name()));
    }
    if let Some(target) = c.state.targets.get(c.target)
        && matches!(target.claim, Claim::Conflict(_) | Claim::Ahead(_))
    {
        return Err(Violation::Foreign);
    }
    match verb {
        Verb::Launch { generation, .. } => check_launch(c, *generation),
        Verb::Scale { .. } | Verb::Run { .. } => Ok(()),
        Verb::Route { shares, lead } => check_route(c, shares, *lead),
        Verb::Retire { generation, last } => check_retire(c, *generation, *last),
    }
}

/// The target as the newest look shows it; that look must be younger than the last effect.
fn seen<'a>(c: &UnitContext<'a>) -> Result<Vec<&'a GenerationState>, Violation> {
    let observed = c.target_facts.observed.as_ref().ok_or(Violation::Stale)?;
    if c.unit.last_result != 0 && observed.begun <= c.unit.last_result {
        return Err(Violation::Stale);
    }
    Ok(observed
        .page
        .generations
        .iter()
        .filter(|state| state.workload == c.id.as_str())
        .collect())
}

fn share(c: &UnitContext, number: GenNumber) -> u32 {
    let Some(observed) = &c.target_facts.observed else { return 0 };
    let routes = observed.page.routes.iter().filter(|route| route.workload == c.id.as_str());
    routes
        .flat_map(|route| &route.shares)
        .filter(|share| share.number == number)
        .map(|share| share.live)
        .max()
        .unwrap_or(0)
}

fn is_quarantined(c: &UnitContext, number: GenNumber) -> bool {
    let Some(generation) = c.unit.generations.get(&number) else {
        return false;
    };
    let attempt = c.workload.request.as_ref().map_or(1, |request| request.attempt);
    c.workload.quarantine.get(&generation.release).is_some_and(|all| {
        all.iter()
            .any(|q| q.attempt >= attempt && (q.values.is_none() || q.values.as_ref() == Some(&generation.captured)))
    })
}

fn placed(c: &UnitContext) -> bool {
    let Some(spec) = c
        .workload
        .spec
        .as_ref()
        .filter(|_| c.workload.presence != Some(Presence::Absent))
    else {
        return false;
    };
    let Some(target) = c
        .state
        .targets
        .get(c.target)
        .filter(|target| target.presence != Some(Presence::Absent))
    else {
        return false;
    };
    target
        .spec
        .as_ref()
        .is_some_and(|target| spec.placement.includes(c.target, &target.labels))
}

fn check_launch(c: &UnitContext, number: GenNumber) -> Result<(), Violation> {
    let attempt = c
        .unit
        .attempt
        .as_ref()
        .filter(|attempt| attempt.generation == number)
        .ok_or(Violation::NotTheCandidate(number))?;
    if c.unit.current == Some(number) {
        return Err(Violation::NotTheCandidate(number));
    }
    let release = c.workload.releases.get(&attempt.release).ok_or(Violation::Unpinned)?;
    if release.artifacts.is_empty() || release.artifacts.len() != release.sources.len() {
        return Err(Violation::Unpinned);
    }
    if is_quarantined(c, number) {
        return Err(Violation::Quarantined);
    }
    Ok(())
}

fn check_route(c: &UnitContext, shares: &[Share], lead: GenNumber) -> Result<(), Violation> {
    let wrong = || Violation::Shares(shares.to_vec());
    let there = seen(c)?;
    let sum: u32 = shares.iter().map(|share| share.live).sum();
    let runs = |number: GenNumber| {
        there
            .iter()
            .any(|state| state.number == number && state.phase != GenPhase::Parked)
    };
    if sum != FULL_SHARE || !shares.iter().any(|share| share.number == lead) {
        return Err(wrong());
    }
    if shares.iter().any(|share| share.live > 0 && !runs(share.number)) {
        return Err(wrong());
    }
    let live = |number: GenNumber| {
        shares
            .iter()
            .find(|share| share.number == number)
            .map_or(0, |share| share.live)
    };
    let Some(attempt) = &c.unit.attempt else {
        return Err(wrong());
    };
    let candidate = live(attempt.generation);
    match c.unit.phase {
        PhaseName::Undoing => {
            let back = attempt.old.ok_or_else(wrong)?;
            if live(back) != FULL_SHARE {
                return Err(Violation::WrongWayBack(back));
            }
        }
        PhaseName::Shifting | PhaseName::Baking | PhaseName::Retiring => {
            if candidate < attempt.weight {
                return Err(Violation::WeightFalls {
                    from: attempt.weight,
                    to: candidate,
                });
            }
            if is_quarantined(c, attempt.generation) && candidate > share(c, attempt.generation) {
                return Err(Violation::Quarantined);
            }
        }
        _ if candidate > 0 => return Err(Violation::Unproven(attempt.generation)),
        _ => {}
    }
    let others = shares
        .iter()
        .find(|share| share.live > 0 && share.number != attempt.generation && Some(share.number) != attempt.old);
    others.map_or(Ok(()), |share| Err(Violation::WrongWayBack(share.number)))
}

fn check_retire(c: &UnitContext, number: GenNumber, last: bool) -> Result<(), Violation> {
    let there = seen(c)?;
    if c.unit.phase == PhaseName::Leaving {
        // Placed again: only the rest of a removal that was begun already may go on.
        let whole = c
            .unit
            .current
            .is_some_and(|current| share(c, current) == FULL_SHARE && there.iter().any(|state| state.number == current));
        return if c.unit.held || (placed(c) && whole) {
            Err(Violation::UnprovenRemoval)
        } else {
            Ok(())
        };
    }
    let alone = there.iter().all(|state| state.number == number);
    if share(c, number) > 0 && !(last && alone && c.unit.current.is_none()) {
        return Err(Violation::RetireLive(number));
    }
    let Some(attempt) = &c.unit.attempt else {
        return Err(Violation::RetireUnreplaced(number));
    };
    if number == attempt.generation {
        // The candidate itself goes only on the way back.
        let back_serves = attempt
            .old
            .is_none_or(|old| share(c, old) == FULL_SHARE || there.iter().all(|state| state.number != old));
        return if c.unit.phase == PhaseName::Undoing && back_serves {
            Ok(())
        } else {
            Err(Violation::RetireUnreplaced(number))
        };
    }
    let replaced = c.unit.phase == PhaseName::Retiring
        && share(c, attempt.generation) == FULL_SHARE
        && attempt.weight == FULL_SHARE
        && there
            .iter()
            .any(|state| state.number == attempt.generation && state.phase != GenPhase::Parked);
    if replaced {
        Ok(())
    } else {
        Err(Violation::RetireUnreplaced(number))
    }
}

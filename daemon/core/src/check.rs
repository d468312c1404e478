//! The plan checker: the invariants of the design, stated a second time and without the planners' code, over every plan
//! before it is carried out. It shares only types with them. A violation stalls the unit, loudly, and changes nothing.

use crate::entry::*;
use crate::ids::{FULL_SHARE, GenNumber, Millis, WorkloadId};
use crate::plan::unit::UnitContext;
use crate::plan::{Draft, RolloutPlan, UnitPlan};
use crate::spec::Strategy;
use crate::state::{AttemptState, Claim, JobOutcome, State, WorkloadState};
use crate::target::{Abilities, FaultClass, GenPhase, GenerationState, Hook, Routing, Share, Verb};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("invariant 4: {0} while the intent of another effect is open")]
    SecondIntent(&'static str),
    #[error("invariant 1: a release whose artifacts are not all pinned")]
    Unpinned,
    #[error("invariant 2: launch of generation {0}, which is not the attempt's")]
    NotTheCandidate(GenNumber),
    #[error("invariant 3: generation {0} would be retired or parked while it has a share of the traffic")]
    RetireLive(GenNumber),
    #[error("invariant 3: generation {0} would be retired or parked before its replacement is proven and has all traffic")]
    RetireUnreplaced(GenNumber),
    #[error("invariant 3: generation {0} would get traffic before it is proven")]
    Unproven(GenNumber),
    #[error("invariant 3: the way back leads to {0}, which is not the generation that served before")]
    WrongWayBack(GenNumber),
    #[error("invariant 3: {left} instances would be left ready, and at least {floor} must be")]
    BelowFloor { left: u32, floor: u32 },
    #[error("invariant 6: a quarantined release would be launched or get more traffic")]
    Quarantined,
    #[error("invariant 6: a bad verdict without its quarantine in the same batch")]
    VerdictAlone,
    #[error("invariant 8: an effect on a target of another owner")]
    Foreign,
    #[error("invariant 11: a removal that no revision proves, that is held, or whose grace is not over")]
    UnprovenRemoval,
    #[error("shares {0:?} do not sum to the whole, or name a generation that is not there")]
    Shares(Vec<Share>),
    #[error("the weight of the new generation would fall from {from} to {to}")]
    WeightFalls { from: u32, to: u32 },
    #[error("an effect decided on an observation from before the last effect ended")]
    Stale,
    #[error("job {0} would run a second time, out of its turn, or is missing before a launch")]
    Job(String),
    #[error("traffic at {0}/10000 without the approvals that the manifest wants")]
    Unapproved(u32),
    #[error("something new would begin although it is frozen or suspended, or on a target that is not placed")]
    NotAdmitted,
    #[error("a rollout would end well although {0} targets do not run its release")]
    NotDone(usize),
}

pub fn check_unit_plan(c: &UnitContext, plan: &UnitPlan) -> Result<(), Violation> {
    check_records(c, &plan.records)?;
    match &plan.verb {
        Some(verb) => check_verb(c, verb),
        None => Ok(()),
    }
}

fn check_records(c: &UnitContext, records: &[Draft]) -> Result<(), Violation> {
    let bodies = || records.iter().map(|draft| &draft.body);
    let quarantines = bodies().any(|body| matches!(body, Body::Quarantine(q) if q.action == QuarantineAction::Set));
    for body in bodies() {
        let Body::Attempt(change) = body else { continue };
        match change {
            AttemptChange::Undo {
                outcome: AttemptOutcome::Bad,
                ..
            } if !quarantines => return Err(Violation::VerdictAlone),
            AttemptChange::Phase {
                to: PhaseName::Leaving, ..
            } if !may_leave(c) => return Err(Violation::UnprovenRemoval),
            AttemptChange::Phase {
                to: PhaseName::Retiring, ..
            } => {
                let attempt = c.unit.attempt.as_ref();
                if let Some(attempt) = attempt.filter(|attempt| attempt.weight != FULL_SHARE) {
                    return Err(Violation::RetireUnreplaced(attempt.old.unwrap_or(attempt.generation)));
                }
            }
            AttemptChange::Began {
                generation,
                release,
                heal,
                ..
            } => {
                let same = c
                    .unit
                    .current
                    .and_then(|number| c.unit.generations.get(&number))
                    .is_some_and(|current| current.release == *release);
                if !*heal || !same || *generation < c.unit.next_generation {
                    return Err(Violation::NotTheCandidate(*generation));
                }
                if is_frozen(c) || !placed(c) {
                    return Err(Violation::NotAdmitted);
                }
                if c.unit.current.is_some_and(|current| is_quarantined(c, current)) {
                    return Err(Violation::Quarantined);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn may_leave(c: &UnitContext) -> bool {
    let changed_t = c
        .workload
        .changed_t
        .max(c.state.targets.get(c.target).map_or(0, |target| target.changed_t));
    !placed(c) && !c.unit.held && !is_frozen(c) && c.now >= changed_t + c.config.removal_grace_ms
}

fn is_frozen(c: &UnitContext) -> bool {
    c.workload.frozen.is_some() || c.state.targets.get(c.target).is_some_and(|target| target.frozen.is_some())
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
        Verb::Scale { generation, size } => check_scale(c, *generation, *size),
        Verb::Route { shares, lead } => check_route(c, shares, *lead),
        Verb::Retire { generation, last } => check_retire(c, *generation, *last),
        Verb::Run {
            generation, job, hook, ..
        } => check_run(c, *generation, job, *hook),
    }
}

/// The target as the newest look shows it; that look must be younger than the last effect.
fn seen<'a>(c: &'a UnitContext<'_>) -> Result<&'a [GenerationState], Violation> {
    let look = c.look.as_ref().ok_or(Violation::Stale)?;
    if c.unit.last_result != 0 && look.begun <= c.unit.last_result {
        return Err(Violation::Stale);
    }
    Ok(&look.seen.generations)
}

fn share(c: &UnitContext, number: GenNumber) -> u32 {
    let route = c.look.as_ref().and_then(|look| look.seen.route.as_ref());
    let shares = route.iter().flat_map(|route| &route.shares);
    shares
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
    is_placed(c.state, c.workload, c.target)
}

fn is_placed(state: &State, workload: &WorkloadState, name: &str) -> bool {
    let spec = workload.spec.as_ref().filter(|_| workload.presence != Some(Presence::Absent));
    let target = state
        .targets
        .get(name)
        .filter(|target| target.presence != Some(Presence::Absent));
    let labels = target.and_then(|target| target.spec.as_ref()).map(|target| &target.labels);
    spec.zip(labels)
        .is_some_and(|(spec, labels)| spec.placement.includes(name, labels))
}

fn can(c: &UnitContext) -> Abilities {
    let of_attempt = c.unit.attempt.as_ref().and_then(|attempt| attempt.abilities.clone());
    let current = c.unit.current.and_then(|number| c.unit.generations.get(&number));
    of_attempt.or_else(|| current?.abilities.clone()).unwrap_or_default()
}

fn strategy<'a>(c: &UnitContext<'a>) -> Option<&'a Strategy> {
    c.workload.spec.as_ref().map(|spec| &spec.strategy)
}

fn candidate<'a>(c: &UnitContext<'a>, number: GenNumber) -> Result<&'a AttemptState, Violation> {
    let attempt = c.unit.attempt.as_ref().filter(|attempt| attempt.generation == number);
    attempt
        .filter(|_| c.unit.current != Some(number))
        .ok_or(Violation::NotTheCandidate(number))
}

fn check_launch(c: &UnitContext, number: GenNumber) -> Result<(), Violation> {
    let attempt = candidate(c, number)?;
    let release = c.workload.releases.get(&attempt.release).ok_or(Violation::Unpinned)?;
    let has_source = |name: &String| release.sources.contains_key(name);
    if release.artifacts.is_empty() || !release.artifacts.keys().all(has_source) {
        return Err(Violation::Unpinned);
    }
    if is_quarantined(c, number) {
        return Err(Violation::Quarantined);
    }
    let jobs = c.workload.jobs.get(&attempt.release);
    let is_done = |name: &str| {
        let of_job = |key: &str| key.strip_prefix("before/").and_then(|key| key.split('@').next()) == Some(name);
        jobs.is_some_and(|jobs| jobs.iter().any(|(key, job)| of_job(key) && job.outcome == JobOutcome::Done))
    };
    match release.before.iter().find(|job| !is_done(&job.name)) {
        Some(job) => Err(Violation::Job(job.name.clone())),
        None => Ok(()),
    }
}

fn check_run(c: &UnitContext, number: GenNumber, job: &str, hook: Hook) -> Result<(), Violation> {
    let attempt = candidate(c, number)?;
    if is_quarantined(c, number) {
        return Err(Violation::Quarantined);
    }
    let in_turn = match hook {
        Hook::Before => c.unit.phase == PhaseName::Preparing,
        Hook::After => c.unit.phase == PhaseName::Baking,
    };
    let keys = [
        format!("{}/{job}", hook.as_str()),
        format!("{}/{job}@{}", hook.as_str(), c.target),
    ];
    let jobs = c.workload.jobs.get(&attempt.release);
    let release = c.workload.releases.get(&attempt.release);
    let mut known_jobs = release.iter().flat_map(|release| release.jobs(hook));
    let is_repeatable = known_jobs.any(|known| known.name == job && known.repeatable);
    let again = keys.iter().filter_map(|key| jobs?.get(key)).any(|known| match known.outcome {
        JobOutcome::Done | JobOutcome::Running => true,
        JobOutcome::Failed => false,
        JobOutcome::Lost => !known.again && !is_repeatable,
    });
    if in_turn && !again {
        Ok(())
    } else {
        Err(Violation::Job(job.to_owned()))
    }
}

fn check_scale(c: &UnitContext, number: GenNumber, size: u32) -> Result<(), Violation> {
    let there = seen(c)?;
    let state = there.iter().find(|state| state.number == number);
    let ready = |number: GenNumber| {
        there
            .iter()
            .find(|state| state.number == number)
            .map_or(0, |state| state.ready)
    };
    let Some(attempt) = &c.unit.attempt else {
        // At rest only what serves is given a size, and never none.
        return if c.unit.current == Some(number) && size > 0 && c.unit.phase != PhaseName::Leaving {
            Ok(())
        } else {
            Err(Violation::RetireUnreplaced(number))
        };
    };
    if number == attempt.generation {
        let grows = state.is_none_or(|state| state.wanted.is_none_or(|wanted| size > wanted));
        return if size == 0 {
            Err(Violation::RetireUnreplaced(number))
        } else if is_quarantined(c, number) && grows {
            Err(Violation::Quarantined)
        } else {
            Ok(())
        };
    }
    if c.unit.phase == PhaseName::Undoing {
        return if size > 0 {
            Ok(())
        } else {
            Err(Violation::WrongWayBack(number))
        };
    }
    let can = can(c);
    let spec = c.workload.spec.as_ref();
    let replaced = attempt.weight == FULL_SHARE && (can.routing == Routing::Fixed || share(c, attempt.generation) == FULL_SHARE);
    let is_exclusive = !can.overlap || matches!(strategy(c), Some(Strategy::Recreate { .. }));
    match (c.unit.phase, strategy(c)) {
        (PhaseName::Retiring, _) if replaced && share(c, number) == 0 => Ok(()),
        (PhaseName::Retiring, _) if share(c, number) > 0 => Err(Violation::RetireLive(number)),
        (PhaseName::Launching, _) if is_exclusive && attempt.old == Some(number) && size == 0 => Ok(()),
        (PhaseName::Launching | PhaseName::Shifting, Some(Strategy::Rolling { max_unavailable, .. })) => {
            let wanted = match spec {
                Some(spec) if spec.instances_max.is_none() => spec.instances,
                _ => state.and_then(|state| state.wanted).unwrap_or(0),
            };
            let floor = wanted.saturating_sub(max_unavailable.down(wanted).max(u32::from(needs_a_gap(c, wanted))));
            let left = ready(attempt.generation) + ready(number).min(size);
            let was = ready(attempt.generation) + ready(number);
            // What is short already is not made shorter.
            if left < floor.min(was) {
                Err(Violation::BelowFloor { left, floor })
            } else {
                Ok(())
            }
        }
        _ => Err(Violation::RetireUnreplaced(number)),
    }
}

/// Without any surge and with nothing unavailable nothing could move; then one more instance is the surge, and no gap.
fn needs_a_gap(c: &UnitContext, wanted: u32) -> bool {
    match strategy(c) {
        Some(Strategy::Rolling {
            surge, max_unavailable, ..
        }) => surge.up(wanted) == 0 && max_unavailable.down(wanted) > 0,
        _ => false,
    }
}

fn check_route(c: &UnitContext, shares: &[Share], lead: GenNumber) -> Result<(), Violation> {
    let wrong = || Violation::Shares(shares.to_vec());
    let there = seen(c)?;
    let can = can(c);
    let sum: u32 = shares.iter().map(|share| share.live).sum();
    // What is not staged comes to be by its route.
    let makes = |number: GenNumber| {
        let of_attempt = |attempt: &AttemptState| attempt.generation == number || attempt.old == Some(number);
        !can.staged && c.unit.attempt.as_ref().is_some_and(of_attempt)
    };
    let runs = |number: GenNumber| {
        makes(number)
            || there
                .iter()
                .any(|state| state.number == number && state.phase != GenPhase::Parked)
    };
    if !shares.iter().any(|share| share.number == lead) {
        return Err(wrong());
    }
    if sum == 0 {
        // Nobody serves: only on the way back of what cannot be there twice, or where the old generation is gone or cannot serve.
        let old = c.unit.attempt.as_ref().and_then(|attempt| attempt.old);
        let old_is_there = there.iter().any(|state| Some(state.number) == old);
        return if c.unit.phase == PhaseName::Undoing && (!can.overlap || !old_is_there || old_cannot_serve(c, there)) {
            Ok(())
        } else {
            Err(wrong())
        };
    }
    if sum != FULL_SHARE || shares.iter().any(|share| share.live > 0 && !runs(share.number)) {
        return Err(wrong());
    }
    let live = |number: GenNumber| {
        shares
            .iter()
            .find(|share| share.number == number)
            .map_or(0, |share| share.live)
    };
    let Some(attempt) = &c.unit.attempt else {
        let current = c.unit.current.ok_or_else(wrong)?;
        return if live(current) == FULL_SHARE {
            Ok(())
        } else {
            Err(Violation::WrongWayBack(current))
        };
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
            if candidate > attempt.weight && !is_approved(c, attempt, candidate) {
                return Err(Violation::Unapproved(candidate));
            }
        }
        PhaseName::Launching if !can.staged && is_quarantined(c, attempt.generation) => {
            return Err(Violation::Quarantined);
        }
        PhaseName::Launching if !can.staged && !is_approved(c, attempt, candidate) => {
            return Err(Violation::Unapproved(candidate));
        }
        PhaseName::Launching if !can.staged => {}
        _ if candidate > 0 => return Err(Violation::Unproven(attempt.generation)),
        _ => {}
    }
    let others = shares
        .iter()
        .find(|share| share.live > 0 && share.number != attempt.generation && Some(share.number) != attempt.old);
    others.map_or(Ok(()), |share| Err(Violation::WrongWayBack(share.number)))
}

/// The old generation has no ready instance, and cannot be given one: there is no room, or there is nothing to count.
fn old_cannot_serve(c: &UnitContext, there: &[GenerationState]) -> bool {
    let old = c.unit.attempt.as_ref().and_then(|attempt| attempt.old);
    let state = there.iter().find(|state| Some(state.number) == old);
    let no_room = matches!(c.unit.last_fault, Some((FaultClass::Exhausted, _)));
    state.is_none_or(|state| state.ready == 0 && (no_room || state.wanted.is_none()))
}

/// Enough different people said yes to this weight, where the manifest wants it for a release that is new here.
fn is_approved(c: &UnitContext, attempt: &AttemptState, weight: u32) -> bool {
    let Some(approval) = c.workload.spec.as_ref().and_then(|spec| spec.approval.as_ref()) else {
        return true;
    };
    let known = c
        .unit
        .proven
        .iter()
        .any(|(release, values)| *release == attempt.release && *values == attempt.captured);
    if known || attempt.heal {
        return true;
    }
    let request = c.workload.request.as_ref().filter(|request| request.id == attempt.request);
    approval
        .before
        .iter()
        .filter(|step| **step > attempt.weight && **step <= weight)
        .all(|step| {
            let of_step = request
                .iter()
                .flat_map(|request| &request.approvals)
                .filter(|one| one.step == *step);
            let mut people: Vec<&str> = of_step.map(|one| one.approver.as_str()).collect();
            people.sort_unstable();
            people.dedup();
            people.len() >= approval.count as usize
        })
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
    let Some(attempt) = &c.unit.attempt else {
        // At rest: what reappeared and nothing wants.
        let wanted = c.unit.current == Some(number) || c.unit.parked.contains(&number);
        return if wanted {
            Err(Violation::RetireUnreplaced(number))
        } else if share(c, number) > 0 && c.unit.current.is_some() {
            Err(Violation::RetireLive(number))
        } else {
            Ok(())
        };
    };
    let can = can(c);
    if number == attempt.generation {
        // The candidate itself goes only on the way back, after the old generation serves, or to make room for it.
        let old_is_there = attempt.old.is_some_and(|old| there.iter().any(|state| state.number == old));
        let back_serves = attempt.old.is_none_or(|old| share(c, old) == FULL_SHARE)
            || can.routing == Routing::Fixed
            || !old_is_there
            || (share(c, number) == 0 && (!can.overlap || old_cannot_serve(c, there)));
        if share(c, number) > 0 && old_is_there {
            return Err(Violation::RetireLive(number));
        }
        return if c.unit.phase == PhaseName::Undoing && back_serves {
            Ok(())
        } else {
            Err(Violation::RetireUnreplaced(number))
        };
    }
    if share(c, number) > 0 || last {
        return Err(Violation::RetireLive(number));
    }
    let serves = can.routing == Routing::Fixed || share(c, attempt.generation) == FULL_SHARE;
    let replaced = c.unit.phase == PhaseName::Retiring
        && serves
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

pub fn check_rollout_plan(
    state: &State,
    id: &WorkloadId,
    workload: &WorkloadState,
    plan: &RolloutPlan,
    now: Millis,
) -> Result<(), Violation> {
    let quarantines = plan.records.iter().any(|draft| matches!(draft.body, Body::Quarantine(_)));
    for draft in &plan.records {
        if draft.on.workload.as_ref() != Some(id) {
            return Err(Violation::NotAdmitted);
        }
        match &draft.body {
            Body::Rollout(change) => check_rollout_change(state, workload, draft, change, quarantines, now)?,
            Body::Attempt(AttemptChange::Began {
                release,
                values,
                generation,
                ..
            }) => check_admission(state, workload, draft, release, values, *generation)?,
            _ => {}
        }
    }
    Ok(())
}

fn quarantined(
    workload: &WorkloadState,
    release: &crate::ids::ReleaseId,
    values: Option<&crate::ids::Digest>,
    attempt: u32,
) -> bool {
    workload.quarantine.get(release).is_some_and(|all| {
        all.iter()
            .any(|q| q.attempt >= attempt && (q.values.is_none() || q.values.as_ref() == values))
    })
}

fn check_rollout_change(
    state: &State,
    workload: &WorkloadState,
    draft: &Draft,
    change: &RolloutChange,
    quarantines: bool,
    now: Millis,
) -> Result<(), Violation> {
    let is_new = workload.request.as_ref().map(|request| request.id) != draft.on.rollout;
    match change.to {
        RolloutState::Rolling if is_new => {
            let pinned = |digest: &crate::ids::Digest| workload.pins.values().any(|pin| pin.digest == *digest);
            let known = workload.releases.contains_key(&change.release);
            if change.artifacts.is_empty() || !(known || change.artifacts.values().all(pinned)) {
                return Err(Violation::Unpinned);
            }
            let attempt = workload.spec.as_ref().map_or(1, |spec| spec.attempt);
            if quarantined(workload, &change.release, None, attempt) {
                return Err(Violation::Quarantined);
            }
            let held = workload.frozen.is_some() || workload.spec.as_ref().is_some_and(|spec| spec.suspend);
            // Going back is never held up.
            if held && change.reason == "requested" {
                return Err(Violation::NotAdmitted);
            }
            Ok(())
        }
        RolloutState::Aborting if !quarantines => Err(Violation::VerdictAlone),
        RolloutState::Succeeded => {
            let Some(spec) = &workload.spec else { return Ok(()) };
            let on: Vec<&String> = state.targets.keys().filter(|name| is_placed(state, workload, name)).collect();
            let runs = |name: &String| {
                let unit = workload.units.get(name);
                let current = unit.and_then(|unit| unit.generations.get(&unit.current?));
                current.is_some_and(|current| current.release == change.release)
            };
            let lags = |name: &String| {
                state.targets.get(name).is_some_and(|target| {
                    target.unreachable.is_some() && now.saturating_sub(target.unreachable_t) >= spec.placement.lag_after_ms
                })
            };
            let missing: Vec<&&String> = on.iter().filter(|name| !runs(name)).collect();
            let lagging = missing.iter().filter(|name| lags(name)).count();
            let total = u32::try_from(on.len()).unwrap_or(u32::MAX);
            let allowed =
                spec.placement.max_failed.down(total) as usize + lagging.min(spec.placement.max_lagging.down(total) as usize);
            if missing.len() == on.len() || missing.len() > allowed {
                return Err(Violation::NotDone(missing.len()));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn check_admission(
    state: &State,
    workload: &WorkloadState,
    draft: &Draft,
    release: &crate::ids::ReleaseId,
    values: &crate::ids::Digest,
    generation: GenNumber,
) -> Result<(), Violation> {
    let (Some(name), Some(request)) = (&draft.on.target, &workload.request) else {
        return Err(Violation::NotAdmitted);
    };
    let target = state.targets.get(name);
    let held = workload.frozen.is_some() || target.is_some_and(|target| target.frozen.is_some());
    let foreign = target.is_some_and(|target| matches!(target.claim, Claim::Conflict(_) | Claim::Ahead(_)));
    if held || !is_placed(state, workload, name) {
        return Err(Violation::NotAdmitted);
    }
    if foreign {
        return Err(Violation::Foreign);
    }
    if *release != request.release && !workload.proven.contains(release) {
        return Err(Violation::Unpinned);
    }
    if quarantined(workload, release, Some(values), request.attempt) {
        return Err(Violation::Quarantined);
    }
    let Some(unit) = workload.units.get(name) else { return Ok(()) };
    if unit.attempt.is_some() || unit.intent.is_some() {
        return Err(Violation::SecondIntent("attempt"));
    }
    if generation < unit.next_generation && !unit.parked.contains(&generation) {
        return Err(Violation::NotTheCandidate(generation));
    }
    Ok(())
}

//! Once faults have stopped: everything is on what is wanted, or it is decided and explained why not. Invariant 8: one
//! workload's failure is its own. Invariant 9: a way back needs neither Git nor the registry.

use super::Check;
use crate::daemon::Daemon;
use crate::options::{Feature, has};
use crate::registry::Quality;
use crate::scenario::Second;
use crate::weather::COPIED;
use crate::world::World;
use holdfast_core::engine::Engine;
use holdfast_core::entry::*;
use holdfast_core::ids::{FULL_SHARE, GenNumber, WorkloadId};
use holdfast_core::state::{Claim, UnitState, WorkloadState};
use holdfast_core::target::FaultClass;

/// The plan checker stalls a unit or a rollout where a planner is wrong.
pub fn check_engine(engine: &Engine) -> Check {
    for (id, workload) in &engine.state().workloads {
        if let Some(waiting) = engine.waiting(id, None).filter(|waiting| waiting.on == "stalled") {
            return Err(format!("invariant 8: {id} is stalled: {}", waiting.message));
        }
        for target in workload.units.keys() {
            if let Some(reason) = engine.unit_facts(id, target).and_then(|facts| facts.stalled.as_ref()) {
                return Err(format!("invariant 8: {id}@{target} is stalled: {reason}"));
            }
        }
    }
    Ok(())
}

pub fn at_rest(world: &World) -> Check {
    for (number, daemon) in world.daemons.iter().enumerate() {
        if daemon.stopped_for_good {
            continue;
        }
        if !daemon.runs() {
            return Err(format!("daemon {number} does not run"));
        }
        let tip = world.git.tip.map(|tip| world.git.commits[tip].id.clone());
        let source = daemon.engine.state().source.as_ref().map(|head| head.commit.clone());
        if source != tip {
            return Err(format!("daemon {number} is at commit {source:?}, the branch at {tip:?}"));
        }
        for (id, workload) in &daemon.engine.state().workloads {
            at_rest_here(world, daemon, id, workload).map_err(|error| format!("daemon {number}, {id}: {error}"))?;
        }
    }
    Ok(())
}

fn at_rest_here(world: &World, daemon: &Daemon, id: &WorkloadId, workload: &WorkloadState) -> Check {
    let state = daemon.engine.state();
    let mut excused = false;
    for (target, unit) in &workload.units {
        if is_excused(world, daemon, id, target) {
            excused = true;
            continue;
        }
        unit_at_rest(world, daemon, id, target, unit)?;
    }
    excused |= state
        .places(workload)
        .any(|place| is_excused(world, daemon, id, place.target));
    let placed: Vec<_> = state.places(workload).map(|place| place.target.clone()).collect();
    if placed.is_empty() {
        let kept = workload
            .units
            .iter()
            .filter(|(target, _)| state.target_spec(target).is_some());
        return match kept
            .filter(|(_, unit)| unit.phase != PhaseName::Absent)
            .find(|(target, _)| !is_excused(world, daemon, id, target))
        {
            Some((target, unit)) => Err(format!(
                "it is placed nowhere, and {:?} on {target}, waiting on {:?}",
                unit.phase,
                daemon.engine.waiting(id, Some(target))
            )),
            None => Ok(()),
        };
    }
    let waiting = daemon.engine.waiting(id, None);
    // With the registry gone for good, new bytes come to no target.
    let pinning = world.scenario.registry_lost && waiting.is_some_and(|waiting| matches!(waiting.on.as_str(), "pin" | "selection"))
        // Held, with the reason: what it replaces could not be pulled again.
        || waiting.is_some_and(|waiting| matches!(waiting.on.as_str(), "way-back" | "dependency"));
    let Some(request) = &workload.request else {
        return if excused || pinning {
            Ok(())
        } else {
            Err(format!("nothing was ever requested: {waiting:?}"))
        };
    };
    let explained = || match request.state {
        RolloutState::Refused => true,
        RolloutState::Halted | RolloutState::Aborted if workload.quarantine.contains_key(&request.release) => true,
        RolloutState::Halted if world.scenario.registry_lost && request.reason == "ImagePull" => true,
        RolloutState::Halted if request.reason == "exhausted" => world.scenario.places.values().any(|place| place.room.is_some()),
        RolloutState::Rolling if asked(workload, daemon, id) => true,
        _ => excused,
    };
    if request.id < workload.spec_seq && wants_something_else(world, workload) {
        return if excused || pinning {
            Ok(())
        } else {
            Err(format!("the newest manifest was not taken up: {waiting:?}"))
        };
    }
    if request.state != RolloutState::Succeeded && !explained() {
        return Err(format!(
            "the rollout is {:?} ({}: {}), waiting on {:?}",
            request.state,
            request.reason,
            request.message,
            daemon.engine.waiting(id, None)
        ));
    }
    if request.state == RolloutState::Succeeded && !excused {
        for target in &placed {
            let unit = workload.units.get(target);
            let runs = unit.and_then(|unit| unit.generations.get(&unit.current?));
            // A laggard that could not catch up waits for a person, and says why.
            let tried = unit.and_then(|unit| unit.last.as_ref()).is_some_and(|last| {
                last.request == request.id && matches!(last.outcome, AttemptOutcome::Bad | AttemptOutcome::CouldNotTry)
            });
            if !tried && runs.is_none_or(|generation| generation.release != request.release) {
                return Err(format!("{target} does not run the release that succeeded"));
            }
        }
    }
    Ok(())
}

/// Whether the newest manifest means another release than the one that was requested.
fn wants_something_else(world: &World, workload: &WorkloadState) -> bool {
    let (Some(spec), Some(request)) = (&workload.spec, &workload.request) else {
        return true;
    };
    let Some(release) = world.releases.get(&request.release) else {
        return true;
    };
    let pinned = spec.artifacts.keys().all(|name| {
        let pin = workload.reference(name).and_then(|reference| workload.pins.get(&reference));
        pin.is_some_and(|pin| release.artifacts.get(name) == Some(&pin.digest))
    });
    let same = pinned
        && release.template == spec.template
        && release.files == spec.files
        && release.secrets == spec.secrets
        && request.attempt == spec.attempt;
    !same
}

/// The target is not ours to touch, or not there.
fn is_excused(world: &World, daemon: &Daemon, id: &WorkloadId, target: &str) -> bool {
    let claimed = daemon.engine.state().targets.get(target).map(|target| &target.claim);
    let foreign = matches!(claimed, Some(Claim::Conflict(_) | Claim::Ahead(_)));
    let second = match world.scenario.second {
        Second::None => false,
        Second::OtherOwner | Second::OldCopy => foreign,
        // Two daemons of one name under one ledger's numbers: neither can know what the other did.
        Second::Twin => true,
    };
    // What hangs off the shared objects keeps them, whoever made it.
    let leaving = world.sites[target]
        .of(id.as_str())
        .generations
        .keys()
        .any(|number| *number > COPIED)
        && daemon
            .engine
            .state()
            .unit(id, target)
            .is_some_and(|unit| unit.phase == PhaseName::Leaving);
    // What a late launch left behind is found by looking for drift, and by nothing else; until then it is in the way.
    let held = world.sites[target].of(id.as_str());
    let unit = daemon.engine.state().unit(id, target);
    let known = |number: &GenNumber| unit.is_some_and(|unit| unit.generations.contains_key(number));
    let stray = !has(Feature::Drift) && !held.generations.keys().all(known);
    world.scenario.places.get(target).is_none_or(|place| place.lost_for_good) || second || stray || leaving
}

/// Some unit waits for a person's yes, and has said so.
fn asked(workload: &WorkloadState, daemon: &Daemon, id: &WorkloadId) -> bool {
    workload.units.keys().any(|target| {
        let waiting = daemon.engine.waiting(id, Some(target));
        waiting.is_some_and(|waiting| matches!(waiting.on.as_str(), "approval" | "decision" | "room"))
    })
}

fn unit_at_rest(world: &World, daemon: &Daemon, id: &WorkloadId, target: &str, unit: &UnitState) -> Check {
    let waiting = daemon.engine.waiting(id, Some(&target.to_owned()));
    let room = world.scenario.places[target].room.is_some();
    let refused = matches!(unit.last_fault, Some((FaultClass::Exhausted, _)));
    let held = world.sites[target].of(id.as_str());
    // On the way back the candidate makes room before anybody else has to.
    let candidate = unit.attempt.as_ref().filter(|_| unit.phase == PhaseName::Undoing);
    let gave_way = candidate.is_none_or(|attempt| !held.generations.contains_key(&attempt.generation));
    let no_room = room && gave_way && (refused || waiting.is_some_and(|waiting| waiting.on == "room"));
    let guarded = waiting.is_some_and(|waiting| matches!(waiting.on.as_str(), "heal-guard" | "approval" | "decision"));
    if (unit.intent.is_some() || unit.attempt.is_some()) && !no_room && !guarded {
        return Err(format!(
            "{target} did not come to rest: {:?}, waiting on {waiting:?}",
            unit.phase
        ));
    }
    if unit.intent.is_some() || unit.attempt.is_some() {
        return Ok(());
    }
    if daemon.engine.state().target_spec(target).is_none() || world.scenario.second == Second::Twin {
        return Ok(());
    }
    let shares = world.sites[target].shares(&held, world.now);
    // What somebody else made is for somebody else to remove.
    let ours = || held.generations.iter().filter(|(number, _)| **number <= COPIED);
    let there: Vec<GenNumber> = ours().map(|(number, _)| *number).collect();
    let mut expected: Vec<GenNumber> = unit.parked.iter().copied().chain(unit.current).collect();
    expected.sort_unstable();
    // Known-bad is not launched again, even where it is what was lost: a person decides.
    let lost_for_good = waiting.is_some_and(|waiting| waiting.on == "quarantined");
    if lost_for_good && !there.contains(&unit.current.unwrap_or(0)) {
        return Ok(());
    }
    if there != expected {
        return Err(format!(
            "{target} has generations {there:?}; current is {:?}, parked {:?}, waiting on {waiting:?}",
            unit.current, unit.parked
        ));
    }
    for (number, one) in ours() {
        let live = shares.get(number).copied().unwrap_or(0);
        let current = Some(*number) == unit.current;
        // Where the share follows the ready instances, it follows those of others too.
        let of_others: u32 = shares
            .iter()
            .filter(|(number, _)| **number > COPIED)
            .map(|(_, share)| share)
            .sum();
        if live != if current { FULL_SHARE - of_others } else { 0 } {
            return Err(format!(
                "{target}: generation {number} has share {live}; current is {:?}",
                unit.current
            ));
        }
        if (one.size > 0) != current {
            return Err(format!("{target}: generation {number} has size {}", one.size));
        }
        let bad = match one.quality {
            Quality::Unhealthy | Quality::Failing | Quality::NeverReady => true,
            Quality::Restarting => has(Feature::Punctual),
            Quality::Good | Quality::Erring | Quality::JobFails => false,
        };
        if current && bad {
            return Err(format!("invariant 3: {target}: a {:?} release serves", one.quality));
        }
    }
    Ok(())
}

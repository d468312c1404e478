//! Ways out as commands, and what ends a wait.

use super::{WorkloadView, awaited_step};
use crate::entry::{PhaseName, RolloutState};
use crate::state::{JobState, Request, State, WorkloadState};

/// Of what is not one workload's.
pub(super) fn of_all(state: &State) -> Vec<String> {
    let mut exits = Vec::new();
    let rewrite = state.source.as_ref().and_then(|head| head.rewrite.as_ref());
    exits.extend(rewrite.map(|commit| format!("holdfast accept-rewrite {commit}")));
    let frozen = state.targets.iter().filter(|(_, target)| target.frozen.is_some());
    exits.extend(frozen.map(|(name, _)| format!("holdfast thaw --target {name}")));
    if state.heal_guard.is_some() {
        exits.push("holdfast allow-heals".into());
    }
    exits
}

pub(super) fn of_workload(name: &str, workload: &WorkloadState) -> Vec<String> {
    let mut exits = Vec::new();
    if workload.frozen.is_some() {
        exits.push(format!("holdfast thaw {name}"));
    }
    if let Some(request) = &workload.request {
        of_request(name, workload, request, &mut exits);
    }
    let jobs = workload.jobs.values().flat_map(|jobs| jobs.values());
    if jobs.into_iter().any(JobState::is_lost) {
        add(&mut exits, format!("holdfast retry {name}"));
    }
    if workload.units.values().any(|unit| unit.held) {
        exits.push(format!("holdfast allow-removals {name}"));
    }
    exits
}

fn of_request(name: &str, workload: &WorkloadState, request: &Request, exits: &mut Vec<String>) {
    let quarantined = workload.quarantine.contains_key(&request.release);
    let at = |phases: &[PhaseName]| workload.units.values().any(|unit| phases.contains(&unit.phase));
    match request.state {
        RolloutState::Rolling | RolloutState::Holding if request.paused => exits.push(format!("holdfast resume {name}")),
        RolloutState::Rolling | RolloutState::Holding => {
            if awaited_step(workload).is_some() {
                exits.push(format!("holdfast approve {name}"));
            }
            exits.push(format!("holdfast pause {name}"));
            if request.state == RolloutState::Holding || at(&[PhaseName::Shifting, PhaseName::Baking]) {
                exits.push(format!("holdfast advance {name}"));
            }
        }
        RolloutState::Halted if quarantined => exits.push(format!("holdfast resume {name}")),
        RolloutState::Halted => exits.push(format!("holdfast retry {name}")),
        RolloutState::Refused if !quarantined => exits.push(format!("holdfast retry {name}")),
        _ => {}
    }
    let older = |unit: &crate::state::UnitState| {
        let attempt = unit.attempt.as_ref();
        attempt.is_some_and(|attempt| attempt.request != request.id)
    };
    if request.is_open() && !request.now && workload.units.values().any(older) {
        exits.push(format!("holdfast deploy {name} --now"));
    }
    if request.is_open() && request.state != RolloutState::Aborting {
        exits.push(format!("holdfast abort {name}"));
    }
    if request.state == RolloutState::Succeeded && workload.proven.len() > 1 {
        exits.push(format!("holdfast rollback {name}"));
    }
    if quarantined {
        exits.push(format!("holdfast quarantine lift {name} {}", request.release.short()));
    }
}

/// What the engine's waits add.
pub(super) fn add_waits(workload: &mut WorkloadView, name: &str) {
    let waits: Vec<&str> = workload
        .units
        .iter()
        .filter_map(|unit| unit.waiting.as_ref())
        .chain(&workload.waiting)
        .map(|wait| wait.on.as_str())
        .collect();
    let is_stalled = workload
        .units
        .iter()
        .any(|unit| unit.overlays.iter().any(|over| over.name == "stalled"));
    let waits_for_heals = waits.contains(&"heal-guard");
    if is_stalled {
        add(&mut workload.exits, format!("holdfast retry {name}"));
    }
    if waits_for_heals {
        add(&mut workload.exits, "holdfast allow-heals".into());
    }
}

fn add(exits: &mut Vec<String>, exit: String) {
    if !exits.contains(&exit) {
        exits.push(exit);
    }
}

/// What ends a wait on this word.
pub(super) fn end_of(on: &str, name: &str) -> String {
    match on {
        "approval" => format!("`holdfast approve {name}`"),
        "paused" => format!("`holdfast resume {name}`"),
        "frozen" => format!("`holdfast thaw {name}`, or of its target"),
        "suspended" => "a commit that takes `suspend` back".to_owned(),
        "heal-guard" => "`holdfast allow-heals`, or the end of the hour".to_owned(),
        "removal-guard" => format!("`holdfast allow-removals {name}`"),
        "job-lost" => format!("`holdfast retry {name}`, once somebody knows what the job did"),
        "stalled" => format!("`holdfast retry {name}`, once the cause is known"),
        "decision" => format!("`holdfast abort {name}` or `holdfast advance {name}`"),
        "hold" | "wave-hold" | "analysis" => format!("`holdfast advance {name}`, or its own end"),
        "conflict" => "the other owner's leaving the target".to_owned(),
        "ledger-loss" => "the operator, once the loss is looked into".to_owned(),
        "plugin" => "a binding in the operator's configuration".to_owned(),
        "placement" => "a target that the placement matches".to_owned(),
        "dependency" => "the other workload's going live".to_owned(),
        "way-back" => "artifacts that can be pulled again, or the operator's policy".to_owned(),
        "telemetry" => "counts that the new generation reports".to_owned(),
        "room" => "room on the target".to_owned(),
        "pin" | "selection" => "an answer of the registry".to_owned(),
        "check" | "call" | "diff" | "diagnosis" | "job" | "retry" | "target" => "an answer of the target".to_owned(),
        _ => String::new(),
    }
}

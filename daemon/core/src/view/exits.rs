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
        exits.extend(commands("heal-guard", ""));
    }
    exits
}

pub(super) fn of_workload(name: &str, workload: &WorkloadState) -> Vec<String> {
    let mut exits = Vec::new();
    if workload.frozen.is_some() {
        exits.extend(commands("frozen", name));
    }
    if let Some(request) = &workload.request {
        of_request(name, workload, request, &mut exits);
    }
    let jobs = workload.jobs.values().flat_map(|jobs| jobs.values());
    if jobs.into_iter().any(JobState::is_lost) {
        add(&mut exits, commands("job-lost", name));
    }
    if workload.units.values().any(|unit| unit.held) {
        exits.extend(commands("removal-guard", name));
    }
    exits
}

fn of_request(name: &str, workload: &WorkloadState, request: &Request, exits: &mut Vec<String>) {
    let quarantined = workload.quarantine.contains_key(&request.release);
    let at = |phases: &[PhaseName]| workload.units.values().any(|unit| phases.contains(&unit.phase));
    match request.state {
        RolloutState::Rolling | RolloutState::Holding if request.paused => exits.extend(commands("paused", name)),
        RolloutState::Rolling | RolloutState::Holding => {
            if awaited_step(workload).is_some() {
                exits.extend(commands("approval", name));
            }
            exits.push(format!("holdfast pause {name}"));
            if request.state == RolloutState::Holding || at(&[PhaseName::Shifting, PhaseName::Baking]) {
                exits.extend(commands("hold", name));
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
    // Who froze what is in State: of the workload, or of the target.
    let waits = waits.into_iter().filter(|on| *on != "frozen");
    let waits: Vec<String> = waits.flat_map(|on| commands(on, name)).collect();
    let is_stalled = workload
        .units
        .iter()
        .any(|unit| unit.overlays.iter().any(|over| over.name == "stalled"));
    add(&mut workload.exits, waits);
    if is_stalled {
        add(&mut workload.exits, commands("stalled", name));
    }
}

fn add(exits: &mut Vec<String>, more: Vec<String>) {
    for exit in more {
        if !exits.contains(&exit) {
            exits.push(exit);
        }
    }
}

/// The commands that end a wait on this word: every wait that a person can end is here, and only here.
fn commands(on: &str, name: &str) -> Vec<String> {
    let verbs: &[&str] = match on {
        "approval" => &["approve"],
        "paused" => &["resume"],
        "frozen" => &["thaw"],
        "removal-guard" => &["allow-removals"],
        "job-lost" | "stalled" => &["retry"],
        "decision" => &["abort", "advance"],
        "hold" | "wave-hold" | "bake" | "analysis" => &["advance"],
        "heal-guard" => return vec!["holdfast allow-heals".into()],
        _ => &[],
    };
    verbs.iter().map(|verb| format!("holdfast {verb} {name}")).collect()
}

/// What ends a wait on this word.
pub(super) fn end_of(on: &str, name: &str) -> String {
    let said: Vec<String> = commands(on, name).iter().map(|command| format!("`{command}`")).collect();
    let said = said.join(" or ");
    let otherwise = match on {
        "frozen" => ", or of its target",
        "heal-guard" => ", or the end of the hour",
        "job-lost" => ", once somebody knows what the job did",
        "stalled" => ", once the cause is known",
        "hold" | "wave-hold" | "bake" | "analysis" => ", or its own end",
        "suspended" => "a commit that takes `suspend` back",
        "conflict" => "the other owner's leaving the target",
        "ledger-loss" => "the operator, once the loss is looked into",
        "plugin" => "a binding in the operator's configuration",
        "dependency" => "the other workload's going live",
        "way-back" => "artifacts that can be pulled again, or the operator's policy",
        "telemetry" => "counts that the new generation reports",
        "room" => "room on the target",
        "pin" | "selection" => "an answer of the registry",
        "check" | "call" | "diff" | "diagnosis" | "job" | "retry" | "target" => "an answer of the target",
        _ => "",
    };
    said + otherwise
}

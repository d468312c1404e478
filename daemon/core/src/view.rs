//! What people see of State: two lines for each workload, Wanted and Running, every wait with since-when, and each way
//! out as a command. Plain data; the CLI draws it and `--json` prints it.

use crate::engine::Engine;
use crate::entry::{AttemptOutcome, PhaseName, Presence, RolloutState};
use crate::ids::{FULL_SHARE, Millis, deploy_id};
use crate::plan::Waiting;
use crate::state::{Claim, State, UnitState, WorkloadState};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// What the daemon is at: starting, ready or stopping. Empty without a daemon.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Entries in the ledger, and how many of them are durable.
    pub entries: u64,
    pub durable: u64,
    pub t: Millis,
    pub epoch: u64,
    pub owner: String,
    pub source: Option<SourceView>,
    pub targets: Vec<TargetView>,
    pub workloads: Vec<WorkloadView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceView {
    pub commit: String,
    pub summary: String,
    pub problems: Vec<String>,
    /// A rewritten tip that waits for a person.
    pub rewrite: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetView {
    pub name: String,
    pub plugin: String,
    /// ok, unseen, unreachable, conflict, ahead or orphaned.
    pub state: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadView {
    pub name: String,
    /// present, unknown or absent.
    pub presence: String,
    pub wanted: Option<WantedView>,
    pub waiting: Option<Waiting>,
    pub units: Vec<UnitView>,
    pub quarantine: Vec<QuarantineView>,
    pub moved_tags: Vec<MovedTagView>,
    /// What a person can do about it, as commands.
    pub exits: Vec<String>,
    /// Every unit runs what is wanted, or it is settled that it will not.
    pub settled: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WantedView {
    pub request: u64,
    pub release: String,
    pub commit: String,
    pub state: RolloutState,
    pub since: Millis,
    pub reason: String,
    pub message: String,
    pub paused: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitView {
    pub target: String,
    pub phase: PhaseName,
    pub since: Millis,
    /// What serves: generation, release.
    pub generation: Option<u32>,
    pub release: Option<String>,
    pub attempt: Option<AttemptView>,
    pub last: Option<LastView>,
    pub waiting: Option<Waiting>,
    pub held: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptView {
    pub deploy: String,
    pub generation: u32,
    pub release: String,
    /// In 1/10000.
    pub weight: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastView {
    pub deploy: String,
    pub release: String,
    pub outcome: AttemptOutcome,
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuarantineView {
    pub release: String,
    pub reason: String,
    pub message: String,
    pub entry: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MovedTagView {
    pub reference: String,
    pub pinned: String,
    pub seen: String,
}

/// With an engine, waits are known too.
pub fn status(engine: &Engine) -> StatusView {
    let mut view = of_state(engine.state());
    view.durable = engine.durable();
    view.t = engine.now().t;
    for workload in &mut view.workloads {
        let Ok(id) = crate::ids::WorkloadId::try_from(workload.name.clone()) else {
            continue;
        };
        workload.waiting = engine.waiting(&id, None).cloned();
        for unit in &mut workload.units {
            unit.waiting = engine.waiting(&id, Some(&unit.target)).cloned();
        }
        workload.settled = workload.settled && workload.waiting.is_none();
    }
    for target in &mut view.targets {
        if let Some(fault) = engine
            .target_facts(&target.name)
            .and_then(|facts| facts.last_failure.as_ref())
        {
            target.state = "unreachable".into();
            target.message = fault.message.clone();
        }
    }
    view
}

pub fn of_state(state: &State) -> StatusView {
    let source = state.source.as_ref().map(|head| SourceView {
        commit: head.commit.clone(),
        summary: head.summary.clone(),
        problems: head
            .problems
            .iter()
            .map(|p| format!("{}:{}:{}: {}", p.file, p.line, p.column, p.message))
            .collect(),
        rewrite: head.rewrite.clone(),
    });
    StatusView {
        state: String::new(),
        entries: state.size,
        durable: state.size,
        t: state.t,
        epoch: state.epoch,
        owner: state.owner.clone(),
        source,
        targets: state.targets.iter().map(|(name, target)| target_view(name, target)).collect(),
        workloads: state
            .workloads
            .iter()
            .map(|(id, workload)| workload_view(state, id.as_str(), id.name(), workload))
            .collect(),
    }
}

fn target_view(name: &str, target: &crate::state::TargetState) -> TargetView {
    let (state, message) = match (&target.claim, &target.unreachable, target.presence) {
        (Claim::Conflict(owner), _, _) => ("conflict", format!("belongs to owner {owner}; nothing there is touched")),
        (Claim::Ahead(fence), _, _) => (
            "ahead",
            format!("has seen fence {fence}, above this ledger's head: LEDGER_LOSS"),
        ),
        (_, Some(message), _) => ("unreachable", message.clone()),
        (_, _, Some(Presence::Absent)) => (
            "orphaned",
            "no manifest names it any more; what runs there is kept".to_owned(),
        ),
        (Claim::Unseen, None, _) => ("unseen", String::new()),
        (Claim::Ours, None, _) => ("ok", String::new()),
    };
    let plugin = target.spec.as_ref().map(|spec| spec.plugin.clone()).unwrap_or_default();
    TargetView {
        name: name.to_owned(),
        plugin,
        state: state.to_owned(),
        message,
    }
}

fn workload_view(state: &State, id: &str, name: &str, workload: &WorkloadState) -> WorkloadView {
    let wanted = workload.request.as_ref().map(|request| WantedView {
        request: request.id,
        release: request.release.to_string(),
        commit: request.commit.clone(),
        state: request.state,
        since: request.since,
        reason: request.reason.clone(),
        message: request.message.clone(),
        paused: request.paused,
    });
    let quarantine = workload.quarantine.iter().flat_map(|(release, all)| {
        all.last().map(|q| QuarantineView {
            release: release.to_string(),
            reason: q.reason.clone(),
            message: q.message.clone(),
            entry: q.seq,
        })
    });
    let moved = workload.pins.iter().filter_map(|(reference, pin)| {
        let seen = pin.moved_to.as_ref()?.to_string();
        Some(MovedTagView {
            reference: reference.clone(),
            pinned: pin.digest.to_string(),
            seen,
        })
    });
    let busy = workload.units.values().any(|unit| unit.attempt.is_some());
    let requested = workload
        .request
        .as_ref()
        .is_some_and(|request| request.id >= workload.spec_seq || !is_wish_new(workload));
    let decided = workload
        .request
        .as_ref()
        .is_some_and(|request| !matches!(request.state, RolloutState::Rolling | RolloutState::Aborting));
    let placed = state.placed(workload).count();
    WorkloadView {
        name: id.to_owned(),
        presence: match workload.presence {
            Some(Presence::Absent) => "absent",
            Some(Presence::Unknown) => "unknown",
            Some(Presence::Present) | None => "present",
        }
        .to_owned(),
        wanted,
        waiting: None,
        units: workload
            .units
            .iter()
            .map(|(target, unit)| unit_view(state, target, unit))
            .collect(),
        quarantine: quarantine.collect(),
        moved_tags: moved.collect(),
        exits: exits(name, workload),
        settled: !busy && ((requested && decided) || placed == 0),
    }
}

/// Whether the manifest says something that no request has taken up.
fn is_wish_new(workload: &WorkloadState) -> bool {
    let (Some(spec), Some(request)) = (&workload.spec, &workload.request) else {
        return true;
    };
    let digests: Option<std::collections::BTreeMap<_, _>> = spec
        .artifacts
        .keys()
        .map(|name| Some((name.clone(), workload.pins.get(&workload.reference(name)?)?.digest.clone())))
        .collect();
    digests.is_none_or(|digests| {
        crate::release::Release::from_spec(spec, &digests).id() != request.release || spec.attempt != request.attempt
    })
}

fn unit_view(state: &State, target: &str, unit: &UnitState) -> UnitView {
    let current = unit.current.and_then(|number| unit.generations.get(&number));
    UnitView {
        target: target.to_owned(),
        phase: unit.phase,
        since: unit.phase_t,
        generation: unit.current,
        release: current.map(|generation| generation.release.to_string()),
        attempt: unit.attempt.as_ref().map(|attempt| AttemptView {
            deploy: deploy_id(state.epoch, attempt.id),
            generation: attempt.generation,
            release: attempt.release.to_string(),
            weight: if matches!(unit.phase, PhaseName::Baking | PhaseName::Retiring) {
                FULL_SHARE
            } else {
                attempt.weight
            },
        }),
        last: unit.last.as_ref().map(|last| LastView {
            deploy: deploy_id(state.epoch, last.id),
            release: last.release.to_string(),
            outcome: last.outcome,
            reason: last.reason.clone(),
            message: last.message.clone(),
        }),
        waiting: None,
        held: unit.held,
    }
}

fn exits(name: &str, workload: &WorkloadState) -> Vec<String> {
    let mut exits = Vec::new();
    if let Some(request) = &workload.request {
        match request.state {
            RolloutState::Rolling if request.paused => exits.push(format!("holdfast resume {name}")),
            RolloutState::Rolling => {
                exits.push(format!("holdfast pause {name}"));
                if workload
                    .units
                    .values()
                    .any(|unit| matches!(unit.phase, PhaseName::Shifting | PhaseName::Baking))
                {
                    exits.push(format!("holdfast advance {name}"));
                }
            }
            RolloutState::Halted => exits.push(format!("holdfast resume {name}")),
            _ => {}
        }
        if request.is_open() {
            exits.push(format!("holdfast abort {name}"));
        }
        if request.state == RolloutState::Succeeded && workload.proven.len() > 1 {
            exits.push(format!("holdfast rollback {name}"));
        }
        if workload.quarantine.contains_key(&request.release) {
            exits.push(format!("holdfast quarantine lift {name} {}", request.release.short()));
        }
    }
    if workload.units.values().any(|unit| unit.held) {
        exits.push(format!("holdfast allow-removals {name}"));
    }
    exits
}

//! One unit: what serves on a target, what is brought there, and what lies over it.

use super::WaitView;
use crate::entry::{AttemptOutcome, DriftKind, PhaseName, Presence};
use crate::ids::{FULL_SHARE, Millis, deploy_id};
use crate::state::{Claim, State, UnitState, WorkloadState};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitView {
    pub target: String,
    pub phase: PhaseName,
    pub since: Millis,
    /// What serves: generation, release, its share in 1/10000, and since when it is there.
    pub generation: Option<u32>,
    pub release: Option<String>,
    #[serde(default)]
    pub weight: u32,
    #[serde(default)]
    pub running_since: Option<Millis>,
    /// Kept at size 0 for a way back, oldest first.
    #[serde(default)]
    pub parked: Vec<ParkedView>,
    pub attempt: Option<AttemptView>,
    pub last: Option<LastView>,
    pub waiting: Option<WaitView>,
    pub held: bool,
    #[serde(default)]
    pub drift: Option<DriftView>,
    /// Unreachable, lagging, conflict, ahead, orphaned, frozen, stalled.
    #[serde(default)]
    pub overlays: Vec<OverlayView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParkedView {
    pub generation: u32,
    pub release: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptView {
    pub deploy: String,
    pub generation: u32,
    pub release: String,
    /// In 1/10000.
    pub weight: u32,
    #[serde(default)]
    pub began: Millis,
    /// The same release again, in place of what drifted.
    #[serde(default)]
    pub heal: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastView {
    pub deploy: String,
    pub release: String,
    pub outcome: AttemptOutcome,
    pub reason: String,
    pub message: String,
    #[serde(default)]
    pub ended: Millis,
    /// The last log lines of what failed, from the ledger.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriftView {
    pub what: DriftKind,
    pub seen: String,
    pub since: Millis,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverlayView {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Millis>,
}

pub(super) fn unit_view(state: &State, workload: &WorkloadState, target: &str, unit: &UnitState) -> UnitView {
    let current = unit.current.and_then(|number| unit.generations.get(&number));
    let attempt = unit.attempt.as_ref().map(|attempt| AttemptView {
        deploy: deploy_id(state.epoch, attempt.id),
        generation: attempt.generation,
        release: attempt.release.to_string(),
        weight: if matches!(unit.phase, PhaseName::Baking | PhaseName::Retiring) {
            FULL_SHARE
        } else {
            attempt.weight
        },
        began: attempt.began,
        heal: attempt.heal,
    });
    UnitView {
        target: target.to_owned(),
        phase: unit.phase,
        since: unit.phase_t,
        generation: unit.current,
        release: current.map(|generation| generation.release.to_string()),
        weight: current.map_or(0, |_| {
            FULL_SHARE.saturating_sub(attempt.as_ref().map_or(0, |attempt| attempt.weight))
        }),
        running_since: current.map(|generation| generation.since),
        parked: unit
            .parked
            .iter()
            .filter_map(|number| {
                Some(ParkedView {
                    generation: *number,
                    release: unit.generations.get(number)?.release.to_string(),
                })
            })
            .collect(),
        attempt,
        last: unit.last.as_ref().map(|last| LastView {
            deploy: deploy_id(state.epoch, last.id),
            release: last.release.to_string(),
            outcome: last.outcome,
            reason: last.reason.clone(),
            message: last.message.clone(),
            ended: last.t,
            log: Vec::new(),
        }),
        waiting: None,
        held: unit.held,
        drift: unit.drift.as_ref().map(|drift| DriftView {
            what: drift.what,
            seen: drift.seen.clone(),
            since: drift.t,
        }),
        overlays: overlays(state, workload, target, unit),
    }
}

/// What keeps the unit from going on that is not its own doing.
fn overlays(state: &State, workload: &WorkloadState, target: &str, unit: &UnitState) -> Vec<OverlayView> {
    let Some(here) = state.targets.get(target) else {
        return Vec::new();
    };
    let mut overlays = Vec::new();
    let mut add = |name: &str, message: String, since: Option<Millis>| {
        overlays.push(OverlayView {
            name: name.to_owned(),
            message,
            since,
        });
    };
    match &here.claim {
        Claim::Conflict(owner) => add("conflict", format!("owner {owner} has it"), None),
        Claim::Ahead(fence) => add("ahead", format!("it has seen fence {fence}"), None),
        Claim::Unseen | Claim::Ours => {}
    }
    if let Some(message) = &here.unreachable {
        let lag_after = workload.spec.as_ref().map(|spec| spec.placement.lag_after_ms);
        let away_ms = state.t.saturating_sub(here.unreachable_t);
        let wants_more = workload.request.as_ref().is_some_and(|request| {
            let current = unit.current.and_then(|number| unit.generations.get(&number));
            request.is_open() && current.is_none_or(|current| current.release != request.release)
        });
        let lags = wants_more && lag_after.is_some_and(|lag_after| away_ms >= lag_after);
        let name = if lags { "lagging" } else { "unreachable" };
        add(name, message.clone(), Some(here.unreachable_t));
    }
    if here.presence == Some(Presence::Absent) && !unit.generations.is_empty() {
        add(
            "orphaned",
            "no manifest names the target any more; what runs is kept".into(),
            None,
        );
    }
    if let Some(frozen) = &here.frozen {
        add("frozen", format!("by {}: {}", frozen.by, frozen.reason), Some(frozen.t));
    }
    overlays
}

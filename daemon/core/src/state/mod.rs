//! State: the only memory. `fold` over the ledger's entries is the only way it changes, so a crash loses nothing that
//! was acknowledged and a snapshot is no more than a shorter way to the same value.

mod fold;
mod target;
mod unit;
mod workload;

pub use target::{Claim, KnownTarget, TargetState};
pub use unit::{AttemptState, DriftState, GenState, LastAttempt, OpenIntent, UnitState};
pub use workload::{
    ApprovalState, INCIDENTS_MAX, JobOutcome, JobState, PinState, QuarantineState, ReleaseState, Request, SelectionState,
    WorkloadState, job_key,
};

use crate::entry::SourceProblem;
use crate::ids::{Digest, Millis, ReleaseId, Seq, TargetName, WorkloadId, fence};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Sequence number of the next entry.
    pub size: Seq,
    pub t: Millis,
    pub epoch: u64,
    pub term: Seq,
    pub owner: String,
    pub source: Option<SourceHead>,
    /// The tip, when nothing of it was taken because of its signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untrusted: Option<UntrustedTip>,
    pub targets: BTreeMap<TargetName, TargetState>,
    pub workloads: BTreeMap<WorkloadId, WorkloadState>,
    pub command_keys: Vec<String>,
    /// When drift was healed, within the last hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heals: Vec<Millis>,
    /// The limit on heals was reached: since this entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heal_guard: Option<Seq>,
    /// Plugins that ever drove something here, by digest: the ledger holds each as a blob.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plugins: BTreeMap<Digest, String>,
    /// How the log's key changed, oldest first: the last `LOG_KEYS_KEPT` times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_keys: Vec<LogKeyChange>,
    /// Bundles of entries below are not published any more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bundles_from: Seq,
    /// By name, the version whose wants were accepted last: an upgrade is held against it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub accepted_plugins: BTreeMap<String, Digest>,
}

fn is_zero(seq: &Seq) -> bool {
    *seq == 0
}

/// Far more than can happen before the next checkpoint is published.
pub const LOG_KEYS_KEPT: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogKeyChange {
    pub seq: Seq,
    /// The signed note of the entry.
    pub note: String,
}

/// A target that a workload is placed on, and what is there of it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub target: &'a TargetName,
    pub state: &'a TargetState,
    pub spec: &'a KnownTarget,
    pub unit: Option<&'a UnitState>,
}

impl Place<'_> {
    /// Whether the current generation is this release with the values that the target has now.
    pub fn runs(&self, release: &ReleaseId) -> bool {
        let current = self.unit.and_then(UnitState::current);
        current.is_some_and(|current| current.release == *release && current.captured == *self.spec.captured())
    }
}

/// Nothing new begins here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    pub seq: Seq,
    pub by: String,
    pub reason: String,
    pub t: Millis,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceHead {
    pub seq: Seq,
    pub commit: String,
    pub summary: String,
    pub t: Millis,
    pub problems: Vec<SourceProblem>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub contributors: BTreeSet<String>,
    /// A tip that is no fast-forward: not taken until a person says so.
    pub rewrite: Option<String>,
    /// A rewritten tip that a person said yes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UntrustedTip {
    pub commit: String,
    pub verdict: String,
    pub t: Millis,
}

impl State {
    pub fn fence(&self, seq: Seq) -> u64 {
        fence(self.epoch, seq)
    }

    pub fn is_ahead_of(&self, fence: u64) -> bool {
        fence < self.fence(self.size)
    }

    pub fn unit(&self, workload: &WorkloadId, target: &str) -> Option<&UnitState> {
        self.workloads.get(workload)?.units.get(target)
    }

    pub fn target_spec(&self, name: &str) -> Option<&KnownTarget> {
        self.targets.get(name)?.present()
    }

    /// Targets that the workload's manifest places it on, in name order, with what is there of it.
    pub fn places<'a>(&'a self, workload: &'a WorkloadState) -> impl Iterator<Item = Place<'a>> {
        let placement = workload.placement();
        // Both are in name order, so no target is looked up among the units.
        let mut units = workload.units.iter().peekable();
        self.targets.iter().filter_map(move |(name, state)| {
            let spec = state.present()?;
            if !placement?.includes(name, &spec.labels) {
                return None;
            }
            while units.next_if(|(at, _)| *at < name).is_some() {}
            let unit = units.next_if(|(at, _)| *at == name).map(|(_, unit)| unit);
            Some(Place {
                target: name,
                state,
                spec,
                unit,
            })
        })
    }

    /// Whether the workload's manifest places it on this target.
    pub fn is_placed(&self, workload: &WorkloadState, target: &str) -> bool {
        let spec = self.target_spec(target);
        workload
            .placement()
            .zip(spec)
            .is_some_and(|(placement, spec)| placement.includes(target, &spec.labels))
    }
}

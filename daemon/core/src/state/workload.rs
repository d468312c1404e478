//! What is remembered of one workload: its manifest, pins, request, releases and jobs.

use super::{Frozen, UnitState};
use crate::entry::{Presence, RolloutState};
use crate::ids::{Digest, Millis, ReleaseId, Seq, TargetName};
use crate::spec::{ArtifactSpec, JobRef, JobScope, Placement, Selector, WorkloadSpec};
use crate::target::Hook;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Of one workload, open at the same time.
pub const INCIDENTS_MAX: usize = 100;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkloadState {
    pub spec: Option<WorkloadSpec>,
    pub spec_seq: Seq,
    /// When its manifest last changed or went.
    #[serde(default)]
    pub changed_t: Millis,
    pub commit: String,
    /// Who wrote the revision that the spec is of.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub contributors: BTreeSet<String>,
    pub presence: Option<Presence>,
    pub pins: BTreeMap<String, PinState>,
    /// Artifact name to the tag that its selector took last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selections: BTreeMap<String, SelectionState>,
    /// References that a command wants resolved anew, and the command.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub repins: BTreeMap<String, Seq>,
    /// The last pin that a command asked for: a wish as new as this.
    #[serde(default)]
    pub repinned: Seq,
    /// Release, then `HOOK/JOB` or `HOOK/JOB@TARGET`: what became of it. Kept for the workload's life: never twice.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub jobs: BTreeMap<ReleaseId, BTreeMap<String, JobState>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Frozen>,
    /// Deploys with an open incident.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub incidents: BTreeSet<String>,
    pub request: Option<Request>,
    pub releases: BTreeMap<ReleaseId, ReleaseState>,
    pub quarantine: BTreeMap<ReleaseId, Vec<QuarantineState>>,
    /// Releases that became stable on every target, newest last.
    pub proven: Vec<ReleaseId>,
    pub units: BTreeMap<TargetName, UnitState>,
}

impl WorkloadState {
    /// Where its manifest wants it, unless it was removed from Git.
    pub fn placement(&self) -> Option<&Placement> {
        let spec = self.spec.as_ref().filter(|_| self.presence != Some(Presence::Absent))?;
        Some(&spec.placement)
    }

    /// Whether a release must stay out of a target with these captured values.
    pub fn quarantined(&self, release: &ReleaseId, captured: &Digest, attempt: u32) -> Option<&QuarantineState> {
        self.quarantine
            .get(release)?
            .iter()
            .find(|q| q.attempt >= attempt && q.values.as_ref().is_none_or(|values| values == captured))
    }

    /// The manifest's `attempt` number that a request for this release has, or 1.
    pub fn attempt_number(&self) -> u32 {
        self.request.as_ref().map_or(1, |request| request.attempt)
    }

    /// The entry that made the newest wish: a spec, a selection or a repin.
    pub fn wish_seq(&self) -> Seq {
        let wanted = self.spec.iter().flat_map(|spec| spec.artifacts.keys());
        let selected = wanted.filter_map(|name| Some(self.selections.get(name)?.seq)).max();
        self.spec_seq.max(self.repinned).max(selected.unwrap_or(0))
    }

    /// The reference text of an artifact, where it is named or was selected by the selector that the spec has now.
    pub fn reference(&self, name: &str) -> Option<String> {
        match self.spec.as_ref()?.artifacts.get(name)? {
            ArtifactSpec::Reference(text) => Some(text.clone()),
            ArtifactSpec::Select { repository, select } => {
                let chosen = self.selections.get(name)?;
                (chosen.repository == *repository && chosen.select == *select).then(|| chosen.reference())
            }
        }
    }

    pub fn job(&self, release: &ReleaseId, key: &str) -> Option<&JobState> {
        self.jobs.get(release)?.get(key)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinState {
    pub digest: Digest,
    pub seq: Seq,
    pub images: Option<Digest>,
    /// Where the artifact is kept, without tag or digest.
    pub source: String,
    /// Where the tag points now, when that is elsewhere.
    pub moved_to: Option<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectionState {
    pub repository: String,
    pub select: Selector,
    pub tag: String,
    pub seq: Seq,
}

impl SelectionState {
    /// The reference text that the selection stands for.
    pub fn reference(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState {
    pub outcome: JobOutcome,
    /// Where it runs or ran.
    pub target: TargetName,
    /// Its intent.
    pub seq: Seq,
    /// The manifest's `attempt` number at the time: a failed job is tried again under a higher one.
    pub attempt: u32,
    /// Which run of the job it is, from 1.
    #[serde(default)]
    pub run: u32,
    /// It was lost, and a person said to run it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    pub t: Millis,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl JobState {
    /// It was lost, and nobody has said yet what to do about it.
    pub fn is_lost(&self) -> bool {
        self.outcome == JobOutcome::Lost && !self.again
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobOutcome {
    Running,
    Done,
    Failed,
    /// Begun, and the target knows nothing of it: a person decides.
    Lost,
}

/// The key of a job in `WorkloadState::jobs`.
pub fn job_key(hook: Hook, job: &str, scope: JobScope, target: &str) -> String {
    match scope {
        JobScope::Placement => format!("{}/{job}", hook.as_str()),
        JobScope::Target => format!("{}/{job}@{target}", hook.as_str()),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalState {
    pub step: u32,
    pub approver: String,
    pub seq: Seq,
}

/// The wish that the workload's units serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The entry that made it: a spec or a command.
    pub id: Seq,
    pub release: ReleaseId,
    /// The manifest's `attempt` number when it was made.
    pub attempt: u32,
    pub commit: String,
    pub state: RolloutState,
    pub since: Millis,
    pub began: Millis,
    /// The last `rollout` entry of this request.
    pub seq: Seq,
    pub reason: String,
    pub message: String,
    pub paused: bool,
    /// Failures before this entry no longer halt it: somebody said `resume` or `retry`.
    pub resumed: Seq,
    /// The wave that is rolling or held, from 0.
    #[serde(default)]
    pub wave: u32,
    /// Units at an older request drop it at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<ApprovalState>,
    /// The last `advance`: a wave's hold that began before it is over.
    #[serde(default)]
    pub advanced: Seq,
    /// Who wrote what it deploys.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub contributors: BTreeSet<String>,
}

impl Request {
    pub fn is_open(&self) -> bool {
        matches!(
            self.state,
            RolloutState::Rolling | RolloutState::Holding | RolloutState::Halted | RolloutState::Aborting
        )
    }

    /// Different people who said yes to this step.
    pub fn approvers(&self, step: u32) -> BTreeSet<&str> {
        let of_step = self.approvals.iter().filter(|approval| approval.step == step);
        of_step.map(|approval| approval.approver.as_str()).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseState {
    pub artifacts: BTreeMap<String, Digest>,
    pub sources: BTreeMap<String, String>,
    /// Artifact name to the blob that lists its per-platform images.
    pub images: BTreeMap<String, Digest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<JobRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<JobRef>,
}

impl ReleaseState {
    pub fn jobs(&self, hook: Hook) -> &[JobRef] {
        match hook {
            Hook::Before => &self.before,
            Hook::After => &self.after,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineState {
    pub attempt: u32,
    pub values: Option<Digest>,
    pub seq: Seq,
    pub reason: String,
    pub message: String,
}

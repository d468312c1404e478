//! State: the only memory. `fold` over the ledger's entries is the only way it changes, so a crash loses nothing that
//! was acknowledged and a snapshot is no more than a shorter way to the same value.
//!
//! `fold` is total: an entry that makes no sense here changes nothing but the head.

use crate::entry::*;
use crate::ids::{Digest, GenNumber, Millis, ReleaseId, Seq, TargetName, WorkloadId, fence};
use crate::spec::{ArtifactSpec, JobRef, JobScope, Selector, TargetSpec, WorkloadSpec};
use crate::target::{Abilities, FaultClass, Hook, PluginRef, Verb};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Releases that stay eligible for a way back, newest last.
const PROVEN_KEPT: usize = 16;
/// Proofs of a unit that are remembered.
const UNIT_PROVEN_KEPT: usize = 8;
/// Idempotency keys of commands that are remembered.
const COMMAND_KEYS_KEPT: usize = 256;
const HOUR_MS: Millis = 3_600_000;
/// Times of heals that are remembered, for the guard on all of them.
const HEALS_KEPT: usize = 1_000;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Sequence number of the next entry.
    pub size: Seq,
    pub t: Millis,
    pub epoch: u64,
    pub term: Seq,
    pub owner: String,
    pub source: Option<SourceHead>,
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

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetState {
    pub spec: Option<TargetSpec>,
    pub presence: Option<Presence>,
    pub seq: Seq,
    /// When its manifest last changed or went.
    #[serde(default)]
    pub changed_t: Millis,
    pub claim: Claim,
    pub unreachable: Option<String>,
    /// Ledger time at which it was written down that the target is away.
    #[serde(default)]
    pub unreachable_t: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Frozen>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    #[default]
    Unseen,
    Ours,
    Conflict(String),
    /// It has seen this fence, which is above our head.
    Ahead(u64),
}

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
    pub request: Option<Request>,
    pub releases: BTreeMap<ReleaseId, ReleaseState>,
    pub quarantine: BTreeMap<ReleaseId, Vec<QuarantineState>>,
    /// Releases that became stable on every target, newest last.
    pub proven: Vec<ReleaseId>,
    pub units: BTreeMap<TargetName, UnitState>,
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
    pub t: Millis,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    pub next_generation: GenNumber,
    pub generations: BTreeMap<GenNumber, GenState>,
    pub current: Option<GenNumber>,
    pub phase: PhaseName,
    pub phase_t: Millis,
    pub attempt: Option<AttemptState>,
    pub last: Option<LastAttempt>,
    pub intent: Option<OpenIntent>,
    /// The last `result` entry: an observation counts only if it was begun after it.
    pub last_result: Seq,
    /// Faults in a row since the last verb that was done.
    pub faults: u32,
    pub last_fault: Option<(FaultClass, String)>,
    pub last_fault_t: Millis,
    /// It would leave, but its revision removes more than the limit allows.
    pub held: bool,
    /// Generations kept at size 0 for a way back, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parked: Vec<GenNumber>,
    /// When drift here was healed, within the last hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heals: Vec<Millis>,
    /// What was written down about drift and is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftState>,
    /// The limit on heals of this unit was reached: since this entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heal_guard: Option<Seq>,
    /// What was proven here, with the target's captured values and config; newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proven: Vec<(ReleaseId, Digest)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftState {
    pub what: DriftKind,
    pub seen: String,
    pub seq: Seq,
    pub t: Millis,
}

impl Default for UnitState {
    fn default() -> Self {
        Self {
            next_generation: 1,
            generations: BTreeMap::new(),
            current: None,
            phase: PhaseName::Absent,
            phase_t: 0,
            attempt: None,
            last: None,
            intent: None,
            last_result: 0,
            faults: 0,
            last_fault: None,
            last_fault_t: 0,
            held: false,
            parked: Vec::new(),
            heals: Vec::new(),
            drift: None,
            heal_guard: None,
            proven: Vec::new(),
        }
    }
}

impl UnitState {
    pub fn has_proven(&self, release: &ReleaseId, captured: &Digest) -> bool {
        self.proven.iter().any(|(r, c)| r == release && c == captured)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenState {
    pub release: ReleaseId,
    /// Blob of the target's `config` and `values` as captured by the attempt.
    pub captured: Digest,
    pub plugin: PluginRef,
    pub attempt: Seq,
    pub commit: String,
    /// A launch intent exists: something may be on the target.
    pub launched: bool,
    pub fingerprint: String,
    pub since: Millis,
    /// The size that it was given last.
    #[serde(default)]
    pub size: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abilities: Option<Abilities>,
}

impl GenState {
    pub fn can(&self) -> Abilities {
        self.abilities.clone().unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptState {
    /// The entry that began it.
    pub id: Seq,
    pub request: Seq,
    pub release: ReleaseId,
    pub captured: Digest,
    pub generation: GenNumber,
    pub old: Option<GenNumber>,
    pub began: Millis,
    pub launch_t: Millis,
    /// A launch was answered with done.
    pub launched: bool,
    /// The weight that was read back, and since when.
    pub weight: u32,
    pub weight_t: Millis,
    /// Hold and analysis are over at this weight.
    pub passed: Option<u32>,
    /// A bad verdict that waits for a person (`rollback: manual`).
    pub judged: Option<(String, String)>,
    /// With phase undoing: how it will end.
    pub undo: Option<(AttemptOutcome, String, String)>,
    pub explained: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abilities: Option<Abilities>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revived: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub heal: bool,
}

impl AttemptState {
    /// What this release can do here. An attempt from before abilities were recorded was admitted for the whole of them.
    pub fn can(&self) -> Abilities {
        self.abilities.clone().unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastAttempt {
    pub id: Seq,
    pub request: Seq,
    pub release: ReleaseId,
    pub captured: Digest,
    pub outcome: AttemptOutcome,
    pub reason: String,
    pub message: String,
    pub t: Millis,
    /// The entry that ended it.
    pub seq: Seq,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenIntent {
    pub seq: Seq,
    pub verb: Verb,
    pub plugin: PluginRef,
    pub tries: u32,
    pub since: Millis,
    pub last_t: Millis,
    pub last_fault: Option<(FaultClass, String)>,
}

impl WorkloadState {
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

    /// Target present, not removed from Git.
    pub fn target_spec(&self, name: &str) -> Option<&TargetSpec> {
        self.targets
            .get(name)
            .filter(|target| target.presence != Some(Presence::Absent))?
            .spec
            .as_ref()
    }

    /// Targets that the workload's manifest places it on, in name order.
    pub fn placed<'a>(&'a self, workload: &'a WorkloadState) -> impl Iterator<Item = (&'a TargetName, &'a TargetSpec)> {
        let spec = workload.spec.as_ref().filter(|_| workload.presence != Some(Presence::Absent));
        self.targets.keys().filter_map(move |name| {
            let target = self.target_spec(name)?;
            spec?.placement.includes(name, &target.labels).then_some((name, target))
        })
    }

    pub fn fold(&mut self, entry: &Entry) {
        self.size = entry.seq + 1;
        self.t = self.t.max(entry.t);
        match &entry.body {
            Body::Term(term) => {
                self.term = entry.seq;
                self.epoch = term.epoch;
                self.owner = term.owner.clone();
            }
            Body::Source(source) => self.fold_source(entry, source),
            Body::Spec(spec) => self.fold_spec(entry, spec),
            Body::Target(change) => self.fold_target(entry, change),
            Body::Command(command) => self.fold_command(entry, command),
            Body::Plugin(plugin) => {
                self.plugins.insert(plugin.digest.clone(), plugin.name.clone());
            }
            Body::Clock(_) => {}
            Body::Guard(guard) => match &entry.on.workload {
                Some(_) => self.fold_workload(entry),
                None if guard.class == "heals-per-hour" => self.heal_guard = Some(entry.seq),
                None => {}
            },
            Body::Pin(_)
            | Body::TagMoved(_)
            | Body::Selection(_)
            | Body::Drift(_)
            | Body::Rollout(_)
            | Body::Attempt(_)
            | Body::Intent(_)
            | Body::Result(_)
            | Body::Verdict(_)
            | Body::Quarantine(_) => {
                if let Body::Drift(drift) = &entry.body
                    && drift.answer.counts()
                {
                    remember_heal(&mut self.heals, entry.t);
                }
                self.fold_workload(entry);
            }
        }
    }

    fn fold_workload(&mut self, entry: &Entry) {
        if let Some(workload) = entry.on.workload.as_ref() {
            self.workloads.entry(workload.clone()).or_default().fold(entry);
        }
    }

    fn fold_source(&mut self, entry: &Entry, source: &Source) {
        if source.adopted {
            self.source = Some(SourceHead {
                seq: entry.seq,
                commit: source.new.clone(),
                summary: source.summary.clone(),
                t: entry.t,
                problems: source.problems.clone(),
                contributors: source.contributors.clone(),
                rewrite: None,
                accepted: None,
            });
        } else if let Some(head) = &mut self.source {
            head.rewrite = Some(source.new.clone());
        }
        for held in &source.held {
            if let Some(unit) = self
                .workloads
                .get_mut(&held.workload)
                .and_then(|w| w.units.get_mut(&held.target))
            {
                unit.held = true;
            }
        }
    }

    fn fold_spec(&mut self, entry: &Entry, spec: &Spec) {
        let contributors = self.source.as_ref().map(|head| head.contributors.clone()).unwrap_or_default();
        match (&spec.object, &entry.on.workload, &entry.on.target) {
            (SpecObject::Workload { presence, spec: content }, Some(id), _) => {
                let workload = self.workloads.entry(id.clone()).or_default();
                workload.changed_t = entry.t;
                workload.presence = Some(*presence);
                if let Some(content) = content {
                    // Pins of texts that no manifest names any more stay: going back to the old text returns the old pin.
                    workload.spec = Some(content.clone());
                    workload.spec_seq = entry.seq;
                    workload.commit = spec.commit.clone();
                    workload.contributors = contributors;
                    workload.units.values_mut().for_each(|unit| unit.held = false);
                }
            }
            (SpecObject::Target { presence, spec: content }, _, Some(name)) => {
                let target = self.targets.entry(name.clone()).or_default();
                target.changed_t = entry.t;
                target.presence = Some(*presence);
                target.seq = entry.seq;
                if let Some(content) = content {
                    target.spec = Some(content.clone());
                }
            }
            _ => {}
        }
    }

    fn fold_target(&mut self, entry: &Entry, change: &TargetChange) {
        let Some(name) = &entry.on.target else { return };
        let target = self.targets.entry(name.clone()).or_default();
        match change {
            TargetChange::Claimed => target.claim = Claim::Ours,
            TargetChange::Conflict { owner } => target.claim = Claim::Conflict(owner.clone()),
            TargetChange::Ahead { fence } => target.claim = Claim::Ahead(*fence),
            TargetChange::Unreachable { message } => {
                target.unreachable = Some(message.clone());
                target.unreachable_t = entry.t;
            }
            TargetChange::Reachable => target.unreachable = None,
        }
    }

    fn fold_command(&mut self, entry: &Entry, command: &Command) {
        self.command_keys.push(command.key.clone());
        if self.command_keys.len() > COMMAND_KEYS_KEPT {
            self.command_keys.remove(0);
        }
        if let (CommandVerb::AcceptRewrite { commit }, Some(head)) = (&command.verb, &mut self.source) {
            head.accepted = Some(commit.clone());
        }
        if let CommandVerb::AllowRemovals { workloads } = &command.verb {
            for id in workloads {
                if let Some(workload) = self.workloads.get_mut(id) {
                    workload.units.values_mut().for_each(|unit| unit.held = false);
                }
            }
        }
        let frozen = || Frozen {
            seq: entry.seq,
            by: entry.by.id.clone(),
            reason: command.reason.clone(),
            t: entry.t,
        };
        match (&command.verb, &entry.on.workload, &entry.on.target) {
            (CommandVerb::Freeze, None, Some(name)) => self.targets.entry(name.clone()).or_default().frozen = Some(frozen()),
            (CommandVerb::Thaw, None, Some(name)) => self.targets.entry(name.clone()).or_default().frozen = None,
            (CommandVerb::AllowHeals, _, _) => {
                self.heals.clear();
                self.heal_guard = None;
                for unit in self.workloads.values_mut().flat_map(|w| w.units.values_mut()) {
                    unit.heals.clear();
                    unit.heal_guard = None;
                }
            }
            (verb, Some(id), _) => {
                if let Some(workload) = self.workloads.get_mut(id) {
                    workload.fold_command(entry, verb, frozen());
                }
            }
            _ => {}
        }
    }
}

/// Adds one time and lets those go that are older than an hour.
fn remember_heal(heals: &mut Vec<Millis>, t: Millis) {
    heals.retain(|then| then + HOUR_MS > t);
    heals.push(t);
    if heals.len() > HEALS_KEPT {
        heals.remove(0);
    }
}

impl WorkloadState {
    fn fold_command(&mut self, entry: &Entry, verb: &CommandVerb, frozen: Frozen) {
        match verb {
            CommandVerb::Freeze => self.frozen = Some(frozen),
            CommandVerb::Thaw => self.frozen = None,
            CommandVerb::Repin { reference } => {
                self.repins.insert(reference.clone(), entry.seq);
            }
            CommandVerb::Retry => self.retry(),
            _ => {}
        }
        let Some(request) = &mut self.request else { return };
        match verb {
            CommandVerb::Pause => request.paused = true,
            CommandVerb::Resume | CommandVerb::Retry => {
                request.paused = false;
                request.resumed = entry.seq;
            }
            CommandVerb::DeployNow => request.now = true,
            CommandVerb::Advance => {
                request.advanced = entry.seq;
                for attempt in self.units.values_mut().filter_map(|unit| unit.attempt.as_mut()) {
                    attempt.passed = Some(attempt.weight);
                    attempt.judged = None;
                }
            }
            CommandVerb::Approve {
                rollout,
                release,
                step,
                approver,
            } if request.id == *rollout && request.release == *release => {
                request.approvals.push(ApprovalState {
                    step: *step,
                    approver: approver.clone(),
                    seq: entry.seq,
                });
            }
            _ => {}
        }
    }

    /// A person wants it tried again: lost jobs count as not begun, and back-off begins anew.
    fn retry(&mut self) {
        for jobs in self.jobs.values_mut() {
            jobs.retain(|_, job| job.outcome != JobOutcome::Lost);
        }
        for unit in self.units.values_mut() {
            unit.faults = 0;
            unit.last_fault = None;
            unit.heals.clear();
            unit.heal_guard = None;
        }
    }

    fn fold(&mut self, entry: &Entry) {
        match &entry.body {
            Body::Pin(pin) => {
                if self.repins.remove(&pin.reference).is_some() {
                    self.repinned = entry.seq;
                }
                let images = entry.blobs.get("images").cloned();
                self.pins.insert(
                    pin.reference.clone(),
                    PinState {
                        digest: pin.digest.clone(),
                        seq: entry.seq,
                        images,
                        source: pin.source.clone(),
                        moved_to: None,
                    },
                );
            }
            Body::TagMoved(moved) => {
                if let Some(pin) = self.pins.get_mut(&moved.reference) {
                    pin.moved_to = (moved.seen != pin.digest).then(|| moved.seen.clone());
                }
            }
            Body::Selection(selection) => {
                let state = SelectionState {
                    repository: selection.repository.clone(),
                    select: selection.select.clone(),
                    tag: selection.tag.clone(),
                    seq: entry.seq,
                };
                self.selections.insert(selection.artifact.clone(), state);
            }
            Body::Rollout(change) => self.fold_rollout(entry, change),
            Body::Quarantine(quarantine) => self.fold_quarantine(entry, quarantine),
            _ => {
                let Some(target) = entry.on.target.clone() else { return };
                self.fold_job(entry, &target);
                let commit = self
                    .request
                    .as_ref()
                    .map(|request| request.commit.clone())
                    .unwrap_or_default();
                self.units.entry(target).or_default().fold(entry, commit);
            }
        }
        if matches!(
            entry.body,
            Body::Attempt(AttemptChange::Ended { .. } | AttemptChange::Phase { .. }) | Body::Rollout(_)
        ) {
            self.forget_unused_releases();
        }
    }

    /// What the intent and the result of a `run` mean for the job.
    fn fold_job(&mut self, entry: &Entry, target: &TargetName) {
        let Some(unit) = self.units.get(target) else { return };
        let (verb, outcome) = match &entry.body {
            Body::Intent(intent) => (&intent.verb, None),
            Body::Result(outcome) if outcome.closed => match &unit.intent {
                Some(open) if open.seq == outcome.intent => (&open.verb, Some(outcome)),
                _ => return,
            },
            _ => return,
        };
        let Verb::Run {
            generation,
            job,
            hook,
            scope,
        } = verb
        else {
            return;
        };
        let Some(release) = unit.generations.get(generation).map(|generation| generation.release.clone()) else {
            return;
        };
        let attempt = self.attempt_number();
        let key = job_key(*hook, job, *scope, target);
        let jobs = self.jobs.entry(release).or_default();
        match outcome {
            None => {
                let state = JobState {
                    outcome: JobOutcome::Running,
                    target: target.clone(),
                    seq: entry.seq,
                    attempt,
                    t: entry.t,
                    message: String::new(),
                };
                jobs.insert(key, state);
            }
            Some(outcome) => {
                let ended = match outcome.class {
                    None => JobOutcome::Done,
                    Some(FaultClass::Failed) => JobOutcome::Failed,
                    Some(FaultClass::Absent) => JobOutcome::Lost,
                    // Refused before it began.
                    Some(_) => {
                        jobs.remove(&key);
                        return;
                    }
                };
                if let Some(state) = jobs.get_mut(&key) {
                    state.outcome = ended;
                    state.t = entry.t;
                    state.message = outcome.message.chars().take(500).collect();
                }
            }
        }
    }

    fn fold_rollout(&mut self, entry: &Entry, change: &RolloutChange) {
        let Some(id) = entry.on.rollout else { return };
        let (reason, message) = (change.reason.clone(), change.message.clone());
        match &mut self.request {
            Some(request) if request.id == id => {
                request.state = change.to;
                if matches!(change.to, RolloutState::Rolling | RolloutState::Holding) {
                    request.wave = change.wave;
                }
                request.since = entry.t;
                request.seq = entry.seq;
                (request.reason, request.message) = (reason, message);
            }
            _ => {
                self.request = Some(Request {
                    id,
                    release: change.release.clone(),
                    attempt: self.spec.as_ref().map_or(1, |spec| spec.attempt),
                    commit: self.commit.clone(),
                    state: change.to,
                    since: entry.t,
                    began: entry.t,
                    seq: entry.seq,
                    reason,
                    message,
                    paused: false,
                    resumed: id,
                    wave: change.wave,
                    now: false,
                    approvals: Vec::new(),
                    advanced: id,
                    contributors: self.contributors.clone(),
                });
                let images = change
                    .artifacts
                    .keys()
                    .filter_map(|name| Some((name.clone(), entry.blobs.get(&format!("images/{name}"))?.clone())))
                    .collect();
                self.releases.entry(change.release.clone()).or_insert_with(|| ReleaseState {
                    artifacts: change.artifacts.clone(),
                    sources: change.sources.clone(),
                    images,
                    before: change.before.clone(),
                    after: change.after.clone(),
                });
            }
        }
        if change.to == RolloutState::Succeeded {
            self.proven.retain(|release| *release != change.release);
            self.proven.push(change.release.clone());
            if self.proven.len() > PROVEN_KEPT {
                self.proven.remove(0);
            }
        }
    }

    fn fold_quarantine(&mut self, entry: &Entry, quarantine: &Quarantine) {
        match quarantine.action {
            QuarantineAction::Set => {
                self.proven.retain(|release| *release != quarantine.release);
                for unit in self.units.values_mut() {
                    unit.proven.retain(|(release, captured)| {
                        *release != quarantine.release || quarantine.values.as_ref().is_some_and(|values| values != captured)
                    });
                }
                self.quarantine
                    .entry(quarantine.release.clone())
                    .or_default()
                    .push(QuarantineState {
                        attempt: quarantine.attempt,
                        values: quarantine.values.clone(),
                        seq: entry.seq,
                        reason: quarantine.reason.clone(),
                        message: quarantine.message.clone(),
                    });
            }
            QuarantineAction::Lift => {
                self.quarantine.remove(&quarantine.release);
            }
        }
    }

    /// A release is remembered while something runs it, wants it, or may go back to it.
    fn forget_unused_releases(&mut self) {
        let mut used: BTreeSet<&ReleaseId> = self.proven.iter().collect();
        used.extend(self.request.iter().map(|request| &request.release));
        for unit in self.units.values() {
            used.extend(unit.generations.values().map(|generation| &generation.release));
            used.extend(unit.last.iter().map(|last| &last.release));
        }
        let unused: Vec<_> = self
            .releases
            .keys()
            .filter(|release| !used.contains(release))
            .cloned()
            .collect();
        for release in unused {
            self.releases.remove(&release);
        }
    }
}

impl UnitState {
    fn fold(&mut self, entry: &Entry, commit: String) {
        match &entry.body {
            Body::Guard(_) => self.heal_guard = Some(entry.seq),
            Body::Drift(drift) => {
                if drift.answer.counts() {
                    remember_heal(&mut self.heals, entry.t);
                    self.heal_guard = None;
                }
                if drift.answer == DriftAnswer::Over {
                    let current = self.current.and_then(|number| self.generations.get_mut(&number));
                    if let Some(current) = current.filter(|_| drift.what == DriftKind::Content) {
                        current.fingerprint = drift.seen.clone();
                    }
                    self.drift = None;
                } else {
                    self.drift = Some(DriftState {
                        what: drift.what,
                        seen: drift.seen.clone(),
                        seq: entry.seq,
                        t: entry.t,
                    });
                }
            }
            Body::Attempt(change) => self.fold_attempt(entry, change, commit),
            Body::Intent(intent) => {
                self.fold_intent(&intent.verb);
                self.intent = Some(OpenIntent {
                    seq: entry.seq,
                    verb: intent.verb.clone(),
                    plugin: intent.plugin.clone(),
                    tries: 0,
                    since: entry.t,
                    last_t: entry.t,
                    last_fault: None,
                });
            }
            Body::Result(outcome) => self.fold_result(entry, outcome),
            Body::Verdict(verdict) => {
                if let Some(attempt) = &mut self.attempt {
                    match verdict.outcome {
                        _ if verdict.about == "diagnosis" => attempt.explained = true,
                        VerdictOutcome::Fail => attempt.judged = Some((verdict.reason.clone(), verdict.message.clone())),
                        VerdictOutcome::Pass | VerdictOutcome::Unmeasured => {}
                    }
                }
            }
            _ => {}
        }
    }

    /// From its intent on, an effect may be on the target.
    fn fold_intent(&mut self, verb: &Verb) {
        match verb {
            Verb::Launch { generation, size } | Verb::Scale { generation, size } => {
                if let Some(generation) = self.generations.get_mut(generation) {
                    generation.launched = true;
                    generation.size = *size;
                }
            }
            Verb::Route { shares, .. } => {
                for share in shares.iter().filter(|share| share.live > 0) {
                    if let Some(generation) = self.generations.get_mut(&share.number) {
                        generation.launched = true;
                    }
                }
            }
            Verb::Retire { .. } | Verb::Run { .. } => {}
        }
    }

    fn fold_attempt(&mut self, entry: &Entry, change: &AttemptChange, commit: String) {
        match change {
            AttemptChange::Began {
                release,
                values,
                generation,
                old,
                plugin,
                request,
                abilities,
                revived,
                heal,
            } => {
                self.parked.retain(|number| number != generation);
                self.next_generation = self.next_generation.max(generation + 1);
                let generation_state = GenState {
                    release: release.clone(),
                    captured: values.clone(),
                    plugin: plugin.clone(),
                    attempt: entry.seq,
                    commit,
                    launched: *revived,
                    fingerprint: String::new(),
                    since: entry.t,
                    size: 0,
                    abilities: abilities.clone(),
                };
                self.generations.insert(*generation, generation_state);
                self.attempt = Some(AttemptState {
                    id: entry.seq,
                    request: *request,
                    release: release.clone(),
                    captured: values.clone(),
                    generation: *generation,
                    old: *old,
                    began: entry.t,
                    launch_t: entry.t,
                    launched: false,
                    weight: 0,
                    weight_t: entry.t,
                    passed: None,
                    judged: None,
                    undo: None,
                    explained: false,
                    abilities: abilities.clone(),
                    revived: *revived,
                    heal: *heal,
                });
                self.enter(PhaseName::Preparing, entry.t);
            }
            AttemptChange::Phase { to, .. } => {
                if *to == PhaseName::Launching
                    && let Some(attempt) = &mut self.attempt
                {
                    attempt.launch_t = entry.t;
                }
                if *to == PhaseName::Baking
                    && let Some(attempt) = &mut self.attempt
                {
                    attempt.passed = None;
                }
                if matches!(to, PhaseName::Absent) {
                    // The tombstone: numbers are never reused.
                    self.generations.clear();
                    self.parked.clear();
                    self.current = None;
                    self.drift = None;
                }
                self.enter(*to, entry.t);
            }
            AttemptChange::Undo {
                outcome,
                reason,
                message,
            } => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.undo = Some((*outcome, reason.clone(), message.clone()));
                }
                self.enter(PhaseName::Undoing, entry.t);
            }
            AttemptChange::Reached { weight } => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.weight = *weight;
                    attempt.weight_t = entry.t;
                    attempt.passed = None;
                }
            }
            AttemptChange::Passed { weight } => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.passed = Some(*weight);
                }
            }
            AttemptChange::Fingerprint { fingerprint } => {
                if let Some(generation) = entry.on.generation.and_then(|number| self.generations.get_mut(&number)) {
                    generation.fingerprint = fingerprint.clone();
                }
            }
            AttemptChange::Ended {
                outcome,
                reason,
                message,
                parked,
            } => {
                let Some(attempt) = self.attempt.take() else { return };
                self.parked = parked.clone();
                self.drift = None;
                if *outcome == AttemptOutcome::Succeeded {
                    let proof = (attempt.release.clone(), attempt.captured.clone());
                    self.proven.retain(|known| *known != proof);
                    self.proven.push(proof);
                    if self.proven.len() > UNIT_PROVEN_KEPT {
                        self.proven.remove(0);
                    }
                    self.current = Some(attempt.generation);
                    self.generations
                        .retain(|number, _| *number == attempt.generation || parked.contains(number));
                } else {
                    self.generations.remove(&attempt.generation);
                }
                self.last = Some(LastAttempt {
                    id: attempt.id,
                    request: attempt.request,
                    release: attempt.release,
                    captured: attempt.captured,
                    outcome: *outcome,
                    reason: reason.clone(),
                    message: message.clone(),
                    t: entry.t,
                    seq: entry.seq,
                });
                self.faults = 0;
                self.last_fault = None;
                self.enter(
                    if self.current.is_some() {
                        PhaseName::Stable
                    } else {
                        PhaseName::Absent
                    },
                    entry.t,
                );
            }
        }
    }

    fn fold_result(&mut self, entry: &Entry, outcome: &Outcome) {
        let Some(intent) = self.intent.as_mut().filter(|intent| intent.seq == outcome.intent) else {
            return;
        };
        self.last_result = entry.seq;
        if let Some(class) = outcome.class {
            intent.tries += 1;
            intent.last_t = entry.t;
            intent.last_fault = Some((class, outcome.message.clone()));
            self.last_fault = intent.last_fault.clone();
            self.last_fault_t = entry.t;
            if outcome.closed {
                self.faults += 1;
            }
        } else {
            self.faults = 0;
            self.last_fault = None;
            let made = match &intent.verb {
                Verb::Launch { generation, .. } | Verb::Scale { generation, .. } => Some(*generation),
                // What is not staged comes to be by its route.
                Verb::Route { lead, .. } => Some(*lead),
                Verb::Retire { .. } | Verb::Run { .. } => None,
            };
            if let Some(attempt) = self
                .attempt
                .as_mut()
                .filter(|attempt| Some(attempt.generation) == made && !attempt.launched)
            {
                (attempt.launched, attempt.launch_t) = (true, entry.t);
            }
        }
        if outcome.closed {
            self.intent = None;
        }
    }

    fn enter(&mut self, phase: PhaseName, t: Millis) {
        self.phase = phase;
        self.phase_t = t;
    }
}

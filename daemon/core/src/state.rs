//! State: the only memory. `fold` over the ledger's entries is the only way it changes, so a crash loses nothing that
//! was acknowledged and a snapshot is no more than a shorter way to the same value.
//!
//! `fold` is total: an entry that makes no sense here changes nothing but the head.

use crate::entry::*;
use crate::ids::{Digest, GenNumber, Millis, ReleaseId, Seq, TargetName, WorkloadId, fence};
use crate::spec::{TargetSpec, WorkloadSpec};
use crate::target::{FaultClass, PluginRef, Verb};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Releases that stay eligible for a way back, newest last.
const PROVEN_KEPT: usize = 16;
/// Idempotency keys of commands that are remembered.
const COMMAND_KEYS_KEPT: usize = 256;

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
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceHead {
    pub seq: Seq,
    pub commit: String,
    pub summary: String,
    pub t: Millis,
    pub problems: Vec<SourceProblem>,
    /// A tip that is no fast-forward: not taken until a person says so.
    pub rewrite: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetState {
    pub spec: Option<TargetSpec>,
    pub presence: Option<Presence>,
    pub seq: Seq,
    pub claim: Claim,
    pub unreachable: Option<String>,
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
    pub commit: String,
    pub presence: Option<Presence>,
    pub pins: BTreeMap<String, PinState>,
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
    /// Failures before this entry no longer halt it: somebody said `resume`.
    pub resumed: Seq,
}

impl Request {
    pub fn is_open(&self) -> bool {
        matches!(
            self.state,
            RolloutState::Rolling | RolloutState::Halted | RolloutState::Aborting
        )
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseState {
    pub artifacts: BTreeMap<String, Digest>,
    pub sources: BTreeMap<String, String>,
    /// Artifact name to the blob that lists its per-platform images.
    pub images: BTreeMap<String, Digest>,
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
        }
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
            Body::Plugin(_) | Body::Clock(_) => {}
            Body::Pin(_)
            | Body::TagMoved(_)
            | Body::Rollout(_)
            | Body::Attempt(_)
            | Body::Intent(_)
            | Body::Result(_)
            | Body::Verdict(_)
            | Body::Quarantine(_) => {
                if let Some(workload) = entry.on.workload.as_ref() {
                    self.workloads.entry(workload.clone()).or_default().fold(entry);
                }
            }
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
                rewrite: None,
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
        match (&spec.object, &entry.on.workload, &entry.on.target) {
            (SpecObject::Workload { presence, spec: content }, Some(id), _) => {
                let workload = self.workloads.entry(id.clone()).or_default();
                workload.presence = Some(*presence);
                if let Some(content) = content {
                    // Pins of texts that no manifest names any more stay: going back to the old text returns the old pin.
                    workload.spec = Some(content.clone());
                    workload.spec_seq = entry.seq;
                    workload.commit = spec.commit.clone();
                    workload.units.values_mut().for_each(|unit| unit.held = false);
                }
            }
            (SpecObject::Target { presence, spec: content }, _, Some(name)) => {
                let target = self.targets.entry(name.clone()).or_default();
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
            TargetChange::Unreachable { message } => target.unreachable = Some(message.clone()),
            TargetChange::Reachable => target.unreachable = None,
        }
    }

    fn fold_command(&mut self, entry: &Entry, command: &Command) {
        self.command_keys.push(command.key.clone());
        if self.command_keys.len() > COMMAND_KEYS_KEPT {
            self.command_keys.remove(0);
        }
        if let CommandVerb::AllowRemovals { workloads } = &command.verb {
            for id in workloads {
                if let Some(workload) = self.workloads.get_mut(id) {
                    workload.units.values_mut().for_each(|unit| unit.held = false);
                }
            }
        }
        let Some(workload) = entry.on.workload.as_ref().and_then(|id| self.workloads.get_mut(id)) else {
            return;
        };
        let Some(request) = &mut workload.request else { return };
        match &command.verb {
            CommandVerb::Pause => request.paused = true,
            CommandVerb::Resume => {
                request.paused = false;
                request.resumed = entry.seq;
            }
            CommandVerb::Advance => {
                for attempt in workload.units.values_mut().filter_map(|unit| unit.attempt.as_mut()) {
                    attempt.passed = Some(attempt.weight);
                    attempt.judged = None;
                }
            }
            CommandVerb::Rollback { .. }
            | CommandVerb::Abort
            | CommandVerb::Lift { .. }
            | CommandVerb::AcceptRewrite { .. }
            | CommandVerb::AllowRemovals { .. } => {}
        }
    }
}

impl WorkloadState {
    fn fold(&mut self, entry: &Entry) {
        match &entry.body {
            Body::Pin(pin) => {
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
            Body::Rollout(change) => self.fold_rollout(entry, change),
            Body::Quarantine(quarantine) => self.fold_quarantine(entry, quarantine),
            _ => {
                let Some(target) = entry.on.target.clone() else { return };
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

    fn fold_rollout(&mut self, entry: &Entry, change: &RolloutChange) {
        let Some(id) = entry.on.rollout else { return };
        let (reason, message) = (change.reason.clone(), change.message.clone());
        match &mut self.request {
            Some(request) if request.id == id => {
                request.state = change.to;
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
            Body::Attempt(change) => self.fold_attempt(entry, change, commit),
            Body::Intent(intent) => {
                if let Verb::Launch { generation, .. } = intent.verb
                    && let Some(generation) = self.generations.get_mut(&generation)
                {
                    generation.launched = true;
                }
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

    fn fold_attempt(&mut self, entry: &Entry, change: &AttemptChange, commit: String) {
        match change {
            AttemptChange::Began {
                release,
                values,
                generation,
                old,
                plugin,
                request,
            } => {
                self.next_generation = self.next_generation.max(generation + 1);
                let generation_state = GenState {
                    release: release.clone(),
                    captured: values.clone(),
                    plugin: plugin.clone(),
                    attempt: entry.seq,
                    commit,
                    launched: false,
                    fingerprint: String::new(),
                    since: entry.t,
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
                    self.current = None;
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
            } => {
                let Some(attempt) = self.attempt.take() else { return };
                if *outcome == AttemptOutcome::Succeeded {
                    self.current = Some(attempt.generation);
                    self.generations.retain(|number, _| *number == attempt.generation);
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
            if let (Verb::Launch { generation, .. }, Some(attempt)) = (&intent.verb, self.attempt.as_mut())
                && attempt.generation == *generation
            {
                attempt.launched = true;
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

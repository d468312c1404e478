//! The engine: inputs in, outputs out, no I/O. It owns scheduling, back-off, wake-ups and open intents; the shell only
//! carries. Everything it remembers for good is State; everything else may be lost.
//!
//! Entries are folded when they are drafted, so that planning never waits for the disk. Nothing leaves the engine for a
//! target or a person before the entries it rests on are durable.

mod command;
mod events;
mod observations;
mod revision;
mod schedule;
pub mod subject;

pub use command::{CommandReply, CommandRequest, Person, Refusal, Wish};
pub use revision::Revision;

use crate::check::{Violation, check_rollout_plan, check_unit_plan};
use crate::config::EngineConfig;
use crate::entry::*;
use crate::ids::{Digest, GenNumber, Millis, ReleaseId, Seq, TargetName, UnitId, WorkloadId, deploy_id};
use crate::manifest::Desired;
use crate::plan::facts::{Answers, Diff, PullFacts, Room, Samples, TagsFacts, TargetFacts, UnitFacts};
use crate::plan::rollout::{PinFacts, RolloutContext, plan_rollout};
use crate::plan::unit::{IDLE_LOOK_MS, UnitContext, plan_unit};
use crate::plan::{Ask, Draft, PLANNER_VERSION, RolloutPlan, UnitPlan, Waiting, earliest};
use crate::state::{State, UnitState, WorkloadState};
use crate::target::{Change, Excerpt, Fault, Page, PluginRef, Progress, Report, Sent, Verb};
use observations::Observations;
use schedule::Schedule;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Time as the shell knows it: ledger time, and the wall for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub t: Millis,
    pub wall_ms: u64,
}

/// Identifies who waits for the answer to a command.
pub type Token = u64;

#[derive(Debug)]
pub enum Input {
    /// The first input of every run.
    Boot(Term),
    Revision(Box<Revision>),
    /// Every entry below `size` is durable.
    Durable {
        size: Seq,
    },
    Pinned {
        workload: WorkloadId,
        reference: String,
        outcome: Result<Resolved, PinFailure>,
    },
    Observed {
        target: TargetName,
        begun: Seq,
        outcome: Result<Page, Fault>,
    },
    Checked {
        workload: WorkloadId,
        target: TargetName,
        key: Digest,
        outcome: Result<Report, Fault>,
    },
    Probed {
        workload: WorkloadId,
        target: TargetName,
        generation: GenNumber,
        failure: Option<String>,
        /// False: it could not be asked (no grant, no address), which says nothing of the release.
        asked: bool,
    },
    Measured {
        workload: WorkloadId,
        target: TargetName,
        samples: Result<Samples, Fault>,
        /// By name of the analysis.
        answers: BTreeMap<String, Answers>,
    },
    Roomed {
        workload: WorkloadId,
        target: TargetName,
        generation: GenNumber,
        room: Result<Option<u32>, Fault>,
    },
    Diffed {
        workload: WorkloadId,
        target: TargetName,
        generation: GenNumber,
        changes: Result<Vec<Change>, Fault>,
    },
    Tagged {
        workload: WorkloadId,
        repository: String,
        outcome: Result<Vec<String>, PinFailure>,
    },
    PullChecked {
        workload: WorkloadId,
        release: ReleaseId,
        /// Err: what is missing, or why it cannot be known.
        outcome: Result<(), String>,
    },
    Explained {
        workload: WorkloadId,
        target: TargetName,
        generation: GenNumber,
        excerpts: Result<Vec<Excerpt>, Fault>,
    },
    /// The digests by which a target may name an artifact, from the blob that lists its images.
    Images {
        blob: Digest,
        accepted: BTreeSet<Digest>,
    },
    Called {
        workload: WorkloadId,
        target: TargetName,
        intent: Seq,
        outcome: Result<Progress, Fault>,
        sent: Vec<Sent>,
    },
    Command {
        token: Token,
        request: CommandRequest,
    },
    /// Plugins that are loaded, with their components.
    PluginsSeen(Vec<(PluginSeen, Vec<u8>)>),
    Tick,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    pub digest: Digest,
    pub source: String,
    /// JSON list of `target::PlatformImage`; a blob of the ledger.
    pub images: Vec<u8>,
    pub accepted: BTreeSet<Digest>,
    /// Raw index and manifests, as blobs.
    pub blobs: Vec<(Digest, Vec<u8>)>,
    pub evidence: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinFailure {
    pub message: String,
    pub retry_after_ms: Option<Millis>,
}

#[derive(Debug)]
pub enum Output {
    /// Blobs first, then entries, then tell `Durable`.
    Append {
        entries: Vec<Entry>,
        blobs: Vec<(Digest, Vec<u8>)>,
    },
    Ask(Ask),
    /// Ask for the images in this blob.
    LoadImages {
        blob: Digest,
    },
    Call(Durable<Call>),
    Reply {
        token: Token,
        reply: Result<CommandReply, Refusal>,
    },
}

/// Something whose intent is durable. Only the engine makes one, so a target call without a ledger entry cannot be built.
#[derive(Debug, PartialEq)]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    pub fn get(&self) -> &T {
        &self.0
    }
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// One mutating call to a target.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub workload: WorkloadId,
    pub target: TargetName,
    pub intent: Seq,
    pub fence: u64,
    pub verb: Verb,
    pub plugin: PluginRef,
    pub deploy_id: String,
    pub resume: Option<String>,
}

pub struct Engine {
    config: EngineConfig,
    state: State,
    now: Now,
    targets: BTreeMap<TargetName, TargetFacts>,
    units: BTreeMap<WorkloadId, BTreeMap<TargetName, UnitFacts>>,
    pins: BTreeMap<WorkloadId, BTreeMap<String, PinFacts>>,
    observations: Observations,
    /// The blob that intents name; none: not written by this run yet.
    config_blob: Option<Digest>,
    /// What the revision taken last says.
    desired: Arc<Desired>,
    tags: BTreeMap<WorkloadId, BTreeMap<String, TagsFacts>>,
    pullable: BTreeMap<WorkloadId, PullFacts>,
    /// Images blob to the digests in it.
    images: BTreeMap<Digest, BTreeSet<Digest>>,
    images_asked: BTreeSet<Digest>,
    asked: BTreeSet<AskKey>,
    schedule: Schedule,
    /// Which workloads have a unit on a target.
    on_target: BTreeMap<TargetName, BTreeSet<WorkloadId>>,
    /// Which workloads depend on one of this name.
    dependents: BTreeMap<String, BTreeSet<WorkloadId>>,
    no_facts: UnitFacts,
    durable: Seq,
    /// Size of the ledger when this run began.
    size_at_boot: Seq,
    held_calls: BTreeMap<Seq, Call>,
    held_replies: Vec<(Seq, Token, CommandReply)>,
    /// By the size of the ledger from which on they can be answered.
    held_asks: Vec<(Seq, Ask)>,
    entries: Vec<Entry>,
    blobs: BTreeMap<Digest, Vec<u8>>,
    out: Vec<Output>,
    stopping: bool,
}

/// What is being asked, so that nothing is asked twice at once.
type AskKey = (u8, String, String);

/// A question about one generation: one that hangs does not keep another generation's from being asked.
fn of_generation(kind: u8, workload: &WorkloadId, target: &str, generation: GenNumber) -> AskKey {
    (kind, workload.to_string(), format!("{target} {generation}"))
}

fn ask_key(ask: &Ask) -> AskKey {
    match ask {
        Ask::Observe { target, .. } => (0, String::new(), target.clone()),
        Ask::Pin { workload, reference } => (1, workload.to_string(), reference.clone()),
        Ask::Check { workload, target, .. } | Ask::CheckRelease { workload, target, .. } => {
            (2, workload.to_string(), target.clone())
        }
        Ask::Measure { workload, target, .. } => (4, workload.to_string(), target.clone()),
        Ask::Probe {
            workload,
            target,
            generation,
            ..
        } => of_generation(3, workload, target, *generation),
        Ask::Explain {
            workload,
            target,
            generation,
        } => of_generation(5, workload, target, *generation),
        Ask::Room {
            workload,
            target,
            generation,
        } => of_generation(6, workload, target, *generation),
        Ask::Diff {
            workload,
            target,
            generation,
        } => of_generation(7, workload, target, *generation),
        Ask::Tags { workload, repository } => (8, workload.to_string(), repository.clone()),
        Ask::Pullable { workload, release } => (9, workload.to_string(), release.to_string()),
    }
}

impl Engine {
    /// `state` is the fold of everything in the ledger, all of it durable.
    pub fn new(config: EngineConfig, state: State) -> Self {
        let durable = state.size;
        let now = Now { t: state.t, wall_ms: 0 };
        let mut engine = Self {
            config,
            state,
            now,
            targets: BTreeMap::new(),
            units: BTreeMap::new(),
            pins: BTreeMap::new(),
            observations: Observations::default(),
            config_blob: None,
            desired: Arc::default(),
            tags: BTreeMap::new(),
            pullable: BTreeMap::new(),
            images: BTreeMap::new(),
            images_asked: BTreeSet::new(),
            asked: BTreeSet::new(),
            schedule: Schedule::default(),
            on_target: BTreeMap::new(),
            dependents: BTreeMap::new(),
            no_facts: UnitFacts::default(),
            durable,
            size_at_boot: durable,
            held_calls: BTreeMap::new(),
            held_replies: Vec::new(),
            held_asks: Vec::new(),
            entries: Vec::new(),
            blobs: BTreeMap::new(),
            out: Vec::new(),
            stopping: false,
        };
        for (id, workload) in &engine.state.workloads {
            engine.schedule.mark_all(id);
            for target in workload.units.keys() {
                engine.on_target.entry(target.clone()).or_default().insert(id.clone());
            }
            for name in workload.spec.iter().flat_map(|spec| &spec.depends_on) {
                engine.dependents.entry(name.clone()).or_default().insert(id.clone());
            }
        }
        engine
    }

    /// From here on results are written down and nothing is planned: no new intent, no question.
    pub fn stop(&mut self, now: Now) -> Vec<Output> {
        self.tell_time(now);
        self.stopping = true;
        self.record_observations();
        self.flush();
        std::mem::take(&mut self.out)
    }

    fn tell_time(&mut self, now: Now) {
        self.now = Now {
            t: now.t.max(self.now.t).max(self.state.t),
            wall_ms: now.wall_ms,
        };
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// The operator's configuration changed: what was checked under the old one counts no more.
    pub fn configure(&mut self, config: EngineConfig) {
        self.config = config;
        self.config_blob = None;
        for facts in self.units.values_mut().flat_map(|units| units.values_mut()) {
            facts.check = None;
        }
        let targets: Vec<TargetName> = self.targets.keys().cloned().collect();
        targets.iter().for_each(|target| self.want_look(target, self.now.t));
        self.state.workloads.keys().for_each(|id| self.schedule.mark_all(id));
    }

    pub fn now(&self) -> Now {
        self.now
    }

    pub fn durable(&self) -> Seq {
        self.durable
    }

    /// What a workload (none) or one of its units waits on.
    pub fn waiting(&self, workload: &WorkloadId, target: Option<&TargetName>) -> Option<&Waiting> {
        self.schedule.waiting(workload, target)
    }

    pub fn target_facts(&self, target: &str) -> Option<&TargetFacts> {
        self.targets.get(target)
    }

    pub fn unit_facts(&self, workload: &WorkloadId, target: &str) -> Option<&UnitFacts> {
        self.units.get(workload)?.get(target)
    }

    pub fn handle(&mut self, now: Now, input: Input) -> Vec<Output> {
        self.tell_time(now);
        self.take(input);
        if !self.stopping {
            self.wake_due();
            self.settle();
            self.look_due();
        }
        self.flush();
        std::mem::take(&mut self.out)
    }

    fn rollout_plan(&mut self, id: &WorkloadId) -> RolloutPlan {
        let units = self.units.entry(id.clone()).or_default();
        let pins = self.pins.entry(id.clone()).or_default();
        let tags = self.tags.entry(id.clone()).or_default();
        let Some(workload) = self.state.workloads.get(id) else {
            return RolloutPlan::default();
        };
        let context = RolloutContext {
            state: &self.state,
            config: &self.config,
            id,
            workload,
            units,
            pins,
            tags,
            pullable: self.pullable.get(id),
            places: &self.desired.places,
            now: self.now.t,
        };
        plan_rollout(&context)
    }

    fn check_rollout(&self, id: &WorkloadId, plan: &RolloutPlan) -> Result<(), Violation> {
        match self.state.workloads.get(id) {
            Some(workload) => check_rollout_plan(&self.state, id, workload, plan, self.now.t),
            None => Ok(()),
        }
    }

    fn intend(&mut self, id: &WorkloadId, target: &TargetName, verb: Verb, inputs: Vec<u8>) {
        let Some(unit) = self.state.unit(id, target) else { return };
        let number = verb.generation();
        let known = unit.generations.get(&number);
        // What reappeared after it was forgotten is driven by the plugin that drives the target now.
        let plugin = match known.map(|known| known.plugin.clone()).or_else(|| self.plugin_of(target)) {
            Some(plugin) => plugin,
            None => return,
        };
        let attempt = unit
            .attempt
            .as_ref()
            .map(|attempt| attempt.id)
            .or_else(|| known.map(|known| known.attempt));
        let on = On {
            workload: Some(id.clone()),
            target: Some(target.clone()),
            rollout: unit.attempt.as_ref().map(|attempt| attempt.request),
            attempt,
            generation: Some(number),
        };
        let observed = Digest::of(&inputs);
        let intent = Intent {
            verb: verb.clone(),
            plugin,
            observed: observed.clone(),
            planner: PLANNER_VERSION,
        };
        let because = attempt.or(unit.drift.as_ref().map(|drift| drift.seq));
        let mut draft = Draft::new(on, because.into_iter().collect(), Body::Intent(intent));
        draft.blobs.insert("config".into(), self.config_blob());
        draft.blobs.insert("inputs".into(), observed.clone());
        self.blobs.insert(observed, inputs);
        let seq = self.append(draft, By::daemon());
        self.targets.entry(target.clone()).or_default().intended = Some(seq);
        let now = self.now.t;
        let call = &mut self.unit_facts_mut(id, target).call;
        if matches!(verb, Verb::Route { .. }) {
            call.route_repeats += 1;
            call.routed_t = now;
        } else {
            call.route_repeats = 0;
        }
        self.reissue(id, target);
    }

    fn config_blob(&mut self) -> Digest {
        if let Some(known) = &self.config_blob {
            return known.clone();
        }
        // Cannot fail: only strings, numbers and what was JSON before.
        let bytes = serde_json_canonicalizer::to_vec(&self.config).unwrap_or_default();
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest.clone(), bytes);
        self.config_blob = Some(digest.clone());
        digest
    }

    fn plugin_of(&self, target: &TargetName) -> Option<PluginRef> {
        let spec = self.state.targets.get(target)?.spec.as_ref()?;
        self.config.plugin_for(target, &spec.plugin).ok()
    }

    /// Puts the open intent's call on its way as soon as the intent is durable.
    fn reissue(&mut self, id: &WorkloadId, target: &TargetName) {
        let Some((intent, unit)) = self
            .state
            .unit(id, target)
            .and_then(|unit| Some((unit.intent.clone()?, unit)))
        else {
            return;
        };
        let attempt = unit
            .generations
            .get(&intent.verb.generation())
            .map(|generation| generation.attempt);
        let attempt = unit
            .attempt
            .as_ref()
            .map(|attempt| attempt.id)
            .or(attempt)
            .unwrap_or(intent.seq);
        let facts = self.units.entry(id.clone()).or_default().entry(target.clone()).or_default();
        facts.call.in_flight = Some(intent.seq);
        facts.call.again_at = None;
        let call = Call {
            workload: id.clone(),
            target: target.clone(),
            intent: intent.seq,
            fence: self.state.fence(intent.seq),
            verb: intent.verb,
            plugin: intent.plugin,
            deploy_id: deploy_id(self.state.epoch, attempt),
            resume: facts.call.resume.clone(),
        };
        if intent.seq < self.durable {
            self.out.push(Output::Call(Durable(call)));
        } else {
            self.held_calls.insert(intent.seq, call);
        }
    }

    fn unit_facts_mut(&mut self, id: &WorkloadId, target: &TargetName) -> &mut UnitFacts {
        self.units.entry(id.clone()).or_default().entry(target.clone()).or_default()
    }

    fn ask(&mut self, ask: Ask) {
        if !self.asked.insert(ask_key(&ask)) {
            return;
        }
        if let Ask::Tags { workload, repository } = &ask {
            let facts = self
                .tags
                .entry(workload.clone())
                .or_default()
                .entry(repository.clone())
                .or_default();
            facts.asked = true;
            if facts.since == 0 {
                facts.since = self.now.t;
            }
        }
        if let Ask::Pin { workload, reference } = &ask {
            let facts = self
                .pins
                .entry(workload.clone())
                .or_default()
                .entry(reference.clone())
                .or_default();
            facts.asked = true;
            if facts.since == 0 {
                facts.since = self.now.t;
            }
        }
        // What a generation is made of is read from the ledger, which has it only when its attempt is durable.
        let reads_content = matches!(
            ask,
            Ask::Room { .. } | Ask::Explain { .. } | Ask::Diff { .. } | Ask::CheckRelease { .. }
        );
        if reads_content && self.durable < self.state.size {
            self.held_asks.push((self.state.size, ask));
        } else {
            self.out.push(Output::Ask(ask));
        }
    }

    fn append_all(&mut self, drafts: Vec<Draft>) {
        for draft in drafts {
            self.append(draft, By::daemon());
        }
    }

    /// Numbers a draft, folds it, and queues it for the ledger.
    fn append(&mut self, draft: Draft, by: By) -> Seq {
        let seq = self.state.size;
        let mut because = draft.because;
        if draft.because_previous && seq > 0 {
            because.push(seq - 1);
        }
        because.sort_unstable();
        because.dedup();
        because.retain(|cause| *cause < seq);
        let term = if matches!(draft.body, Body::Term(_)) {
            seq
        } else {
            self.state.term
        };
        let entry = Entry {
            v: ENTRY_VERSION,
            seq,
            term,
            t: self.now.t,
            wall: rfc3339(self.now.wall_ms),
            by,
            on: draft.on,
            because,
            blobs: draft.blobs,
            body: draft.body,
        };
        let entry = events::within_limit(entry);
        self.note(&entry);
        self.state.fold(&entry);
        self.entries.push(entry);
        seq
    }

    /// Keeps the engine's own indexes in step with what is written.
    fn note(&mut self, entry: &Entry) {
        let Some(id) = &entry.on.workload else { return };
        match &entry.body {
            Body::Attempt(AttemptChange::Began { .. }) => {
                if let Some(target) = &entry.on.target {
                    self.on_target.entry(target.clone()).or_default().insert(id.clone());
                }
            }
            Body::Spec(Spec {
                object: SpecObject::Workload { spec: Some(spec), .. },
                ..
            }) => {
                for name in &spec.depends_on {
                    self.dependents.entry(name.clone()).or_default().insert(id.clone());
                }
            }
            Body::Rollout(_) => {
                for dependent in self.dependents.get(id.name()).into_iter().flatten() {
                    self.schedule.mark_rollout(dependent);
                }
            }
            _ => {}
        }
    }

    fn flush(&mut self) {
        if self.entries.is_empty() && self.blobs.is_empty() {
            return;
        }
        let entries = std::mem::take(&mut self.entries);
        let blobs = std::mem::take(&mut self.blobs).into_iter().collect();
        // Appends go first, so that a shell that works through outputs in order never acts before it writes.
        self.out.insert(0, Output::Append { entries, blobs });
    }
}

/// RFC 3339 in UTC with milliseconds, from Unix milliseconds (days to civil: Howard Hinnant's algorithm).
pub fn rfc3339(wall_ms: u64) -> String {
    let (seconds, ms) = (wall_ms / 1000, wall_ms % 1000);
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 {
        month_shifted + 3
    } else {
        month_shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    #[test]
    fn wall_time() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_526_625_007, "2026-11-24T13:23:45.007Z"),
        ] {
            assert_eq!(super::rfc3339(ms), text);
        }
    }
}

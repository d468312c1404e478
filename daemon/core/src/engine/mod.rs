//! The engine: inputs in, outputs out, no I/O. It owns scheduling, back-off, wake-ups and open intents; the shell only
//! carries. Everything it remembers for good is State; everything else may be lost.
//!
//! Entries are folded when they are drafted, so that planning never waits for the disk. Nothing leaves the engine for a
//! target or a person before the entries it rests on are durable.

mod command;
mod events;
mod revision;
pub mod subject;

pub use command::{CommandReply, CommandRequest, Person, Refusal, Wish};
pub use revision::Revision;

use crate::check::check_unit_plan;
use crate::config::EngineConfig;
use crate::entry::*;
use crate::ids::{Digest, GenNumber, Millis, ReleaseId, Seq, TargetName, WorkloadId, deploy_id};
use crate::plan::facts::{Answers, Diff, PullFacts, Room, Samples, TagsFacts, TargetFacts, UnitFacts};
use crate::plan::rollout::{PinFacts, RolloutContext, plan_rollout};
use crate::plan::unit::{IDLE_LOOK_MS, UnitContext, plan_unit};
use crate::plan::{Ask, Draft, PLANNER_VERSION, RolloutPlan, UnitPlan, Waiting, earliest};
use crate::state::State;
use crate::target::{Change, Excerpt, Fault, Page, PluginRef, Progress, Report, Sent, Verb};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A workload settles in a few increments; more is a bug that must not become a loop.
const INCREMENTS_MAX: usize = 64;
const CLOCK_ENTRY_MS: Millis = 60_000;

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
        answered: bool,
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
    tags: BTreeMap<WorkloadId, BTreeMap<String, TagsFacts>>,
    pullable: BTreeMap<WorkloadId, PullFacts>,
    /// Images blob to the digests in it.
    images: BTreeMap<Digest, BTreeSet<Digest>>,
    images_asked: BTreeSet<Digest>,
    asked: BTreeSet<AskKey>,
    dirty: BTreeSet<WorkloadId>,
    wakes: BTreeSet<(Millis, WorkloadId)>,
    wake_of: BTreeMap<WorkloadId, Millis>,
    waiting: BTreeMap<WorkloadId, BTreeMap<Option<TargetName>, Waiting>>,
    durable: Seq,
    held_calls: BTreeMap<Seq, Call>,
    held_replies: Vec<(Seq, Token, CommandReply)>,
    entries: Vec<Entry>,
    blobs: BTreeMap<Digest, Vec<u8>>,
    out: Vec<Output>,
}

/// What is being asked, so that nothing is asked twice at once.
type AskKey = (u8, String, String);

fn ask_key(ask: &Ask) -> AskKey {
    match ask {
        Ask::Observe { target, .. } => (0, String::new(), target.clone()),
        Ask::Pin { workload, reference } => (1, workload.to_string(), reference.clone()),
        Ask::Check { workload, target, .. } => (2, workload.to_string(), target.clone()),
        Ask::Probe { workload, target, .. } => (3, workload.to_string(), target.clone()),
        Ask::Measure { workload, target, .. } => (4, workload.to_string(), target.clone()),
        Ask::Explain { workload, target, .. } => (5, workload.to_string(), target.clone()),
        Ask::Room { workload, target, .. } => (6, workload.to_string(), target.clone()),
        Ask::Diff { workload, target, .. } => (7, workload.to_string(), target.clone()),
        Ask::Tags { workload, repository } => (8, workload.to_string(), repository.clone()),
        Ask::Pullable { workload, release } => (9, workload.to_string(), release.to_string()),
    }
}

impl Engine {
    /// `state` is the fold of everything in the ledger, all of it durable.
    pub fn new(config: EngineConfig, state: State) -> Self {
        let durable = state.size;
        let dirty = state.workloads.keys().cloned().collect();
        let now = Now { t: state.t, wall_ms: 0 };
        Self {
            config,
            state,
            now,
            targets: BTreeMap::new(),
            units: BTreeMap::new(),
            pins: BTreeMap::new(),
            tags: BTreeMap::new(),
            pullable: BTreeMap::new(),
            images: BTreeMap::new(),
            images_asked: BTreeSet::new(),
            asked: BTreeSet::new(),
            dirty,
            wakes: BTreeSet::new(),
            wake_of: BTreeMap::new(),
            waiting: BTreeMap::new(),
            durable,
            held_calls: BTreeMap::new(),
            held_replies: Vec::new(),
            entries: Vec::new(),
            blobs: BTreeMap::new(),
            out: Vec::new(),
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    pub fn now(&self) -> Now {
        self.now
    }

    pub fn durable(&self) -> Seq {
        self.durable
    }

    /// What a workload (none) or one of its units waits on.
    pub fn waiting(&self, workload: &WorkloadId, target: Option<&TargetName>) -> Option<&Waiting> {
        self.waiting.get(workload)?.get(&target.cloned())
    }

    pub fn target_facts(&self, target: &str) -> Option<&TargetFacts> {
        self.targets.get(target)
    }

    pub fn unit_facts(&self, workload: &WorkloadId, target: &str) -> Option<&UnitFacts> {
        self.units.get(workload)?.get(target)
    }

    /// When the engine wants a `Tick` at the latest.
    pub fn next_wake(&self) -> Option<Millis> {
        let look = self
            .targets
            .values()
            .filter(|facts| !facts.asked)
            .filter_map(|facts| facts.next_look)
            .min();
        let clock = self.has_open_attempt().then_some(self.state.t + CLOCK_ENTRY_MS);
        earliest(earliest(self.wakes.first().map(|(t, _)| *t), look), clock)
    }

    pub fn handle(&mut self, now: Now, input: Input) -> Vec<Output> {
        self.now = Now {
            t: now.t.max(self.now.t).max(self.state.t),
            wall_ms: now.wall_ms,
        };
        self.take(input);
        self.wake_due();
        self.settle();
        self.look_due();
        self.flush();
        std::mem::take(&mut self.out)
    }

    fn has_open_attempt(&self) -> bool {
        self.waiting.values().any(|waiting| {
            waiting
                .values()
                .any(|waiting| matches!(waiting.on.as_str(), "hold" | "bake" | "stable" | "analysis"))
        })
    }

    fn wake_due(&mut self) {
        while let Some((t, workload)) = self.wakes.first().cloned() {
            if t > self.now.t {
                break;
            }
            self.wakes.pop_first();
            self.wake_of.remove(&workload);
            self.dirty.insert(workload);
        }
        if self.has_open_attempt() && self.now.t >= self.state.t + CLOCK_ENTRY_MS {
            self.append(Draft::new(On::default(), Vec::new(), Body::Clock(ClockTick {})), By::daemon());
        }
    }

    /// Plans every workload that something happened to, until nothing more can be decided.
    fn settle(&mut self) {
        for _ in 0..INCREMENTS_MAX {
            let dirty = std::mem::take(&mut self.dirty);
            if dirty.is_empty() {
                return;
            }
            for workload in dirty {
                self.settle_workload(&workload);
            }
        }
    }

    fn settle_workload(&mut self, id: &WorkloadId) {
        let mut wake = None;
        let mut waiting = BTreeMap::new();
        let plan = self.rollout_plan(id);
        let changed = !plan.records.is_empty();
        for (digest, bytes) in plan.blobs {
            self.blobs.insert(digest, bytes);
        }
        self.append_all(plan.records);
        for ask in plan.asks {
            self.ask(ask);
        }
        wake = earliest(wake, plan.wake_at);
        wake = earliest(wake, self.poll_tags(id));
        if let Some(reason) = plan.waiting {
            waiting.insert(None, reason);
        }
        let targets: Vec<TargetName> = self
            .state
            .workloads
            .get(id)
            .map(|w| w.units.keys().cloned().collect())
            .unwrap_or_default();
        for target in targets {
            let plan = self.settle_unit(id, &target);
            wake = earliest(wake, plan.wake_at);
            if let Some(reason) = plan.waiting {
                waiting.insert(Some(target.clone()), reason);
            }
            if let Some(look_at) = plan.look_at {
                let facts = self.targets.entry(target).or_default();
                facts.next_look = earliest(facts.next_look, Some(look_at));
            }
        }
        self.waiting.insert(id.clone(), waiting);
        if changed {
            self.dirty.insert(id.clone());
        }
        if let Some(old) = self.wake_of.remove(id) {
            self.wakes.remove(&(old, id.clone()));
        }
        if let Some(wake) = wake {
            self.wakes.insert((wake, id.clone()));
            self.wake_of.insert(id.clone(), wake);
        }
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
            now: self.now.t,
        };
        plan_rollout(&context)
    }

    /// Plans one unit until it needs the world; returns the last plan, for its waits.
    fn settle_unit(&mut self, id: &WorkloadId, target: &TargetName) -> UnitPlan {
        for _ in 0..INCREMENTS_MAX {
            let target_facts = self.targets.entry(target.clone()).or_default().clone();
            let facts = self.units.entry(id.clone()).or_default().entry(target.clone()).or_default();
            let Some(context) = UnitContext::of(&self.state, id, target, &target_facts, facts, self.now.t) else {
                return UnitPlan::default();
            };
            let plan = plan_unit(&context);
            if let Err(violation) = check_unit_plan(&context, &plan) {
                facts.stalled = Some(format!("the plan checker refused a plan: {violation}"));
                continue;
            }
            if !plan.records.is_empty() {
                // Progress was made, so the next route is a first try again.
                facts.call.route_repeats = 0;
                self.append_all(plan.records);
                self.dirty.insert(id.clone());
                continue;
            }
            if let Some(verb) = &plan.verb {
                self.intend(id, target, verb.clone());
            } else if plan.reissue {
                self.reissue(id, target);
            }
            for ask in &plan.asks {
                self.ask(ask.clone());
            }
            if plan.verb.is_some() || plan.reissue {
                // The next plan only says what is under way.
                let target_facts = self.targets.get(target).cloned().unwrap_or_default();
                let facts = self.units.entry(id.clone()).or_default().entry(target.clone()).or_default();
                return UnitContext::of(&self.state, id, target, &target_facts, facts, self.now.t)
                    .map(|context| plan_unit(&context))
                    .unwrap_or_default();
            }
            return plan;
        }
        UnitPlan::default()
    }

    fn intend(&mut self, id: &WorkloadId, target: &TargetName, verb: Verb) {
        let Some(unit) = self.state.unit(id, target) else { return };
        let number = verb.generation();
        let Some(generation) = unit.generations.get(&number) else {
            return;
        };
        let attempt = unit.attempt.as_ref();
        let observed = self.targets.get(target).and_then(|facts| facts.observed.as_ref());
        let slice = observed.map(|observed| {
            let generations: Vec<_> = observed
                .page
                .generations
                .iter()
                .filter(|state| state.workload == id.as_str())
                .collect();
            let routes: Vec<_> = observed
                .page
                .routes
                .iter()
                .filter(|route| route.workload == id.as_str())
                .collect();
            serde_json::to_vec(&(generations, routes)).unwrap_or_default()
        });
        let on = On {
            workload: Some(id.clone()),
            target: Some(target.clone()),
            rollout: attempt.map(|attempt| attempt.request),
            attempt: Some(attempt.map_or(generation.attempt, |attempt| attempt.id)),
            generation: Some(number),
        };
        let intent = Intent {
            verb: verb.clone(),
            plugin: generation.plugin.clone(),
            observed: Digest::of(&slice.unwrap_or_default()),
            planner: PLANNER_VERSION,
        };
        let because = vec![attempt.map_or(generation.attempt, |attempt| attempt.id)];
        self.append(Draft::new(on, because, Body::Intent(intent)), By::daemon());
        if matches!(verb, Verb::Route { .. }) {
            let now = self.now.t;
            let call = &mut self.unit_facts_mut(id, target).call;
            call.route_repeats += 1;
            call.routed_t = now;
        } else {
            self.unit_facts_mut(id, target).call.route_repeats = 0;
        }
        self.reissue(id, target);
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
        self.out.push(Output::Ask(ask));
    }

    /// One observation per target at a time, when somebody wants one.
    fn look_due(&mut self) {
        let due: Vec<TargetName> = self
            .targets
            .iter()
            .filter(|(_, facts)| !facts.asked && facts.next_look.is_some_and(|t| t <= self.now.t))
            .map(|(name, _)| name.clone())
            .collect();
        for target in due {
            if let Some(facts) = self.targets.get_mut(&target) {
                facts.asked = true;
                facts.next_look = Some(self.now.t + IDLE_LOOK_MS);
            }
            self.ask(Ask::Observe {
                target,
                begun: self.state.size,
            });
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
        self.state.fold(&entry);
        self.entries.push(entry);
        seq
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

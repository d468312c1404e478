//! What to plan, and when: dirty units, wake-ups and looks. Cost follows what changed: an event re-plans the units that it
//! is about, and the rollout only when something that it decides on changed.

use super::*;

/// A workload settles in a few increments; more is a bug that must not become a loop.
const INCREMENTS_MAX: usize = 64;
const CLOCK_ENTRY_MS: Millis = 60_000;
/// Waits on time that a crash would lengthen: while one is open, ledger time is written down every so often.
const TIMED_WAITS: [&str; 6] = ["hold", "bake", "stable", "analysis", "wave-hold", "grace"];

/// What of one workload has to be planned.
#[derive(Debug, Default)]
pub(super) struct Dirt {
    rollout: bool,
    all_units: bool,
    units: BTreeSet<TargetName>,
}

/// A workload's rollout (no target) or one of its units.
pub(super) type Key = (WorkloadId, Option<TargetName>);

#[derive(Debug, Default)]
pub(super) struct Schedule {
    dirty: BTreeMap<WorkloadId, Dirt>,
    wakes: BTreeSet<(Millis, Key)>,
    wake_of: BTreeMap<Key, Millis>,
    looks: BTreeSet<(Millis, TargetName)>,
    waiting: BTreeMap<WorkloadId, BTreeMap<Option<TargetName>, Waiting>>,
    timed: BTreeSet<Key>,
}

impl Schedule {
    /// The rollout and all units.
    pub fn mark_all(&mut self, id: &WorkloadId) {
        let dirt = self.dirty.entry(id.clone()).or_default();
        dirt.rollout = true;
        dirt.all_units = true;
    }

    pub fn mark_rollout(&mut self, id: &WorkloadId) {
        self.dirty.entry(id.clone()).or_default().rollout = true;
    }

    pub fn mark_unit(&mut self, id: &WorkloadId, target: &TargetName) {
        self.dirty.entry(id.clone()).or_default().units.insert(target.clone());
    }

    pub fn waiting(&self, id: &WorkloadId, target: Option<&TargetName>) -> Option<&Waiting> {
        self.waiting.get(id)?.get(&target.cloned())
    }

    fn set_waiting(&mut self, key: &Key, waiting: Option<Waiting>) {
        if waiting
            .as_ref()
            .is_some_and(|waiting| TIMED_WAITS.contains(&waiting.on.as_str()))
        {
            self.timed.insert(key.clone());
        } else {
            self.timed.remove(key);
        }
        let (id, target) = key;
        match waiting {
            Some(waiting) => {
                self.waiting.entry(id.clone()).or_default().insert(target.clone(), waiting);
            }
            None => {
                if let Some(all) = self.waiting.get_mut(id) {
                    all.remove(target);
                }
            }
        }
    }

    fn set_wake(&mut self, key: &Key, at: Option<Millis>) {
        let known = match at {
            Some(at) => self.wake_of.insert(key.clone(), at),
            None => self.wake_of.remove(key),
        };
        if let Some(known) = known {
            self.wakes.remove(&(known, key.clone()));
        }
        if let Some(at) = at {
            self.wakes.insert((at, key.clone()));
        }
    }
}

impl Engine {
    /// When the engine wants a `Tick` at the latest.
    pub fn next_wake(&self) -> Option<Millis> {
        let wake = self.schedule.wakes.first().map(|(t, _)| *t);
        let look = self.schedule.looks.first().map(|(t, _)| *t);
        let clock = (!self.schedule.timed.is_empty()).then_some(self.state.t + CLOCK_ENTRY_MS);
        earliest(earliest(wake, look), clock)
    }

    pub(super) fn wake_due(&mut self) {
        while let Some((t, key)) = self.schedule.wakes.first().cloned() {
            if t > self.now.t {
                break;
            }
            self.schedule.set_wake(&key, None);
            match &key.1 {
                None => self.schedule.mark_rollout(&key.0),
                Some(target) => self.schedule.mark_unit(&key.0, target),
            }
        }
        if !self.schedule.timed.is_empty() && self.now.t >= self.state.t + CLOCK_ENTRY_MS {
            self.append(Draft::new(On::default(), Vec::new(), Body::Clock(ClockTick {})), By::daemon());
        }
    }

    /// Plans everything that something happened to, until nothing more can be decided.
    pub(super) fn settle(&mut self) {
        for _ in 0..INCREMENTS_MAX {
            let dirty = std::mem::take(&mut self.schedule.dirty);
            if dirty.is_empty() {
                return;
            }
            for (id, dirt) in dirty {
                self.settle_workload(&id, dirt);
            }
        }
        for id in std::mem::take(&mut self.schedule.dirty).into_keys() {
            self.stall_rollout(&id, "its plans follow one another without an end".into());
        }
    }

    /// Nothing is planned for it before something new happens to it.
    fn stall_rollout(&mut self, id: &WorkloadId, message: String) {
        let key = (id.clone(), None);
        self.schedule.set_wake(&key, None);
        let stalled = Waiting {
            on: "stalled".into(),
            message,
            since: self.now.t,
            until: None,
        };
        self.schedule.set_waiting(&key, Some(stalled));
    }

    fn settle_workload(&mut self, id: &WorkloadId, dirt: Dirt) {
        if dirt.rollout {
            self.settle_rollout(id);
        }
        let targets: Vec<TargetName> = match self.state.workloads.get(id) {
            Some(workload) if dirt.all_units => workload.units.keys().cloned().collect(),
            Some(_) => dirt.units.into_iter().collect(),
            None => return,
        };
        for target in targets {
            let plan = self.settle_unit(id, &target);
            let key = (id.clone(), Some(target.clone()));
            self.schedule.set_wake(&key, plan.wake_at);
            self.schedule.set_waiting(&key, plan.waiting);
            if let Some(at) = plan.look_at {
                self.want_look(&target, at);
            }
        }
    }

    fn settle_rollout(&mut self, id: &WorkloadId) {
        let plan = self.rollout_plan(id);
        if let Err(violation) = self.check_rollout(id, &plan) {
            return self.stall_rollout(id, format!("the plan checker refused a plan: {violation}"));
        }
        let changed = !plan.records.is_empty();
        for (digest, bytes) in plan.blobs {
            self.blobs.insert(digest, bytes);
        }
        for draft in &plan.records {
            match (&draft.body, &draft.on.target) {
                (Body::Attempt(_), Some(target)) => self.schedule.mark_unit(id, target),
                _ => self.schedule.mark_all(id),
            }
        }
        self.append_all(plan.records);
        for ask in plan.asks {
            self.ask(ask);
        }
        let wake = earliest(plan.wake_at, self.poll_tags(id));
        let key = (id.clone(), None);
        self.schedule.set_wake(&key, wake);
        self.schedule.set_waiting(&key, plan.waiting);
        if changed {
            self.schedule.mark_rollout(id);
        }
    }

    /// Plans one unit until it needs the world; returns the last plan, for its waits.
    fn settle_unit(&mut self, id: &WorkloadId, target: &TargetName) -> UnitPlan {
        for _ in 0..INCREMENTS_MAX {
            let Some((plan, verdict, inputs)) = self.unit_plan(id, target) else {
                return UnitPlan::default();
            };
            if let Err(violation) = verdict {
                self.unit_facts_mut(id, target).stalled = Some(format!("the plan checker refused a plan: {violation}"));
                continue;
            }
            if !plan.records.is_empty() {
                // Progress was made, so the next route is a first try again.
                self.unit_facts_mut(id, target).call.route_repeats = 0;
                if plan.records.iter().any(|draft| concerns_rollout(&draft.body)) {
                    self.schedule.mark_rollout(id);
                }
                if plan.records.iter().any(|draft| matches!(draft.body, Body::Quarantine(_))) {
                    self.schedule.mark_all(id);
                }
                self.append_all(plan.records);
                continue;
            }
            if let Some(verb) = &plan.verb {
                if matches!(verb, Verb::Run { .. }) {
                    // Other units may wait for the same job.
                    self.schedule.mark_all(id);
                }
                self.intend(id, target, verb.clone(), inputs);
            } else if plan.reissue {
                self.reissue(id, target);
            }
            for ask in &plan.asks {
                self.ask(ask.clone());
            }
            if plan.verb.is_some() || plan.reissue {
                // The next plan only says what is under way.
                return self.unit_plan(id, target).map(|(plan, _, _)| plan).unwrap_or_default();
            }
            return plan;
        }
        UnitPlan::default()
    }

    /// The plan, the checker's word on it, and the inputs that a verb's intent records.
    #[allow(clippy::type_complexity, reason = "three parts of one answer")]
    fn unit_plan(&self, id: &WorkloadId, target: &TargetName) -> Option<(UnitPlan, Result<(), Violation>, Vec<u8>)> {
        let context = self.unit_context(id, target)?;
        let plan = plan_unit(&context);
        let verdict = check_unit_plan(&context, &plan);
        let inputs = if plan.verb.is_some() { context.inputs() } else { Vec::new() };
        Some((plan, verdict, inputs))
    }

    pub(super) fn unit_context<'a>(&'a self, id: &'a WorkloadId, target: &'a TargetName) -> Option<UnitContext<'a>> {
        let workload = self.state.workloads.get(id)?;
        let facts = self.targets.get(target);
        Some(UnitContext {
            state: &self.state,
            config: &self.config,
            id,
            target,
            workload,
            unit: workload.units.get(target)?,
            look: facts.and_then(|facts| facts.look(id.as_str())),
            away: facts.and_then(|facts| facts.last_failure.as_ref()),
            facts: self
                .units
                .get(id)
                .and_then(|units| units.get(target))
                .unwrap_or(&self.no_facts),
            now: self.now.t,
        })
    }

    /// A look at the target by then, if none is wanted earlier.
    pub(super) fn want_look(&mut self, target: &TargetName, at: Millis) {
        let known = self.targets.get(target).and_then(|facts| facts.next_look);
        if known.is_none_or(|known| at < known) {
            self.set_look(target, at);
        }
    }

    pub(super) fn set_look(&mut self, target: &TargetName, at: Millis) {
        let facts = self.targets.entry(target.clone()).or_default();
        let known = facts.next_look.replace(at);
        let asked = facts.asked;
        if let Some(known) = known {
            self.schedule.looks.remove(&(known, target.clone()));
        }
        // One that is under way sets the next when it ends.
        if !asked {
            self.schedule.looks.insert((at, target.clone()));
        }
    }

    /// One observation per target at a time, when somebody wants one.
    pub(super) fn look_due(&mut self) {
        while let Some((t, target)) = self.schedule.looks.first().cloned() {
            if t > self.now.t {
                break;
            }
            self.schedule.looks.pop_first();
            if let Some(facts) = self.targets.get_mut(&target) {
                facts.asked = true;
                facts.next_look = None;
            }
            self.ask(Ask::Observe {
                target,
                begun: self.state.size,
            });
        }
    }

    /// The answer came: the next look is the earliest that somebody asked for meanwhile, or the idle one.
    pub(super) fn look_done(&mut self, target: &TargetName, otherwise: Millis) {
        let facts = self.targets.entry(target.clone()).or_default();
        facts.asked = false;
        let wanted = facts.next_look.take();
        self.set_look(target, wanted.map_or(otherwise, |wanted| wanted.min(otherwise)));
    }
}

/// Whether the rollout may decide something else after this entry of a unit. The phases of an attempt under way are the
/// unit's own.
fn concerns_rollout(body: &Body) -> bool {
    use PhaseName::{Absent, Leaving, Stable};
    match body {
        Body::Attempt(AttemptChange::Ended { .. }) | Body::Quarantine(_) => true,
        Body::Attempt(AttemptChange::Phase { to, .. }) => matches!(to, Absent | Leaving | Stable),
        _ => false,
    }
}

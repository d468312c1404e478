//! `plan_unit`: the next increment for one workload on one target.
//!
//! Read from the top: every phase is one function, every way out of a phase is an entry, and every wait says on what.
//! `forward` is the way to a proven generation, `shift` brings it traffic, `back` is the way back, `rest` is what a unit
//! without an attempt does.

mod back;
mod drift;
mod forward;
mod jobs;
mod rest;
mod rolling;
mod route;
mod shift;

use super::facts::{Look, Seen, UnitFacts};
use super::{Ask, Draft, UnitPlan, Waiting, backoff_ms, earliest};
use crate::config::EngineConfig;
use crate::entry::*;
use crate::ids::{Millis, TargetName, WorkloadId};
use crate::spec::{Strategy, WorkloadSpec};
use crate::state::{AttemptState, Claim, GenState, State, UnitState, WorkloadState};
use crate::target::{Abilities, Fault, FaultClass, GenPhase, GenerationState, Sizing, Verb};
use serde::{Deserialize, Serialize};

/// Faults in a row before an attempt that has changed nothing yet is given up.
pub const FAULTS_BEFORE_GIVING_UP: u32 = 5;
/// Looks at a candidate that answers wrongly, once it carries traffic, before it is judged.
const UNHEALTHY_INTERVALS: Millis = 3;
/// How often a target without anything to do is looked at.
pub const IDLE_LOOK_MS: Millis = 60_000;
/// Fewer ready instances than wanted for so long are missing, not starting.
const SHORT_MS: Millis = 60_000;
/// A probe is made at least so often while its answer matters.
const PROBE_DEADLINE_MS: Millis = 10_000;
const STALE_CALL: &str = "an earlier call may still be on its way, and the target does not refuse stale ones";
/// Waits that nothing ends by itself: a unit in one of them turns to a newer request at once.
const UNBOUNDED_WAITS: [&str; 10] = [
    "approval", "analysis", "decision", "paused", "room", "target", "job", "job-lost", "retry", "way-back",
];

pub struct UnitContext<'a> {
    pub state: &'a State,
    pub config: &'a EngineConfig,
    pub id: &'a WorkloadId,
    pub target: &'a TargetName,
    pub workload: &'a WorkloadState,
    pub unit: &'a UnitState,
    /// The newest look at the target, as far as it concerns this unit.
    pub look: Option<Look>,
    /// Why the target cannot be looked at, since its last good look.
    pub away: Option<&'a Fault>,
    pub facts: &'a UnitFacts,
    pub now: Millis,
}

/// What a unit's plan rests on beside State and configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    pub now: Millis,
    pub look: Option<Look>,
    pub away: Option<Fault>,
    pub facts: UnitFacts,
}

impl Inputs {
    /// The plan that these inputs gave on the State just before the intent: what `audit` compares the intent with.
    pub fn replay(&self, state: &State, config: &EngineConfig, id: &WorkloadId, target: &TargetName) -> Option<UnitPlan> {
        let workload = state.workloads.get(id)?;
        Some(plan_unit(&UnitContext {
            state,
            config,
            id,
            target,
            workload,
            unit: workload.units.get(target)?,
            look: self.look.clone(),
            away: self.away.as_ref(),
            facts: &self.facts,
            now: self.now,
        }))
    }
}

impl<'a> UnitContext<'a> {
    /// What the plan rests on beside State, for the intent: canonical JSON, from which a replay plans the same again.
    pub fn inputs(&self) -> Vec<u8> {
        let inputs = Inputs {
            now: self.now,
            look: self.look.clone(),
            away: self.away.cloned(),
            facts: self.facts.clone(),
        };
        // Cannot fail: string keys, and measured values are finite.
        serde_json_canonicalizer::to_vec(&inputs).unwrap_or_default()
    }

    pub fn is_placed(&self) -> bool {
        self.state.is_placed(self.workload, self.target)
    }

    /// What the newest look shows, if it was begun after the last effect ended: anything older may describe the world before it.
    fn fresh(&self) -> Option<&Seen> {
        let look = self.look.as_ref()?;
        let settled = self.unit.last_result == 0 || look.begun > self.unit.last_result;
        let acknowledged = self.facts.call.in_flight.is_none() && self.unit.intent.is_none();
        (settled && acknowledged).then_some(&*look.seen)
    }

    fn looked_t(&self) -> Millis {
        self.look.as_ref().map_or(0, |look| look.t)
    }

    /// What the newest look shows was so at this time or later.
    fn looked_since(&self) -> Millis {
        self.look.as_ref().map_or(0, |look| look.asked_t)
    }

    /// Instances of the generation that should serve are missing: they have had the time to start.
    fn is_short(&self) -> bool {
        let since = self.facts.short_since;
        since.is_some_and(|since| self.now.saturating_sub(since) >= SHORT_MS)
    }

    fn spec(&self) -> Option<&'a WorkloadSpec> {
        self.workload.spec.as_ref()
    }

    fn on(&self) -> On {
        On {
            workload: Some(self.id.clone()),
            target: Some(self.target.clone()),
            rollout: self.unit.attempt.as_ref().map(|attempt| attempt.request),
            attempt: self.unit.attempt.as_ref().map(|attempt| attempt.id),
            generation: self.unit.attempt.as_ref().map(|attempt| attempt.generation),
        }
    }

    fn draft(&self, body: Body) -> Draft {
        let because = self.unit.attempt.iter().map(|attempt| attempt.id).collect();
        Draft::new(self.on(), because, body)
    }

    fn change(&self, change: AttemptChange) -> UnitPlan {
        UnitPlan::record(self.draft(Body::Attempt(change)))
    }

    fn enter(&self, to: PhaseName, reason: &str, message: impl Into<String>) -> UnitPlan {
        self.change(AttemptChange::Phase {
            to,
            reason: reason.into(),
            message: message.into(),
        })
    }

    fn wait(&self, on: &str, message: impl Into<String>, since: Millis, until: Option<Millis>) -> UnitPlan {
        UnitPlan {
            waiting: Some(Waiting {
                on: on.into(),
                message: message.into(),
                since,
                until,
            }),
            wake_at: until,
            ..UnitPlan::default()
        }
    }

    /// Waits for a new look, at the rhythm of the manifest's health interval.
    fn look(&self, on: &str, message: impl Into<String>, since: Millis) -> UnitPlan {
        let interval_ms = self.spec().map_or(IDLE_LOOK_MS, |spec| spec.health.interval_ms);
        let next = if self.fresh().is_some() {
            self.looked_t() + interval_ms
        } else {
            self.now
        };
        UnitPlan {
            look_at: Some(next),
            ..self.wait(on, message, since, None)
        }
    }

    fn look_at_target(&self) -> UnitPlan {
        let message = match self.away {
            Some(fault) => format!("target {} cannot be looked at: {}", self.target, fault.message),
            None => format!("target {} has not been looked at yet", self.target),
        };
        self.look("target", message, self.unit.phase_t)
    }

    /// One more try of a verb, not before its back-off is over.
    fn act(&self, verb: Verb) -> UnitPlan {
        let not_before = self.facts.call.not_before;
        if self.now < not_before {
            return self.wait("retry", STALE_CALL, self.unit.last_fault_t, Some(not_before));
        }
        let again_at = self.unit.last_fault_t + backoff_ms(self.unit.faults);
        match &self.unit.last_fault {
            Some((class, message)) if self.unit.faults > 0 && self.now < again_at => {
                let text = format!("{} answered {}: {message}", verb.name(), class.as_str());
                let on = if *class == FaultClass::Exhausted { "room" } else { "retry" };
                self.wait(on, text, self.unit.last_fault_t, Some(again_at))
            }
            _ => UnitPlan {
                verb: Some(verb),
                ..UnitPlan::default()
            },
        }
    }

    /// Instances that the unit should have when one generation serves alone.
    fn wanted_instances(&self, can: &Abilities) -> u32 {
        let Some(spec) = self.spec() else { return 1 };
        match can.sizing {
            Sizing::Unsized => 1,
            Sizing::Planned => spec.instances,
            // An autoscaler may have found that more are needed: the new generation begins with as many.
            Sizing::Automatic => {
                let now = self
                    .unit
                    .current
                    .and_then(|number| self.look.as_ref()?.seen.generation(number)?.wanted);
                let most = spec.instances_max.unwrap_or(u32::MAX);
                now.unwrap_or(0).clamp(spec.instances.min(most), most)
            }
        }
    }
}

/// Whether the old generation has to be out of the way before the new one is there.
fn is_exclusive(can: &Abilities, spec: &WorkloadSpec) -> bool {
    !can.overlap || matches!(spec.strategy, Strategy::Recreate { .. })
}

/// At size 0, by its phase or its own count.
fn is_parked(state: &GenerationState) -> bool {
    state.phase == GenPhase::Parked || state.wanted == Some(0)
}

pub fn plan_unit(c: &UnitContext) -> UnitPlan {
    if let Some(reason) = &c.facts.stalled {
        return c.wait("stalled", reason.clone(), c.unit.phase_t, None);
    }
    if let Some(plan) = foreign(c) {
        return plan;
    }
    if c.unit.intent.is_some() {
        return settle_intent(c);
    }
    match &c.unit.attempt {
        Some(attempt) => match c.unit.phase {
            PhaseName::Undoing => back::undo(c, attempt),
            PhaseName::Retiring => forward::retire(c, attempt),
            _ => back::stop_early(c, attempt).unwrap_or_else(|| {
                let plan = forward::advance(c, attempt);
                back::leave_for_newer(c, attempt, &plan).unwrap_or(plan)
            }),
        },
        None => rest::rest(c),
    }
}

/// A target that is another owner's, or that knows more than this ledger, is not touched.
fn foreign(c: &UnitContext) -> Option<UnitPlan> {
    let (on, message) = match &c.state.targets.get(c.target)?.claim {
        Claim::Conflict(owner) => (
            "conflict",
            format!("target {} belongs to owner {owner}; nothing there is touched", c.target),
        ),
        Claim::Ahead(fence) => (
            "ledger-loss",
            format!(
                "target {} has seen fence {fence}, above this ledger's head: the ledger is an old copy",
                c.target
            ),
        ),
        Claim::Unseen | Claim::Ours => return None,
    };
    Some(c.wait(on, message, c.unit.phase_t, None))
}

/// An open intent ends only by an answer. Until then the same verb is issued again, under the same fence.
fn settle_intent(c: &UnitContext) -> UnitPlan {
    let Some(intent) = &c.unit.intent else {
        return UnitPlan::default();
    };
    // After a restart, whose the target is comes first.
    if c.look.is_none() {
        return c.look_at_target();
    }
    if c.facts.call.in_flight.is_some() {
        return c.wait("call", format!("{} is under way", intent.verb.name()), intent.since, None);
    }
    let (again_at, message) = match (&c.facts.call.again_at, &intent.last_fault) {
        (Some(again_at), _) => (*again_at, c.facts.call.progress.clone()),
        (None, Some((class, message))) => (
            intent.last_t + backoff_ms(intent.tries),
            format!("{} answered {}: {message}", intent.verb.name(), class.as_str()),
        ),
        (None, None) => (c.now, String::new()),
    };
    let not_before = c.facts.call.not_before;
    if c.now < not_before {
        return c.wait("retry", STALE_CALL, intent.since, Some(not_before));
    }
    if c.now >= again_at {
        UnitPlan {
            reissue: true,
            ..UnitPlan::default()
        }
    } else {
        c.wait(intent.verb.name(), message, intent.since, Some(again_at))
    }
}

/// The first generation, a release proven here before with the same captured values, and a heal need no steps: health alone.
fn is_way_back(c: &UnitContext, attempt: &AttemptState) -> bool {
    attempt.old.is_none() || attempt.heal || c.unit.has_proven(&attempt.release, &attempt.captured)
}

/// Adds the manifest's HTTP check when the last one is older than the interval.
fn with_probe(c: &UnitContext, attempt: &AttemptState, mut plan: UnitPlan) -> UnitPlan {
    let Some(spec) = c.spec() else { return plan };
    let Some(http) = &spec.health.http else { return plan };
    let Some(state) = c.fresh().and_then(|seen| seen.generation(attempt.generation)) else {
        return plan;
    };
    let addresses = addresses(state);
    if addresses.is_empty() {
        return plan;
    }
    let last = c.facts.probe.as_ref().filter(|probe| probe.generation == attempt.generation);
    let due = last.map_or(c.now, |probe| probe.t + spec.health.interval_ms.min(PROBE_DEADLINE_MS));
    if c.now >= due {
        plan.asks.push(Ask::Probe {
            workload: c.id.clone(),
            target: c.target.clone(),
            generation: attempt.generation,
            path: http.path.clone(),
            addresses,
        });
    } else {
        plan.wake_at = earliest(plan.wake_at, Some(due));
    }
    plan
}

fn addresses(state: &GenerationState) -> Vec<String> {
    let all = state.instances.iter().map(|instance| instance.address.clone());
    all.filter(|address| !address.is_empty()).collect()
}

fn message_or(message: &str, fallback: &str) -> String {
    if message.is_empty() { fallback.into() } else { message.into() }
}

fn generation<'a>(c: &UnitContext<'a>, number: u32) -> Option<&'a GenState> {
    c.unit.generations.get(&number)
}

/// A weight as a percentage, without needless zeros.
pub fn percent(weight: u32) -> String {
    let text = format!("{}.{:02}", weight / 100, weight % 100);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

//! `plan_unit`: the next increment for one workload on one target.
//!
//! Read from the top: every phase is one function, every way out of a phase is an entry, and every wait says on what.

use super::analysis::{Standing, standing};
use super::facts::{Seen, TargetFacts, UnitFacts};
use super::{Ask, Draft, UnitPlan, Waiting, backoff_ms, earliest};
use crate::entry::*;
use crate::ids::{FULL_SHARE, GenNumber, Millis, TargetName, WorkloadId};
use crate::spec::{Rollback, Strategy, WorkloadSpec, share_of};
use crate::state::{AttemptState, Claim, State, UnitState, WorkloadState};
use crate::target::{FaultClass, GenPhase, Share, Verb};
use serde_json::json;

/// Faults in a row before an attempt that has changed nothing yet is given up.
pub const FAULTS_BEFORE_GIVING_UP: u32 = 5;
/// Looks at a candidate that answers wrongly, once it carries traffic, before it is judged.
const UNHEALTHY_INTERVALS: Millis = 3;
/// How often a target without anything to do is looked at.
pub const IDLE_LOOK_MS: Millis = 60_000;
const PROBE_DEADLINE_MS: Millis = 10_000;

pub struct UnitContext<'a> {
    pub state: &'a State,
    pub id: &'a WorkloadId,
    pub target: &'a TargetName,
    pub workload: &'a WorkloadState,
    pub unit: &'a UnitState,
    pub target_facts: &'a TargetFacts,
    pub facts: &'a UnitFacts,
    pub now: Millis,
}

impl<'a> UnitContext<'a> {
    pub fn of(
        state: &'a State,
        id: &'a WorkloadId,
        target: &'a TargetName,
        target_facts: &'a TargetFacts,
        facts: &'a UnitFacts,
        now: Millis,
    ) -> Option<Self> {
        let workload = state.workloads.get(id)?;
        let unit = workload.units.get(target)?;
        Some(Self {
            state,
            id,
            target,
            workload,
            unit,
            target_facts,
            facts,
            now,
        })
    }

    /// The newest observation, if it was begun after the last effect ended: anything older may describe the world before it.
    pub fn fresh(&self) -> Option<Seen<'a>> {
        let observed = self.target_facts.observed.as_ref()?;
        let settled = self.unit.last_result == 0 || observed.begun > self.unit.last_result;
        let acknowledged = self.facts.call.in_flight.is_none() && self.unit.intent.is_none();
        (settled && acknowledged).then_some(Seen {
            observed,
            workload: self.id.as_str(),
            t: self.target_facts.observed_t,
        })
    }

    pub fn is_placed(&self) -> bool {
        self.state.placed(self.workload).any(|(name, _)| name == self.target)
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
        UnitPlan {
            records: vec![self.draft(Body::Attempt(change))],
            ..UnitPlan::default()
        }
    }

    fn enter(&self, to: PhaseName, reason: &str, message: String) -> UnitPlan {
        self.change(AttemptChange::Phase {
            to,
            reason: reason.into(),
            message,
        })
    }

    fn wait(&self, on: &str, message: String, since: Millis, until: Option<Millis>) -> UnitPlan {
        UnitPlan {
            waiting: Some(Waiting {
                on: on.into(),
                message,
                since,
                until,
            }),
            wake_at: until,
            ..UnitPlan::default()
        }
    }

    /// Waits for a new observation, at the rhythm of the manifest's health interval.
    fn look(&self, on: &str, message: String, since: Millis) -> UnitPlan {
        let interval_ms = self.spec().map_or(IDLE_LOOK_MS, |spec| spec.health.interval_ms);
        let next = if self.fresh().is_some() {
            self.target_facts.observed_t + interval_ms
        } else {
            self.now
        };
        UnitPlan {
            look_at: Some(next),
            ..self.wait(on, message, since, None)
        }
    }

    /// One more try of a verb, not before its back-off is over.
    fn act(&self, verb: Verb) -> UnitPlan {
        let again_at = self.unit.last_fault_t + backoff_ms(self.unit.faults);
        match &self.unit.last_fault {
            Some((class, message)) if self.unit.faults > 0 && self.now < again_at => {
                let text = format!("{} answered {}: {message}", verb.name(), class.as_str());
                self.wait("retry", text, self.unit.last_fault_t, Some(again_at))
            }
            _ => UnitPlan {
                verb: Some(verb),
                ..UnitPlan::default()
            },
        }
    }
}

pub fn plan_unit(c: &UnitContext) -> UnitPlan {
    if let Some(reason) = &c.facts.stalled {
        return c.wait("stalled", reason.clone(), c.unit.phase_t, None);
    }
    if let Some(target) = c.state.targets.get(c.target) {
        match &target.claim {
            Claim::Conflict(owner) => {
                return c.wait(
                    "conflict",
                    format!("target {} belongs to owner {owner}; nothing there is touched", c.target),
                    c.unit.phase_t,
                    None,
                );
            }
            Claim::Ahead(fence) => {
                let text = format!(
                    "target {} has seen fence {fence}, above this ledger's head: the ledger is an old copy",
                    c.target
                );
                return c.wait("ledger-loss", text, c.unit.phase_t, None);
            }
            Claim::Unseen | Claim::Ours => {}
        }
    }
    if c.unit.intent.is_some() {
        return settle_intent(c);
    }
    match &c.unit.attempt {
        Some(attempt) => match c.unit.phase {
            PhaseName::Undoing => undo(c, attempt),
            PhaseName::Retiring => retire(c, attempt),
            _ => stop_early(c, attempt).unwrap_or_else(|| advance(c, attempt)),
        },
        None => rest(c),
    }
}

/// An open intent ends only by an answer. Until then the same verb is issued again, under the same fence.
fn settle_intent(c: &UnitContext) -> UnitPlan {
    let Some(intent) = &c.unit.intent else {
        return UnitPlan::default();
    };
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
    if c.now >= again_at {
        UnitPlan {
            reissue: true,
            ..UnitPlan::default()
        }
    } else {
        c.wait(intent.verb.name(), message, intent.since, Some(again_at))
    }
}

/// Reasons to turn back that hold in every phase before Retiring.
fn stop_early(c: &UnitContext, attempt: &AttemptState) -> Option<UnitPlan> {
    let attempt_number = c.workload.attempt_number();
    if let Some(quarantine) = c.workload.quarantined(&attempt.release, &attempt.captured, attempt_number) {
        let mut plan = turn_back(c, AttemptOutcome::Stopped, "quarantined", quarantine.message.clone());
        plan.records.iter_mut().for_each(|draft| draft.because.push(quarantine.seq));
        return Some(plan);
    }
    if !c.is_placed() {
        return Some(turn_back(
            c,
            AttemptOutcome::Stopped,
            "unplaced",
            "the workload is no longer placed here".into(),
        ));
    }
    let request = c.workload.request.as_ref()?;
    let superseded = request.id != attempt.request;
    let healthy = c.facts.health.generation == attempt.generation && c.facts.health.healthy_since.is_some();
    if superseded && (request.paused || !healthy || c.unit.phase == PhaseName::Preparing) {
        return Some(turn_back(
            c,
            AttemptOutcome::Stopped,
            "superseded",
            "a newer request replaces it".into(),
        ));
    }
    None
}

fn turn_back(c: &UnitContext, outcome: AttemptOutcome, reason: &str, message: String) -> UnitPlan {
    c.change(AttemptChange::Undo {
        outcome,
        reason: reason.into(),
        message,
    })
}

/// A bad verdict: judged, quarantined and turned back in one batch, so that no crash can separate them.
fn condemn(
    c: &UnitContext,
    attempt: &AttemptState,
    about: &str,
    reason: &str,
    message: String,
    evidence: serde_json::Value,
) -> UnitPlan {
    let verdict = Verdict {
        about: about.into(),
        outcome: VerdictOutcome::Fail,
        reason: reason.into(),
        message: message.clone(),
        evidence,
    };
    let manual = c.spec().is_some_and(|spec| spec.rollback == Rollback::Manual);
    if manual && attempt.judged.is_some() {
        return c.look(
            "decision",
            format!("{message}; rollback is manual: abort or advance"),
            c.unit.phase_t,
        );
    }
    let mut plan = UnitPlan {
        records: vec![c.draft(Body::Verdict(verdict))],
        ..UnitPlan::default()
    };
    if manual {
        return plan;
    }
    let quarantine = Quarantine {
        action: QuarantineAction::Set,
        release: attempt.release.clone(),
        attempt: c.workload.attempt_number(),
        values: Some(attempt.captured.clone()),
        reason: reason.into(),
        message: message.clone(),
    };
    plan.records.push(Draft::following(c.on(), Body::Quarantine(quarantine)));
    let undo = AttemptChange::Undo {
        outcome: AttemptOutcome::Bad,
        reason: reason.into(),
        message,
    };
    plan.records.push(Draft::following(c.on(), Body::Attempt(undo)));
    plan
}

/// The faults of a verb that has been answered: what they mean for the attempt.
fn give_up_after_faults(c: &UnitContext, attempt: &AttemptState) -> Option<UnitPlan> {
    let (class, message) = c.unit.last_fault.as_ref().filter(|_| c.unit.faults > 0)?;
    match class {
        FaultClass::Failed => Some(condemn(
            c,
            attempt,
            "health",
            "failed",
            message.clone(),
            json!({ "class": class.as_str() }),
        )),
        FaultClass::Invalid | FaultClass::Conflict | FaultClass::Fenced => {
            Some(turn_back(c, AttemptOutcome::CouldNotTry, class.as_str(), message.clone()))
        }
        _ if c.unit.faults >= FAULTS_BEFORE_GIVING_UP => {
            Some(turn_back(c, AttemptOutcome::CouldNotTry, class.as_str(), message.clone()))
        }
        _ => None,
    }
}

fn advance(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    if let Some(plan) = give_up_after_faults(c, attempt) {
        return plan;
    }
    if c.workload.request.as_ref().is_some_and(|request| request.paused) && c.unit.phase != PhaseName::Proving {
        // Paused stops progress, never protection: a candidate with traffic is still watched.
        if let Some(plan) = watch(c, attempt) {
            return plan;
        }
        return c.look("paused", "paused; `holdfast resume` goes on".into(), c.unit.phase_t);
    }
    match c.unit.phase {
        PhaseName::Preparing => prepare(c, attempt),
        PhaseName::Launching => launch(c, attempt),
        PhaseName::Proving => prove(c, attempt),
        PhaseName::Shifting => shift(c, attempt),
        PhaseName::Baking => bake(c, attempt),
        PhaseName::Absent | PhaseName::Stable | PhaseName::Leaving | PhaseName::Retiring | PhaseName::Undoing => {
            UnitPlan::default()
        }
    }
}

fn prepare(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    // The rollout's pre-flight has asked the plugin; what is left is to see the target before anything is put on it.
    match c.target_facts.observed {
        Some(_) => c.enter(
            PhaseName::Launching,
            "admitted",
            format!("generation {} of release {}", attempt.generation, attempt.release.short()),
        ),
        None => c.look("target", unreachable_message(c), attempt.began),
    }
}

fn unreachable_message(c: &UnitContext) -> String {
    match &c.target_facts.last_failure {
        Some(fault) => format!("target {} cannot be observed: {}", c.target, fault.message),
        None => format!("target {} has not been observed yet", c.target),
    }
}

fn launch(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    let Some(spec) = c.spec() else { return UnitPlan::default() };
    if !attempt.launched {
        return c.act(Verb::Launch {
            generation: attempt.generation,
            size: first_size(c, attempt, spec),
        });
    }
    match c.fresh().and_then(|seen| seen.generation(attempt.generation)) {
        Some(state) => {
            let mut plan = c.change(AttemptChange::Fingerprint {
                fingerprint: state.fingerprint.clone(),
            });
            plan.records.extend(
                c.enter(PhaseName::Proving, "seen", "the target shows the new generation".into())
                    .records,
            );
            plan
        }
        None if c.now.saturating_sub(attempt.launch_t) >= spec.health.timeout_ms => turn_back(
            c,
            AttemptOutcome::CouldNotTry,
            "not-seen",
            "launched, but the target never showed it".into(),
        ),
        None => c.look(
            "launch",
            "waiting until the target shows the new generation".into(),
            attempt.launch_t,
        ),
    }
}

fn first_size(c: &UnitContext, attempt: &AttemptState, spec: &WorkloadSpec) -> u32 {
    match (&spec.strategy, attempt.old) {
        (Strategy::Canary { .. }, Some(_)) => {
            let first = steps(c, attempt, spec).first().map_or(FULL_SHARE, |step| step.0);
            share_of(spec.instances, first)
        }
        _ => spec.instances,
    }
}

/// Weights and holds that this attempt goes through. The first generation, and a release proven here before, go straight to all.
fn steps(c: &UnitContext, attempt: &AttemptState, spec: &WorkloadSpec) -> Vec<(u32, Millis)> {
    if attempt.old.is_none() || c.workload.proven.contains(&attempt.release) {
        return vec![(FULL_SHARE, 0)];
    }
    spec.strategy.steps().iter().map(|step| (step.weight, step.hold_ms)).collect()
}

fn is_way_back(c: &UnitContext, attempt: &AttemptState) -> bool {
    attempt.old.is_none() || c.workload.proven.contains(&attempt.release)
}

fn prove(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    let Some(spec) = c.spec() else { return UnitPlan::default() };
    if let Some(plan) = watch(c, attempt) {
        return plan;
    }
    let health = &c.facts.health;
    let since = c.unit.phase_t;
    match health.healthy_since.filter(|_| health.generation == attempt.generation) {
        Some(healthy_since) => {
            let stable_at = healthy_since + spec.health.stable_ms;
            if c.now >= stable_at {
                let verdict = Verdict {
                    about: "health".into(),
                    outcome: VerdictOutcome::Pass,
                    reason: "stable".into(),
                    message: format!("healthy for {} ms without a break", c.now - healthy_since),
                    evidence: json!({ "restarts": health.restarts, "stable_ms": spec.health.stable_ms }),
                };
                let mut plan = UnitPlan {
                    records: vec![c.draft(Body::Verdict(verdict))],
                    ..UnitPlan::default()
                };
                plan.records.extend(
                    c.enter(PhaseName::Shifting, "proven", "healthy; traffic may come".into())
                        .records,
                );
                return plan;
            }
            let mut plan = with_probe(
                c,
                attempt,
                c.look("stable", "healthy; watching that it stays so".into(), since),
            );
            plan.wake_at = earliest(plan.wake_at, Some(stable_at));
            if let Some(waiting) = &mut plan.waiting {
                waiting.until = Some(stable_at);
            }
            plan
        }
        None => {
            let deadline = attempt.launch_t + spec.health.timeout_ms;
            let text = if health.message.is_empty() {
                "not ready yet".into()
            } else {
                health.message.clone()
            };
            let mut plan = with_probe(c, attempt, c.look("healthy", text, since));
            plan.wake_at = earliest(plan.wake_at, Some(deadline));
            if let Some(waiting) = &mut plan.waiting {
                waiting.until = Some(deadline);
            }
            plan
        }
    }
}

/// Ends an attempt whose candidate is bad, too late or gone. None: nothing wrong so far.
fn watch(c: &UnitContext, attempt: &AttemptState) -> Option<UnitPlan> {
    let spec = c.spec()?;
    let state = c.fresh()?.generation(attempt.generation);
    let health = &c.facts.health;
    let known = health.generation == attempt.generation;
    let (reason, message) = (health.reason.as_str(), health.message.clone());
    let evidence = || json!({ "reason": reason, "phase": state.map(|state| state.phase), "instances": state.map(|state| &state.instances), "restarts": state.map(|state| state.restarts) });
    let Some(state) = state else {
        return Some(turn_back(
            c,
            AttemptOutcome::CouldNotTry,
            "vanished",
            "the new generation is gone from the target".into(),
        ));
    };
    if state.phase == GenPhase::Failing {
        return Some(condemn(
            c,
            attempt,
            "health",
            reason_or(reason, "failing"),
            message_or(&message, "the release fails"),
            evidence(),
        ));
    }
    if !known {
        return None;
    }
    if reason == "wrong-digest" {
        return Some(turn_back(c, AttemptOutcome::CouldNotTry, reason, message));
    }
    let proving = matches!(c.unit.phase, PhaseName::Proving | PhaseName::Launching);
    let unhealthy_ms = health.unhealthy_since.map_or(0, |since| c.now.saturating_sub(since));
    let too_late = if proving {
        health.healthy_since.is_none() && c.now.saturating_sub(attempt.launch_t) >= spec.health.timeout_ms
    } else {
        unhealthy_ms >= UNHEALTHY_INTERVALS * spec.health.interval_ms && health.unhealthy_since.is_some()
    };
    if !too_late {
        return None;
    }
    let text = message_or(&message, "it did not become healthy in time");
    Some(if health.started && state.phase != GenPhase::Stuck {
        condemn(c, attempt, "health", reason_or(reason, "not-healthy"), text, evidence())
    } else {
        turn_back(c, AttemptOutcome::CouldNotTry, reason_or(reason, "not-started"), text)
    })
}

fn reason_or<'a>(reason: &'a str, fallback: &'a str) -> &'a str {
    if reason.is_empty() { fallback } else { reason }
}

fn message_or(message: &str, fallback: &str) -> String {
    if message.is_empty() { fallback.into() } else { message.into() }
}

/// Adds the manifest's HTTP check when the last one is older than the interval.
fn with_probe(c: &UnitContext, attempt: &AttemptState, mut plan: UnitPlan) -> UnitPlan {
    let Some(spec) = c.spec() else { return plan };
    let Some(http) = &spec.health.http else { return plan };
    let Some(state) = c.fresh().and_then(|seen| seen.generation(attempt.generation)) else {
        return plan;
    };
    let addresses: Vec<String> = state
        .instances
        .iter()
        .map(|instance| instance.address.clone())
        .filter(|address| !address.is_empty())
        .collect();
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

fn shift(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    let Some(spec) = c.spec() else { return UnitPlan::default() };
    if let Some(plan) = watch(c, attempt) {
        return plan;
    }
    let steps = steps(c, attempt, spec);
    let reached = steps
        .iter()
        .find(|(weight, _)| *weight == attempt.weight && attempt.weight > 0);
    if let Some((weight, hold_ms)) = reached
        && attempt.passed != Some(*weight)
    {
        return hold(c, attempt, spec, *hold_ms);
    }
    let Some((weight, _)) = steps.iter().find(|(weight, _)| *weight > attempt.weight) else {
        return c.enter(PhaseName::Baking, "shifted", "all traffic is on the new generation".into());
    };
    let Some(seen) = c.fresh() else {
        return c.look("target", unreachable_message(c), c.unit.phase_t);
    };
    let size = share_of(spec.instances, *weight);
    if let Some(state) = seen.generation(attempt.generation)
        && state.wanted.is_some_and(|wanted| wanted < size)
    {
        // Capacity comes before the traffic that needs it.
        return c.act(Verb::Scale {
            generation: attempt.generation,
            size,
        });
    }
    if c.facts.health.healthy_since.is_none() || c.facts.health.generation != attempt.generation {
        return with_probe(
            c,
            attempt,
            c.look(
                "healthy",
                message_or(&c.facts.health.message, "waiting until it is healthy"),
                c.unit.phase_t,
            ),
        );
    }
    match route_to(
        c,
        seen,
        attempt.old.unwrap_or(attempt.generation),
        attempt.generation,
        *weight,
    ) {
        Routed::Yes => c.change(AttemptChange::Reached { weight: *weight }),
        Routed::No(plan) => plan,
    }
}

enum Routed {
    /// Read back everywhere, by an observation begun after the last effect.
    Yes,
    No(UnitPlan),
}

/// Brings `weight` of the traffic to `to` and the rest to `from`.
fn route_to(c: &UnitContext, seen: Seen, from: GenNumber, to: GenNumber, weight: u32) -> Routed {
    let mut shares: Vec<Share> = seen
        .generations()
        .map(|state| Share {
            number: state.number,
            live: 0,
        })
        .filter(|share| c.unit.generations.contains_key(&share.number))
        .collect();
    for share in &mut shares {
        if share.number == to {
            share.live = weight;
        } else if share.number == from {
            share.live = FULL_SHARE - weight;
        }
    }
    let is_so =
        seen.route().is_some_and(|route| route.settled) && shares.iter().all(|share| seen.share(share.number) == share.live);
    if is_so {
        return Routed::Yes;
    }
    if shares.iter().map(|share| share.live).sum::<u32>() != FULL_SHARE {
        return Routed::No(c.look(
            "target",
            "waiting until the target shows both generations".into(),
            c.unit.phase_t,
        ));
    }
    if c.facts.call.route_repeats > 0 {
        let again_at = c.facts.call.routed_t + backoff_ms(c.facts.call.route_repeats);
        if c.now < again_at {
            let mut plan = c.look("route", "the weights do not read back as set yet".into(), c.unit.phase_t);
            plan.wake_at = earliest(plan.wake_at, Some(again_at));
            return Routed::No(plan);
        }
    }
    let lead = if weight == FULL_SHARE { to } else { from };
    Routed::No(c.act(Verb::Route { shares, lead }))
}

/// At a weight: its hold, counted while it serves, and the analyses.
fn hold(c: &UnitContext, attempt: &AttemptState, spec: &WorkloadSpec, hold_ms: Millis) -> UnitPlan {
    let until = attempt.weight_t + hold_ms;
    let (plan, pass) = analyse(c, attempt, spec, attempt.weight_t);
    if let Some(plan) = plan {
        return plan;
    }
    if c.now < until {
        let text = format!("holding at {}%", percent(attempt.weight));
        let mut plan = with_measure(
            c,
            attempt,
            spec,
            with_probe(c, attempt, c.look("hold", text, attempt.weight_t)),
        );
        plan.wake_at = earliest(plan.wake_at, Some(until));
        if let Some(waiting) = &mut plan.waiting {
            waiting.until = Some(until);
        }
        return plan;
    }
    match pass {
        Ok(mut verdicts) => {
            verdicts.push(c.draft(Body::Attempt(AttemptChange::Passed { weight: attempt.weight })));
            UnitPlan {
                records: verdicts,
                ..UnitPlan::default()
            }
        }
        Err(waiting) => with_measure(
            c,
            attempt,
            spec,
            with_probe(c, attempt, c.look("analysis", waiting, attempt.weight_t)),
        ),
    }
}

pub fn percent(weight: u32) -> String {
    let text = format!("{}.{:02}", weight / 100, weight % 100);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The analyses' say: a plan that ends the attempt, or verdicts to record when the step passes, or what is missing.
fn analyse(
    c: &UnitContext,
    attempt: &AttemptState,
    spec: &WorkloadSpec,
    from: Millis,
) -> (Option<UnitPlan>, Result<Vec<Draft>, String>) {
    if is_way_back(c, attempt) {
        return (None, Ok(Vec::new()));
    }
    let mut verdicts = Vec::new();
    let mut missing = None;
    for analysis in &spec.analysis {
        let about = format!("analysis/{}", analysis.name);
        match standing(c.facts.analysis.get(&analysis.name), analysis, from, c.now) {
            Standing::Failed(measured) if !analysis.dry_run => {
                let message = format!(
                    "{}: {} of {} samples, against {} of {} before; condition {}",
                    analysis.name,
                    measured.canary.value,
                    measured.canary.samples,
                    measured.baseline.value,
                    measured.baseline.samples,
                    analysis.fail_when
                );
                let evidence = json!({ "weight": attempt.weight, "canary": measured.canary, "baseline": measured.baseline, "fail_when": analysis.fail_when });
                return (
                    Some(condemn(c, attempt, &about, "analysis-failed", message, evidence)),
                    Ok(Vec::new()),
                );
            }
            Standing::GivenUp { since } if !analysis.dry_run => {
                let message = format!(
                    "{}: nothing could be measured for {} ms, and the manifest says to fail for it",
                    analysis.name,
                    c.now - since
                );
                return (
                    Some(turn_back(c, AttemptOutcome::CouldNotTry, "unmeasured", message)),
                    Ok(Vec::new()),
                );
            }
            Standing::Passing(measured) => {
                let verdict = Verdict {
                    about,
                    outcome: VerdictOutcome::Pass,
                    reason: "passed".into(),
                    message: format!(
                        "{} of {} samples at {}%",
                        measured.canary.value,
                        measured.canary.samples,
                        percent(attempt.weight)
                    ),
                    evidence: json!({ "weight": attempt.weight, "canary": measured.canary, "baseline": measured.baseline }),
                };
                verdicts.push(c.draft(Body::Verdict(verdict)));
            }
            _ if analysis.dry_run => {}
            Standing::Unmeasured { canary, .. } => {
                missing = Some(format!(
                    "analysis {} has {} of {} samples",
                    analysis.name, canary.samples, analysis.min_samples
                ));
            }
            _ => missing = Some(format!("analysis {} failed once; measuring again", analysis.name)),
        }
    }
    (None, missing.map_or(Ok(verdicts), Err))
}

/// Adds a measurement when the last one is older than the shortest interval.
fn with_measure(c: &UnitContext, attempt: &AttemptState, spec: &WorkloadSpec, mut plan: UnitPlan) -> UnitPlan {
    let Some(interval_ms) = spec.analysis.iter().map(|analysis| analysis.interval_ms).min() else {
        return plan;
    };
    if is_way_back(c, attempt) {
        return plan;
    }
    let due = c.facts.measured_t.map_or(c.now, |t| t + interval_ms);
    if c.now >= due {
        let generations = std::iter::once(attempt.generation).chain(attempt.old).collect();
        plan.asks.push(Ask::Measure {
            workload: c.id.clone(),
            target: c.target.clone(),
            generations,
            queries: Vec::new(),
        });
    } else {
        plan.wake_at = earliest(plan.wake_at, Some(due));
    }
    plan
}

fn bake(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    let Some(spec) = c.spec() else { return UnitPlan::default() };
    if let Some(plan) = watch(c, attempt) {
        return plan;
    }
    let (plan, pass) = analyse(c, attempt, spec, c.unit.phase_t);
    if let Some(plan) = plan {
        return plan;
    }
    let bake_ms = if is_way_back(c, attempt) { 0 } else { spec.strategy.bake_ms() };
    let until = c.unit.phase_t + bake_ms;
    let advanced = attempt.passed.is_some();
    if bake_ms == 0 || advanced || (c.now >= until && pass.is_ok()) {
        if c.facts.health.healthy_since.is_none() {
            return with_probe(
                c,
                attempt,
                c.look(
                    "healthy",
                    message_or(&c.facts.health.message, "waiting until it is healthy"),
                    c.unit.phase_t,
                ),
            );
        }
        let mut records = if bake_ms > 0 { pass.unwrap_or_default() } else { Vec::new() };
        records.extend(
            c.enter(PhaseName::Retiring, "baked", "proven; the old generation may go".into())
                .records,
        );
        return UnitPlan {
            records,
            ..UnitPlan::default()
        };
    }
    let mut plan = with_measure(
        c,
        attempt,
        spec,
        with_probe(
            c,
            attempt,
            c.look(
                "bake",
                "all traffic is on the new generation; the old one is kept".into(),
                c.unit.phase_t,
            ),
        ),
    );
    plan.wake_at = earliest(plan.wake_at, Some(until.max(c.now + 1)));
    if let Some(waiting) = &mut plan.waiting {
        waiting.until = Some(until);
    }
    plan
}

/// The point of no return: whatever is not the new generation goes, once nothing reaches it.
fn retire(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    let Some(seen) = c.fresh() else {
        return c.look("target", unreachable_message(c), c.unit.phase_t);
    };
    if seen.generation(attempt.generation).is_none() {
        return c.look(
            "target",
            "the proven generation is not seen; nothing is retired".into(),
            c.unit.phase_t,
        );
    }
    if let Routed::No(plan) = route_to(
        c,
        seen,
        attempt.old.unwrap_or(attempt.generation),
        attempt.generation,
        FULL_SHARE,
    ) {
        return plan;
    }
    let leftover = seen
        .generations()
        .find(|state| state.number != attempt.generation && c.unit.generations.contains_key(&state.number));
    match leftover {
        Some(old) => c.act(Verb::Retire {
            generation: old.number,
            last: false,
        }),
        None => c.change(AttemptChange::Ended {
            outcome: AttemptOutcome::Succeeded,
            reason: "stable".into(),
            message: format!("generation {} serves alone", attempt.generation),
            parked: Vec::new(),
        }),
    }
}

/// The way back: all traffic to the old generation first, then the candidate goes. Tried for ever.
fn undo(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    let (outcome, reason, message) = attempt
        .undo
        .clone()
        .unwrap_or((AttemptOutcome::Stopped, "undone".into(), String::new()));
    let ended = || {
        c.change(AttemptChange::Ended {
            outcome,
            reason: reason.clone(),
            message: message.clone(),
            parked: Vec::new(),
        })
    };
    let was_launched = c
        .unit
        .generations
        .get(&attempt.generation)
        .is_some_and(|generation| generation.launched);
    if !was_launched {
        return ended();
    }
    let Some(seen) = c.fresh() else {
        return c.look("target", unreachable_message(c), c.unit.phase_t);
    };
    if let Some(old) = attempt.old
        && seen.route().is_some()
        && let Routed::No(plan) = route_to(c, seen, old, old, FULL_SHARE)
    {
        return plan;
    }
    if seen.generation(attempt.generation).is_none() {
        return ended();
    }
    if !attempt.explained && outcome != AttemptOutcome::Stopped {
        let ask = Ask::Explain {
            workload: c.id.clone(),
            target: c.target.clone(),
            generation: attempt.generation,
        };
        return UnitPlan {
            asks: vec![ask],
            ..c.wait("diagnosis", "asking the target why".into(), c.unit.phase_t, None)
        };
    }
    c.act(Verb::Retire {
        generation: attempt.generation,
        last: attempt.old.is_none(),
    })
}

/// No attempt: stable, absent, or on the way out.
fn rest(c: &UnitContext) -> UnitPlan {
    let idle = || UnitPlan {
        look_at: Some(c.target_facts.observed_t + IDLE_LOOK_MS),
        ..UnitPlan::default()
    };
    if c.unit.phase == PhaseName::Leaving && c.state.target_spec(c.target).is_some() {
        return if c.is_placed() { stay(c) } else { leave(c) };
    }
    if c.is_placed() || c.state.target_spec(c.target).is_none() {
        return idle();
    }
    match c.unit.phase {
        PhaseName::Absent => idle(),
        _ if c.unit.held => c.wait(
            "removal-guard",
            format!(
                "its revision removes more than the limit; `holdfast allow-removals {}` lets it go",
                c.id.name()
            ),
            c.unit.phase_t,
            None,
        ),
        _ => {
            let change = AttemptChange::Phase {
                to: PhaseName::Leaving,
                reason: "removed".into(),
                message: "no manifest places it here any more".into(),
            };
            let because = vec![c.workload.spec_seq];
            UnitPlan {
                records: vec![Draft::new(c.on(), because, Body::Attempt(change))],
                ..UnitPlan::default()
            }
        }
    }
}

/// Placed again while it was leaving. What still serves whole stays; what was begun to be taken away is taken away whole,
/// and the rollout launches anew.
fn stay(c: &UnitContext) -> UnitPlan {
    let Some(seen) = c.fresh() else {
        return c.look("target", unreachable_message(c), c.unit.phase_t);
    };
    let whole = c
        .unit
        .current
        .is_some_and(|number| seen.generation(number).is_some() && seen.share(number) == FULL_SHARE);
    if whole {
        c.enter(
            PhaseName::Stable,
            "placed",
            "placed here again before anything was taken away".into(),
        )
    } else {
        leave(c)
    }
}

fn leave(c: &UnitContext) -> UnitPlan {
    let Some(seen) = c.fresh() else {
        return c.look("target", unreachable_message(c), c.unit.phase_t);
    };
    let ours: Vec<GenNumber> = seen
        .generations()
        .map(|state| state.number)
        .filter(|number| c.unit.generations.contains_key(number))
        .collect();
    match ours.as_slice() {
        [] => c.enter(PhaseName::Absent, "gone", "nothing of it is left on the target".into()),
        [only] => c.act(Verb::Retire {
            generation: *only,
            last: true,
        }),
        [first, ..] => {
            let off_line = seen.share(*first) == 0;
            let generation = if off_line { *first } else { ours[1] };
            c.act(Verb::Retire { generation, last: false })
        }
    }
}

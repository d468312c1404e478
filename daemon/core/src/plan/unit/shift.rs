//! Traffic by weight: capacity before the traffic that needs it, people's yes where the manifest wants it, then the route,
//! and at each weight its hold and the analyses.

use super::back::{condemn, turn_back};
use super::forward::watch;
use super::rolling::roll;
use super::route::{Routed, route_to};
use super::*;
use crate::ids::FULL_SHARE;
use crate::plan::MeasureQuery;
use crate::plan::analysis::{Standing, standing};
use crate::spec::{Analysis, AnalysisSource, share_of};
use serde_json::json;

/// Weights and holds that this attempt goes through; a way back goes straight to all, and so does what has no old generation
/// to share with: it was parked first, by a strategy that the manifest may have changed since, or it is gone.
pub(super) fn steps(c: &UnitContext, attempt: &AttemptState, spec: &WorkloadSpec) -> Vec<(u32, Millis)> {
    let seen = c.look.as_ref().map(|look| &look.seen);
    let has_old = |old| seen.is_none_or(|seen| seen.generation(old).is_some_and(|old| !is_parked(old)));
    if is_way_back(c, attempt) || !attempt.old.is_some_and(has_old) {
        return vec![(FULL_SHARE, 0)];
    }
    spec.strategy.steps().iter().map(|step| (step.weight, step.hold_ms)).collect()
}

pub(super) fn shift(c: &UnitContext, attempt: &AttemptState) -> UnitPlan {
    let Some(spec) = c.spec() else { return UnitPlan::default() };
    let can = attempt.can();
    if let Strategy::Rolling {
        surge, max_unavailable, ..
    } = &spec.strategy
        && attempt.old.is_some()
        && can.sizing != Sizing::Unsized
    {
        return approval(c, attempt, spec, FULL_SHARE).unwrap_or_else(|| roll(c, attempt, spec, *surge, *max_unavailable));
    }
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
        return c.enter(PhaseName::Baking, "shifted", "all traffic is on the new generation");
    };
    if let Some(plan) = approval(c, attempt, spec, *weight) {
        return with_measure(c, attempt, spec, with_probe(c, attempt, plan));
    }
    let Some(seen) = c.fresh() else {
        return c.look_at_target();
    };
    let size = share_of(c.wanted_instances(&can), *weight).max(1);
    if let Some(state) = seen.generation(attempt.generation)
        && state.wanted.is_some_and(|wanted| wanted < size)
    {
        return c.act(Verb::Scale {
            generation: attempt.generation,
            size,
        });
    }
    if c.facts.health.healthy_since.is_none() || c.facts.health.generation != attempt.generation {
        let text = message_or(&c.facts.health.message, "waiting until it is healthy");
        return with_probe(c, attempt, c.look("healthy", text, c.unit.phase_t));
    }
    let from = attempt.old.unwrap_or(attempt.generation);
    match route_to(c, &can, seen, from, attempt.generation, *weight) {
        Routed::Yes => c.change(AttemptChange::Reached { weight: *weight }),
        Routed::No(plan) => plan,
    }
}

/// The wait for people's yes to this weight, if it is not there yet. What was proven here before needs none.
pub(super) fn approval(c: &UnitContext, attempt: &AttemptState, spec: &WorkloadSpec, weight: u32) -> Option<UnitPlan> {
    let wanted = spec.approval.as_ref()?;
    if attempt.heal || c.unit.has_proven(&attempt.release, &attempt.captured) {
        return None;
    }
    let request = c.workload.request.as_ref().filter(|request| request.id == attempt.request);
    let given = |step: u32| request.map_or(0, |request| request.approvers(step).len());
    // Whatever step it passes on its way has to be agreed to, also where the manifest's steps have changed since.
    let mut passed = wanted
        .before
        .iter()
        .filter(|step| **step > attempt.weight && **step <= weight);
    let step = *passed.find(|step| given(**step) < wanted.count as usize)?;
    let text = format!(
        "{} of {} approvals before {}%; `holdfast approve {} --step {}%`",
        given(step),
        wanted.count,
        percent(step),
        c.id.name(),
        percent(step)
    );
    Some(c.look("approval", text, attempt.weight_t))
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
        let waiting = with_probe(c, attempt, c.look("hold", text, attempt.weight_t));
        let mut plan = with_measure(c, attempt, spec, waiting);
        plan.end_by(until);
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
        Err(missing) => {
            let waiting = with_probe(c, attempt, c.look("analysis", missing, attempt.weight_t));
            with_measure(c, attempt, spec, waiting)
        }
    }
}

/// Whether an analysis has a say at the present weight.
fn is_due(analysis: &Analysis, attempt: &AttemptState) -> bool {
    analysis.at.is_empty() || analysis.at.contains(&attempt.weight)
}

/// The analyses' say: a plan that ends the attempt, or the comparisons to record when the step passes, or what is missing.
pub(super) fn analyse(
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
    for analysis in spec.analysis.iter().filter(|analysis| is_due(analysis, attempt)) {
        let about = format!("analysis/{}", analysis.name);
        let facts = c.facts.analysis.get(&analysis.name);
        let now = standing(facts, analysis, from, c.now);
        let record = |outcome, reason: &str, message, measured: Option<&crate::plan::facts::Measured>| {
            c.draft(Body::Verdict(Verdict {
                about: about.clone(),
                outcome,
                reason: reason.into(),
                message,
                evidence: json!({
                    "weight": attempt.weight,
                    "canary": measured.map(|measured| measured.canary),
                    "baseline": measured.map(|measured| measured.baseline),
                    "fail_when": analysis.fail_when,
                    "dry_run": analysis.dry_run,
                }),
            }))
        };
        match now {
            Standing::Failed(measured) if !analysis.dry_run => {
                let message = format!(
                    "{}: {} of {} samples, against {} of {} before; condition {}",
                    analysis.name,
                    rounded(measured.canary.value),
                    measured.canary.samples,
                    rounded(measured.baseline.value),
                    measured.baseline.samples,
                    analysis.fail_when
                );
                let evidence = json!({ "weight": attempt.weight, "canary": measured.canary, "baseline": measured.baseline, "fail_when": analysis.fail_when });
                let plan = condemn(c, attempt, &about, "analysis-failed", message, evidence);
                return (Some(plan), Ok(Vec::new()));
            }
            Standing::GivenUp { since } if !analysis.dry_run => {
                let message = format!(
                    "{}: nothing could be measured for {} ms, and the manifest says to fail for it",
                    analysis.name,
                    c.now - since
                );
                let plan = turn_back(c, AttemptOutcome::CouldNotTry, "unmeasured", message);
                return (Some(plan), Ok(Vec::new()));
            }
            Standing::Passing(measured) => {
                let message = format!(
                    "{} of {} samples at {}%, against {} of {} before",
                    rounded(measured.canary.value),
                    measured.canary.samples,
                    percent(attempt.weight),
                    rounded(measured.baseline.value),
                    measured.baseline.samples
                );
                verdicts.push(record(VerdictOutcome::Pass, "passed", message, Some(&measured)));
            }
            Standing::Failed(measured) => {
                let message = format!("would have failed; it is a dry run: {}", rounded(measured.canary.value));
                verdicts.push(record(VerdictOutcome::Fail, "dry-run", message, Some(&measured)));
            }
            _ if analysis.dry_run => {
                verdicts.push(record(
                    VerdictOutcome::Unmeasured,
                    "dry-run",
                    "not measured; it is a dry run".into(),
                    None,
                ));
            }
            Standing::Unmeasured { canary, .. } => {
                let why = facts.map(|facts| facts.why.as_str()).filter(|why| !why.is_empty());
                missing = Some(match why {
                    Some(why) => format!("analysis {} cannot be measured: {why}", analysis.name),
                    None => format!(
                        "analysis {} has {} of {} samples",
                        analysis.name, canary.samples, analysis.min_samples
                    ),
                });
            }
            Standing::Doubtful => missing = Some(format!("analysis {} failed once; measuring again", analysis.name)),
            Standing::GivenUp { .. } => {}
        }
    }
    (None, missing.map_or(Ok(verdicts), Err))
}

/// Three significant digits are enough for people; the evidence has all.
fn rounded(value: f64) -> String {
    let digits = if value == 0.0 || !value.is_finite() {
        0
    } else {
        (2 - value.abs().log10().floor() as i32).clamp(0, 9) as usize
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Adds a measurement when the last one is older than the shortest interval of the analyses that are due.
pub(super) fn with_measure(c: &UnitContext, attempt: &AttemptState, spec: &WorkloadSpec, mut plan: UnitPlan) -> UnitPlan {
    let proving = c.unit.phase == PhaseName::Proving;
    let due: Vec<&Analysis> = spec
        .analysis
        .iter()
        .filter(|analysis| !proving && !is_way_back(c, attempt) && is_due(analysis, attempt))
        .collect();
    let telemetry = proving && spec.health.telemetry_required;
    let interval_ms = due
        .iter()
        .map(|analysis| analysis.interval_ms)
        .chain(telemetry.then_some(spec.health.interval_ms))
        .min();
    let Some(interval_ms) = interval_ms else { return plan };
    let due_at = c.facts.measured_t.map_or(c.now, |t| t + interval_ms);
    if c.now < due_at {
        plan.wake_at = earliest(plan.wake_at, Some(due_at));
        return plan;
    }
    let generations: Vec<u32> = std::iter::once(attempt.generation).chain(attempt.old).collect();
    let seen = c.fresh();
    let addresses_of = |number: u32| {
        seen.and_then(|seen| seen.generation(number))
            .map(addresses)
            .unwrap_or_default()
    };
    let queries = due.into_iter().filter_map(|analysis| match &analysis.source {
        AnalysisSource::Target { .. } => None,
        source => {
            let asked = matches!(source, AnalysisSource::Http { .. });
            let addresses = generations
                .iter()
                .filter(|_| asked)
                .map(|number| (*number, addresses_of(*number)));
            Some(MeasureQuery {
                name: analysis.name.clone(),
                source: source.clone(),
                addresses: addresses.collect(),
            })
        }
    });
    plan.asks.push(Ask::Measure {
        workload: c.id.clone(),
        target: c.target.clone(),
        queries: queries.collect(),
        generations,
    });
    plan
}

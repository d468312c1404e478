//! Analysis: is the candidate worse than what it replaces? A condition is only judged on enough samples of the
//! candidate's own; "cannot measure" is never "bad".

use super::facts::{AnalysisFacts, Answers, Measure, Measured, Samples};
use crate::ids::{GenNumber, Millis};
use crate::spec::{Analysis, AnalysisSource, UnmeasuredThen};
use cel::{Context, Program, Value};
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    #[error("the condition is not valid CEL: {0}")]
    Compile(String),
    #[error("the condition cannot be evaluated: {0}")]
    Evaluate(String),
    #[error("the condition gives {0}, not true or false")]
    NotBool(String),
}

/// Evaluates a `failWhen` condition.
pub fn condition(text: &str, canary: Measure, baseline: Measure) -> Result<bool, ConditionError> {
    let program = Program::compile(text).map_err(|error| ConditionError::Compile(error.to_string()))?;
    let mut context = Context::default();
    context.add_variable_from_value("canary", measure_value(canary));
    context.add_variable_from_value("baseline", measure_value(baseline));
    match program.execute(&context) {
        Ok(Value::Bool(failed)) => Ok(failed),
        Ok(other) => Err(ConditionError::NotBool(format!("{other:?}"))),
        Err(error) => Err(ConditionError::Evaluate(error.to_string())),
    }
}

fn measure_value(measure: Measure) -> Value {
    let samples = i64::try_from(measure.samples).unwrap_or(i64::MAX);
    let map: HashMap<String, Value> = [
        ("value".to_owned(), Value::Float(measure.value)),
        ("samples".to_owned(), Value::Int(samples)),
    ]
    .into();
    Value::from(map)
}

/// Folds one measurement of all generations into what is known.
pub fn update(
    facts: &mut AnalysisFacts,
    analysis: &Analysis,
    samples: &Samples,
    candidate: GenNumber,
    old: Option<GenNumber>,
    now: Millis,
) {
    let AnalysisSource::Target { numerator, total } = &analysis.source else {
        return;
    };
    let read = |number: GenNumber| {
        let samples = samples.get(&number)?;
        let find = |name: &str| samples.iter().find(|sample| sample.name == name).map(|sample| sample.value);
        // A counter that never counted may be left out by the target; its total may not.
        find(total)
            .filter(|total| total.is_finite())
            .map(|total| (find(numerator).filter(|n| n.is_finite()).unwrap_or(0.0), total))
    };
    for number in samples.keys() {
        if let Some(now) = read(*number) {
            let base = facts.base.entry(*number).or_insert(now);
            // A counter that fell began anew with its process.
            if now.1 < base.1 {
                *base = (0.0, 0.0);
            }
        }
    }
    let canary = read(candidate).map_or(Measure::default(), |(numerator, total)| ratio(numerator, total));
    let baseline = old
        .and_then(|old| Some((read(old)?, facts.base.get(&old).copied().unwrap_or_default())))
        .map_or(Measure::default(), |((numerator, total), base)| {
            match ratio(numerator - base.0, total - base.1) {
                Measure { samples: 0, .. } => ratio(numerator, total),
                since_the_attempt_began => since_the_attempt_began,
            }
        });
    judge(facts, analysis, canary, baseline, now);
}

/// Folds the answers of another source. Whatever is not a number of the candidate's own is unmeasured.
pub fn update_from(
    facts: &mut AnalysisFacts,
    analysis: &Analysis,
    answers: &Answers,
    candidate: GenNumber,
    old: Option<GenNumber>,
    now: Millis,
) {
    let read = |number: GenNumber| match answers.get(&number) {
        Some(Ok(measure)) if measure.value.is_finite() => Ok(*measure),
        Some(Ok(_)) => Err("the answer is not a finite number".to_owned()),
        Some(Err(why)) => Err(why.clone()),
        None => Err("not asked".to_owned()),
    };
    let canary = match read(candidate) {
        Ok(canary) => canary,
        Err(why) => {
            facts.why = why;
            return unmeasured(facts, now);
        }
    };
    facts.why.clear();
    // Probes are counted over all that were made since the attempt began; a query counts by itself.
    let mut add = |number: GenNumber, one: Measure| -> Measure {
        if !matches!(analysis.source, AnalysisSource::Http { .. }) {
            return one;
        }
        let sum = facts.base.entry(number).or_insert((0.0, 0.0));
        sum.0 += one.value * one.samples as f64;
        sum.1 += one.samples as f64;
        ratio(sum.0, sum.1)
    };
    let canary = add(candidate, canary);
    let baseline = old.and_then(|old| Some(add(old, read(old).ok()?))).unwrap_or_default();
    judge(facts, analysis, canary, baseline, now);
}

/// Is it enough to decide, and what is decided?
fn judge(facts: &mut AnalysisFacts, analysis: &Analysis, canary: Measure, baseline: Measure, now: Millis) {
    if canary.samples < analysis.min_samples.max(1) {
        facts.unmeasured_since.get_or_insert(now);
        facts.measured = Some(Measured {
            t: now,
            canary,
            baseline,
            failed: false,
        });
        return;
    }
    match condition(&analysis.fail_when, canary, baseline) {
        Ok(failed) => {
            facts.unmeasured_since = None;
            facts.failures = if failed { facts.failures + 1 } else { 0 };
            facts.measured = Some(Measured {
                t: now,
                canary,
                baseline,
                failed,
            });
        }
        Err(_) => {
            facts.unmeasured_since.get_or_insert(now);
        }
    }
}

/// A target that answered nothing.
pub fn unmeasured(facts: &mut AnalysisFacts, now: Millis) {
    facts.unmeasured_since.get_or_insert(now);
}

fn ratio(numerator: f64, total: f64) -> Measure {
    if total > 0.0 {
        // A float-to-int cast saturates; a negative or absurd counter cannot wrap.
        Measure {
            value: numerator.max(0.0) / total,
            samples: total as u64,
        }
    } else {
        Measure::default()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    Passing(Arc<Measured>),
    /// Failures in a row reached the limit.
    Failed(Arc<Measured>),
    /// Failed, but not yet often enough.
    Doubtful,
    Unmeasured {
        since: Millis,
        canary: Measure,
    },
    /// Unmeasured for too long, and the manifest says to fail for it.
    GivenUp {
        since: Millis,
    },
}

/// Where an analysis stands, as far as it was measured after `from`.
pub fn standing(facts: Option<&AnalysisFacts>, analysis: &Analysis, from: Millis, now: Millis) -> Standing {
    let unmeasured_since = facts.and_then(|facts| facts.unmeasured_since).unwrap_or(from).max(from);
    let fresh = facts
        .and_then(|facts| facts.measured.as_ref())
        .filter(|measured| measured.t >= from);
    match (facts, fresh) {
        (Some(facts), Some(measured)) if facts.unmeasured_since.is_none() => {
            let measured = Arc::new(measured.clone());
            if facts.failures >= analysis.failures {
                Standing::Failed(measured)
            } else if measured.failed {
                Standing::Doubtful
            } else {
                Standing::Passing(measured)
            }
        }
        (_, fresh) => {
            let canary = fresh.map(|measured| measured.canary).unwrap_or_default();
            let over = now.saturating_sub(unmeasured_since) >= analysis.unmeasured.for_ms;
            match analysis.unmeasured.then {
                UnmeasuredThen::Fail if over => Standing::GivenUp { since: unmeasured_since },
                UnmeasuredThen::Pass if over => Standing::Passing(Arc::new(Measured {
                    t: now,
                    canary,
                    baseline: Measure::default(),
                    failed: false,
                })),
                _ => Standing::Unmeasured {
                    since: unmeasured_since,
                    canary,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        let bad = Measure {
            value: 0.2,
            samples: 100,
        };
        let good = Measure {
            value: 0.0,
            samples: 900,
        };
        let text = "canary.value > baseline.value * 2.0 && canary.value > 0.01";
        assert_eq!(condition(text, bad, good), Ok(true));
        assert_eq!(condition(text, good, good), Ok(false));
        assert_eq!(condition("canary.samples >= 100", bad, good), Ok(true));
        assert!(matches!(
            condition("canary.value >", bad, good),
            Err(ConditionError::Compile(_))
        ));
        assert!(matches!(
            condition("canary.oops > 1.0", bad, good),
            Err(ConditionError::Evaluate(_))
        ));
        assert!(matches!(
            condition("canary.value", bad, good),
            Err(ConditionError::NotBool(_))
        ));
    }
}

//! How traffic comes to a new release, and who must agree.

use super::super::yaml::{Node, Place};
use super::Reader;
use super::values::{count, duration, flag, int, list, object, percent};
use crate::ids::FULL_SHARE;
use crate::spec::{Approval, CanaryStep, Count, Strategy};

const STEPS_MAX: usize = 50;
const ROLLING_SURGE: Count = Count::Share(2_500);
const ROLLING_MAX_UNAVAILABLE: Count = Count::Number(0);

impl Reader<'_> {
    pub(super) fn strategy(&mut self, node: &Node, strategy: &mut Strategy) {
        let bake = |inner: &Node| duration(inner, "bake").unwrap_or(0);
        if let Some(inner) = object(node, "blueGreen") {
            *strategy = Strategy::BlueGreen { bake_ms: bake(inner) };
        } else if let Some(inner) = object(node, "canary") {
            *strategy = Strategy::Canary {
                steps: self.steps(inner),
                bake_ms: bake(inner),
            };
        } else if let Some(inner) = object(node, "rolling") {
            let surge = count(inner, "surge").unwrap_or(ROLLING_SURGE);
            let max_unavailable = count(inner, "maxUnavailable").unwrap_or(ROLLING_MAX_UNAVAILABLE);
            let is_zero = |count| matches!(count, Count::Number(0) | Count::Share(0));
            if is_zero(surge) && is_zero(max_unavailable) {
                self.problem(
                    "rolling",
                    inner.locate("/surge"),
                    "with surge 0 and maxUnavailable 0 no instance could ever be replaced",
                    "raise one of them",
                );
            }
            *strategy = Strategy::Rolling {
                surge,
                max_unavailable,
                bake_ms: bake(inner),
            };
        } else if let Some(inner) = object(node, "recreate") {
            *strategy = Strategy::Recreate { bake_ms: bake(inner) };
        }
    }

    fn steps(&mut self, canary: &Node) -> Vec<CanaryStep> {
        let items = list(canary, "steps");
        let mut steps: Vec<CanaryStep> = Vec::new();
        for item in items.iter().take(STEPS_MAX) {
            let Some(weight) = item.get("weight").and_then(percent) else {
                continue;
            };
            let place = item.locate("/weight");
            if weight == 0 {
                let hint = "the first step is above 0%: a candidate is proven at 0% anyway";
                self.problem("weight", place, "a step at 0% shows nothing", hint);
            } else if steps.last().is_some_and(|last| last.weight >= weight) {
                self.problem("weight", place, "weights rise from step to step", "as in 10%, 50%, 100%");
            }
            steps.push(CanaryStep {
                weight,
                hold_ms: duration(item, "hold").unwrap_or(0),
            });
        }
        let ends_full = steps.last().is_some_and(|last| last.weight == FULL_SHARE);
        if canary.get("steps").is_some() && (items.len() > STEPS_MAX || !ends_full) {
            let message = format!("a canary has 1 to {STEPS_MAX} steps, and the last one is 100%");
            self.problem("steps", canary.locate("/steps"), message, "add { weight: 100% } at the end");
        }
        steps
    }

    pub(super) fn approval(&mut self, node: &Node, steps: Option<&[CanaryStep]>) -> Approval {
        let before = self.weights(node, "before", steps);
        if node.get("before").is_some() && list(node, "before").is_empty() {
            let message = "an approval before nothing is none";
            self.problem("approval", node.locate("/before"), message, "as in before: [ 100% ]");
        }
        Approval {
            before,
            count: int(node, "count").unwrap_or(1),
            allow_author: flag(node, "allowAuthor").unwrap_or(false),
        }
    }

    /// A list of weights, each of which the strategy reaches.
    pub(super) fn weights(&mut self, node: &Node, key: &str, steps: Option<&[CanaryStep]>) -> Vec<u32> {
        let mut weights: Vec<u32> = Vec::new();
        for item in list(node, key) {
            let Some(weight) = percent(item) else { continue };
            if weights.contains(&weight) {
                self.problem(
                    "duplicate",
                    item.place,
                    format!("{key} names a weight twice"),
                    "keep one of them",
                );
            } else if let Some(steps) = steps {
                self.is_reached(item.place, key, weight, steps);
            }
            weights.push(weight);
            if weights.len() > STEPS_MAX {
                self.too_many(node.locate(&format!("/{key}")), key, list(node, key).len(), STEPS_MAX);
                break;
            }
        }
        weights
    }

    fn is_reached(&mut self, place: Place, key: &str, weight: u32, steps: &[CanaryStep]) {
        if weight == FULL_SHARE || steps.iter().any(|step| step.weight == weight) {
            return;
        }
        let reached: Vec<String> = steps.iter().map(|step| shown(step.weight)).collect();
        let message = format!("{key} names {}, which the strategy never reaches", shown(weight));
        self.problem("weight", place, message, format!("it reaches {}", reached.join(", ")));
    }
}

fn shown(weight: u32) -> String {
    format!("{}%", f64::from(weight) / 100.0)
}

//! Where a workload runs, in which order, and how many of it.

use super::super::yaml::Node;
use super::Reader;
use super::values::{count, duration, int, list, object, text, text_map};
use crate::spec::{Count, OnHalt, Placement, Targets, Wave, WorkloadSpec};

const WAVES_MAX: usize = 50;

impl Reader<'_> {
    pub(super) fn placement(&mut self, spec: &Node) -> Placement {
        let none = Placement::from(Targets::Names(Vec::new()));
        let Some(node) = object(spec, "placement") else { return none };
        let mut placement = match object(node, "targets") {
            Some(targets) if targets.get("matchLabels").is_some() => {
                Placement::from(Targets::MatchLabels(text_map(targets, "matchLabels")))
            }
            Some(targets) => Placement::from(Targets::Names(self.names(list(targets, "names"), "target"))),
            None => none,
        };
        placement.waves = self.waves(node);
        placement.max_failed = count(node, "maxFailed").unwrap_or(placement.max_failed);
        placement.max_lagging = count(node, "maxLagging").unwrap_or(placement.max_lagging);
        placement.lag_after_ms = duration(node, "lagAfter").unwrap_or(placement.lag_after_ms);
        if text(node, "onHalt") == Some("abort") {
            placement.on_halt = OnHalt::Abort;
        }
        placement
    }

    fn waves(&mut self, placement: &Node) -> Vec<Wave> {
        let items = list(placement, "waves");
        self.too_many(placement.locate("/waves"), "waves", items.len(), WAVES_MAX);
        let mut waves = Vec::new();
        // Numbers and percentages rise for themselves: how they compare, the number of targets decides.
        let (mut number, mut share) = (0, 0);
        for item in items.iter().take(WAVES_MAX) {
            let Some(targets) = count(item, "targets") else { continue };
            let (size, last) = match targets {
                Count::Number(size) => (size, &mut number),
                Count::Share(size) => (size, &mut share),
            };
            if size <= *last {
                let message = if size == 0 {
                    "a wave has at least one target"
                } else {
                    "waves rise: each says how many targets have the release when it is over"
                };
                self.problem("waves", item.locate("/targets"), message, "as in 1, then 25%, then 100%");
            }
            *last = size;
            waves.push(Wave {
                targets,
                hold_ms: duration(item, "hold").unwrap_or(0),
            });
        }
        waves
    }

    pub(super) fn instances(&mut self, node: &Node, spec: &mut WorkloadSpec) {
        spec.instances = int(node, "instances").unwrap_or(spec.instances);
        let Some(range) = object(node, "instances") else { return };
        if let (Some(min), Some(max)) = (int(range, "min"), int(range, "max")) {
            if min > max {
                let message = format!("min {min} is above max {max}");
                self.problem("instances", range.locate("/min"), message, "min is the smaller one");
            }
            (spec.instances, spec.instances_max) = (min, Some(max));
        }
    }
}

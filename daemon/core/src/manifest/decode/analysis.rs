//! What tells good from bad: health of a generation, and analysis against what it replaces.

use super::super::fields::nearest;
use super::super::yaml::Node;
use super::Reader;
use super::values::{duration, flag, int, list, object, text};
use crate::plan::analysis::{ConditionError, condition};
use crate::plan::facts::Measure;
use crate::spec::{Analysis, AnalysisSource, CanaryStep, Health, HttpHealth, Unmeasured, UnmeasuredThen};
use std::collections::BTreeSet;

const ANALYSES_MAX: usize = 16;
const INTERVAL_LEAST_MS: u64 = 50;
const QUERY_MAX_BYTES: usize = 4_096;
/// What a query may ask to be filled in, between `{{` and `}}`.
pub const QUERY_PLACEHOLDERS: [&str; 5] = ["generation", "workload", "target", "release", "deploy"];

impl Reader<'_> {
    pub(super) fn health(&mut self, node: &Node, health: &mut Health) {
        health.timeout_ms = duration(node, "timeout").unwrap_or(health.timeout_ms);
        health.interval_ms = self.interval(node, health.interval_ms);
        health.stable_ms = duration(node, "stable").unwrap_or(health.stable_ms);
        if health.timeout_ms <= health.stable_ms {
            let place = match node.get("timeout") {
                Some(timeout) => timeout.place,
                None => node.locate("/stable"),
            };
            let message = "timeout must be longer than stable, or nothing can ever be proven";
            self.problem("timeout", place, message, "by default timeout is 5m and stable is 30s");
        }
        health.http = object(node, "http").map(|http| HttpHealth { path: self.path(http) });
        health.telemetry_required = text(node, "telemetry") == Some("required");
    }

    fn interval(&mut self, node: &Node, default_ms: u64) -> u64 {
        let interval_ms = duration(node, "interval").unwrap_or(default_ms);
        if interval_ms < INTERVAL_LEAST_MS {
            let message = format!("looking more often than every {INTERVAL_LEAST_MS}ms is not possible");
            self.problem("interval", node.locate("/interval"), message, "as in interval: 1s");
        }
        interval_ms
    }

    fn path(&mut self, http: &Node) -> String {
        let path = text(http, "path").unwrap_or_default();
        let is_good = path.starts_with('/') && path.len() <= 512 && path.bytes().all(|b| (0x21..=0x7e).contains(&b));
        if text(http, "path").is_some() && !is_good {
            let message = format!("{path:?} is not a path beginning with /");
            self.problem("path", http.locate("/path"), message, "as in path: /healthz");
        }
        path.to_owned()
    }

    /// Without steps, weights are not judged.
    pub(super) fn analyses(&mut self, spec: &Node, steps: Option<&[CanaryStep]>) -> Vec<Analysis> {
        let items = list(spec, "analysis");
        self.too_many(spec.locate("/analysis"), "analysis", items.len(), ANALYSES_MAX);
        let mut names = BTreeSet::new();
        let items = items.iter().take(ANALYSES_MAX);
        items.filter_map(|item| self.analysis(item, &mut names, steps)).collect()
    }

    fn analysis(&mut self, item: &Node, names: &mut BTreeSet<String>, steps: Option<&[CanaryStep]>) -> Option<Analysis> {
        let name = text(item, "name").unwrap_or_default();
        if item.get("name").is_some() && !is_title(name) {
            let message = format!("{name:?} is not a name for an analysis");
            self.problem("name", item.locate("/name"), message, "1 to 63 visible characters");
        } else if !name.is_empty() && !names.insert(name.to_owned()) {
            let message = format!("analysis {name:?} is named twice");
            self.problem("duplicate", item.locate("/name"), message, "results are kept by name");
        }
        let source = self.source(item);
        let fail_when = text(item, "failWhen").unwrap_or_default();
        self.condition(item, fail_when);
        let unmeasured = object(item, "unmeasured");
        let then = match unmeasured.and_then(|node| text(node, "then")) {
            Some("fail") => UnmeasuredThen::Fail,
            Some("pass") => UnmeasuredThen::Pass,
            _ => UnmeasuredThen::Hold,
        };
        let at = self.weights(item, "at", steps);
        let interval_ms = self.interval(item, 30_000);
        let source = source?;
        let min_samples = match &source {
            AnalysisSource::Http { .. } => 5,
            AnalysisSource::Prometheus { samples: None, .. } => 1,
            AnalysisSource::Prometheus { .. } | AnalysisSource::Target { .. } => 100,
        };
        Some(Analysis {
            name: name.to_owned(),
            source,
            fail_when: fail_when.to_owned(),
            at,
            interval_ms,
            failures: int(item, "failures").unwrap_or(2),
            min_samples: int(item, "minSamples").unwrap_or(min_samples),
            unmeasured: Unmeasured {
                for_ms: unmeasured.and_then(|node| duration(node, "for")).unwrap_or(3_600_000),
                then,
            },
            dry_run: flag(item, "dryRun").unwrap_or(false),
        })
    }

    fn source(&mut self, item: &Node) -> Option<AnalysisSource> {
        if let Some(node) = object(item, "prometheus") {
            return Some(self.prometheus(node));
        }
        if let Some(node) = object(item, "http") {
            return Some(AnalysisSource::Http { path: self.path(node) });
        }
        let ratio = text(item, "target")?;
        match ratio.split_once('/') {
            Some((numerator, total)) if is_metric(numerator) && is_metric(total) => Some(AnalysisSource::Target {
                numerator: numerator.into(),
                total: total.into(),
            }),
            _ => {
                let message = format!("{ratio:?} is not COUNTER/COUNTER");
                let hint = "as in errors_total/requests_total";
                self.problem("analysis", item.locate("/target"), message, hint);
                None
            }
        }
    }

    fn prometheus(&mut self, node: &Node) -> AnalysisSource {
        let source = text(node, "source").unwrap_or_default();
        if text(node, "source").is_some() && !crate::ids::is_name(source) {
            self.not_a_name(node.locate("/source"), source);
        }
        let mut query = |key: &str| {
            let query = text(node, key)?;
            let place = node.locate(&format!("/{key}"));
            if query.trim().is_empty() || query.len() > QUERY_MAX_BYTES {
                let message = format!("{key} has 1 to {QUERY_MAX_BYTES} bytes");
                self.problem("query", place, message, "as in sum(rate(http_errors[1m]))");
            }
            if let Err((message, hint)) = check_placeholders(query) {
                self.problem("placeholder", place, message, hint);
            }
            Some(query.to_owned())
        };
        let (asked, samples) = (query("query").unwrap_or_default(), query("samples"));
        let range_ms = duration(node, "range");
        if range_ms == Some(0) {
            self.problem("range", node.locate("/range"), "a range is longer than 0s", "as in range: 5m");
        }
        AnalysisSource::Prometheus {
            source: source.to_owned(),
            query: asked,
            samples,
            range_ms,
        }
    }

    fn condition(&mut self, item: &Node, text: &str) {
        if text.is_empty() && item.get("failWhen").is_none() {
            return;
        }
        let probe = Measure { value: 0.5, samples: 1 };
        let failed = condition(text, probe, probe);
        if let Err(error @ (ConditionError::Compile(_) | ConditionError::Evaluate(_) | ConditionError::NotBool(_))) = failed {
            let hint = "CEL over canary.value, canary.samples, baseline.value and baseline.samples";
            self.problem("condition", item.locate("/failWhen"), error.to_string(), hint);
        }
    }
}

/// `{{NAME}}` only with a name that is filled in.
fn check_placeholders(query: &str) -> Result<(), (String, String)> {
    let all = || format!("there are {{{{{}}}}}", QUERY_PLACEHOLDERS.join("}}, {{"));
    let mut rest = query;
    while let Some((_, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else {
            return Err(("a {{ is not closed".to_owned(), all()));
        };
        if !QUERY_PLACEHOLDERS.contains(&name) {
            let message = format!("{{{{{name}}}}} is not filled in");
            let near = nearest(name.trim(), QUERY_PLACEHOLDERS.into_iter());
            return Err((message, near.map_or_else(all, |near| format!("did you mean {{{{{near}}}}}?"))));
        }
        rest = after;
    }
    Ok(())
}

fn is_title(text: &str) -> bool {
    (1..=63).contains(&text.chars().count()) && !text.chars().any(char::is_control) && text.trim() == text
}

fn is_metric(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

//! Numbers for Prometheus: counted from the entries as they are appended, the rest read from the engine when asked. No
//! label is an id.

use super::alarms::Alarm;
use super::publish::Sizes;
use super::scrub::Scrubbed;
use super::source::Looks;
use holdfast_core::engine::Engine;
use holdfast_core::entry::{AttemptChange, AttemptOutcome, Body, CommandVerb, Entry};
use holdfast_core::ids::{Millis, Seq};
use holdfast_core::state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

const SECONDS: [u64; 12] = [1, 5, 15, 30, 60, 120, 300, 600, 1_800, 3_600, 14_400, 86_400];
const OUTCOMES: [(AttemptOutcome, &str); 4] = [
    (AttemptOutcome::Succeeded, "succeeded"),
    (AttemptOutcome::Bad, "bad"),
    (AttemptOutcome::Stopped, "stopped"),
    (AttemptOutcome::CouldNotTry, "could-not-try"),
];

/// Counters of this run of the daemon.
#[derive(Default)]
pub(super) struct Metrics {
    deploys: BTreeMap<&'static str, u64>,
    heals: BTreeMap<&'static str, u64>,
    rollbacks: BTreeMap<&'static str, u64>,
    /// Attempts by the number of seconds that they took at most; the last: longer.
    durations: [u64; SECONDS.len() + 1],
    duration_ms: u64,
    /// Verb and class of the answer.
    calls: BTreeMap<(&'static str, &'static str), u64>,
    open_attempts: BTreeMap<Seq, (Millis, bool)>,
    open_intents: BTreeMap<Seq, &'static str>,
}

/// What is known of the ledger beside its entries.
pub(super) struct LedgerFigures<'a> {
    /// None: it is not published.
    pub sizes: Option<&'a Sizes>,
    pub scrubbed: &'a Scrubbed,
    pub alarms: BTreeSet<Alarm>,
}

impl Metrics {
    /// What was open when the daemon started ends under its eyes.
    pub fn new(state: &State) -> Self {
        let units = || state.workloads.values().flat_map(|workload| workload.units.values());
        let attempts = units().filter_map(|unit| unit.attempt.as_ref());
        let intents = units().filter_map(|unit| unit.intent.as_ref());
        Self {
            open_attempts: attempts.map(|attempt| (attempt.id, (attempt.began, attempt.heal))).collect(),
            open_intents: intents.map(|intent| (intent.seq, intent.verb.name())).collect(),
            ..Self::default()
        }
    }

    pub fn entry(&mut self, entry: &Entry) {
        match &entry.body {
            Body::Attempt(AttemptChange::Began { heal, .. }) => {
                self.open_attempts.insert(entry.seq, (entry.t, *heal));
            }
            Body::Attempt(AttemptChange::Undo {
                outcome: AttemptOutcome::Bad,
                ..
            }) => *self.rollbacks.entry("verdict").or_default() += 1,
            Body::Attempt(AttemptChange::Ended { outcome, .. }) => {
                let began = entry.on.attempt.and_then(|attempt| self.open_attempts.remove(&attempt));
                let (began, heal) = began.unwrap_or((entry.t, false));
                let name = OUTCOMES.iter().find(|(one, _)| one == outcome).map_or("", |(_, name)| name);
                let counts = if heal { &mut self.heals } else { &mut self.deploys };
                *counts.entry(name).or_default() += 1;
                let ms = entry.t.saturating_sub(began);
                let bucket = SECONDS
                    .iter()
                    .position(|seconds| ms <= seconds * 1_000)
                    .unwrap_or(SECONDS.len());
                self.durations[bucket] += 1;
                self.duration_ms += ms;
            }
            Body::Command(command) if matches!(command.verb, CommandVerb::Rollback { .. }) => {
                *self.rollbacks.entry("command").or_default() += 1;
            }
            Body::Intent(intent) => {
                self.open_intents.insert(entry.seq, intent.verb.name());
            }
            Body::Result(outcome) => {
                let verb = self.open_intents.get(&outcome.intent).copied().unwrap_or("unknown");
                let class = outcome.class.map_or("ok", |class| class.as_str());
                *self.calls.entry((verb, class)).or_default() += 1;
                if outcome.closed {
                    self.open_intents.remove(&outcome.intent);
                }
            }
            _ => {}
        }
    }

    /// Prometheus text, version 0.0.4.
    pub fn text(&self, engine: &Engine, looks: &Looks, ledger: &LedgerFigures<'_>, wall_ms: u64) -> String {
        let mut page = Page(String::new());
        page.head("build_info", "gauge", "The version that runs");
        page.line("build_info", &[("version", env!("CARGO_PKG_VERSION"))], "1");
        page.head(
            "ledger_entries_total",
            "counter",
            "Entries in the ledger, queued ones included",
        );
        page.line("ledger_entries_total", &[], engine.state().size);
        page.head(
            "ledger_durable_entries_total",
            "counter",
            "Entries in the ledger that are on disk",
        );
        page.line("ledger_durable_entries_total", &[], engine.durable());
        page.head("deploys_total", "counter", "Attempts that ended, by outcome");
        for (_, outcome) in OUTCOMES {
            let count = self.deploys.get(outcome).copied().unwrap_or(0);
            page.line("deploys_total", &[("outcome", outcome)], count);
        }
        page.head(
            "heals_total",
            "counter",
            "Replacements of what drifted that ended, by outcome",
        );
        for (outcome, count) in &self.heals {
            page.line("heals_total", &[("outcome", outcome)], count);
        }
        page.head(
            "rollbacks_total",
            "counter",
            "Ways back: after a bad verdict on one unit, or by command",
        );
        for cause in ["verdict", "command"] {
            let count = self.rollbacks.get(cause).copied().unwrap_or(0);
            page.line("rollbacks_total", &[("cause", cause)], count);
        }
        page.head(
            "attempt_duration_seconds",
            "histogram",
            "From the beginning of an attempt to its end",
        );
        let mut below = 0;
        for (seconds, count) in SECONDS.iter().zip(&self.durations) {
            below += count;
            page.line("attempt_duration_seconds_bucket", &[("le", &seconds.to_string())], below);
        }
        let all: u64 = self.durations.iter().sum();
        page.line("attempt_duration_seconds_bucket", &[("le", "+Inf")], all);
        page.line("attempt_duration_seconds_sum", &[], self.duration_ms as f64 / 1_000.0);
        page.line("attempt_duration_seconds_count", &[], all);
        page.head(
            "plugin_calls_total",
            "counter",
            "Answers to mutating calls, by verb and class of the answer",
        );
        for ((verb, class), count) in &self.calls {
            page.line("plugin_calls_total", &[("verb", verb), ("class", class)], count);
        }
        page.head("open_waits", "gauge", "Workloads and units that wait, by reason");
        for (reason, count) in waits(engine) {
            page.line("open_waits", &[("reason", &reason)], count);
        }
        page.head("targets", "gauge", "Targets, by state");
        let mut states: BTreeMap<String, u64> = BTreeMap::new();
        for target in holdfast_core::view::targets(engine) {
            *states.entry(target.state).or_default() += 1;
        }
        for (state, count) in states {
            page.line("targets", &[("state", &state)], count);
        }
        let good_ms = looks.good_ms.load(Ordering::Relaxed);
        if good_ms > 0 {
            page.head("git_last_success_age_seconds", "gauge", "Since the repository was last read");
            page.line(
                "git_last_success_age_seconds",
                &[],
                wall_ms.saturating_sub(good_ms) as f64 / 1_000.0,
            );
        }
        page.head("ledger_entries", "gauge", "Entries of the ledger");
        page.line("ledger_entries", &[], engine.state().size);
        page.head(
            "ledger_alarm",
            "gauge",
            "1 while the ledger needs attention, by what is wrong",
        );
        for alarm in Alarm::ALL {
            let is_open = ledger.alarms.contains(&alarm);
            page.line("ledger_alarm", &[("kind", alarm.as_str())], u8::from(is_open));
        }
        let scrubbed_ms = ledger.scrubbed.wall_ms.load(Ordering::Relaxed);
        if scrubbed_ms > 0 {
            page.head("ledger_scrubbed_entries", "gauge", "Entries that the last scrub found whole");
            page.line(
                "ledger_scrubbed_entries",
                &[],
                ledger.scrubbed.entries.load(Ordering::Relaxed),
            );
            page.head(
                "ledger_scrub_age_seconds",
                "gauge",
                "Since the last scrub of the whole ledger ended",
            );
            let age_s = wall_ms.saturating_sub(scrubbed_ms) as f64 / 1_000.0;
            page.line("ledger_scrub_age_seconds", &[], age_s);
        }
        if let Some(sizes) = ledger.sizes {
            page.head(
                "ledger_published_entries",
                "gauge",
                "Entries below the newest signed checkpoint",
            );
            page.line("ledger_published_entries", &[], sizes.published.load(Ordering::Relaxed));
            page.head(
                "ledger_cosigned_entries",
                "gauge",
                "Entries that as many witnesses cosigned as are needed",
            );
            page.line("ledger_cosigned_entries", &[], sizes.cosigned.load(Ordering::Relaxed));
        }
        page.0
    }
}

fn waits(engine: &Engine) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for (id, workload) in &engine.state().workloads {
        let targets = std::iter::once(None).chain(workload.units.keys().map(Some));
        for waiting in targets.filter_map(|target| engine.waiting(id, target)) {
            *counts.entry(waiting.on.clone()).or_default() += 1;
        }
    }
    counts
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP holdfast_{name} {help}\n# TYPE holdfast_{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        let _ = match labels.is_empty() {
            true => writeln!(self.0, "holdfast_{name} {value}"),
            false => writeln!(self.0, "holdfast_{name}{{{}}} {value}", labels.join(",")),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::config::EngineConfig;
    use serde_json::json;

    fn entry(seq: u64, t: u64, on: serde_json::Value, kind: &str, body: serde_json::Value) -> Entry {
        let by = json!({ "kind": "daemon", "id": "holdfast", "auth": "self" });
        serde_json::from_value(
            json!({ "v": 1, "seq": seq, "term": 0, "t": t, "wall": "", "by": by, "on": on, "kind": kind, "body": body }),
        )
        .unwrap()
    }

    #[test]
    fn entries_are_counted() {
        let plugin = json!({ "name": "edge", "digest": format!("sha256:{}", "0".repeat(64)), "grants": format!("sha256:{}", "0".repeat(64)) });
        let release = "0".repeat(64);
        let began = |heal: bool| json!({ "change": "began", "release": release, "values": plugin["digest"], "generation": 2, "old": 1, "plugin": plugin, "request": 3, "heal": heal });
        let ended = |outcome: &str| json!({ "change": "ended", "outcome": outcome, "reason": "", "message": "" });
        let undo = json!({ "change": "undo", "outcome": "bad", "reason": "", "message": "" });
        let intent = |verb: serde_json::Value| {
            let mut body = verb;
            body["plugin"] = plugin.clone();
            body["observed"] = plugin["digest"].clone();
            body["planner"] = 1.into();
            body
        };
        let mut metrics = Metrics::default();
        let on = |attempt: u64| json!({ "attempt": attempt });
        for entry in [
            entry(10, 0, json!({}), "attempt", began(false)),
            entry(
                11,
                0,
                on(10),
                "intent",
                intent(json!({ "verb": "launch", "generation": 2, "size": 1 })),
            ),
            entry(
                12,
                0,
                on(10),
                "result",
                json!({ "intent": 11, "class": "unavailable", "closed": false }),
            ),
            entry(13, 0, on(10), "result", json!({ "intent": 11, "closed": true })),
            entry(14, 0, on(10), "attempt", undo),
            entry(15, 4_000, on(10), "attempt", ended("bad")),
            entry(16, 5_000, json!({}), "attempt", began(true)),
            entry(17, 105_000, on(16), "attempt", ended("succeeded")),
            entry(18, 105_000, json!({}), "attempt", began(false)),
            entry(19, 105_500, on(18), "attempt", ended("succeeded")),
        ] {
            metrics.entry(&entry);
        }
        let engine = Engine::new(EngineConfig::default(), State::default());
        let looks = Looks::default();
        let scrubbed = Scrubbed::default();
        let mut ledger = LedgerFigures {
            sizes: None,
            scrubbed: &scrubbed,
            alarms: BTreeSet::new(),
        };
        let text = metrics.text(&engine, &looks, &ledger, 0);
        assert!(!text.contains("ledger_scrub"), "{text}");
        assert!(!text.contains("git_last_success"), "{text}");
        looks.good_ms.store(1_000, Ordering::Relaxed);
        let sizes = Sizes::default();
        sizes.published.store(7, Ordering::Relaxed);
        ledger.sizes = Some(&sizes);
        ledger.alarms.insert(Alarm::Damage);
        scrubbed.entries.store(6, Ordering::Relaxed);
        scrubbed.wall_ms.store(2_000, Ordering::Relaxed);
        let text = metrics.text(&engine, &looks, &ledger, 3_500);
        for line in [
            "holdfast_deploys_total{outcome=\"succeeded\"} 1",
            "holdfast_deploys_total{outcome=\"bad\"} 1",
            "holdfast_deploys_total{outcome=\"stopped\"} 0",
            "holdfast_heals_total{outcome=\"succeeded\"} 1",
            "holdfast_rollbacks_total{cause=\"verdict\"} 1",
            "holdfast_attempt_duration_seconds_bucket{le=\"1\"} 1",
            "holdfast_attempt_duration_seconds_bucket{le=\"5\"} 2",
            "holdfast_attempt_duration_seconds_bucket{le=\"60\"} 2",
            "holdfast_attempt_duration_seconds_bucket{le=\"120\"} 3",
            "holdfast_attempt_duration_seconds_bucket{le=\"+Inf\"} 3",
            "holdfast_attempt_duration_seconds_sum 104.5",
            "holdfast_plugin_calls_total{verb=\"launch\",class=\"unavailable\"} 1",
            "holdfast_plugin_calls_total{verb=\"launch\",class=\"ok\"} 1",
            "holdfast_git_last_success_age_seconds 2.5",
            "holdfast_ledger_published_entries 7",
            "holdfast_ledger_cosigned_entries 0",
            "holdfast_ledger_alarm{kind=\"damage\"} 1",
            "holdfast_ledger_alarm{kind=\"publishing\"} 0",
            "holdfast_ledger_scrubbed_entries 6",
            "holdfast_ledger_scrub_age_seconds 1.5",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
    }
}

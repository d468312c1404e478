//! One file: documents, each read whole, with all its problems at once.

use super::fields::{LATER_KINDS, check_fields, did_you_mean};
use super::problem::{Problem, Severity};
use super::quantity::{parse_duration_ms, parse_percent};
use super::yaml::{Content, Node, Place, read};
use super::{API_VERSION, fill};
use crate::ids::{FULL_SHARE, Millis, is_name};
use crate::plan::analysis::{ConditionError, condition};
use crate::plan::facts::Measure;
use crate::spec::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const ARTIFACTS_MAX: usize = 32;
const STEPS_MAX: usize = 50;
const LIST_MAX: usize = 1_000;
const TEMPLATE_MAX_BYTES: usize = 32 << 10;

/// A file's documents. What it means depends on its bytes alone, so it can be kept by blob id.
#[derive(Debug, Clone, Default)]
pub struct ParsedFile {
    pub documents: Vec<Document>,
    pub problems: Vec<Problem>,
    /// False: something in it could not be read, so nothing can be said to be absent from it.
    pub readable: bool,
}

#[derive(Debug, Clone)]
pub struct Document {
    pub kind: DocumentKind,
    pub name: String,
    pub place: Place,
    pub node: Node,
}

#[derive(Debug, Clone)]
pub enum DocumentKind {
    /// None: it has problems.
    Target(Option<TargetSpec>),
    Workload(Option<Box<WorkloadDraft>>),
}

/// A workload whose config files have not been looked up yet.
#[derive(Debug, Clone)]
pub struct WorkloadDraft {
    pub spec: WorkloadSpec,
    /// Path in the release to path as written.
    pub files: BTreeMap<String, String>,
    /// Values that the template wants from each target.
    pub values: BTreeSet<String>,
}

pub fn parse_file(file: &str, bytes: &[u8]) -> ParsedFile {
    let (nodes, problems) = read(file, bytes);
    let readable = problems.is_empty();
    let mut parsed = ParsedFile {
        documents: Vec::new(),
        problems,
        readable,
    };
    for node in nodes {
        // An empty document, as between two `---`.
        if node.to_value().is_null() {
            continue;
        }
        let mut reader = Reader {
            file,
            problems: Vec::new(),
        };
        let document = reader.document(&node);
        parsed.problems.append(&mut reader.problems);
        match document {
            Some((kind, name, place)) => parsed.documents.push(Document { kind, name, place, node }),
            // Of what it was, nothing is known.
            None => parsed.readable = false,
        }
    }
    parsed
}

struct Reader<'a> {
    file: &'a str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, code: &'static str, place: Place, message: impl Into<String>, hint: Option<String>) {
        self.problems.push(Problem {
            code,
            severity: Severity::Error,
            file: self.file.to_owned(),
            line: place.line,
            column: place.column,
            width: place.width,
            message: message.into(),
            hint,
        });
    }

    fn document(&mut self, node: &Node) -> Option<(DocumentKind, String, Place)> {
        let Content::Map(entries) = &node.content else {
            self.problem(
                "not-a-manifest",
                node.place,
                "a manifest is a map with apiVersion, kind, metadata and spec",
                None,
            );
            return None;
        };
        const KEYS: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];
        for (key, _) in entries.iter().filter(|(key, _)| !KEYS.contains(&key.text.as_str())) {
            let hint = did_you_mean(&key.text, KEYS.into_iter());
            self.problem("unknown-field", key.place, format!("unknown field {:?}", key.text), hint);
        }
        let version = self.text(node, "apiVersion")?;
        if version != API_VERSION {
            let place = node.get("apiVersion").map_or(node.place, |node| node.place);
            self.problem(
                "api-version",
                place,
                format!("apiVersion {version:?} is not known"),
                Some(format!("this version reads {API_VERSION}")),
            );
            return None;
        }
        let kind = self.text(node, "kind")?;
        let kind_place = node.get("kind").map_or(node.place, |node| node.place);
        if LATER_KINDS.contains(&kind.as_str()) {
            self.problem(
                "not-in-this-version",
                kind_place,
                format!("kind {kind} is known, but not in this version"),
                Some("take it out for now".into()),
            );
            return None;
        }
        if kind != "Target" && kind != "Workload" {
            let hint = did_you_mean(&kind, ["Target", "Workload"].into_iter());
            self.problem(
                "unknown-kind",
                kind_place,
                format!("kind {kind:?} is not known"),
                hint.or_else(|| Some("there are Target and Workload".into())),
            );
            return None;
        }
        let metadata = self.object(node, "metadata", "metadata")?;
        let name = self.text(metadata, "name")?;
        let name_place = metadata.get("name").map_or(metadata.place, |node| node.place);
        if !is_name(&name) {
            self.problem(
                "name",
                name_place,
                format!("{name:?} is not a name"),
                Some("a-z, 0-9 and -, a letter first, at most 63".into()),
            );
            return None;
        }
        let before = self.problems.len();
        let labels = self.text_map(metadata, "labels");
        let spec = self.object(node, "spec", if kind == "Target" { "target" } else { "workload" });
        let kind = if kind == "Target" {
            let target = spec.and_then(|spec| self.target(spec, labels));
            DocumentKind::Target(target.filter(|_| self.problems.len() == before))
        } else {
            let workload = spec.and_then(|spec| self.workload(spec, labels));
            DocumentKind::Workload(workload.filter(|_| self.problems.len() == before).map(Box::new))
        };
        Some((kind, name, name_place))
    }

    fn target(&mut self, spec: &Node, labels: BTreeMap<String, String>) -> Option<TargetSpec> {
        let plugin = self.text(spec, "plugin");
        let config = spec
            .get("config")
            .map_or_else(|| Value::Object(Default::default()), Node::to_value);
        if !config.is_object() {
            self.problem("type", spec.locate("/config"), "config is a map", None);
        }
        let values = self.text_map(spec, "values");
        Some(TargetSpec {
            labels,
            plugin: plugin?,
            config,
            values,
        })
    }

    fn workload(&mut self, spec: &Node, labels: BTreeMap<String, String>) -> Option<WorkloadDraft> {
        let artifacts = self.artifacts(spec);
        let placement = self.placement(spec);
        let (template, values) = self.template(spec, artifacts.as_ref());
        let config = self.maybe_object(spec, "config", "config");
        let files = config.map(|config| self.text_map(config, "files")).unwrap_or_default();
        for path in files.keys().filter(|path| !is_relative(path)) {
            self.problem(
                "path",
                spec.locate("/config/files"),
                format!("{path:?} is not a relative path without .."),
                None,
            );
        }
        let instances = self.int(spec, "instances", 1, 1, 10_000);
        let strategy = self.strategy(spec);
        let health = self.health(spec);
        let analysis = self.analyses(spec);
        let rollback = match self.choice(spec, "rollback", &["automatic", "manual"]) {
            Some("manual") => Rollback::Manual,
            _ => Rollback::Automatic,
        };
        let drain_ms = self.duration(spec, "drain", 30_000);
        let attempt = self.int(spec, "attempt", 1, 1, 1_000_000);
        let artifacts = artifacts?
            .into_iter()
            .map(|(name, text)| (name, ArtifactSpec::Reference(text)))
            .collect();
        let spec = WorkloadSpec {
            labels,
            instances: instances as u32,
            template: template?,
            strategy: strategy?,
            health,
            analysis,
            rollback,
            drain_ms,
            attempt: attempt as u32,
            ..WorkloadSpec::new(artifacts, placement?)
        };
        Some(WorkloadDraft { spec, files, values })
    }

    fn artifacts(&mut self, spec: &Node) -> Option<BTreeMap<String, String>> {
        let Some(node) = spec.get("artifacts") else {
            self.problem(
                "missing",
                spec.place,
                "artifacts is missing",
                Some("artifacts: { main: REGISTRY/REPOSITORY:TAG }".into()),
            );
            return None;
        };
        let Content::Map(entries) = &node.content else {
            self.problem("type", node.place, "artifacts is a map of name to reference", None);
            return None;
        };
        let mut artifacts = BTreeMap::new();
        for (key, value) in entries {
            match &value.content {
                Content::Scalar(_, text) if is_name(&key.text) => {
                    if text.is_empty() || text.len() > 512 || text.contains(char::is_whitespace) {
                        self.problem(
                            "reference",
                            value.place,
                            format!("{text:?} is not a reference"),
                            Some("REGISTRY/REPOSITORY:TAG".into()),
                        );
                    }
                    artifacts.insert(key.text.clone(), text.clone());
                }
                Content::Scalar(..) => self.problem("name", key.place, format!("{:?} is not a name", key.text), None),
                _ => {
                    let later = value.get("select").is_some() || value.get("repository").is_some();
                    let code = if later { "not-in-this-version" } else { "type" };
                    let message = if later {
                        "selecting a tag is known, but not in this version"
                    } else {
                        "an artifact is a reference"
                    };
                    self.problem(
                        code,
                        value.place,
                        message,
                        Some("name one tag or digest: REGISTRY/REPOSITORY:TAG".into()),
                    );
                }
            }
        }
        if artifacts.is_empty() || artifacts.len() > ARTIFACTS_MAX {
            self.problem(
                "artifacts",
                node.place,
                format!("a workload has 1 to {ARTIFACTS_MAX} artifacts"),
                None,
            );
        } else if artifacts.len() > 1 && !artifacts.contains_key("main") {
            self.problem("artifacts", node.place, "with several artifacts, one is named main", None);
        }
        Some(artifacts)
    }

    fn placement(&mut self, spec: &Node) -> Option<Placement> {
        let node = self.object(spec, "placement", "placement")?;
        let targets = self.object(node, "targets", "targets")?;
        match (targets.get("matchLabels"), targets.get("names")) {
            (Some(_), None) => Some(Targets::MatchLabels(self.text_map(targets, "matchLabels")).into()),
            (None, Some(names)) => {
                let Content::List(items) = &names.content else {
                    self.problem("type", names.place, "names is a list", None);
                    return None;
                };
                let texts = items
                    .iter()
                    .take(LIST_MAX)
                    .filter_map(|item| self.scalar_text(item, "a target's name"))
                    .collect();
                Some(Targets::Names(texts).into())
            }
            _ => {
                self.problem("placement", targets.place, "targets has either matchLabels or names", None);
                None
            }
        }
    }

    fn template(&mut self, spec: &Node, artifacts: Option<&BTreeMap<String, String>>) -> (Option<Value>, BTreeSet<String>) {
        let Some(node) = spec.get("template") else {
            self.problem(
                "missing",
                spec.place,
                "template is missing",
                Some("template: {} if the plugin needs none".into()),
            );
            return (None, BTreeSet::new());
        };
        let value = if node.to_value().is_null() {
            Value::Object(Default::default())
        } else {
            node.to_value()
        };
        if !value.is_object() {
            self.problem("type", node.place, "template is a map", None);
        }
        let size = value.to_string().len();
        if size > TEMPLATE_MAX_BYTES {
            self.problem(
                "template-too-large",
                node.place,
                format!("the template has {size} bytes; the limit is {TEMPLATE_MAX_BYTES}"),
                Some("put the larger parts into config files".into()),
            );
        }
        let (names, wrong) = fill::used(&value);
        for (pointer, error) in wrong {
            self.problem(
                "placeholder",
                spec.locate(&pointer),
                error.to_string(),
                Some("write $${ for a literal ${".into()),
            );
        }
        for name in names.iter().filter_map(|name| name.strip_prefix("artifacts.")) {
            if artifacts.is_some_and(|artifacts| !artifacts.contains_key(name)) {
                self.problem(
                    "placeholder",
                    node.place,
                    format!("the template uses artifact {name:?}, which there is not"),
                    None,
                );
            }
        }
        let values = names
            .iter()
            .filter_map(|name| name.strip_prefix("values."))
            .map(str::to_owned)
            .collect();
        (Some(value), values)
    }

    fn strategy(&mut self, spec: &Node) -> Option<Strategy> {
        let default = Strategy::BlueGreen { bake_ms: 0 };
        let Some(node) = self.maybe_object(spec, "strategy", "strategy") else {
            return Some(default);
        };
        match (node.get("blueGreen"), node.get("canary")) {
            (Some(_), None) => {
                let bake_ms = self
                    .maybe_object(node, "blueGreen", "blueGreen")
                    .map_or(0, |inner| self.duration(inner, "bake", 0));
                Some(Strategy::BlueGreen { bake_ms })
            }
            (None, Some(_)) => {
                let inner = self.object(node, "canary", "canary")?;
                let bake_ms = self.duration(inner, "bake", 0);
                Some(Strategy::Canary {
                    steps: self.steps(inner)?,
                    bake_ms,
                })
            }
            (None, None) if self.problems.iter().any(|problem| problem.code == "not-in-this-version") => None,
            _ => {
                self.problem(
                    "strategy",
                    node.place,
                    "strategy has exactly one of blueGreen and canary",
                    None,
                );
                None
            }
        }
    }

    fn steps(&mut self, canary: &Node) -> Option<Vec<CanaryStep>> {
        let Some(Node {
            content: Content::List(items),
            place,
        }) = canary.get("steps")
        else {
            self.problem(
                "missing",
                canary.place,
                "canary needs steps",
                Some("steps: [ { weight: 10%, hold: 5m }, { weight: 100% } ]".into()),
            );
            return None;
        };
        let mut steps: Vec<CanaryStep> = Vec::new();
        for item in items.iter().take(STEPS_MAX + 1) {
            check_fields(self.file, "step", item, &mut self.problems);
            let weight = self.text(item, "weight").and_then(|text| {
                let weight = parse_percent(&text).filter(|weight| *weight > 0);
                if weight.is_none() {
                    self.problem(
                        "weight",
                        item.locate("/weight"),
                        format!("{text:?} is not a weight"),
                        Some("a percentage above 0%, as in 25%".into()),
                    );
                }
                weight
            })?;
            if steps.last().is_some_and(|last| last.weight >= weight) {
                self.problem("weight", item.locate("/weight"), "weights rise from step to step", None);
            }
            steps.push(CanaryStep {
                weight,
                hold_ms: self.duration(item, "hold", 0),
            });
        }
        if steps.len() > STEPS_MAX || steps.last().is_none_or(|last| last.weight != FULL_SHARE) {
            self.problem(
                "steps",
                *place,
                format!("a canary has 1 to {STEPS_MAX} steps, and the last one is 100%"),
                None,
            );
        }
        Some(steps)
    }

    fn health(&mut self, spec: &Node) -> Health {
        let mut health = Health {
            timeout_ms: 300_000,
            interval_ms: 5_000,
            stable_ms: 30_000,
            http: None,
            telemetry_required: false,
        };
        let Some(node) = self.maybe_object(spec, "health", "health") else {
            return health;
        };
        health.timeout_ms = self.duration(node, "timeout", health.timeout_ms);
        health.interval_ms = self.duration(node, "interval", health.interval_ms);
        health.stable_ms = self.duration(node, "stable", health.stable_ms);
        if health.interval_ms < 50 {
            self.problem(
                "interval",
                node.locate("/interval"),
                "looking more often than every 50ms is not possible",
                None,
            );
        }
        if health.timeout_ms <= health.stable_ms {
            self.problem(
                "timeout",
                node.place,
                "timeout must be longer than stable, or nothing can ever be proven",
                None,
            );
        }
        if let Some(http) = self.maybe_object(node, "http", "http") {
            let path = self.text(http, "path").unwrap_or_default();
            if !path.starts_with('/') || path.len() > 512 || !path.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
                self.problem(
                    "path",
                    http.locate("/path"),
                    format!("{path:?} is not a path beginning with /"),
                    None,
                );
            }
            health.http = Some(HttpHealth { path });
        }
        health
    }

    fn analyses(&mut self, spec: &Node) -> Vec<Analysis> {
        let Some(node) = spec.get("analysis") else { return Vec::new() };
        let Content::List(items) = &node.content else {
            self.problem("type", node.place, "analysis is a list", None);
            return Vec::new();
        };
        items.iter().take(16).filter_map(|item| self.analysis(item)).collect()
    }

    fn analysis(&mut self, item: &Node) -> Option<Analysis> {
        check_fields(self.file, "analysis", item, &mut self.problems);
        if item.get("prometheus").is_some() || item.get("http").is_some() {
            return None;
        }
        let name = self.text(item, "name");
        let source = self.text(item, "target").and_then(|text| match text.split_once('/') {
            Some((numerator, total)) if is_metric(numerator) && is_metric(total) => Some(AnalysisSource::Target {
                numerator: numerator.into(),
                total: total.into(),
            }),
            _ => {
                self.problem(
                    "analysis",
                    item.locate("/target"),
                    format!("{text:?} is not COUNTER/COUNTER"),
                    Some("as in errors_total/requests_total".into()),
                );
                None
            }
        });
        self.choice(item, "baseline", &["current"]);
        let fail_when = self.text(item, "failWhen");
        if let Some(text) = &fail_when {
            let probe = Measure { value: 0.5, samples: 1 };
            if let Err(error @ (ConditionError::Compile(_) | ConditionError::Evaluate(_) | ConditionError::NotBool(_))) =
                condition(text, probe, probe)
            {
                let hint = "CEL over canary.value, canary.samples, baseline.value and baseline.samples".to_owned();
                self.problem("condition", item.locate("/failWhen"), error.to_string(), Some(hint));
            }
        }
        let unmeasured = self.maybe_object(item, "unmeasured", "unmeasured");
        let for_ms = unmeasured.map_or(3_600_000, |node| self.duration(node, "for", 3_600_000));
        let then = match unmeasured.and_then(|node| self.choice(node, "then", &["hold", "fail", "pass"])) {
            Some("fail") => UnmeasuredThen::Fail,
            Some("pass") => UnmeasuredThen::Pass,
            _ => UnmeasuredThen::Hold,
        };
        let dry_run = match item.get("dryRun").map(Node::to_value) {
            None => false,
            Some(Value::Bool(dry_run)) => dry_run,
            Some(_) => {
                self.problem("type", item.locate("/dryRun"), "dryRun is true or false", None);
                false
            }
        };
        Some(Analysis {
            interval_ms: self.duration(item, "interval", 30_000).max(50),
            failures: self.int(item, "failures", 2, 1, 1_000) as u32,
            min_samples: self.int(item, "minSamples", 100, 1, 1_000_000_000),
            name: name?,
            source: source?,
            fail_when: fail_when?,
            at: Vec::new(),
            unmeasured: Unmeasured { for_ms, then },
            dry_run,
        })
    }

    // ---- fields ----

    fn object<'n>(&mut self, node: &'n Node, key: &str, object: &'static str) -> Option<&'n Node> {
        if node.get(key).is_none() {
            self.problem("missing", node.place, format!("{key} is missing"), None);
        }
        self.maybe_object(node, key, object)
    }

    fn maybe_object<'n>(&mut self, node: &'n Node, key: &str, object: &'static str) -> Option<&'n Node> {
        let inner = node.get(key)?;
        match &inner.content {
            Content::Map(_) => {
                check_fields(self.file, object, inner, &mut self.problems);
                Some(inner)
            }
            _ => {
                self.problem("type", inner.place, format!("{key} is a map"), None);
                None
            }
        }
    }

    fn scalar_text(&mut self, node: &Node, what: &str) -> Option<String> {
        match &node.content {
            Content::Scalar(Value::String(text), _) => Some(text.clone()),
            Content::Scalar(_, raw) => {
                self.problem(
                    "type",
                    node.place,
                    format!("{what} is text, and {raw} is not"),
                    Some(format!("quote it: \"{raw}\"")),
                );
                None
            }
            _ => {
                self.problem("type", node.place, format!("{what} is text"), None);
                None
            }
        }
    }

    fn text(&mut self, node: &Node, key: &str) -> Option<String> {
        match node.get(key) {
            Some(inner) => self.scalar_text(inner, key),
            None => {
                self.problem("missing", node.place, format!("{key} is missing"), None);
                None
            }
        }
    }

    fn text_map(&mut self, node: &Node, key: &str) -> BTreeMap<String, String> {
        let Some(inner) = node.get(key) else { return BTreeMap::new() };
        let Content::Map(entries) = &inner.content else {
            self.problem("type", inner.place, format!("{key} is a map"), None);
            return BTreeMap::new();
        };
        if entries.len() > LIST_MAX {
            self.problem(
                "too-many",
                inner.place,
                format!("{key} has more than {LIST_MAX} entries"),
                None,
            );
        }
        entries
            .iter()
            .take(LIST_MAX)
            .filter_map(|(name, value)| Some((name.text.clone(), self.scalar_text(value, &name.text)?)))
            .collect()
    }

    fn int(&mut self, node: &Node, key: &str, default: u64, least: u64, most: u64) -> u64 {
        let Some(inner) = node.get(key) else { return default };
        if key == "instances" && matches!(inner.content, Content::Map(_)) {
            self.problem(
                "not-in-this-version",
                inner.place,
                "instances {min, max} is known, but not in this version",
                Some("give one number".into()),
            );
            return default;
        }
        match inner.to_value().as_u64().filter(|value| (least..=most).contains(value)) {
            Some(value) => value,
            None => {
                self.problem(
                    "type",
                    inner.place,
                    format!("{key} is a whole number from {least} to {most}"),
                    None,
                );
                default
            }
        }
    }

    fn duration(&mut self, node: &Node, key: &str, default: Millis) -> Millis {
        let Some(inner) = node.get(key) else { return default };
        let Content::Scalar(_, text) = &inner.content else {
            self.problem("type", inner.place, format!("{key} is a duration"), None);
            return default;
        };
        match parse_duration_ms(text) {
            Some(ms) => ms,
            None => {
                self.problem(
                    "duration",
                    inner.place,
                    format!("{text:?} is not a duration"),
                    Some("as in 250ms, 30s, 5m, 1h30m".into()),
                );
                default
            }
        }
    }

    fn choice(&mut self, node: &Node, key: &str, choices: &[&'static str]) -> Option<&'static str> {
        let inner = node.get(key)?;
        let text = self.scalar_text(inner, key)?;
        let found = choices.iter().find(|choice| **choice == text).copied();
        if found.is_none() {
            let hint = did_you_mean(&text, choices.iter().copied());
            self.problem(
                "choice",
                inner.place,
                format!("{key} is {}, not {text:?}", choices.join(" or ")),
                hint,
            );
        }
        found
    }
}

fn is_metric(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn is_relative(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

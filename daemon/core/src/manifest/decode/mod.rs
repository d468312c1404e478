//! One file: documents, each read whole, with all its problems at once. The table says what shape a document has
//! ([`shape`]); what only makes sense together is checked here, subject by subject.

mod analysis;
mod content;
mod placement;
mod shape;
mod strategy;
mod values;

use super::API_VERSION;
use super::fields::{KINDS, LATER_KINDS, did_you_mean};
use super::problem::{Problem, Severity};
use super::yaml::{Content, Node, Place, read};
use crate::ids::is_name;
use crate::spec::*;
pub use analysis::QUERY_PLACEHOLDERS;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use values::{flag, int, list, object, text, text_map};

/// More of one file are counted, not kept.
pub const PROBLEMS_MAX: usize = 200;
const DEPENDENCIES_MAX: usize = 100;

/// A file's documents. What it means depends on its bytes alone, so it can be kept by blob id.
#[derive(Debug, Clone, Default)]
pub struct ParsedFile {
    pub documents: Vec<Arc<Document>>,
    /// The first ones.
    pub problems: Vec<Problem>,
    pub further_problems: usize,
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
    /// Values that the templates want from each target, with the JSON pointer of the template.
    pub values: BTreeMap<String, String>,
}

pub fn parse_file(file: &str, bytes: &[u8]) -> ParsedFile {
    let stream = read(file, bytes);
    let mut parsed = ParsedFile {
        readable: stream.problems.is_empty(),
        problems: stream.problems,
        ..ParsedFile::default()
    };
    for (index, node) in stream.documents.into_iter().enumerate() {
        // An empty document, as between two `---`.
        if matches!(&node.content, Content::Scalar(Value::Null, _)) {
            continue;
        }
        let mut reader = Reader {
            file,
            problems: Vec::new(),
        };
        let document = reader.document(&node, !stream.unsound.contains(&index));
        parsed.problems.append(&mut reader.problems);
        match document {
            Some((kind, name, place)) => parsed.documents.push(Arc::new(Document { kind, name, place, node })),
            // Of what it was, nothing is known.
            None => parsed.readable = false,
        }
    }
    parsed.further_problems = parsed.problems.len().saturating_sub(PROBLEMS_MAX);
    parsed.problems.truncate(PROBLEMS_MAX);
    parsed
}

struct Reader<'a> {
    file: &'a str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, code: &'static str, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem {
            code,
            severity: Severity::Error,
            file: self.file.to_owned(),
            line: place.line,
            column: place.column,
            width: place.width,
            message: message.into(),
            hint: Some(hint.into()).filter(|hint: &String| !hint.is_empty()),
        });
    }

    /// None: not even its name is known. A document that is not sound, or has a problem, has a name and no meaning.
    fn document(&mut self, node: &Node, is_sound: bool) -> Option<(DocumentKind, String, Place)> {
        let Content::Map(entries) = &node.content else {
            self.problem(
                "not-a-manifest",
                node.place,
                "a manifest is a map with apiVersion, kind, metadata and spec",
                "see `holdfast explain Workload`",
            );
            return None;
        };
        const KEYS: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];
        for (key, _) in entries.iter().filter(|(key, _)| !KEYS.contains(&key.text.as_str())) {
            let hint = did_you_mean(&key.text, KEYS.into_iter()).unwrap_or_else(|| match key.text.as_str() {
                "repository" | "bindings" | "data" => "the operator's configuration does not belong among manifests".to_owned(),
                _ => format!("there are {}", KEYS.join(", ")),
            });
            self.problem("unknown-field", key.place, format!("unknown field {:?}", key.text), hint);
        }
        self.api_version(node)?;
        let (kind, spec_object) = self.kind(node)?;
        let metadata = self.part(node, "metadata", "metadata: { name: NAME }");
        if let Some(metadata) = metadata {
            self.shape("metadata", metadata);
        }
        let spec = self.part(node, "spec", "spec: { ... }");
        if let Some(spec) = spec {
            self.shape(spec_object, spec);
        }
        let metadata = metadata?;
        let name = text(metadata, "name")?;
        let name_place = metadata.get("name").map_or(metadata.place, |node| node.place);
        if !is_name(name) {
            self.not_a_name(name_place, name);
            return None;
        }
        let labels = text_map(metadata, "labels");
        let kind = if kind == "Target" {
            let target = spec.and_then(|spec| self.target(spec, labels));
            DocumentKind::Target(target.filter(|_| is_sound && self.problems.is_empty()))
        } else {
            let workload = spec.map(|spec| self.workload(spec, labels));
            DocumentKind::Workload(workload.filter(|_| is_sound && self.problems.is_empty()).map(Box::new))
        };
        Some((kind, name.to_owned(), name_place))
    }

    fn api_version(&mut self, node: &Node) -> Option<()> {
        let hint = format!("apiVersion: {API_VERSION}");
        let Some(version) = node.get("apiVersion") else {
            self.problem("missing", node.place, "apiVersion is missing", hint);
            return None;
        };
        if text(node, "apiVersion") != Some(API_VERSION) {
            let written = version.to_value();
            let message = format!("apiVersion {written} is not known");
            self.problem(
                "api-version",
                version.place,
                message,
                format!("this version reads {API_VERSION}"),
            );
            return None;
        }
        Some(())
    }

    fn kind(&mut self, node: &Node) -> Option<(&'static str, &'static str)> {
        let names = || KINDS.iter().map(|(kind, _)| *kind);
        let Some(inner) = node.get("kind") else {
            let hint = format!("there are {}", names().collect::<Vec<_>>().join(" and "));
            self.problem("missing", node.place, "kind is missing", hint);
            return None;
        };
        let kind = text(node, "kind").unwrap_or_default();
        if let Some(known) = KINDS.iter().find(|(name, _)| *name == kind) {
            return Some(*known);
        }
        if LATER_KINDS.contains(&kind) {
            let message = format!("kind {kind} is known, but not in this version");
            self.problem("not-in-this-version", inner.place, message, "take it out for now");
        } else {
            let hint =
                did_you_mean(kind, names()).unwrap_or_else(|| format!("there are {}", names().collect::<Vec<_>>().join(" and ")));
            let message = format!("kind {} is not known", inner.to_value());
            self.problem("unknown-kind", inner.place, message, hint);
        }
        None
    }

    /// `metadata` or `spec`.
    fn part<'n>(&mut self, node: &'n Node, key: &str, hint: &str) -> Option<&'n Node> {
        match node.get(key) {
            None => {
                self.problem("missing", node.place, format!("{key} is missing"), hint);
                None
            }
            Some(inner) if matches!(inner.content, Content::Map(_)) => Some(inner),
            Some(inner) => {
                self.problem("type", inner.place, format!("{key} is a map"), hint);
                None
            }
        }
    }

    fn not_a_name(&mut self, place: Place, name: &str) {
        let hint = "a-z, 0-9 and -, a letter first, no - at the end, at most 63";
        self.problem("name", place, format!("{name:?} is not a name"), hint);
    }

    fn too_many(&mut self, place: Place, key: &str, have: usize, most: usize) {
        if have > most {
            let message = format!("{key} has {have} entries; the limit is {most}");
            self.problem("too-many", place, message, "split it");
        }
    }

    fn target(&mut self, spec: &Node, labels: BTreeMap<String, String>) -> Option<TargetSpec> {
        let plugin = text(spec, "plugin")?;
        if !is_name(plugin) {
            self.not_a_name(spec.locate("/plugin"), plugin);
        }
        Some(TargetSpec {
            labels,
            plugin: plugin.to_owned(),
            config: values::free(spec, "config"),
            values: text_map(spec, "values"),
        })
    }

    /// Of use only when no problem was found: what could not be read has its default.
    fn workload(&mut self, node: &Node, labels: BTreeMap<String, String>) -> WorkloadDraft {
        let mut spec = WorkloadSpec::new(self.artifacts(node), self.placement(node));
        spec.labels = labels;
        let mut values = BTreeMap::new();
        spec.template = self.template(node, "/spec", &spec.artifacts, &mut values);
        let files = self.files(node);
        spec.secrets = self.secrets(node);
        (spec.before, spec.after) = self.jobs(node, &spec.artifacts, &mut values);
        self.instances(node, &mut spec);
        if let Some(strategy) = object(node, "strategy") {
            self.strategy(strategy, &mut spec.strategy);
        }
        if let Some(health) = object(node, "health") {
            self.health(health, &mut spec.health);
        }
        let steps = is_strategy_whole(node, &spec.strategy).then(|| spec.strategy.steps().to_vec());
        spec.analysis = self.analyses(node, steps.as_deref());
        spec.approval = object(node, "approval").map(|approval| self.approval(approval, steps.as_deref()));
        if text(node, "rollback") == Some("manual") {
            spec.rollback = Rollback::Manual;
        }
        spec.depends_on = self.depends_on(node);
        spec.drain_ms = values::duration(node, "drain").unwrap_or(spec.drain_ms);
        spec.retain = int(node, "retain").unwrap_or(spec.retain);
        spec.standby = int(node, "standby").unwrap_or(spec.standby);
        spec.suspend = flag(node, "suspend").unwrap_or(spec.suspend);
        spec.attempt = int(node, "attempt").unwrap_or(spec.attempt);
        WorkloadDraft { spec, files, values }
    }

    /// Whether those names exist, only all files together say.
    fn depends_on(&mut self, spec: &Node) -> Vec<String> {
        let items = list(spec, "dependsOn");
        self.too_many(spec.locate("/dependsOn"), "dependsOn", items.len(), DEPENDENCIES_MAX);
        self.names(items, "workload")
    }

    /// The names in a list, each once.
    fn names(&mut self, items: &[Node], what: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let mut seen = BTreeSet::new();
        for item in items {
            let Content::Scalar(Value::String(name), _) = &item.content else {
                continue;
            };
            if !is_name(name) {
                self.not_a_name(item.place, name);
            } else if !seen.insert(name) {
                let message = format!("{what} {name:?} is named twice");
                self.problem("duplicate", item.place, message, "keep one of them");
            }
            names.push(name.clone());
        }
        names
    }
}

/// Weights can only be judged by a strategy that could be read.
fn is_strategy_whole(spec: &Node, strategy: &Strategy) -> bool {
    match (spec.get("strategy"), object(spec, "strategy")) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(_), Some(node)) => {
            object(node, "canary").is_none_or(|canary| list(canary, "steps").len() == strategy.steps().len())
        }
    }
}

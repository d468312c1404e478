//! One table of every field there is: it says which exist, which only come later, what they are for, and what the JSON
//! Schema of them is. Reading and schema cannot disagree.

use super::problem::{Problem, Severity};
use super::yaml::{Content, Node};
use serde_json::{Map, Value, json};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Int,
    Bool,
    Duration,
    Percent,
    /// Anything: the plugin's dialect.
    Free,
    TextMap,
    TextList,
    Object(&'static str),
    ObjectList(&'static str),
    /// Known, not in this version.
    Later,
}

pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub doc: &'static str,
}

const fn f(name: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field { name, kind, doc }
}

/// Objects by name, with their fields.
pub const OBJECTS: &[(&str, &[Field])] = &[
    (
        "metadata",
        &[
            f("name", Kind::Text, "Name: a-z, 0-9 and -, a letter first, at most 63"),
            f("labels", Kind::TextMap, "Labels, for selecting"),
        ],
    ),
    (
        "target",
        &[
            f(
                "plugin",
                Kind::Text,
                "Plugin that drives it: a name of the operator's configuration",
            ),
            f("config", Kind::Free, "Configuration in the plugin's dialect"),
            f("values", Kind::TextMap, "Values for ${values.NAME} in templates"),
        ],
    ),
    (
        "workload",
        &[
            f(
                "artifacts",
                Kind::TextMap,
                "Name to reference, REGISTRY/REPOSITORY:TAG or @DIGEST; the main one is named main, or is the only one",
            ),
            f("placement", Kind::Object("placement"), "Which targets run it"),
            f("instances", Kind::Int, "Instances per target; default 1"),
            f(
                "template",
                Kind::Free,
                "What to run, in the plugin's dialect; ${values.X} and ${artifacts.X} are filled in",
            ),
            f("config", Kind::Object("config"), "Config files that belong to the release"),
            f(
                "strategy",
                Kind::Object("strategy"),
                "How traffic comes to a new release; default blueGreen",
            ),
            f("health", Kind::Object("health"), "When a new generation counts as proven"),
            f(
                "analysis",
                Kind::ObjectList("analysis"),
                "Is the candidate worse than what it replaces?",
            ),
            f("rollback", Kind::Text, "automatic (default) or manual"),
            f("drain", Kind::Duration, "Time for requests in flight to end; default 30s"),
            f("attempt", Kind::Int, "Raise it to try a quarantined release again; default 1"),
            f("secrets", Kind::Later, ""),
            f("before", Kind::Later, ""),
            f("after", Kind::Later, ""),
            f("approval", Kind::Later, ""),
            f("dependsOn", Kind::Later, ""),
            f("retain", Kind::Later, ""),
            f("standby", Kind::Later, ""),
            f("suspend", Kind::Later, ""),
            f("onHalt", Kind::Later, ""),
        ],
    ),
    (
        "placement",
        &[
            f("targets", Kind::Object("targets"), "Targets by label or by name"),
            f("waves", Kind::Later, ""),
            f("maxFailed", Kind::Later, ""),
            f("maxLagging", Kind::Later, ""),
            f("lagAfter", Kind::Later, ""),
        ],
    ),
    (
        "targets",
        &[
            f("matchLabels", Kind::TextMap, "Targets that carry all these labels"),
            f("names", Kind::TextList, "Targets by name"),
        ],
    ),
    (
        "config",
        &[f(
            "files",
            Kind::TextMap,
            "Path in the release to path in the repository, relative to the manifest",
        )],
    ),
    (
        "strategy",
        &[
            f("blueGreen", Kind::Object("blueGreen"), "Launch beside, prove, switch at once"),
            f("canary", Kind::Object("canary"), "Launch beside, prove, shift by weight"),
            f("rolling", Kind::Later, ""),
            f("recreate", Kind::Later, ""),
        ],
    ),
    (
        "blueGreen",
        &[f(
            "bake",
            Kind::Duration,
            "Keep the old generation so long after the switch; default 0s",
        )],
    ),
    (
        "canary",
        &[
            f("steps", Kind::ObjectList("step"), "Weights, rising to 100%"),
            f(
                "bake",
                Kind::Duration,
                "Keep the old generation so long after the last step; default 0s",
            ),
        ],
    ),
    (
        "step",
        &[
            f("weight", Kind::Percent, "Share of the traffic"),
            f("hold", Kind::Duration, "Stay here so long; default 0s"),
        ],
    ),
    (
        "health",
        &[
            f("timeout", Kind::Duration, "From launch until proven; default 5m"),
            f("interval", Kind::Duration, "How often to look; default 5s"),
            f("stable", Kind::Duration, "Healthy so long without a break; default 30s"),
            f(
                "http",
                Kind::Object("http"),
                "GET on every address of a generation; 2xx is healthy",
            ),
        ],
    ),
    ("http", &[f("path", Kind::Text, "Path, beginning with /")]),
    (
        "analysis",
        &[
            f("name", Kind::Text, "Name, for people"),
            f(
                "target",
                Kind::Text,
                "Two counters of the target's own, as in errors_total/requests_total",
            ),
            f("baseline", Kind::Text, "current"),
            f(
                "failWhen",
                Kind::Text,
                "CEL over canary and baseline, each {value, samples}; true is a failure",
            ),
            f("interval", Kind::Duration, "How often to measure; default 30s"),
            f("failures", Kind::Int, "Failures in a row that end the attempt; default 2"),
            f(
                "minSamples",
                Kind::Int,
                "Below so many samples nothing is decided; default 100",
            ),
            f(
                "unmeasured",
                Kind::Object("unmeasured"),
                "What to do when nothing can be measured",
            ),
            f("dryRun", Kind::Bool, "Record, never act; default false"),
            f("prometheus", Kind::Later, ""),
            f("http", Kind::Later, ""),
        ],
    ),
    (
        "unmeasured",
        &[
            f("for", Kind::Duration, "For so long; default 1h"),
            f("then", Kind::Text, "hold (default), fail or pass"),
        ],
    ),
];

/// Kinds of the design that only come later.
pub const LATER_KINDS: [&str; 2] = ["Policy", "Promotion"];

pub fn fields_of(object: &str) -> &'static [Field] {
    OBJECTS
        .iter()
        .find(|(name, _)| *name == object)
        .map_or(&[], |(_, fields)| fields)
}

/// The known name closest to a mistyped one.
pub fn did_you_mean<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let near = known
        .map(|name| (strsim::damerau_levenshtein(&text.to_lowercase(), &name.to_lowercase()), name))
        .min()?;
    (near.0 <= 1 + text.len() / 4).then(|| format!("did you mean {:?}?", near.1))
}

/// Unknown fields, and known ones that are not built yet.
pub fn check_fields(file: &str, object: &'static str, node: &Node, problems: &mut Vec<Problem>) {
    let Content::Map(entries) = &node.content else { return };
    let fields = fields_of(object);
    for (key, _) in entries {
        let known = fields.iter().find(|field| field.name == key.text);
        let (code, message, hint) = match known {
            Some(field) if field.kind != Kind::Later => continue,
            Some(_) => (
                "not-in-this-version",
                format!("{:?} is known, but not in this version", key.text),
                Some("take it out for now".to_owned()),
            ),
            None => {
                let names = fields
                    .iter()
                    .filter(|field| field.kind != Kind::Later)
                    .map(|field| field.name);
                let hint = did_you_mean(&key.text, names.clone())
                    .unwrap_or_else(|| format!("{object} has {}", names.collect::<Vec<_>>().join(", ")));
                ("unknown-field", format!("unknown field {:?}", key.text), Some(hint))
            }
        };
        problems.push(Problem {
            code,
            severity: Severity::Error,
            file: file.to_owned(),
            line: key.place.line,
            column: key.place.column,
            width: key.place.width,
            message,
            hint,
        });
    }
}

/// A serde error over another file's value (the operator's), put at its place.
pub fn operator_problem(file: &str, node: Option<&Node>, pointer: &str, message: &str) -> Problem {
    let place = node.map(|node| node.locate(pointer)).unwrap_or_default();
    let hint = message.strip_prefix("unknown field `").and_then(|rest| {
        let (field, rest) = rest.split_once('`')?;
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        did_you_mean(field, known.into_iter())
    });
    Problem {
        code: if message.starts_with("unknown field") {
            "unknown-field"
        } else {
            "invalid"
        },
        severity: Severity::Error,
        file: file.to_owned(),
        line: place.line.max(1),
        column: place.column.max(1),
        width: place.width.max(1),
        message: message.to_owned(),
        hint,
    }
}

/// JSON Schema (draft 2020-12) of a manifest document.
pub fn schema() -> Value {
    let kind = |kind: &str, spec: &str, required: &[&str]| {
        json!({
            "type": "object", "additionalProperties": false, "required": ["apiVersion", "kind", "metadata", "spec"],
            "properties": {
                "apiVersion": { "const": super::API_VERSION }, "kind": { "const": kind },
                "metadata": object("metadata", &["name"]), "spec": object(spec, required),
            },
        })
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Holdfast manifest",
        "oneOf": [kind("Target", "target", &["plugin"]), kind("Workload", "workload", &["artifacts", "placement", "template"])],
    })
}

fn object(name: &str, required: &[&str]) -> Value {
    let properties: Map<String, Value> = fields_of(name)
        .iter()
        .filter(|field| field.kind != Kind::Later)
        .map(|field| {
            let mut schema = match field.kind {
                Kind::Text => json!({ "type": "string" }),
                Kind::Int => json!({ "type": "integer", "minimum": 0 }),
                Kind::Bool => json!({ "type": "boolean" }),
                Kind::Duration => json!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$" }),
                Kind::Percent => json!({ "type": "string", "pattern": "^[0-9]{1,3}(\\.[0-9]{1,2})?%$" }),
                Kind::Free | Kind::Later => json!({}),
                Kind::TextMap => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
                Kind::TextList => json!({ "type": "array", "items": { "type": "string" } }),
                Kind::Object(inner) => object(inner, &[]),
                Kind::ObjectList(inner) => json!({ "type": "array", "items": object(inner, &[]) }),
            };
            schema["description"] = field.doc.into();
            (field.name.to_owned(), schema)
        })
        .collect();
    json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
}

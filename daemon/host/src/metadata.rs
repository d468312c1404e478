//! What a plugin says of itself, in a custom section that is read without running it; and what a component is, seen from
//! outside.

use crate::endpoint::RuleConfig;
use crate::policy::{Effect, Rule};
use crate::versions::{Since01, is_of, version_of};
use holdfast_core::ids::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use wasmparser::{Encoding, Parser, Payload};

/// The custom section's name. Its content is JSON: a [`Metadata`].
pub const METADATA_SECTION: &str = "holdfast.plugin";
const METADATA_MAX_BYTES: usize = 256 << 10;
const WANTS_MAX: usize = 64;
const RULES_MAX: usize = 256;
/// What one host build can call, as `holdfast:target` packages.
pub const SUPPORTED_VERSIONS: [&str; 1] = [Since01::SERIES];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Lower-case words with `-` and `/`, as in `example/queue`; the operator's name for it may be another.
    pub id: String,
    pub version: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// SPDX expression.
    pub licence: String,
    /// Where its code is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// JSON Schema of a target's `config`.
    #[serde(default = "any_object")]
    pub config: Value,
    /// What it has to reach, and why. It never gets more than this and the operator's rules both grant.
    #[serde(default)]
    pub wants: Vec<Want>,
    #[serde(default, skip_serializing_if = "AskedLimits::is_default")]
    pub limits: AskedLimits,
    /// The optional interfaces that it exports.
    #[serde(default)]
    pub capabilities: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Want {
    pub alias: String,
    pub why: String,
    pub rules: Vec<RuleConfig>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedLimits {
    /// Of linear memory in one call; none: what the host gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
}

impl AskedLimits {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn any_object() -> Value {
    serde_json::json!({ "type": "object" })
}

/// Where in the metadata a problem is, as a JSON pointer, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct MetadataProblem {
    pub at: String,
    pub message: String,
}

impl Metadata {
    pub fn parse(json: &[u8]) -> Result<Self, MetadataProblem> {
        let problem = |at: &str, message: String| MetadataProblem {
            at: if at.is_empty() { "/".into() } else { at.into() },
            message,
        };
        if json.len() > METADATA_MAX_BYTES {
            return Err(problem("", format!("it has more than {METADATA_MAX_BYTES} bytes")));
        }
        let metadata: Metadata =
            serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(json)).map_err(|error| {
                let path = error.path().to_string();
                let pointer = match path.as_str() {
                    "." => String::new(),
                    path => format!("/{}", path.replace(['.', '['], "/").replace(']', "").replace("//", "/")),
                };
                problem(&pointer, error.into_inner().to_string())
            })?;
        metadata.check()?;
        Ok(metadata)
    }

    fn check(&self) -> Result<(), MetadataProblem> {
        let problem = |at: String, message: &str| {
            Err(MetadataProblem {
                at,
                message: message.to_owned(),
            })
        };
        let word = |text: &str| {
            !text.is_empty()
                && text.len() <= 128
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'/' | b'.'))
        };
        if !word(&self.id) {
            return problem("/id".into(), "an id is up to 128 of a-z, 0-9, -, . and /");
        }
        if self.version.is_empty() || self.licence.is_empty() {
            return problem("/version".into(), "a plugin has a version and a licence");
        }
        if !self.config.is_object() {
            return problem("/config".into(), "it is the JSON Schema of a target's config, an object");
        }
        if self.wants.len() > WANTS_MAX {
            return problem("/wants".into(), "there are more than 64");
        }
        let mut aliases = BTreeSet::new();
        for (index, want) in self.wants.iter().enumerate() {
            if !word(&want.alias) || !aliases.insert(&want.alias) {
                return problem(
                    format!("/wants/{index}/alias"),
                    "an alias is of a-z, 0-9 and -, and stands here once",
                );
            }
            if want.why.trim().is_empty() {
                return problem(format!("/wants/{index}/why"), "say to the operator what it is for");
            }
            if want.rules.is_empty() || want.rules.len() > RULES_MAX {
                return problem(format!("/wants/{index}/rules"), "there are 1 to 256");
            }
        }
        Ok(())
    }

    pub(crate) fn wanted_rules(&self) -> BTreeMap<String, Vec<Rule>> {
        let of = |want: &Want| (want.alias.clone(), want.rules.iter().map(RuleConfig::rule).collect());
        self.wants.iter().map(of).collect()
    }

    /// The rules that it wants of one alias, for an operator who grants just these.
    pub fn rules_of(&self, alias: &str) -> Option<&[RuleConfig]> {
        self.wants
            .iter()
            .find(|want| want.alias == alias)
            .map(|want| want.rules.as_slice())
    }
}

/// A component with the metadata as its last section; what it had of that name at its own level is replaced.
pub fn with_metadata(component: &[u8], metadata: &[u8]) -> Result<Vec<u8>, InspectError> {
    let outer = outer_sections(component)?;
    let mut bytes = Vec::with_capacity(component.len() + metadata.len() + 32);
    let mut kept = 0;
    for section in outer {
        bytes.extend_from_slice(&component[kept..section.start]);
        kept = section.end;
    }
    bytes.extend_from_slice(&component[kept..]);
    let mut content = leb128(METADATA_SECTION.len());
    content.extend_from_slice(METADATA_SECTION.as_bytes());
    content.extend_from_slice(metadata);
    bytes.push(0);
    bytes.extend(leb128(content.len()));
    bytes.extend(content);
    Ok(bytes)
}

fn leb128(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Whole metadata sections (id and length included) of the component itself.
fn outer_sections(component: &[u8]) -> Result<Vec<std::ops::Range<usize>>, InspectError> {
    let mut found = Vec::new();
    let (mut depth, mut previous_end) = (0, 8);
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.map_err(|error| InspectError::Invalid(error.to_string()))?;
        match &payload {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::CustomSection(section) if depth == 1 && section.name() == METADATA_SECTION => {
                found.push(previous_end..section.range().end);
            }
            _ => {}
        }
        if let Payload::End(at) = payload {
            previous_end = at;
        } else if let Some((_, range)) = payload.as_section() {
            previous_end = range.end;
        }
    }
    Ok(found)
}

#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("it is not WebAssembly: {0}")]
    Invalid(String),
    #[error("it is a core module, not a component; build it for wasm32-wasip2, or componentize it")]
    Module,
    #[error("its section {METADATA_SECTION} is not valid, at {0}")]
    Metadata(#[from] MetadataProblem),
    #[error("it has {0} sections {METADATA_SECTION}; one is read")]
    Several(usize),
}

/// What a component is, read without running or compiling it. Not validated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    pub digest: Digest,
    pub size_bytes: usize,
    /// Versions of `holdfast:target` whose `target` it exports, as in `0.1.0`.
    pub versions: BTreeSet<String>,
    /// Whether this host can call one of them.
    pub supported: bool,
    pub imports: BTreeSet<String>,
    pub exports: BTreeSet<String>,
    pub metadata: Option<Metadata>,
}

/// The section may lie in the component itself or in a module within: rustc puts it there.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, InspectError> {
    let invalid = |error: wasmparser::BinaryReaderError| InspectError::Invalid(error.to_string());
    let (mut depth, mut outer, mut inner) = (0, Vec::new(), Vec::new());
    let (mut imports, mut exports) = (BTreeSet::new(), BTreeSet::new());
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::Version { encoding, .. } => {
                if depth == 0 && encoding == Encoding::Module {
                    return Err(InspectError::Module);
                }
                depth += 1;
            }
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.insert(import.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.insert(export.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::CustomSection(section) if section.name() == METADATA_SECTION => {
                let into = if depth == 1 { &mut outer } else { &mut inner };
                into.push(section.data().to_vec());
            }
            _ => {}
        }
    }
    // A build step's section stands over what the compiler put in.
    let sections = if outer.is_empty() { inner } else { outer };
    let metadata = match sections.as_slice() {
        [] => None,
        [one] => Some(Metadata::parse(one)?),
        several => return Err(InspectError::Several(several.len())),
    };
    let versions: BTreeSet<String> = version_of(exports.iter().map(String::as_str))
        .into_iter()
        .map(str::to_owned)
        .collect();
    Ok(Inspection {
        digest: Digest::of(bytes),
        size_bytes: bytes.len(),
        supported: versions.iter().any(|version| is_supported(version)),
        versions,
        imports,
        exports,
        metadata,
    })
}

/// Versions of one breaking series are compatible: 0.1.0 and 0.1.7.
fn is_supported(version: &str) -> bool {
    SUPPORTED_VERSIONS.iter().any(|series| is_of(version, series))
}

/// One thing that an upgrade wants and its predecessor did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewWant {
    pub alias: String,
    pub effect: Option<Effect>,
    pub method: String,
    pub path: String,
    pub why: String,
}

/// What `new` may do that `old` may not, of what the plugins want. Of one without metadata nothing is known: it may want
/// anything.
pub fn newly_wanted(old: Option<&Metadata>, new: Option<&Metadata>) -> Vec<NewWant> {
    let Some(old) = old else { return Vec::new() };
    let Some(new) = new else {
        return vec![NewWant {
            alias: "*".into(),
            effect: None,
            method: "*".into(),
            path: "*".into(),
            why: "it says no longer what it wants, so all that the operator grants is its".into(),
        }];
    };
    let mut found = Vec::new();
    for want in &new.wants {
        let before = old.rules_of(&want.alias).unwrap_or_default();
        for rule in &want.rules {
            for method in &rule.methods {
                if !before.iter().any(|one| covers(one, rule, method)) {
                    found.push(NewWant {
                        alias: want.alias.clone(),
                        effect: Some(rule.effect),
                        method: method.clone(),
                        path: rule.path.clone(),
                        why: want.why.clone(),
                    });
                }
            }
        }
    }
    let memory = |of: &Metadata| of.limits.memory_mib.unwrap_or(0);
    if memory(new) > memory(old) {
        found.push(NewWant {
            alias: String::new(),
            effect: None,
            method: String::new(),
            path: String::new(),
            why: format!("{} MiB of memory instead of {}", memory(new), memory(old)),
        });
    }
    found
}

/// What is a read may be asked for in every verb, a write only in those that change something. Patterns are compared as
/// texts: one that only says the same in other words counts as new, and a person looks.
fn covers(old: &RuleConfig, new: &RuleConfig, method: &String) -> bool {
    let effect = old.effect == Effect::Read || new.effect == Effect::Write;
    let pinned = old.body_name_pointer.is_none() || old.body_name_pointer == new.body_name_pointer;
    effect && pinned && old.path == new.path && old.methods.contains(method)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(rules: Value) -> Metadata {
        let text = json!({ "id": "example/x", "version": "1.0.0", "licence": "MIT",
            "wants": [{ "alias": "api", "why": "to see it", "rules": rules }] });
        Metadata::parse(text.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn problems_have_a_place() {
        for (text, at) in [
            (json!([]), "/"),
            (json!({ "id": "x" }), "/"),
            (json!({ "id": "X y", "version": "1", "licence": "MIT" }), "/id"),
            (json!({ "id": "x", "version": "", "licence": "MIT" }), "/version"),
            (json!({ "id": "x", "version": "1", "licence": "MIT", "config": 3 }), "/config"),
            (
                json!({ "id": "x", "version": "1", "licence": "MIT", "wants": [{ "alias": "a", "why": " ", "rules": [] }] }),
                "/wants/0/why",
            ),
            (
                json!({ "id": "x", "version": "1", "licence": "MIT", "wants": [{ "alias": "a", "why": "b", "rules": [{ "effect": "reed" }] }] }),
                "/wants/0/rules/0/effect",
            ),
        ] {
            assert_eq!(Metadata::parse(text.to_string().as_bytes()).unwrap_err().at, at, "{text}");
        }
    }

    #[test]
    fn a_section_is_written_once_and_read_without_running() {
        let component = wat::parse_str("(component)").unwrap();
        assert_eq!(inspect(&component).unwrap().metadata, None);
        let text = json!({ "id": "example/x", "version": "1.0.0", "licence": "MIT" });
        let first = with_metadata(&component, text.to_string().as_bytes()).unwrap();
        assert_eq!(inspect(&first).unwrap().metadata.unwrap().version, "1.0.0");
        let text = json!({ "id": "example/x", "version": "2.0.0", "licence": "MIT", "description": "d".repeat(300) });
        let second = with_metadata(&first, text.to_string().as_bytes()).unwrap();
        assert_eq!(inspect(&second).unwrap().metadata.unwrap().version, "2.0.0");
        assert!(wasmparser::Validator::new().validate_all(&second).is_ok());
        let nested = wat::parse_str(
            r#"(component (core module (@custom "holdfast.plugin" "{\"id\":\"in\",\"version\":\"1\",\"licence\":\"MIT\"}")))"#,
        );
        assert_eq!(inspect(&nested.unwrap()).unwrap().metadata.unwrap().id, "in");
        assert!(matches!(
            inspect(&wat::parse_str("(module)").unwrap()),
            Err(InspectError::Module)
        ));
        assert!(matches!(inspect(b"\0asm"), Err(InspectError::Invalid(_))));
        let bad = with_metadata(&component, b"{}").unwrap();
        assert!(matches!(inspect(&bad), Err(InspectError::Metadata(_))));
    }

    #[test]
    fn what_an_upgrade_newly_wants() {
        let rule = |effect: &str, method: &str, path: &str| json!({ "effect": effect, "methods": [method], "path": path });
        let old = metadata(json!([rule("read", "GET", "/a"), rule("write", "PUT", "/b")]));
        for (rules, expected) in [
            (json!([rule("read", "GET", "/a")]), vec![]),
            // Less: only in verbs that change something.
            (json!([rule("write", "GET", "/a")]), vec![]),
            (json!([rule("read", "PUT", "/b")]), vec!["PUT /b"]),
            (
                json!([rule("read", "GET", "/**"), rule("write", "DELETE", "/b")]),
                vec!["GET /**", "DELETE /b"],
            ),
        ] {
            let found = newly_wanted(Some(&old), Some(&metadata(rules)));
            let found: Vec<String> = found.iter().map(|want| format!("{} {}", want.method, want.path)).collect();
            assert_eq!(found, expected);
        }
        assert_eq!(newly_wanted(Some(&old), None).len(), 1);
        assert_eq!(newly_wanted(None, Some(&old)).len(), 0);
        let mut hungry = old.clone();
        hungry.limits.memory_mib = Some(512);
        assert!(newly_wanted(Some(&old), Some(&hungry))[0].why.contains("512 MiB"));
    }
}

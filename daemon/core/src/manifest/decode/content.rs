//! What a release is made of: artifacts, template, config files, secrets, jobs.

use super::super::fill;
use super::super::yaml::{Content, Node};
use super::Reader;
use super::values::{flag, free, list, object, text, text_map};
use crate::ids::is_name;
use crate::spec::{ArtifactSpec, Job, JobScope, SecretRef, Selector};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const ARTIFACTS_MAX: usize = 32;
const SECRETS_MAX: usize = 100;
const JOBS_MAX: usize = 16;
/// A job is called after its generation, and the longest name on any platform is 63.
const JOB_NAME_MAX: usize = 30;
const TEMPLATE_MAX_BYTES: usize = 32 << 10;
const REFERENCE_MAX_BYTES: usize = 512;
const SELECTOR_MAX_BYTES: usize = 200;
const REGEX_MAX_BYTES: usize = 1 << 20;

type Artifacts = BTreeMap<String, ArtifactSpec>;
type Values = BTreeMap<String, String>;

impl Reader<'_> {
    pub(super) fn artifacts(&mut self, spec: &Node) -> Artifacts {
        let mut artifacts = BTreeMap::new();
        let Some(node) = object(spec, "artifacts") else {
            return artifacts;
        };
        let Content::Map(entries) = &node.content else {
            return artifacts;
        };
        for (key, value) in entries {
            if !is_name(&key.text) {
                self.not_a_name(key.place, &key.text);
            }
            let from = match &value.content {
                Content::Scalar(Value::String(text), _) => {
                    if text.is_empty() || text.len() > REFERENCE_MAX_BYTES || text.contains(char::is_whitespace) {
                        let message = format!("{text:?} is not a reference");
                        self.problem("reference", value.place, message, "REGISTRY/REPOSITORY:TAG");
                    }
                    ArtifactSpec::Reference(text.clone())
                }
                Content::Map(_) => self.selection(value),
                // Named, so that a template which uses it is not blamed as well.
                _ => ArtifactSpec::Reference(String::new()),
            };
            artifacts.insert(key.text.clone(), from);
        }
        if artifacts.is_empty() || artifacts.len() > ARTIFACTS_MAX {
            let message = format!("a workload has 1 to {ARTIFACTS_MAX} artifacts");
            self.problem("artifacts", node.place, message, "main: REGISTRY/REPOSITORY:TAG");
        } else if artifacts.len() > 1 && !artifacts.contains_key("main") {
            let message = "with several artifacts, one is named main";
            self.problem("artifacts", node.place, message, "rename the one that the workload is about");
        }
        artifacts
    }

    fn selection(&mut self, node: &Node) -> ArtifactSpec {
        let repository = text(node, "repository").unwrap_or_default().to_owned();
        let last = repository.rsplit('/').next().unwrap_or_default();
        if repository.contains('@') || (repository.contains('/') && last.contains(':')) {
            let message = format!("{repository:?} names a tag or digest");
            self.problem(
                "repository",
                node.locate("/repository"),
                message,
                "only REGISTRY/REPOSITORY: which tag, select says",
            );
        }
        let select = object(node, "select");
        let semver = select.and_then(|select| text(select, "semver"));
        let regex = select.and_then(|select| text(select, "regex"));
        if let Some(requirement) = semver
            && let Err(message) = check_semver(requirement)
        {
            let hint = "as in ~1.4, ^1 or \">=1.2, <2\": several conditions are separated by commas";
            self.problem("semver", node.locate("/select/semver"), message, hint);
        }
        if let Some(pattern) = regex
            && let Err(message) = check_regex(pattern)
        {
            let hint = "as in '^main-(\\d+)$', in single quotes; at most one capture, (?:...) groups without one";
            self.problem("regex", node.locate("/select/regex"), message, hint);
        }
        ArtifactSpec::Select {
            repository,
            select: match (semver, regex) {
                (_, Some(pattern)) => Selector::Regex(pattern.to_owned()),
                (requirement, None) => Selector::Semver(requirement.unwrap_or_default().to_owned()),
            },
        }
    }

    /// The workload's or a job's: `node`, at a pointer in the document, has a field `template`. Adds the values it wants.
    pub(super) fn template(&mut self, node: &Node, at: &str, artifacts: &Artifacts, values: &mut Values) -> Value {
        let place = node.locate("/template");
        let template = free(node, "template");
        let size = template.to_string().len();
        if size > TEMPLATE_MAX_BYTES {
            let message = format!("the template has {size} bytes; the limit is {TEMPLATE_MAX_BYTES}");
            self.problem("template-too-large", place, message, "put the larger parts into config files");
        }
        let (names, wrong) = fill::used(&template);
        for (pointer, error) in wrong {
            let hint = "write $${ for a literal ${";
            self.problem("placeholder", node.locate(&pointer), error.to_string(), hint);
        }
        for name in names {
            if let Some(value) = name.strip_prefix("values.") {
                values.entry(value.to_owned()).or_insert_with(|| format!("{at}/template"));
            } else if let Some(artifact) = name.strip_prefix("artifacts.").filter(|name| !artifacts.contains_key(*name)) {
                let known: Vec<&str> = artifacts.keys().map(String::as_str).collect();
                let message = format!("the template uses artifact {artifact:?}, which there is not");
                self.problem("placeholder", place, message, format!("there are {}", known.join(", ")));
            }
        }
        template
    }

    /// Path in the release to path as written.
    pub(super) fn files(&mut self, spec: &Node) -> BTreeMap<String, String> {
        let Some(config) = object(spec, "config") else {
            return BTreeMap::new();
        };
        let files = text_map(config, "files");
        for path in files.keys().filter(|path| !is_relative(path)) {
            let pointer = format!("/files/{}", path.replace('~', "~0").replace('/', "~1"));
            let message = format!("{path:?} is not a relative path without ..");
            self.problem("path", config.locate(&pointer), message, "as in conf/app.toml");
        }
        files
    }

    pub(super) fn secrets(&mut self, spec: &Node) -> Vec<SecretRef> {
        let items = list(spec, "secrets");
        self.too_many(spec.locate("/secrets"), "secrets", items.len(), SECRETS_MAX);
        let mut secrets: Vec<SecretRef> = Vec::new();
        for item in items.iter().take(SECRETS_MAX) {
            let name = text(item, "name").unwrap_or_default();
            let version = text(item, "version").unwrap_or_default();
            if item.get("name").is_some() && !is_name(name) {
                self.not_a_name(item.locate("/name"), name);
            } else if !name.is_empty() && secrets.iter().any(|secret| secret.name == name) {
                let message = format!("secret {name:?} is named twice");
                self.problem("duplicate", item.locate("/name"), message, "keep one of them");
            }
            if version.eq_ignore_ascii_case("latest") {
                self.problem(
                    "secret-version",
                    item.locate("/version"),
                    "latest is no version: the same commit would mean another secret every day",
                    "name one version, as in version: \"7\"",
                );
            } else if text(item, "version").is_some() && !is_version(version) {
                let message = format!("{version:?} is not a version");
                let hint = "1 to 128 visible characters, as in version: \"7\"";
                self.problem("secret-version", item.locate("/version"), message, hint);
            }
            secrets.push(SecretRef {
                name: name.to_owned(),
                version: version.to_owned(),
            });
        }
        secrets
    }

    /// `before` and `after`.
    pub(super) fn jobs(&mut self, spec: &Node, artifacts: &Artifacts, values: &mut Values) -> (Vec<Job>, Vec<Job>) {
        let mut seen = BTreeSet::new();
        let mut read = |key: &str| -> Vec<Job> {
            let items = list(spec, key);
            self.too_many(spec.locate(&format!("/{key}")), key, items.len(), JOBS_MAX);
            let mut jobs = Vec::new();
            for (index, item) in items.iter().take(JOBS_MAX).enumerate() {
                let name = text(item, "name").unwrap_or_default();
                let place = item.locate("/name");
                if item.get("name").is_some() && !is_name(name) {
                    self.not_a_name(place, name);
                } else if name.len() > JOB_NAME_MAX {
                    let message = format!("{name:?} has {} characters", name.len());
                    self.problem("name", place, message, format!("at most {JOB_NAME_MAX} for a job"));
                } else if !name.is_empty() && !seen.insert(name.to_owned()) {
                    let message = format!("job {name:?} is named twice");
                    self.problem("duplicate", place, message, "before and after share their names");
                }
                jobs.push(Job {
                    name: name.to_owned(),
                    template: self.template(item, &format!("/spec/{key}/{index}"), artifacts, values),
                    scope: match text(item, "scope") {
                        Some("placement") => JobScope::Placement,
                        _ => JobScope::Target,
                    },
                    repeatable: flag(item, "repeatable").unwrap_or(false),
                });
            }
            jobs
        };
        (read("before"), read("after"))
    }
}

fn check_semver(requirement: &str) -> Result<(), String> {
    if requirement.len() > SELECTOR_MAX_BYTES {
        return Err(format!("the requirement is longer than {SELECTOR_MAX_BYTES} characters"));
    }
    semver::VersionReq::parse(requirement)
        .map(drop)
        .map_err(|error| format!("{requirement:?} is not a version requirement: {error}"))
}

fn check_regex(pattern: &str) -> Result<(), String> {
    if pattern.is_empty() || pattern.len() > SELECTOR_MAX_BYTES {
        return Err(format!("a pattern has 1 to {SELECTOR_MAX_BYTES} characters"));
    }
    let regex = regex::RegexBuilder::new(pattern)
        .size_limit(REGEX_MAX_BYTES)
        .build()
        .map_err(|error| {
            let words: Vec<String> = error.to_string().lines().map(|line| line.trim().to_owned()).collect();
            let last = words.last().cloned().unwrap_or_default();
            format!(
                "{pattern:?} is not a regular expression: {}",
                last.trim_start_matches("error: ")
            )
        })?;
    match regex.captures_len() - 1 {
        0 | 1 => Ok(()),
        captures => Err(format!(
            "{pattern:?} has {captures} captures; only one can be what tags are sorted by"
        )),
    }
}

fn is_version(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| (0x21..=0x7e).contains(&b))
}

fn is_relative(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

//! `holdfast.yaml`: the operator's configuration, on the daemon's host and never in the desired-state repository. It
//! grants; nothing in Git can widen it.

use crate::adapters::git::GitConfig;
use holdfast_core::config::{BindingRule, EngineConfig};
use holdfast_core::ids::{Digest, Millis, is_name};
use holdfast_core::manifest::{Problem, operator_problem, parse_duration_ms, yaml};
use holdfast_host::{Binding, BindingConfig, BindingError};
use holdfast_registry::RegistryConfig;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    pub repository: GitConfig,
    /// Ledger, mirror, caches. Relative to this file.
    pub data: PathBuf,
    /// Where the command line reaches the daemon; default: `holdfast.sock` in `data`.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    #[serde(default)]
    pub registries: Vec<RegistryConfig>,
    /// Plugins by name, beside the built-in ones.
    #[serde(default)]
    pub plugins: BTreeMap<String, PluginConfig>,
    #[serde(default)]
    pub bindings: Vec<BindingEntry>,
    #[serde(default)]
    pub metrics: MetricsConfig,
    #[serde(default)]
    pub secrets: Option<SecretsConfig>,
    #[serde(default)]
    pub limits: Limits,
    /// How often pinned tags are looked at again, to record a move.
    #[serde(default = "default_tag_poll", deserialize_with = "duration")]
    pub tag_poll: Millis,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    pub file: PathBuf,
    /// sha256:... of the file; another content is not loaded.
    pub digest: Digest,
}

/// Which targets a plugin may drive, and what it may reach there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindingEntry {
    /// A target's name; `*` stands for anything.
    pub target: String,
    pub plugin: String,
    #[serde(default)]
    pub endpoints: BTreeMap<String, holdfast_host::EndpointConfig>,
    #[serde(default)]
    pub probe_networks: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    #[serde(default)]
    pub sources: BTreeMap<String, MetricSourceConfig>,
}

/// A Prometheus server that analyses may ask.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricSourceConfig {
    pub url: String,
    /// PEM file of a private authority; none: the public ones.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(default)]
    pub auth: Option<holdfast_host::AuthConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsConfig {
    /// Values are `DIR/NAME/VERSION`.
    pub dir: PathBuf,
    #[serde(default)]
    pub grants: Vec<SecretGrant>,
}

/// Secrets that a workload may have on a target. `*` stands for anything in the patterns.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretGrant {
    pub target: String,
    /// Against the full name, `REPOSITORY/NAME`.
    pub workload: String,
    pub names: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Units that one revision may remove; more wait for `holdfast allow-removals`.
    pub removals_per_revision: usize,
    pub call_deadline_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            removals_per_revision: 10,
            call_deadline_ms: 15_000,
        }
    }
}

fn default_tag_poll() -> Millis {
    60_000
}

pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration_ms(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a duration, as in 250ms, 30s, 5m")))
}

#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("{} cannot be read", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("{} is not valid", .0.display())]
    Invalid(PathBuf, Vec<Problem>, String),
    #[error("binding of target {target:?}")]
    Binding { target: String, source: BindingError },
}

/// The built-in edge plugin's requests, granted where a binding of it gives no rules of its own.
const EDGE_RULES: &str = r#"
- { effect: read, methods: [GET], path: /v1/site }
- { effect: read, methods: [GET], path: /v1/room }
- { effect: read, methods: [GET], path: "/v1/workloads/{key}/generations/*/telemetry" }
- { effect: read, methods: [GET], path: "/v1/workloads/{key}/generations/*/diagnosis" }
- { effect: write, methods: [PUT, DELETE], path: "/v1/workloads/{key}/generations/*" }
- { effect: write, methods: [PUT], path: "/v1/workloads/{key}/generations/*/size" }
- { effect: write, methods: [PUT], path: "/v1/workloads/{key}/generations/*/jobs/*" }
- { effect: write, methods: [PUT], path: "/v1/workloads/{key}/route" }
"#;

/// All problems of the file at once, with the file's text for showing them.
pub fn check(file: &Path, bytes: &[u8]) -> Result<Operator, Vec<Problem>> {
    let name = file.display().to_string();
    let (nodes, problems) = yaml::read(&name, bytes);
    if !problems.is_empty() {
        return Err(problems);
    }
    let Some(node) = nodes.first() else {
        return Err(vec![operator_problem(
            &name,
            None,
            "",
            "the file is empty; `holdfast init` writes a commented one",
        )]);
    };
    if nodes.len() > 1 {
        return Err(vec![operator_problem(
            &name,
            nodes.get(1),
            "",
            "the file has more than one document",
        )]);
    }
    let text = node.to_value().to_string();
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let operator: Operator = match serde_path_to_error::deserialize(&mut deserializer) {
        Ok(operator) => operator,
        Err(error) => {
            let path = error.path().to_string();
            let mut pointer: String = path
                .split('.')
                .filter(|part| *part != "?" && !part.is_empty())
                .flat_map(|part| {
                    part.split(['[', ']'])
                        .filter(|part| !part.is_empty())
                        .map(|part| format!("/{part}"))
                        .collect::<Vec<_>>()
                })
                .collect();
            let inner = error.into_inner().to_string();
            let message = inner.split(" at line ").next().unwrap_or(&inner).to_owned();
            if let Some(field) = message
                .strip_prefix("unknown field `")
                .and_then(|rest| rest.split('`').next())
                && !pointer.ends_with(&format!("/{field}"))
            {
                pointer = format!("{pointer}/{field}");
            }
            return Err(vec![operator_problem(&name, Some(node), &pointer, &message)]);
        }
    };
    let mut problems = Vec::new();
    if !is_name(&operator.repository.name) {
        problems.push(operator_problem(
            &name,
            Some(node),
            "/repository/name",
            "a name is a-z, 0-9 and -, a letter first, at most 63",
        ));
    }
    for (index, entry) in operator.bindings.iter().enumerate() {
        let known = operator.plugins.contains_key(&entry.plugin)
            || crate::builtin::plugins().iter().any(|(name, _)| *name == entry.plugin);
        if !known {
            let message = format!("no plugin {:?}: neither built in nor under `plugins`", entry.plugin);
            problems.push(operator_problem(
                &name,
                Some(node),
                &format!("/bindings/{index}/plugin"),
                &message,
            ));
        }
        if let Err(error) = entry.binding().map(|config| Binding::new(&config)) {
            problems.push(operator_problem(
                &name,
                Some(node),
                &format!("/bindings/{index}"),
                &error.to_string(),
            ));
        }
    }
    if problems.is_empty() { Ok(operator) } else { Err(problems) }
}

pub fn load(file: &Path) -> Result<Operator, OperatorError> {
    let bytes = std::fs::read(file).map_err(|source| OperatorError::Read {
        file: file.to_owned(),
        source,
    })?;
    let mut operator = check(file, &bytes)
        .map_err(|problems| OperatorError::Invalid(file.to_owned(), problems, String::from_utf8_lossy(&bytes).into_owned()))?;
    let absolute = std::path::absolute(file).map_err(|source| OperatorError::Read {
        file: file.to_owned(),
        source,
    })?;
    operator.make_absolute(absolute.parent().unwrap_or(Path::new("/")));
    Ok(operator)
}

impl Operator {
    /// Paths in the file are relative to the file.
    fn make_absolute(&mut self, base: &Path) {
        let fix = |path: &mut PathBuf| *path = base.join(&*path);
        fix(&mut self.data);
        self.socket.iter_mut().for_each(fix);
        self.repository.make_absolute(base);
        for registry in &mut self.registries {
            registry.layout.iter_mut().for_each(fix);
            registry.ca_file.iter_mut().for_each(fix);
            if let Some(auth) = &mut registry.auth {
                fix(&mut auth.password_file);
            }
        }
        self.plugins.values_mut().for_each(|plugin| fix(&mut plugin.file));
        for endpoint in self.bindings.iter_mut().flat_map(|binding| binding.endpoints.values_mut()) {
            endpoint.unix.iter_mut().for_each(fix);
            endpoint.ca_file.iter_mut().for_each(fix);
            if let Some(auth) = &mut endpoint.auth {
                auth.bearer_token_file.iter_mut().for_each(fix);
                if let Some(basic) = &mut auth.basic {
                    fix(&mut basic.password_file);
                }
            }
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.data.join("holdfast.sock"))
    }

    pub fn ledger_dir(&self) -> PathBuf {
        self.data.join("ledger")
    }

    /// Bindings ready for use, in order.
    pub fn bindings(&self) -> Result<Vec<(BindingRule, Arc<Binding>)>, OperatorError> {
        let fail = |entry: &BindingEntry| {
            let target = entry.target.clone();
            move |source| OperatorError::Binding { target, source }
        };
        self.bindings
            .iter()
            .map(|entry| {
                let config = entry.binding().map_err(fail(entry))?;
                let binding = Binding::new(&config).map_err(fail(entry))?;
                let rule = BindingRule {
                    target: entry.target.clone(),
                    plugin: entry.plugin.clone(),
                    grants: binding.grants.clone(),
                    fixed: BTreeMap::new(),
                };
                Ok((rule, Arc::new(binding)))
            })
            .collect()
    }

    pub fn engine_config(&self, plugins: BTreeMap<String, Digest>) -> Result<EngineConfig, OperatorError> {
        Ok(EngineConfig {
            repository: self.repository.name.clone(),
            plugins,
            bindings: self.bindings()?.into_iter().map(|(rule, _)| rule).collect(),
            tag_poll_ms: self.tag_poll.max(100),
            removals_per_revision: self.limits.removals_per_revision,
            ..EngineConfig::default()
        })
    }
}

impl BindingEntry {
    fn binding(&self) -> Result<BindingConfig, BindingError> {
        let mut endpoints = self.endpoints.clone();
        if self.plugin == "edge"
            && let Some(site) = endpoints.get_mut("site")
            && site.rules.is_empty()
        {
            // A constant of ours: that it parses, a test shows.
            site.rules = serde_yaml::from_str(EDGE_RULES).unwrap_or_default();
        }
        Ok(BindingConfig {
            endpoints,
            probe_networks: self.probe_networks.clone(),
        })
    }
}

/// What `holdfast init` writes.
pub fn commented(repository: &str) -> String {
    format!(
        r#"# Holdfast, the operator's configuration. It stays on this host: nothing in Git can change what it grants.
repository:
  # First half of every workload's identity. Choose once.
  name: main
  # A local path, file://, https:// or ssh://.
  url: {repository}
  branch: main
  # Only manifests below this directory count.
  # path: clusters/prod
  interval: 60s
  # auth: {{ basic: {{ username: deploy, password_file: git-password }} }}
  # auth: {{ ssh: {{ key_file: id_ed25519, known_hosts_file: known_hosts }} }}

# Ledger, mirror and caches.
data: holdfast-data

# Only these registries are ever contacted.
registries: []
#  - host: registry.example.com
#    auth: {{ username: deploy, password_file: registry-password }}
#  - host: bundles.example.com
#    layout: bundles          # a directory of OCI image layouts, one per repository

# Which plugin drives which target, and what it may reach there. The first match wins.
bindings: []
#  - target: site-a
#    plugin: edge
#    endpoints:
#      site: {{ url: "http://127.0.0.1:7601", auth: {{ bearer_token_file: site-a.token }} }}
#    # Where the host may dial health probes.
#    probe_networks: [ 127.0.0.0/8 ]

limits:
  # Units that one revision may remove; more wait for `holdfast allow-removals`.
  removals_per_revision: 10
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_writes_is_valid() {
        let operator = check(Path::new("holdfast.yaml"), commented("/srv/deploy.git").as_bytes()).unwrap();
        assert_eq!(operator.repository.branch, "main");
        let rules: Vec<holdfast_host::RuleConfig> = serde_yaml::from_str(EDGE_RULES).unwrap();
        assert_eq!(rules.len(), 8);
    }

    #[test]
    fn problems_have_a_place() {
        for (text, code, line) in [
            (
                "repository: { url: x, branch: main }\ndata: d\nbindigs: []\n",
                "unknown-field",
                3,
            ),
            ("repository: { url: x }\ndata: d\ntag_poll: often\n", "invalid", 3),
            (
                "repository: { url: x }\ndata: d\nbindings: [ { target: a, plugin: nope } ]\n",
                "invalid",
                3,
            ),
            ("repository: { url: x }\ndata: d\ndata: e\n", "duplicate-key", 3),
        ] {
            let problems = check(Path::new("h.yaml"), text.as_bytes()).unwrap_err();
            assert_eq!((problems[0].code, problems[0].line), (code, line), "{problems:?}");
        }
    }
}

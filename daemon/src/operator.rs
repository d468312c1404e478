//! `holdfast.yaml`: the operator's configuration, on the daemon's host and never in the desired-state repository. It
//! grants; nothing in Git can widen it.

mod check;
mod schema;

pub use check::check;
pub use schema::schema;

use crate::adapters::git::{GitConfig, PinConfig};
use holdfast_core::config::{BindingRule, EngineConfig, PluginUpgrade};
use holdfast_core::ids::{Digest, Millis};
use holdfast_core::manifest::{Problem, parse_duration_ms};
use holdfast_host::{AuthConfig, Binding, BindingConfig, BindingError};
use holdfast_ledger::tlog::note::VerifierKey;
use holdfast_registry::RegistryConfig;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub struct Operator {
    /// Where it was read, and the hash of what was read.
    pub file: PathBuf,
    pub digest: Digest,
    pub repository: GitConfig,
    /// Ledger, mirror, caches. Relative to this file.
    pub data: PathBuf,
    /// Where the command line reaches the daemon; default: `holdfast.sock` in `data`.
    pub socket: Option<PathBuf>,
    /// Loopback address for health and metrics.
    pub listen: Option<SocketAddr>,
    pub registries: Vec<RegistryConfig>,
    /// Plugins by name, beside the built-in ones.
    pub plugins: BTreeMap<String, PluginConfig>,
    /// Whose signature on a plugin counts; none: a plugin needs no signature.
    pub plugin_keys: Vec<VerifierKey>,
    pub bindings: Vec<BindingEntry>,
    /// People by unix user name.
    pub users: BTreeMap<String, UserConfig>,
    pub metrics: MetricsConfig,
    pub secrets: Option<SecretsConfig>,
    pub ledger: Option<LedgerConfig>,
    pub limits: Limits,
    pub select: SelectConfig,
    pub way_back: WayBack,
    /// How often pinned tags are looked at again, to record a move.
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
    /// Fields of a target's `config` that must have these values.
    #[serde(default)]
    pub config: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserConfig {
    pub name: String,
    /// As in their commits.
    #[serde(default)]
    pub emails: Vec<String>,
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
    pub auth: Option<AuthConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsConfig {
    /// Values are `DIR/NAME/VERSION`.
    pub dir: PathBuf,
    #[serde(default)]
    pub grants: Vec<SecretGrant>,
}

/// How the log is shown to others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerConfig {
    /// `holdfast ledger key new` makes it; it names the log. Outside of `data`.
    pub key_file: PathBuf,
    #[serde(default)]
    pub witnesses: WitnessesConfig,
    /// Where the newest checkpoint is pinned.
    #[serde(default)]
    pub pin: Option<PinConfig>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessesConfig {
    /// How many of them have to cosign; fewer is an alert.
    #[serde(default)]
    pub needed: usize,
    #[serde(default)]
    pub known: Vec<WitnessConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// `/add-checkpoint` is asked for below it.
    pub url: String,
    /// Its verifier key, as it prints it.
    pub key: String,
    /// PEM file of a private authority; none: the public ones.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
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

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Units that one revision may remove; more wait for `holdfast allow-removals`.
    pub removals_per_revision: usize,
    /// How long a unit is kept after its manifest is gone.
    #[serde(deserialize_with = "duration")]
    pub removal_grace: Millis,
    /// Heals of drift in an hour, over all units; more wait for `holdfast allow-heals`.
    pub heals_per_hour: usize,
    pub call_deadline_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let engine = EngineConfig::default();
        Self {
            removals_per_revision: engine.removals_per_revision,
            removal_grace: engine.removal_grace_ms,
            heals_per_hour: engine.heals_per_hour,
            call_deadline_ms: 15_000,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelectConfig {
    /// A tag that a selector would take has to point at the same digest for so long first.
    #[serde(deserialize_with = "duration")]
    pub settle: Millis,
}

impl Default for SelectConfig {
    fn default() -> Self {
        Self {
            settle: EngineConfig::default().settle_ms,
        }
    }
}

/// Whether a deploy is held whose way back could not be pulled any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WayBack {
    #[default]
    Required,
    Optional,
}

/// A human duration that stands alone.
#[derive(Deserialize)]
#[serde(transparent)]
struct Duration(#[serde(deserialize_with = "duration")] Millis);

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

pub fn load(file: &Path) -> Result<Operator, OperatorError> {
    let read = |source| OperatorError::Read {
        file: file.to_owned(),
        source,
    };
    let bytes = std::fs::read(file).map_err(read)?;
    let mut operator = check(file, &bytes)
        .map_err(|problems| OperatorError::Invalid(file.to_owned(), problems, String::from_utf8_lossy(&bytes).into_owned()))?;
    operator.file = std::path::absolute(file).map_err(read)?;
    let base = operator.file.parent().unwrap_or(Path::new("/")).to_owned();
    operator.make_absolute(&base);
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
            endpoint.paths_mut().for_each(fix);
        }
        for source in self.metrics.sources.values_mut() {
            source.ca_file.iter_mut().for_each(fix);
            source.auth.iter_mut().flat_map(AuthConfig::paths_mut).for_each(fix);
        }
        self.secrets.iter_mut().for_each(|secrets| fix(&mut secrets.dir));
        if let Some(ledger) = &mut self.ledger {
            fix(&mut ledger.key_file);
            ledger.pin.iter_mut().for_each(|pin| pin.make_absolute(base));
            ledger
                .witnesses
                .known
                .iter_mut()
                .filter_map(|witness| witness.ca_file.as_mut())
                .for_each(fix);
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.data.join("holdfast.sock"))
    }

    pub fn ledger_dir(&self) -> PathBuf {
        self.data.join("ledger")
    }

    /// The first field that a running daemon cannot take a change of.
    pub fn fixed_difference(&self, other: &Operator) -> Option<&'static str> {
        [
            ("repository", self.repository != other.repository),
            ("data", self.data != other.data),
            ("socket", self.socket() != other.socket()),
            ("listen", self.listen != other.listen),
            ("ledger", self.ledger != other.ledger),
        ]
        .into_iter()
        .find_map(|(name, differs)| differs.then_some(name))
    }

    /// Bindings ready for use, in order.
    pub fn bindings(&self) -> Result<Vec<(BindingRule, Arc<Binding>)>, OperatorError> {
        self.bindings
            .iter()
            .map(|entry| {
                let binding = Binding::new(&entry.binding()).map_err(|source| OperatorError::Binding {
                    target: entry.target.clone(),
                    source,
                })?;
                let rule = BindingRule {
                    target: entry.target.clone(),
                    plugin: entry.plugin.clone(),
                    grants: binding.grants.clone(),
                    fixed: entry.config.clone(),
                };
                Ok((rule, Arc::new(binding)))
            })
            .collect()
    }

    pub fn engine_config(
        &self,
        plugins: BTreeMap<String, Digest>,
        upgrades: BTreeMap<String, PluginUpgrade>,
    ) -> Result<EngineConfig, OperatorError> {
        Ok(EngineConfig {
            repository: self.repository.name.clone(),
            plugins,
            upgrades,
            bindings: self.bindings()?.into_iter().map(|(rule, _)| rule).collect(),
            tag_poll_ms: self.tag_poll.max(100),
            removals_per_revision: self.limits.removals_per_revision,
            removal_grace_ms: self.limits.removal_grace,
            call_deadline_ms: self.limits.call_deadline_ms,
            heals_per_hour: self.limits.heals_per_hour,
            settle_ms: self.select.settle,
            way_back_required: self.way_back == WayBack::Required,
        })
    }
}

impl BindingEntry {
    fn binding(&self) -> BindingConfig {
        let mut endpoints = self.endpoints.clone();
        // What a built-in plugin wants is granted where a binding of it gives no rules of its own.
        if let Some(metadata) = crate::builtin::metadata(&self.plugin) {
            for (alias, endpoint) in &mut endpoints {
                if endpoint.rules.is_empty() {
                    endpoint.rules = metadata.rules_of(alias).unwrap_or_default().to_vec();
                }
            }
        }
        BindingConfig {
            endpoints,
            probe_networks: self.probe_networks.clone(),
        }
    }
}

/// What `holdfast init` writes.
pub fn commented(repository: &str) -> String {
    include_str!("operator/holdfast.yaml").replace("{repository}", repository)
}

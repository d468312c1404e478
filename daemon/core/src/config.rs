//! What the operator's configuration lets the engine know: which plugin drives which target, and its limits.

use crate::ids::{Digest, Millis};
use crate::spec::TargetSpec;
use crate::target::PluginRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Its canonical JSON is a blob that intents name, so that a plan can be replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineConfig {
    /// Alias of the repository: the first half of a workload's identity.
    pub repository: String,
    /// Plugin name to digest.
    pub plugins: BTreeMap<String, Digest>,
    /// Plugins, by name, whose configured version waits: it wants more than the one that `plugins` names and that goes on until
    /// somebody allows the new one.
    #[serde(skip)]
    pub upgrades: BTreeMap<String, PluginUpgrade>,
    /// First match wins.
    pub bindings: Vec<BindingRule>,
    /// How often a pinned tag is looked at again, to record a move.
    pub tag_poll_ms: Millis,
    /// Units that one revision may remove; more wait for a command.
    pub removals_per_revision: usize,
    /// A unit that no manifest places any more is kept so long before it leaves.
    pub removal_grace_ms: Millis,
    /// Heals of drift in an hour, over all units; more wait for a command.
    pub heals_per_hour: usize,
    /// A tag that a selector would take has to point at the same digest for so long first.
    pub settle_ms: Millis,
    /// No call is on its way for longer: what a target cannot tell apart by fences is told apart by waiting.
    pub call_deadline_ms: Millis,
    /// Hold a deploy whose way back could not be pulled any more.
    pub way_back_required: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            repository: "main".into(),
            plugins: BTreeMap::new(),
            upgrades: BTreeMap::new(),
            bindings: Vec::new(),
            tag_poll_ms: 60_000,
            removals_per_revision: 10,
            removal_grace_ms: 30_000,
            heals_per_hour: 30,
            settle_ms: 120_000,
            call_deadline_ms: 15_000,
            way_back_required: true,
        }
    }
}

/// A version of a plugin that nobody has agreed to yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginUpgrade {
    pub digest: Digest,
    /// In words, one for each.
    pub newly_wants: Vec<String>,
}

/// Which targets a plugin may drive, and the hash of what it is granted there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingRule {
    /// A target name, where `*` stands for any run of characters.
    pub target: String,
    pub plugin: String,
    pub grants: Digest,
    /// Fields of a target's `config` that must have these values: a committer cannot choose others.
    pub fixed: BTreeMap<String, serde_json::Value>,
}

impl EngineConfig {
    /// The plugin that drives this target, or why there is none.
    pub fn plugin_for(&self, target: &str, plugin: &str) -> Result<PluginRef, String> {
        let digest = self
            .plugins
            .get(plugin)
            .ok_or_else(|| format!("no plugin {plugin:?} in the operator's configuration"))?;
        let rule = self
            .bindings
            .iter()
            .find(|rule| rule.plugin == plugin && matches(&rule.target, target))
            .ok_or_else(|| format!("the operator's configuration binds no target {target:?} to plugin {plugin:?}"))?;
        Ok(PluginRef {
            name: plugin.to_owned(),
            digest: digest.clone(),
            grants: rule.grants.clone(),
        })
    }
}

impl EngineConfig {
    /// What keeps a target's `config` from being what the operator fixed for it.
    pub fn fixed_problem(&self, target: &str, spec: &TargetSpec) -> Option<String> {
        let rule = self
            .bindings
            .iter()
            .find(|rule| rule.plugin == spec.plugin && matches(&rule.target, target))?;
        let (field, wanted) = rule
            .fixed
            .iter()
            .find(|(field, wanted)| spec.config.get(field) != Some(wanted))?;
        Some(format!(
            "config.{field} must be {wanted}: the operator's configuration fixes it for this target"
        ))
    }
}

/// Whether a pattern with `*` matches a name. Linear: each `*` is taken as short as it can be.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        if let Some(part) = last.replace(part) {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
    }
    match last {
        None => rest.is_empty(),
        Some(last) => rest.ends_with(last),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("site-a", "site-a", true),
            ("site-a", "site-ab", false),
            ("site-*", "site-a", true),
            ("*", "anything", true),
            ("*-eu", "prod-eu", true),
            ("*-eu", "prod-us", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c", false),
            ("site-*", "site", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}

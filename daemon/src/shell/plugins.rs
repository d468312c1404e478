//! Every plugin that a binding may name: the built-in ones and the operator's, each by digest.

use crate::operator::{Operator, OperatorError};
use holdfast_core::config::matches;
use holdfast_core::ids::Digest;
use holdfast_core::target::PluginRef;
use holdfast_host::{Binding, Limits, LoadError, Plugin, PluginHost};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum PluginsError {
    #[error("plugin {name}: {} cannot be read", file.display())]
    Read {
        name: String,
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("plugin {name}: the file has digest {actual}, the configuration says {expected}")]
    Digest { name: String, expected: Digest, actual: Digest },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Operator(#[from] OperatorError),
}

pub struct PluginSet {
    plugins: BTreeMap<Digest, Arc<Plugin>>,
    names: BTreeMap<String, Digest>,
    /// Target pattern, plugin name, what is granted; first match wins.
    bindings: Vec<(String, String, Arc<Binding>)>,
}

impl PluginSet {
    pub fn load(operator: &Operator) -> Result<Self, PluginsError> {
        let cache = operator.data.join("compiled");
        let host = PluginHost::new(Limits::default(), private_dir(&cache).then_some(cache))?;
        let mut set = Self {
            plugins: BTreeMap::new(),
            names: BTreeMap::new(),
            bindings: Vec::new(),
        };
        for (name, bytes) in crate::builtin::plugins() {
            set.insert(name, host.load(name, bytes)?);
        }
        for (name, config) in &operator.plugins {
            let bytes = std::fs::read(&config.file).map_err(|source| PluginsError::Read {
                name: name.clone(),
                file: config.file.clone(),
                source,
            })?;
            let actual = Digest::of(&bytes);
            if actual != config.digest {
                return Err(PluginsError::Digest {
                    name: name.clone(),
                    expected: config.digest.clone(),
                    actual,
                });
            }
            set.insert(name, host.load(name, &bytes)?);
        }
        for (rule, binding) in operator.bindings()? {
            set.bindings.push((rule.target, rule.plugin, binding));
        }
        Ok(set)
    }

    fn insert(&mut self, name: &str, plugin: Plugin) {
        tracing::info!(plugin = name, digest = plugin.digest.as_str(), "plugin loaded");
        self.names.insert(name.to_owned(), plugin.digest.clone());
        self.plugins.insert(plugin.digest.clone(), Arc::new(plugin));
    }

    pub fn digests(&self) -> BTreeMap<String, Digest> {
        self.names.clone()
    }

    /// The plugin of a reference, and what it may reach on this target.
    pub fn find(&self, target: &str, reference: &PluginRef) -> Option<(Arc<Plugin>, Arc<Binding>)> {
        let plugin = self.plugins.get(&reference.digest)?;
        let binding = self
            .bindings
            .iter()
            .find(|(pattern, name, _)| *name == reference.name && matches(pattern, target))?;
        Some((plugin.clone(), binding.2.clone()))
    }
}

/// The cache holds native code, so it is nobody else's to write.
fn private_dir(dir: &std::path::Path) -> bool {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).is_ok()
}

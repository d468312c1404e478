//! Every plugin that a binding may name: the built-in ones and the operator's, each by digest. Older ones, which launched
//! what still runs, come from the ledger's blobs.

use super::answer::Blobs;
use crate::operator::{Operator, OperatorError};
use crate::plugin_note::{note_file, signers};
use holdfast_core::config::{PluginUpgrade, matches};
use holdfast_core::entry::PluginSeen;
use holdfast_core::ids::Digest;
use holdfast_core::target::PluginRef;
use holdfast_host::{Binding, Limits, LoadError, Metadata, NewWant, Plugin, PluginHost, inspect, newly_wanted};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

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
    #[error("plugin {name}: {} is signed by none of `plugin_keys`", file.display())]
    NotSigned { name: String, file: PathBuf },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Operator(#[from] OperatorError),
}

pub struct PluginSet {
    plugins: BTreeMap<Digest, Arc<Plugin>>,
    names: BTreeMap<String, Digest>,
    upgrades: BTreeMap<String, PluginUpgrade>,
    /// Target pattern, plugin name, what is granted; first match wins.
    bindings: Vec<(String, String, Arc<Binding>)>,
    kept: Arc<Kept>,
}

/// What outlives a change of the configuration: the compiler, and what it compiled.
struct Kept {
    host: PluginHost,
    blobs: Blobs,
    /// One lock for each digest: a plugin that compiles holds up only those who need it.
    compiled: Mutex<BTreeMap<Digest, Compiled>>,
    /// By name, what an upgrade is held against.
    accepted: Mutex<BTreeMap<String, Digest>>,
}

type Compiled = Arc<Mutex<Option<Arc<Plugin>>>>;

/// Plugins that were named by the configuration, with their components, for the ledger.
pub(super) type Seen = Vec<(PluginSeen, Vec<u8>)>;

impl PluginSet {
    /// `accepted`: by name, the versions whose wants were agreed to.
    pub(super) fn load(
        operator: &Operator,
        blobs: Blobs,
        accepted: BTreeMap<String, Digest>,
    ) -> Result<(Self, Seen), PluginsError> {
        let cache = operator.data.join("compiled");
        let kept = Kept {
            host: PluginHost::new(Limits::default(), private_dir(&cache).then_some(cache))?,
            blobs,
            compiled: Mutex::default(),
            accepted: Mutex::new(accepted),
        };
        Self::of(operator, Arc::new(kept))
    }

    /// For another configuration; what is compiled stays so.
    pub(super) fn reload(&self, operator: &Operator) -> Result<(Self, Seen), PluginsError> {
        Self::of(operator, self.kept.clone())
    }

    /// What the ledger says was agreed to.
    pub(super) fn accept(&self, accepted: &BTreeMap<String, Digest>) {
        let mut known = self.kept.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != *accepted {
            known.clone_from(accepted);
        }
    }

    fn of(operator: &Operator, kept: Arc<Kept>) -> Result<(Self, Seen), PluginsError> {
        let mut components: Vec<(String, Digest, Vec<u8>)> = Vec::new();
        for (name, bytes) in crate::builtin::plugins() {
            components.push((name.to_owned(), Digest::of(bytes), bytes.to_vec()));
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
            if !operator.plugin_keys.is_empty() {
                let note = std::fs::read_to_string(note_file(&config.file)).ok();
                let by = inspect(&bytes).map(|inspection| signers(&inspection, note.as_deref(), &operator.plugin_keys));
                if by.is_ok_and(|by| by.is_empty()) {
                    return Err(PluginsError::NotSigned {
                        name: name.clone(),
                        file: config.file.clone(),
                    });
                }
            }
            components.push((name.clone(), actual, bytes));
        }
        let (mut plugins, mut names, mut seen) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut upgrades = BTreeMap::new();
        for (name, digest, bytes) in components {
            let plugin = kept.compile(&name, &digest, || Ok(bytes.clone()))?;
            let exports = plugin.exports.iter().cloned().collect();
            plugins.insert(digest.clone(), plugin);
            // What comes with the program was agreed to with the program.
            let held = operator
                .plugins
                .contains_key(&name)
                .then(|| kept.wants_more(&name, &digest))
                .flatten();
            let newly_wants = match held {
                // The operator's own takes a built-in one's name.
                None => {
                    names.insert(name.clone(), digest.clone());
                    Vec::new()
                }
                Some((accepted, newly_wants)) => {
                    tracing::warn!(
                        plugin = name,
                        digest = digest.as_str(),
                        newly_wants = newly_wants.join("; "),
                        "this version wants more than the accepted one, which goes on; `holdfast plugin approve` lets it have that"
                    );
                    names.insert(name.clone(), accepted);
                    let (digest, newly_wants) = (digest.clone(), newly_wants.clone());
                    upgrades.insert(
                        name.clone(),
                        PluginUpgrade {
                            digest,
                            newly_wants: newly_wants.clone(),
                        },
                    );
                    newly_wants
                }
            };
            let entry = PluginSeen {
                name,
                digest,
                exports,
                newly_wants,
            };
            seen.push((entry, bytes));
        }
        let bindings = operator.bindings()?;
        let set = Self {
            plugins,
            names,
            upgrades,
            bindings: bindings
                .into_iter()
                .map(|(rule, binding)| (rule.target, rule.plugin, binding))
                .collect(),
            kept,
        };
        Ok((set, seen))
    }

    /// By name, the version that new launches are driven by.
    pub fn digests(&self) -> BTreeMap<String, Digest> {
        self.names.clone()
    }

    /// By name, the versions that wait for somebody to allow them.
    pub fn upgrades(&self) -> BTreeMap<String, PluginUpgrade> {
        self.upgrades.clone()
    }

    /// The plugin of a reference, and what it may reach on this target. One that the configuration no longer names is
    /// compiled from the ledger, which takes a while: never on the loop.
    pub fn find(&self, target: &str, reference: &PluginRef) -> Option<(Arc<Plugin>, Arc<Binding>)> {
        let (_, _, binding) = self
            .bindings
            .iter()
            .find(|(pattern, name, _)| *name == reference.name && matches(pattern, target))?;
        let plugin = match self.plugins.get(&reference.digest) {
            Some(plugin) => plugin.clone(),
            None => aside(|| self.kept.older(reference))?,
        };
        Some((plugin, binding.clone()))
    }
}

impl Kept {
    /// The accepted version, and what this one wants beyond it. None: nothing, or there is none yet.
    fn wants_more(&self, name: &str, digest: &Digest) -> Option<(Digest, Vec<String>)> {
        let accepted = self
            .accepted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned();
        let accepted = accepted.filter(|accepted| accepted != digest)?;
        let metadata = |digest: &Digest| -> Option<Metadata> {
            let compiled = self
                .compiled
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(digest)
                .cloned();
            let compiled = compiled.and_then(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner).clone());
            match compiled {
                Some(plugin) => plugin.metadata.clone(),
                None => inspect(&self.blobs.get(digest).ok()?).ok()?.metadata,
            }
        };
        let newly_wants = newly_wanted(metadata(&accepted).as_ref(), metadata(digest).as_ref());
        let words = |want: &NewWant| match want.alias.as_str() {
            "" => want.why.clone(),
            alias => format!("{alias}: {} {} ({})", want.method, want.path, want.why),
        };
        (!newly_wants.is_empty()).then(|| (accepted, newly_wants.iter().map(words).collect()))
    }

    fn older(&self, reference: &PluginRef) -> Option<Arc<Plugin>> {
        let component = || {
            let bytes = self.blobs.get(&reference.digest);
            bytes.map_err(|error| LoadError::Invalid {
                name: reference.name.clone(),
                message: error.to_string(),
            })
        };
        match self.compile(&reference.name, &reference.digest, component) {
            Ok(plugin) => Some(plugin),
            Err(error) => {
                tracing::error!(
                    plugin = reference.name,
                    digest = reference.digest.as_str(),
                    error = &error as &dyn std::error::Error,
                    "a plugin of generations that still run cannot be loaded from the ledger"
                );
                None
            }
        }
    }

    /// Each digest once.
    fn compile(
        &self,
        name: &str,
        digest: &Digest,
        component: impl FnOnce() -> Result<Vec<u8>, LoadError>,
    ) -> Result<Arc<Plugin>, LoadError> {
        let slot = {
            let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
            compiled.entry(digest.clone()).or_default().clone()
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plugin) = slot.as_ref() {
            return Ok(plugin.clone());
        }
        let plugin = Arc::new(self.host.load(name, &component()?)?);
        tracing::info!(plugin = name, digest = digest.as_str(), "plugin loaded");
        *slot = Some(plugin.clone());
        Ok(plugin)
    }
}

/// Blocking work within a task: the other tasks of its thread go elsewhere meanwhile.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// The cache holds native code, so it is nobody else's to write: one that is, or is another's, is not used.
fn private_dir(dir: &Path) -> bool {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    let ours = || -> std::io::Result<bool> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // Not through a link: whoever owns that could point it elsewhere.
        let metadata = std::fs::symlink_metadata(dir)?;
        Ok(metadata.is_dir()
            && metadata.permissions().mode().trailing_zeros() >= 6
            && metadata.uid() == rustix::process::geteuid().as_raw())
    };
    let outcome = ours();
    if !matches!(outcome, Ok(true)) {
        let dir = dir.display().to_string();
        let hint = "it has to be a directory of the daemon's own user with mode 0700; plugins are compiled anew at each start";
        tracing::warn!(dir, ?outcome, hint, "the cache of compiled plugins is not used");
    }
    matches!(outcome, Ok(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::config::EngineConfig;
    use holdfast_core::engine::{Engine, Input, Now, Output};
    use holdfast_core::state::State;
    use holdfast_ledger::{Batch, Ledger, Options};

    /// The same component with another digest: a custom section more.
    fn changed(component: &[u8]) -> Vec<u8> {
        [component, &[0, 2, 1, b'x']].concat()
    }

    fn operator(dir: &std::path::Path, component: &[u8]) -> Operator {
        let file = dir.join("mine.wasm");
        std::fs::write(&file, component).unwrap();
        let text = format!(
            "repository: {{ url: x }}\ndata: d\nplugins: {{ mine: {{ file: mine.wasm, digest: \"{}\" }} }}\nbindings: [ {{ target: a, plugin: mine }} ]\n",
            Digest::of(component)
        );
        std::fs::write(dir.join("holdfast.yaml"), text).unwrap();
        crate::operator::load(&dir.join("holdfast.yaml")).unwrap()
    }

    #[test]
    fn a_cache_that_others_can_write_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let fresh = dir.path().join("a/compiled");
        assert!(private_dir(&fresh), "it is made");
        assert!(private_dir(&fresh), "and used again");
        std::os::unix::fs::symlink(&fresh, dir.path().join("link")).unwrap();
        assert!(!private_dir(&dir.path().join("link")));
        for (mode, expected) in [(0o777, false), (0o770, false), (0o750, false), (0o701, false), (0o700, true)] {
            std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(private_dir(&fresh), expected, "{mode:o}");
        }
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(!private_dir(&dir.path().join("file")));
    }

    #[test]
    fn an_older_plugin_of_the_same_name_comes_from_the_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let [(_, old), _] = crate::builtin::plugins();
        let new = changed(old);
        let (mut ledger, _) = Ledger::open(&dir.path().join("ledger"), Options::default()).unwrap();
        let mut engine = Engine::new(EngineConfig::default(), State::default());
        let now = Now { t: 1, wall_ms: 1 };
        let reference = |component: &[u8]| PluginRef {
            name: "mine".into(),
            digest: Digest::of(component),
            grants: Digest::of(b""),
        };
        for component in [old, &new] {
            let (set, seen) = PluginSet::load(
                &operator(dir.path(), component),
                Blobs::new(ledger.reader()),
                engine.state().accepted_plugins.clone(),
            )
            .unwrap();
            assert_eq!(set.digests()["mine"], Digest::of(component));
            let outputs = engine.handle(now, Input::PluginsSeen(seen));
            for output in outputs {
                let Output::Append { entries, blobs } = output else { continue };
                let blobs = blobs.into_iter().map(|(digest, bytes)| (digest, bytes.into())).collect();
                ledger.append(&Batch { entries, blobs }).unwrap();
            }
        }
        // Each digest is written once, whatever names it has.
        assert_eq!(ledger.size(), 3);
        assert_eq!(engine.state().plugins.len(), 3);
        let (set, seen) = PluginSet::load(
            &operator(dir.path(), &new),
            Blobs::new(ledger.reader()),
            engine.state().accepted_plugins.clone(),
        )
        .unwrap();
        assert_eq!(engine.handle(now, Input::PluginsSeen(seen)).len(), 0);
        // The built-in one has the old digest too; without it only the ledger does.
        let set = PluginSet {
            plugins: set
                .plugins
                .iter()
                .filter(|(digest, _)| **digest == Digest::of(&new))
                .map(|(d, p)| (d.clone(), p.clone()))
                .collect(),
            kept: Arc::new(Kept {
                host: PluginHost::new(Limits::default(), None).unwrap(),
                blobs: Blobs::new(ledger.reader()),
                compiled: Mutex::default(),
                accepted: Mutex::default(),
            }),
            ..set
        };
        for component in [old, &new] {
            let (plugin, _) = set.find("a", &reference(component)).unwrap();
            assert_eq!(plugin.digest, Digest::of(component));
        }
        assert!(Arc::ptr_eq(
            &set.find("a", &reference(old)).unwrap().0,
            &set.find("a", &reference(old)).unwrap().0
        ));
        assert!(set.find("a", &reference(b"never seen")).is_none());
        assert!(set.find("b", &reference(old)).is_none());
    }

    #[test]
    fn an_upgrade_that_wants_more_waits_and_the_accepted_one_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let [(_, edge), _] = crate::builtin::plugins();
        let version = |paths: &[&str]| {
            let rules: Vec<_> = paths
                .iter()
                .map(|path| serde_json::json!({ "effect": "read", "methods": ["GET"], "path": path }))
                .collect();
            let wants = serde_json::json!([{ "alias": "site", "why": "to see it", "rules": rules }]);
            let text = serde_json::json!({ "id": "mine", "version": "1", "licence": "MIT", "wants": wants });
            holdfast_host::with_metadata(edge, text.to_string().as_bytes()).unwrap()
        };
        let (small, large) = (version(&["/a"]), version(&["/a", "/b"]));
        let (mut ledger, _) = Ledger::open(&dir.path().join("ledger"), Options::default()).unwrap();
        let mut engine = Engine::new(EngineConfig::default(), State::default());
        let now = Now { t: 1, wall_ms: 1 };
        let mut take = |engine: &mut Engine, seen| {
            for output in engine.handle(now, Input::PluginsSeen(seen)) {
                let Output::Append { entries, blobs } = output else { continue };
                let blobs = blobs.into_iter().map(|(digest, bytes)| (digest, bytes.into())).collect();
                ledger.append(&Batch { entries, blobs }).unwrap();
            }
            (engine.state().accepted_plugins.clone(), Blobs::new(ledger.reader()))
        };
        let (first, seen) = PluginSet::load(&operator(dir.path(), &small), take(&mut engine, vec![]).1, BTreeMap::new()).unwrap();
        let (accepted, _) = take(&mut engine, seen);
        first.accept(&accepted);
        assert_eq!(
            first.digests()["mine"],
            Digest::of(&small),
            "the first one is agreed to by naming it"
        );

        let held = |set: &PluginSet| {
            assert_eq!(set.digests()["mine"], Digest::of(&small));
            let upgrade = &set.upgrades()["mine"];
            assert_eq!(
                (&upgrade.digest, upgrade.newly_wants.as_slice()),
                (&Digest::of(&large), &["site: GET /b (to see it)".to_owned()][..])
            );
            let reference = PluginRef {
                name: "mine".into(),
                digest: Digest::of(&small),
                grants: Digest::of(b""),
            };
            assert!(set.find("a", &reference).is_some());
        };
        let (next, seen) = first.reload(&operator(dir.path(), &large)).unwrap();
        held(&next);
        let (accepted, blobs) = take(&mut engine, seen);
        assert_eq!(
            accepted["mine"],
            Digest::of(&small),
            "that it was seen does not mean that it is agreed to"
        );
        let (restarted, seen) = PluginSet::load(&operator(dir.path(), &large), blobs, accepted).unwrap();
        held(&restarted);
        assert_eq!(take(&mut engine, seen).0["mine"], Digest::of(&small));

        restarted.accept(&[("mine".to_owned(), Digest::of(&large))].into());
        let (allowed, _) = restarted.reload(&operator(dir.path(), &large)).unwrap();
        assert_eq!(
            (&allowed.digests()["mine"], allowed.upgrades().len()),
            (&Digest::of(&large), 0)
        );
        let (back, _) = allowed.reload(&operator(dir.path(), &small)).unwrap();
        assert_eq!(back.digests()["mine"], Digest::of(&small), "who wants less waits for nobody");
    }

    #[test]
    fn a_plugin_is_signed_by_one_of_the_keys_where_there_are_keys() {
        use holdfast_ledger::tlog::note::{KeyKind, Note, SignerKey};
        let dir = tempfile::tempdir().unwrap();
        let [(_, edge), _] = crate::builtin::plugins();
        let key = SignerKey::new("plugins.example.com", KeyKind::Log, [7; 32]).unwrap();
        let other = SignerKey::new("other.example.com", KeyKind::Log, [8; 32]).unwrap();
        let operator = |component: &[u8]| {
            let mut operator = operator(dir.path(), component);
            operator.plugin_keys = vec![key.verifier().clone()];
            operator
        };
        let (ledger, _) = Ledger::open(&dir.path().join("ledger"), Options::default()).unwrap();
        let load =
            |component: &[u8]| PluginSet::load(&operator(component), Blobs::new(ledger.reader()), BTreeMap::new()).map(drop);
        let sign = |component: &[u8], key: &SignerKey| {
            let text = crate::plugin_note::note_text(&inspect(component).unwrap());
            std::fs::write(dir.path().join("mine.wasm.note"), Note::sign(text, &[key]).to_string()).unwrap();
        };
        let refused = |component: &[u8]| matches!(load(component), Err(PluginsError::NotSigned { .. }));
        assert!(refused(edge), "without a note");
        sign(edge, &other);
        assert!(refused(edge), "by somebody else");
        sign(edge, &key);
        assert!(load(edge).is_ok());
        assert!(refused(&changed(edge)), "over another component");
    }
}

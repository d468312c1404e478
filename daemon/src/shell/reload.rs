//! A change of holdfast.yaml under a running daemon: taken as a whole, or refused as a whole and loudly.

use super::secrets::SecretStore;
use super::{Event, PluginSet, PluginsError};
use crate::adapters::git::is_change;
use crate::adapters::prometheus::MetricSources;
use crate::adapters::web::WebError;
use crate::operator::{self, Operator, OperatorError};
use holdfast_core::config::EngineConfig;
use holdfast_core::ids::Digest;
use holdfast_ledger::tlog::key;
use holdfast_ledger::tlog::note::{KeyKind, VerifierKey};
use holdfast_registry::Registries;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Editors write in several steps: one look for all of them.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// Everything that follows from a configuration, checked and compiled.
pub struct Configured {
    pub(super) operator: Arc<Operator>,
    pub(super) plugins: Arc<PluginSet>,
    pub(super) seen: super::plugins::Seen,
    pub(super) registries: Arc<Registries>,
    pub(super) metrics: Arc<MetricSources>,
    pub(super) secrets: Arc<SecretStore>,
    pub(super) engine: EngineConfig,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the file cannot be used")]
    Operator(#[from] OperatorError),
    #[error("a change of `{0}` needs a restart")]
    Fixed(&'static str),
    #[error("a plugin cannot be used")]
    Plugins(#[from] PluginsError),
    #[error("a registry cannot be used")]
    Registries(#[from] holdfast_registry::ConfigError),
    #[error("a source of metrics cannot be used")]
    Metrics(#[from] WebError),
}

/// None: nothing changed.
fn read(now: &Operator, plugins: &PluginSet, signing: Option<&VerifierKey>) -> Result<Option<Configured>, Refusal> {
    let operator = operator::load(&now.file)?;
    if operator.digest == now.digest {
        return Ok(None);
    }
    if let Some(field) = with_current_key_file(now, &operator, signing).fixed_difference(&operator) {
        return Err(Refusal::Fixed(field));
    }
    let (plugins, seen) = plugins.reload(&operator)?;
    let registries = Registries::new(&operator.registries)?;
    let metrics = MetricSources::new(&operator.metrics.sources)?;
    let secrets = SecretStore::new(operator.secrets.clone());
    let engine = operator.engine_config(plugins.digests(), plugins.upgrades())?;
    Ok(Some(Configured {
        operator: Arc::new(operator),
        plugins: Arc::new(plugins),
        seen,
        registries: Arc::new(registries),
        metrics: Arc::new(metrics),
        secrets: Arc::new(secrets),
        engine,
    }))
}

/// A rotation leaves `ledger.key_file` to be changed: another file is fine when the key that signs is in it.
fn with_current_key_file(now: &Operator, changed: &Operator, signing: Option<&VerifierKey>) -> Operator {
    let mut now = now.clone();
    if let (Some(old), Some(new)) = (&mut now.ledger, &changed.ledger)
        && key::load(&new.key_file, Some(&now.data), KeyKind::Log).is_ok_and(|key| Some(key.verifier()) == signing)
    {
        old.key_file.clone_from(&new.key_file);
    }
    now
}

/// Hands over each good change of the file; says each bad one once.
pub(super) fn spawn(
    operator: Arc<Operator>,
    plugins: Arc<PluginSet>,
    signing: Option<watch::Receiver<VerifierKey>>,
    events: mpsc::UnboundedSender<Event>,
) -> tokio::task::AbortHandle {
    let task = tokio::spawn(async move {
        let (hint, mut hints) = mpsc::channel::<()>(1);
        let _watcher = match watch(&operator.file, hint) {
            Ok(watcher) => watcher,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the configuration cannot be watched; changes need a restart");
                return;
            }
        };
        let (mut operator, mut plugins, mut refused) = (operator, plugins, None);
        while hints.recv().await.is_some() {
            tokio::time::sleep(DEBOUNCE).await;
            let _ = hints.try_recv();
            let (now, loaded) = (operator.clone(), plugins.clone());
            let signs = signing.as_ref().map(|key| key.borrow().clone());
            // Compiling plugins blocks.
            let outcome = tokio::task::spawn_blocking(move || (digest_of(&now.file), read(&now, &loaded, signs.as_ref()))).await;
            match outcome {
                Ok((_, Ok(None))) | Err(_) => refused = None,
                Ok((_, Ok(Some(configured)))) => {
                    (operator, plugins, refused) = (configured.operator.clone(), configured.plugins.clone(), None);
                    if events.send(Event::Configured(Box::new(configured))).is_err() {
                        return;
                    }
                }
                Ok((digest, Err(error))) => {
                    if refused != Some(digest.clone()) {
                        say(&operator.file, &error);
                    }
                    refused = Some(digest);
                }
            }
        }
    });
    task.abort_handle()
}

fn digest_of(file: &Path) -> Option<Digest> {
    std::fs::read(file).ok().map(|bytes| Digest::of(&bytes))
}

fn say(file: &Path, refusal: &Refusal) {
    let file = file.display().to_string();
    if let Refusal::Operator(OperatorError::Invalid(_, problems, _)) = refusal {
        for problem in problems {
            let place = format!("{file}:{}:{}", problem.line, problem.column);
            tracing::error!(place, message = problem.message, "a problem of the changed configuration");
        }
    }
    let error = refusal as &dyn std::error::Error;
    tracing::error!(file, error, "the changed configuration is refused; the old one goes on");
}

/// The directory is watched, because editors and config maps replace the file.
fn watch(file: &Path, hint: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let name = file.file_name().map(ToOwned::to_owned);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        // A mounted config map swaps a directory named `..data`.
        let is_ours = |path: &std::path::PathBuf| path.file_name() == name.as_deref() || path.ends_with("..data");
        if is_change(&event.kind) && (event.need_rescan() || event.paths.iter().any(is_ours)) {
            // Full means that a look is coming anyway.
            let _ = hint.try_send(());
        }
    })?;
    watcher.watch(file.parent().unwrap_or(Path::new("/")), RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

#[cfg(test)]
mod tests;

//! A local repository tells when its branches move. Only that something moved is believed; what, the next fetch finds out.

use super::transport;
use notify::event::{Event, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::path::Path;

/// Watches for as long as it lives.
pub struct Watch {
    _watcher: RecommendedWatcher,
}

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("no Git repository at {0}")]
    Repository(String, #[source] git2::Error),
    #[error("{0} cannot be watched")]
    Watch(String, #[source] notify::Error),
}

/// Calls `moved` for changes of refs, packed or loose, and of HEAD. Bare, not bare and linked work trees alike.
pub fn watch(repository: &Path, mut moved: impl FnMut(&Event) + Send + 'static) -> Result<Watch, WatchError> {
    transport::register();
    let shown = || repository.display().to_string();
    let opened = git2::Repository::open(repository).map_err(|error| WatchError::Repository(shown(), error))?;
    let dir = opened.commondir().to_owned();
    let fail = |error| WatchError::Watch(shown(), error);
    let refs = dir.join("refs");
    let is_ref = {
        let (dir, refs) = (dir.clone(), refs.clone());
        move |path: &std::path::PathBuf| {
            let at_top =
                path.parent() == Some(&dir) && path.file_name().is_some_and(|name| name == "HEAD" || name == "packed-refs");
            (at_top || path.starts_with(&refs)) && path.extension().is_none_or(|extension| extension != "lock")
        }
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let Ok(event) = event else { return };
        if is_change(&event.kind) && (event.need_rescan() || event.paths.iter().any(&is_ref)) {
            moved(&event);
        }
    })
    .map_err(fail)?;
    watcher.watch(&refs, RecursiveMode::Recursive).map_err(fail)?;
    watcher.watch(&dir, RecursiveMode::NonRecursive).map_err(fail)?;
    Ok(Watch { _watcher: watcher })
}

/// Reading is no change: our own fetches read.
pub fn is_change(kind: &EventKind) -> bool {
    !matches!(kind, EventKind::Access(_))
}

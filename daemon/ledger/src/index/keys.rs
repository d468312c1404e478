//! By what an entry can be found.

use holdfast_core::entry::{AttemptChange, Body, CommandVerb, Entry};
use holdfast_core::ids::{Millis, deploy_id};
use std::collections::BTreeSet;

/// A kind of key. The text of a key is matched whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    Kind,
    Workload,
    Target,
    Commit,
    Digest,
    Reference,
    /// The attempt, as its deploy id; `deploy_id` makes one from the attempt's sequence number.
    Deploy,
    Release,
}

impl By {
    pub const ALL: [By; 8] = [
        By::Kind,
        By::Workload,
        By::Target,
        By::Commit,
        By::Digest,
        By::Reference,
        By::Deploy,
        By::Release,
    ];

    pub fn name(self) -> &'static str {
        match self {
            By::Kind => "kind",
            By::Workload => "workload",
            By::Target => "target",
            By::Commit => "commit",
            By::Digest => "digest",
            By::Reference => "reference",
            By::Deploy => "deploy",
            By::Release => "release",
        }
    }

    pub(super) fn at(self) -> usize {
        self as usize
    }
}

/// Entries that have all of the keys and lie in the span of ledger time. The default has every entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub keys: Vec<(By, String)>,
    /// Ledger time, at or after.
    pub from_t: Option<Millis>,
    /// Ledger time, before.
    pub until_t: Option<Millis>,
}

impl Filter {
    pub fn by(by: By, key: impl Into<String>) -> Self {
        Self::default().and(by, key)
    }

    #[must_use]
    pub fn and(mut self, by: By, key: impl Into<String>) -> Self {
        self.keys.push((by, key.into()));
        self
    }

    /// `epoch` is the one the entry was written in.
    pub fn matches(&self, entry: &Entry, epoch: u64) -> bool {
        let in_time = self.from_t.is_none_or(|from| entry.t >= from) && self.until_t.is_none_or(|until| entry.t < until);
        in_time
            && (self.keys.is_empty() || {
                let keys = keys(entry, epoch);
                self.keys.iter().all(|(by, key)| keys.contains(&(*by, key.clone())))
            })
    }
}

/// Everything by which an entry can be found.
pub fn keys(entry: &Entry, epoch: u64) -> BTreeSet<(By, String)> {
    let mut keys = BTreeSet::from([(By::Kind, entry.body.kind().to_owned())]);
    let on = &entry.on;
    keys.extend(on.workload.iter().map(|id| (By::Workload, id.to_string())));
    keys.extend(on.target.iter().map(|name| (By::Target, name.clone())));
    keys.extend(on.attempt.iter().map(|seq| (By::Deploy, deploy_id(epoch, *seq))));
    keys.extend(entry.blobs.values().map(|digest| (By::Digest, digest.to_string())));
    match &entry.body {
        Body::Term(term) => {
            keys.insert((By::Digest, term.config.to_string()));
        }
        Body::Source(source) => {
            keys.insert((By::Commit, source.new.clone()));
            keys.extend(source.changed.iter().map(|id| (By::Workload, id.to_string())));
        }
        Body::Spec(spec) => {
            keys.insert((By::Commit, spec.commit.clone()));
        }
        Body::Pin(pin) => {
            keys.insert((By::Digest, pin.digest.to_string()));
            keys.insert((By::Reference, pin.reference.clone()));
        }
        Body::TagMoved(moved) => {
            keys.insert((By::Digest, moved.seen.to_string()));
            keys.insert((By::Digest, moved.pinned.to_string()));
            keys.insert((By::Reference, moved.reference.clone()));
        }
        Body::Rollout(change) => {
            keys.insert((By::Release, change.release.to_string()));
            keys.extend(change.artifacts.values().map(|digest| (By::Digest, digest.to_string())));
        }
        Body::Attempt(AttemptChange::Began { release, plugin, .. }) => {
            keys.insert((By::Release, release.to_string()));
            keys.insert((By::Digest, plugin.digest.to_string()));
            keys.insert((By::Deploy, deploy_id(epoch, entry.seq)));
        }
        Body::Quarantine(quarantine) => {
            keys.insert((By::Release, quarantine.release.to_string()));
        }
        Body::Command(command) => {
            if let CommandVerb::OpenIncident { deploy } | CommandVerb::CloseIncident { deploy } = &command.verb {
                keys.insert((By::Deploy, deploy.clone()));
            }
        }
        Body::Plugin(plugin) => {
            keys.insert((By::Digest, plugin.digest.to_string()));
        }
        _ => {}
    }
    keys
}

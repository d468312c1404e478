//! The newest signed checkpoint of the ledger, kept in a Git repository under a reference of its own: whoever puts an old
//! copy of the ledger in its place cannot take that back as well. Each checkpoint is a commit on the one before, and nothing is
//! ever forced, so that a second writer is refused by the server.

use super::transport::{self, Purpose};
use super::{Class, GitAuth, GitConfig, GitError, default_timeout};
use git2::{FetchOptions, PushOptions, RemoteCallbacks, Repository, Signature};
use holdfast_core::ids::Millis;
use serde::Deserialize;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

pub const PIN_REF: &str = "refs/holdfast/checkpoint";
const FILE: &str = "checkpoint";
const CHECKPOINT_MAX_BYTES: usize = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinConfig {
    /// A repository, bare if it is on this machine; may be that of the manifests.
    pub url: String,
    /// Has to be able to push.
    #[serde(default)]
    pub auth: Option<GitAuth>,
    /// PEM file of a private authority, for https.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(default = "default_pin_interval", deserialize_with = "crate::operator::duration")]
    pub interval: Millis,
    /// For one whole fetch or push over ssh or https.
    #[serde(default = "default_timeout", deserialize_with = "crate::operator::duration")]
    pub timeout: Millis,
}

fn default_pin_interval() -> Millis {
    600_000
}

impl PinConfig {
    pub fn git(&self) -> GitConfig {
        GitConfig {
            auth: self.auth.clone(),
            ca_file: self.ca_file.clone(),
            timeout: self.timeout,
            ..GitConfig::new(&self.url)
        }
    }

    pub fn make_absolute(&mut self, base: &Path) {
        let mut git = self.git();
        git.make_absolute(base);
        (self.url, self.auth, self.ca_file) = (git.url, git.auth, git.ca_file);
    }
}

pub struct PinRepository {
    config: GitConfig,
    local: Repository,
}

impl PinRepository {
    /// `local` is where commits are made, a bare repository of ours.
    pub fn open(config: &PinConfig, local: &Path) -> Result<Self, GitError> {
        transport::register();
        let opened = Repository::open_bare(local).or_else(|_| Repository::init_bare(local));
        Ok(Self {
            config: config.git(),
            local: opened.map_err(|error| GitError::from_git(&format!("{}", local.display()), &error))?,
        })
    }

    fn at<'a>(&'a self, url: &'a str) -> impl Fn(git2::Error) -> GitError + 'a {
        move |error| transport::explain(url).unwrap_or_else(|| GitError::from_git(&self.config.url, &error))
    }

    /// The bytes of the checkpoint that is there now; none when there never was one.
    pub fn read(&self) -> Result<Option<Vec<u8>>, GitError> {
        let url = transport::prepare(&self.config, Purpose::Fetch)?;
        let mut remote = self.local.remote_anonymous(&url.0).map_err(self.at(&url.0))?;
        let mut options = FetchOptions::new();
        options
            .download_tags(git2::AutotagOption::None)
            .follow_redirects(git2::RemoteRedirect::None);
        // What was fetched before says nothing of what is there now.
        if let Ok(mut known) = self.local.find_reference(PIN_REF) {
            known.delete().map_err(self.at(&url.0))?;
        }
        remote
            .fetch(&[format!("+{PIN_REF}:{PIN_REF}")], Some(&mut options), None)
            .map_err(self.at(&url.0))?;
        let Ok(tip) = self.local.find_reference(PIN_REF) else {
            return Ok(None);
        };
        let malformed = |_| {
            GitError::new(
                Class::Invalid,
                format!("{PIN_REF} of {} holds no checkpoint", self.config.url),
            )
        };
        let tree = tip.peel_to_tree().map_err(malformed)?;
        let blob = tree.get_name(FILE).and_then(|entry| self.local.find_blob(entry.id()).ok());
        match blob.filter(|blob| blob.size() <= CHECKPOINT_MAX_BYTES) {
            Some(blob) => Ok(Some(blob.content().to_vec())),
            None => Err(malformed(git2::Error::from_str(""))),
        }
    }

    /// Puts another checkpoint on top of the one that was read last.
    pub fn push(&self, checkpoint: &[u8]) -> Result<(), GitError> {
        let url = transport::prepare(&self.config, Purpose::Push)?;
        let at = self.at(&url.0);
        let parent = self
            .local
            .find_reference(PIN_REF)
            .ok()
            .and_then(|tip| tip.peel_to_commit().ok());
        let blob = self.local.blob(checkpoint).map_err(&at)?;
        let mut tree = self.local.treebuilder(None).map_err(&at)?;
        tree.insert(FILE, blob, 0o100_644).map_err(&at)?;
        let tree = tree.write().and_then(|tree| self.local.find_tree(tree)).map_err(&at)?;
        let who = Signature::now("holdfast", "holdfast@localhost").map_err(&at)?;
        let parents: Vec<_> = parent.iter().collect();
        let message = "The ledger's newest signed checkpoint\n";
        let commit = self.local.commit(None, &who, &who, message, &tree, &parents).map_err(&at)?;
        let mine = "refs/holdfast/to-push";
        self.local.reference(mine, commit, true, "to push").map_err(&at)?;
        let refused = RefCell::new(None);
        let mut callbacks = RemoteCallbacks::new();
        callbacks.push_update_reference(|_, status| {
            *refused.borrow_mut() = status.map(str::to_owned);
            Ok(())
        });
        let mut options = PushOptions::new();
        options
            .remote_callbacks(callbacks)
            .follow_redirects(git2::RemoteRedirect::None);
        let mut remote = self.local.remote_anonymous(&url.0).map_err(&at)?;
        remote.push(&[format!("{mine}:{PIN_REF}")], Some(&mut options)).map_err(&at)?;
        drop(options);
        match refused.into_inner() {
            Some(why) => Err(GitError::new(
                Class::Denied,
                format!("{} did not take {PIN_REF}: {why}", self.config.url),
            )),
            None => Ok(()),
        }
    }
}

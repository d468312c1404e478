//! The desired-state repository: a mirror of one branch, read commit by commit. Nothing in it is ever executed, no link
//! in it followed, and its history may only grow.

mod https;
mod pin;
mod ssh;
mod transport;
pub(crate) mod trust;
mod watch;

pub use pin::{PinConfig, PinRepository};
pub use trust::{AllowedSigners, Require, TrustConfig, Verdict};
pub use watch::{Watch, is_change, watch};

use git2::{FetchOptions, ObjectType, Oid, Repository};
use holdfast_core::ids::Millis;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

const REF: &str = "refs/holdfast/tip";
const FILES_MAX: usize = 20_000;
const ENTRIES_MAX: usize = 200_000;
pub(crate) const FILE_MAX_BYTES: usize = 1 << 20;
pub(crate) const LINK: &str = "a symbolic link is never followed; commit the file or directory itself";
pub(crate) const SUBMODULE: &str = "a submodule is another repository and is never read; commit the files themselves";
const CONTRIBUTING_COMMITS_MAX: usize = 1_000;
const INTERVAL_MIN_MS: Millis = 1_000;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitConfig {
    /// First half of every workload's identity: choose once.
    #[serde(default = "default_branch")]
    pub name: String,
    pub url: String,
    #[serde(default = "default_branch")]
    pub branch: String,
    /// Only files below it count.
    #[serde(default)]
    pub path: String,
    #[serde(default = "default_interval", deserialize_with = "crate::operator::duration")]
    pub interval: Millis,
    #[serde(default)]
    pub auth: Option<GitAuth>,
    /// PEM file of a private authority, for https.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// For one whole fetch over ssh or https.
    #[serde(default = "default_timeout", deserialize_with = "crate::operator::duration")]
    pub timeout: Millis,
    /// Whose signatures count.
    #[serde(default)]
    pub trust: Option<TrustConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum GitAuth {
    Basic { username: String, password_file: PathBuf },
    Ssh { key_file: PathBuf, known_hosts_file: PathBuf },
}

fn default_branch() -> String {
    "main".into()
}

fn default_interval() -> Millis {
    60_000
}

fn default_timeout() -> Millis {
    300_000
}

impl GitConfig {
    /// The main branch of a repository, without credentials.
    pub fn new(url: &str) -> Self {
        Self {
            name: default_branch(),
            url: url.to_owned(),
            branch: default_branch(),
            path: String::new(),
            interval: default_interval(),
            auth: None,
            ca_file: None,
            timeout: default_timeout(),
            trust: None,
        }
    }

    /// Whether URL and credentials go together. Reads no file.
    pub fn check(&self) -> Result<(), GitError> {
        transport::prepare(self, transport::Purpose::Fetch).map(drop)
    }

    pub fn make_absolute(&mut self, base: &Path) {
        let fix = |path: &mut PathBuf| *path = base.join(&*path);
        self.ca_file.iter_mut().for_each(fix);
        self.trust.iter_mut().for_each(|trust| fix(&mut trust.allowed_signers_file));
        match &mut self.auth {
            Some(GitAuth::Basic { password_file, .. }) => fix(password_file),
            Some(GitAuth::Ssh {
                key_file,
                known_hosts_file,
            }) => {
                fix(key_file);
                fix(known_hosts_file);
            }
            None => {}
        }
        if self.is_local() && !self.url.starts_with("file://") {
            self.url = base.join(&self.url).display().to_string();
        }
    }

    pub fn is_local(&self) -> bool {
        self.url.starts_with("file://") || !(self.url.contains("://") || is_scp_form(&self.url))
    }

    /// The directory to watch, when the repository is on this machine.
    pub fn local_path(&self) -> Option<PathBuf> {
        self.is_local()
            .then(|| PathBuf::from(self.url.strip_prefix("file://").unwrap_or(&self.url)))
    }
}

/// `git@host:path`.
fn is_scp_form(url: &str) -> bool {
    url.split_once(':')
        .is_some_and(|(host, _)| host.contains('@') && !host.contains('/'))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Unreachable,
    Denied,
    HostKey,
    NotFound,
    Invalid,
}

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct GitError {
    pub class: Class,
    pub message: String,
}

impl GitError {
    fn new(class: Class, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }

    fn from_git(what: &str, error: &git2::Error) -> Self {
        let class = match (error.class(), error.code()) {
            (_, git2::ErrorCode::NotFound) => Class::NotFound,
            (_, git2::ErrorCode::Auth) => Class::Denied,
            (_, git2::ErrorCode::Certificate) => Class::HostKey,
            (git2::ErrorClass::Net | git2::ErrorClass::Http | git2::ErrorClass::Ssh | git2::ErrorClass::Os, _) => {
                Class::Unreachable
            }
            _ => Class::Invalid,
        };
        Self::new(class, format!("{what}: {}", error.message()))
    }

    pub fn reason(&self) -> &'static str {
        match self.class {
            Class::Unreachable => "git-unreachable",
            Class::Denied => "git-denied",
            Class::HostKey => "git-host-key",
            Class::NotFound => "git-not-found",
            Class::Invalid => "git-invalid",
        }
    }
}

/// Where the branch is now, and whether it only grew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub commit: String,
    pub fast_forward: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitInfo {
    pub author_email: String,
    pub summary: String,
    pub committed_s: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeFile {
    pub path: String,
    /// Hash of the content: the same id is the same bytes.
    pub blob: String,
    pub size_bytes: usize,
}

/// The files of a commit that count, and those that cannot be read.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    pub files: Vec<TreeFile>,
    pub problems: Vec<holdfast_core::manifest::FileProblem>,
}

pub struct GitSource {
    config: GitConfig,
    mirror: Repository,
}

impl GitSource {
    pub fn open(config: &GitConfig, mirror: &Path) -> Result<Self, GitError> {
        let at = |error: &git2::Error| GitError::from_git(&format!("the mirror {}", mirror.display()), error);
        let mirror_repository = match Repository::open_bare(mirror) {
            Ok(repository) => repository,
            Err(_) => Repository::init_bare(mirror).map_err(|error| at(&error))?,
        };
        Ok(Self {
            config: config.clone(),
            mirror: mirror_repository,
        })
    }

    /// Fetches the branch. `known` is the commit that was adopted last.
    pub fn fetch(&self, known: Option<&str>) -> Result<Head, GitError> {
        let url = transport::prepare(&self.config, transport::Purpose::Fetch)?;
        let mut remote = self
            .mirror
            .remote_anonymous(&url.0)
            .map_err(|error| GitError::from_git(&self.config.url, &error))?;
        let mut options = FetchOptions::new();
        options
            .download_tags(git2::AutotagOption::None)
            .follow_redirects(git2::RemoteRedirect::None);
        let refspec = format!("+refs/heads/{}:{REF}", self.config.branch);
        let fetched = remote.fetch(&[&refspec], Some(&mut options), None);
        drop(remote);
        if let Err(error) = fetched {
            return Err(transport::explain(&url.0).unwrap_or_else(|| GitError::from_git(&self.config.url, &error)));
        }
        let missing = |_| {
            GitError::new(
                Class::NotFound,
                format!("{} has no branch {:?}", self.config.url, self.config.branch),
            )
        };
        let tip = self.mirror.refname_to_id(REF).map_err(missing)?;
        let fast_forward = match known.map(Oid::from_str) {
            Some(Ok(known)) => self.grew(&known.to_string(), &tip.to_string()),
            _ => true,
        };
        Ok(Head {
            commit: tip.to_string(),
            fast_forward,
        })
    }

    fn commit(&self, commit: &str) -> Result<git2::Commit<'_>, GitError> {
        let oid = Oid::from_str(commit).map_err(|error| GitError::from_git(commit, &error))?;
        self.mirror
            .find_commit(oid)
            .map_err(|error| GitError::from_git(commit, &error))
    }

    pub fn info(&self, commit: &str) -> Result<CommitInfo, GitError> {
        let commit = self.commit(commit)?;
        Ok(CommitInfo {
            author_email: String::from_utf8_lossy(commit.author().email_bytes()).into_owned(),
            summary: String::from_utf8_lossy(commit.summary_bytes().unwrap_or_default()).into_owned(),
            committed_s: commit.time().seconds(),
        })
    }

    /// What the commit's signature is worth. That of a tip says it for all that is deployed: it covers the tree, which is
    /// all that is read, and by the parents' hashes the way there. So who signs a merge answers for what it brings, and
    /// an unsigned commit below a signed tip is as good as taken over by who signed.
    pub fn verdict(&self, commit: &str, allowed: Option<&AllowedSigners>) -> Result<Verdict, GitError> {
        let failed = |error: git2::Error| GitError::from_git(commit, &error);
        let found = self.commit(commit)?;
        let (signature, signed) = match self.mirror.extract_signature(&found.id(), None) {
            Ok(parts) => parts,
            Err(error) if error.code() == git2::ErrorCode::NotFound => return Ok(Verdict::Unsigned),
            Err(error) => return Err(failed(error)),
        };
        let committer = String::from_utf8_lossy(found.committer().email_bytes()).into_owned();
        Ok(trust::verdict(
            &signature,
            &signed,
            &committer,
            found.time().seconds(),
            allowed,
        ))
    }

    /// Whether `tip` is `from`, or grew from it.
    pub fn grew(&self, from: &str, tip: &str) -> bool {
        let (Ok(from), Ok(tip)) = (Oid::from_str(from), Oid::from_str(tip)) else {
            return false;
        };
        from == tip || self.mirror.graph_descendant_of(tip, from).unwrap_or(false)
    }

    /// E-mails of everybody who wrote or committed something that `tip` has and `old` has not; always those of the tip.
    pub fn contributors(&self, old: Option<&str>, tip: &str) -> Result<BTreeSet<String>, GitError> {
        let failed = |error: git2::Error| GitError::from_git(tip, &error);
        let tip_id = Oid::from_str(tip).map_err(failed)?;
        let mut walk = self.mirror.revwalk().map_err(failed)?;
        walk.push(tip_id).map_err(failed)?;
        // After a rewrite the mirror may not hold the old commit: then everything is new.
        if let Some(Ok(old)) = old.map(Oid::from_str)
            && self.mirror.find_commit(old).is_ok()
        {
            walk.hide(old).map_err(failed)?;
        }
        let mut emails = BTreeSet::new();
        for id in std::iter::once(Ok(tip_id)).chain(walk.take(CONTRIBUTING_COMMITS_MAX)) {
            let commit = self.mirror.find_commit(id.map_err(failed)?).map_err(failed)?;
            for person in [commit.author(), commit.committer()] {
                emails.insert(String::from_utf8_lossy(person.email_bytes()).into_owned());
            }
        }
        Ok(emails)
    }

    /// Every file in scope. What is no plain file that can be read is a problem, whatever its name: who knows what it
    /// would have said. So is a scope that names nothing.
    pub fn tree(&self, commit: &str) -> Result<Tree, GitError> {
        let root = self
            .commit(commit)?
            .tree()
            .map_err(|error| GitError::from_git(commit, &error))?;
        let scope = self.config.path.trim_matches('/');
        let mut walk = Walk {
            mirror: &self.mirror,
            open: Vec::new(),
            seen: 0,
            found: Tree::default(),
        };
        if scope.is_empty() {
            walk.open.push((String::new(), root));
        } else {
            match root.get_path(Path::new(scope)) {
                Ok(entry) => walk.entry(scope.to_owned(), &entry),
                Err(_) => walk.problem(scope, "no-such-path", "repository.path names nothing in this commit"),
            }
        }
        walk.run();
        let mut found = walk.found;
        found.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    pub fn read(&self, blob: &str) -> Result<Vec<u8>, GitError> {
        let oid = Oid::from_str(blob).map_err(|error| GitError::from_git(blob, &error))?;
        let blob = self.mirror.find_blob(oid).map_err(|error| GitError::from_git(blob, &error))?;
        if blob.size() > FILE_MAX_BYTES {
            return Err(GitError::new(
                Class::Invalid,
                format!("the file has {} bytes; the limit is {FILE_MAX_BYTES}", blob.size()),
            ));
        }
        Ok(blob.content().to_vec())
    }
}

/// Goes through a tree without recursion: the repository decides how deep it is.
struct Walk<'a> {
    mirror: &'a Repository,
    open: Vec<(String, git2::Tree<'a>)>,
    /// Directories count too: few objects can stand for endlessly many of them.
    seen: usize,
    found: Tree,
}

impl Walk<'_> {
    fn run(&mut self) {
        while let Some((directory, tree)) = self.open.pop() {
            for entry in &tree {
                self.seen += 1;
                if self.seen > ENTRIES_MAX || self.found.files.len() + self.found.problems.len() >= FILES_MAX {
                    let message = format!("the repository has more than {FILES_MAX} files or {ENTRIES_MAX} entries in scope");
                    self.problem(&directory, "too-many-files", &message);
                    return;
                }
                let name = String::from_utf8_lossy(entry.name_bytes());
                let path = match directory.as_str() {
                    "" => name.into_owned(),
                    directory => format!("{directory}/{name}"),
                };
                self.entry(path, &entry);
            }
        }
    }

    fn problem(&mut self, file: &str, code: &'static str, message: &str) {
        self.found.problems.push(holdfast_core::manifest::FileProblem {
            file: file.to_owned(),
            code,
            message: message.to_owned(),
        });
    }

    fn entry(&mut self, path: String, entry: &git2::TreeEntry<'_>) {
        const LINK_MODE: i32 = 0o120_000;
        if std::str::from_utf8(entry.name_bytes()).is_err() {
            return self.problem(&path, "not-utf8", "the name is not UTF-8");
        }
        if entry.filemode() == LINK_MODE {
            return self.problem(&path, "symlink", LINK);
        }
        match entry.kind() {
            Some(ObjectType::Tree) => match self.mirror.find_tree(entry.id()) {
                Ok(tree) => self.open.push((path, tree)),
                Err(error) => self.problem(&path, "unreadable", error.message()),
            },
            Some(ObjectType::Blob) => match self.mirror.find_blob(entry.id()) {
                Ok(blob) if blob.size() > FILE_MAX_BYTES && is_manifest(&path) => {
                    let message = format!("the file has {} bytes; the limit is {FILE_MAX_BYTES}", blob.size());
                    self.problem(&path, "file-too-large", &message);
                }
                Ok(blob) => self.found.files.push(TreeFile {
                    path,
                    blob: entry.id().to_string(),
                    size_bytes: blob.size(),
                }),
                Err(error) => self.problem(&path, "unreadable", error.message()),
            },
            Some(ObjectType::Commit) => self.problem(&path, "submodule", SUBMODULE),
            _ => self.problem(&path, "unreadable", "this is no file and no directory"),
        }
    }
}

/// Whether the name is that of a manifest.
pub fn is_manifest(path: &str) -> bool {
    path.ends_with(".yaml") || path.ends_with(".yml")
}

/// How long to wait until the next look: the interval and up to a tenth more, another each time, so that many daemons do
/// not knock at one server together.
pub fn poll_wait(interval_ms: Millis) -> Duration {
    let interval_ms = interval_ms.max(INTERVAL_MIN_MS);
    Duration::from_millis(interval_ms + fastrand::u64(0..=interval_ms / 10))
}

#[cfg(test)]
pub(crate) mod tests;

//! The desired-state repository: a mirror of one branch, read commit by commit. Nothing in it is ever executed, no link
//! in it followed, and its history may only grow.

mod https;
mod ssh;
mod transport;

use git2::{FetchOptions, ObjectType, Oid, Repository, TreeWalkMode, TreeWalkResult};
use holdfast_core::ids::Millis;
use serde::Deserialize;
use std::path::{Path, PathBuf};

const REF: &str = "refs/holdfast/tip";
const FILES_MAX: usize = 20_000;
const FILE_MAX_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, Deserialize)]
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
    #[serde(default = "default_timeout", deserialize_with = "crate::operator::duration")]
    pub timeout: Millis,
}

#[derive(Debug, Clone, Deserialize)]
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
    60_000
}

impl GitConfig {
    pub fn make_absolute(&mut self, base: &Path) {
        let fix = |path: &mut PathBuf| *path = base.join(&*path);
        self.ca_file.iter_mut().for_each(fix);
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
        let url = transport::prepare(&self.config)?;
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
            Some(Ok(known)) => known == tip || self.mirror.graph_descendant_of(tip, known).unwrap_or(false),
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

    /// Every file in scope. Links and submodules are problems only where they look like manifests.
    pub fn tree(&self, commit: &str) -> Result<Tree, GitError> {
        let tree = self
            .commit(commit)?
            .tree()
            .map_err(|error| GitError::from_git(commit, &error))?;
        let mut found = Tree::default();
        let scope = self.config.path.trim_matches('/').to_owned();
        let walked = tree.walk(TreeWalkMode::PreOrder, |directory, entry| {
            if found.files.len() + found.problems.len() >= FILES_MAX {
                return TreeWalkResult::Abort;
            }
            self.take_entry(&mut found, &scope, directory, entry)
        });
        if let Err(error) = walked
            && error.code() != git2::ErrorCode::User
        {
            return Err(GitError::from_git(commit, &error));
        }
        if found.files.len() + found.problems.len() >= FILES_MAX {
            let message = format!("the repository has more than {FILES_MAX} files in scope");
            found.problems.push(holdfast_core::manifest::FileProblem {
                file: scope,
                code: "too-many-files",
                message,
            });
        }
        Ok(found)
    }

    fn take_entry(&self, found: &mut Tree, scope: &str, directory: &str, entry: &git2::TreeEntry<'_>) -> TreeWalkResult {
        let name = String::from_utf8_lossy(entry.name_bytes()).into_owned();
        let path = format!("{directory}{name}");
        let inside = scope.is_empty() || path == scope || path.starts_with(&format!("{scope}/"));
        if entry.kind() == Some(ObjectType::Tree) {
            let on_the_way = inside || format!("{scope}/").starts_with(&format!("{path}/"));
            return if on_the_way {
                TreeWalkResult::Ok
            } else {
                TreeWalkResult::Skip
            };
        }
        if !inside {
            return TreeWalkResult::Ok;
        }
        const LINK_MODE: i32 = 0o120_000;
        let is_manifest = name.ends_with(".yaml") || name.ends_with(".yml");
        let mut problem = |code, message: &str| {
            found.problems.push(holdfast_core::manifest::FileProblem {
                file: path.clone(),
                code,
                message: message.into(),
            })
        };
        if std::str::from_utf8(entry.name_bytes()).is_err() {
            problem("not-utf8", "the file's name is not UTF-8");
            return TreeWalkResult::Ok;
        }
        if entry.filemode() == LINK_MODE {
            if is_manifest {
                problem("symlink", "a symbolic link is never followed; commit the file itself");
            }
            return TreeWalkResult::Ok;
        }
        let Ok(blob) = entry.to_object(&self.mirror).and_then(|object| object.peel_to_blob()) else {
            return TreeWalkResult::Ok;
        };
        if is_manifest && blob.size() > FILE_MAX_BYTES {
            problem(
                "file-too-large",
                &format!("the file has {} bytes; the limit is {FILE_MAX_BYTES}", blob.size()),
            );
            return TreeWalkResult::Ok;
        }
        found.files.push(TreeFile {
            path,
            blob: entry.id().to_string(),
            size_bytes: blob.size(),
        });
        TreeWalkResult::Ok
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

//! Git beside the loop: fetch when poked, watched or due; parse what changed; hand a revision to the engine.

use super::people::{People, Salts};
use super::{Event, ShellError};
use crate::adapters::git::{
    AllowedSigners, Class, GitConfig, GitError, GitSource, Require, TreeFile, TrustConfig, Verdict, Watch, is_manifest,
    poll_wait, watch,
};
use holdfast_core::engine::{Input, Revision};
use holdfast_core::entry::SourceProblem;
use holdfast_core::ids::Digest;
use holdfast_core::manifest::{ConfigFiles, Delta, Desired, FileProblem, ParsedFile, Severity, assemble, parse_file};
use holdfast_registry::Reference;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as std_mpsc;
use std::time::Duration;
use tokio::sync::{mpsc, watch as latest};

/// Hints come in bursts: one look for all of them.
const DEBOUNCE: Duration = Duration::from_millis(50);
const PARSED_KEPT: usize = 50_000;

/// How Git is doing, for metrics and readiness.
#[derive(Default)]
pub(crate) struct Looks {
    pub begun: AtomicU64,
    /// Wall time of the last look that went well, Unix milliseconds; 0: none yet.
    pub good_ms: AtomicU64,
}

/// What the source is and what it is told.
pub(super) struct Start {
    pub repository: GitConfig,
    pub mirror: PathBuf,
    pub salts: Salts,
    pub people: latest::Receiver<Arc<People>>,
    /// The commit that was adopted last.
    pub known: Option<String>,
    /// The rewritten tip that the ledger says is accepted.
    pub accepted: latest::Receiver<Option<String>>,
    pub pokes: mpsc::Receiver<()>,
    pub events: mpsc::UnboundedSender<Event>,
    pub looks: Arc<Looks>,
}

pub(super) fn spawn(start: Start) -> Result<tokio::task::AbortHandle, ShellError> {
    let Start {
        repository,
        mirror,
        salts,
        people,
        known,
        mut accepted,
        mut pokes,
        events,
        looks,
    } = start;
    let reader = Fetcher {
        source: GitSource::open(&repository, &mirror)?,
        repository: repository.clone(),
        known,
        accepted: accepted.clone(),
        salts,
        people,
        trust: repository.trust.clone().map(Trust::load).transpose()?,
        parsed: BTreeMap::new(),
        desired: [None, None],
        told: None,
        said: None,
        looks,
    };
    // libgit2 blocks, so it has a thread of its own; a full queue of one means that a look is coming anyway.
    let (ask, asked) = std_mpsc::sync_channel::<()>(1);
    std::thread::Builder::new()
        .name("git".into())
        .spawn(move || reader.run(&asked, &events))
        .map_err(|source| ShellError::Start {
            what: "the Git thread",
            source,
        })?;
    let task = tokio::spawn(async move {
        let (hint, mut hints) = mpsc::channel::<()>(1);
        let mut watched = Watched::default();
        loop {
            if let Some(path) = repository.local_path() {
                watched.renew(&path, &hint);
            }
            // What came until now is answered by this look.
            let _ = hints.try_recv();
            let _ = ask.try_send(());
            tokio::select! {
                () = tokio::time::sleep(poll_wait(repository.interval)) => {}
                poke = pokes.recv() => if poke.is_none() { return },
                // The sender lives as long as the daemon's loop.
                changed = accepted.changed() => if changed.is_err() { return },
                _ = hints.recv() => tokio::time::sleep(DEBOUNCE).await,
            }
        }
    });
    Ok(task.abort_handle())
}

/// A watch on a local repository; without one it is polled, and watching is tried again at each poll.
#[derive(Default)]
struct Watched {
    watch: Option<Watch>,
    said: bool,
}

impl Watched {
    fn renew(&mut self, path: &Path, hint: &mpsc::Sender<()>) {
        if self.watch.is_some() {
            return;
        }
        let hint = hint.clone();
        // Full means that a look is coming anyway.
        let moved = move |_: &notify::Event| {
            let _ = hint.try_send(());
        };
        match watch(path, moved) {
            Ok(watch) => self.watch = Some(watch),
            Err(error) if !self.said => {
                self.said = true;
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the repository cannot be watched; it is polled");
            }
            Err(_) => {}
        }
    }
}

/// Whose signatures count, as the operator's file says.
pub(crate) struct Trust {
    config: TrustConfig,
    allowed: AllowedSigners,
    said: Option<String>,
}

impl Trust {
    pub(crate) fn load(config: TrustConfig) -> Result<Self, ShellError> {
        let mut allowed = AllowedSigners::default();
        if let Some(read) = allowed
            .changed(&config.allowed_signers_file)
            .map_err(ShellError::AllowedSigners)?
        {
            allowed = read;
        }
        Ok(Self {
            config,
            allowed,
            said: None,
        })
    }

    pub(crate) fn allowed(&self) -> &AllowedSigners {
        &self.allowed
    }

    /// Of a tip that was not taken before: what was taken once stays.
    pub(crate) fn refuses(&self, verdict: &Verdict) -> bool {
        self.config.require == Require::Signed && !verdict.is_verified()
    }

    /// A changed file is taken as a whole or not at all, as the configuration is.
    fn renew(&mut self) {
        match self.allowed.changed(&self.config.allowed_signers_file) {
            Ok(None) => self.said = None,
            Ok(Some(allowed)) => {
                tracing::info!("the changed allowed signers are taken");
                (self.allowed, self.said) = (allowed, None);
            }
            Err(problems) => {
                if self.said.as_ref() != Some(&problems) {
                    tracing::error!(problems, "the changed allowed signers are refused; the old ones go on");
                }
                self.said = Some(problems);
            }
        }
    }
}

struct Fetcher {
    source: GitSource,
    repository: GitConfig,
    known: Option<String>,
    accepted: latest::Receiver<Option<String>>,
    salts: Salts,
    people: latest::Receiver<Arc<People>>,
    trust: Option<Trust>,
    /// Files by path, with the blob that they were parsed from: only changed files are parsed again.
    parsed: BTreeMap<String, (String, ParsedFile)>,
    /// What the engine was told last in this run, and before: the engine lets go of the older one first, so it is freed here,
    /// not in the daemon's loop.
    desired: [Option<Arc<Desired>>; 2],
    /// The tip that the engine was told of last in this run, whether it was taken, and the verdict on its signature.
    told: Option<(String, bool, String)>,
    said: Option<String>,
    looks: Arc<Looks>,
}

impl Fetcher {
    fn run(mut self, asked: &std_mpsc::Receiver<()>, events: &mpsc::UnboundedSender<Event>) {
        while asked.recv().is_ok() {
            self.looks.begun.fetch_add(1, Ordering::Relaxed);
            let outcome = self.look();
            if outcome.is_ok() {
                self.looks.good_ms.store(super::wall_ms(), Ordering::Relaxed);
            }
            match outcome {
                Ok(Some(revision)) => {
                    if events.send(Event::Input(Input::Revision(Box::new(revision)))).is_err() {
                        return;
                    }
                }
                Ok(None) => tracing::debug!("Git is as it was"),
                Err(error) => {
                    // The last good revision goes on; the same trouble is said once.
                    if self.said.as_ref() != Some(&error.message) {
                        tracing::warn!(
                            reason = error.reason(),
                            detail = error.message,
                            "Git cannot be read; will retry"
                        );
                    }
                    self.said = Some(error.message);
                }
            }
        }
    }

    /// A revision, when there is something that the engine has not been told in this run.
    fn look(&mut self) -> Result<Option<Revision>, GitError> {
        let head = self.source.fetch(self.known.as_deref())?;
        self.said = None;
        self.trust.iter_mut().for_each(Trust::renew);
        let allowed = self.trust.as_ref().map(Trust::allowed);
        let verdict = self.source.verdict(&head.commit, allowed)?;
        let signer = verdict.text(|email| self.name_of(email));
        let is_new = self.known.as_ref() != Some(&head.commit);
        let untrusted = is_new && self.trust.as_ref().is_some_and(|trust| trust.refuses(&verdict));
        let accepted = self.accepted.borrow().clone();
        let is_growth = head.fast_forward || accepted.is_some_and(|accepted| self.source.grew(&accepted, &head.commit));
        let adopted = is_growth && !untrusted;
        let told = Some((head.commit.clone(), adopted, signer.clone()));
        if self.told == told {
            return Ok(None);
        }
        let info = self.source.info(&head.commit)?;
        let contributors = self.source.contributors(self.known.as_deref(), &head.commit)?;
        let mut revision = Revision {
            reference: format!("refs/heads/{}", self.repository.branch),
            commit: head.commit.clone(),
            old: self.known.clone(),
            fast_forward: head.fast_forward,
            adopted,
            untrusted,
            signer,
            author: self.hash(&info.author_email)?,
            contributors: contributors.iter().map(|email| self.hash(email)).collect::<Result<_, _>>()?,
            summary: info.summary,
            committed_s: info.committed_s,
            ..Revision::default()
        };
        if !adopted {
            let why = match untrusted {
                true => holdfast_core::view::untrusted(&head.commit, &revision.signer),
                false => "the branch was rewritten; nothing of it is taken until `holdfast accept-rewrite`".into(),
            };
            tracing::error!(commit = head.commit, "{why}");
            self.told = told;
            return Ok(Some(revision));
        }
        let (desired, blobs) = load_desired(&self.source, &head.commit, &self.repository.name, &mut self.parsed)?;
        revision.problems = desired
            .problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .map(source_problem)
            .collect();
        revision.blobs = blobs;
        self.known = Some(head.commit);
        self.told = told;
        revision.desired = Arc::new(desired);
        let [last, older] = &mut self.desired;
        revision.delta = last.as_ref().and_then(|last| Delta::between(last, &revision.desired));
        *older = last.replace(revision.desired.clone());
        Ok(Some(revision))
    }

    fn hash(&self, email: &str) -> Result<String, GitError> {
        self.salts.hash(email).map_err(|error| GitError {
            class: Class::Invalid,
            message: format!("the salts of e-mail addresses cannot be used: {error}"),
        })
    }

    /// Of a person that the operator names; else no more than the ledger says of an author.
    fn name_of(&self, email: &str) -> String {
        let Ok(hash) = self.hash(email) else {
            return "somebody".to_owned();
        };
        let people = self.people.borrow();
        people.name_of(&hash).map_or_else(|| hash.clone(), str::to_owned)
    }
}

fn source_problem(problem: &holdfast_core::manifest::Problem) -> SourceProblem {
    SourceProblem {
        code: problem.code.to_owned(),
        file: problem.file.clone(),
        line: problem.line,
        column: problem.column,
        message: problem.message.chars().take(300).collect(),
    }
}

/// Looks config files up in a commit's tree.
struct TreeFiles<'a> {
    source: &'a GitSource,
    files: BTreeMap<&'a str, &'a TreeFile>,
    read: std::cell::RefCell<BTreeMap<Digest, Vec<u8>>>,
}

impl ConfigFiles for TreeFiles<'_> {
    fn digest(&self, path: &str) -> Result<Digest, String> {
        let file = self
            .files
            .get(path)
            .ok_or_else(|| format!("{path} is not in the repository, or a link"))?;
        let bytes = self.source.read(&file.blob).map_err(|error| error.message)?;
        let digest = Digest::of(&bytes);
        self.read.borrow_mut().insert(digest.clone(), bytes);
        Ok(digest)
    }
}

type Blobs = Vec<(Digest, Vec<u8>)>;

/// What a commit wants, with the config files' contents. Only files whose blob changed are parsed.
pub fn load_desired(
    source: &GitSource,
    commit: &str,
    repository: &str,
    parsed: &mut BTreeMap<String, (String, ParsedFile)>,
) -> Result<(Desired, Blobs), GitError> {
    let tree = source.tree(commit)?;
    let manifests: Vec<&TreeFile> = tree.files.iter().filter(|file| is_manifest(&file.path)).collect();
    if parsed.len() > PARSED_KEPT {
        parsed.clear();
    }
    let paths: BTreeSet<&str> = manifests.iter().map(|file| file.path.as_str()).collect();
    parsed.retain(|path, _| paths.contains(path.as_str()));
    let mut problems: Vec<FileProblem> = tree.problems.clone();
    for file in manifests {
        if parsed.get(&file.path).is_some_and(|(blob, _)| *blob == file.blob) {
            continue;
        }
        match source.read(&file.blob) {
            Ok(bytes) => {
                parsed.insert(file.path.clone(), (file.blob.clone(), parse_file(&file.path, &bytes)));
            }
            Err(error) => {
                parsed.remove(&file.path);
                problems.push(FileProblem {
                    file: file.path.clone(),
                    code: "unreadable",
                    message: error.message,
                });
            }
        }
    }
    let files = parsed
        .iter()
        .map(|(path, (_, parsed))| (path.clone(), parsed.clone()))
        .collect();
    let lookup = TreeFiles {
        source,
        files: tree.files.iter().map(|file| (file.path.as_str(), file)).collect(),
        read: Default::default(),
    };
    let check = |text: &str| Reference::parse(text).map(drop).map_err(|error| error.to_string());
    let desired = assemble(repository, &files, &problems, &lookup, &check);
    Ok((desired, lookup.read.into_inner().into_iter().collect()))
}

#[cfg(test)]
mod tests;

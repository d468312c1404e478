//! Git beside the loop: fetch when poked, watched or due; parse what changed; hand a revision to the engine.

use super::{Event, ShellError};
use crate::adapters::git::{GitSource, TreeFile};
use crate::operator::Operator;
use holdfast_core::engine::{Input, Revision};
use holdfast_core::entry::SourceProblem;
use holdfast_core::ids::Digest;
use holdfast_core::manifest::{ConfigFiles, Desired, FileProblem, ParsedFile, Severity, assemble, parse_file};
use holdfast_registry::Reference;
use notify::{RecursiveMode, Watcher};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Hints come in bursts: one look for all of them.
const DEBOUNCE: Duration = Duration::from_millis(50);
const PARSED_KEPT: usize = 50_000;

pub(super) fn spawn(
    operator: &Operator,
    known: Option<String>,
    events: mpsc::UnboundedSender<Event>,
    mut pokes: mpsc::Receiver<()>,
) -> Result<tokio::task::AbortHandle, ShellError> {
    let start = |source| ShellError::Start {
        what: "the Git thread",
        source,
    };
    let salt = salt(&operator.data.join("author.salt")).map_err(start)?;
    let source = GitSource::open(&operator.repository, &operator.data.join("git"))?;
    let reader = Fetcher {
        source,
        operator: operator.clone(),
        known,
        salt,
        parsed: BTreeMap::new(),
        said: None,
    };
    // libgit2 blocks, so it has a thread of its own; a full queue of one means that a look is coming anyway.
    let (ask, asked) = std_mpsc::sync_channel::<()>(1);
    std::thread::Builder::new()
        .name("git".into())
        .spawn(move || reader.run(&asked, &events))
        .map_err(start)?;
    let interval = Duration::from_millis(operator.repository.interval.max(1_000));
    let watched = operator.repository.local_path();
    let task = tokio::spawn(async move {
        let (hint, mut hints) = mpsc::channel::<()>(1);
        let _watcher = watched.and_then(|path| watch(&path, hint.clone()));
        let jitter = Duration::from_millis(u64::from(std::process::id()) % 1_000 * interval.as_millis() as u64 / 10_000);
        loop {
            let _ = ask.try_send(());
            tokio::select! {
                _ = tokio::time::sleep(interval + jitter) => {}
                poke = pokes.recv() => if poke.is_none() { return },
                _ = hints.recv() => tokio::time::sleep(DEBOUNCE).await,
            }
        }
    });
    Ok(task.abort_handle())
}

/// Wakes on changes of refs; what changed is looked up, not believed.
fn watch(path: &Path, hint: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let git = if path.join(".git").is_dir() {
        path.join(".git")
    } else {
        path.to_owned()
    };
    let mut watcher = notify::recommended_watcher(move |_| {
        // Full means that a look is coming anyway.
        let _ = hint.try_send(());
    })
    .ok()?;
    let refs = watcher.watch(&git.join("refs"), RecursiveMode::Recursive);
    let packed = watcher.watch(&git, RecursiveMode::NonRecursive);
    if let Err(error) = refs.and(packed) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the repository cannot be watched; it is polled"
        );
        return None;
    }
    Some(watcher)
}

/// Makes e-mail addresses in the ledger comparable, and unreadable without this file.
fn salt(path: &Path) -> std::io::Result<Vec<u8>> {
    if let Ok(salt) = std::fs::read(path)
        && salt.len() == 32
    {
        return Ok(salt);
    }
    let mut salt = vec![0; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut salt)?;
    std::fs::write(path, &salt)?;
    Ok(salt)
}

struct Fetcher {
    source: GitSource,
    operator: Operator,
    known: Option<String>,
    salt: Vec<u8>,
    /// Files by path, with the blob that they were parsed from: only changed files are parsed again.
    parsed: BTreeMap<String, (String, ParsedFile)>,
    said: Option<String>,
}

impl Fetcher {
    fn run(mut self, asked: &std_mpsc::Receiver<()>, events: &mpsc::UnboundedSender<Event>) {
        while asked.recv().is_ok() {
            match self.look() {
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

    fn look(&mut self) -> Result<Option<Revision>, crate::adapters::git::GitError> {
        let head = self.source.fetch(self.known.as_deref())?;
        self.said = None;
        let accepted = std::fs::read_to_string(accepted_file(&self.operator)).unwrap_or_default();
        let adopted = head.fast_forward || accepted.trim() == head.commit;
        let unchanged = self.known.as_deref() == Some(&head.commit) && !self.parsed.is_empty();
        if unchanged {
            return Ok(None);
        }
        let info = self.source.info(&head.commit)?;
        let mut revision = Revision {
            reference: format!("refs/heads/{}", self.operator.repository.branch),
            commit: head.commit.clone(),
            old: self.known.clone(),
            fast_forward: head.fast_forward,
            adopted,
            signer: "unverified".into(),
            author: self.author(&info.author_email),
            summary: info.summary,
            committed_s: info.committed_s,
            ..Revision::default()
        };
        if !adopted {
            tracing::error!(
                commit = head.commit,
                "the branch was rewritten; nothing of it is taken until `holdfast accept-rewrite`"
            );
            return Ok(Some(revision));
        }
        let (desired, blobs) = load_desired(&self.source, &head.commit, &self.operator.repository.name, &mut self.parsed)?;
        revision.problems = desired
            .problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .map(source_problem)
            .collect();
        revision.workloads = desired.workloads;
        revision.targets = desired.targets;
        revision.unknown_workloads = desired.unknown_workloads;
        revision.unknown_targets = desired.unknown_targets;
        revision.absence_proven = desired.absence_proven;
        revision.blobs = blobs;
        self.known = Some(head.commit);
        Ok(Some(revision))
    }

    fn author(&self, email: &str) -> String {
        let hash = Sha256::new()
            .chain_update(&self.salt)
            .chain_update(email.trim().to_lowercase())
            .finalize();
        holdfast_core::ids::hex(&hash)[..32].to_owned()
    }
}

/// Written by `accept-rewrite`, read before a rewritten tip is refused.
pub(crate) fn accepted_file(operator: &Operator) -> std::path::PathBuf {
    operator.data.join("accepted-rewrite")
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
) -> Result<(Desired, Blobs), crate::adapters::git::GitError> {
    let tree = source.tree(commit)?;
    let manifests: Vec<&TreeFile> = tree
        .files
        .iter()
        .filter(|file| file.path.ends_with(".yaml") || file.path.ends_with(".yml"))
        .collect();
    if parsed.len() > PARSED_KEPT {
        parsed.clear();
    }
    parsed.retain(|path, _| manifests.iter().any(|file| file.path == *path));
    let mut problems: Vec<FileProblem> = tree.problems.clone();
    for file in manifests {
        if parsed.get(&file.path).is_some_and(|(blob, _)| *blob == file.blob) {
            continue;
        }
        match source.read(&file.blob) {
            Ok(bytes) => {
                parsed.insert(file.path.clone(), (file.blob.clone(), parse_file(&file.path, &bytes)));
            }
            Err(error) => problems.push(FileProblem {
                file: file.path.clone(),
                code: "unreadable",
                message: error.message,
            }),
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

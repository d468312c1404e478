//! `validate` and `plan`: what manifests say, before anything is done about it.

use super::error::{CliError, NEGATIVE};
use super::show::{Out, Tone};
use crate::adapters::git::GitSource;
use crate::operator;
use holdfast_core::ids::Digest;
use holdfast_core::manifest::{ConfigFiles, Desired, FileProblem, ParsedFile, Problem, Severity, assemble, parse_file, render};
use holdfast_core::plan::rollout::{captured, runs};
use holdfast_core::release::Release;
use holdfast_core::spec::{ArtifactSpec, Selector};
use holdfast_core::state::{State, WorkloadState};
use holdfast_ledger::{Ledger, Options, load_state};
use holdfast_registry::Reference;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const FILES_MAX: usize = 20_000;
/// As in the Git adapter: what is not read there is not read here.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// A directory's manifests, read like a commit's.
struct Directory {
    root: PathBuf,
    files: BTreeMap<String, ParsedFile>,
    texts: BTreeMap<String, String>,
    problems: Vec<FileProblem>,
}

impl ConfigFiles for Directory {
    fn digest(&self, path: &str) -> Result<Digest, String> {
        let mut file = self.root.clone();
        // A link anywhere on the way is no file of a commit.
        for part in path.split('/') {
            file.push(part);
            if file.symlink_metadata().is_ok_and(|meta| meta.file_type().is_symlink()) {
                let link = file.strip_prefix(&self.root).unwrap_or(&file).display();
                return Err(format!("{link} is a symbolic link; commit the file itself"));
            }
        }
        let meta = file.metadata().map_err(|error| format!("{path}: {error}"))?;
        if !meta.is_file() {
            return Err(format!("{path} is not a file"));
        }
        if meta.len() > FILE_MAX_BYTES {
            return Err(too_large(meta.len()));
        }
        std::fs::read(&file)
            .map(|bytes| Digest::of(&bytes))
            .map_err(|error| format!("{path}: {error}"))
    }
}

fn too_large(bytes: u64) -> String {
    format!("the file has {bytes} bytes; the limit is {FILE_MAX_BYTES}")
}

impl Directory {
    fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            files: BTreeMap::new(),
            texts: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    fn problem(&mut self, file: String, code: &'static str, message: String) {
        self.problems.push(FileProblem { file, code, message });
    }

    /// A manifest at `path`, called `name` here. Its size is looked at before it is read.
    fn take(&mut self, path: &Path, name: String) -> Result<(), CliError> {
        let fail = |source| CliError::io(format!("{} cannot be read", path.display()), source);
        let bytes = path.metadata().map_err(fail)?.len();
        if bytes > FILE_MAX_BYTES {
            self.problem(name, "file-too-large", too_large(bytes));
            return Ok(());
        }
        let bytes = std::fs::read(path).map_err(fail)?;
        self.files.insert(name.clone(), parse_file(&name, &bytes));
        self.texts.insert(name, String::from_utf8_lossy(&bytes).into_owned());
        Ok(())
    }
}

fn read_directory(root: &Path) -> Result<Directory, CliError> {
    let mut directory = Directory::new(root);
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        let fail = |source| CliError::io(format!("{} cannot be read", dir.display()), source);
        let mut entries: Vec<_> = std::fs::read_dir(&dir)
            .map_err(fail)?
            .collect::<Result<_, _>>()
            .map_err(fail)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let kind = entry.file_type().map_err(fail)?;
            let relative = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            let is_manifest = relative.ends_with(".yaml") || relative.ends_with(".yml");
            if kind.is_dir() && entry.file_name() != ".git" {
                open.push(path);
            } else if entry.file_name().to_str().is_none() {
                directory.problem(relative, "not-utf8", "the file's name is not UTF-8".to_owned());
            } else if kind.is_symlink() && is_manifest {
                let message = "a symbolic link is never followed; commit the file itself".to_owned();
                directory.problem(relative, "symlink", message);
            } else if kind.is_file() && is_manifest {
                if directory.files.len() >= FILES_MAX {
                    return Err(CliError::usage(
                        format!("more than {FILES_MAX} manifests below {}", root.display()),
                        "name a smaller directory",
                    ));
                }
                directory.take(&path, relative)?;
            }
        }
    }
    Ok(directory)
}

fn check_reference(text: &str) -> Result<(), String> {
    Reference::parse(text).map(drop).map_err(|error| error.to_string())
}

fn desired_of(directory: &Directory, repository: &str) -> Desired {
    assemble(repository, &directory.files, &directory.problems, directory, &check_reference)
}

pub fn validate(path: &Path, out: &Out) -> Result<ExitCode, CliError> {
    let missing = |source| CliError::io(format!("{} cannot be read", path.display()), source);
    let meta = std::fs::metadata(path).map_err(missing)?;
    if meta.is_dir() {
        let directory = read_directory(path)?;
        let desired = desired_of(&directory, "main");
        return Ok(report(&desired.problems, &directory.texts, &counts(&desired), out));
    }
    let shown = path.display().to_string();
    if meta.len() <= FILE_MAX_BYTES {
        let bytes = std::fs::read(path).map_err(missing)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if is_operator_file(path, &text) {
            let problems = operator::check(path, &bytes).err().unwrap_or_default();
            return Ok(report(&problems, &[(shown, text)].into(), "1 configuration", out));
        }
    }
    let (directory, name) = read_one(path)?;
    let mut desired = desired_of(&directory, "main");
    // People know the file by what they typed.
    for problem in desired.problems.iter_mut().filter(|problem| problem.file == name) {
        problem.file = shown.clone();
    }
    let texts = directory.texts.into_values().map(|text| (shown.clone(), text)).collect();
    Ok(report(&desired.problems, &texts, &counts(&desired), out))
}

/// The operator's file is no manifest; it is told by what it has and no manifest has.
fn is_operator_file(path: &Path, text: &str) -> bool {
    let has = |key: &str| text.trim_start_matches('\u{feff}').lines().any(|line| line.starts_with(key));
    path.file_name().is_some_and(|name| name == "holdfast.yaml") || (has("repository:") && !has("apiVersion:"))
}

/// One file, as a part of the repository it is in: paths of config files are looked up there, and what it does not name may be
/// in another file.
fn read_one(path: &Path) -> Result<(Directory, String), CliError> {
    let fail = |source| CliError::io(format!("{} cannot be read", path.display()), source);
    let absolute = std::path::absolute(path).map_err(fail)?;
    let parent = absolute.parent().unwrap_or(Path::new("/"));
    let root = parent.ancestors().find(|dir| dir.join(".git").exists()).unwrap_or(parent);
    let name = absolute.strip_prefix(root).unwrap_or(&absolute).display().to_string();
    let mut directory = Directory::new(root);
    directory.take(&absolute, name.clone())?;
    if let Some(parsed) = directory.files.get_mut(&name) {
        parsed.readable = false;
    }
    Ok((directory, name))
}

fn counts(desired: &Desired) -> String {
    format!("{} targets, {} workloads", desired.targets.len(), desired.workloads.len())
}

fn report(problems: &[Problem], texts: &BTreeMap<String, String>, what: &str, out: &Out) -> ExitCode {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    if out.is_json {
        out.json(&json!({ "ok": errors == 0, "problems": problems }));
    } else {
        for problem in problems {
            let tone = if problem.severity == Severity::Error {
                Tone::Bad
            } else {
                Tone::Warn
            };
            let text = render(problem, texts.get(&problem.file).map(String::as_str));
            let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
            out.line(&out.paint(tone, first));
            out.line(rest.trim_end_matches('\n'));
        }
        let warnings = problems.len() - errors;
        match errors {
            0 if warnings == 0 => out.line(&out.paint(Tone::Good, &format!("ok: {what}"))),
            0 => out.line(&format!("ok, with {warnings} warnings: {what}")),
            _ => out.line(&format!("{errors} errors, {warnings} warnings; {what} can be used")),
        }
    }
    ExitCode::from(if errors == 0 { 0 } else { NEGATIVE })
}

/// What would happen now, as far as the ledger's State and the manifests tell.
pub fn plan(config: &Path, path: Option<&Path>, out: &Out) -> Result<ExitCode, CliError> {
    let operator = operator::load(config)?;
    let ledger_dir = operator.ledger_dir();
    let state = match ledger_dir.is_dir() {
        true => {
            let (mut ledger, _) = Ledger::open_read_only(&ledger_dir, Options::default())?;
            load_state(&mut ledger)?.0
        }
        false => State::default(),
    };
    let (desired, texts) = match path {
        Some(path) => {
            let directory = read_directory(path)?;
            (desired_of(&directory, &operator.repository.name), directory.texts)
        }
        None => {
            // A mirror of its own: the daemon's may be in use.
            let mirror = tempfile::tempdir().map_err(|source| CliError::io("a temporary directory cannot be made", source))?;
            let source = GitSource::open(&operator.repository, mirror.path())?;
            let head = source.fetch(None)?;
            let (desired, _) =
                crate::shell::load_desired(&source, &head.commit, &operator.repository.name, &mut BTreeMap::new())?;
            (desired, BTreeMap::new())
        }
    };
    let errors = desired
        .problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .count();
    let steps = steps(&desired, &state);
    if out.is_json {
        out.json(&json!({ "ok": errors == 0, "steps": steps, "problems": desired.problems }));
        return Ok(ExitCode::from(if errors == 0 { 0 } else { NEGATIVE }));
    }
    for problem in &desired.problems {
        out.line(render(problem, texts.get(&problem.file).map(String::as_str)).trim_end());
    }
    if steps.is_empty() {
        out.line("nothing to do: everything is as the manifests say");
    } else {
        let text = |step: &Value, key: &str| step[key].as_str().unwrap_or_default().to_owned();
        let rows: Vec<Vec<String>> = steps
            .iter()
            .map(|step| {
                ["action", "workload", "target", "detail"]
                    .iter()
                    .map(|key| text(step, key))
                    .collect()
            })
            .collect();
        out.table(&["ACTION", "WORKLOAD", "TARGET", "DETAIL"], &rows);
    }
    Ok(ExitCode::from(if errors == 0 { 0 } else { NEGATIVE }))
}

/// The reference that this very selection stands for by now.
fn selected(known: &WorkloadState, name: &str, artifact: &ArtifactSpec) -> Option<String> {
    let same = known.spec.as_ref()?.artifacts.get(name) == Some(artifact);
    same.then(|| known.reference(name)).flatten()
}

fn shown_selector(select: &Selector) -> String {
    match select {
        Selector::Semver(requirement) => format!("semver {requirement}"),
        Selector::Regex(pattern) => format!("regex {pattern}"),
    }
}

fn steps(desired: &Desired, state: &State) -> Vec<Value> {
    let mut steps = Vec::new();
    let mut step = |action: &str, workload: &str, target: &str, detail: String| {
        steps.push(json!({ "action": action, "workload": workload, "target": target, "detail": detail }));
    };
    for (id, spec) in &desired.workloads {
        let known = state.workloads.get(id);
        let mut digests = BTreeMap::new();
        for (name, artifact) in &spec.artifacts {
            let (action, reference, detail) = match artifact {
                ArtifactSpec::Reference(text) => (
                    "pin",
                    Some(text.clone()),
                    format!("{text} is resolved to a digest once, and written down"),
                ),
                ArtifactSpec::Select { repository, select } => (
                    "select",
                    known.and_then(|known| selected(known, name, artifact)),
                    format!(
                        "the best tag of {repository} by {} is resolved to a digest",
                        shown_selector(select)
                    ),
                ),
            };
            match reference.and_then(|reference| known?.pins.get(&reference)) {
                Some(pin) => drop(digests.insert(name.clone(), pin.digest.clone())),
                None => step(action, id.as_str(), "", detail),
            }
        }
        let release = (digests.len() == spec.artifacts.len()).then(|| Release::from_spec(spec, &digests).id());
        let shown = release
            .as_ref()
            .map_or("a new release".to_owned(), |release| format!("release {}", release.short()));
        for (name, target) in desired
            .targets
            .iter()
            .filter(|(name, target)| spec.placement.includes(name, &target.labels))
        {
            let unit = known.and_then(|known| known.units.get(name));
            let is_there = release
                .as_ref()
                .zip(unit)
                .is_some_and(|(release, unit)| runs(unit, release, &captured(target).0));
            let quarantined = release
                .as_ref()
                .and_then(|release| known?.quarantined(release, &captured(target).0, spec.attempt));
            match (unit.and_then(|unit| unit.current), quarantined) {
                _ if is_there => {}
                (_, Some(quarantine)) => step(
                    "refuse",
                    id.as_str(),
                    name,
                    format!("{shown} is quarantined: {}", quarantine.message),
                ),
                (None, None) => step("launch", id.as_str(), name, format!("{shown}, first generation")),
                (Some(generation), None) => step(
                    "replace",
                    id.as_str(),
                    name,
                    format!("generation {generation} by {shown}, {}", spec.strategy.name()),
                ),
            }
        }
    }
    for (id, known) in &state.workloads {
        let gone = !desired.workloads.contains_key(id) && !desired.unknown_workloads.contains(id);
        for (target, unit) in known.units.iter().filter(|(_, unit)| unit.current.is_some()) {
            let unplaced = desired
                .workloads
                .get(id)
                .zip(desired.targets.get(target))
                .is_some_and(|(spec, t)| !spec.placement.includes(target, &t.labels));
            if (gone && desired.absence_proven) || unplaced {
                step(
                    "retire",
                    id.as_str(),
                    target,
                    format!("generation {}: no manifest places it here", unit.current.unwrap_or_default()),
                );
            } else if gone {
                step(
                    "keep",
                    id.as_str(),
                    target,
                    "not named, but some file cannot be read: its absence is not proven".into(),
                );
            }
        }
    }
    steps
}

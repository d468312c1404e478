//! `validate`: what manifests say, before anything is done about it.

use super::error::{CliError, NEGATIVE};
use super::show::{Out, Tone};
use crate::adapters::git::{FILE_MAX_BYTES, LINK, SUBMODULE, is_manifest};
use crate::operator;
use holdfast_core::ids::Digest;
use holdfast_core::manifest::{ConfigFiles, Desired, FileProblem, ParsedFile, Problem, Severity, assemble, parse_file, render};
use holdfast_registry::Reference;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const FILES_MAX: usize = 20_000;

/// A directory's manifests, read like a commit's.
pub(super) struct Directory {
    root: PathBuf,
    files: BTreeMap<String, ParsedFile>,
    pub(super) texts: BTreeMap<String, String>,
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
        if meta.len() > FILE_MAX_BYTES as u64 {
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
        if bytes > FILE_MAX_BYTES as u64 {
            self.problem(name, "file-too-large", too_large(bytes));
            return Ok(());
        }
        let bytes = std::fs::read(path).map_err(fail)?;
        self.files.insert(name.clone(), parse_file(&name, &bytes));
        self.texts.insert(name, String::from_utf8_lossy(&bytes).into_owned());
        Ok(())
    }
}

/// What Git ignores below a directory that is in a work tree: no commit has it, so it is not read here either.
struct Ignored(Option<git2::Repository>);

impl Ignored {
    fn below(root: &Path) -> Self {
        let repository = git2::Repository::discover(root).ok();
        // A directory that is ignored as a whole was named on purpose.
        Self(repository.filter(|repository| !ignores(repository, root)))
    }

    fn has(&self, path: &Path) -> bool {
        self.0.as_ref().is_some_and(|repository| ignores(repository, path))
    }
}

fn ignores(repository: &git2::Repository, path: &Path) -> bool {
    let Some(top) = repository.workdir() else { return false };
    let absolute = match path.parent().map(Path::canonicalize) {
        // The last part stays what it is: it may be a link.
        Some(Ok(parent)) => parent.join(path.file_name().unwrap_or_default()),
        _ => return false,
    };
    let relative = absolute.strip_prefix(top).unwrap_or(&absolute);
    relative.components().next().is_some() && repository.is_path_ignored(relative).unwrap_or(false)
}

pub(super) fn read_directory(root: &Path) -> Result<Directory, CliError> {
    let mut directory = Directory::new(root);
    let ignored = Ignored::below(root);
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
            if entry.file_name() == ".git" || ignored.has(&path) {
                continue;
            }
            if entry.file_name().to_str().is_none() {
                directory.problem(relative, "not-utf8", "the file's name is not UTF-8".to_owned());
            } else if kind.is_symlink() {
                directory.problem(relative, "symlink", LINK.to_owned());
            } else if kind.is_dir() && path.join(".git").exists() {
                directory.problem(relative, "submodule", SUBMODULE.to_owned());
            } else if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() && is_manifest(&relative) {
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

pub(super) fn desired_of(directory: &Directory, repository: &str) -> Desired {
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
    if meta.len() <= FILE_MAX_BYTES as u64 {
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
            out.lines(rest);
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

//! `validate`: what manifests say, before anything is done about it.

use super::error::{CliError, NEGATIVE};
use super::show::{Out, Tone};
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
        let file = self.root.join(path);
        if file.symlink_metadata().is_ok_and(|meta| meta.file_type().is_symlink()) {
            return Err(format!("{path} is a symbolic link; commit the file itself"));
        }
        std::fs::read(&file)
            .map(|bytes| Digest::of(&bytes))
            .map_err(|error| format!("{path}: {error}"))
    }
}

pub(super) fn read_directory(root: &Path) -> Result<Directory, CliError> {
    let mut directory = Directory {
        root: root.to_owned(),
        files: BTreeMap::new(),
        texts: BTreeMap::new(),
        problems: Vec::new(),
    };
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
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().map_err(fail)?;
            let relative = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            let is_manifest = name.ends_with(".yaml") || name.ends_with(".yml");
            if kind.is_dir() && name != ".git" {
                open.push(path);
            } else if kind.is_symlink() && is_manifest {
                let message = "a symbolic link is never followed; commit the file itself".to_owned();
                directory.problems.push(FileProblem {
                    file: relative,
                    code: "symlink",
                    message,
                });
            } else if kind.is_file() && is_manifest {
                if directory.files.len() >= FILES_MAX {
                    return Err(CliError::usage(
                        format!("more than {FILES_MAX} manifests below {}", root.display()),
                        "name a smaller directory",
                    ));
                }
                let bytes =
                    std::fs::read(&path).map_err(|source| CliError::io(format!("{} cannot be read", path.display()), source))?;
                directory.files.insert(relative.clone(), parse_file(&relative, &bytes));
                directory.texts.insert(relative, String::from_utf8_lossy(&bytes).into_owned());
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
    if meta.is_file() {
        let bytes = std::fs::read(path).map_err(missing)?;
        let name = path.display().to_string();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // The operator's file is no manifest; it is told by what every manifest has.
        let is_operator = path.file_name().is_some_and(|name| name == "holdfast.yaml")
            || (text.contains("\nrepository:") && !text.contains("apiVersion:"));
        let (problems, what) = if is_operator {
            (
                operator::check(path, &bytes).err().unwrap_or_default(),
                "1 configuration".to_owned(),
            )
        } else {
            let mut directory = Directory {
                root: path.parent().unwrap_or(Path::new(".")).to_owned(),
                files: BTreeMap::new(),
                texts: BTreeMap::new(),
                problems: Vec::new(),
            };
            directory.files.insert(name.clone(), parse_file(&name, &bytes));
            let desired = desired_of(&directory, "main");
            (desired.problems.clone(), counts(&desired))
        };
        return Ok(report(&problems, &[(name, text)].into(), &what, out));
    }
    let directory = read_directory(path)?;
    let desired = desired_of(&directory, "main");
    Ok(report(&desired.problems, &directory.texts, &counts(&desired), out))
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

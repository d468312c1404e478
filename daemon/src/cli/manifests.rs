//! `validate` and `plan`: what manifests say, before anything is done about it.

use super::error::{CliError, NEGATIVE};
use super::show::{Out, Tone};
use crate::adapters::git::GitSource;
use crate::operator;
use holdfast_core::ids::Digest;
use holdfast_core::manifest::{ConfigFiles, Desired, FileProblem, ParsedFile, Problem, Severity, assemble, parse_file, render};
use holdfast_core::plan::rollout::{captured, runs};
use holdfast_core::release::Release;
use holdfast_core::state::State;
use holdfast_ledger::{Ledger, Options, load_state};
use holdfast_registry::Reference;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const FILES_MAX: usize = 20_000;

/// A directory's manifests, read like a commit's.
struct Directory {
    root: PathBuf,
    files: BTreeMap<String, ParsedFile>,
    texts: BTreeMap<String, String>,
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

fn read_directory(root: &Path) -> Result<Directory, CliError> {
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

fn desired_of(directory: &Directory, repository: &str) -> Desired {
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

fn steps(desired: &Desired, state: &State) -> Vec<Value> {
    let mut steps = Vec::new();
    let mut step = |action: &str, workload: &str, target: &str, detail: String| {
        steps.push(json!({ "action": action, "workload": workload, "target": target, "detail": detail }));
    };
    for (id, spec) in &desired.workloads {
        let known = state.workloads.get(id);
        let pinned = |reference: &String| {
            known
                .and_then(|known| known.pins.get(reference))
                .map(|pin| pin.digest.clone())
        };
        let unpinned: Vec<&String> = spec
            .artifacts
            .values()
            .filter(|reference| pinned(reference).is_none())
            .collect();
        for reference in &unpinned {
            step(
                "pin",
                id.as_str(),
                "",
                format!("{reference} is resolved to a digest once, and written down"),
            );
        }
        let digests = spec
            .artifacts
            .iter()
            .filter_map(|(name, reference)| Some((name.clone(), pinned(reference)?)))
            .collect();
        let release = unpinned.is_empty().then(|| Release::from_spec(spec, &digests).id());
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

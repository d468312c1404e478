//! All files of a revision together: names are unique, placements and values fit the targets, config files are there.

use super::decode::{Document, DocumentKind, ParsedFile, WorkloadDraft};
use super::problem::{Problem, Severity};
use super::yaml::Place;
use crate::ids::{Digest, TargetName, WorkloadId};
use crate::spec::{TargetSpec, Targets, WorkloadSpec};
use std::collections::{BTreeMap, BTreeSet};

const WORKLOADS_MAX: usize = 10_000;
const SPEC_MAX_BYTES: usize = 48 << 10;

/// Looks up a config file by its path in the repository.
pub trait ConfigFiles {
    fn digest(&self, path: &str) -> Result<Digest, String>;
}

/// What the Git adapter found wrong with a file: a symlink, too large, not readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    pub file: String,
    pub code: &'static str,
    pub message: String,
}

#[derive(Debug, Clone, Default)]
pub struct Desired {
    pub workloads: BTreeMap<WorkloadId, WorkloadSpec>,
    pub targets: BTreeMap<TargetName, TargetSpec>,
    pub unknown_workloads: BTreeSet<WorkloadId>,
    pub unknown_targets: BTreeSet<TargetName>,
    /// Every file could be read, so what is not named is gone.
    pub absence_proven: bool,
    pub problems: Vec<Problem>,
    /// Config files that the workloads name, by path in the repository.
    pub config_files: BTreeMap<String, Digest>,
}

pub fn assemble(
    repository: &str,
    files: &BTreeMap<String, ParsedFile>,
    file_problems: &[FileProblem],
    config_files: &dyn ConfigFiles,
    check_reference: &dyn Fn(&str) -> Result<(), String>,
) -> Desired {
    let mut desired = Desired {
        absence_proven: file_problems.is_empty(),
        ..Desired::default()
    };
    for problem in file_problems {
        let place = Place {
            line: 1,
            column: 1,
            width: 1,
        };
        push(
            &mut desired,
            problem.code,
            Severity::Error,
            &problem.file,
            place,
            problem.message.clone(),
            None,
        );
    }
    let mut seen: BTreeMap<(bool, String), Vec<(&String, &Document)>> = BTreeMap::new();
    for (file, parsed) in files {
        desired.absence_proven &= parsed.readable;
        desired.problems.extend(parsed.problems.iter().cloned());
        for document in &parsed.documents {
            let is_target = matches!(document.kind, DocumentKind::Target(_));
            seen.entry((is_target, document.name.clone()))
                .or_default()
                .push((file, document));
        }
    }
    let workloads = seen.keys().filter(|(is_target, _)| !is_target).count();
    if workloads > WORKLOADS_MAX {
        let place = Place {
            line: 1,
            column: 1,
            width: 1,
        };
        push(
            &mut desired,
            "too-many-workloads",
            Severity::Error,
            "",
            place,
            format!("{workloads} workloads; the limit is {WORKLOADS_MAX}"),
            None,
        );
    }
    let mut drafts = Vec::new();
    for ((is_target, name), found) in &seen {
        if found.len() > 1 {
            for (file, document) in found {
                let others: Vec<String> = found
                    .iter()
                    .filter(|(_, other)| other.place != document.place)
                    .map(|(file, d)| format!("{file}:{}", d.place.line))
                    .collect();
                let message = format!("{name:?} is defined {} times", found.len());
                push(
                    &mut desired,
                    "duplicate-name",
                    Severity::Error,
                    file,
                    document.place,
                    message,
                    Some(format!("also at {}", others.join(", "))),
                );
            }
        }
        let [(file, document)] = found.as_slice() else {
            mark_unknown(&mut desired, repository, *is_target, name);
            continue;
        };
        match &document.kind {
            DocumentKind::Target(Some(target)) => {
                desired.targets.insert(name.clone(), target.clone());
            }
            DocumentKind::Workload(Some(draft)) => drafts.push((*file, *document, draft)),
            DocumentKind::Target(None) | DocumentKind::Workload(None) => mark_unknown(&mut desired, repository, *is_target, name),
        }
    }
    for (file, document, draft) in drafts {
        match finish(&mut desired, file, document, draft, config_files, check_reference) {
            Some(spec) => {
                if let Ok(id) = WorkloadId::new(repository, &document.name) {
                    desired.workloads.insert(id, spec);
                }
            }
            None => mark_unknown(&mut desired, repository, false, &document.name),
        }
    }
    desired
        .problems
        .sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    desired
}

fn mark_unknown(desired: &mut Desired, repository: &str, is_target: bool, name: &str) {
    if is_target {
        desired.unknown_targets.insert(name.to_owned());
    } else if let Ok(id) = WorkloadId::new(repository, name) {
        desired.unknown_workloads.insert(id);
    }
}

#[allow(clippy::too_many_arguments, reason = "a problem has this many parts")]
fn push(
    desired: &mut Desired,
    code: &'static str,
    severity: Severity,
    file: &str,
    place: Place,
    message: String,
    hint: Option<String>,
) {
    let (line, column, width) = (place.line, place.column, place.width);
    desired.problems.push(Problem {
        code,
        severity,
        file: file.to_owned(),
        line,
        column,
        width,
        message,
        hint,
    });
}

/// None: it has an error, and is unknown.
fn finish(
    desired: &mut Desired,
    file: &str,
    document: &Document,
    draft: &WorkloadDraft,
    config_files: &dyn ConfigFiles,
    check_reference: &dyn Fn(&str) -> Result<(), String>,
) -> Option<WorkloadSpec> {
    let mut spec = draft.spec.clone();
    let at = |pointer: &str| document.node.locate(pointer);
    let mut good = true;
    for (name, reference) in spec
        .artifacts
        .iter()
        .filter_map(|(name, from)| Some((name, from.reference()?)))
    {
        if let Err(message) = check_reference(reference) {
            good = false;
            push(
                desired,
                "reference",
                Severity::Error,
                file,
                at(&format!("/spec/artifacts/{name}")),
                format!("{reference:?} is not a reference: {message}"),
                None,
            );
        }
    }
    let directory = file.rsplit_once('/').map_or("", |(directory, _)| directory);
    for (inside, written) in &draft.files {
        let place = at(&format!(
            "/spec/config/files/{}",
            inside.replace('~', "~0").replace('/', "~1")
        ));
        let found = join(directory, written)
            .ok_or_else(|| "it leads out of the repository".to_owned())
            .and_then(|path| Ok((config_files.digest(&path)?, path)));
        match found {
            Ok((digest, path)) => {
                spec.files.insert(inside.clone(), digest.clone());
                desired.config_files.insert(path, digest);
            }
            Err(message) => {
                good = false;
                push(
                    desired,
                    "config-file",
                    Severity::Error,
                    file,
                    place,
                    format!("config file {written:?}: {message}"),
                    Some("paths are relative to the manifest's directory".into()),
                );
            }
        }
    }
    if let Targets::Names(names) = &spec.placement.targets {
        for (index, name) in names
            .iter()
            .enumerate()
            .filter(|(_, name)| !desired.targets.contains_key(*name))
            .map(|(i, n)| (i, n.clone()))
            .collect::<Vec<_>>()
        {
            good = false;
            let hint = super::fields::did_you_mean(&name, desired.targets.keys().map(String::as_str));
            push(
                desired,
                "unknown-target",
                Severity::Error,
                file,
                at(&format!("/spec/placement/targets/names/{index}")),
                format!("there is no target {name:?}"),
                hint,
            );
        }
    }
    let matched: Vec<(TargetName, TargetSpec)> = desired
        .targets
        .iter()
        .filter(|(name, target)| spec.placement.includes(name, &target.labels))
        .map(|(n, t)| (n.clone(), t.clone()))
        .collect();
    if matched.is_empty() && good {
        push(
            desired,
            "no-targets",
            Severity::Warning,
            file,
            at("/spec/placement"),
            "no target matches; nothing will run".into(),
            None,
        );
    }
    for (name, target) in matched {
        for value in draft.values.iter().filter(|value| !target.values.contains_key(*value)) {
            good = false;
            push(
                desired,
                "missing-value",
                Severity::Error,
                file,
                at("/spec/template"),
                format!("the template uses ${{values.{value}}}, which target {name:?} does not have"),
                None,
            );
        }
    }
    let size = serde_json::to_vec(&spec).map_or(usize::MAX, |bytes| bytes.len());
    if size > SPEC_MAX_BYTES {
        good = false;
        push(
            desired,
            "spec-too-large",
            Severity::Error,
            file,
            document.place,
            format!("the workload has {size} bytes; the limit is {SPEC_MAX_BYTES}"),
            Some("put the larger parts into config files".into()),
        );
    }
    good.then_some(spec)
}

/// `a/b` and `../c` give `a/c`; none when the way leads out.
fn join(directory: &str, relative: &str) -> Option<String> {
    if relative.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

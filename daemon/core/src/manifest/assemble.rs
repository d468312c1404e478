//! All files of a revision together: names are unique, placements and values fit the targets, config files are there.

use super::circle::{circles, spelled_out};
use super::decode::{Document, DocumentKind, PROBLEMS_MAX, ParsedFile, WorkloadDraft};
use super::fields::did_you_mean;
use super::places::Places;
use super::problem::{Problem, Severity};
use super::yaml::Place;
use crate::ids::{Digest, TargetName, WorkloadId};
use crate::spec::{ArtifactSpec, TargetSpec, Targets, WorkloadSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const WORKLOADS_MAX: usize = 10_000;
const SPEC_MAX_BYTES: usize = 48 << 10;
const SEARCHES_MAX: usize = 100;

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
    pub workloads: BTreeMap<WorkloadId, Arc<WorkloadSpec>>,
    pub targets: BTreeMap<TargetName, TargetSpec>,
    pub unknown_workloads: BTreeSet<WorkloadId>,
    pub unknown_targets: BTreeSet<TargetName>,
    /// Every file could be read, so what is not named is gone.
    pub absence_proven: bool,
    pub problems: Vec<Problem>,
    pub places: Places,
    /// Config files that the workloads name, by path in the repository.
    pub config_files: BTreeMap<String, Digest>,
}

/// Which workloads differ between two readings of the same files.
#[derive(Debug, Clone)]
pub struct Delta {
    pub since: Arc<Desired>,
    pub workloads: BTreeSet<WorkloadId>,
}

impl Delta {
    /// None where one of them could not be read whole: what is missing there is not known to be gone.
    pub fn between(since: &Arc<Desired>, desired: &Desired) -> Option<Self> {
        let is_whole = |one: &Desired| one.absence_proven && one.unknown_workloads.is_empty();
        if !is_whole(since) || !is_whole(desired) {
            return None;
        }
        let is_new = |(id, spec): &(&WorkloadId, &Arc<WorkloadSpec>)| since.workloads.get(id) != Some(spec);
        let new = desired.workloads.iter().filter(is_new).map(|(id, _)| id);
        let gone = since.workloads.keys().filter(|id| !desired.workloads.contains_key(id));
        Some(Self {
            since: since.clone(),
            workloads: new.chain(gone).cloned().collect(),
        })
    }
}

pub fn assemble(
    repository: &str,
    files: &BTreeMap<String, ParsedFile>,
    file_problems: &[FileProblem],
    config_files: &dyn ConfigFiles,
    check_reference: &dyn Fn(&str) -> Result<(), String>,
) -> Desired {
    let mut assembly = Assembly {
        repository,
        config_files,
        check_reference,
        desired: Desired {
            absence_proven: file_problems.is_empty(),
            ..Desired::default()
        },
        names: BTreeSet::new(),
        searches_left: SEARCHES_MAX,
    };
    for problem in file_problems {
        assembly.push(problem.code, &problem.file, START, &problem.message, file_hint(problem.code));
    }
    // By what it is and its name: where it stands.
    type Places<'a> = Vec<(&'a str, &'a Arc<Document>)>;
    let mut seen: BTreeMap<(bool, &str), Places> = BTreeMap::new();
    for (file, parsed) in files {
        assembly.desired.absence_proven &= parsed.readable;
        assembly.desired.problems.extend(parsed.problems.iter().cloned());
        for document in &parsed.documents {
            let is_target = matches!(document.kind, DocumentKind::Target(_));
            seen.entry((is_target, &document.name)).or_default().push((file, document));
        }
    }
    assembly.names = seen
        .keys()
        .filter(|(is_target, _)| !is_target)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    let workloads = assembly.names.len();
    if workloads > WORKLOADS_MAX {
        let message = format!("{workloads} workloads; the limit is {WORKLOADS_MAX}");
        assembly.push("too-many-workloads", "", START, &message, "use more than one repository");
    }
    let mut drafts = Vec::new();
    for ((is_target, name), found) in &seen {
        if found.len() > 1 {
            assembly.duplicates(name, found);
        }
        match found.as_slice() {
            [(file, document)] => match &document.kind {
                DocumentKind::Target(Some(target)) => {
                    assembly.desired.places.add_target((*name).to_owned(), file, document);
                    assembly.desired.targets.insert((*name).to_owned(), target.clone());
                }
                DocumentKind::Workload(Some(draft)) => drafts.push(Draft { file, document, draft }),
                DocumentKind::Target(None) | DocumentKind::Workload(None) => assembly.mark_unknown(*is_target, name),
            },
            _ => assembly.mark_unknown(*is_target, name),
        }
    }
    let in_circle = assembly.circles(&drafts);
    for draft in drafts {
        let name = &draft.document.name;
        match assembly.finish(&draft).filter(|_| !in_circle.contains(name)) {
            Some(spec) => {
                if let Ok(id) = WorkloadId::new(repository, name) {
                    assembly.desired.places.add_workload(id.clone(), draft.file, draft.document);
                    assembly.desired.workloads.insert(id, Arc::new(spec));
                }
            }
            None => assembly.mark_unknown(false, name),
        }
    }
    let mut desired = assembly.desired;
    desired.problems = first_of_each_file(desired.problems, files);
    desired
}

const START: Place = Place {
    line: 1,
    column: 1,
    width: 1,
};

/// What to do about a file that the Git adapter could not take.
fn file_hint(code: &str) -> &'static str {
    match code {
        "symlink" => "replace the link by the file itself",
        "file-too-large" | "too-many-files" => "split it",
        "not-utf8" => "rename it",
        _ => "see what is at this path",
    }
}

/// Sorted by place; of each file the first ones, and how many more there are.
fn first_of_each_file(mut problems: Vec<Problem>, files: &BTreeMap<String, ParsedFile>) -> Vec<Problem> {
    problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    let mut shown: Vec<Problem> = Vec::new();
    for of_file in problems.chunk_by(|one, next| one.file == next.file) {
        shown.extend(of_file.iter().take(PROBLEMS_MAX).cloned());
        let further = files.get(&of_file[0].file).map_or(0, |parsed| parsed.further_problems);
        let more = of_file.len().saturating_sub(PROBLEMS_MAX) + further;
        if let Some(last) = of_file.last().filter(|_| more > 0) {
            shown.push(Problem {
                code: "more-problems",
                severity: Severity::Error,
                message: format!("and {more} more problems in this file"),
                hint: Some("mend the first ones, and look again".to_owned()),
                ..last.clone()
            });
        }
    }
    shown
}

struct Draft<'a> {
    file: &'a str,
    document: &'a Arc<Document>,
    draft: &'a WorkloadDraft,
}

impl Draft<'_> {
    fn at(&self, pointer: &str) -> Place {
        self.document.node.locate(pointer)
    }
}

struct Assembly<'a> {
    repository: &'a str,
    config_files: &'a dyn ConfigFiles,
    check_reference: &'a dyn Fn(&str) -> Result<(), String>,
    desired: Desired,
    /// Of all workloads, good or bad.
    names: BTreeSet<String>,
    /// Looking for the nearest of thousands of names takes its time: not for every one of thousands of mistakes.
    searches_left: usize,
}

impl Assembly<'_> {
    fn mark_unknown(&mut self, is_target: bool, name: &str) {
        if is_target {
            self.desired.unknown_targets.insert(name.to_owned());
        } else if let Ok(id) = WorkloadId::new(self.repository, name) {
            self.desired.unknown_workloads.insert(id);
        }
    }

    fn push(&mut self, code: &'static str, file: &str, place: Place, message: &str, hint: &str) {
        let (line, column, width) = (place.line, place.column, place.width);
        self.desired.problems.push(Problem {
            code,
            severity: Severity::Error,
            file: file.to_owned(),
            line,
            column,
            width,
            message: message.to_owned(),
            hint: Some(hint.to_owned()).filter(|hint| !hint.is_empty()),
        });
    }

    fn warn(&mut self, code: &'static str, file: &str, place: Place, message: &str, hint: &str) {
        self.push(code, file, place, message, hint);
        if let Some(problem) = self.desired.problems.last_mut() {
            problem.severity = Severity::Warning;
        }
    }

    fn duplicates(&mut self, name: &str, found: &[(&str, &Arc<Document>)]) {
        const OTHERS_SHOWN: usize = 5;
        for (file, document) in found {
            let mut others: Vec<String> = found
                .iter()
                .filter(|(other_file, other)| (other_file, other.place) != (file, document.place))
                .take(OTHERS_SHOWN)
                .map(|(file, other)| format!("{file}:{}", other.place.line))
                .collect();
            let further = (found.len() - 1).saturating_sub(OTHERS_SHOWN);
            if further > 0 {
                others.push(format!("{further} more"));
            }
            let message = format!("{name:?} is defined {} times", found.len());
            self.push(
                "duplicate-name",
                file,
                document.place,
                &message,
                &format!("also at {}", others.join(", ")),
            );
        }
    }

    /// The workloads that wait for themselves.
    fn circles(&mut self, drafts: &[Draft<'_>]) -> BTreeSet<String> {
        let depends_on = drafts
            .iter()
            .map(|one| {
                let own = one.document.name.as_str();
                let others = one.draft.spec.depends_on.iter().map(String::as_str);
                (own, others.filter(|name| *name != own).collect())
            })
            .collect();
        let by_name: BTreeMap<&str, &Draft<'_>> = drafts.iter().map(|one| (one.document.name.as_str(), one)).collect();
        let mut in_circle = BTreeSet::new();
        for circle in circles(&depends_on) {
            for name in &circle {
                let Some(draft) = by_name.get(name.as_str()).filter(|_| in_circle.insert(name.clone())) else {
                    continue;
                };
                let spelled = spelled_out(&circle, name);
                let next = spelled.split(" -> ").nth(1).unwrap_or_default();
                let index = draft.draft.spec.depends_on.iter().position(|one| one == next);
                let place = draft.at(&format!("/spec/dependsOn/{}", index.unwrap_or_default()));
                self.push(
                    "circle",
                    draft.file,
                    place,
                    &format!("dependsOn goes in a circle: {spelled}"),
                    "take one of them out: none could ever begin",
                );
            }
        }
        in_circle
    }

    /// None: it has an error, and is unknown.
    fn finish(&mut self, draft: &Draft<'_>) -> Option<WorkloadSpec> {
        let mut spec = draft.draft.spec.clone();
        let mut good = self.artifacts(draft);
        good &= self.config_files(draft, &mut spec);
        good &= self.target_names(draft);
        good &= self.dependencies(draft);
        good &= self.values(draft);
        let size = serde_json::to_vec(&spec).map_or(usize::MAX, |bytes| bytes.len());
        if size > SPEC_MAX_BYTES {
            good = false;
            let message = format!("the workload has {size} bytes; the limit is {SPEC_MAX_BYTES}");
            let hint = "put the larger parts into config files";
            self.push("spec-too-large", draft.file, draft.document.place, &message, hint);
        }
        good.then_some(spec)
    }

    fn artifacts(&mut self, draft: &Draft<'_>) -> bool {
        let mut good = true;
        for (name, from) in &draft.draft.spec.artifacts {
            let (checked, written, pointer) = match from {
                ArtifactSpec::Reference(text) => (text.clone(), text, format!("/spec/artifacts/{name}")),
                ArtifactSpec::Select { repository, .. } => (
                    // Any tag will do: it is the repository that is looked at.
                    format!("{repository}:0"),
                    repository,
                    format!("/spec/artifacts/{name}/repository"),
                ),
            };
            if let Err(message) = (self.check_reference)(&checked) {
                good = false;
                let message = format!("{written:?} cannot be used: {message}");
                let hint = "as in registry.example.com/pay/api:1.4.2; below repository: without the tag";
                self.push("reference", draft.file, draft.at(&pointer), &message, hint);
            }
        }
        good
    }

    fn config_files(&mut self, draft: &Draft<'_>, spec: &mut WorkloadSpec) -> bool {
        let mut good = true;
        let directory = draft.file.rsplit_once('/').map_or("", |(directory, _)| directory);
        for (inside, written) in &draft.draft.files {
            let found = join(directory, written)
                .ok_or_else(|| "it leads out of the repository".to_owned())
                .and_then(|path| Ok((self.config_files.digest(&path)?, path)));
            match found {
                Ok((digest, path)) => {
                    spec.files.insert(inside.clone(), digest.clone());
                    self.desired.config_files.insert(path, digest);
                }
                Err(message) => {
                    good = false;
                    let pointer = format!("/spec/config/files/{}", inside.replace('~', "~0").replace('/', "~1"));
                    let message = format!("config file {written:?}: {message}");
                    let hint = "paths are relative to the manifest's directory";
                    self.push("config-file", draft.file, draft.at(&pointer), &message, hint);
                }
            }
        }
        good
    }

    /// A name is wrong only if it is in no file: one that cannot be read may have it.
    fn target_names(&mut self, draft: &Draft<'_>) -> bool {
        let placement = &draft.draft.spec.placement;
        let mut good = true;
        if let Targets::Names(names) = &placement.targets {
            for (index, name) in names.iter().enumerate() {
                if self.desired.targets.contains_key(name) || self.desired.unknown_targets.contains(name) {
                    continue;
                }
                let place = draft.at(&format!("/spec/placement/targets/names/{index}"));
                let near = self.near(name, |all| all.desired.targets.keys().collect());
                let near = near.unwrap_or_else(|| "a Target with this name is missing".to_owned());
                good &= self.missing(
                    "unknown-target",
                    draft.file,
                    place,
                    &format!("there is no target {name:?}"),
                    &near,
                );
            }
        }
        let nothing_runs = !self
            .desired
            .targets
            .iter()
            .any(|(name, target)| placement.includes(name, &target.labels));
        if nothing_runs && good && self.desired.unknown_targets.is_empty() && self.desired.absence_proven {
            let place = draft.at("/spec/placement/targets");
            let hint = "look at the labels of the targets, or name them";
            self.warn("no-targets", draft.file, place, "no target matches; nothing will run", hint);
        }
        good
    }

    fn near(&mut self, name: &str, known: impl Fn(&Self) -> Vec<&String>) -> Option<String> {
        self.searches_left = self.searches_left.checked_sub(1)?;
        did_you_mean(name, known(self).into_iter().map(String::as_str))
    }

    /// An error where absence is proven, else a warning. Whether the workload can still be used.
    fn missing(&mut self, code: &'static str, file: &str, place: Place, message: &str, hint: &str) -> bool {
        if self.desired.absence_proven {
            self.push(code, file, place, message, hint);
            return false;
        }
        let message = format!("{message} in the files that could be read");
        self.warn(code, file, place, &message, hint);
        true
    }

    fn dependencies(&mut self, draft: &Draft<'_>) -> bool {
        let own = &draft.document.name;
        let mut good = true;
        for (index, name) in draft.draft.spec.depends_on.iter().enumerate() {
            let place = draft.at(&format!("/spec/dependsOn/{index}"));
            if name == own {
                good = false;
                let message = format!("{own:?} depends on itself");
                self.push("circle", draft.file, place, &message, "take it out");
            } else if !self.names.contains(name) {
                let near = self.near(name, |all| all.names.iter().filter(|other| *other != own).collect());
                let near = near.unwrap_or_else(|| "a Workload with this name is missing".to_owned());
                let message = format!("there is no workload {name:?}");
                good &= self.missing("unknown-workload", draft.file, place, &message, &near);
            }
        }
        good
    }

    /// Every target that runs it has the values that its templates want.
    fn values(&mut self, draft: &Draft<'_>) -> bool {
        const TARGETS_SHOWN: usize = 3;
        let mut good = true;
        for (value, template) in &draft.draft.values {
            let placement = &draft.draft.spec.placement;
            let without: Vec<&str> = self
                .desired
                .targets
                .iter()
                .filter(|(name, target)| placement.includes(name, &target.labels) && !target.values.contains_key(value))
                .map(|(name, _)| name.as_str())
                .collect();
            if without.is_empty() {
                continue;
            }
            good = false;
            let more = match without.len().saturating_sub(TARGETS_SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let shown = without[..without.len().min(TARGETS_SHOWN)].join(", ");
            let message = format!("a template uses ${{values.{value}}}, which is not set on target {shown}{more}");
            let hint = format!("add values: {{ {value}: ... }} to it");
            self.push("missing-value", draft.file, draft.at(template), &message, &hint);
        }
        good
    }
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

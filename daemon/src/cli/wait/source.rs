//! Which revision of the ledger a commit came with.

use super::find;
use crate::api::FindBy;
use crate::cli::error::CliError;
use crate::operator::Operator;
use git2::{Oid, Repository};
use holdfast_core::entry::{Body, Source, SourceProblem};
use holdfast_core::ids::{Millis, Seq};
use std::collections::{BTreeMap, BTreeSet};

/// Newest revisions that are looked through.
const REVISIONS_MAX: usize = 1_000;

/// A revision that has the commit.
#[derive(Debug)]
pub struct Found {
    pub seq: Seq,
    pub t: Millis,
    pub commit: String,
    pub adopted: bool,
    /// The verdict that kept it from being taken.
    pub untrusted: Option<String>,
    /// How many workloads it changed.
    pub changed: usize,
    /// What cannot be read in it, and is of this revision.
    pub problems: Vec<String>,
}

pub struct Sources {
    known: BTreeMap<Seq, (Millis, Source)>,
    /// The daemon's mirror; it knows which commit has which. None: not there, or not ours to read.
    mirror: Option<Repository>,
}

impl Sources {
    pub fn new(operator: &Operator) -> Self {
        Self {
            known: BTreeMap::new(),
            mirror: Repository::open_bare(operator.data.join("git")).ok(),
        }
    }

    /// Fetches what came since the last time.
    pub fn update(&mut self, operator: &Operator) -> Result<(), CliError> {
        let newest = self.known.keys().next_back().copied();
        let limit = if newest.is_none() { REVISIONS_MAX } else { 20 };
        let mut before = None;
        loop {
            let page = find(operator, FindBy::Kind, "source", before, limit)?;
            let is_whole = page.len() == limit;
            let oldest = page.last().map(|entry| entry.seq);
            for entry in page {
                if let Body::Source(source) = entry.body {
                    self.known.insert(entry.seq, (entry.t, source));
                }
            }
            let more = newest.is_some_and(|newest| oldest.is_some_and(|oldest| oldest > newest));
            if !is_whole || !more {
                return Ok(());
            }
            before = oldest;
        }
    }

    /// The newest revision that is the commit, or the first that has it in its history.
    pub fn with(&self, commit: &str) -> Result<Option<Found>, CliError> {
        let named = self.known.iter().filter(|(_, (_, source))| source.new.starts_with(commit));
        let (mut adopted, mut waiting) = (None, None);
        let mut full = BTreeSet::new();
        for (seq, (_, source)) in named {
            full.insert(source.new.as_str());
            if source.adopted {
                adopted = Some(*seq);
            } else {
                waiting = Some(*seq);
            }
        }
        if full.len() > 1 {
            let all: Vec<&str> = full.into_iter().collect();
            return Err(CliError::usage(
                format!("{commit} could be {}", all.join(" or ")),
                "give more digits of the commit",
            ));
        }
        let found = adopted.or_else(|| self.first_after(commit)).or(waiting);
        Ok(found.map(|seq| self.found(seq)))
    }

    /// The first adopted revision whose history has the commit.
    fn first_after(&self, commit: &str) -> Option<Seq> {
        let mirror = self.mirror.as_ref()?;
        let wanted = mirror.revparse_single(commit).ok()?.peel_to_commit().ok()?.id();
        let has = |source: &Source| {
            let tip = Oid::from_str(&source.new).ok();
            tip.is_some_and(|tip| mirror.graph_descendant_of(tip, wanted).unwrap_or(false))
        };
        let adopted = self.known.iter().filter(|(_, (_, source))| source.adopted);
        let mut first = None;
        // From the newest on: what came before the first that has it does not have it.
        for (seq, (_, source)) in adopted.rev() {
            if !has(source) {
                break;
            }
            first = Some(*seq);
        }
        first
    }

    fn found(&self, seq: Seq) -> Found {
        let (t, source) = &self.known[&seq];
        let mut before = self.known.range(..seq).rev();
        let old = before.find(|(_, (_, source))| source.adopted).map(|(_, (_, source))| source);
        let files = self.files_changed(old.map(|old| old.new.as_str()), &source.new);
        let problems = source.problems.iter().filter(|problem| {
            let same =
                |old: &SourceProblem| (&old.code, &old.file, &old.message) == (&problem.code, &problem.file, &problem.message);
            let is_new = old.is_none_or(|old| !old.problems.iter().any(same));
            is_new || files.as_ref().is_none_or(|files| files.contains(&problem.file))
        });
        Found {
            seq,
            t: *t,
            commit: source.new.clone(),
            adopted: source.adopted,
            untrusted: source.untrusted.then(|| source.signer.clone()),
            changed: source.changed.len(),
            problems: problems
                .map(|p| match p.file.is_empty() {
                    true => p.message.clone(),
                    false => format!("{}:{}:{}: {}", p.file, p.line, p.column, p.message),
                })
                .collect(),
        }
    }

    /// None: it cannot be known.
    fn files_changed(&self, old: Option<&str>, new: &str) -> Option<BTreeSet<String>> {
        let mirror = self.mirror.as_ref()?;
        let tree = |commit: &str| mirror.find_commit(Oid::from_str(commit).ok()?).ok()?.tree().ok();
        let diff = mirror.diff_tree_to_tree(Some(&tree(old?)?), Some(&tree(new)?), None).ok()?;
        let paths = diff
            .deltas()
            .filter_map(|delta| delta.new_file().path().map(|path| path.display().to_string()));
        Some(paths.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(new: &str, adopted: bool, problems: &[(&str, &str)]) -> Source {
        Source {
            repository: "main".into(),
            reference: String::new(),
            old: None,
            new: new.into(),
            fast_forward: adopted,
            adopted,
            untrusted: false,
            signer: String::new(),
            author: String::new(),
            contributors: BTreeSet::new(),
            summary: String::new(),
            committed_s: 0,
            changed: Vec::new(),
            problems: problems
                .iter()
                .map(|(file, message)| SourceProblem {
                    code: "x".into(),
                    file: (*file).into(),
                    line: 1,
                    column: 2,
                    message: (*message).into(),
                })
                .collect(),
            held: Vec::new(),
        }
    }

    fn sources(known: &[(Seq, Source)], mirror: Option<Repository>) -> Sources {
        Sources {
            known: known.iter().map(|(seq, source)| (*seq, (seq * 10, source.clone()))).collect(),
            mirror,
        }
    }

    /// A line of commits, each writing one file with its number.
    fn line_of_commits(dir: &Path, files: &[&str]) -> Vec<String> {
        let repository = Repository::init_bare(dir).unwrap();
        let person = git2::Signature::new("Ann", "ann@example.com", &git2::Time::new(0, 0)).unwrap();
        let mut commits: Vec<Oid> = Vec::new();
        for (number, file) in files.iter().enumerate() {
            let parent = commits.last().map(|id| repository.find_commit(*id).unwrap());
            let tree = parent.as_ref().map(|parent| parent.tree().unwrap());
            let mut builder = repository.treebuilder(tree.as_ref()).unwrap();
            let blob = repository.blob(number.to_string().as_bytes()).unwrap();
            builder.insert(file, blob, 0o100_644).unwrap();
            let tree = repository.find_tree(builder.write().unwrap()).unwrap();
            let parents: Vec<&git2::Commit> = parent.iter().collect();
            commits.push(repository.commit(None, &person, &person, "m", &tree, &parents).unwrap());
        }
        commits.iter().map(Oid::to_string).collect()
    }

    use std::path::Path;

    #[test]
    fn a_commit_is_found_by_itself_or_in_what_came_after() {
        let dir = tempfile::tempdir().unwrap();
        let commits = line_of_commits(dir.path(), &["a", "b", "c", "d"]);
        let known = [
            (1, source(&commits[0], true, &[])),
            (5, source(&commits[2], true, &[])),
            (9, source(&commits[3], true, &[])),
            (12, source(&"f".repeat(40), false, &[])),
        ];
        let mirror = || Repository::open_bare(dir.path()).ok();
        for (commit, mirror, expected) in [
            (commits[2].as_str(), mirror(), Some((5, true))),
            (&commits[2][..8], None, Some((5, true))),
            // Never a tip: it came with the next one.
            (&commits[1], mirror(), Some((5, true))),
            (&commits[1], None, None),
            (&"f".repeat(12), mirror(), Some((12, false))),
            (&"e".repeat(12), mirror(), None),
        ] {
            let found = sources(&known, mirror).with(commit).unwrap();
            assert_eq!(found.map(|found| (found.seq, found.adopted)), expected, "{commit}");
        }
        let two = [(1, source("aaaaaaaa1", true, &[])), (2, source("aaaaaaaa2", true, &[]))];
        let error = sources(&two, None).with("aaaaaaa").err().unwrap();
        assert_eq!(error.to_string(), "aaaaaaa could be aaaaaaaa1 or aaaaaaaa2");
    }

    #[test]
    fn problems_count_where_the_commit_made_or_touched_them() {
        let dir = tempfile::tempdir().unwrap();
        let commits = line_of_commits(dir.path(), &["old.yaml", "touched.yaml"]);
        let before = [("old.yaml", "was broken"), ("touched.yaml", "still broken")];
        let now = [
            ("old.yaml", "was broken"),
            ("touched.yaml", "still broken"),
            ("other.yaml", "clashes"),
        ];
        let known = [(1, source(&commits[0], true, &before)), (2, source(&commits[1], true, &now))];
        let problems = |mirror| sources(&known, mirror).with(&commits[1]).unwrap().unwrap().problems;
        let touched = ["touched.yaml:1:2: still broken", "other.yaml:1:2: clashes"];
        assert_eq!(problems(Repository::open_bare(dir.path()).ok()), touched);
        // Without the mirror nothing says that the commit left the file alone.
        assert_eq!(problems(None).len(), 3);
    }
}

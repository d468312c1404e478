//! A repository with one branch: commits, reverts, rewrites, files that do not parse; and what each daemon knows of it.

use crate::scenario::config_file;
use holdfast_core::engine::Revision;
use holdfast_core::entry::SourceProblem;
use holdfast_core::ids::WorkloadId;
use holdfast_core::manifest::Desired;
use holdfast_core::spec::{TargetSpec, WorkloadSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub const CONFIG_FILES: u64 = 4;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tree {
    pub workloads: BTreeMap<String, WorkloadSpec>,
    pub targets: BTreeMap<String, TargetSpec>,
    /// Workloads whose file does not parse in this tree.
    pub broken: BTreeSet<String>,
}

#[derive(Debug, Clone)]
pub struct Commit {
    pub id: String,
    pub parent: Option<usize>,
    pub tree: Tree,
    pub author: String,
}

#[derive(Default)]
pub struct Git {
    pub commits: Vec<Commit>,
    pub tip: Option<usize>,
    pub away_until: u64,
}

pub fn workload_id(name: &str) -> WorkloadId {
    WorkloadId::new("main", name).expect("a valid name")
}

impl Git {
    pub fn tree(&self) -> Tree {
        self.tip.map(|tip| self.commits[tip].tree.clone()).unwrap_or_default()
    }

    /// A commit on the tip; `rewrite`: on the tip's parent instead, so that the branch is no fast-forward.
    pub fn commit(&mut self, tree: Tree, author: &str, rewrite: bool) {
        let parent = match self.tip {
            Some(tip) if rewrite => self.commits[tip].parent,
            tip => tip,
        };
        let id = format!("{:040x}", self.commits.len() + 1);
        self.commits.push(Commit {
            id,
            parent,
            tree,
            author: author.to_owned(),
        });
        self.tip = Some(self.commits.len() - 1);
    }

    fn find(&self, id: &str) -> Option<usize> {
        self.commits.iter().position(|commit| commit.id == id)
    }

    /// Commits from the tip back to `known`, without it; none when `known` is not an ancestor.
    fn since(&self, known: Option<usize>) -> Option<Vec<usize>> {
        let mut path = Vec::new();
        let mut at = self.tip;
        while at != known {
            let commit = at?;
            path.push(commit);
            at = self.commits[commit].parent;
        }
        Some(path)
    }

    /// What a fetch hands to the engine; none when there is nothing new.
    pub fn fetch(&self, known: Option<&str>, first_look: bool, accepted: Option<&str>) -> Option<Revision> {
        let tip = &self.commits[self.tip?];
        if known == Some(&tip.id) && !first_look {
            return None;
        }
        let since = self.since(known.and_then(|known| self.find(known)));
        let fast_forward = since.is_some();
        let adopted = fast_forward || accepted == Some(&tip.id);
        let mut revision = Revision {
            reference: "refs/heads/main".into(),
            commit: tip.id.clone(),
            old: known.map(str::to_owned),
            fast_forward,
            adopted,
            signer: "unverified".into(),
            author: email(&tip.author),
            contributors: since
                .into_iter()
                .flatten()
                .map(|at| email(&self.commits[at].author))
                .collect(),
            ..Revision::default()
        };
        revision.contributors.insert(email(&tip.author));
        if !adopted {
            return Some(revision);
        }
        let tree = &tip.tree;
        let readable = |name: &String| !tree.broken.contains(name);
        let good = tree.workloads.iter().filter(|(name, _)| readable(name));
        let workloads = good.map(|(name, spec)| (workload_id(name), Arc::new(spec.clone())));
        // Of some files not even the name of what they hold can be read.
        let named = !tip.id.ends_with(['0', '4', '8', 'c']);
        let unknown = tree.broken.iter().filter(|_| named);
        revision.desired = Arc::new(Desired {
            workloads: workloads.collect(),
            targets: tree.targets.clone(),
            unknown_workloads: unknown.map(|name| workload_id(name)).collect(),
            absence_proven: tree.broken.is_empty(),
            ..Desired::default()
        });
        revision.problems = tree.broken.iter().map(|name| problem(name)).collect();
        revision.blobs = (0..CONFIG_FILES).map(config_file).collect();
        Some(revision)
    }
}

/// Salted hash of a person's e-mail address.
pub fn email(person: &str) -> String {
    format!("hash-of-{person}")
}

fn problem(name: &str) -> SourceProblem {
    SourceProblem {
        code: "yaml".into(),
        file: format!("{name}.yaml"),
        line: 1,
        column: 1,
        message: "does not parse".into(),
    }
}

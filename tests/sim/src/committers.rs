//! What committers do to the repository.

use crate::git::{CONFIG_FILES, Tree};
use crate::options::{Fault, Feature, has};
use crate::people::PEOPLE;
use crate::registry::{GOOD_FROM, Quality};
use crate::scenario::{config_file, reference, strategy};
use crate::world::World;
use holdfast_core::ids::Digest;
use holdfast_core::spec::{ArtifactSpec, SecretRef, Targets, WorkloadSpec};

fn tag_of(spec: &WorkloadSpec) -> Option<&str> {
    spec.artifacts.get("main")?.reference()
}

impl World {
    /// A commit like any other day's.
    pub(crate) fn commit(&mut self) {
        let author = *self.random.pick(&PEOPLE).unwrap_or(&"alice");
        let mut tree = self.git.tree();
        if self.git.tip.is_none() {
            tree = self.first_tree();
        } else {
            tree.broken.clear();
            self.change(&mut tree);
        }
        let rewrite = self.git.commits.len() > 1 && self.faults.strikes(Fault::GitRewrite, 8);
        self.tell(|| format!("{author} commits{}", if rewrite { ", rewriting the branch" } else { "" }));
        self.git.commit(tree, author, rewrite);
        self.poke();
    }

    fn first_tree(&self) -> Tree {
        Tree {
            workloads: self.scenario.workloads.clone(),
            targets: self
                .scenario
                .places
                .iter()
                .map(|(name, place)| (name.clone(), place.spec()))
                .collect(),
            ..Tree::default()
        }
    }

    fn change(&mut self, tree: &mut Tree) {
        let names: Vec<String> = self.scenario.workloads.keys().cloned().collect();
        let Some(name) = self.random.pick(&names).cloned() else {
            return;
        };
        if self.faults.strikes(Fault::GitBroken, 12) {
            let other = self.faults.below(Fault::GitBroken, names.len() as u64) as usize;
            tree.broken.insert(names[other].clone());
        }
        if self.faults.strikes(Fault::GitRevert, 20) {
            return self.revert(tree, &name);
        }
        if self.faults.strikes(Fault::Reshaped, 25) {
            return self.reshape(tree, &name);
        }
        if self.random.chance(15) {
            // One commit changes every workload.
            for name in &names {
                self.bump(tree, name);
            }
        }
        let original = self.scenario.workloads[&name].clone();
        let strategy = strategy(&mut self.random, &self.scenario.places);
        let drawn = self.random.below(20);
        let number = self.random.below(4);
        let spec = tree.workloads.entry(name.clone()).or_insert(original);
        match drawn {
            0 | 1 => spec.strategy = strategy,
            2 => spec.instances = 1 + number as u32,
            3 => spec.attempt += 1,
            4 => {
                spec.secrets = vec![SecretRef {
                    name: "db".into(),
                    version: number.to_string(),
                }];
            }
            5 => {
                spec.files.insert("app.toml".into(), config_file(number % CONFIG_FILES).0);
            }
            6 if has(Feature::Suspend) => spec.suspend = !spec.suspend,
            7 if has(Feature::Standby) => spec.standby = number as u32 % 3,
            _ => self.bump(tree, &name),
        }
    }

    /// Another version; of what a selector follows, one appears in the registry.
    fn bump(&mut self, tree: &mut Tree, name: &str) {
        let version = self.random.between(1, 24);
        self.registry.publish(&reference(name, version));
        if let Some(spec) = tree.workloads.get_mut(name)
            && tag_of(spec).is_some()
        {
            spec.artifacts
                .insert("main".into(), ArtifactSpec::Reference(reference(name, version)));
        }
    }

    /// Back to what the workload was in an older commit.
    fn revert(&mut self, tree: &mut Tree, name: &str) {
        let at = self.random.below(self.git.commits.len() as u64) as usize;
        if let Some(spec) = self.git.commits[at].tree.workloads.get(name) {
            tree.workloads.insert(name.to_owned(), spec.clone());
        }
    }

    fn reshape(&mut self, tree: &mut Tree, name: &str) {
        let sites: Vec<String> = self.scenario.places.keys().cloned().collect();
        let Some(site) = self.random.pick(&sites).cloned() else {
            return;
        };
        match self.random.below(8) {
            0 | 1 => {
                if tree.workloads.remove(name).is_none() {
                    tree.workloads.insert(name.to_owned(), self.scenario.workloads[name].clone());
                }
            }
            2 => {
                if tree.targets.remove(&site).is_none() {
                    tree.targets.insert(site.clone(), self.scenario.places[&site].spec());
                }
            }
            3 | 4 => {
                let host = self.random.below(3).to_string();
                if let Some(target) = tree.targets.get_mut(&site) {
                    target.values.insert("host".into(), host);
                }
            }
            5 => {
                let env = if self.random.chance(50) { "a" } else { "b" };
                if let Some(target) = tree.targets.get_mut(&site) {
                    target.labels.insert("env".into(), env.into());
                }
            }
            _ => {
                let count = 1 + self.random.below(sites.len() as u64) as usize;
                if let Some(spec) = tree.workloads.get_mut(name) {
                    spec.placement.targets = Targets::Names(sites.into_iter().take(count).collect());
                }
            }
        }
    }

    /// The last word: everything is there, parses, and is good. With the registry gone for good, it is a version that the
    /// ledger has pinned already.
    pub(crate) fn last_commit(&mut self) {
        let mut tree = self.git.tree();
        if self.git.tip.is_none() {
            tree = self.first_tree();
        }
        tree.broken.clear();
        for (name, place) in &self.scenario.places {
            tree.targets.entry(name.clone()).or_insert_with(|| place.spec());
        }
        for (name, original) in self.scenario.workloads.clone() {
            let gone = !tree.workloads.contains_key(&name) && self.random.chance(50);
            if gone {
                continue;
            }
            let proven = self.proven_reference(&name);
            let spec = tree.workloads.entry(name.clone()).or_insert(original);
            spec.suspend = false;
            let good = reference(&name, GOOD_FROM + self.git.commits.len() as u64);
            if tag_of(spec).is_none() {
                if !self.scenario.registry_lost {
                    self.registry.publish(&good);
                }
                continue;
            }
            match proven {
                Some(back) if self.scenario.registry_lost => {
                    spec.artifacts.insert("main".into(), ArtifactSpec::Reference(back));
                }
                _ => {
                    self.registry.publish(&good);
                    spec.artifacts.insert("main".into(), ArtifactSpec::Reference(good));
                }
            }
        }
        self.tell(|| "the last commit".to_owned());
        self.git.commit(tree, "alice", false);
        self.poke();
    }

    /// A reference whose bytes were stable on every target.
    fn proven_reference(&self, name: &str) -> Option<String> {
        let state = self.daemons.first()?.engine.state();
        let workload = state.workloads.get(&crate::git::workload_id(name))?;
        let proven = workload.proven.iter().rev().filter_map(|release| self.releases.get(release));
        let good = |digest: &&Digest| self.registry.quality(digest) == Quality::Good;
        let digests: Vec<_> = proven
            .filter_map(|release| release.artifacts.get("main"))
            .filter(good)
            .collect();
        let mut pinned = workload.pins.iter();
        pinned
            .find(|(_, pin)| digests.contains(&&pin.digest))
            .map(|(reference, _)| reference.clone())
    }
}

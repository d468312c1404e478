//! Invariant 11: absence must be proven, and what removes much waits for a person.

use super::{Check, Oracle, Truth};
use holdfast_core::entry::*;
use holdfast_core::target::Verb;

impl Oracle {
    pub(super) fn absence(&self, entry: &Entry, truth: &Truth) -> Check {
        match &entry.body {
            Body::Spec(Spec {
                commit,
                object:
                    SpecObject::Workload {
                        presence: Presence::Absent,
                        ..
                    },
            }) => {
                let Some(commit) = truth.git.commits.iter().find(|known| known.id == *commit) else {
                    return Err("invariant 11: a removal by a commit that does not exist".into());
                };
                let name = entry.on.workload.as_ref().map_or("", |id| id.name());
                if !commit.tree.broken.is_empty() || commit.tree.workloads.contains_key(name) {
                    return Err(format!(
                        "invariant 11: {name} counts as removed, and its absence is not proven"
                    ));
                }
                Ok(())
            }
            Body::Attempt(AttemptChange::Phase {
                to: PhaseName::Leaving, ..
            }) => self.leaves(entry),
            Body::Intent(Intent {
                verb: Verb::Retire { last: true, generation },
                ..
            }) => {
                let (Some(id), Some(target)) = (&entry.on.workload, &entry.on.target) else {
                    return Ok(());
                };
                let Some(unit) = self.facts.unit(id, target) else {
                    return Ok(());
                };
                let first_undone = unit.current.is_none()
                    && unit.phase == Some(PhaseName::Undoing)
                    && unit.attempt.as_ref().is_some_and(|attempt| attempt.generation == *generation);
                // Something that came back where nothing is wanted.
                let unwanted = self
                    .facts
                    .workloads
                    .get(id)
                    .is_some_and(|workload| !self.facts.placed(workload).contains(&target.as_str()));
                let stray = unit.attempt.is_none() && unit.current.is_none() && unwanted;
                if unit.phase == Some(PhaseName::Leaving) || first_undone || stray {
                    return Ok(());
                }
                Err(format!(
                    "invariant 11: the last of {id} is taken from {target} although it is wanted"
                ))
            }
            _ => Ok(()),
        }
    }

    fn leaves(&self, entry: &Entry) -> Check {
        let (Some(id), Some(target)) = (&entry.on.workload, &entry.on.target) else {
            return Ok(());
        };
        let Some(workload) = self.facts.workloads.get(id) else {
            return Ok(());
        };
        if workload.held.contains(target) {
            return Err(format!("invariant 11: {id} leaves {target} although the removal is held"));
        }
        if self.facts.targets.get(target).is_none_or(|target| !target.present) {
            return Err(format!("section 4: {id} leaves {target}, which is orphaned"));
        }
        if self.facts.placed(workload).contains(&target.as_str()) {
            return Err(format!("invariant 11: {id} leaves {target} although it is placed there"));
        }
        Ok(())
    }
}

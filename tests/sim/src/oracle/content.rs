//! Invariant 1: a commit deploys the same bytes for ever. Invariant 2: replace, never patch. Invariant 5: authority is
//! granted by name.

use super::{Check, Oracle, Truth};
use holdfast_core::entry::*;
use holdfast_core::ids::Digest;
use holdfast_core::target::Verb;

impl Oracle {
    pub(super) fn content(&self, entry: &Entry, truth: &Truth) -> Check {
        let Some(id) = &entry.on.workload else { return Ok(()) };
        let workload = self.facts.workloads.get(id);
        match &entry.body {
            Body::Pin(pin) => {
                let known = workload.and_then(|workload| workload.pins.get(&pin.reference));
                let asked = workload.is_some_and(|workload| workload.repins.contains(&pin.reference));
                if known.is_some() && !asked {
                    return Err(format!("invariant 1: {} is pinned a second time", pin.reference));
                }
            }
            Body::Rollout(change) => {
                let Some(workload) = workload else { return Ok(()) };
                let Some(spec) = workload.spec.as_ref().filter(|_| entry.on.rollout == Some(workload.spec_seq)) else {
                    return Ok(());
                };
                for (name, digest) in &change.artifacts {
                    let pinned = spec
                        .artifacts
                        .get(name)
                        .and_then(|artifact| artifact.reference())
                        .map(|text| workload.pins.get(text));
                    if pinned.is_some_and(|pinned| pinned != Some(digest)) {
                        return Err(format!("invariant 1: artifact {name} is {}, not as pinned", digest.short()));
                    }
                }
                if let Some(release) = truth.releases.get(&change.release)
                    && (release.template != spec.template || release.files != spec.files || release.secrets != spec.secrets)
                {
                    return Err("invariant 1: the release is not what its commit says".into());
                }
            }
            Body::Attempt(AttemptChange::Began {
                generation,
                release,
                revived,
                ..
            }) => {
                let unit = entry.on.target.as_ref().and_then(|target| self.facts.unit(id, target));
                let Some(unit) = unit else { return Ok(()) };
                if *revived {
                    let same = unit
                        .generations
                        .get(generation)
                        .is_some_and(|known| known.release == *release);
                    if !same || !unit.parked.contains(generation) {
                        return Err(format!(
                            "invariant 2: generation {generation} is revived and was not parked so"
                        ));
                    }
                } else if *generation <= unit.highest {
                    return Err(format!("invariant 2: generation number {generation} is used again"));
                }
            }
            Body::Intent(intent) => {
                let granted = intent.plugin.digest == Digest::of(b"plugin") && intent.plugin.grants == Digest::of(b"grants");
                if !granted {
                    return Err("invariant 5: the intent's plugin or grants are not what the operator configured".into());
                }
                let unit = entry.on.target.as_ref().and_then(|target| self.facts.unit(id, target));
                if let Verb::Launch { generation, .. } = &intent.verb
                    && let Some(unit) = unit
                    && unit.attempt.as_ref().is_none_or(|attempt| attempt.generation != *generation)
                {
                    return Err(format!(
                        "invariant 2: generation {generation} is launched and is no candidate"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

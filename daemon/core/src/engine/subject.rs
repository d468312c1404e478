//! What the shell needs to build a plugin's `generation` record: names and hashes from State. The contents are blobs.

use crate::ids::{Digest, GenNumber, ReleaseId, Seq, WorkloadId, deploy_id, hex};
use crate::state::State;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub workload: WorkloadId,
    pub target: String,
    pub number: GenNumber,
    pub release: ReleaseId,
    /// Where each artifact is, without tag or digest.
    pub sources: BTreeMap<String, String>,
    /// Blob that lists each artifact's images.
    pub images: BTreeMap<String, Digest>,
    /// Blob of the target's config and values when the attempt began.
    pub captured: Digest,
    pub attempt: Seq,
    pub deploy_id: String,
    pub commit: String,
    pub drain_ms: u32,
}

impl State {
    /// A generation that was forgotten and reappeared has the content of what the unit knows: only its number matters then.
    pub fn subject(&self, workload: &WorkloadId, target: &str, number: GenNumber) -> Option<Subject> {
        let state = self.workloads.get(workload)?;
        let unit = state.units.get(target)?;
        let known = unit
            .generations
            .get(&number)
            .or_else(|| unit.generations.values().next_back());
        let (release_id, captured, attempt, commit) = match known {
            Some(known) => (&known.release, &known.captured, known.attempt, known.commit.clone()),
            None => {
                let last = unit.last.as_ref()?;
                (&last.release, &last.captured, last.id, String::new())
            }
        };
        let release = state.releases.get(release_id)?;
        Some(Subject {
            workload: workload.clone(),
            target: target.to_owned(),
            number,
            release: release_id.clone(),
            sources: release.sources.clone(),
            images: release.images.clone(),
            captured: captured.clone(),
            attempt,
            deploy_id: deploy_id(self.epoch, attempt),
            commit,
            drain_ms: state
                .spec
                .as_ref()
                .map_or(0, |spec| u32::try_from(spec.drain_ms).unwrap_or(u32::MAX)),
        })
    }
}

/// Up to 20 of a-z0-9-: the workload's name, or the beginning of it and a hash of its whole identity.
pub fn workload_key(workload: &WorkloadId) -> String {
    const LONGEST: usize = 20;
    let name = workload.name();
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let hash = hex(&Sha256::digest(workload.as_str().as_bytes()));
    format!("{}-{}", name[..11].trim_end_matches('-'), &hash[..8])
}

/// Names a generation's objects on its target.
pub fn generation_name(workload: &WorkloadId, number: GenNumber) -> String {
    format!("{}-g{number}", workload_key(workload))
}

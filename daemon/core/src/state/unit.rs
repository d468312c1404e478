//! What is remembered of one unit: its generations, the attempt under way and the open intent.

use crate::entry::{AttemptOutcome, DriftKind, PhaseName};
use crate::ids::{Digest, GenNumber, Millis, ReleaseId, Seq};
use crate::target::{Abilities, FaultClass, PluginRef, Verb};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    pub next_generation: GenNumber,
    pub generations: BTreeMap<GenNumber, GenState>,
    pub current: Option<GenNumber>,
    pub phase: PhaseName,
    pub phase_t: Millis,
    pub attempt: Option<AttemptState>,
    pub last: Option<LastAttempt>,
    pub intent: Option<OpenIntent>,
    /// The last `result` entry: an observation counts only if it was begun after it.
    pub last_result: Seq,
    /// Faults in a row since the last verb that was done.
    pub faults: u32,
    pub last_fault: Option<(FaultClass, String)>,
    pub last_fault_t: Millis,
    /// It would leave, but its revision removes more than the limit allows.
    pub held: bool,
    /// Generations kept at size 0 for a way back, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parked: Vec<GenNumber>,
    /// When drift here was healed, within the last hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heals: Vec<Millis>,
    /// What was written down about drift and is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftState>,
    /// The limit on heals of this unit was reached: since this entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heal_guard: Option<Seq>,
    /// What was proven here, with the target's captured values and config; newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proven: Vec<(ReleaseId, Digest)>,
}

impl Default for UnitState {
    fn default() -> Self {
        Self {
            next_generation: 1,
            generations: BTreeMap::new(),
            current: None,
            phase: PhaseName::Absent,
            phase_t: 0,
            attempt: None,
            last: None,
            intent: None,
            last_result: 0,
            faults: 0,
            last_fault: None,
            last_fault_t: 0,
            held: false,
            parked: Vec::new(),
            heals: Vec::new(),
            drift: None,
            heal_guard: None,
            proven: Vec::new(),
        }
    }
}

impl UnitState {
    pub fn current(&self) -> Option<&GenState> {
        self.generations.get(&self.current?)
    }

    /// Something of this release is here, or was the last that was tried.
    pub fn knows(&self, release: &ReleaseId) -> bool {
        self.generations.values().any(|generation| generation.release == *release)
            || self.last.as_ref().is_some_and(|last| last.release == *release)
    }

    pub fn has_proven(&self, release: &ReleaseId, captured: &Digest) -> bool {
        self.proven.iter().any(|(r, c)| r == release && c == captured)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftState {
    pub what: DriftKind,
    pub seen: String,
    pub seq: Seq,
    pub t: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenState {
    pub release: ReleaseId,
    /// Blob of the target's `config` and `values` as captured by the attempt.
    pub captured: Digest,
    pub plugin: PluginRef,
    pub attempt: Seq,
    pub commit: String,
    /// A launch intent exists: something may be on the target.
    pub launched: bool,
    pub fingerprint: String,
    pub since: Millis,
    /// The size that it was given last.
    #[serde(default)]
    pub size: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abilities: Option<Abilities>,
}

impl GenState {
    pub fn can(&self) -> Abilities {
        self.abilities.clone().unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptState {
    /// The entry that began it.
    pub id: Seq,
    pub request: Seq,
    pub release: ReleaseId,
    pub captured: Digest,
    pub generation: GenNumber,
    pub old: Option<GenNumber>,
    pub began: Millis,
    pub launch_t: Millis,
    /// A launch was answered with done.
    pub launched: bool,
    /// The weight that was read back, and since when.
    pub weight: u32,
    pub weight_t: Millis,
    /// Hold and analysis are over at this weight.
    pub passed: Option<u32>,
    /// A bad verdict that waits for a person (`rollback: manual`).
    pub judged: Option<(String, String)>,
    /// With phase undoing: how it will end.
    pub undo: Option<(AttemptOutcome, String, String)>,
    pub explained: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abilities: Option<Abilities>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revived: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub heal: bool,
}

impl AttemptState {
    /// What this release can do here. An attempt from before abilities were recorded was admitted for the whole of them.
    pub fn can(&self) -> Abilities {
        self.abilities.clone().unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastAttempt {
    pub id: Seq,
    pub request: Seq,
    pub release: ReleaseId,
    pub captured: Digest,
    pub outcome: AttemptOutcome,
    pub reason: String,
    pub message: String,
    pub t: Millis,
    /// The entry that ended it.
    pub seq: Seq,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenIntent {
    pub seq: Seq,
    pub verb: Verb,
    pub plugin: PluginRef,
    pub tries: u32,
    pub since: Millis,
    pub last_t: Millis,
    pub last_fault: Option<(FaultClass, String)>,
}

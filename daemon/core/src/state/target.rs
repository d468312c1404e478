//! What is remembered of one target.

use super::Frozen;
use crate::entry::Presence;
use crate::ids::{Digest, Millis, Seq};
use crate::spec::TargetSpec;
use serde::{Deserialize, Serialize};
use std::ops::Deref;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetState {
    pub spec: Option<KnownTarget>,
    pub presence: Option<Presence>,
    pub seq: Seq,
    /// When its manifest last changed or went.
    #[serde(default)]
    pub changed_t: Millis,
    pub claim: Claim,
    pub unreachable: Option<String>,
    /// Ledger time at which it was written down that the target is away.
    #[serde(default)]
    pub unreachable_t: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Frozen>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    #[default]
    Unseen,
    Ours,
    Conflict(String),
    /// It has seen this fence, which is above our head.
    Ahead(u64),
}

impl TargetState {
    /// Its manifest, unless it was removed from Git.
    pub fn present(&self) -> Option<&KnownTarget> {
        self.spec.as_ref().filter(|_| self.presence != Some(Presence::Absent))
    }
}

/// A target's manifest with the hash of what a launch captures of it, which every plan asks for. In JSON the manifest alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "TargetSpec", into = "TargetSpec")]
pub struct KnownTarget {
    spec: TargetSpec,
    captured: Digest,
}

impl KnownTarget {
    pub fn captured(&self) -> &Digest {
        &self.captured
    }
}

impl From<TargetSpec> for KnownTarget {
    fn from(spec: TargetSpec) -> Self {
        let captured = Digest::of(&spec.captured_bytes());
        Self { spec, captured }
    }
}

impl From<KnownTarget> for TargetSpec {
    fn from(known: KnownTarget) -> Self {
        known.spec
    }
}

impl Deref for KnownTarget {
    type Target = TargetSpec;
    fn deref(&self) -> &TargetSpec {
        &self.spec
    }
}

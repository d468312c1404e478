//! What is remembered of one target.

use super::Frozen;
use crate::entry::Presence;
use crate::ids::{Millis, Seq};
use crate::spec::TargetSpec;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetState {
    pub spec: Option<TargetSpec>,
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

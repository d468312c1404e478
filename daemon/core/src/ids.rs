//! Names and numbers that cross every seam, each with one spelling and one check.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// Position of an entry in the ledger: its leaf index in the Merkle tree, from 0, without gaps.
pub type Seq = u64;

/// Ledger time in milliseconds. Never decreases and does not run while the daemon is down.
pub type Millis = u64;

/// Number of a generation of one unit. Never reused, not even after a failed launch.
pub type GenNumber = u32;

/// Shares and weights are in 1/10000 of a workload's traffic.
pub const FULL_SHARE: u32 = 10_000;

const EPOCH_FACTOR: u64 = 1 << 40;

/// The number by which an effect is fenced outside the ledger: `epoch * 2^40 + seq`, so that a ledger begun anew after a
/// loss never falls behind what targets have seen. Epochs begin at 1, so 0 is never a fence.
pub fn fence(epoch: u64, seq: Seq) -> u64 {
    epoch * EPOCH_FACTOR + seq
}

/// The epoch and sequence number inside a fence.
pub fn unfence(fence: u64) -> (u64, Seq) {
    (fence / EPOCH_FACTOR, fence % EPOCH_FACTOR)
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct IdError {
    pub what: &'static str,
    pub text: String,
    pub rule: &'static str,
}

/// A `sha256:` digest as OCI writes it: lower-case hex.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(format!("sha256:{}", hex(&Sha256::digest(bytes))))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hex digits after `sha256:`.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// What people see in tables.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        match text.strip_prefix("sha256:") {
            Some(hex) if is_hex64(hex) => Ok(Self(text)),
            _ => Err(IdError {
                what: "digest",
                text,
                rule: "sha256: and 64 lower-case hex digits",
            }),
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl std::str::FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::try_from(text.to_owned())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for half in bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]) {
        text.push(char::from(DIGITS[usize::from(half)]));
    }
    text
}

/// Identity of a release: SHA-256 of its canonical JSON, as 64 hex digits. The release's blob has the same hash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseId(String);

impl ReleaseId {
    pub fn of(canonical: &[u8]) -> Self {
        Self(hex(&Sha256::digest(canonical)))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
    /// The digest of the blob that holds this release.
    pub fn blob(&self) -> Digest {
        Digest(format!("sha256:{}", self.0))
    }
}

impl TryFrom<String> for ReleaseId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        if is_hex64(&text) {
            Ok(Self(text))
        } else {
            Err(IdError {
                what: "release id",
                text,
                rule: "64 lower-case hex digits",
            })
        }
    }
}

impl From<ReleaseId> for String {
    fn from(id: ReleaseId) -> String {
        id.0
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// A workload: repository alias and name, as in `main/payment-api`. Never its path, so that files may move.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadId(String);

impl WorkloadId {
    pub fn new(repository: &str, name: &str) -> Result<Self, IdError> {
        Self::try_from(format!("{repository}/{name}"))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, name)| name)
    }
}

impl TryFrom<String> for WorkloadId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        match text.split_once('/') {
            Some((repository, name)) if is_name(repository) && is_name(name) => Ok(Self(text)),
            _ => Err(IdError {
                what: "workload",
                text,
                rule: "REPOSITORY/NAME, each of a-z, 0-9 and -, a letter first, at most 63",
            }),
        }
    }
}

impl From<WorkloadId> for String {
    fn from(id: WorkloadId) -> String {
        id.0
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a target, as in its manifest.
pub type TargetName = String;

/// Names of workloads, targets and artifacts: a-z, 0-9 and -, a letter first, no - at the end, at most 63.
pub fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes[0].is_ascii_lowercase()
        && bytes[bytes.len() - 1] != b'-'
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// A workload on a target: what is replaced, proven and undone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnitId {
    pub workload: WorkloadId,
    pub target: TargetName,
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.workload, self.target)
    }
}

impl fmt::Debug for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Name of one attempt, as it appears in labels, logs and metrics: `d1-812` is the attempt of entry 812 in epoch 1.
pub fn deploy_id(epoch: u64, attempt: Seq) -> String {
    format!("d{epoch}-{attempt}")
}

/// The attempt's sequence number in a deploy id of any epoch.
pub fn parse_deploy_id(text: &str) -> Option<(u64, Seq)> {
    let (epoch, seq) = text.strip_prefix('d')?.split_once('-')?;
    Some((epoch.parse().ok()?, seq.parse().ok()?))
}

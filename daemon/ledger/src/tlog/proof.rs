//! C2SP tlog-proof: one entry's place in the log, provable offline from the entry, this text and the log's key.

use super::checkpoint::{CheckpointError, SignedCheckpoint, hash_line, parse_hash};
use super::note::VerifierKey;
use super::witness::{Policy, PolicyError};
use super::{from_base64, parse_decimal, to_base64};
use crate::merkle::{self, Hash, leaf_hash};
use std::fmt;
use std::str::FromStr;

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
const PATH_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error("this is not a tlog-proof: {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("the entry is not the one with number {index} of the log {origin:?} as of {size} entries")]
    NotIncluded { index: u64, origin: String, size: u64 },
}

/// `Display` and `FromStr` are the text of a `.tlog-proof` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// Opaque, and vouched for by nobody.
    pub extra: Option<Vec<u8>>,
    pub index: u64,
    /// From the leaf's sibling up.
    pub path: Vec<Hash>,
    /// The signed note, whole.
    pub checkpoint: String,
}

impl TlogProof {
    /// Checks signature, cosignatures and path for an entry's bytes; gives the checkpoint that they hold under.
    pub fn verify(&self, entry: &[u8], keys: &[VerifierKey], policy: &Policy) -> Result<SignedCheckpoint, ProofError> {
        let signed = SignedCheckpoint::open(self.checkpoint.as_bytes(), keys)?;
        policy.check(&signed.note)?;
        let head = &signed.checkpoint;
        if !merkle::verify_inclusion(leaf_hash(entry), self.index, head.size, &self.path, &head.root) {
            return Err(ProofError::NotIncluded {
                index: self.index,
                origin: head.origin.clone(),
                size: head.size,
            });
        }
        Ok(signed)
    }
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", to_base64(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", hash_line(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for TlogProof {
    type Err = ProofError;

    fn from_str(text: &str) -> Result<Self, ProofError> {
        let malformed = ProofError::Malformed;
        let (head, checkpoint) = text
            .split_once("\n\n")
            .ok_or(malformed("it has no empty line before a checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(FIRST_LINE) {
            return Err(malformed("its first line is another"));
        }
        let extra = match lines.next_if(|line| line.starts_with("extra ")) {
            Some(line) => Some(from_base64(&line["extra ".len()..]).ok_or(malformed("its extra data is no base64"))?),
            None => None,
        };
        let index = lines
            .next()
            .and_then(|line| line.strip_prefix("index "))
            .and_then(parse_decimal);
        let path: Option<Vec<Hash>> = lines.map(parse_hash).collect();
        Ok(Self {
            extra,
            index: index.ok_or(malformed("it has no index"))?,
            path: path
                .filter(|path| path.len() <= PATH_MAX)
                .ok_or(malformed("a line of its path is no hash"))?,
            checkpoint: checkpoint.to_owned(),
        })
    }
}

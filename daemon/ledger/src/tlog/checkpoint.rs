//! C2SP checkpoint: the tree's size and root under the log's name, as the text of a signed note.

use super::note::{KeyKind, Note, NoteError, SignerKey, VerifierKey};
use super::{from_base64, parse_decimal, to_base64};
use crate::merkle::Hash;
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error("reading the checkpoint's signatures")]
    Note(#[from] NoteError),
    #[error("this is not a checkpoint: {0}")]
    Malformed(&'static str),
    #[error("the checkpoint is of the log {found:?}, and signed by none of the keys given")]
    NoKey { found: String },
}

/// `Display` is the text that is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
}

impl Checkpoint {
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let malformed = CheckpointError::Malformed;
        let body = text.strip_suffix('\n').ok_or(malformed("it does not end in a newline"))?;
        let mut lines = body.split('\n');
        let origin = lines
            .next()
            .filter(|line| !line.is_empty())
            .ok_or(malformed("it names no log"))?;
        let size = lines
            .next()
            .and_then(parse_decimal)
            .ok_or(malformed("its second line is no size"))?;
        let root = lines
            .next()
            .and_then(parse_hash)
            .ok_or(malformed("its third line is no root"))?;
        if lines.next().is_some() {
            // Allowed, not recommended: nobody could tell what an extension line vouches for.
            return Err(malformed("it has extension lines"));
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
        })
    }
}

pub fn parse_hash(line: &str) -> Option<Hash> {
    from_base64(line)?.try_into().ok()
}

pub fn hash_line(hash: &Hash) -> String {
    to_base64(hash)
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, hash_line(&self.root))
    }
}

/// A checkpoint whose signature by a log key was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    pub checkpoint: Checkpoint,
    /// With every signature that it came with.
    pub note: Note,
    pub signed_by: VerifierKey,
}

impl SignedCheckpoint {
    pub fn sign(key: &SignerKey, size: u64, root: Hash) -> Self {
        let checkpoint = Checkpoint {
            origin: key.verifier().name().to_owned(),
            size,
            root,
        };
        Self {
            note: Note::sign(checkpoint.to_string(), &[key]),
            checkpoint,
            signed_by: key.verifier().clone(),
        }
    }

    /// One of `keys` must have signed it, under the log's name or that of a later epoch of it.
    pub fn open(bytes: &[u8], keys: &[VerifierKey]) -> Result<Self, CheckpointError> {
        let note = Note::parse(bytes)?;
        let checkpoint = Checkpoint::parse(&note.text)?;
        for key in keys.iter().filter_map(|key| key_of(key, &checkpoint.origin)) {
            match note.verify(&key) {
                Ok(_) => {
                    return Ok(Self {
                        checkpoint,
                        note,
                        signed_by: key,
                    });
                }
                Err(NoteError::NotSigned) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CheckpointError::NoKey {
            found: checkpoint.origin,
        })
    }
}

/// The name of a log's epoch: the plain name first, then `NAME/EPOCH`. After a loss the same name must never vouch for two trees.
pub fn origin(name: &str, epoch: u64) -> String {
    if epoch <= 1 {
        name.to_owned()
    } else {
        format!("{name}/{epoch}")
    }
}

/// The epoch that `origin` names of the log `name`; none when it is another log's.
pub fn epoch_of(name: &str, origin: &str) -> Option<u64> {
    match origin.strip_prefix(name)? {
        "" => Some(1),
        rest => parse_decimal(rest.strip_prefix('/')?).filter(|epoch| *epoch > 1),
    }
}

/// The log's key under the name of the epoch that `origin` names; none when that is another log.
pub fn key_of(key: &VerifierKey, origin: &str) -> Option<VerifierKey> {
    (key.kind() == KeyKind::Log && epoch_of(key.name(), origin).is_some())
        .then(|| key.renamed(origin).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification() {
        let text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let checkpoint = Checkpoint::parse(text).unwrap();
        assert_eq!(checkpoint.size, 20_852_163);
        assert_eq!(checkpoint.origin, "example.com/behind-the-sofa");
        assert_eq!(checkpoint.to_string(), text);
        for bad in [
            "",
            "\n",
            "a\n1\n",
            "\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
            "a\n01\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
            "a\n+1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
            "a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxqw==\n",
            "a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=",
            "a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\nmore\n",
        ] {
            assert!(Checkpoint::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_checkpoint_is_believed_from_its_logs_key_only() {
        let key = SignerKey::new("ledger.example/prod", KeyKind::Log, [1; 32]).unwrap();
        let other = SignerKey::new("ledger.example/prod", KeyKind::Log, [2; 32]).unwrap();
        let renamed = key.renamed("ledger.example/test").unwrap();
        let signed = SignedCheckpoint::sign(&key, 9, [7; 32]);
        let bytes = signed.note.to_string().into_bytes();
        assert_eq!(SignedCheckpoint::open(&bytes, &[key.verifier().clone()]).unwrap(), signed);
        for stranger in [&other, &renamed] {
            assert!(matches!(
                SignedCheckpoint::open(&bytes, &[stranger.verifier().clone()]),
                Err(CheckpointError::NoKey { .. })
            ));
        }
        // A key that signs under its own name does not speak for another log.
        let foreign = Note::sign(signed.checkpoint.to_string(), &[&renamed]).to_string();
        assert!(SignedCheckpoint::open(foreign.as_bytes(), &[renamed.verifier().clone()]).is_err());
        assert_eq!((origin("a", 1), origin("a", 3)), ("a".to_owned(), "a/3".to_owned()));
        // A later epoch is the same log's, under another name.
        let third = key.renamed("ledger.example/prod/3").unwrap();
        let later = SignedCheckpoint::sign(&third, 9, [7; 32]);
        let opened = SignedCheckpoint::open(later.note.to_string().as_bytes(), &[key.verifier().clone()]).unwrap();
        assert_eq!(opened.signed_by, *third.verifier());
        for (other, epoch) in [
            ("a", Some(1)),
            ("a/2", Some(2)),
            ("a/1", None),
            ("a/02", None),
            ("a/", None),
            ("ab", None),
            ("a/2/2", None),
        ] {
            assert_eq!(epoch_of("a", other), epoch, "{other}");
        }
    }
}

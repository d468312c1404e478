//! A new log key: a statement that both keys sign, and that is an entry of the log. Whoever trusts the old key, and finds the
//! entry in a tree that the old key vouched for, trusts the new one for what comes after it.
//!
//! ```text
//! holdfast.dev/log-key/v1
//! <origin>
//! <vkey of the old key>
//! <vkey of the new key>
//!
//! — <origin> <signature of the old key>
//! — <origin> <signature of the new key>
//! ```

use super::note::{KeyKind, Note, NoteError, SignerKey, VerifierKey};
use holdfast_core::entry::{Body, Entry};
use holdfast_core::state::LogKeyChange;

const FIRST_LINE: &str = "holdfast.dev/log-key/v1";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    pub old: VerifierKey,
    pub new: VerifierKey,
}

impl Rotation {
    fn text(&self) -> String {
        format!("{FIRST_LINE}\n{}\n{}\n{}\n", self.old.name(), self.old, self.new)
    }

    /// The note of the entry.
    pub fn sign(old: &SignerKey, new: &SignerKey) -> Result<String, NoteError> {
        let rotation = Self {
            old: old.verifier().clone(),
            new: new.verifier().clone(),
        };
        rotation.check()?;
        Ok(Note::sign(rotation.text(), &[old, new]).to_string())
    }

    fn check(&self) -> Result<(), NoteError> {
        if self.old.kind() != KeyKind::Log || self.new.kind() != KeyKind::Log {
            return Err(NoteError::Key("only a log key can follow a log key"));
        }
        if self.old.name() != self.new.name() {
            return Err(NoteError::Key("the new key has another name"));
        }
        if self.old.public() == self.new.public() {
            return Err(NoteError::Key("the new key is the old one"));
        }
        Ok(())
    }

    /// Checks both signatures. Whether the old key is to be trusted is for the caller to know.
    pub fn open(note: &str) -> Result<Self, NoteError> {
        let note = Note::parse(note.as_bytes())?;
        let mut lines = note.text.split('\n').skip(2);
        let mut key = || lines.next().unwrap_or_default().parse::<VerifierKey>();
        let rotation = Self {
            old: key()?,
            new: key()?,
        };
        rotation.check()?;
        if rotation.text() != note.text {
            return Err(NoteError::Malformed("it is not a change of keys"));
        }
        note.verify(&rotation.old)?;
        note.verify(&rotation.new)?;
        Ok(rotation)
    }
}

/// The note that an entry of kind `log-key` carries.
pub fn note_of(entry: &Entry) -> Option<&str> {
    match &entry.body {
        Body::LogKey(change) => Some(&change.note),
        _ => None,
    }
}

/// A key that signed this log before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    pub key: VerifierKey,
    /// Number of the entry that replaced it: it vouches for checkpoints of no more entries than that.
    pub replaced: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    #[error("entry {seq} changes the log's key, and its note does not hold")]
    Note { seq: u64, source: NoteError },
    #[error("the log's key is {current} since entry {since}, and this key is {given}: name the file of that key")]
    NotCurrent { current: String, since: u64, given: String },
}

/// The keys before `present`, oldest first, by the changes that the log holds. Refuses a key that the log does not end with.
pub fn former(present: &VerifierKey, changes: &[LogKeyChange]) -> Result<Vec<Former>, RotationError> {
    let mut former = Vec::new();
    for LogKeyChange { seq, note } in changes {
        let opened = Rotation::open(note).map_err(|source| RotationError::Note { seq: *seq, source });
        let Rotation { old, new } = opened?;
        let is_last = former.len() + 1 == changes.len();
        if is_last && new != *present {
            return Err(RotationError::NotCurrent {
                current: new.to_string(),
                since: *seq,
                given: present.to_string(),
            });
        }
        former.push(Former {
            key: old,
            replaced: *seq,
        });
    }
    Ok(former)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_that_the_log_ends_with_is_current() {
        let keys: Vec<SignerKey> = (1..5)
            .map(|byte| SignerKey::new("ledger.example", KeyKind::Log, [byte; 32]).unwrap())
            .collect();
        let changes: Vec<LogKeyChange> = [(7, 0, 1), (9, 1, 2)]
            .map(|(seq, old, new)| LogKeyChange {
                seq,
                note: Rotation::sign(&keys[old], &keys[new]).unwrap(),
            })
            .into();
        let found = former(keys[2].verifier(), &changes).unwrap();
        let replaced: Vec<(&VerifierKey, u64)> = found.iter().map(|former| (&former.key, former.replaced)).collect();
        assert_eq!(replaced, [(keys[0].verifier(), 7), (keys[1].verifier(), 9)]);
        for other in [0, 1, 3] {
            let refused = former(keys[other].verifier(), &changes).unwrap_err();
            assert!(matches!(refused, RotationError::NotCurrent { since: 9, .. }), "{refused}");
        }
        assert_eq!(former(keys[3].verifier(), &[]), Ok(Vec::new()));
    }

    #[test]
    fn both_keys_sign() {
        let key = |name, byte| SignerKey::new(name, KeyKind::Log, [byte; 32]).unwrap();
        let (old, new) = (key("ledger.example", 1), key("ledger.example", 2));
        let note = Rotation::sign(&old, &new).unwrap();
        let rotation = Rotation::open(&note).unwrap();
        assert_eq!((&rotation.old, &rotation.new), (old.verifier(), new.verifier()));
        for bad in [(&old, &old), (&old, &key("other.example", 2))] {
            assert!(Rotation::sign(bad.0, bad.1).is_err());
        }
        // One signature is not enough, whichever it is.
        for key in [&old, &new] {
            let half = Note::sign(rotation.text(), &[key]).to_string();
            assert_eq!(Rotation::open(&half), Err(NoteError::NotSigned));
        }
        for at in 0..note.len() {
            let mut damaged = note.clone().into_bytes();
            damaged[at] ^= 1;
            let opened = String::from_utf8(damaged).ok().and_then(|text| Rotation::open(&text).ok());
            assert_eq!(opened, None, "byte {at}");
        }
    }
}

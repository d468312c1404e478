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
use holdfast_core::entry::Entry;

/// The entry kind whose body `{"note": ...}` carries the statement.
pub const KIND: &str = "log-key";
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
pub fn note_of(entry: &Entry) -> Option<String> {
    if entry.body.kind() != KIND {
        return None;
    }
    let body = serde_json::to_value(&entry.body).ok()?;
    body.get("body")?.get("note")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

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

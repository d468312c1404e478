//! C2SP signed-note: a text, and signatures over it by named Ed25519 keys. A key is written as `vkey` or, secret, as
//! `skey`, as the Go tools write them.

use super::{from_base64, to_base64};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

pub const NOTE_MAX_BYTES: usize = 1 << 20;
const SIGNATURES_MAX: usize = 100;
const SIGNATURE_START: &str = "\u{2014} ";
const SECRET_START: &str = "PRIVATE+KEY+";

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("this is not a signed note: {0}")]
    Malformed(&'static str),
    #[error("this is not a note key: {0}")]
    Key(&'static str),
    #[error("the note is not signed by that key")]
    NotSigned,
    #[error("the note carries a wrong signature of that key")]
    WrongSignature,
}

/// What a key signs, as signed-note numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyKind {
    /// The text itself.
    Log = 1,
    /// A checkpoint and the time it was seen (cosignature/v1).
    Witness = 4,
}

impl KeyKind {
    fn of(byte: u8) -> Option<Self> {
        [KeyKind::Log, KeyKind::Witness].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Names a key and who holds it; `Display` and `FromStr` are its `vkey`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    kind: KeyKind,
    key: VerifyingKey,
}

impl VerifierKey {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Bytes of the public key.
    pub fn public(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    pub fn key_id(&self) -> u32 {
        let hash: [u8; 32] = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', self.kind as u8])
            .chain_update(self.key.as_bytes())
            .finalize()
            .into();
        u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
    }

    /// The same key under another name.
    pub fn renamed(&self, name: &str) -> Result<Self, NoteError> {
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            ..self.clone()
        })
    }

    /// For a witness, the time in seconds that it signed.
    fn check(&self, text: &str, signature: &[u8]) -> Option<Option<u64>> {
        let (time_s, signature, message) = match self.kind {
            KeyKind::Log => (None, signature, text.to_owned()),
            KeyKind::Witness => {
                let (time, signature) = signature.split_at_checked(8)?;
                let time_s = u64::from_be_bytes(time.try_into().ok()?);
                i64::try_from(time_s).ok()?;
                (Some(time_s), signature, cosigned_message(time_s, text))
            }
        };
        let signature = ed25519_dalek::Signature::from_slice(signature).ok()?;
        self.key.verify_strict(message.as_bytes(), &signature).ok()?;
        Some(time_s)
    }
}

fn cosigned_message(time_s: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time_s}\n{text}")
}

fn check_name(name: &str) -> Result<(), NoteError> {
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+') {
        return Err(NoteError::Key(
            "a name is not empty and has no space, control character or '+'",
        ));
    }
    Ok(())
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[self.kind as u8], &self.key.as_bytes()[..]].concat();
        write!(f, "{}+{:08x}+{}", self.name, self.key_id(), to_base64(&key))
    }
}

/// Name, written key id, kind and 32 bytes.
fn parse_key(text: &str) -> Result<(String, String, KeyKind, [u8; 32]), NoteError> {
    let (name, rest) = text.split_once('+').ok_or(NoteError::Key("it has no '+'"))?;
    let (id, key) = rest.split_once('+').ok_or(NoteError::Key("it has one '+' only"))?;
    check_name(name)?;
    let key = from_base64(key).ok_or(NoteError::Key("it does not end in base64"))?;
    let (kind, key) = key.split_first().ok_or(NoteError::Key("it holds no key"))?;
    let kind = KeyKind::of(*kind).ok_or(NoteError::Key("its kind is neither Ed25519 nor cosignature/v1"))?;
    let key = key.try_into().map_err(|_| NoteError::Key("an Ed25519 key has 32 bytes"))?;
    Ok((name.to_owned(), id.to_owned(), kind, key))
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, id, kind, bytes) = parse_key(text)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| NoteError::Key("it is no point of the curve"))?;
        let key = Self { name, kind, key };
        if format!("{:08x}", key.key_id()) != id {
            return Err(NoteError::Key("its id is not that of its name and bytes"));
        }
        Ok(key)
    }
}

/// A secret key. It is never printed; `to_secret_text` is what its file holds.
#[derive(Clone)]
pub struct SignerKey {
    verifier: VerifierKey,
    secret: SigningKey,
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignerKey({})", self.verifier)
    }
}

impl SignerKey {
    pub fn new(name: &str, kind: KeyKind, seed: [u8; 32]) -> Result<Self, NoteError> {
        check_name(name)?;
        let secret = SigningKey::from_bytes(&seed);
        let verifier = VerifierKey {
            name: name.to_owned(),
            kind,
            key: secret.verifying_key(),
        };
        Ok(Self { verifier, secret })
    }

    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    pub fn renamed(&self, name: &str) -> Result<Self, NoteError> {
        Ok(Self {
            verifier: self.verifier.renamed(name)?,
            secret: self.secret.clone(),
        })
    }

    pub fn to_secret_text(&self) -> String {
        let key = [&[self.verifier.kind as u8], &self.secret.as_bytes()[..]].concat();
        format!(
            "{SECRET_START}{}+{:08x}+{}",
            self.verifier.name,
            self.verifier.key_id(),
            to_base64(&key)
        )
    }

    pub fn parse_secret(text: &str) -> Result<Self, NoteError> {
        let text = text
            .strip_prefix(SECRET_START)
            .ok_or(NoteError::Key("a secret key begins with PRIVATE+KEY+"))?;
        let (name, id, kind, seed) = parse_key(text)?;
        let key = Self::new(&name, kind, seed)?;
        if format!("{:08x}", key.verifier.key_id()) != id {
            return Err(NoteError::Key("its id is not that of its name and bytes"));
        }
        Ok(key)
    }

    /// `time_s` is signed by a witness, and left aside by a log.
    pub fn sign(&self, text: &str, time_s: u64) -> Signature {
        let bytes = match self.verifier.kind {
            KeyKind::Log => self.secret.sign(text.as_bytes()).to_bytes().to_vec(),
            KeyKind::Witness => {
                let signature = self.secret.sign(cosigned_message(time_s, text).as_bytes());
                [&time_s.to_be_bytes()[..], &signature.to_bytes()].concat()
            }
        };
        Signature {
            name: self.verifier.name.clone(),
            key_id: self.verifier.key_id(),
            bytes,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub name: String,
    pub key_id: u32,
    pub bytes: Vec<u8>,
}

impl Signature {
    fn is_by(&self, key: &VerifierKey) -> bool {
        self.name == key.name && self.key_id == key.key_id()
    }

    /// Without the newline.
    fn parse_line(line: &str) -> Result<Self, NoteError> {
        let rest = line
            .strip_prefix(SIGNATURE_START)
            .ok_or(NoteError::Malformed("a signature line begins with an em dash"))?;
        let (name, bytes) = rest
            .split_once(' ')
            .ok_or(NoteError::Malformed("a signature line has a name and a signature"))?;
        check_name(name).map_err(|_| NoteError::Malformed("a signature's name is empty, or has a space or '+'"))?;
        let bytes = from_base64(bytes).ok_or(NoteError::Malformed("a signature is base64"))?;
        let Some((id, bytes)) = bytes.split_first_chunk::<4>().filter(|(_, rest)| !rest.is_empty()) else {
            return Err(NoteError::Malformed("a signature has a key id and bytes"));
        };
        Ok(Self {
            name: name.to_owned(),
            key_id: u32::from_be_bytes(*id),
            bytes: bytes.to_vec(),
        })
    }

    /// Lines as a witness answers them.
    pub fn parse_lines(text: &str) -> Result<Vec<Self>, NoteError> {
        let lines = text
            .strip_suffix('\n')
            .ok_or(NoteError::Malformed("it does not end in a newline"))?;
        let signatures: Vec<Self> = lines.split('\n').map(Self::parse_line).collect::<Result<_, _>>()?;
        if signatures.len() > SIGNATURES_MAX {
            return Err(NoteError::Malformed("it has more than 100 signatures"));
        }
        Ok(signatures)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.key_id.to_be_bytes()[..], &self.bytes].concat();
        writeln!(f, "{SIGNATURE_START}{} {}", self.name, to_base64(&bytes))
    }
}

/// `Display` gives back the bytes that were parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// With its last newline. Not to be believed before `verify`.
    pub text: String,
    pub signatures: Vec<Signature>,
}

impl Note {
    pub fn sign(text: String, keys: &[&SignerKey]) -> Self {
        let signatures = keys.iter().map(|key| key.sign(&text, 0)).collect();
        Self { text, signatures }
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_MAX_BYTES {
            return Err(NoteError::Malformed("it has more than 1 MiB"));
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| NoteError::Malformed("it is not UTF-8"))?;
        if whole.bytes().any(|byte| byte < 0x20 && byte != b'\n') {
            return Err(NoteError::Malformed("it has control characters"));
        }
        let split = whole
            .rfind("\n\n")
            .ok_or(NoteError::Malformed("it has no empty line before signatures"))?;
        Ok(Self {
            text: whole[..=split].to_owned(),
            signatures: Signature::parse_lines(&whole[split + 2..])?,
        })
    }

    /// Whether `key` signed this; for a witness, the time in seconds at which it did.
    pub fn verify(&self, key: &VerifierKey) -> Result<Option<u64>, NoteError> {
        let mut found = Err(NoteError::NotSigned);
        for signature in self.signatures.iter().filter(|signature| signature.is_by(key)) {
            found = Ok(key.check(&self.text, &signature.bytes).ok_or(NoteError::WrongSignature)?);
        }
        found
    }

    /// Puts a signature in place of an older one of the same key.
    pub fn add(&mut self, signature: Signature) {
        self.signatures
            .retain(|other| other.name != signature.name || other.key_id != signature.key_id);
        self.signatures.push(signature);
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| signature.fmt(f))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The keys and note of the Go module golang.org/x/mod/sumdb/note's own tests.
    const VKEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const SKEY: &str = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    const LINE: &str =
        "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn published_key_and_note() {
        let signer = SignerKey::parse_secret(SKEY).unwrap();
        assert_eq!(signer.to_secret_text(), SKEY);
        assert_eq!(signer.verifier().to_string(), VKEY);
        assert_eq!(&VKEY.parse::<VerifierKey>().unwrap(), signer.verifier());
        let note = Note::sign(TEXT.into(), &[&signer]);
        let expected = format!("{TEXT}\n{LINE}");
        assert_eq!(note.to_string(), expected);
        let parsed = Note::parse(expected.as_bytes()).unwrap();
        assert_eq!(parsed, note);
        assert_eq!(parsed.verify(signer.verifier()), Ok(None));
        // The key of a log that everybody uses, as it is published.
        let sumdb = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
        assert_eq!(sumdb.parse::<VerifierKey>().unwrap().to_string(), sumdb);
    }

    #[test]
    fn every_byte_of_a_note_matters() {
        let signer = SignerKey::parse_secret(SKEY).unwrap();
        let whole = format!("{TEXT}\n{LINE}").into_bytes();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                let verified = Note::parse(&damaged).and_then(|note| note.verify(signer.verifier()));
                assert!(verified.is_err(), "byte {at} bit {bit}");
            }
        }
        for end in 0..whole.len() {
            assert!(
                Note::parse(&whole[..end])
                    .and_then(|note| note.verify(signer.verifier()))
                    .is_err()
            );
        }
    }

    #[test]
    fn a_cosignature_signs_its_time() {
        let witness = SignerKey::new("witness.example/w1", KeyKind::Witness, [3; 32]).unwrap();
        let text = "example.com/log\n7\nroot\n".to_owned();
        let mut note = Note {
            signatures: vec![witness.sign(&text, 1_679_315_147)],
            text,
        };
        assert_eq!(note.signatures[0].bytes.len(), 72);
        assert_eq!(note.verify(witness.verifier()), Ok(Some(1_679_315_147)));
        note.signatures[0].bytes[7] ^= 1;
        assert_eq!(note.verify(witness.verifier()), Err(NoteError::WrongSignature));
        // The same key under the log's kind is another key.
        let other = SignerKey::new("witness.example/w1", KeyKind::Log, [3; 32]).unwrap();
        assert_eq!(note.verify(other.verifier()), Err(NoteError::NotSigned));
    }

    #[test]
    fn keys_that_are_none() {
        for bad in [
            "",
            "a",
            "a+00000000",
            "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+c74f20a3+AhpC2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+c74f20a3+ARpc2Q==",
        ] {
            assert!(bad.parse::<VerifierKey>().is_err(), "{bad}");
        }
        assert!(SignerKey::new("a b", KeyKind::Log, [0; 32]).is_err());
        assert!(SignerKey::parse_secret(VKEY).is_err());
    }
}

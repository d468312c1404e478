//! Witnesses: another team's signature that it has seen this log only grow (C2SP cosignature/v1, tlog-witness). Requests and
//! answers are functions of bytes here; who carries them is elsewhere.

use super::checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint, hash_line, parse_hash};
use super::note::{KeyKind, Note, NoteError, Signature, SignerKey, VerifierKey};
use super::parse_decimal;
use crate::disk::{self, Disk};
use crate::merkle::{self, Hash, empty_root};
use holdfast_core::ids::Digest;
use std::collections::BTreeSet;
use std::io;

const PROOF_MAX: usize = 63;
const STATE_DIR: &str = "witness";
const SIZE_TYPE: &str = "text/x.tlog.size";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("the checkpoint is cosigned by {found} of the known witnesses; {needed} are needed")]
    TooFew { found: usize, needed: usize },
    #[error("the cosignature of witness {witness} cannot be believed")]
    Cosignature { witness: String, source: NoteError },
    #[error("a policy cannot ask for {needed} of {known} witnesses")]
    Impossible { needed: usize, known: usize },
    #[error("{0} is not a witness's key, or is named twice")]
    NotAWitness(String),
}

/// At least `needed` of the witnesses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    needed: usize,
    witnesses: Vec<VerifierKey>,
}

impl Policy {
    /// The default needs none of nobody.
    pub fn new(needed: usize, witnesses: Vec<VerifierKey>) -> Result<Self, PolicyError> {
        let mut seen = BTreeSet::new();
        for key in &witnesses {
            if key.kind() != KeyKind::Witness || !seen.insert(*key.public()) {
                return Err(PolicyError::NotAWitness(key.to_string()));
            }
        }
        if needed > witnesses.len() {
            return Err(PolicyError::Impossible {
                needed,
                known: witnesses.len(),
            });
        }
        Ok(Self { needed, witnesses })
    }

    pub fn needed(&self) -> usize {
        self.needed
    }

    pub fn witnesses(&self) -> &[VerifierKey] {
        &self.witnesses
    }

    /// Names of the witnesses that cosigned, and the seconds at which they did. A wrong cosignature of a known one is an error.
    pub fn cosigned(&self, note: &Note) -> Result<Vec<(String, u64)>, PolicyError> {
        let mut found = Vec::new();
        for witness in &self.witnesses {
            match note.verify(witness) {
                Ok(time_s) => found.push((witness.name().to_owned(), time_s.unwrap_or(0))),
                Err(NoteError::NotSigned) => {}
                Err(source) => {
                    return Err(PolicyError::Cosignature {
                        witness: witness.name().to_owned(),
                        source,
                    });
                }
            }
        }
        Ok(found)
    }

    pub fn check(&self, note: &Note) -> Result<(), PolicyError> {
        let found = self.cosigned(note)?.len();
        if found < self.needed {
            return Err(PolicyError::TooFew {
                found,
                needed: self.needed,
            });
        }
        Ok(())
    }
}

/// The body of `add-checkpoint`. `Display` and `parse` are its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// Size of the checkpoint that the witness cosigned last, as far as we know.
    pub old_size: u64,
    /// From there to the checkpoint.
    pub proof: Vec<Hash>,
    /// The signed note, whole.
    pub checkpoint: String,
}

impl std::fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", hash_line(hash)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

impl AddCheckpoint {
    pub fn parse(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let (head, checkpoint) = text.split_once("\n\n")?;
        let mut lines = head.split('\n');
        let old_size = parse_decimal(lines.next()?.strip_prefix("old ")?)?;
        let proof: Vec<Hash> = lines.map(parse_hash).collect::<Option<_>>()?;
        (proof.len() <= PROOF_MAX).then(|| Self {
            old_size,
            proof,
            checkpoint: checkpoint.to_owned(),
        })
    }
}

/// What goes over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub body: String,
}

/// Why a witness does not cosign.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the request is not an old size, a proof and a checkpoint")]
    Malformed,
    #[error("this witness does not know the log {0:?}")]
    UnknownLog(String),
    #[error("the checkpoint is signed by none of the log's keys")]
    NotSigned(#[source] CheckpointError),
    #[error("the old size {old} is larger than the checkpoint's {size}")]
    Backwards { old: u64, size: u64 },
    #[error("the last checkpoint that was cosigned here has {0} entries")]
    OtherSize(u64),
    #[error("another root was cosigned here for the same size: the log shows two histories")]
    OtherRoot,
    #[error("the proof does not lead from the last checkpoint to this one")]
    Inconsistent,
    #[error("the witness's own record cannot be used")]
    State(#[source] io::Error),
}

impl Refusal {
    fn status(&self) -> u16 {
        match self {
            Refusal::Malformed | Refusal::Backwards { .. } => 400,
            Refusal::NotSigned(_) => 403,
            Refusal::UnknownLog(_) => 404,
            Refusal::OtherSize(_) | Refusal::OtherRoot => 409,
            Refusal::Inconsistent => 422,
            Refusal::State(_) => 500,
        }
    }
}

/// Whether the checkpoint may be cosigned after `last`, the latest one cosigned for its log.
fn judge(request: &AddCheckpoint, logs: &[VerifierKey], last: Option<&Checkpoint>) -> Result<SignedCheckpoint, Refusal> {
    let note = Note::parse(request.checkpoint.as_bytes()).map_err(|_| Refusal::Malformed)?;
    let checkpoint = Checkpoint::parse(&note.text).map_err(|_| Refusal::Malformed)?;
    if !logs.iter().any(|key| key.name() == checkpoint.origin) {
        return Err(Refusal::UnknownLog(checkpoint.origin));
    }
    let signed = SignedCheckpoint::open(request.checkpoint.as_bytes(), logs).map_err(Refusal::NotSigned)?;
    let (old, size) = (request.old_size, checkpoint.size);
    if old > size {
        return Err(Refusal::Backwards { old, size });
    }
    let (last_size, last_root) = last.map_or((0, empty_root()), |last| (last.size, last.root));
    if old != last_size {
        return Err(Refusal::OtherSize(last_size));
    }
    if old == size && last_root != checkpoint.root {
        return Err(Refusal::OtherRoot);
    }
    let consistent = match old {
        0 => request.proof.is_empty(),
        _ => merkle::verify_consistency(old, size, &last_root, &checkpoint.root, &request.proof),
    };
    if consistent { Ok(signed) } else { Err(Refusal::Inconsistent) }
}

/// A witness: its key, the logs it knows, and what it cosigned last for each, in a directory of its own.
pub struct Witness<D> {
    disk: D,
    key: SignerKey,
    logs: Vec<VerifierKey>,
}

impl<D: Disk> Witness<D> {
    /// Several keys of the same name are one log's.
    pub fn new(disk: D, key: SignerKey, logs: Vec<VerifierKey>) -> Self {
        Self { disk, key, logs }
    }

    fn state_path(origin: &str) -> String {
        format!("{STATE_DIR}/{}", Digest::of(origin.as_bytes()).hex())
    }

    /// The checkpoint cosigned last. A record that is damaged is an error: without it, nothing can be vouched for.
    pub fn last(&self, origin: &str) -> io::Result<Option<Checkpoint>> {
        let Some(bytes) = self.disk.read(&Self::state_path(origin))? else {
            return Ok(None);
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("the record of {origin} is damaged"));
        let note = Note::parse(&bytes).map_err(|_| damaged())?;
        note.verify(self.key.verifier()).map_err(|_| damaged())?;
        let checkpoint = Checkpoint::parse(&note.text).map_err(|_| damaged())?;
        if checkpoint.origin == origin {
            Ok(Some(checkpoint))
        } else {
            Err(damaged())
        }
    }

    /// One request at a time: what was cosigned last is durable before the answer is given.
    pub fn add_checkpoint(&mut self, body: &[u8], now_s: u64) -> Answer {
        match self.cosign(body, now_s) {
            Ok(signature) => Answer {
                status: 200,
                content_type: TEXT_TYPE,
                body: signature.to_string(),
            },
            Err(Refusal::OtherSize(size)) => Answer {
                status: 409,
                content_type: SIZE_TYPE,
                body: format!("{size}\n"),
            },
            Err(refusal) => Answer {
                status: refusal.status(),
                content_type: TEXT_TYPE,
                body: format!("{refusal}\n"),
            },
        }
    }

    fn cosign(&mut self, body: &[u8], now_s: u64) -> Result<Signature, Refusal> {
        let request = AddCheckpoint::parse(body).ok_or(Refusal::Malformed)?;
        let origin = request.checkpoint.split('\n').next().unwrap_or_default();
        // By its full name only: that a log begins a new epoch is for the witness's people to know.
        let known: Vec<VerifierKey> = self.logs.iter().filter(|key| key.name() == origin).cloned().collect();
        let last = match known.is_empty() {
            true => None,
            false => self.last(origin).map_err(Refusal::State)?,
        };
        let mut signed = judge(&request, &known, last.as_ref())?;
        let signature = self.key.sign(&signed.note.text, now_s);
        // Signatures that nobody checked are not kept.
        let log_key = signed.signed_by.key_id();
        signed
            .note
            .signatures
            .retain(|other| other.key_id == log_key && other.name == signed.signed_by.name());
        signed.note.add(signature.clone());
        let path = Self::state_path(&signed.checkpoint.origin);
        disk::replace(&self.disk, &path, signed.note.to_string().as_bytes()).map_err(|error| Refusal::State(error.source))?;
        Ok(signature)
    }
}

/// What a witness's answer means to the log that asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Cosigned(Signature),
    /// It cosigned another size last: ask again with a proof from there. If that is larger than what we have, this ledger is
    /// an old copy.
    OtherSize(u64),
    Refused {
        status: u16,
        message: String,
    },
}

/// `text` is the text of the checkpoint that was sent.
pub fn read_answer(status: u16, body: &str, text: &str, witness: &VerifierKey) -> Outcome {
    let refused = |message: String| Outcome::Refused { status, message };
    match status {
        200 => {
            let signatures = match Signature::parse_lines(body) {
                Ok(signatures) => signatures,
                Err(error) => return refused(error.to_string()),
            };
            for signature in signatures {
                let note = Note {
                    text: text.to_owned(),
                    signatures: vec![signature.clone()],
                };
                match note.verify(witness) {
                    Ok(_) => return Outcome::Cosigned(signature),
                    Err(NoteError::NotSigned) => {}
                    Err(error) => return refused(error.to_string()),
                }
            }
            refused(format!("the answer has no cosignature of {}", witness.name()))
        }
        409 => match body.strip_suffix('\n').and_then(parse_decimal) {
            Some(size) => Outcome::OtherSize(size),
            None => refused(body.trim_end().to_owned()),
        },
        _ => refused(body.trim_end().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SimDisk;
    use crate::merkle::{consistency_proof, leaf_hash, root};

    fn leaves(count: u64, fork: u64) -> Vec<Hash> {
        (0..count)
            .map(|n| leaf_hash(&[n, if n < 5 { 0 } else { fork }].concat_bytes()))
            .collect()
    }

    trait ConcatBytes {
        fn concat_bytes(&self) -> Vec<u8>;
    }
    impl ConcatBytes for [u64; 2] {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|n| n.to_be_bytes()).collect()
        }
    }

    struct Bench {
        disk: SimDisk,
        log: SignerKey,
        witness: SignerKey,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                disk: SimDisk::new(),
                log: SignerKey::new("ledger.example/prod", KeyKind::Log, [1; 32]).unwrap(),
                witness: SignerKey::new("witness.example", KeyKind::Witness, [2; 32]).unwrap(),
            }
        }

        fn witness(&self) -> Witness<SimDisk> {
            Witness::new(self.disk.clone(), self.witness.clone(), vec![self.log.verifier().clone()])
        }

        fn request(&self, old_size: u64, size: u64, fork: u64) -> AddCheckpoint {
            let tree = leaves(size, fork);
            AddCheckpoint {
                old_size,
                proof: consistency_proof(&tree[..], old_size, size).unwrap().unwrap_or_default(),
                checkpoint: SignedCheckpoint::sign(&self.log, size, root(&tree)).note.to_string(),
            }
        }

        fn ask(&self, request: &AddCheckpoint) -> Answer {
            self.witness().add_checkpoint(request.to_string().as_bytes(), 1_700_000_000)
        }

        fn ask_status(&self, request: &AddCheckpoint) -> u16 {
            self.ask(request).status
        }
    }

    #[test]
    fn a_witness_follows_a_log_that_only_grows() {
        let bench = Bench::new();
        for (old, size) in [(0, 3), (3, 3), (3, 8), (8, 8), (8, 300)] {
            let request = bench.request(old, size, 0);
            assert_eq!(AddCheckpoint::parse(request.to_string().as_bytes()), Some(request.clone()));
            let answer = bench.ask(&request);
            assert_eq!(answer.status, 200, "{old} {size} {answer:?}");
            let mut note = Note::parse(request.checkpoint.as_bytes()).unwrap();
            let Outcome::Cosigned(cosignature) = read_answer(200, &answer.body, &note.text, bench.witness.verifier()) else {
                panic!("{answer:?}")
            };
            note.add(cosignature);
            let policy = Policy::new(1, vec![bench.witness.verifier().clone()]).unwrap();
            assert_eq!(
                policy.cosigned(&note).unwrap(),
                [("witness.example".to_owned(), 1_700_000_000)]
            );
            policy.check(&note).unwrap();
            assert_eq!(bench.witness().last("ledger.example/prod").unwrap().unwrap().size, size);
        }
    }

    #[test]
    fn what_a_witness_refuses() {
        let bench = Bench::new();
        assert_eq!(bench.ask_status(&bench.request(0, 10, 0)), 200);
        // An old copy of the ledger: told what was cosigned.
        let stale = bench.ask(&bench.request(0, 7, 0));
        assert_eq!(
            (stale.status, stale.content_type, stale.body.as_str()),
            (409, SIZE_TYPE, "10\n")
        );
        let text = Note::parse(bench.request(0, 7, 0).checkpoint.as_bytes()).unwrap().text;
        assert_eq!(
            read_answer(409, &stale.body, &text, bench.witness.verifier()),
            Outcome::OtherSize(10)
        );
        // A history that was rewritten behind the witness's back.
        assert_eq!(bench.ask_status(&bench.request(10, 12, 9)), 422);
        let rewritten = bench.ask(&bench.request(10, 10, 9));
        assert_eq!((rewritten.status, rewritten.content_type), (409, TEXT_TYPE));
        // No proof, a wrong one, too much of it.
        let mut bad = bench.request(10, 12, 0);
        bad.proof.clear();
        assert_eq!(bench.ask_status(&bad), 422);
        bad.proof = vec![[0; 32]; 64];
        assert_eq!(bench.ask_status(&bad), 400);
        assert_eq!(
            bench.ask_status(&AddCheckpoint {
                old_size: 13,
                ..bench.request(10, 12, 0)
            }),
            400
        );
        // Signed by somebody else; of an unknown log; not a checkpoint.
        let mut strange = bench.request(10, 12, 0);
        let other = SignerKey::new("ledger.example/prod", KeyKind::Log, [9; 32]).unwrap();
        let text = Note::parse(strange.checkpoint.as_bytes()).unwrap().text;
        strange.checkpoint = Note::sign(text.clone(), &[&other]).to_string();
        assert_eq!(bench.ask_status(&strange), 403);
        strange.checkpoint = strange.checkpoint.replace("ledger.example/prod", "ledger.example/test");
        assert_eq!(bench.ask_status(&strange), 404);
        assert_eq!(bench.witness().add_checkpoint(b"old 0\n\n", 0).status, 400);
        // Nothing of that moved it.
        assert_eq!(bench.witness().last("ledger.example/prod").unwrap().unwrap().size, 10);
        assert_eq!(bench.ask_status(&bench.request(10, 12, 0)), 200);
    }

    #[test]
    fn a_witness_never_forgets_what_it_cosigned() {
        for seed in 0..200 {
            let bench = Bench::new();
            assert_eq!(bench.ask_status(&bench.request(0, 5, 0)), 200);
            // The power goes, a sync fails or the disk fills up somewhere in the next answer.
            match seed % 3 {
                0 => bench.disk.crash_after(seed % 5),
                1 => bench.disk.fail_sync(1 + seed % 2),
                _ => bench.disk.set_room(Some(seed * 2)),
            }
            let cosigned = bench.ask_status(&bench.request(5, 9, 0)) == 200;
            let bench = Bench {
                disk: bench.disk.crash(seed),
                ..bench
            };
            let last = bench.witness().last("ledger.example/prod").unwrap().unwrap().size;
            assert!(
                if cosigned { last == 9 } else { last == 5 || last == 9 },
                "seed {seed}: {last}"
            );
        }
        // A record that is damaged is not taken for none.
        let bench = Bench::new();
        assert_eq!(bench.ask_status(&bench.request(0, 5, 0)), 200);
        let path = bench.disk.files().pop().unwrap();
        let length = bench.disk.len(&path).unwrap().unwrap() as usize;
        for at in 0..length {
            bench.disk.damage(&path, |bytes| bytes[at] ^= 1);
            let status = bench.ask_status(&bench.request(0, 9, 3));
            bench.disk.damage(&path, |bytes| bytes[at] ^= 1);
            // The log's own signature in it is not needed.
            assert!(status == 500 || status == 409, "byte {at}: {status}");
        }
    }

    #[test]
    fn k_of_n() {
        let witnesses: Vec<SignerKey> = (1u8..=3)
            .map(|n| SignerKey::new(&format!("w{n}.example"), KeyKind::Witness, [n; 32]).unwrap())
            .collect();
        let keys: Vec<VerifierKey> = witnesses.iter().map(|key| key.verifier().clone()).collect();
        let log = SignerKey::new("ledger.example", KeyKind::Log, [9; 32]).unwrap();
        let mut note = SignedCheckpoint::sign(&log, 1, [0; 32]).note;
        let policy = Policy::new(2, keys.clone()).unwrap();
        let cosign = |note: &mut Note, n: usize| {
            let signature = witnesses[n].sign(&note.text, 5);
            note.add(signature.clone());
            note.add(signature);
        };
        cosign(&mut note, 0);
        assert_eq!(policy.check(&note), Err(PolicyError::TooFew { found: 1, needed: 2 }));
        cosign(&mut note, 2);
        policy.check(&note).unwrap();
        note.signatures.last_mut().unwrap().bytes[20] ^= 1;
        assert!(matches!(policy.check(&note), Err(PolicyError::Cosignature { .. })));
        Policy::default().check(&note).unwrap();
        assert!(Policy::new(4, keys.clone()).is_err());
        assert!(Policy::new(1, vec![log.verifier().clone()]).is_err());
        let twice = keys[0].renamed("other.example").unwrap();
        assert!(
            Policy::new(1, vec![keys[0].clone(), twice]).is_err(),
            "one key is one witness"
        );
    }
}

//! What the published checkpoint, and an earlier one, are signed by: the keys given, and those that the log itself goes over to.

use super::{CheckpointReport, Trust, VerifyReport};
use crate::claim::{Claim, Source};
use crate::disk::Disk;
use crate::log::LogError;
use crate::store::LedgerError;
use crate::tlog::checkpoint::{Checkpoint, CheckpointError, epoch_of, key_of};
use crate::tlog::note::{Note, NoteError, VerifierKey};
use crate::tlog::publish::checkpoint_file;
use crate::tlog::rotation::Rotation;

/// How findings name the earlier checkpoint.
const EARLIER: &str = "(the earlier checkpoint)";

/// A key, and the number of the entry that replaced it.
pub(super) struct Keys(Vec<(VerifierKey, Option<u64>)>);

impl Keys {
    pub fn new(given: &[VerifierKey]) -> Self {
        Self(given.iter().map(|key| (key.clone(), None)).collect())
    }

    /// An entry that changes the log's key: whoever trusts one of the two trusts the other, each for its part of the log.
    pub fn change(&mut self, seq: u64, note: &str) -> Result<(), NoteError> {
        let Rotation { old, new } = Rotation::open(note)?;
        // A key may have been given under the name of a later epoch.
        let known = |key: &VerifierKey| {
            self.0
                .iter()
                .position(|(known, _)| key_of(key, known.name()).as_ref() == Some(known))
        };
        match (known(&old), known(&new)) {
            (Some(at), after) => {
                let new = new.renamed(self.0[at].0.name())?;
                self.0[at].1.get_or_insert(seq);
                if after.is_none() {
                    self.0.push((new, None));
                }
            }
            (None, Some(at)) => {
                let old = old.renamed(self.0[at].0.name())?;
                self.0.push((old, Some(seq)));
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// Who signed it. None: none of these keys, or one that was replaced by then, which is a finding.
    fn signer(&self, origin: &str, size: u64, note: &Note, file: &str, report: &mut VerifyReport) -> Option<VerifierKey> {
        let mut signer = None;
        for (key, replaced) in &self.0 {
            let Some(named) = key_of(key, origin) else { continue };
            match (note.verify(&named), replaced) {
                (Ok(_), Some(seq)) if size > *seq => {
                    let message = format!("it is signed by {key}, which entry {seq} had replaced");
                    report.find("checkpoint-unsigned", None, file, None, message);
                }
                (Ok(_), _) => signer = Some(named),
                (Err(NoteError::NotSigned), _) => {}
                (Err(error), _) => report.find("checkpoint-damaged", None, file, None, said(&error)),
            }
        }
        signer
    }
}

pub(super) fn read_checkpoint<D: Disk>(
    disk: &D,
    claims: &mut Vec<Claim>,
    report: &mut VerifyReport,
) -> Result<Option<(Checkpoint, Note)>, LedgerError> {
    let file = checkpoint_file();
    let bytes = disk.read(&file).map_err(|source| LogError::Read {
        path: file.clone(),
        source,
    })?;
    let parsed = bytes.and_then(|bytes| parse_checkpoint(bytes, &file, report));
    if let Some((checkpoint, _)) = &parsed {
        claims.push(Claim::new(Source::Checkpoint, &file, checkpoint.size, checkpoint.root));
    }
    Ok(parsed)
}

pub(super) fn parse_checkpoint(bytes: Vec<u8>, file: &str, report: &mut VerifyReport) -> Option<(Checkpoint, Note)> {
    let parsed = Note::parse(&bytes)
        .map_err(CheckpointError::from)
        .and_then(|note| Ok((Checkpoint::parse(&note.text)?, note)));
    match parsed {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            report.find("checkpoint-damaged", None, file, None, said(&error));
            None
        }
    }
}

/// An error with what caused it.
fn said(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", said(source)),
        None => error.to_string(),
    }
}

pub(super) fn read_earlier(trust: &Trust, claims: &mut Vec<Claim>, report: &mut VerifyReport) {
    let Some(note) = &trust.from else { return };
    match Checkpoint::parse(&note.text) {
        Ok(checkpoint) => claims.push(Claim::new(Source::Given, EARLIER, checkpoint.size, checkpoint.root)),
        Err(error) => report.find("checkpoint-damaged", None, EARLIER, None, said(&error)),
    }
}

/// With the keys that the log has named.
pub(super) fn judge_earlier(trust: &Trust, keys: &Keys, report: &mut VerifyReport) {
    let Some(note) = trust.from.as_ref().filter(|_| !trust.keys.is_empty()) else {
        return;
    };
    let Ok(Checkpoint { origin, size, .. }) = Checkpoint::parse(&note.text) else {
        return;
    };
    let found = report.findings.len();
    if keys.signer(&origin, size, note, EARLIER, report).is_none() && report.findings.len() == found {
        let message = "no key given signed the earlier checkpoint";
        report.find("checkpoint-unsigned", None, EARLIER, None, message);
    }
}

pub(super) fn judge_checkpoint(
    checkpoint: Checkpoint,
    file: &str,
    note: &Note,
    trust: &Trust,
    keys: &Keys,
    report: &mut VerifyReport,
) {
    let Checkpoint { origin, size, .. } = checkpoint;
    let signer = keys.signer(&origin, size, note, file, report);
    if !trust.keys.is_empty() && signer.is_none() {
        let message = format!("it is of {origin:?}, and signed by none of the keys given");
        report.find("checkpoint-unsigned", None, file, None, message);
    }
    // The same name must not vouch for what came before a loss and for what came after it.
    let is_past = |key: &VerifierKey| epoch_of(key.name(), &origin).is_some_and(|named| named < report.epoch);
    if trust.keys.iter().any(is_past) && !origin.ends_with(&format!("/{}", report.epoch)) {
        let message = format!("it is not of epoch {}, in which the log is", report.epoch);
        report.find("claim-mismatch", None, file, None, message);
    }
    let mut cosigned = Vec::new();
    match trust.witnesses.check(note).and_then(|()| trust.witnesses.cosigned(note)) {
        Ok(by) => cosigned = by,
        Err(error) => report.find("checkpoint-unwitnessed", None, file, None, said(&error)),
    }
    report.checkpoint = Some(CheckpointReport {
        origin,
        size,
        signed_by: signer.map(|key| key.to_string()),
        cosigned,
    });
}

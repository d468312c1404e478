//! Questions that blobs and the index can answer.

use super::{Event, World};
use crate::api::{FindBy, LedgerQuestion};
use holdfast_core::engine::Input;
use holdfast_core::entry::{AttemptOutcome, Body};
use holdfast_core::ids::Digest;
use holdfast_core::state::State;
use holdfast_core::target::PlatformImage;
use holdfast_core::view::{CauseView, StatusView, last_log_lines};
use holdfast_ledger::index::{By, Filter, Indexer};
use holdfast_ledger::{LedgerError, Reader};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Blobs of the ledger, for tasks beside the loop.
#[derive(Clone)]
pub(crate) struct Blobs(Reader);

impl Blobs {
    pub fn new(reader: Reader) -> Self {
        Self(reader)
    }

    pub fn get(&self, digest: &Digest) -> Result<Vec<u8>, LedgerError> {
        self.0.blob(digest)
    }

    pub fn images(&self, digest: &Digest) -> Result<Vec<PlatformImage>, String> {
        let bytes = self.get(digest).map_err(|error| error.to_string())?;
        serde_json::from_slice(&bytes).map_err(|error| format!("the images blob {digest} is not what it should be: {error}"))
    }
}

/// Every digest by which a target may name an artifact with these images.
pub(crate) fn accepted(images: &[PlatformImage]) -> BTreeSet<Digest> {
    let all = images.iter().flat_map(|image| {
        [&image.manifest, &image.config]
            .into_iter()
            .chain(image.blobs.iter().map(|blob| &blob.digest))
    });
    all.filter_map(|digest| digest.parse().ok()).collect()
}

/// The digests of the artifacts whose images this blob lists: a target may name the index, which the blob does not.
fn indexes(state: &State, blob: &Digest) -> BTreeSet<Digest> {
    let workloads = || state.workloads.values();
    let pins = workloads().flat_map(|workload| workload.pins.values());
    let pinned = pins.filter(|pin| pin.images.as_ref() == Some(blob)).map(|pin| &pin.digest);
    let releases = workloads().flat_map(|workload| workload.releases.values());
    let released = releases.flat_map(|release| {
        let named = release.images.iter().filter(|(_, images)| *images == blob);
        named.filter_map(|(name, _)| release.artifacts.get(name))
    });
    pinned.chain(released).cloned().collect()
}

pub(super) fn load_images(world: &World, state: &State, blob: Digest) {
    let world = world.clone();
    let indexes = indexes(state, &blob);
    tokio::task::spawn_blocking(move || match world.blobs.images(&blob) {
        Ok(images) => {
            let mut accepted = accepted(&images);
            accepted.extend(indexes);
            let _ = world.events.send(Event::Input(Input::Images { blob, accepted }));
        }
        Err(detail) => tracing::error!(blob = blob.as_str(), detail, "the digests of a pin cannot be loaded"),
    });
}

/// Entries by the index; whatever it does not know yet is not in the answer, which says as of when it is.
pub(super) fn ledger(index: &Indexer, reader: &Reader, question: LedgerQuestion) -> Result<Value, String> {
    match question {
        LedgerQuestion::Find { keys, before, limit } => {
            let filter = Filter {
                keys: keys.into_iter().map(|(by, key)| (by.into(), key)).collect(),
                ..Filter::default()
            };
            let page = index
                .query(&filter, before, limit.clamp(1, 10_000))
                .map_err(|error| error.to_string())?;
            Ok(json!({ "as_of": page.as_of, "entries": entries(reader, &page.seqs)? }))
        }
        LedgerQuestion::Complete { by, start } => {
            let found = index.complete(by.into(), &start, 100).map_err(|error| error.to_string())?;
            Ok(json!({ "as_of": index.as_of(), "keys": found }))
        }
        LedgerQuestion::Blob { digest } => {
            let bytes = reader.blob(&digest).map_err(|error| error.to_string())?;
            let text = String::from_utf8(bytes).map_err(|_| format!("blob {digest} is not text"))?;
            Ok(json!({ "as_of": index.as_of(), "text": text }))
        }
        LedgerQuestion::Entries { seqs } => {
            let seqs = seqs.get(..10_000).unwrap_or(&seqs);
            Ok(json!({ "as_of": index.as_of(), "entries": entries(reader, seqs)? }))
        }
    }
}

fn entries(reader: &Reader, seqs: &[u64]) -> Result<Vec<holdfast_core::entry::Entry>, String> {
    let found: Result<Vec<_>, _> = seqs.iter().map(|seq| reader.entry(*seq)).collect();
    found.map_err(|error| error.to_string())
}

impl From<FindBy> for By {
    fn from(by: FindBy) -> By {
        match by {
            FindBy::Kind => By::Kind,
            FindBy::Workload => By::Workload,
            FindBy::Target => By::Target,
            FindBy::Commit => By::Commit,
            FindBy::Digest => By::Digest,
            FindBy::Reference => By::Reference,
            FindBy::Deploy => By::Deploy,
            FindBy::Release => By::Release,
        }
    }
}

/// Looks into the ledger for one answer to `status`.
const STATUS_LOOKS_MAX: usize = 1_000;

/// What State does not keep: who made a request and why, and the last lines of what failed.
pub(super) fn fill(view: &mut StatusView, index: &Indexer, reader: &Reader) {
    let mut looks = STATUS_LOOKS_MAX;
    for workload in &mut view.workloads {
        if let Some(wanted) = workload.wanted.as_mut().filter(|wanted| wanted.cause.kind.is_empty())
            && looks > 0
        {
            looks -= 1;
            wanted.cause = cause(reader, wanted.request).unwrap_or_default();
        }
        for unit in &mut workload.units {
            let failed = unit
                .last
                .as_mut()
                .filter(|last| matches!(last.outcome, AttemptOutcome::Bad | AttemptOutcome::CouldNotTry));
            if let Some(last) = failed
                && looks > 0
            {
                looks -= 1;
                last.log = last_words(index, reader, &last.deploy).unwrap_or_default();
            }
        }
    }
}

/// The entry that made a request may be too new to be read yet: then the next answer has it.
fn cause(reader: &Reader, request: u64) -> Option<CauseView> {
    let entry = reader.entry(request).ok()?;
    let (kind, text) = match &entry.body {
        Body::Spec(_) => match reader.entry(*entry.because.first()?).ok()?.body {
            Body::Source(source) => ("commit", source.summary),
            _ => ("commit", String::new()),
        },
        Body::Selection(selection) => ("selection", format!("{}:{}", selection.repository, selection.tag)),
        Body::Pin(pin) => ("repin", pin.reference.clone()),
        Body::Command(command) => {
            let reason = if command.reason.is_empty() {
                "no reason given"
            } else {
                &command.reason
            };
            ("command", format!("{} of {}: {reason}", command.verb.name(), entry.by.id))
        }
        _ => return None,
    };
    Some(CauseView { kind: kind.into(), text })
}

/// The end of the newest diagnosis of an attempt.
fn last_words(index: &Indexer, reader: &Reader, deploy: &str) -> Option<Vec<String>> {
    let filter = Filter::by(By::Deploy, deploy).and(By::Kind, "verdict");
    let page = index.query(&filter, None, 50).ok()?;
    let mut entries = page.seqs.iter().filter_map(|seq| reader.entry(*seq).ok());
    entries.find_map(|entry| match &entry.body {
        Body::Verdict(verdict) if verdict.about == "diagnosis" => Some(last_log_lines(verdict)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::ids::{ReleaseId, WorkloadId};
    use holdfast_core::state::{PinState, ReleaseState};

    #[test]
    fn an_artifact_may_be_named_by_its_index_after_a_restart_too() {
        let (blob, other_blob) = (Digest::of(b"images"), Digest::of(b"other images"));
        let pin = |digest: &[u8], images: &Digest| PinState {
            digest: Digest::of(digest),
            seq: 1,
            images: Some(images.clone()),
            source: "r.example.com/a".into(),
            moved_to: None,
        };
        let mut state = State::default();
        let workload = state
            .workloads
            .entry(WorkloadId::try_from("main/a".to_owned()).unwrap())
            .or_default();
        workload.pins.insert("r.example.com/a:1".into(), pin(b"pinned", &blob));
        workload.pins.insert("r.example.com/b:1".into(), pin(b"another", &other_blob));
        let release = ReleaseState {
            artifacts: [
                ("main".to_owned(), Digest::of(b"released")),
                ("side".to_owned(), Digest::of(b"another")),
            ]
            .into(),
            sources: Default::default(),
            before: Default::default(),
            after: Default::default(),
            images: [("main".to_owned(), blob.clone()), ("side".to_owned(), other_blob)].into(),
        };
        workload.releases.insert(ReleaseId::of(b"release"), release);
        let expected = BTreeSet::from([Digest::of(b"pinned"), Digest::of(b"released")]);
        assert_eq!(indexes(&state, &blob), expected);
    }
}

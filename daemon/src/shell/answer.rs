//! Questions that blobs and the index can answer.

use super::{Event, World};
use crate::api::{FindBy, LedgerQuestion};
use holdfast_core::engine::Input;
use holdfast_core::ids::Digest;
use holdfast_core::target::PlatformImage;
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

pub(super) fn load_images(world: &World, blob: Digest) {
    let world = world.clone();
    tokio::task::spawn_blocking(move || match world.blobs.images(&blob) {
        Ok(images) => {
            let accepted = accepted(&images);
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

//! Writes tiles and checkpoint after the log, off the write path. What was published once is never contradicted: a log that is
//! behind it, or has another history, is told so and published no more.

use super::TLOG_DIR;
use super::checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint, origin};
use super::note::{NoteError, Signature, SignerKey, VerifierKey};
use super::rotation::Former;
use super::tile::{self, Builder, Tile};
use crate::disk::{self, Disk};
use crate::merkle::leaf_hash;
use crate::reader::Reader;
use crate::store::LedgerError;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Files are synced in portions of so many entries.
const PORTION_ENTRIES: u64 = 16_384;

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(
        "the published checkpoint is of {published} entries, the log has {size}: this is an old copy of the ledger, or it lost entries"
    )]
    Ahead { published: u64, size: u64 },
    #[error("the published checkpoint of {size} entries has another root than the log: it is another log, or was rewritten")]
    Fork { size: u64 },
    #[error(
        "the published checkpoint is of the log {found:?}, and not signed by {wanted}: another key follows only by `holdfast ledger key rotate`"
    )]
    OtherLog { found: String, wanted: String },
    #[error("the published checkpoint of {size} entries is signed by {key}, which entry {replaced} of the log had replaced")]
    Replaced { size: u64, key: String, replaced: u64 },
    #[error("writing {path}")]
    Write { path: String, source: io::Error },
    #[error("reading {path}")]
    Read { path: String, source: io::Error },
    #[error("the disk has no more than the reserve left")]
    NoRoom,
    #[error("the key cannot sign for this log")]
    Key(#[from] NoteError),
    #[error("the log could not be read")]
    Log(#[from] LedgerError),
    #[error("cosignatures are of a checkpoint of {given} entries, the published one has {published}")]
    OtherCheckpoint { given: u64, published: u64 },
}

impl PublishError {
    /// Two histories under one name: a human has to look before anything more is signed.
    pub fn is_conflict(&self) -> bool {
        matches!(
            self,
            PublishError::Ahead { .. }
                | PublishError::Fork { .. }
                | PublishError::OtherLog { .. }
                | PublishError::Replaced { .. }
        )
    }
}

pub fn checkpoint_file() -> String {
    format!("{TLOG_DIR}/checkpoint")
}

/// The published checkpoint, signed by one of `keys`; none when there is none.
pub fn read_checkpoint<D: Disk>(disk: &D, keys: &[VerifierKey]) -> io::Result<Option<Result<SignedCheckpoint, CheckpointError>>> {
    let bytes = disk.read(&checkpoint_file())?;
    Ok(bytes.map(|bytes| SignedCheckpoint::open(&bytes, keys)))
}

/// What becomes of tiles that the published checkpoint has already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    Kept,
    Replaced,
}

/// Keys that are to sign from an entry on: given before that entry can be committed, so that nothing after it is ever signed
/// by the key before.
#[derive(Clone, Default)]
pub struct NextKeys(Arc<Mutex<Vec<(u64, SignerKey)>>>);

impl NextKeys {
    /// The entry `seq` names `key`. It may turn out never to be committed.
    pub fn give(&self, seq: u64, key: SignerKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((seq, key));
    }

    /// The last one that signs checkpoints of `size` entries.
    fn take(&self, size: u64) -> Option<SignerKey> {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        given.extract_if(.., |(seq, _)| *seq < size).last().map(|(_, key)| key)
    }
}

/// From which entry on bundles are published: given before the entry that says so can be committed.
#[derive(Clone, Default)]
pub struct Retention(Arc<Mutex<Vec<(u64, u64)>>>);

impl Retention {
    /// The entry `seq` says that bundles below `from` may go.
    pub fn keep_from(&self, seq: u64, from: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((seq, from));
    }

    fn take(&self, size: u64) -> Option<u64> {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        given.extract_if(.., |(seq, _)| *seq < size).map(|(_, from)| from).max()
    }
}

pub struct Publication<D> {
    disk: D,
    log: Reader<D>,
    key: SignerKey,
    next_keys: NextKeys,
    former: Vec<Former>,
    retention: Retention,
    /// Bundles of entries below are not published.
    bundles_from: u64,
    /// And those below this are gone.
    gone_below: u64,
    published: Option<SignedCheckpoint>,
    /// None: not known, to be taken up from the disk.
    builder: Option<Builder>,
}

impl<D: Disk> Publication<D> {
    /// `former` are keys that this log signed with before; `key` carries the log's name, of which `epoch` makes the origin.
    pub fn new(log: Reader<D>, key: &SignerKey, epoch: u64, mut former: Vec<Former>) -> Result<Self, PublishError> {
        let origin = origin(key.verifier().name(), epoch);
        let key = key.renamed(&origin)?;
        for former in &mut former {
            former.key = former.key.renamed(&origin)?;
        }
        let disk = log.disk.sibling();
        let mut publication = Self {
            disk,
            log,
            key,
            next_keys: NextKeys::default(),
            former,
            retention: Retention::default(),
            bundles_from: 0,
            gone_below: 0,
            published: None,
            builder: None,
        };
        publication.published = publication.read_published()?;
        Ok(publication)
    }

    pub fn published(&self) -> Option<&SignedCheckpoint> {
        self.published.as_ref()
    }

    /// Bundles below `entry` are not published, by what the log says.
    pub fn without_bundles_below(mut self, entry: u64) -> Self {
        self.bundles_from = entry;
        self
    }

    pub fn retention(&self) -> Retention {
        self.retention.clone()
    }

    /// Whether the log says that the tile need not be there.
    fn is_pruned(&self, tile: &Tile) -> bool {
        tile.kind == tile::Kind::Entries && tile.is_full() && tile.entries().end <= self.bundles_from
    }

    fn prune(&mut self) -> Result<(), PublishError> {
        let published_size = self.published.as_ref().map_or(0, |published| published.checkpoint.size);
        let to = self.bundles_from.min(published_size);
        for tile in tile::added(self.gone_below, to).filter(|tile| self.is_pruned(tile)) {
            let path = tile.file();
            if self.disk.len(&path).map_err(reading(&path))?.is_some() {
                self.disk.remove(&path).map_err(writing(&path))?;
            }
        }
        self.gone_below = to.max(self.gone_below);
        Ok(())
    }

    /// What is to sign later checkpoints goes there.
    pub fn next_keys(&self) -> NextKeys {
        self.next_keys.clone()
    }

    fn read_published(&self) -> Result<Option<SignedCheckpoint>, PublishError> {
        let present = self.key.verifier();
        let keys: Vec<VerifierKey> = std::iter::once(present)
            .chain(self.former.iter().map(|former| &former.key))
            .cloned()
            .collect();
        let found = read_checkpoint(&self.disk, &keys).map_err(reading(&checkpoint_file()))?;
        let (here, _) = self.log.head();
        match found {
            None => Ok(None),
            Some(Ok(signed)) => {
                let size = signed.checkpoint.size;
                let by_former = self.former.iter().rev().find(|former| former.key == signed.signed_by);
                match by_former.filter(|former| signed.signed_by != *present && size > former.replaced) {
                    Some(Former { key, replaced }) => Err(PublishError::Replaced {
                        size,
                        key: key.to_string(),
                        replaced: *replaced,
                    }),
                    None if size > here => Err(PublishError::Ahead {
                        published: size,
                        size: here,
                    }),
                    None => Ok(Some(signed)),
                }
            }
            Some(Err(CheckpointError::NoKey { found })) => Err(PublishError::OtherLog {
                found,
                wanted: present.to_string(),
            }),
            Some(Err(error)) => {
                // Damage: the log has all that it said, and its head what was acknowledged.
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the published checkpoint is damaged; publishing anew"
                );
                Ok(None)
            }
        }
    }

    /// Publishes what was committed since. None: nothing was.
    pub fn advance(&mut self) -> Result<Option<&SignedCheckpoint>, PublishError> {
        let (size, root) = self.log.head();
        if let Some(next) = self.next_keys.take(size) {
            self.key = next.renamed(self.key.verifier().name())?;
        }
        if let Some(from) = self.retention.take(size) {
            self.bundles_from = self.bundles_from.max(from);
        }
        if self.gone_below < self.bundles_from {
            self.prune()?;
        }
        if let Some(published) = &self.published {
            let Checkpoint {
                size: known,
                root: known_root,
                ..
            } = published.checkpoint;
            if known > size {
                return Err(PublishError::Ahead { published: known, size });
            }
            if known == size && known_root != root {
                return Err(PublishError::Fork { size });
            }
            if known == size && published.signed_by == *self.key.verifier() {
                return Ok(None);
            }
        }
        if size == 0 {
            return Ok(None);
        }
        if !self.log.room()?.admits(0) {
            return Err(PublishError::NoRoom);
        }
        // Whatever fails from here on, the next attempt begins with what is on the disk.
        let restored = match self.builder.take() {
            Some(builder) => Some(builder),
            None => self.restore()?,
        };
        let mut full = BTreeSet::new();
        let builder = match restored {
            Some(mut builder) => {
                self.build(&mut builder, size, Given::Kept, &mut full)?;
                if builder.root() == root {
                    builder
                } else {
                    self.rebuild(size, &mut full)?
                }
            }
            None => self.rebuild(size, &mut full)?,
        };
        let signed = SignedCheckpoint::sign(&self.key, size, root);
        self.write_checkpoint(&signed)?;
        for tile in &full {
            tile::remove_partials(&self.disk, tile).map_err(writing(&tile.file()))?;
        }
        self.builder = Some(builder);
        Ok(Some(self.published.insert(signed)))
    }

    /// The tiles as they were published; none when they are not what the checkpoint says.
    fn restore(&self) -> Result<Option<Builder>, PublishError> {
        let Some(published) = self.published.as_ref().map(|published| &published.checkpoint) else {
            return Ok(None);
        };
        let restored = Builder::restore(&self.disk, published.size).map_err(reading(TLOG_DIR))?;
        let restored = restored.filter(|builder| builder.root() == published.root);
        let restored = match restored {
            Some(builder) if tile::are_whole(&self.disk, published.size, self.bundles_from).map_err(reading(TLOG_DIR))? => {
                Some(builder)
            }
            _ => None,
        };
        if restored.is_none() {
            tracing::warn!(
                size = published.size,
                "tiles are missing or damaged; making them anew from the log"
            );
        }
        Ok(restored)
    }

    /// Makes every tile of the published size anew, whatever is there.
    pub fn repair(&mut self) -> Result<(), PublishError> {
        self.builder = None;
        if let Some(size) = self.published.as_ref().map(|published| published.checkpoint.size) {
            self.builder = Some(self.rebuild(size, &mut BTreeSet::new())?);
        }
        Ok(())
    }

    /// From nothing. On the way, the log must have had the published root.
    fn rebuild(&self, size: u64, full: &mut BTreeSet<Tile>) -> Result<Builder, PublishError> {
        let mut builder = Builder::default();
        if let Some(published) = self.published.as_ref().map(|published| &published.checkpoint) {
            self.build(&mut builder, published.size, Given::Replaced, full)?;
            if builder.root() != published.root {
                return Err(PublishError::Fork { size: published.size });
            }
        }
        self.build(&mut builder, size, Given::Replaced, full)?;
        Ok(builder)
    }

    /// Writes the tiles up to `size` and makes them durable.
    fn build(&self, builder: &mut Builder, size: u64, given: Given, full: &mut BTreeSet<Tile>) -> Result<(), PublishError> {
        while builder.size() < size {
            let to = size.min(builder.size() + PORTION_ENTRIES);
            let mut written = Vec::new();
            for item in self.log.iter_raw(builder.size(), to) {
                let (_, bytes) = item?;
                builder.push(&bytes, leaf_hash(&bytes), |tile, content| {
                    self.write(tile, content, given, &mut written)
                })?;
            }
            full.extend(written.iter().copied());
            if to == size {
                builder.partials(|tile, content| self.write(tile, content, given, &mut written))?;
            }
            if let Err(error) = self.sync(&written) {
                // The kernel may hold for clean what is not on the disk: the next attempt must not meet these files.
                for tile in &written {
                    let _ = self.disk.remove(&tile.file());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn write(&self, tile: Tile, content: &[u8], given: Given, written: &mut Vec<Tile>) -> Result<(), PublishError> {
        if self.is_pruned(&tile) {
            return Ok(());
        }
        let path = tile.file();
        let published_size = self.published.as_ref().map_or(0, |published| published.checkpoint.size);
        if !tile.is_of(published_size) {
            self.disk.create(&path, content).map_err(writing(&path))?;
            written.push(tile);
        } else if given == Given::Replaced {
            // Somebody may be reading it, and it may be the only one that is whole.
            disk::replace(&self.disk, &path, content).map_err(|error| writing(&path)(error.source))?;
        }
        Ok(())
    }

    fn sync(&self, written: &[Tile]) -> Result<(), PublishError> {
        let mut dirs = BTreeSet::new();
        for tile in written {
            let path = tile.file();
            self.disk.sync_data(&path).map_err(writing(&path))?;
            dirs.insert(disk::parent(&path).to_owned());
        }
        dirs.iter().try_for_each(|dir| self.disk.sync_dir(dir).map_err(writing(dir)))
    }

    fn write_checkpoint(&self, signed: &SignedCheckpoint) -> Result<(), PublishError> {
        let path = checkpoint_file();
        let replaced = disk::replace(&self.disk, &path, signed.note.to_string().as_bytes());
        replaced.map_err(|error| PublishError::Write {
            path,
            source: error.source,
        })
    }

    /// Adds cosignatures, which the caller has checked, to the published checkpoint if it still is the one they are of.
    pub fn add_cosignatures(&mut self, size: u64, cosignatures: Vec<Signature>) -> Result<&SignedCheckpoint, PublishError> {
        let mut signed = match &self.published {
            Some(published) if published.checkpoint.size == size => published.clone(),
            other => {
                return Err(PublishError::OtherCheckpoint {
                    given: size,
                    published: other.as_ref().map_or(0, |published| published.checkpoint.size),
                });
            }
        };
        for cosignature in cosignatures {
            signed.note.add(cosignature);
        }
        self.write_checkpoint(&signed)?;
        Ok(self.published.insert(signed))
    }
}

fn writing(path: &str) -> impl FnOnce(io::Error) -> PublishError {
    let path = path.to_owned();
    move |source| PublishError::Write { path, source }
}

fn reading(path: &str) -> impl FnOnce(io::Error) -> PublishError {
    let path = path.to_owned();
    move |source| PublishError::Read { path, source }
}

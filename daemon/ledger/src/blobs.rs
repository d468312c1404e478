//! Content-addressed blobs: specs, config files, manifests, images lists, components. Durable before the entry that
//! names them, and hashed again whenever they are read.

use crate::disk::{self, Disk, is_full};
use holdfast_core::ids::Digest;
use std::collections::BTreeSet;
use std::io;

pub const BLOB_DIR: &str = "blobs/sha256";

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("blob {0} is not in the ledger")]
    Missing(Digest),
    #[error("blob {0} is damaged: its content has another hash")]
    Damaged(Digest),
    #[error("the bytes given for blob {0} have another hash")]
    WrongDigest(Digest),
    #[error("blob {digest} has {size_bytes} bytes; the limit is {limit_bytes}")]
    TooLarge {
        digest: Digest,
        size_bytes: u64,
        limit_bytes: u64,
    },
    #[error("reading blob {digest}")]
    Read { digest: Digest, source: io::Error },
    #[error("writing blob {digest}")]
    Write {
        digest: Digest,
        in_sync: bool,
        source: io::Error,
    },
}

impl BlobError {
    /// Only room was missing: nothing is in doubt about what the disk holds.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, BlobError::Write { in_sync: false, source, .. } if is_full(source))
    }
}

pub fn path_of(digest: &Digest) -> String {
    format!("{BLOB_DIR}/{}/{}", &digest.hex()[..2], digest.hex())
}

pub fn get<D: Disk>(disk: &D, digest: &Digest, limit_bytes: u64) -> Result<Vec<u8>, BlobError> {
    let failed = |source| BlobError::Read {
        digest: digest.clone(),
        source,
    };
    let path = path_of(digest);
    let size_bytes = disk
        .len(&path)
        .map_err(failed)?
        .ok_or_else(|| BlobError::Missing(digest.clone()))?;
    if size_bytes > limit_bytes {
        return Err(BlobError::TooLarge {
            digest: digest.clone(),
            size_bytes,
            limit_bytes,
        });
    }
    let bytes = disk
        .read(&path)
        .map_err(failed)?
        .ok_or_else(|| BlobError::Missing(digest.clone()))?;
    if Digest::of(&bytes) != *digest {
        return Err(BlobError::Damaged(digest.clone()));
    }
    Ok(bytes)
}

/// Blobs that this process knows to be durable, so that the common case, the same content again, costs nothing.
#[derive(Default)]
pub struct Durable {
    known: BTreeSet<Digest>,
}

const KNOWN_MAX: usize = 100_000;

impl Durable {
    fn learn(&mut self, digest: &Digest) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(digest.clone());
    }

    /// Stores a blob durably.
    pub fn put<D: Disk>(&mut self, disk: &D, digest: &Digest, bytes: &[u8], limit_bytes: u64) -> Result<(), BlobError> {
        let size_bytes = bytes.len() as u64;
        if size_bytes > limit_bytes {
            return Err(BlobError::TooLarge {
                digest: digest.clone(),
                size_bytes,
                limit_bytes,
            });
        }
        if self.known.contains(digest) {
            return Ok(());
        }
        if Digest::of(bytes) != *digest {
            return Err(BlobError::WrongDigest(digest.clone()));
        }
        self.write(disk, digest, bytes)
    }

    fn write<D: Disk>(&mut self, disk: &D, digest: &Digest, bytes: &[u8]) -> Result<(), BlobError> {
        disk::replace(disk, &path_of(digest), bytes).map_err(|error| BlobError::Write {
            digest: digest.clone(),
            in_sync: error.in_sync,
            source: error.source,
        })?;
        self.learn(digest);
        Ok(())
    }

    /// Whether the blob is stored, whole, and durable from here on: an earlier process may have been killed between its rename
    /// and its sync, or its sync failed, which a second one would not tell. So it is written again, once a process. False when
    /// nobody has it.
    pub fn settle<D: Disk>(&mut self, disk: &D, digest: &Digest, limit_bytes: u64) -> Result<bool, BlobError> {
        if self.known.contains(digest) {
            return Ok(true);
        }
        match get(disk, digest, limit_bytes) {
            Ok(bytes) => self.write(disk, digest, &bytes).map(|()| true),
            // A disk that cannot be read says nothing about what is on it.
            Err(error @ BlobError::Read { .. }) => Err(error),
            Err(_) => Ok(false),
        }
    }
}

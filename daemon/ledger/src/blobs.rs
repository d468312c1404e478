//! Content-addressed blobs: specs, config files, manifests, images lists, components. Durable before the entry that
//! names them, and hashed again whenever they are read.

use crate::disk::Disk;
use holdfast_core::ids::Digest;
use std::io;

pub const BLOB_DIR: &str = "blobs/sha256";
pub const BLOB_MAX_BYTES: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("blob {0} is not in the ledger")]
    Missing(Digest),
    #[error("blob {0} is damaged: its content has another hash")]
    Damaged(Digest),
    #[error("blob {digest} has {size} bytes; the limit is {BLOB_MAX_BYTES}")]
    TooLarge { digest: Digest, size: usize },
    #[error("reading blob {digest}")]
    Read { digest: Digest, source: io::Error },
    #[error("writing blob {digest}")]
    Write { digest: Digest, source: io::Error },
}

pub fn path_of(digest: &Digest) -> String {
    format!("{BLOB_DIR}/{}/{}", &digest.hex()[..2], digest.hex())
}

pub fn put(disk: &mut impl Disk, digest: &Digest, bytes: &[u8]) -> Result<(), BlobError> {
    if bytes.len() > BLOB_MAX_BYTES {
        return Err(BlobError::TooLarge { digest: digest.clone(), size: bytes.len() });
    }
    if Digest::of(bytes) != *digest {
        return Err(BlobError::Damaged(digest.clone()));
    }
    // The same content again is the common case; a damaged copy is written anew.
    if get(disk, digest).is_ok() {
        return Ok(());
    }
    disk.replace(&path_of(digest), bytes).map_err(|source| BlobError::Write { digest: digest.clone(), source })
}

pub fn get(disk: &impl Disk, digest: &Digest) -> Result<Vec<u8>, BlobError> {
    let bytes = disk.read(&path_of(digest)).map_err(|source| BlobError::Read { digest: digest.clone(), source })?;
    let bytes = bytes.ok_or_else(|| BlobError::Missing(digest.clone()))?;
    if Digest::of(&bytes) != *digest {
        return Err(BlobError::Damaged(digest.clone()));
    }
    Ok(bytes)
}

//! Snapshots of State: a shorter way to the same value. One counts only if it names a size and root that the log has.
//!
//! ```text
//! "HFSNAP\0\x01"  size u64  root 32 bytes  sha256 of all but these 32 bytes  body
//! ```

use crate::disk::{self, Disk, ReplaceError};
use crate::frame::u64_at;
use crate::merkle::Hash;
use sha2::{Digest, Sha256};
use std::io;

pub const SNAPSHOT_DIR: &str = "snapshots";
const MAGIC: &[u8; 8] = b"HFSNAP\0\x01";
const HASHED_BYTES: usize = 48;
const HEADER_BYTES: usize = 80;
/// Older ones are removed.
const KEPT: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub size: u64,
    /// Of the log's first `size` entries.
    pub root: Hash,
    pub body: Vec<u8>,
}

pub fn path_of(name: &str) -> String {
    format!("{SNAPSHOT_DIR}/{name}")
}

pub fn write<D: Disk>(disk: &D, snapshot: &Snapshot) -> Result<(), ReplaceError> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + snapshot.body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&snapshot.size.to_be_bytes());
    bytes.extend_from_slice(&snapshot.root);
    let hash = Sha256::new().chain_update(&bytes).chain_update(&snapshot.body).finalize();
    bytes.extend_from_slice(&hash);
    bytes.extend_from_slice(&snapshot.body);
    disk::replace(disk, &path_of(&format!("{:020}.snap", snapshot.size)), &bytes)?;
    let failed = |source| ReplaceError { in_sync: false, source };
    let names = names(disk).map_err(failed)?;
    for old in names.iter().rev().skip(KEPT) {
        disk.remove(&path_of(old)).map_err(failed)?;
    }
    Ok(())
}

/// Names of snapshot files, oldest first.
pub fn names<D: Disk>(disk: &D) -> io::Result<Vec<String>> {
    Ok(disk
        .list(SNAPSHOT_DIR)?
        .into_iter()
        .filter(|name| name.ends_with(".snap"))
        .collect())
}

/// The size that a snapshot's file name says.
pub fn size_in(name: &str) -> Option<u64> {
    name.strip_suffix(".snap")?.parse().ok()
}

/// What is in a snapshot file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Intact(Snapshot),
    Damaged,
    /// Removed since it was listed.
    Gone,
}

pub fn read<D: Disk>(disk: &D, name: &str) -> io::Result<Found> {
    let Some(bytes) = disk.read(&path_of(name))? else {
        return Ok(Found::Gone);
    };
    let snapshot = parse(bytes).filter(|snapshot| *name == format!("{:020}.snap", snapshot.size));
    Ok(snapshot.map_or(Found::Damaged, Found::Intact))
}

fn parse(mut bytes: Vec<u8>) -> Option<Snapshot> {
    let header: [u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
    let body = bytes.split_off(HEADER_BYTES);
    let hash = Sha256::new()
        .chain_update(&header[..HASHED_BYTES])
        .chain_update(&body)
        .finalize();
    let intact = header[..8] == *MAGIC && header[HASHED_BYTES..] == *hash;
    intact.then_some(Snapshot {
        size: u64_at(&header, 8)?,
        root: header[16..HASHED_BYTES].try_into().ok()?,
        body,
    })
}

//! Snapshots of State: a shorter way to the same value. One counts only if it names a size and root that the log has.
//!
//! ```text
//! "HFSNAP\0\x01"  size u64  root 32 bytes  sha256 of the body 32 bytes  body
//! ```

use crate::disk::Disk;
use crate::frame::u64_at;
use crate::merkle::Hash;
use sha2::{Digest, Sha256};
use std::io;

pub const SNAPSHOT_DIR: &str = "snapshots";
const MAGIC: &[u8; 8] = b"HFSNAP\0\x01";
const HEADER_BYTES: usize = 80;
/// Older ones are removed.
const KEPT: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub size: u64,
    pub root: Hash,
    pub body: Vec<u8>,
}

pub fn write(disk: &mut impl Disk, snapshot: &Snapshot) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + snapshot.body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&snapshot.size.to_be_bytes());
    bytes.extend_from_slice(&snapshot.root);
    bytes.extend_from_slice(&Sha256::digest(&snapshot.body));
    bytes.extend_from_slice(&snapshot.body);
    disk.replace(&format!("{SNAPSHOT_DIR}/{:020}.snap", snapshot.size), &bytes)?;
    let names = names(disk)?;
    for old in names.iter().rev().skip(KEPT) {
        disk.remove(&format!("{SNAPSHOT_DIR}/{old}"))?;
    }
    Ok(())
}

/// Names of snapshot files, oldest first.
pub fn names(disk: &impl Disk) -> io::Result<Vec<String>> {
    Ok(disk.list(SNAPSHOT_DIR)?.into_iter().filter(|name| name.ends_with(".snap")).collect())
}

/// None: the file is damaged.
pub fn read(disk: &impl Disk, name: &str) -> io::Result<Option<Snapshot>> {
    let bytes = disk.read(&format!("{SNAPSHOT_DIR}/{name}"))?.unwrap_or_default();
    Ok(parse(&bytes).filter(|snapshot| *name == format!("{:020}.snap", snapshot.size)))
}

fn parse(bytes: &[u8]) -> Option<Snapshot> {
    let header = bytes.get(..HEADER_BYTES)?;
    let body = &bytes[HEADER_BYTES..];
    let intact = header[..8] == *MAGIC && header[48..] == *Sha256::digest(body);
    let root = header[16..48].try_into().ok()?;
    intact.then_some(Snapshot { size: u64_at(header, 8)?, root, body: body.to_vec() })
}

//! The head: a note, off the acknowledged path, of how far the log has come. Two slots written in turn, so that a torn
//! write leaves the other. Damage to the log below it is a loss; only above it can there be a torn tail.
//!
//! ```text
//! slot n at byte 512*n: "HFHD"  epoch u64  size u64  root 32 bytes  crc32c u32   (56 bytes, big-endian)
//! ```

use crate::disk::Disk;
use crate::frame::u64_at;
use crate::merkle::{Hash, empty_root};
use std::io;

pub const HEAD_FILE: &str = "head";
const MAGIC: &[u8; 4] = b"HFHD";
const SLOT_BYTES: u64 = 512;
const USED_BYTES: usize = 56;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub epoch: u64,
    pub size: u64,
    pub root: Hash,
    pub slot: u8,
}

fn to_bytes(head: &Head) -> [u8; USED_BYTES] {
    let mut bytes = [0; USED_BYTES];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4..12].copy_from_slice(&head.epoch.to_be_bytes());
    bytes[12..20].copy_from_slice(&head.size.to_be_bytes());
    bytes[20..52].copy_from_slice(&head.root);
    let crc = crc32c::crc32c(&bytes[..52]);
    bytes[52..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn parse(bytes: &[u8], slot: u8) -> Option<Head> {
    let bytes = bytes.get(usize::from(slot) * SLOT_BYTES as usize..)?.get(..USED_BYTES)?;
    let head = Head { epoch: u64_at(bytes, 4)?, size: u64_at(bytes, 12)?, root: bytes.get(20..52)?.try_into().ok()?, slot };
    (to_bytes(&head) == bytes).then_some(head)
}

/// The newer valid slot; a head of nothing when there is none.
pub fn read(disk: &impl Disk) -> io::Result<Head> {
    let bytes = disk.read(HEAD_FILE)?.unwrap_or_default();
    let newest = [0, 1].into_iter().filter_map(|slot| parse(&bytes, slot)).max_by_key(|head| (head.epoch, head.size));
    Ok(newest.unwrap_or(Head { epoch: 1, size: 0, root: empty_root(), slot: 1 }))
}

/// Which slots hold a valid head; for `verify`.
pub fn slots(disk: &impl Disk) -> io::Result<[Option<Head>; 2]> {
    let bytes = disk.read(HEAD_FILE)?.unwrap_or_default();
    Ok([parse(&bytes, 0), parse(&bytes, 1)])
}

pub fn write(disk: &mut impl Disk, head: &Head) -> io::Result<()> {
    disk.write_at(HEAD_FILE, u64::from(head.slot) * SLOT_BYTES, &to_bytes(head))?;
    disk.sync(HEAD_FILE)
}

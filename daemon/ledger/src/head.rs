//! The head: a note, off the acknowledged path, of how far the log has come. Two slots written in turn, so that a torn
//! write leaves the other. Damage to the log below it is a loss; only above it can there be a torn tail.
//!
//! ```text
//! slot n at byte 512*n: "HFHD"  number u64  epoch u64  size u64  root 32 bytes  clean u32 (0 or 1)  crc32c u32
//!                      (68 bytes, big-endian; n = number mod 2)
//! ```

use crate::disk::Disk;
use crate::frame::u64_at;
use crate::merkle::{Hash, empty_root};
use std::io;

pub const HEAD_FILE: &str = "head";
const MAGIC: &[u8; 4] = b"HFHD";
const SLOT_BYTES: usize = 512;
const USED_BYTES: usize = 68;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Counts the writes of this file, from 1; its parity is the slot.
    pub number: u64,
    pub epoch: u64,
    pub size: u64,
    pub root: Hash,
    /// Written as the last act of a run that ended by itself.
    pub clean: bool,
}

fn to_bytes(head: &Head) -> [u8; USED_BYTES] {
    let mut bytes = [0; USED_BYTES];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4..12].copy_from_slice(&head.number.to_be_bytes());
    bytes[12..20].copy_from_slice(&head.epoch.to_be_bytes());
    bytes[20..28].copy_from_slice(&head.size.to_be_bytes());
    bytes[28..60].copy_from_slice(&head.root);
    bytes[60..64].copy_from_slice(&u32::from(head.clean).to_be_bytes());
    let crc = crc32c::crc32c(&bytes[..64]);
    bytes[64..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn slot_of(number: u64) -> usize {
    (number % 2) as usize
}

fn parse(bytes: &[u8], slot: usize) -> Option<Head> {
    let bytes = bytes.get(slot * SLOT_BYTES..)?.get(..USED_BYTES)?;
    let root = bytes.get(28..60)?.try_into().ok()?;
    let head = Head {
        number: u64_at(bytes, 4)?,
        epoch: u64_at(bytes, 12)?,
        size: u64_at(bytes, 20)?,
        root,
        clean: bytes[63] == 1,
    };
    (to_bytes(&head) == bytes && slot_of(head.number) == slot).then_some(head)
}

/// A slot as it is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Never written.
    Empty,
    Damaged,
    Valid(Head),
}

pub fn slots<D: Disk>(disk: &D) -> io::Result<[Slot; 2]> {
    let bytes = disk.read(HEAD_FILE)?.unwrap_or_default();
    Ok([0, 1].map(|slot| match parse(&bytes, slot) {
        Some(head) => Slot::Valid(head),
        None => {
            let from = (slot * SLOT_BYTES).min(bytes.len());
            let to = (from + USED_BYTES).min(bytes.len());
            if bytes[from..to].iter().all(|byte| *byte == 0) {
                Slot::Empty
            } else {
                Slot::Damaged
            }
        }
    }))
}

/// The newer valid slot; a head of nothing when there is none.
pub fn newest(slots: &[Slot; 2]) -> Head {
    let valid = slots
        .iter()
        .filter_map(|slot| if let Slot::Valid(head) = slot { Some(*head) } else { None });
    let newest = valid.max_by_key(|head| head.number);
    newest.unwrap_or(Head {
        number: 0,
        epoch: 1,
        size: 0,
        root: empty_root(),
        clean: false,
    })
}

/// Not durable before the file is synced.
pub fn write<D: Disk>(disk: &D, head: &Head) -> io::Result<()> {
    disk.write_at(HEAD_FILE, (slot_of(head.number) * SLOT_BYTES) as u64, &to_bytes(head))
}

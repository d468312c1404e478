//! Marks: where a boot may begin to read a segment, so that it takes as long as what came since, whatever the log's length.
//! One counts only if the commit that it points to is in the log and has its root; the log without marks says the same, slower.
//!
//! ```text
//! "HFMARK\0\x01"  first u64  size u64  offset u64  peaks u32  offsets u32  peak 32 bytes each  offset u64 each
//! sha256 of all before                                                                          (big-endian)
//! ```

use crate::disk::{self, Disk, ReplaceError};
use crate::frame::{self, COMMIT_BYTES, Commit, Frame, HEADER_BYTES, Header, u32_at, u64_at};
use crate::log::{SPARSE, Segment, path_of};
use crate::merkle::{Frontier, Hash};
use sha2::{Digest, Sha256};
use std::io;

pub const MARK_DIR: &str = "marks";
const MAGIC: &[u8; 8] = b"HFMARK\0\x01";
const FIXED_BYTES: usize = 40;
const HASH_BYTES: usize = 32;
/// A mark is renewed after so many entries: what a boot after a crash has to read, at most.
pub const MARK_EVERY: u64 = 16_384;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The segment's first entry.
    pub first: u64,
    /// The tree after the commit that ends at `offset`.
    pub frontier: Frontier,
    pub offset: u64,
    /// As `Segment::offsets`.
    pub offsets: Vec<u64>,
}

fn file_of(first: u64) -> String {
    format!("{MARK_DIR}/{first:020}.mark")
}

pub fn names<D: Disk>(disk: &D) -> io::Result<Vec<String>> {
    disk.list(MARK_DIR)
}

pub fn write<D: Disk>(disk: &D, mark: &Mark) -> Result<(), ReplaceError> {
    let peaks = mark.frontier.peaks();
    let mut bytes = Vec::with_capacity(FIXED_BYTES + (peaks.len() + 1) * HASH_BYTES + mark.offsets.len() * 8);
    bytes.extend_from_slice(MAGIC);
    for number in [mark.first, mark.frontier.size(), mark.offset] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    for count in [peaks.len(), mark.offsets.len()] {
        bytes.extend_from_slice(&(count as u32).to_be_bytes());
    }
    bytes.extend(peaks.iter().flatten());
    bytes.extend(mark.offsets.iter().flat_map(|offset| offset.to_be_bytes()));
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    disk::replace(disk, &file_of(mark.first), &bytes)
}

fn parse(bytes: &[u8]) -> Option<Mark> {
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
    if *hash != *Sha256::digest(body) || !body.starts_with(MAGIC) {
        return None;
    }
    let (peaks, offsets) = (u32_at(body, 32)? as usize, u32_at(body, 36)? as usize);
    let (peak_bytes, offset_bytes) = body.get(FIXED_BYTES..)?.split_at_checked(peaks.checked_mul(HASH_BYTES)?)?;
    let peaks: Vec<Hash> = peak_bytes
        .chunks_exact(HASH_BYTES)
        .filter_map(|peak| peak.try_into().ok())
        .collect();
    let mark = Mark {
        first: u64_at(body, 8)?,
        frontier: Frontier::restore(u64_at(body, 16)?, peaks)?,
        offset: u64_at(body, 24)?,
        offsets: (0..offsets).map_while(|n| u64_at(offset_bytes, n * 8)).collect(),
    };
    (offset_bytes.len() == offsets * 8).then_some(mark)
}

/// Removes marks of more than `size` entries.
pub fn remove_beyond<D: Disk>(disk: &D, size: u64) -> io::Result<()> {
    for name in names(disk)? {
        let path = format!("{MARK_DIR}/{name}");
        if disk
            .read(&path)?
            .and_then(|bytes| parse(&bytes))
            .is_none_or(|mark| mark.frontier.size() > size)
        {
            disk.remove(&path)?;
            disk.sync_dir(MARK_DIR)?;
        }
    }
    Ok(())
}

/// Removes the mark of a segment, so that the next boot reads all of it.
pub fn remove<D: Disk>(disk: &D, first: u64) -> io::Result<()> {
    let path = file_of(first);
    match disk.len(&path)? {
        Some(_) => disk.remove(&path).and_then(|()| disk.sync_dir(MARK_DIR)),
        None => Ok(()),
    }
}

/// The segment that begins at `first`, as far as its mark vouches for it. None when there is no mark, or the log does not bear
/// it out.
pub fn take_up<D: Disk>(disk: &D, file: &str, first: u64) -> io::Result<Option<(Mark, Segment, u64)>> {
    let mark = disk.read(&file_of(first))?.and_then(|bytes| parse(&bytes));
    let Some(mark) = mark.filter(|mark| mark.first == first && mark.frontier.size() > first) else {
        return Ok(None);
    };
    let path = path_of(file);
    let Some(header) = Header::parse(&disk.read_at(&path, 0, HEADER_BYTES)?).filter(|header| header.first == first) else {
        return Ok(None);
    };
    let entries = mark.frontier.size() - first;
    let at = mark.offset.saturating_sub(COMMIT_BYTES as u64);
    let commit = disk.read_at(&path, at, COMMIT_BYTES)?;
    let bears_out = matches!(
        frame::parse(&commit),
        Ok((Frame::Commit(Commit { size, root, .. }), _)) if size == mark.frontier.size() && root == mark.frontier.root()
    );
    if !bears_out || mark.offsets.len() as u64 != entries.div_ceil(SPARSE) {
        return Ok(None);
    }
    let segment = Segment {
        file: file.to_owned(),
        first,
        entries,
        bytes: mark.offset,
        offsets: mark.offsets.clone(),
    };
    Ok(Some((mark, segment, header.epoch)))
}

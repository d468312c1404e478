//! Frames of a segment file, to the byte. See the README of this crate for the same in prose.
//!
//! ```text
//! header  "HFLOG\0\0\x01"  epoch u64  first u64  crc32c u32  zero u32      (32 bytes, big-endian)
//! entry   len u32 (1..=65535)         crc32c u32 of the payload  payload: the entry's canonical JSON
//! commit  len u32 = 0x80000000 | 48   crc32c u32 of the payload  payload: size before u64, size u64, root 32 bytes
//! ```

use crate::merkle::Hash;

pub const HEADER_BYTES: usize = 32;
pub const FRAME_HEAD_BYTES: usize = 8;
const MAGIC: &[u8; 8] = b"HFLOG\0\0\x01";
const COMMIT_FLAG: u32 = 0x8000_0000;
const COMMIT_PAYLOAD_BYTES: usize = 48;
pub const COMMIT_BYTES: usize = FRAME_HEAD_BYTES + COMMIT_PAYLOAD_BYTES;
const ENTRY_MAX_BYTES: usize = holdfast_core::entry::ENTRY_MAX_BYTES;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub epoch: u64,
    pub first: u64,
}

impl Header {
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.first.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let header = Header {
            epoch: u64_at(bytes, 8)?,
            first: u64_at(bytes, 16)?,
        };
        (header.to_bytes() == *bytes).then_some(header)
    }
}

/// Ends a batch: what lies before it and after the commit before it is one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Entries before the batch. They were durable before this frame was written.
    pub before: u64,
    pub size: u64,
    /// RFC 6962 root over all `size` entries.
    pub root: Hash,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    Entry(&'a [u8]),
    Commit(Commit),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The bytes end inside the frame.
    Short,
    Length,
    Checksum,
}

impl Broken {
    pub fn what(self) -> &'static str {
        match self {
            Broken::Short => "the file ends inside a frame",
            Broken::Length => "a frame has an impossible length",
            Broken::Checksum => "a frame's checksum does not match its bytes",
        }
    }
}

pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub fn put_entry(out: &mut Vec<u8>, payload: &[u8]) {
    put(out, payload.len() as u32, payload);
}

pub fn put_commit(out: &mut Vec<u8>, commit: &Commit) {
    let mut payload = [0; COMMIT_PAYLOAD_BYTES];
    payload[..8].copy_from_slice(&commit.before.to_be_bytes());
    payload[8..16].copy_from_slice(&commit.size.to_be_bytes());
    payload[16..].copy_from_slice(&commit.root);
    put(out, COMMIT_FLAG | COMMIT_PAYLOAD_BYTES as u32, &payload);
}

fn put(out: &mut Vec<u8>, length: u32, payload: &[u8]) {
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&crc32c::crc32c(payload).to_be_bytes());
    out.extend_from_slice(payload);
}

/// The frame at the beginning of `bytes`, and its length.
pub fn parse(bytes: &[u8]) -> Result<(Frame<'_>, usize), Broken> {
    let length = u32_at(bytes, 0).ok_or(Broken::Short)?;
    let is_commit = length & COMMIT_FLAG != 0;
    let payload_bytes = (length & !COMMIT_FLAG) as usize;
    let fits = if is_commit {
        payload_bytes == COMMIT_PAYLOAD_BYTES
    } else {
        (1..=ENTRY_MAX_BYTES).contains(&payload_bytes)
    };
    if !fits {
        return Err(Broken::Length);
    }
    let crc = u32_at(bytes, 4).ok_or(Broken::Short)?;
    let payload = bytes
        .get(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + payload_bytes)
        .ok_or(Broken::Short)?;
    if crc32c::crc32c(payload) != crc {
        return Err(Broken::Checksum);
    }
    let frame = if is_commit {
        Frame::Commit(parse_commit(payload).ok_or(Broken::Length)?)
    } else {
        Frame::Entry(payload)
    };
    Ok((frame, FRAME_HEAD_BYTES + payload_bytes))
}

fn parse_commit(payload: &[u8]) -> Option<Commit> {
    Some(Commit {
        before: u64_at(payload, 0)?,
        size: u64_at(payload, 8)?,
        root: payload.get(16..)?.try_into().ok()?,
    })
}

/// Whether a valid commit frame of a batch that began above `size` begins anywhere in `bytes`. Its writer saw everything
/// before that batch synced, so damage there is a loss. The commit of the batch just above `size` says no such thing: a
/// disk may write the end of a batch before its beginning.
pub fn has_commit_beyond(bytes: &[u8], size: u64) -> bool {
    let mark = (COMMIT_FLAG | COMMIT_PAYLOAD_BYTES as u32).to_be_bytes();
    bytes
        .windows(4)
        .enumerate()
        .filter(|(_, window)| *window == mark)
        .any(|(at, _)| matches!(parse(&bytes[at..]), Ok((Frame::Commit(commit), _)) if commit.before > size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let commit = Commit {
            before: 6,
            size: 7,
            root: [9; 32],
        };
        let mut bytes = Vec::new();
        put_entry(&mut bytes, b"{}");
        put_commit(&mut bytes, &commit);
        assert_eq!(parse(&bytes).unwrap(), (Frame::Entry(b"{}"), 10));
        assert_eq!(parse(&bytes[10..]).unwrap(), (Frame::Commit(commit), COMMIT_BYTES));
        assert!(has_commit_beyond(&bytes, 5));
        assert!(
            !has_commit_beyond(&bytes, 6),
            "a batch's own commit says nothing about its beginning"
        );
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let start = if at < 10 { 0 } else { 10 };
            assert!(parse(&damaged[start..]).is_err(), "byte {at}");
        }
        for end in 0..10 {
            assert!(parse(&bytes[..end]).is_err());
        }
    }
}

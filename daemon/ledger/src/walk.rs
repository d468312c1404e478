//! Reads one segment from its first byte to its last, in pieces: boot and the verifier see the same frames the same way.

use crate::disk::Disk;
use crate::frame::{self, Broken, Commit, Frame, HEADER_BYTES, Header};
use crate::merkle::{Frontier, Hash, leaf_hash};
use std::io;

const PIECE_BYTES: usize = 4 << 20;

/// What a walk meets, in order.
pub enum Step<'a> {
    Entry {
        seq: u64,
        offset: u64,
        payload: &'a [u8],
        leaf: Hash,
    },
    /// After an entry and before its commit: the tree at a size that somebody claims a root for.
    Claimed {
        frontier: &'a Frontier,
    },
    Commit {
        commit: Commit,
        end: u64,
    },
}

/// Where the bytes stop to make sense, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The first entry that is not proven whole.
    pub seq: u64,
    pub offset: u64,
    pub what: &'static str,
}

/// What a walk knows when it is over.
pub struct Walked {
    pub epoch: u64,
    /// Bytes up to the end of the last commit; 0 when there is none.
    pub committed_bytes: u64,
    pub stop: Option<Stop>,
}

pub fn file_of(first: u64) -> String {
    format!("{first:020}.log")
}

/// The first entry of the segment at `path`.
pub fn first_of(path: &str) -> Option<u64> {
    let name = path.rsplit('/').next()?.strip_suffix(".log")?;
    name.parse().ok()
}

/// A place in a segment to walk from: its beginning, or after a commit.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The segment's first entry.
    pub first: u64,
    /// 0, or where a commit ends.
    pub offset: u64,
}

/// `frontier` holds what is committed before the place walked from, and afterwards what is committed after it. `claims` are
/// sizes to stop by, ascending.
pub fn walk_segment<D: Disk>(
    disk: &D,
    path: &str,
    from: Place,
    frontier: &mut Frontier,
    claims: &[u64],
    mut visit: impl FnMut(Step<'_>),
) -> io::Result<Walked> {
    let first = from.first;
    let mut walked = Walked {
        epoch: 0,
        committed_bytes: from.offset,
        stop: None,
    };
    let stop_at = |seq, offset, what| Some(Stop { seq, offset, what });
    match Header::parse(&disk.read_at(path, 0, HEADER_BYTES)?) {
        Some(header) if header.first == first && path.ends_with(&file_of(first)) => walked.epoch = header.epoch,
        Some(_) => {
            walked.stop = stop_at(first, 0, "the segment is not the one that belongs here");
            return Ok(walked);
        }
        None => {
            walked.stop = stop_at(first, 0, "the segment's header is damaged");
            return Ok(walked);
        }
    }
    let mut tree = frontier.clone();
    let committed = frontier.size();
    let mut claims = claims.iter().skip_while(|size| **size <= committed).peekable();
    // `buffer[at..]` is what lies at `offset`.
    let (mut buffer, mut at, mut offset) = (Vec::new(), 0, from.offset.max(HEADER_BYTES as u64));
    loop {
        match frame::parse(&buffer[at..]) {
            Ok((Frame::Entry(payload), length)) => {
                let leaf = leaf_hash(payload);
                visit(Step::Entry {
                    seq: tree.size(),
                    offset,
                    payload,
                    leaf,
                });
                tree.push(leaf);
                at += length;
                offset += length as u64;
                if claims.next_if(|size| **size == tree.size()).is_some() {
                    visit(Step::Claimed { frontier: &tree });
                }
            }
            Ok((Frame::Commit(commit), length)) => {
                let fits = commit.before == frontier.size() && commit.size == tree.size() && commit.before < commit.size;
                if !fits || commit.root != tree.root() {
                    let what = if fits {
                        "a commit's root does not match the entries before it"
                    } else {
                        "a commit does not follow the entries it is for"
                    };
                    walked.stop = stop_at(frontier.size(), offset, what);
                    return Ok(walked);
                }
                at += length;
                offset += length as u64;
                frontier.clone_from(&tree);
                walked.committed_bytes = offset;
                visit(Step::Commit { commit, end: offset });
            }
            Err(Broken::Short) => {
                buffer.drain(..at);
                at = 0;
                let more = disk.read_at(path, offset + buffer.len() as u64, PIECE_BYTES)?;
                if !more.is_empty() {
                    buffer.extend_from_slice(&more);
                    continue;
                }
                walked.stop = if !buffer.is_empty() {
                    stop_at(tree.size(), offset, Broken::Short.what())
                } else if tree.size() > frontier.size() {
                    stop_at(
                        frontier.size(),
                        walked.committed_bytes.max(HEADER_BYTES as u64),
                        "the file ends before the commit of these entries",
                    )
                } else if tree.size() == first {
                    stop_at(first, 0, "the segment holds no entries")
                } else {
                    None
                };
                return Ok(walked);
            }
            Err(broken) => {
                walked.stop = stop_at(tree.size(), offset, broken.what());
                return Ok(walked);
            }
        }
    }
}

/// As `frame::has_commit_beyond`, over the rest of a file.
pub fn has_commit_beyond<D: Disk>(disk: &D, path: &str, from: u64, size: u64) -> io::Result<bool> {
    let mut offset = from;
    let mut buffer = Vec::new();
    loop {
        let more = disk.read_at(path, offset, PIECE_BYTES)?;
        if more.is_empty() {
            return Ok(false);
        }
        offset += more.len() as u64;
        buffer.extend_from_slice(&more);
        if frame::has_commit_beyond(&buffer, size) {
            return Ok(true);
        }
        // A commit may lie across two pieces.
        buffer.drain(..buffer.len().saturating_sub(frame::COMMIT_BYTES));
    }
}

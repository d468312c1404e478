//! Segments of the index that are complete: a note beside each says so, and sled is opened when somebody asks.

use super::IndexError;
use super::segment::{Progress, SegmentIndex, note_of};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// sled databases of complete segments that are open at once.
pub const OPEN_MAX: usize = 2;

#[derive(Debug, Clone, Copy)]
pub struct Sealed {
    pub first: u64,
    pub progress: Progress,
    /// Ledger time of the last entry.
    pub last_t: u64,
}

/// What a note says; none when there is none, or it is damaged.
pub fn read_note(dir: &Path, first: u64) -> Option<Progress> {
    let bytes = std::fs::read(note_of(dir, first)).ok()?;
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    let progress = Progress::parse(body)?;
    (u32::from_be_bytes(*crc) == crc32c::crc32c(body)).then_some(progress)
}

/// Not synced: a note without the database that it is of is found out when that is opened.
pub fn write_note(dir: &Path, first: u64, progress: &Progress) -> Result<(), IndexError> {
    let mut bytes = progress.to_bytes();
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    std::fs::write(note_of(dir, first), bytes).map_err(|source| IndexError::Directory {
        dir: dir.to_owned(),
        source,
    })
}

/// The last ones that were asked for, newest last. One question of a complete segment at a time.
#[derive(Default)]
pub struct OpenSegments(Mutex<Vec<SegmentIndex>>);

impl OpenSegments {
    /// None when the database is not the one that the note is of: it has to be built again.
    pub fn ask<T>(
        &self,
        dir: &Path,
        sealed: &Sealed,
        ask: impl FnOnce(&SegmentIndex) -> Result<T, IndexError>,
    ) -> Result<Option<T>, IndexError> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let segment = match open.iter().position(|segment| segment.first == sealed.first) {
            Some(at) => open.remove(at),
            None => {
                if open.len() >= OPEN_MAX {
                    open.remove(0);
                }
                let segment = SegmentIndex::open(dir, sealed.first)?;
                if !matches!(segment.progress(), Ok(Some(progress)) if progress == sealed.progress) {
                    return Ok(None);
                }
                segment
            }
        };
        match ask(&segment) {
            Ok(answer) => {
                open.push(segment);
                Ok(Some(answer))
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    first = sealed.first,
                    "the index failed"
                );
                Ok(None)
            }
        }
    }

    pub fn close(&self, first: u64) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|segment| segment.first != first);
    }

    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

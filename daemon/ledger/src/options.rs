//! Sizes that an operator or a test may want otherwise.

use crate::tlog::note::VerifierKey;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A segment of the log is closed at this many entries or bytes, whichever comes first. The index has one database for
    /// as many entries.
    pub segment_entries: u64,
    pub segment_bytes: u64,
    pub blob_max_bytes: u64,
    /// Room that stays free for the results and the undoing of what already runs: below it, nothing new is begun.
    pub reserve_bytes: u64,
    /// This log's keys, under the present epoch's name: the published checkpoint is believed when one of them signed it.
    pub log_keys: Vec<VerifierKey>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_entries: 1_000_000,
            segment_bytes: 1 << 30,
            blob_max_bytes: 16 << 20,
            reserve_bytes: 64 << 20,
            log_keys: Vec::new(),
        }
    }
}

/// What the disk has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub available_bytes: u64,
    pub reserve_bytes: u64,
}

impl Room {
    /// Whether something new may begin that may write so much, and still leave the reserve.
    pub fn admits(&self, bytes: u64) -> bool {
        self.available_bytes >= self.reserve_bytes.saturating_add(bytes)
    }
}

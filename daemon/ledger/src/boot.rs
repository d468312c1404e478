//! Opening the log: what is committed, what is a torn tail, and what is a loss.
//!
//! Everything that was written after an acknowledgement is a witness of it: the head's slots, snapshots, and the commits
//! of later batches. Damage below any of them is a loss. Only what lies above all of them was never acknowledged.

use crate::claim::{self, Claim, Source};
use crate::disk::{self, Disk};
use crate::epoch;
use crate::frame::{HEADER_BYTES, Header};
use crate::head::{self, HEAD_FILE, Head, Slot};
use crate::log::{LOG_DIR, LogError, SPARSE, Segment, path_of};
use crate::mark;
use crate::merkle::{Frontier, Hash, empty_root};
use crate::options::Options;
use crate::snapshot::{self, Found, Snapshot};
use crate::tlog::checkpoint::SignedCheckpoint;
use crate::tlog::publish;
use crate::tlog::tile::{self, Tiles};
use crate::walk::{Place, Step, Stop, file_of, has_commit_beyond, walk_segment};
use std::io;

/// Damage to something that was acknowledged. Writing is refused; reading works below it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Loss {
    /// The first entry that cannot be read or proven any more. Entries below it are intact.
    pub first_damaged_seq: u64,
    pub file: String,
    pub offset: u64,
    pub what: String,
    /// So many entries were acknowledged, at least.
    pub acknowledged: u64,
}

pub struct Booted {
    pub segments: Vec<Segment>,
    pub frontier: Frontier,
    pub epoch: u64,
    pub head: Head,
    pub cut_bytes: u64,
    pub loss: Option<Loss>,
    pub snapshot: Option<Snapshot>,
    pub ignored: Vec<String>,
    /// So many entries are below the newest mark.
    pub marked_size: u64,
    /// Segments that ended without a whole mark, and the tree there.
    pub unmarked: Vec<(u64, Frontier)>,
    /// The epoch before and the entries that it left, when nothing but the log says yet that another has begun.
    pub begun_after: Option<(u64, u64)>,
}

fn reading(path: &str) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Read { path, source }
}

pub fn boot<D: Disk>(disk: &D, options: &Options, read_only: bool) -> Result<Booted, LogError> {
    let slots = head::slots(disk).map_err(reading(HEAD_FILE))?;
    let head = head::newest(&slots);
    // The other slot says less, and of the same run.
    let mut claims = claim::of_heads(&slots);
    claims.retain(|claim| claim.size == head.size);
    let (mut snapshots, mut ignored) = read_snapshots(disk)?;
    let files = log_files(disk)?;
    let begun_after = begun_after(disk, &slots, &head, &files)?;
    if let Some((_, kept)) = begun_after {
        claims.clear();
        snapshots.retain(|snapshot| snapshot.size <= kept);
    }
    claims.extend(
        snapshots
            .iter()
            .map(|snapshot| Claim::new(Source::Snapshot, snapshot::SNAPSHOT_DIR, snapshot.size, snapshot.root)),
    );
    match publish::read_checkpoint(disk, &options.log_keys).map_err(reading(&publish::checkpoint_file()))? {
        _ if begun_after.is_some() => {}
        Some(Ok(SignedCheckpoint { checkpoint, .. })) => {
            let file = publish::checkpoint_file();
            claims.push(Claim::new(Source::Checkpoint, &file, checkpoint.size, checkpoint.root));
        }
        Some(Err(error)) if !options.log_keys.is_empty() => ignored.push(format!("published checkpoint: {error}")),
        _ => {}
    }
    let witnessed = claims.iter().map(|claim| claim.size).max().unwrap_or(0);

    let mut scan = Scan {
        frontier: Frontier::default(),
        claims,
        epoch: 1,
        segments: Vec::new(),
        unsure: Vec::new(),
        synced_size: begun_after.map_or(head.size, |(_, kept)| kept),
        tiles: Tiles::new(disk.clone(), tile::published_size(disk)),
        stop: None,
        marked_size: 0,
        unmarked: Vec::new(),
    };
    claim::settle(&mut scan.claims, 0, empty_root());
    for file in &files {
        scan.segment(disk, file)?;
        if scan.stop.is_some() {
            break;
        }
    }
    let Scan {
        frontier,
        claims,
        epoch,
        mut segments,
        unsure,
        stop,
        marked_size,
        mut unmarked,
        ..
    } = scan;
    // The last one is not over.
    unmarked.retain(|(first, _)| segments.last().is_some_and(|last| last.first != *first));
    let size = frontier.size();
    let mut loss = None;
    let mut cut_bytes = 0;
    let mut cut = None;
    if let Some((path, committed_bytes, stop)) = &stop {
        let later =
            segments.len() < files.len() || has_commit_beyond(disk, path, *committed_bytes, size).map_err(reading(path))?;
        if later || size < witnessed {
            loss = Some(Loss {
                first_damaged_seq: stop.seq,
                file: path.clone(),
                offset: stop.offset,
                what: stop.what.into(),
                acknowledged: witnessed.max(stop.seq + 1),
            });
        } else {
            let len = disk.len(path).map_err(reading(path))?.unwrap_or(0);
            cut_bytes = len.saturating_sub(*committed_bytes);
            cut = Some((path.clone(), *committed_bytes));
        }
    } else if size < witnessed {
        let (file, offset) = segments
            .last()
            .map_or((LOG_DIR.into(), 0), |segment| (path_of(&segment.file), segment.bytes));
        let what = "the log ends before what was written after it was acknowledged".into();
        loss = Some(Loss {
            first_damaged_seq: size,
            file,
            offset,
            what,
            acknowledged: witnessed,
        });
    }
    if loss.is_none() {
        let other = claims
            .iter()
            .find(|claim| claim.is_witness() && claim.found != Some(claim.root));
        loss = other.map(|claim| Loss {
            first_damaged_seq: 0,
            file: claim.file.clone(),
            offset: 0,
            what: format!(
                "the log's root over {} entries is not the one that is named there: it is another log, or was rewritten",
                claim.size
            ),
            acknowledged: claim.size,
        });
    }
    if loss.is_none() && epoch::is_half_begun(disk, epoch).map_err(reading(epoch::LOST_DIR))? {
        loss = Some(Loss {
            first_damaged_seq: size,
            file: LOG_DIR.into(),
            offset: 0,
            what: format!("epoch {} was begun and is not complete: give the command again", epoch + 1),
            acknowledged: size,
        });
    }
    segments.retain(|segment| segment.entries > 0);
    if loss.is_none() && !read_only {
        settle_tail(disk, cut, &unsure)?;
    }
    let mut snapshot = None;
    let of_snapshots = claims.iter().filter(|claim| claim.source == Source::Snapshot);
    for (candidate, claim) in snapshots.into_iter().zip(of_snapshots) {
        if claim.found == Some(claim.root) {
            snapshot = Some(candidate);
        } else {
            ignored.push(format!("snapshot of {} entries: its root is not the log's", candidate.size));
        }
    }
    Ok(Booted {
        segments,
        frontier,
        epoch,
        head,
        cut_bytes,
        loss,
        snapshot,
        ignored,
        marked_size,
        unmarked,
        begun_after,
    })
}

/// Whether the log is of a later epoch than its head: then whatever else was written beside it is of the epoch before.
fn begun_after<D: Disk>(disk: &D, slots: &[Slot; 2], head: &Head, files: &[String]) -> Result<Option<(u64, u64)>, LogError> {
    let Some(last) = files
        .last()
        .filter(|_| slots.iter().any(|slot| matches!(slot, Slot::Valid(_))))
    else {
        return Ok(None);
    };
    let path = path_of(last);
    let header = Header::parse(&disk.read_at(&path, 0, HEADER_BYTES).map_err(reading(&path))?);
    Ok(header
        .filter(|header| header.epoch > head.epoch && *last == file_of(header.first))
        .map(|header| (head.epoch, header.first)))
}

/// Bytes that a process wrote and perhaps could not sync: everything committed above the head.
struct Unsure {
    path: String,
    from: u64,
    to: u64,
}

fn settle_tail<D: Disk>(disk: &D, cut: Option<(String, u64)>, unsure: &[Unsure]) -> Result<(), LogError> {
    let writing = |path: &str| {
        let path = path.to_owned();
        move |source| LogError::Write { path, source }
    };
    if let Some((path, keep_bytes)) = &cut {
        // A segment of which nothing was committed is begun anew.
        let done = if *keep_bytes == 0 {
            disk.remove(path)
        } else {
            disk.truncate(path, *keep_bytes)
        };
        done.map_err(writing(path))?;
    }
    // A process killed before its sync leaves whole batches in the page cache, and one whose sync failed leaves them there
    // as clean although the disk does not have them. They count from here on, so they are written again and synced.
    for Unsure { path, from, to } in unsure {
        let bytes = disk.read_at(path, *from, (to - from) as usize).map_err(reading(path))?;
        if *from == 0 {
            // Its name may be as little on the disk as its content.
            disk::replace(disk, path, &bytes).map_err(|error| writing(path)(error.source))?;
        } else {
            disk.write_at(path, *from, &bytes)
                .and_then(|()| disk.sync_data(path))
                .map_err(writing(path))?;
        }
    }
    if unsure.is_empty() && cut.is_none() {
        return Ok(());
    }
    disk.sync_dir(LOG_DIR).map_err(writing(LOG_DIR))
}

pub fn log_files<D: Disk>(disk: &D) -> Result<Vec<String>, LogError> {
    let files = disk.list(LOG_DIR).map_err(reading(LOG_DIR))?;
    Ok(files.into_iter().filter(|file| file.ends_with(".log")).collect())
}

fn read_snapshots<D: Disk>(disk: &D) -> Result<(Vec<Snapshot>, Vec<String>), LogError> {
    let mut intact = Vec::new();
    let mut ignored = Vec::new();
    for name in snapshot::names(disk).map_err(reading(snapshot::SNAPSHOT_DIR))? {
        match snapshot::read(disk, &name) {
            Ok(Found::Intact(snapshot)) => intact.push(snapshot),
            Ok(Found::Damaged) => ignored.push(format!("snapshot {name}: damaged")),
            Ok(Found::Gone) => {}
            Err(error) => ignored.push(format!("snapshot {name}: {error}")),
        }
    }
    Ok((intact, ignored))
}

/// What is known of the log so far, segment by segment.
struct Scan<D> {
    frontier: Frontier,
    claims: Vec<Claim>,
    epoch: u64,
    segments: Vec<Segment>,
    unsure: Vec<Unsure>,
    /// So many entries are on the disk for certain.
    synced_size: u64,
    tiles: Tiles<D>,
    stop: Option<(String, u64, Stop)>,
    marked_size: u64,
    unmarked: Vec<(u64, Frontier)>,
}

impl<D: Disk> Scan<D> {
    fn segment(&mut self, disk: &D, file: &str) -> Result<(), LogError> {
        let path = path_of(file);
        let first = self.frontier.size();
        let mut segment = Segment {
            file: file.into(),
            first,
            entries: 0,
            bytes: 0,
            offsets: Vec::new(),
        };
        if let Some((mark, marked, epoch)) = mark::take_up(disk, file, first).map_err(reading(&path))? {
            let (size, root) = (mark.frontier.size(), mark.frontier.root());
            if claim::settle_by_tiles(&mut self.claims, &self.tiles, first, size, &root) {
                claim::settle(&mut self.claims, size, root);
                (segment, self.frontier) = (marked, mark.frontier);
                self.marked_size = size;
                self.epoch = self.epoch.max(epoch);
            }
        }
        let from = Place {
            first,
            offset: segment.bytes,
        };
        let sizes = claim::sizes(&self.claims);
        // A mark is made of what was synced.
        let mut synced_bytes = segment.bytes;
        // Claims of sizes inside a batch count once the batch's commit was seen.
        let mut pending: Vec<(u64, Hash)> = Vec::new();
        let walked = walk_segment(disk, &path, from, &mut self.frontier, &sizes, |step| match step {
            Step::Entry { seq, offset, .. } => {
                if (seq - first).is_multiple_of(SPARSE) {
                    segment.offsets.push(offset);
                }
            }
            Step::Claimed { frontier } => pending.push((frontier.size(), frontier.root())),
            Step::Commit { commit, end } => {
                segment.entries = commit.size - first;
                segment.bytes = end;
                if commit.size <= self.synced_size {
                    synced_bytes = end;
                }
            }
        })
        .map_err(reading(&path))?;
        segment.offsets.truncate(segment.entries.div_ceil(SPARSE) as usize);
        for (size, root) in pending.into_iter().filter(|(size, _)| *size <= self.frontier.size()) {
            claim::settle(&mut self.claims, size, root);
        }
        if synced_bytes < segment.bytes {
            self.unsure.push(Unsure {
                path: path.clone(),
                from: synced_bytes,
                to: segment.bytes,
            });
        }
        if self.marked_size < self.frontier.size() {
            self.unmarked.push((first, self.frontier.clone()));
        }
        self.epoch = walked.epoch.max(self.epoch);
        self.stop = walked.stop.map(|stop| (path, walked.committed_bytes, stop));
        self.segments.push(segment);
        Ok(())
    }
}

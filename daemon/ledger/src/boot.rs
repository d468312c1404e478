//! Opening the log: what is committed, what is a torn tail, and what is a loss.
//!
//! Everything that was written after an acknowledgement is a witness of it: the head's slots, snapshots, and the commits
//! of later batches. Damage below any of them is a loss. Only what lies above all of them was never acknowledged.

use crate::disk::{self, Disk};
use crate::head::{self, HEAD_FILE, Head, Slot};
use crate::log::{LOG_DIR, LogError, SPARSE, Segment, path_of};
use crate::merkle::{Frontier, Hash, empty_root};
use crate::snapshot::{self, Found, Snapshot};
use crate::walk::{Step, Stop, has_commit_beyond, walk_segment};
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

/// A size and root that something outside the log's frames claims.
pub struct Claim {
    pub size: u64,
    pub root: Hash,
    pub file: String,
    /// The log's own root at that size, once it is known.
    pub found: Option<Hash>,
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
}

fn reading(path: &str) -> impl FnOnce(io::Error) -> LogError {
    move |source| LogError::Read {
        path: path.into(),
        source,
    }
}

/// Reads everything that says what the log should hold. Called before the log is read, so that a writer at work in
/// another process can only be ahead of it.
pub fn claims_of_heads(slots: &[Slot; 2]) -> Vec<Claim> {
    let valid = slots
        .iter()
        .filter_map(|slot| if let Slot::Valid(head) = slot { Some(head) } else { None });
    valid
        .map(|head| Claim {
            size: head.size,
            root: head.root,
            file: HEAD_FILE.into(),
            found: None,
        })
        .collect()
}

pub fn boot<D: Disk>(disk: &D, read_only: bool) -> Result<Booted, LogError> {
    let slots = head::slots(disk).map_err(reading(HEAD_FILE))?;
    let mut claims = claims_of_heads(&slots);
    let (snapshots, mut ignored) = read_snapshots(disk)?;
    for snapshot in &snapshots {
        claims.push(Claim {
            size: snapshot.size,
            root: snapshot.root,
            file: snapshot::SNAPSHOT_DIR.into(),
            found: None,
        });
    }
    let witnessed = claims.iter().map(|claim| claim.size).max().unwrap_or(0);

    let files = log_files(disk)?;
    let mut frontier = Frontier::default();
    settle(&mut claims, frontier.size(), empty_root());
    let mut segments: Vec<Segment> = Vec::new();
    let mut epoch = 1;
    let mut stop: Option<(String, u64, Stop)> = None;
    // Per segment, the bytes of what was acknowledged for certain.
    let mut settled_bytes: Vec<u64> = Vec::new();
    for file in &files {
        let (segment, settled) = scan_segment(disk, file, witnessed, &mut frontier, &mut claims, &mut epoch, &mut stop)?;
        segments.push(segment);
        settled_bytes.push(settled);
        if stop.is_some() {
            break;
        }
    }
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
            .find(|claim| claim.file == HEAD_FILE && claim.found != Some(claim.root));
        loss = other.map(|claim| Loss {
            first_damaged_seq: 0,
            file: HEAD_FILE.into(),
            offset: 0,
            what: format!(
                "the log's root over {} entries is not the one that the head names: it is another log, or was rewritten",
                claim.size
            ),
            acknowledged: claim.size,
        });
    }
    if loss.is_none() && !read_only {
        settle_tail(disk, cut, segments.iter().zip(settled_bytes))?;
    }
    segments.retain(|segment| segment.entries > 0);
    let mut snapshot = None;
    for (candidate, claim) in snapshots
        .into_iter()
        .zip(claims.iter().filter(|claim| claim.file != HEAD_FILE))
    {
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
        head: head::newest(&slots),
        cut_bytes,
        loss,
        snapshot,
        ignored,
    })
}

fn settle_tail<'a, D: Disk>(
    disk: &D,
    cut: Option<(String, u64)>,
    segments: impl Iterator<Item = (&'a Segment, u64)>,
) -> Result<(), LogError> {
    let writing = |path: &str| {
        let path = path.to_owned();
        move |source| LogError::Write { path, source }
    };
    if let Some((path, keep_bytes)) = &cut {
        // A segment of which nothing was committed is begun anew.
        let done = if *keep_bytes == 0 {
            disk.remove(path)
        } else {
            disk.truncate(path, *keep_bytes).and_then(|()| disk.sync_data(path))
        };
        done.map_err(writing(path))?;
    }
    // A process killed before its sync leaves a whole batch in the page cache, and so does one whose sync failed; after that,
    // another sync writes nothing and says that it is done. What counts from here on and nobody has witnessed is therefore
    // written again, over the same bytes, before anything is built upon it.
    let mut touched = cut.is_some();
    for (segment, settled_bytes) in segments.filter(|(segment, settled)| segment.entries > 0 && *settled < segment.bytes) {
        let path = path_of(&segment.file);
        let len = usize::try_from(segment.bytes - settled_bytes).unwrap_or(usize::MAX);
        let tail = disk.read_at(&path, settled_bytes, len).map_err(reading(&path))?;
        if settled_bytes == 0 {
            // Not even its name is known to be durable.
            disk::replace(disk, &path, &tail).map_err(|error| writing(&path)(error.source))?;
        } else {
            let written = disk
                .write_at(&path, settled_bytes, &tail)
                .and_then(|()| disk.sync_data(&path));
            written.map_err(writing(&path))?;
        }
        touched = true;
    }
    if touched {
        disk.sync_dir(LOG_DIR).map_err(writing(LOG_DIR))
    } else {
        Ok(())
    }
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

/// Fills in what the log says at a claimed size.
pub fn settle(claims: &mut [Claim], size: u64, root: Hash) {
    for claim in claims.iter_mut().filter(|claim| claim.size == size) {
        claim.found = Some(root);
    }
}

/// Sizes that anybody claims a root for, ascending.
pub fn claimed_sizes(claims: &[Claim]) -> Vec<u64> {
    let mut sizes: Vec<u64> = claims.iter().map(|claim| claim.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

fn scan_segment<D: Disk>(
    disk: &D,
    file: &str,
    witnessed: u64,
    frontier: &mut Frontier,
    claims: &mut [Claim],
    epoch: &mut u64,
    stop: &mut Option<(String, u64, Stop)>,
) -> Result<(Segment, u64), LogError> {
    let path = path_of(file);
    let mut segment = Segment {
        file: file.into(),
        first: frontier.size(),
        entries: 0,
        bytes: 0,
        offsets: Vec::new(),
    };
    let mut settled_bytes = 0;
    let sizes = claimed_sizes(claims);
    // Claims of sizes inside a batch count once the batch's commit was seen.
    let mut pending: Vec<(u64, Hash)> = Vec::new();
    let walked = walk_segment(disk, &path, frontier, &sizes, |step| match step {
        Step::Entry { seq, offset, .. } => {
            if (seq - segment.first).is_multiple_of(SPARSE) {
                segment.offsets.push(offset);
            }
        }
        Step::Claimed { frontier } => pending.push((frontier.size(), frontier.root())),
        Step::Commit { commit, end } => {
            segment.entries = commit.size - segment.first;
            segment.bytes = end;
            if commit.size <= witnessed {
                settled_bytes = end;
            }
        }
    })
    .map_err(reading(&path))?;
    segment.offsets.truncate(segment.entries.div_ceil(SPARSE) as usize);
    for (size, root) in pending.into_iter().filter(|(size, _)| *size <= frontier.size()) {
        settle(claims, size, root);
    }
    *epoch = walked.epoch.max(*epoch);
    *stop = walked.stop.map(|stop| (path, walked.committed_bytes, stop));
    Ok((segment, settled_bytes))
}

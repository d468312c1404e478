//! A disk in memory that does what disks do at the worst moment: a crash keeps any part of what was not synced, writes
//! sectors out of order, forgets names, fills up, and fails an fsync, after which the dirty pages count as clean. Seeded, so
//! that a run can be repeated.

use crate::disk::{Disk, parent};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default, Clone)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors of `current` that are newer than in `durable`.
    dirty: BTreeSet<usize>,
}

#[derive(Clone)]
enum NameChange {
    Put { path: String, inode: usize },
    Drop { path: String },
}

#[derive(Default, Clone)]
struct Inner {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names that are not durable yet, in order.
    pending: Vec<NameChange>,
    /// Bytes that may still be written; none: without limit.
    room: Option<u64>,
    syncs: u64,
    failing_syncs: BTreeSet<u64>,
    failing_reads: BTreeSet<String>,
    changes: u64,
    crash_after: Option<u64>,
    dead: bool,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    pub fn new() -> Self {
        Self::of(Inner::default())
    }

    fn of(inner: Inner) -> Self {
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many bytes can still be written, then the disk is full. Truncating and removing give room back.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.lock().room = bytes;
    }

    /// The `nth` sync from now on, from 1, answers EIO.
    pub fn fail_sync(&self, nth: u64) {
        let mut inner = self.lock();
        let at = inner.syncs + nth;
        inner.failing_syncs.insert(at);
    }

    /// Reading the file answers EIO from now on.
    pub fn fail_reads(&self, path: &str) {
        self.lock().failing_reads.insert(path.to_owned());
    }

    /// Syncs of files and directories so far.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Changes (writes, syncs, renames ...) so far.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// After so many more changes the power is gone: every call answers an error, until `crash` gives a new disk.
    pub fn crash_after(&self, changes: u64) {
        let mut inner = self.lock();
        inner.crash_after = Some(inner.changes + changes);
    }

    /// The disk as found after a power cut: whatever was synced, and of the rest what `seed` says. Handles to the old one
    /// answer errors from now on. Faults that were set are gone.
    pub fn crash(&self, seed: u64) -> Self {
        let mut inner = self.lock();
        inner.dead = true;
        let mut random = Random(seed);
        let mut names = inner.durable_names.clone();
        let kept = random.below(inner.pending.len() as u64 + 1) as usize;
        for change in &inner.pending[..kept] {
            apply(&mut names, change);
        }
        let inodes = inner.inodes.iter().map(|inode| after_crash(inode, &mut random)).collect();
        Self::of(Inner {
            inodes,
            durable_names: names.clone(),
            names,
            ..Inner::default()
        })
    }

    /// The disk as the next process finds it when only the process was killed.
    pub fn kill(&self) -> Self {
        let mut inner = self.lock();
        let next = Inner {
            dead: false,
            crash_after: None,
            ..inner.clone()
        };
        inner.dead = true;
        Self::of(next)
    }

    /// An independent copy, without the faults.
    pub fn copy(&self) -> Self {
        Self::of(Inner {
            dead: false,
            crash_after: None,
            room: None,
            failing_syncs: BTreeSet::new(),
            failing_reads: BTreeSet::new(),
            ..self.lock().clone()
        })
    }

    /// All files, for damaging them: `damage` changes the content in place, durably.
    pub fn files(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    pub fn damage(&self, path: &str, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.lock();
        if let Some(inode) = inner.names.get(path).copied() {
            let inode = &mut inner.inodes[inode];
            damage(&mut inode.current);
            inode.durable.clone_from(&inode.current);
            inode.dirty.clear();
        }
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Put { path, inode } => {
            names.insert(path.clone(), *inode);
        }
        NameChange::Drop { path } => {
            names.remove(path);
        }
    }
}

fn sectors(from: usize, to: usize) -> std::ops::Range<usize> {
    from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES)
}

fn after_crash(inode: &Inode, random: &mut Random) -> Inode {
    let mut content = inode.durable.clone();
    if inode.current.len() < content.len() && random.below(2) == 0 {
        content.truncate(inode.current.len());
    }
    // How eager the disk was differs from crash to crash: all, none or some.
    let eagerness = [0, 1, 50, 50, 99, 100][random.below(6) as usize];
    for sector in &inode.dirty {
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(inode.current.len());
        if from < to && random.below(100) < eagerness {
            if content.len() < to {
                content.resize(to, 0);
            }
            content[from..to].copy_from_slice(&inode.current[from..to]);
        }
    }
    // The size may be written without the data.
    if content.len() < inode.current.len() && random.below(4) == 0 {
        content.resize(inode.current.len(), 0);
    }
    Inode {
        current: content.clone(),
        durable: content,
        dirty: BTreeSet::new(),
    }
}

impl Inner {
    fn alive(&self) -> io::Result<()> {
        if self.dead {
            Err(io::Error::other("the simulated machine has no power"))
        } else {
            Ok(())
        }
    }

    fn readable(&self, path: &str) -> io::Result<()> {
        self.alive()?;
        if self.failing_reads.contains(path) {
            Err(eio())
        } else {
            Ok(())
        }
    }

    fn change(&mut self) -> io::Result<()> {
        self.alive()?;
        if self.crash_after.is_some_and(|at| self.changes >= at) {
            self.dead = true;
            return self.alive();
        }
        self.changes += 1;
        Ok(())
    }

    fn inode(&self, path: &str) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode_to_write(&mut self, path: &str) -> usize {
        if let Some(inode) = self.names.get(path) {
            return *inode;
        }
        let inode = self.inodes.len();
        self.inodes.push(Inode::default());
        self.rename_in(NameChange::Put {
            path: path.into(),
            inode,
        });
        inode
    }

    fn rename_in(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.pending.push(change);
    }

    fn write(&mut self, inode: usize, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let old_len = self.inodes[inode].current.len();
        let growth = (offset + bytes.len()).saturating_sub(old_len) as u64;
        let short = self.room.map_or(0, |room| growth.saturating_sub(room)) as usize;
        if let Some(room) = &mut self.room {
            *room -= growth - short as u64;
        }
        let bytes = &bytes[..bytes.len() - short.min(bytes.len())];
        let inode = &mut self.inodes[inode];
        let end = offset + bytes.len();
        if inode.current.len() < end {
            inode.current.resize(end, 0);
        }
        inode.current[offset..end].copy_from_slice(bytes);
        inode.dirty.extend(sectors(offset.min(old_len), end));
        if short > 0 {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    /// Whether this sync is one that fails.
    fn sync_fails(&mut self) -> bool {
        self.syncs += 1;
        let nth = self.syncs;
        self.failing_syncs.remove(&nth)
    }

    fn give_room(&mut self, bytes: usize) {
        if let Some(room) = &mut self.room {
            *room += bytes as u64;
        }
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

impl Disk for SimDisk {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let inner = self.lock();
        inner.readable(path)?;
        Ok(inner.names.get(path).map(|inode| inner.inodes[*inode].current.clone()))
    }

    fn read_at(&self, path: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let inner = self.lock();
        inner.readable(path)?;
        let content = &inner.inodes[inner.inode(path)?].current;
        let from = (offset.min(content.len() as u64)) as usize;
        Ok(content[from..from.saturating_add(len).min(content.len())].to_vec())
    }

    fn len(&self, path: &str) -> io::Result<Option<u64>> {
        let inner = self.lock();
        inner.alive()?;
        Ok(inner.names.get(path).map(|inode| inner.inodes[*inode].current.len() as u64))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let inner = self.lock();
        inner.alive()?;
        let inside = inner.names.keys().filter(|path| parent(path) == dir);
        Ok(inside.filter_map(|path| path.rsplit('/').next().map(str::to_owned)).collect())
    }

    fn create(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        let inode = inner.inode_to_write(path);
        let old_len = inner.inodes[inode].current.len();
        inner.inodes[inode].current.clear();
        inner.give_room(old_len);
        inner.write(inode, 0, bytes)
    }

    fn append(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        let inode = inner.inode_to_write(path);
        let offset = inner.inodes[inode].current.len();
        inner.write(inode, offset, bytes)
    }

    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        let inode = inner.inode_to_write(path);
        inner.write(inode, offset as usize, bytes)
    }

    fn truncate(&self, path: &str, len: u64) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        let inode = inner.inode(path)?;
        let old_len = inner.inodes[inode].current.len();
        inner.inodes[inode].current.resize(len as usize, 0);
        inner.give_room(old_len.saturating_sub(len as usize));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        let inode = inner.inode(from)?;
        // One change of the journal: both names, or neither.
        inner.rename_in(NameChange::Put { path: to.into(), inode });
        inner.rename_in(NameChange::Drop { path: from.into() });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        let inode = inner.inode(path)?;
        let len = inner.inodes[inode].current.len();
        inner.give_room(len);
        inner.rename_in(NameChange::Drop { path: path.into() });
        Ok(())
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        for name in self.list(dir)? {
            self.remove(&format!("{dir}/{name}"))?;
        }
        Ok(())
    }

    fn sync_data(&self, path: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        let inode = inner.inode(path)?;
        let fails = inner.sync_fails();
        let inode = &mut inner.inodes[inode];
        let dirty = std::mem::take(&mut inode.dirty);
        if fails {
            // The pages are marked clean although they were not written: a second sync would answer "done".
            return Err(eio());
        }
        inode.durable.resize(inode.current.len(), 0);
        for sector in dirty {
            let from = (sector * SECTOR_BYTES).min(inode.current.len());
            let to = (from + SECTOR_BYTES).min(inode.current.len());
            inode.durable[from..to].copy_from_slice(&inode.current[from..to]);
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        let inside = |path: &str| parent(path) == dir;
        if inner.sync_fails() {
            inner.pending.retain(|change| !inside(name_of(change)));
            return Err(eio());
        }
        let (synced, pending) = std::mem::take(&mut inner.pending)
            .into_iter()
            .partition(|change| inside(name_of(change)));
        inner.pending = pending;
        let synced: Vec<NameChange> = synced;
        for change in &synced {
            apply(&mut inner.durable_names, change);
        }
        Ok(())
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let inner = self.lock();
        inner.alive()?;
        Ok(inner.room.unwrap_or(u64::MAX))
    }

    fn sibling(&self) -> Self {
        self.clone()
    }
}

fn name_of(change: &NameChange) -> &str {
    match change {
        NameChange::Put { path, .. } | NameChange::Drop { path } => path,
    }
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}

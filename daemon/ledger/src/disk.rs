//! The port to a directory: the few operations that the ledger needs, so that the same code runs on a real disk and on a
//! simulated one that tears, loses and fills up.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A handle to one directory; clones share it. Paths are relative to it, with `/` between parts. Directories come into
/// being with the first file in them. Nothing is durable before `sync_data` of the file and, for a name that is new,
/// renamed or removed, `sync_dir` of its directory.
pub trait Disk: Clone + Send + Sync + 'static {
    /// Whole content, or none when there is no such file.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;
    /// At most `len` bytes; fewer at the end of the file.
    fn read_at(&self, path: &str, offset: u64, len: usize) -> io::Result<Vec<u8>>;
    /// None when there is no such file.
    fn len(&self, path: &str) -> io::Result<Option<u64>>;
    /// File names in a directory, sorted; empty when there is none.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// The whole content of a file, new or not. After an error any part of `bytes` may be in it.
    fn create(&self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// Creates the file if need be. After an error any part of `bytes` may have been written.
    fn append(&self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// Creates the file if need be.
    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&self, path: &str, len: u64) -> io::Result<()>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, path: &str) -> io::Result<()>;
    /// A directory with the files in it, if it is there.
    fn remove_dir(&self, dir: &str) -> io::Result<()>;
    fn sync_data(&self, path: &str) -> io::Result<()>;
    /// `dir` and the way to it.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Room for more, to an unprivileged process.
    fn available_bytes(&self) -> io::Result<u64>;
    /// A handle to the same directory for another writer, which takes no open file away from this one.
    fn sibling(&self) -> Self;
}

/// Why a file could not be replaced. After a failed sync the kernel may have dropped the pages and called them clean.
#[derive(Debug)]
pub struct ReplaceError {
    pub in_sync: bool,
    pub source: io::Error,
}

/// Replaces a file whole: written aside, synced, renamed, directory synced. Readers see the old or the new one.
pub fn replace<D: Disk>(disk: &D, path: &str, bytes: &[u8]) -> Result<(), ReplaceError> {
    let aside = format!("{path}{ASIDE}");
    let written = (|| {
        let failed = |in_sync| move |source| ReplaceError { in_sync, source };
        disk.create(&aside, bytes).map_err(failed(false))?;
        disk.sync_data(&aside).map_err(failed(true))?;
        disk.rename(&aside, path).map_err(failed(false))?;
        disk.sync_dir(parent(path)).map_err(failed(true))
    })();
    if written.is_err() {
        // Best effort: the next replacement removes it otherwise.
        let _ = disk.remove(&aside);
    }
    written
}

/// Suffix of a file that is not complete yet.
pub const ASIDE: &str = ".tmp";

pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// As `parent`, of a path of the file system.
pub fn parent_dir(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    }
}

pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A real directory.
#[derive(Clone)]
pub struct RealDisk {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    /// The file written to last stays open: a batch is one write and one fdatasync, not five system calls; and an error of
    /// writing back is told to the descriptor that wrote.
    open: Mutex<Option<(String, File)>>,
    /// Directories whose own names are durable.
    durable: Mutex<BTreeSet<PathBuf>>,
}

impl RealDisk {
    pub fn create(root: &Path) -> io::Result<Self> {
        make_dir(root)?;
        Ok(Self::existing(root))
    }

    /// Creates nothing.
    pub fn existing(root: &Path) -> Self {
        Self {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                open: Mutex::new(None),
                durable: Mutex::default(),
            }),
        }
    }

    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    fn path(&self, path: &str) -> PathBuf {
        self.inner.root.join(path)
    }

    fn open_to_write(&self, path: &str) -> io::Result<File> {
        let full = self.path(path);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        match options.open(&full) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_dir(full.parent().unwrap_or(self.root()))?;
                options.open(&full)
            }
            opened => opened,
        }
    }

    fn with_open(&self, path: &str, work: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let mut open = lock(&self.inner.open);
        match &mut *open {
            Some((name, file)) if name == path => work(file),
            _ => work(&mut open.insert((path.to_owned(), self.open_to_write(path)?)).1),
        }
    }

    fn forget(&self, path: &str) {
        let mut open = lock(&self.inner.open);
        if open.as_ref().is_some_and(|(name, _)| name == path) {
            *open = None;
        }
    }
}

// A poisoned lock only means that another thread panicked between two whole values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn unless_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Disk for RealDisk {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        unless_missing(std::fs::read(self.path(path)))
    }

    fn read_at(&self, path: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.path(path))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::with_capacity(len.min(4 << 20));
        file.take(len as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn len(&self, path: &str) -> io::Result<Option<u64>> {
        Ok(unless_missing(std::fs::metadata(self.path(path)))?.map(|meta| meta.len()))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in unless_missing(std::fs::read_dir(self.path(dir)))?.into_iter().flatten() {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.with_open(path, |file| {
            file.set_len(0)?;
            file.write_all_at(bytes, 0)
        })
    }

    fn append(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.with_open(path, |file| {
            file.seek(SeekFrom::End(0))?;
            file.write_all(bytes)
        })
    }

    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with_open(path, |file| file.write_all_at(bytes, offset))
    }

    fn truncate(&self, path: &str, len: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path(path))?.set_len(len)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.forget(from);
        self.forget(to);
        let (from, to) = (self.path(from), self.path(to));
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && from.exists() => {
                make_dir(to.parent().unwrap_or(self.root()))?;
                std::fs::rename(from, to)
            }
            renamed => renamed,
        }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.forget(path);
        std::fs::remove_file(self.path(path))
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        *lock(&self.inner.open) = None;
        unless_missing(std::fs::remove_dir_all(self.path(dir))).map(drop)
    }

    fn sync_data(&self, path: &str) -> io::Result<()> {
        match &*lock(&self.inner.open) {
            Some((name, file)) if name == path => file.sync_data(),
            _ => File::open(self.path(path))?.sync_data(),
        }
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let dir = self.path(dir);
        File::open(&dir)?.sync_all()?;
        // A killed process may have made the directory and not synced the one above: once per process, all the way up.
        let mut durable = lock(&self.inner.durable);
        let mut level = dir.as_path();
        while durable.insert(level.to_owned()) {
            let above = match level.parent() {
                Some(above) if above.as_os_str().is_empty() => Path::new("."),
                Some(above) => above,
                None => break,
            };
            File::open(above)?.sync_all()?;
            if level == self.root() {
                break;
            }
            level = above;
        }
        Ok(())
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(self.root())?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn sibling(&self) -> Self {
        Self::existing(self.root())
    }
}

//! The port to a directory: the few operations that the ledger needs, so that the same code runs on a real disk and on a
//! simulated one that tears, loses and fills up.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Paths are relative to the ledger's directory, with `/` between parts.
pub trait Disk: Send {
    /// Whole content, or none when there is no such file.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;
    fn read_at(&self, path: &str, offset: u64, len: usize) -> io::Result<Vec<u8>>;
    fn len(&self, path: &str) -> io::Result<Option<u64>>;
    /// File names in a directory, sorted; empty when there is none.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Appends; creates the file if need be. Not durable before `sync`.
    fn append(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// Writes at an offset of an existing or new file. Not durable before `sync`.
    fn write_at(&mut self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes the file's data, and its entry in the directory, durable.
    fn sync(&mut self, path: &str) -> io::Result<()>;
    fn truncate(&mut self, path: &str, len: u64) -> io::Result<()>;
    /// Replaces a file whole: written aside, synced, renamed, directory synced.
    fn replace(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;
    fn remove(&mut self, path: &str) -> io::Result<()>;
}

/// A real directory.
pub struct RealDisk {
    root: PathBuf,
    /// The file appended to last stays open: a batch is one write and one fdatasync, not five syscalls.
    open: Option<(String, File)>,
    /// Names whose directory entry is durable.
    known: std::collections::BTreeSet<String>,
}

impl RealDisk {
    pub fn create(root: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        Ok(Self { root: root.to_owned(), open: None, known: Default::default() })
    }

    /// For reading only: creates nothing.
    pub fn existing(root: &Path) -> Self {
        Self { root: root.to_owned(), open: None, known: Default::default() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn make_parent(&self, path: &str) -> io::Result<()> {
        match self.path(path).parent() {
            Some(parent) if !parent.exists() => {
                std::fs::create_dir_all(parent)?;
                // Each new level's entry must survive as well.
                let mut level = parent;
                while let Some(above) = level.parent() {
                    sync_dir(above)?;
                    if above == self.root || !above.starts_with(&self.root) {
                        break;
                    }
                    level = above;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn writable(&mut self, path: &str) -> io::Result<&mut File> {
        if self.open.as_ref().is_none_or(|(name, _)| name != path) {
            self.make_parent(path)?;
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(self.path(path))?;
            self.open = Some((path.to_owned(), file));
        }
        match &mut self.open {
            Some((_, file)) => Ok(file),
            None => Err(io::Error::other("no file is open")),
        }
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

impl Disk for RealDisk {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.path(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_at(&self, path: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.path(path))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::with_capacity(len.min(1 << 20));
        file.take(len as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn len(&self, path: &str) -> io::Result<Option<u64>> {
        match std::fs::metadata(self.path(path)) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(self.path(dir)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn append(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.writable(path)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(bytes)
    }

    fn write_at(&mut self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.make_parent(path)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.path(path))?;
        file.write_all_at(bytes, offset)
    }

    fn sync(&mut self, path: &str) -> io::Result<()> {
        match &self.open {
            Some((name, file)) if name == path => file.sync_data()?,
            _ => File::open(self.path(path))?.sync_data()?,
        }
        if self.known.insert(path.to_owned())
            && let Some(parent) = self.path(path).parent()
        {
            sync_dir(parent)?;
        }
        Ok(())
    }

    fn truncate(&mut self, path: &str, len: u64) -> io::Result<()> {
        self.open = None;
        let file = OpenOptions::new().write(true).open(self.path(path))?;
        file.set_len(len)?;
        file.sync_all()
    }

    fn replace(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.make_parent(path)?;
        let aside = self.path(&format!("{path}.tmp"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&aside, self.path(path))?;
        match self.path(path).parent() {
            Some(parent) => sync_dir(parent),
            None => Ok(()),
        }
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|(name, _)| name == path) {
            self.open = None;
        }
        self.known.remove(path);
        std::fs::remove_file(self.path(path))
    }
}

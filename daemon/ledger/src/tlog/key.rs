//! The file of a secret key. It lies outside the data directory, so that no backup or copy for an auditor carries it, and
//! nobody but its owner can read it.

use super::note::{KeyKind, NoteError, SignerKey};
use crate::disk::parent_dir;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const KEY_MAX_BYTES: u64 = 4_096;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the key file {} lies inside the data directory {}: whoever gets a copy of the ledger would get the key; keep it elsewhere", path.display(), data_dir.display())]
    InsideDataDir { path: PathBuf, data_dir: PathBuf },
    #[error("the key file {} can be read or written by others (mode {mode:o}): `chmod 600` it, and make a new key if somebody may have read it", path.display())]
    TooOpen { path: PathBuf, mode: u32 },
    #[error("{} is not a plain file", .0.display())]
    NotAFile(PathBuf),
    #[error("the key file {} exists already: it is not written over", .0.display())]
    Exists(PathBuf),
    #[error("reading the key file {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("writing the key file {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the key file {} holds no key", path.display())]
    Key { path: PathBuf, source: NoteError },
    #[error("the key in {} is not a {wanted:?} key", path.display())]
    Kind { path: PathBuf, wanted: KeyKind },
    #[error("no random numbers for a new key")]
    Random(#[source] io::Error),
}

/// Makes a new key in a new file, mode 0600. `data_dir`: where it must not be.
pub fn create(path: &Path, data_dir: Option<&Path>, name: &str, kind: KeyKind) -> Result<SignerKey, KeyError> {
    refuse_inside(path, data_dir)?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| KeyError::Random(io::Error::other(error.to_string())))?;
    let key = SignerKey::new(name, kind, seed).map_err(|source| KeyError::Key {
        path: path.to_owned(),
        source,
    })?;
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(format!("{}\n", key.to_secret_text()).as_bytes())?;
            file.sync_all()?;
            File::open(parent_dir(path))?.sync_all()
        });
    match written {
        Ok(()) => Ok(key),
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Err(KeyError::Exists(path.to_owned())),
        Err(source) => Err(KeyError::Write {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Refuses a file inside the data directory, and one that others can read.
pub fn load(path: &Path, data_dir: Option<&Path>, kind: KeyKind) -> Result<SignerKey, KeyError> {
    let reading = |source| KeyError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(reading)?;
    refuse_inside(path, data_dir)?;
    let meta = file.metadata().map_err(reading)?;
    if !meta.is_file() {
        return Err(KeyError::NotAFile(path.to_owned()));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(KeyError::TooOpen {
            path: path.to_owned(),
            mode: meta.mode() & 0o7777,
        });
    }
    let mut text = String::new();
    file.take(KEY_MAX_BYTES).read_to_string(&mut text).map_err(reading)?;
    let key = SignerKey::parse_secret(text.trim_end()).map_err(|source| KeyError::Key {
        path: path.to_owned(),
        source,
    })?;
    if key.verifier().kind() != kind {
        return Err(KeyError::Kind {
            path: path.to_owned(),
            wanted: kind,
        });
    }
    Ok(key)
}

fn refuse_inside(path: &Path, data_dir: Option<&Path>) -> Result<(), KeyError> {
    let Some(data_dir) = data_dir else { return Ok(()) };
    let reading = |source| KeyError::Read {
        path: path.to_owned(),
        source,
    };
    let real_path = real(path).map_err(reading)?;
    let real_dir = real(data_dir).map_err(reading)?;
    if real_path.starts_with(real_dir) {
        return Err(KeyError::InsideDataDir {
            path: path.to_owned(),
            data_dir: data_dir.to_owned(),
        });
    }
    Ok(())
}

/// The path without links, of which the last parts may not exist yet.
fn real(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.file_name() {
            Some(name) => Ok(real(parent_dir(path))?.join(name)),
            None => Err(error),
        },
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let path = dir.path().join("log.key");
        let key = create(&path, Some(&data), "ledger.example", KeyKind::Log).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(load(&path, Some(&data), KeyKind::Log).unwrap().verifier(), key.verifier());
        assert!(matches!(
            load(&path, Some(&data), KeyKind::Witness),
            Err(KeyError::Kind { .. })
        ));
        assert!(matches!(
            create(&path, Some(&data), "ledger.example", KeyKind::Log),
            Err(KeyError::Exists(_))
        ));
        let other = create(&dir.path().join("other.key"), Some(&data), "ledger.example", KeyKind::Log).unwrap();
        assert_ne!(other.verifier(), key.verifier());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let path = dir.path().join("log.key");
        create(&path, Some(&data), "ledger.example", KeyKind::Log).unwrap();
        for mode in [0o640, 0o604, 0o602, 0o660, 0o601] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let refused = load(&path, Some(&data), KeyKind::Log).unwrap_err();
            assert!(refused.to_string().contains("chmod 600"), "{mode:o}: {refused}");
        }
        set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        load(&path, Some(&data), KeyKind::Log).unwrap();
    }

    #[test]
    fn a_key_in_the_data_directory_is_refused_however_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(data.join("keys")).unwrap();
        std::os::unix::fs::symlink(data.join("keys"), dir.path().join("keys")).unwrap();
        for path in ["data/log.key", "data/keys/log.key", "data/../data/log.key", "keys/log.key"] {
            let path = dir.path().join(path);
            for refused in [create(&path, Some(&data), "ledger.example", KeyKind::Log), {
                std::fs::write(&path, "PRIVATE").unwrap();
                set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
                load(&path, Some(&data), KeyKind::Log)
            }] {
                assert!(matches!(refused, Err(KeyError::InsideDataDir { .. })), "{refused:?}");
            }
            std::fs::remove_file(&path).unwrap();
        }
        // A directory that only begins with the same letters is another one.
        create(&dir.path().join("data-key"), Some(&data), "ledger.example", KeyKind::Log).unwrap();
    }
}

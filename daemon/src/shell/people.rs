//! People by their e-mail addresses, which the ledger holds only as salted hashes.

use crate::operator::Operator;
use holdfast_core::engine::Person;
use holdfast_core::ids::hex;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Error, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Salt = [u8; 32];

/// Makes e-mail addresses in the ledger comparable, and unreadable without this file. Each has a salt of its own, made when it
/// is met first; without it, nobody can tell any more whose hash it was.
///
/// The file has a line of 64 hex digits, and one `LOOKUP SALT` for each address: the SHA-256 of the first line's bytes and the
/// address, and the salt. No address stands in it.
#[derive(Clone)]
pub struct Salts(Arc<Mutex<Inner>>);

struct Inner {
    path: PathBuf,
    lookup: Salt,
    salts: BTreeMap<Salt, Salt>,
}

fn sha256(salt: &Salt, address: &str) -> Salt {
    let address = address.trim().to_lowercase();
    Sha256::new().chain_update(salt).chain_update(address).finalize().into()
}

fn parse(line: &str) -> Option<Vec<Salt>> {
    let words = line.split(' ').map(|word| {
        let bytes: Option<Vec<u8>> = (0..word.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(word.get(at..at + 2)?, 16).ok())
            .collect();
        bytes?.try_into().ok()
    });
    words.collect()
}

fn random() -> io::Result<Salt> {
    let mut salt = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut salt)?;
    Ok(salt)
}

impl Salts {
    /// Made at the first start. Other salts would make people unknown to the ledger, so a damaged file is not replaced.
    pub fn load(path: &Path) -> io::Result<Self> {
        let damaged = || {
            let message = format!("{} is damaged; restore it from a backup", path.display());
            Error::new(ErrorKind::InvalidData, message)
        };
        let mut inner = Inner {
            path: path.to_owned(),
            lookup: [0; 32],
            salts: BTreeMap::new(),
        };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                // A line that was being written when the process was killed was never used.
                let (whole, _) = text.rsplit_once('\n').ok_or_else(damaged)?;
                for (number, line) in whole.split('\n').enumerate() {
                    match (number, parse(line).ok_or_else(damaged)?.as_slice()) {
                        (0, [lookup]) => inner.lookup = *lookup,
                        (1.., [lookup, salt]) => {
                            inner.salts.insert(*lookup, *salt);
                        }
                        _ => return Err(damaged()),
                    }
                }
                if whole.len() + 1 != text.len() {
                    inner.write()?;
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                inner.lookup = random()?;
                inner.write()?;
            }
            Err(error) => return Err(error),
        }
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    // A poisoned lock only means that another thread panicked between two whole values.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hash of an address, with a new salt if it has none. The salt is durable before anybody sees the hash.
    pub fn hash(&self, address: &str) -> io::Result<String> {
        if let Some(known) = self.known(address) {
            return Ok(known);
        }
        let mut inner = self.lock();
        let (lookup, salt) = (sha256(&inner.lookup, address), random()?);
        let mut file = OpenOptions::new().append(true).open(&inner.path)?;
        file.write_all(format!("{} {}\n", hex(&lookup), hex(&salt)).as_bytes())?;
        file.sync_all()?;
        inner.salts.insert(lookup, salt);
        Ok(shown(&salt, address))
    }

    /// None: it was never met, or is forgotten.
    pub fn known(&self, address: &str) -> Option<String> {
        let inner = self.lock();
        let salt = inner.salts.get(&sha256(&inner.lookup, address))?;
        Some(shown(salt, address))
    }

    /// Erases the address's salt.
    pub fn forget(&self, address: &str) -> io::Result<()> {
        let mut inner = self.lock();
        let lookup = sha256(&inner.lookup, address);
        let Some(salt) = inner.salts.remove(&lookup) else {
            return Ok(());
        };
        let written = inner.write();
        if written.is_err() {
            inner.salts.insert(lookup, salt);
        }
        written
    }
}

fn shown(salt: &Salt, address: &str) -> String {
    hex(&sha256(salt, address))[..32].to_owned()
}

impl Inner {
    fn write(&self) -> io::Result<()> {
        let mut text = format!("{}\n", hex(&self.lookup));
        for (lookup, salt) in &self.salts {
            text.push_str(&format!("{} {}\n", hex(lookup), hex(salt)));
        }
        let part = self.path.with_extension("part");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&part, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// Who the operator's configuration names, by unix user name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct People(BTreeMap<String, Person>);

impl People {
    pub fn new(operator: &Operator, salts: &Salts) -> io::Result<Self> {
        let person = |user: &crate::operator::UserConfig| {
            Ok::<_, Error>(Person {
                name: user.name.clone(),
                emails: user.emails.iter().map(|email| salts.hash(email)).collect::<io::Result<_>>()?,
            })
        };
        let people = operator.users.iter().map(|(name, user)| Ok((name.clone(), person(user)?)));
        people.collect::<io::Result<_>>().map(Self)
    }

    pub fn get(&self, user: &str) -> Option<&Person> {
        self.0.get(user)
    }

    /// The name of who has the address with this hash.
    pub fn name_of(&self, email_hash: &str) -> Option<&str> {
        let has_it = |person: &&Person| person.emails.contains(email_hash);
        self.0.values().find(has_it).map(|person| person.name.as_str())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_kept_until_it_is_erased() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("salts");
        let salts = Salts::load(&path).unwrap();
        assert_eq!(salts.known("ada@example.com"), None);
        let (ada, bob) = (salts.hash("ada@example.com").unwrap(), salts.hash("bob@example.com").unwrap());
        assert_ne!(ada, bob);
        assert_eq!(salts.hash(" Ada@Example.com").unwrap(), ada);
        assert!(!std::fs::read_to_string(&path).unwrap().contains("ada"));
        // Another process, after one that was killed while it wrote.
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_slice(b"0123");
        std::fs::write(&path, torn).unwrap();
        let again = Salts::load(&path).unwrap();
        assert_eq!(
            (again.known("ada@example.com"), again.known("bob@example.com")),
            (Some(ada.clone()), Some(bob.clone()))
        );
        again.forget("Ada@example.com").unwrap();
        for salts in [&again, &Salts::load(&path).unwrap()] {
            assert_eq!(
                (salts.known("ada@example.com"), salts.known("bob@example.com")),
                (None, Some(bob.clone()))
            );
        }
        // Whoever comes back is somebody else to the ledger.
        assert_ne!(again.hash("ada@example.com").unwrap(), ada);
        std::fs::write(&path, "zz\n").unwrap();
        assert_eq!(Salts::load(&path).err().unwrap().kind(), ErrorKind::InvalidData);
    }
}

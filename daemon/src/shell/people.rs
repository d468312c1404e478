//! People by their e-mail addresses, which the ledger holds only as salted hashes.

use crate::operator::Operator;
use holdfast_core::engine::Person;
use holdfast_core::ids::hex;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const SALT_BYTES: usize = 32;

/// Makes e-mail addresses in the ledger comparable, and unreadable without this file.
#[derive(Clone)]
pub struct Salt(Vec<u8>);

impl Salt {
    /// Made at the first start. Another one would make people unknown to the ledger, so a damaged file is not replaced.
    pub fn load(path: &Path) -> std::io::Result<Self> {
        match std::fs::read(path) {
            Ok(salt) if salt.len() == SALT_BYTES => return Ok(Self(salt)),
            Ok(_) => {
                let message = format!("{} is damaged; restore it from a backup", path.display());
                return Err(Error::new(ErrorKind::InvalidData, message));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut salt = vec![0; SALT_BYTES];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut salt)?;
        let part = path.with_extension("part");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(&salt)?;
        file.sync_all()?;
        std::fs::rename(&part, path)?;
        Ok(Self(salt))
    }

    pub fn hash(&self, email: &str) -> String {
        let hash = Sha256::new()
            .chain_update(&self.0)
            .chain_update(email.trim().to_lowercase())
            .finalize();
        hex(&hash)[..32].to_owned()
    }
}

/// Who the operator's configuration names, by unix user name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct People(BTreeMap<String, Person>);

impl People {
    pub fn new(operator: &Operator, salt: &Salt) -> Self {
        let person = |user: &crate::operator::UserConfig| Person {
            name: user.name.clone(),
            emails: user.emails.iter().map(|email| salt.hash(email)).collect(),
        };
        Self(
            operator
                .users
                .iter()
                .map(|(name, user)| (name.clone(), person(user)))
                .collect(),
        )
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

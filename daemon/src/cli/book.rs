//! Where questions about the ledger are answered: by the index of the daemon that runs, else from the directory itself. Each
//! answer is as of an entry; the index may be a moment behind the log.

use super::audit::time::AsOf;
use super::error::CliError;
use crate::api::{Ask, ClientError, FindBy, LedgerQuestion, ask};
use crate::operator;
use holdfast_core::entry::Entry;
use holdfast_core::ids::{Digest, Seq};
use holdfast_ledger::index::{By, keys};
use holdfast_ledger::{Ledger, Options, Reader};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const PAGE: usize = 5_000;

pub struct Book {
    from: Answerer,
    /// Entries from here on are left out.
    as_of: Seq,
    known: RefCell<BTreeMap<Seq, Entry>>,
    /// What the answer rests on.
    shown: RefCell<BTreeSet<Seq>>,
}

enum Answerer {
    Daemon(PathBuf),
    Directory(Reader, BTreeMap<(By, String), Vec<Seq>>),
}

#[derive(Deserialize)]
struct Found {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct FoundBlob {
    text: String,
}

#[derive(Deserialize)]
struct Completed {
    as_of: Seq,
    keys: Vec<String>,
}

fn put<T: DeserializeOwned>(socket: &Path, question: LedgerQuestion) -> Result<T, ClientError> {
    serde_json::from_value(ask(socket, &Ask::Ledger(question))?).map_err(ClientError::Json)
}

impl Book {
    /// `dir`: a copy of a ledger, instead of the configured one.
    pub fn open(config: &Path, dir: Option<&Path>, as_of: Option<&AsOf>) -> Result<Self, CliError> {
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => {
                let operator = operator::load(config)?;
                let start = "term".to_owned();
                let asked = put::<Completed>(&operator.socket(), LedgerQuestion::Complete { by: FindBy::Kind, start });
                match asked {
                    // An index that is not there yet, or was given up, knows nothing: the log does.
                    Ok(completed) if completed.as_of > 0 => {
                        return Self::new(Answerer::Daemon(operator.socket()), completed.as_of).at(as_of);
                    }
                    Ok(_) | Err(ClientError::NotRunning { .. }) => operator.ledger_dir(),
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let reader = Ledger::open_read_only(&dir, Options::default())?.0.reader();
        let mut index: BTreeMap<(By, String), Vec<Seq>> = BTreeMap::new();
        let mut epoch = 1;
        for entry in reader.iter(0, u64::MAX) {
            let entry = entry?;
            if let holdfast_core::entry::Body::Term(term) = &entry.body {
                epoch = term.epoch;
            }
            for key in keys(&entry, epoch) {
                index.entry(key).or_default().push(entry.seq);
            }
        }
        let size = reader.size();
        Self::new(Answerer::Directory(reader, index), size).at(as_of)
    }

    fn new(from: Answerer, size: Seq) -> Self {
        Self {
            from,
            as_of: size,
            known: RefCell::default(),
            shown: RefCell::default(),
        }
    }

    /// As it was then. Wall time may have been set back: what counts is the first entry that is later.
    fn at(mut self, as_of: Option<&AsOf>) -> Result<Self, CliError> {
        match as_of {
            None => {}
            Some(AsOf::Size(size)) => self.as_of = self.as_of.min(*size),
            Some(AsOf::Time(time)) => {
                let (mut low, mut high) = (0, self.as_of);
                while low < high {
                    let middle = low + (high - low) / 2;
                    match self.entries(&[middle])?.first() {
                        Some(entry) if entry.wall <= time.0 => low = middle + 1,
                        _ => high = middle,
                    }
                }
                self.as_of = low;
            }
        }
        Ok(self)
    }

    pub fn as_of(&self) -> Seq {
        self.as_of
    }

    /// The answer rests on these.
    pub fn show(&self, seqs: impl IntoIterator<Item = Seq>) {
        self.shown.borrow_mut().extend(seqs);
    }

    pub fn shown(&self) -> BTreeSet<Seq> {
        self.shown.borrow().clone()
    }

    /// Who answered, for people.
    pub fn by(&self) -> &'static str {
        match self.from {
            Answerer::Daemon(_) => "the daemon's index",
            Answerer::Directory(..) => "the log itself",
        }
    }

    /// Entries that have all of these keys, oldest first.
    pub fn find(&self, keys: &[(FindBy, &str)]) -> Result<Vec<Entry>, CliError> {
        match &self.from {
            Answerer::Daemon(socket) => {
                let mut all: Vec<Entry> = Vec::new();
                let mut before = Some(self.as_of);
                loop {
                    let keys = keys.iter().map(|(by, key)| (*by, (*key).to_owned())).collect();
                    let limit = PAGE;
                    let page: Found = put(socket, LedgerQuestion::Find { keys, before, limit })?;
                    let full = page.entries.len() == PAGE;
                    before = page.entries.last().map(|entry| entry.seq);
                    all.extend(page.entries);
                    if !full {
                        break;
                    }
                }
                all.reverse();
                Ok(all)
            }
            Answerer::Directory(_, index) => {
                let of = |(by, key): &(FindBy, &str)| index.get(&((*by).into(), (*key).to_owned()));
                let Some(mut seqs) = keys.first().and_then(of).cloned() else {
                    return Ok(Vec::new());
                };
                seqs.truncate(seqs.partition_point(|seq| *seq < self.as_of));
                for key in &keys[1..] {
                    let other = of(key);
                    seqs.retain(|seq| other.is_some_and(|other| other.binary_search(seq).is_ok()));
                }
                self.entries(&seqs)
            }
        }
    }

    /// All entries from the first on, until `take` wants no more.
    pub fn each_entry(&self, take: &mut dyn FnMut(&Entry) -> bool) -> Result<(), CliError> {
        let mut from = 0;
        while from < self.as_of {
            let to = self.as_of.min(from + PAGE as u64);
            let page: Vec<Entry> = match &self.from {
                Answerer::Daemon(socket) => {
                    let seqs = (from..to).collect();
                    put::<Found>(socket, LedgerQuestion::Entries { seqs })?.entries
                }
                Answerer::Directory(reader, _) => reader.entries(from, to)?,
            };
            if !page.iter().all(&mut *take) {
                return Ok(());
            }
            from = to;
        }
        Ok(())
    }

    /// What an entry names by its digest.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, CliError> {
        match &self.from {
            Answerer::Daemon(socket) => {
                let digest = digest.clone();
                let blob: FoundBlob = put(socket, LedgerQuestion::Blob { digest })?;
                Ok(blob.text.into_bytes())
            }
            Answerer::Directory(reader, _) => Ok(reader.blob(digest)?),
        }
    }

    /// Keys that begin so.
    pub fn complete(&self, by: FindBy, start: &str) -> Result<Vec<String>, CliError> {
        match &self.from {
            Answerer::Daemon(socket) => {
                let start = start.to_owned();
                let completed: Completed = put(socket, LedgerQuestion::Complete { by, start })?;
                Ok(completed.keys)
            }
            Answerer::Directory(_, index) => {
                let all = index.range((by.into(), start.to_owned())..);
                let found = all.take_while(|((kind, key), _)| *kind == by.into() && key.starts_with(start));
                Ok(found.map(|((_, key), _)| key.clone()).collect())
            }
        }
    }

    /// These entries, as far as they are below `as_of`, in the order of `seqs`.
    pub fn entries(&self, seqs: &[Seq]) -> Result<Vec<Entry>, CliError> {
        let mut known = self.known.borrow_mut();
        let missing: Vec<Seq> = seqs
            .iter()
            .filter(|seq| **seq < self.as_of && !known.contains_key(seq))
            .copied()
            .collect();
        let found = match &self.from {
            _ if missing.is_empty() => Vec::new(),
            Answerer::Daemon(socket) => {
                let mut found = Vec::new();
                for seqs in missing.chunks(PAGE) {
                    let seqs = seqs.to_vec();
                    found.extend(put::<Found>(socket, LedgerQuestion::Entries { seqs })?.entries);
                }
                found
            }
            Answerer::Directory(reader, _) => missing.iter().map(|seq| reader.entry(*seq)).collect::<Result<_, _>>()?,
        };
        known.extend(found.into_iter().map(|entry| (entry.seq, entry)));
        Ok(seqs.iter().filter_map(|seq| known.get(seq).cloned()).collect())
    }
}

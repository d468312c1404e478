//! Feeds the index off the write path, and builds it anew when sled fails: the daemon goes on without it meanwhile.

use super::{By, Filter, Index, IndexError, Page};
use crate::disk::Disk;
use crate::reader::Reader;
use holdfast_core::ids::Seq;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After so many failures in a row without progress the index is left alone until the next start.
const FAILURES_MAX: u32 = 3;

type Slot = Arc<RwLock<Option<Index>>>;

/// A handle; clones share it. The thread ends with the last of them, or with `close`.
#[derive(Clone)]
pub struct Indexer {
    index: Slot,
    thread: Arc<Thread>,
}

struct Thread {
    wake: Option<SyncSender<()>>,
    handle: Option<JoinHandle<()>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            tracing::error!("the indexer panicked");
        }
    }
}

impl Indexer {
    /// Opening happens in the thread as well: it may take seconds.
    pub fn spawn<D: Disk>(dir: &Path, log: Reader<D>) -> std::io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let index = Slot::default();
        let (dir, slot) = (dir.to_owned(), index.clone());
        let handle = std::thread::Builder::new()
            .name("index".into())
            .spawn(move || run(&dir, &log, &slot, &woken))?;
        Ok(Self {
            index,
            thread: Arc::new(Thread {
                wake: Some(wake),
                handle: Some(handle),
            }),
        })
    }

    /// Something was committed. Never waits.
    pub fn wake(&self) {
        if let Some(wake) = &self.thread.wake {
            // Full: it is awake already.
            let _ = wake.try_send(());
        }
    }

    /// Entries below it are indexed.
    pub fn as_of(&self) -> Seq {
        self.with(0, |index| Ok(index.as_of())).unwrap_or(0)
    }

    /// Entries that `filter` has, newest first, below `before`. While the index is built, `as_of` says how far it has come.
    pub fn query(&self, filter: &Filter, before: Option<Seq>, limit: usize) -> Result<Page, IndexError> {
        self.with(
            Page {
                seqs: Vec::new(),
                as_of: 0,
            },
            |index| index.query(filter, before, limit),
        )
    }

    /// Distinct keys that begin with `start`, ascending.
    pub fn complete(&self, by: By, start: &str, limit: usize) -> Result<Vec<String>, IndexError> {
        self.with(Vec::new(), |index| index.complete(by, start, limit))
    }

    fn with<T>(&self, none: T, ask: impl FnOnce(&Index) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.as_ref().map_or(Ok(none), ask)
    }
}

fn run<D: Disk>(dir: &Path, log: &Reader<D>, slot: &Slot, woken: &Receiver<()>) {
    let mut failures = 0;
    loop {
        match work(dir, log, slot) {
            Ok(true) => {
                failures = 0;
                if matches!(woken.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected)) {
                    return;
                }
                continue;
            }
            Ok(false) => {}
            Err(error) => {
                failures += 1;
                tracing::warn!(error = &error as &dyn std::error::Error, failures, "the index failed");
                // A log that cannot be read is not the index's fault.
                if !matches!(error, IndexError::Log(_)) {
                    let mut index = slot.write().unwrap_or_else(PoisonError::into_inner);
                    if let Some(index) = index.take()
                        && let Err(error) = index.discard_open()
                    {
                        tracing::warn!(error = &error as &dyn std::error::Error, "the index cannot be thrown away");
                    }
                }
                if failures >= FAILURES_MAX {
                    tracing::error!("the index is left alone until the next start; questions are answered from the log only");
                    return;
                }
            }
        }
        if matches!(woken.recv_timeout(LOOK_EVERY), Err(RecvTimeoutError::Disconnected)) {
            return;
        }
    }
}

/// One portion. The lock is held for that long only, so that questions get between.
fn work<D: Disk>(dir: &Path, log: &Reader<D>, slot: &Slot) -> Result<bool, IndexError> {
    if slot.read().unwrap_or_else(PoisonError::into_inner).is_none() {
        let opened = Index::open(dir, log)?;
        *slot.write().unwrap_or_else(PoisonError::into_inner) = Some(opened);
    }
    let mut index = slot.write().unwrap_or_else(PoisonError::into_inner);
    index.as_mut().map_or(Ok(false), |index| index.advance(log))
}

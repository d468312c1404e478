//! The thread that publishes: soon after a commit, and not more often than it may.

use super::checkpoint::SignedCheckpoint;
use super::note::Signature;
use super::publish::{NextKeys, Publication, PublishError, Retention};
use crate::disk::Disk;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Dropping it publishes what is left and ends the thread.
pub struct Publisher<D> {
    publication: Arc<Mutex<Publication<D>>>,
    /// To be had without waiting for the publishing thread.
    next_keys: NextKeys,
    retention: Retention,
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

// A poisoned lock only means that another thread panicked: what it had begun is taken up from the disk.
fn lock<D>(publication: &Mutex<Publication<D>>) -> MutexGuard<'_, Publication<D>> {
    publication.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Disk> Publisher<D> {
    /// `said` hears of each new checkpoint and of each failure, in the publishing thread.
    pub fn spawn(
        publication: Publication<D>,
        at_most_every: Duration,
        said: impl Fn(Result<&SignedCheckpoint, &PublishError>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (next_keys, retention) = (publication.next_keys(), publication.retention());
        let publication = Arc::new(Mutex::new(publication));
        let (wake, woken) = sync_channel(1);
        let shared = publication.clone();
        let publish = move || match lock(&shared).advance() {
            Ok(Some(checkpoint)) => {
                said(Ok(checkpoint));
                true
            }
            Ok(None) => true,
            Err(error) => {
                said(Err(&error));
                error.is_conflict()
            }
        };
        let thread = std::thread::Builder::new()
            .name("publish".into())
            .spawn(move || run(&woken, at_most_every, publish))?;
        Ok(Self {
            publication,
            next_keys,
            retention,
            wake: Some(wake),
            thread: Some(thread),
        })
    }

    /// Something was committed. Never waits.
    pub fn wake(&self) {
        if let Some(wake) = &self.wake {
            // Full: it is awake already.
            let _ = wake.try_send(());
        }
    }

    pub fn next_keys(&self) -> &NextKeys {
        &self.next_keys
    }

    pub fn retention(&self) -> &Retention {
        &self.retention
    }

    pub fn published(&self) -> Option<SignedCheckpoint> {
        lock(&self.publication).published().cloned()
    }

    /// As `Publication::add_cosignatures`.
    pub fn add_cosignatures(&self, size: u64, cosignatures: Vec<Signature>) -> Result<SignedCheckpoint, PublishError> {
        lock(&self.publication).add_cosignatures(size, cosignatures).cloned()
    }
}

impl<D> Drop for Publisher<D> {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the publishing thread panicked");
        }
    }
}

/// `publish` is false when it should be tried again.
#[allow(clippy::disallowed_methods, reason = "publishing is paced in real time")]
fn run(woken: &Receiver<()>, at_most_every: Duration, publish: impl Fn() -> bool) {
    let mut is_pending = true;
    let mut not_before = Instant::now();
    loop {
        let wait = not_before.saturating_duration_since(Instant::now());
        if is_pending && wait.is_zero() {
            is_pending = !publish();
            not_before = Instant::now() + at_most_every;
            continue;
        }
        let news = if is_pending {
            woken.recv_timeout(wait)
        } else {
            woken.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match news {
            Ok(()) => is_pending = true,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                publish();
                return;
            }
        }
    }
}

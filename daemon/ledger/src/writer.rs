//! Group commit: one thread owns the log. Whatever is queued when the last fsync returns goes into the next batch.

use crate::disk::Disk;
use crate::store::{Batch, Committed, Ledger, LedgerError};
use std::error::Error;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The head is at most so much older than the last append.
const HEAD_AFTER: Duration = Duration::from_millis(50);
/// Batches in one commit.
const GROUP_MAX: usize = 256;
/// Submitting waits when so many are queued: a slow disk slows the engine, it does not fill the memory.
const QUEUE_MAX: usize = 1_024;

type Done<T> = Box<dyn FnOnce(Result<T, LedgerError>) + Send>;

enum Job {
    Append(Batch, Done<Committed>),
    Snapshot { size: u64, body: Vec<u8>, done: Done<()> },
}

/// Dropping it ends the thread as `close` does.
pub struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<Result<(), LedgerError>>>,
}

impl Writer {
    pub fn spawn<D: Disk>(ledger: Ledger<D>) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || run(ledger, &queue))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// `done` is called from the writer's thread once the batch is durable, or cannot be. Batches are committed in the
    /// order in which they are submitted. Waits while the queue is full: `done` must not wait for whoever submits.
    pub fn submit(&self, batch: Batch, done: impl FnOnce(Result<Committed, LedgerError>) + Send + 'static) {
        if let Some(Job::Append(_, done)) = self.send(Job::Append(batch, Box::new(done))) {
            done(Err(LedgerError::WriterEnded));
        }
    }

    /// Written after everything submitted before it. `body` is State as the fold of the first `size` entries, where a batch
    /// ended.
    pub fn snapshot(&self, size: u64, body: Vec<u8>, done: impl FnOnce(Result<(), LedgerError>) + Send + 'static) {
        if let Some(Job::Snapshot { done, .. }) = self.send(Job::Snapshot {
            size,
            body,
            done: Box::new(done),
        }) {
            done(Err(LedgerError::WriterEnded));
        }
    }

    /// Gives the job back when the thread has ended.
    fn send(&self, job: Job) -> Option<Job> {
        match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|unsent| unsent.0),
            None => Some(job),
        }
    }

    /// Ends after everything queued is done and the head says that the run ended by itself.
    pub fn close(mut self) -> Result<(), LedgerError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), LedgerError> {
        self.jobs = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(closed)) => closed,
            Some(Err(_)) => Err(LedgerError::WriterEnded),
            None => Ok(()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            tracing::error!(error = &error as &dyn Error, "the ledger did not close well");
        }
    }
}

// The writer is the adapter to the disk: how often it notes its head is no decision of the engine's.
fn run<D: Disk>(mut ledger: Ledger<D>, queue: &Receiver<Job>) -> Result<(), LedgerError> {
    let mut unnoted_since: Option<Instant> = None;
    loop {
        let due = unnoted_since.map(|since| HEAD_AFTER.saturating_sub(since.elapsed()));
        let first = match due {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(Duration::ZERO) => Err(RecvTimeoutError::Timeout),
            Some(left) => queue.recv_timeout(left),
        };
        let mut next = match first {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => {
                note_head(&mut ledger);
                unnoted_since = None;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return ledger.close(),
        };
        let (mut batches, mut dones) = (Vec::new(), Vec::new());
        let mut snapshot = None;
        while let Some(job) = next.take() {
            match job {
                Job::Append(batch, done) => {
                    batches.push(batch);
                    dones.push(done);
                    if batches.len() < GROUP_MAX {
                        next = queue.try_recv().ok();
                    }
                }
                Job::Snapshot { size, body, done } => snapshot = Some((size, body, done)),
            }
        }
        if !batches.is_empty() {
            #[allow(clippy::disallowed_methods, reason = "the head follows within a real time")]
            unnoted_since.get_or_insert_with(Instant::now);
            for (done, outcome) in dones.into_iter().zip(ledger.append_group(&batches)) {
                done(outcome);
            }
        }
        if let Some((size, body, done)) = snapshot {
            done(ledger.write_snapshot(size, body));
        }
    }
}

fn note_head<D: Disk>(ledger: &mut Ledger<D>) {
    if let Err(error) = ledger.write_head() {
        tracing::warn!(error = &error as &dyn Error, "head not written");
    }
}

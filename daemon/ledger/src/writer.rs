//! Group commit: one thread owns the log. Whatever is queued when the last fsync returns goes into the next batch.

use crate::disk::Disk;
use crate::store::{Batch, Committed, Ledger, LedgerError};
use holdfast_core::state::State;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// The head is written when nothing was appended for so long.
const HEAD_AFTER: Duration = Duration::from_millis(50);
/// Batches in one commit.
const GROUP_MAX: usize = 256;

type Done = Box<dyn FnOnce(Result<Committed, std::sync::Arc<LedgerError>>) + Send>;

enum Job {
    Append(Batch, Done),
    Snapshot(Box<State>),
}

pub struct Writer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub fn spawn<D: Disk + 'static>(ledger: Ledger<D>) -> std::io::Result<Self> {
        let (jobs, queue) = channel();
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || run(ledger, &queue))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// `done` is called from the writer's thread once the batch is durable, or cannot be.
    pub fn submit(&self, batch: Batch, done: impl FnOnce(Result<Committed, std::sync::Arc<LedgerError>>) + Send + 'static) {
        self.send(Job::Append(batch, Box::new(done)));
    }

    /// Written after everything submitted before it; skipped when State is not the fold of just that.
    pub fn snapshot(&self, state: State) {
        self.send(Job::Snapshot(Box::new(state)));
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only when this sender is dropped.
            let _ = jobs.send(job);
        }
    }

    /// Ends after everything queued is done and the head is written.
    pub fn close(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the ledger's writer panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.join();
    }
}

fn run<D: Disk>(mut ledger: Ledger<D>, queue: &Receiver<Job>) {
    loop {
        let first = match queue.recv_timeout(HEAD_AFTER) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => {
                write_head(&mut ledger);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let (mut batches, mut dones) = (Vec::new(), Vec::new());
        let mut snapshot = None;
        let mut job = Some(first);
        while let Some(next) = job.take() {
            match next {
                Job::Append(batch, done) => {
                    batches.push(batch);
                    dones.push(done);
                }
                Job::Snapshot(state) => snapshot = Some(state),
            }
            if snapshot.is_none() && batches.len() < GROUP_MAX {
                job = queue.try_recv().ok();
            }
        }
        let outcome = ledger.append(&batches).map_err(std::sync::Arc::new);
        for done in dones {
            done(outcome.clone());
        }
        if let Some(state) = snapshot.filter(|state| state.size == ledger.size()) {
            if let Err(error) = ledger.write_snapshot(&state) {
                tracing::warn!(error = &error as &dyn std::error::Error, "snapshot not written; the next boot folds more");
            }
            write_head(&mut ledger);
        }
    }
    write_head(&mut ledger);
}

fn write_head<D: Disk>(ledger: &mut Ledger<D>) {
    if let Err(error) = ledger.write_head() {
        tracing::warn!(error = &error as &dyn std::error::Error, "head not written");
    }
}

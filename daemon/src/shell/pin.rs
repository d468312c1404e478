//! The newest checkpoint, pinned in a Git repository: read before the daemon does anything, and pushed beside its work. A
//! ledger that is older than its pin, or another one, stops the daemon; a repository that cannot be reached is an alarm.

use super::Event;
use super::alarms::{Alarm, Alarms};
use crate::adapters::git::{GitError, PinConfig, PinRepository};
use holdfast_ledger::Reader;
use holdfast_ledger::tlog::checkpoint::{SignedCheckpoint, epoch_of};
use holdfast_ledger::tlog::note::VerifierKey;
use std::path::Path;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

const INTERVAL_MIN_MS: u64 = 1_000;
const BOOT_TIMEOUT_MS: u64 = 15_000;

#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("the checkpoint in `ledger.pin` cannot be had")]
    Git(#[from] GitError),
    #[error("the checkpoint in `ledger.pin` is not this log's")]
    NotOurs(#[source] holdfast_ledger::tlog::checkpoint::CheckpointError),
    #[error("the log cannot be compared with the checkpoint in `ledger.pin`")]
    Log(#[from] holdfast_ledger::LedgerError),
    #[error("{0}: this is an old copy of the ledger, or another one")]
    KnowsBetter(String),
}

pub(super) struct Pin {
    repository: PinRepository,
    interval: Duration,
    log: Reader,
    epoch: u64,
    /// Keys that have signed this log, under its first epoch's name.
    keys: Vec<VerifierKey>,
}

impl Pin {
    pub fn open(config: &PinConfig, local: &Path, log: Reader, epoch: u64, keys: Vec<VerifierKey>) -> Result<Self, PinError> {
        Ok(Self {
            repository: PinRepository::open(config, local)?,
            interval: Duration::from_millis(config.interval.max(INTERVAL_MIN_MS)),
            log,
            epoch,
            keys,
        })
    }

    /// Size of the checkpoint that is pinned, if the log bears it out; 0 when there is none of this epoch.
    pub fn compare(&self) -> Result<u64, PinError> {
        let Some(bytes) = self.repository.read()? else { return Ok(0) };
        let pinned = SignedCheckpoint::open(&bytes, &self.keys)
            .map_err(PinError::NotOurs)?
            .checkpoint;
        let epoch = self
            .keys
            .iter()
            .find_map(|key| epoch_of(key.name(), &pinned.origin))
            .unwrap_or(1);
        let (size, here) = (pinned.size, self.log.size());
        if epoch < self.epoch {
            return Ok(0);
        }
        if epoch > self.epoch {
            let message = format!("epoch {epoch} of this log is pinned, and epoch {} is here", self.epoch);
            return Err(PinError::KnowsBetter(message));
        }
        if size > here {
            let message = format!("{size} entries of this log are pinned, and {here} are here");
            return Err(PinError::KnowsBetter(message));
        }
        if self.log.root_at(size)? != pinned.root {
            let message = format!("another history of the first {size} entries is pinned");
            return Err(PinError::KnowsBetter(message));
        }
        Ok(size)
    }

    fn pin(&mut self, signed: &SignedCheckpoint, signing: &VerifierKey) -> Result<u64, PinError> {
        if !self.keys.contains(signing) {
            self.keys.push(signing.clone());
        }
        let pinned = self.compare()?;
        if pinned < signed.checkpoint.size {
            self.repository.push(signed.note.to_string().as_bytes())?;
        }
        Ok(signed.checkpoint.size)
    }
}

/// Before the daemon does anything, and not for long: neither Git nor anything else outside is needed to go on.
pub(super) fn compare_at_boot(
    config: &PinConfig,
    local: &Path,
    log: &Reader,
    epoch: u64,
    keys: &[VerifierKey],
    alarms: &Alarms,
) -> Result<(), PinError> {
    let hurried = PinConfig {
        timeout: config.timeout.min(BOOT_TIMEOUT_MS),
        ..config.clone()
    };
    let pin = Pin::open(&hurried, local, log.clone(), epoch, keys.to_vec())?;
    // A client that blocks may not be used where tasks run.
    let compared = std::thread::spawn(move || pin.compare()).join();
    match compared {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error @ PinError::KnowsBetter(_))) => Err(error),
        Ok(Err(error)) => {
            alarms.set(Alarm::Pin, Some(super::alarms::said(&error)));
            Ok(())
        }
        Err(_) => {
            alarms.set(Alarm::Pin, Some("reading the checkpoint in `ledger.pin` failed".into()));
            Ok(())
        }
    }
}

/// Pins what is published until the daemon ends. libgit2 blocks, so it has a thread of its own.
pub(super) fn spawn(
    mut pin: Pin,
    news: watch::Receiver<Option<SignedCheckpoint>>,
    signing: watch::Receiver<VerifierKey>,
    alarms: Alarms,
    events: mpsc::UnboundedSender<Event>,
) -> std::io::Result<()> {
    let run = move || {
        let mut pinned = 0;
        while !events.is_closed() {
            let signed = news.borrow().clone();
            if let Some(signed) = signed.filter(|signed| signed.checkpoint.size != pinned) {
                let key = signing.borrow().clone();
                match pin.pin(&signed, &key) {
                    Ok(size) => {
                        pinned = size;
                        alarms.set(Alarm::Pin, None);
                    }
                    Err(PinError::KnowsBetter(message)) => {
                        let message = PinError::KnowsBetter(message).to_string();
                        let _ = events.send(Event::LedgerFailed(message));
                        return;
                    }
                    Err(error) => alarms.set(Alarm::Pin, Some(super::alarms::said(&error))),
                }
            }
            pause(pin.interval);
        }
    };
    std::thread::Builder::new().name("pin".into()).spawn(run).map(drop)
}

#[allow(clippy::disallowed_methods, reason = "pins in real time")]
fn pause(interval: Duration) {
    std::thread::sleep(interval);
}

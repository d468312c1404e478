//! The log as others verify it: tiles and a signed checkpoint beside it, and witnesses that cosign the checkpoint. All of it
//! runs behind the daemon's work; only a witness that has seen more of this log than there is stops the daemon.

use super::Event;
use super::alarms::{Alarm, Alarms, said};
use super::pin::{self, Pin, PinError};
use crate::adapters::web::{WebError, WebServer};
use crate::operator::{LedgerConfig, Operator, WitnessConfig};
use futures_util::future::join_all;
use holdfast_core::state::State;
use holdfast_ledger::tlog::checkpoint::SignedCheckpoint;
use holdfast_ledger::tlog::key::{self, KeyError};
use holdfast_ledger::tlog::note::{KeyKind, NoteError, Signature, SignerKey, VerifierKey};
use holdfast_ledger::tlog::publish::{Publication, PublishError};
use holdfast_ledger::tlog::rotation::{Rotation, RotationError, former};
use holdfast_ledger::tlog::witness::{AddCheckpoint, Outcome, Policy, PolicyError, read_answer};
use holdfast_ledger::{Publisher, Reader, RealDisk};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

const PUBLISH_AT_MOST_EVERY: Duration = Duration::from_secs(1);
const WITNESS_DEADLINE: Duration = Duration::from_secs(10);
const WITNESS_AT_MOST_EVERY: Duration = Duration::from_secs(2);
const WITNESS_RETRY: Duration = Duration::from_secs(30);
/// Of a witness's answer. A cosignature has some 200.
const ANSWER_MAX_BYTES: usize = 16 << 10;

#[derive(Debug, thiserror::Error)]
pub enum PublishingError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the key in {} (`ledger.key_file`) is not the one that the log names", file.display())]
    OtherKey { file: PathBuf, source: RotationError },
    #[error("a key in `ledger.witnesses` cannot be used")]
    WitnessKey(#[source] NoteError),
    #[error("`ledger.witnesses` cannot be used")]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Witness(#[from] WebError),
    #[error("the log cannot be published")]
    Publish(#[from] PublishError),
    #[error("the publishing thread cannot be started")]
    Thread(#[source] std::io::Error),
    #[error(transparent)]
    Pin(#[from] PinError),
}

/// Sizes for the metrics. 0: none yet.
#[derive(Default)]
pub(super) struct Sizes {
    pub published: AtomicU64,
    /// Of the newest checkpoint that as many witnesses cosigned as are needed.
    pub cosigned: AtomicU64,
}

/// Dropping it publishes what is left.
pub(super) struct Publishing {
    pub publisher: Arc<Publisher<RealDisk>>,
    pub sizes: Arc<Sizes>,
    /// The log's present key, under its first epoch's name.
    pub signing: watch::Sender<VerifierKey>,
    /// Checked, and not yet named by an entry.
    prepared: Option<SignerKey>,
    witnesses: Option<tokio::task::AbortHandle>,
}

impl Publishing {
    /// Checks a change of keys before it is written down. `note` is signed by both keys; the new one lies in `file`.
    pub fn prepare(&mut self, note: &str, file: &Path, data: &Path) -> Result<(), String> {
        let Rotation { old, new } = Rotation::open(note).map_err(|error| format!("the change of keys does not hold: {error}"))?;
        if new == *self.signing.borrow() {
            return Err(format!("{new} is the log's key already"));
        }
        if old != *self.signing.borrow() {
            return Err(format!("the log's key is {}, and not {old}", *self.signing.borrow()));
        }
        let key = key::load(file, Some(data), KeyKind::Log).map_err(|error| error.to_string())?;
        if *key.verifier() != new {
            return Err(format!("{} holds {}, and not {new}", file.display(), key.verifier()));
        }
        self.prepared = Some(key);
        Ok(())
    }

    /// The entry `seq`, which is about to be committed, names the key that was prepared.
    pub fn change_key(&mut self, seq: u64) {
        if let Some(key) = self.prepared.take() {
            self.signing.send_replace(key.verifier().clone());
            self.publisher.next_keys().give(seq, key);
        }
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.witnesses.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// The log's key by the configuration, under its first epoch's name.
pub(super) fn log_key(operator: &Operator) -> Result<Option<VerifierKey>, PublishingError> {
    let Some(config) = &operator.ledger else { return Ok(None) };
    let key = key::load(&config.key_file, Some(&operator.data), KeyKind::Log)?;
    Ok(Some(key.verifier().clone()))
}

/// None: the operator configured no key, and the log is signed by nobody.
pub(super) fn start(
    operator: &Operator,
    log: Reader,
    state: &State,
    epoch: u64,
    alarms: Alarms,
    events: mpsc::UnboundedSender<Event>,
) -> Result<Option<Publishing>, PublishingError> {
    let Some(config) = &operator.ledger else { return Ok(None) };
    let key = key::load(&config.key_file, Some(&operator.data), KeyKind::Log)?;
    let former = former(key.verifier(), &state.log_keys).map_err(|source| PublishingError::OtherKey {
        file: config.key_file.clone(),
        source,
    })?;
    let witnesses: Vec<Witness> = config.witnesses.known.iter().map(Witness::new).collect::<Result<_, _>>()?;
    let policy = policy(config)?;
    let keys: Vec<VerifierKey> = former
        .iter()
        .map(|former| former.key.clone())
        .chain([key.verifier().clone()])
        .collect();
    let local = operator.data.join("pin");
    let pin = match &config.pin {
        Some(pin) => {
            pin::compare_at_boot(pin, &local, &log, epoch, &keys, &alarms)?;
            Some(Pin::open(pin, &local, log.clone(), epoch, keys)?)
        }
        None => None,
    };
    let publication = Publication::new(log.clone(), &key, epoch, former)?.without_bundles_below(state.bundles_from);
    let sizes = Arc::<Sizes>::default();
    let (tell, news) = watch::channel(publication.published().cloned());
    let (told, raised) = (sizes.clone(), alarms.clone());
    let said = move |outcome: Result<&SignedCheckpoint, &PublishError>| match outcome {
        Ok(signed) => {
            told.published.store(signed.checkpoint.size, Ordering::Relaxed);
            raised.set(Alarm::Publishing, None);
            tell.send_replace(Some(signed.clone()));
        }
        Err(error) => raised.set(Alarm::Publishing, Some(format!("the log is not published: {}", said(error)))),
    };
    let publisher = Publisher::spawn(publication, PUBLISH_AT_MOST_EVERY, said).map_err(PublishingError::Thread)?;
    let publisher = Arc::new(publisher);
    let signing = watch::Sender::new(key.verifier().clone());
    if let Some(pin) = pin {
        pin::spawn(pin, news.clone(), signing.subscribe(), alarms.clone(), events.clone()).map_err(PublishingError::Thread)?;
    }
    let task = (!witnesses.is_empty()).then(|| {
        let cosigning = Cosigning {
            publisher: Arc::downgrade(&publisher),
            log,
            policy,
            sizes: sizes.clone(),
            alarms,
            events,
        };
        tokio::spawn(cosigning.run(witnesses, news)).abort_handle()
    });
    Ok(Some(Publishing {
        publisher,
        sizes,
        signing,
        prepared: None,
        witnesses: task,
    }))
}

/// Who has to cosign.
pub(crate) fn policy(config: &LedgerConfig) -> Result<Policy, PublishingError> {
    let keys: Result<Vec<VerifierKey>, NoteError> = config.witnesses.known.iter().map(|witness| witness.key.parse()).collect();
    Ok(Policy::new(
        config.witnesses.needed,
        keys.map_err(PublishingError::WitnessKey)?,
    )?)
}

struct Witness {
    server: WebServer,
    key: VerifierKey,
    /// What it cosigned last, as far as is known.
    last_size: u64,
    /// What is wrong with it, said once.
    trouble: Option<String>,
}

enum Asked {
    Cosigned(Signature),
    /// It has seen more of this log than there is, or another history of it.
    KnowsBetter(String),
    Not(String),
}

impl Witness {
    fn new(config: &WitnessConfig) -> Result<Self, PublishingError> {
        let key: VerifierKey = config.key.parse().map_err(PublishingError::WitnessKey)?;
        let who = format!("witness {}", key.name());
        Ok(Self {
            server: WebServer::new(&who, &config.url, config.ca_file.as_deref(), WITNESS_DEADLINE)?,
            key,
            last_size: 0,
            trouble: None,
        })
    }

    /// At most twice: the second time from the size that it says it has.
    async fn ask(&mut self, log: &Reader, signed: &SignedCheckpoint) -> Asked {
        let size = signed.checkpoint.size;
        for _ in 0..2 {
            match self.ask_from(self.last_size.min(size), log, signed).await {
                Err(why) => return Asked::Not(why),
                Ok(Outcome::Cosigned(signature)) => {
                    self.last_size = size;
                    return Asked::Cosigned(signature);
                }
                Ok(Outcome::OtherSize(other)) if other > log.size() => {
                    return Asked::KnowsBetter(format!(
                        "has cosigned {other} entries of this log, and {} are here",
                        log.size()
                    ));
                }
                Ok(Outcome::OtherSize(other)) => self.last_size = other,
                Ok(Outcome::Refused {
                    status: 409 | 422,
                    message,
                }) => {
                    return Asked::KnowsBetter(format!("has cosigned another history of this log: {message}"));
                }
                Ok(Outcome::Refused { status, message }) => return Asked::Not(format!("it answered {status}: {message}")),
            }
        }
        Asked::Not("it does not keep to the size that it says it cosigned last".to_owned())
    }

    async fn ask_from(&self, old_size: u64, log: &Reader, signed: &SignedCheckpoint) -> Result<Outcome, String> {
        let (reader, size) = (log.clone(), signed.checkpoint.size);
        let proof = match old_size {
            0 => Vec::new(),
            old => tokio::task::spawn_blocking(move || reader.consistency_proof(old, size))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?,
        };
        let body = AddCheckpoint {
            old_size,
            proof,
            checkpoint: signed.note.to_string(),
        };
        let url = format!("{}/add-checkpoint", self.server.base);
        let sent = self.server.client.post(url).body(body.to_string()).send().await;
        let mut response = sent.map_err(|error| format!("it cannot be reached: {error}"))?;
        let status = response.status().as_u16();
        let mut answer = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| error.to_string())? {
            answer.extend_from_slice(&part);
            if answer.len() > ANSWER_MAX_BYTES {
                return Err(format!("its answer has more than {ANSWER_MAX_BYTES} bytes"));
            }
        }
        let answer = String::from_utf8(answer).map_err(|_| "its answer is no text".to_owned())?;
        Ok(read_answer(status, &answer, &signed.note.text, &self.key))
    }

    /// Each trouble once, and its end.
    fn say(&mut self, trouble: Option<String>) {
        if self.trouble != trouble {
            let witness = self.key.name();
            match &trouble {
                Some(detail) => tracing::warn!(witness, detail, "a witness does not cosign"),
                None => tracing::info!(witness, "the witness cosigns again"),
            }
            self.trouble = trouble;
        }
    }
}

struct Cosigning {
    publisher: Weak<Publisher<RealDisk>>,
    log: Reader,
    policy: Policy,
    sizes: Arc<Sizes>,
    alarms: Alarms,
    events: mpsc::UnboundedSender<Event>,
}

impl Cosigning {
    #[allow(clippy::disallowed_methods, reason = "witnesses are asked in real time")]
    async fn run(self, mut witnesses: Vec<Witness>, mut news: watch::Receiver<Option<SignedCheckpoint>>) {
        loop {
            let signed = news.borrow_and_update().clone();
            let complete = match &signed {
                Some(signed) => match self.round(&mut witnesses, signed).await {
                    Some(complete) => complete,
                    None => return,
                },
                None => true,
            };
            let short = || "fewer witnesses cosign the ledger than `ledger.witnesses.needed`".to_owned();
            self.alarms.set(Alarm::Witnesses, (!complete).then(short));
            tokio::time::sleep(WITNESS_AT_MOST_EVERY).await;
            let retry = tokio::time::sleep(WITNESS_RETRY);
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return },
                () = retry, if !complete => {}
            }
        }
    }

    /// Whether enough cosigned. None: it is over.
    async fn round(&self, witnesses: &mut [Witness], signed: &SignedCheckpoint) -> Option<bool> {
        let size = signed.checkpoint.size;
        let answers = join_all(witnesses.iter_mut().map(|witness| witness.ask(&self.log, signed))).await;
        let (mut cosignatures, mut warnings) = (Vec::new(), Vec::new());
        for (witness, answer) in witnesses.iter_mut().zip(answers) {
            match answer {
                Asked::Cosigned(signature) => {
                    witness.say(None);
                    cosignatures.push(signature);
                }
                Asked::Not(why) => witness.say(Some(why)),
                Asked::KnowsBetter(why) => {
                    warnings.push(format!("witness {} {why}", witness.key.name()));
                    witness.say(Some(why));
                }
            }
        }
        // As many as are believed when they cosign: a single one of several may lie.
        if !warnings.is_empty() && warnings.len() >= self.policy.needed().max(1) {
            let message = format!("{}: this is an old copy of the ledger", warnings.join("; "));
            let _ = self.events.send(Event::LedgerFailed(message));
            return None;
        }
        let mut note = signed.note.clone();
        cosignatures.iter().for_each(|signature| note.add(signature.clone()));
        let complete = self.policy.check(&note).is_ok();
        let publisher = self.publisher.upgrade()?;
        let added = tokio::task::spawn_blocking(move || publisher.add_cosignatures(size, cosignatures)).await;
        match added {
            Ok(Ok(_)) if complete => self.sizes.cosigned.store(size, Ordering::Relaxed),
            // A newer one is published by now; its turn comes next.
            Ok(Ok(_) | Err(PublishError::OtherCheckpoint { .. })) | Err(_) => {}
            Ok(Err(error)) => tracing::error!(error = &error as &dyn std::error::Error, "cosignatures cannot be written"),
        }
        Some(complete)
    }
}

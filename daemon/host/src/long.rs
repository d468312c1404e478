//! Requests that outlive the call that began them: uploads and pulls. The same request in the same step reports on the one
//! that is under way. They end with the daemon, and then begin afresh.

use crate::content::{CONTENT_MAX_BYTES, Content};
use crate::endpoint::{Alias, Exchange, Outgoing, Payload, SendFail};
use crate::secrets::Secrets;
use bytes::Bytes;
use futures_util::FutureExt;
use holdfast_core::ids::Digest;
use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// As much of an answer's end as a guest is shown.
const TAIL_BYTES: usize = 64 << 10;

/// Bounds of all long requests together; those of the daemon are the default.
#[derive(Debug, Clone)]
pub struct LongLimits {
    pub at_once: usize,
    /// On one target, so that a slow one does not hold up the others.
    pub per_target: usize,
    /// From the first byte to the last.
    pub longest: Duration,
    /// Without anybody asking, for so long: then it is given up, and what it ended with is forgotten.
    pub unasked: Duration,
}

impl Default for LongLimits {
    fn default() -> Self {
        Self {
            at_once: 16,
            per_target: 2,
            longest: Duration::from_secs(3_600),
            unasked: Duration::from_secs(600),
        }
    }
}

/// One request of one step.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LongKey {
    pub plugin: Digest,
    pub target: String,
    pub alias: String,
    /// Hash of method, path, headers and body, as the guest gave them.
    pub request: Digest,
    pub fence: u64,
}

pub(crate) struct LongRequest {
    pub alias: Arc<Alias>,
    /// Its payload is taken from `content`, if there is any.
    pub outgoing: Outgoing,
    pub content: Option<Content>,
    pub secrets: Arc<Secrets>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LongState {
    Running { moved_kib: u32 },
    Finished(Exchange),
}

pub(crate) struct LongSends {
    limits: LongLimits,
    jobs: Mutex<BTreeMap<LongKey, Job>>,
}

struct Job {
    moved_bytes: Arc<AtomicU64>,
    /// None: under way.
    ended: Arc<Mutex<Option<Result<Exchange, SendFail>>>>,
    asked: Instant,
    task: tokio::task::AbortHandle,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Job {
    fn is_running(&self) -> bool {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl LongSends {
    pub fn new(limits: LongLimits) -> Self {
        Self {
            limits,
            jobs: Mutex::default(),
        }
    }

    /// How the request is that is under way. None: none is, it has to be begun. A failure is reported once: the next time
    /// the request begins afresh.
    #[allow(clippy::disallowed_methods, reason = "whether somebody still asks is real time")]
    pub fn report(&self, key: &LongKey) -> Option<Result<LongState, SendFail>> {
        let now = Instant::now();
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, job| now.duration_since(job.asked) < self.limits.unasked);
        let job = jobs.get_mut(key)?;
        job.asked = now;
        let ended = job.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(match ended {
            None => Ok(LongState::Running {
                moved_kib: u32::try_from(job.moved_bytes.load(Ordering::Relaxed) >> 10).unwrap_or(u32::MAX),
            }),
            Some(Ok(exchange)) => Ok(LongState::Finished(exchange)),
            Some(Err(fail)) => {
                jobs.remove(key);
                Err(fail)
            }
        })
    }

    /// Whether another one may begin on this target now. If not, the guest asks again.
    pub fn has_room(&self, key: &LongKey) -> bool {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let running = jobs.iter().filter(|(_, job)| job.is_running());
        let (all, here) = running.fold((0, 0), |(all, here), (other, _)| {
            (all + 1, here + usize::from(other.target == key.target))
        });
        all < self.limits.at_once && here < self.limits.per_target
    }

    #[allow(clippy::disallowed_methods, reason = "whether somebody still asks is real time")]
    pub fn begin(&self, key: LongKey, request: LongRequest) -> LongState {
        let moved_bytes = Arc::<AtomicU64>::default();
        let ended = Arc::<Mutex<Option<_>>>::default();
        let (moved, outcome, longest) = (moved_bytes.clone(), ended.clone(), self.limits.longest);
        let task = tokio::spawn(async move {
            let run = AssertUnwindSafe(perform(request, moved, longest)).catch_unwind();
            let result = run
                .await
                .unwrap_or_else(|_| Err(SendFail::Lost("the host failed in the middle of it".into())));
            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        });
        let job = Job {
            moved_bytes,
            ended,
            asked: Instant::now(),
            task: task.abort_handle(),
        };
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        // The same request of an earlier step: nobody will ask for that one again.
        jobs.retain(|other, _| {
            LongKey {
                fence: key.fence,
                ..other.clone()
            } != key
        });
        jobs.insert(key, job);
        LongState::Running { moved_kib: 0 }
    }
}

#[allow(clippy::disallowed_methods, reason = "how long it may take is real time")]
async fn perform(request: LongRequest, moved_bytes: Arc<AtomicU64>, longest: Duration) -> Result<Exchange, SendFail> {
    let LongRequest {
        alias,
        mut outgoing,
        content,
        secrets,
    } = request;
    if let Some(content) = content {
        outgoing.payload = content.into_payload(moved_bytes.clone());
    } else if let Payload::Bytes(bytes) = &outgoing.payload {
        moved_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
    let deadline = Instant::now() + longest;
    let (mut answer, removal) = alias.begin(outgoing, deadline, longest).await?;
    let hidden_bytes = removal.longest_bytes() + secrets.longest_bytes();
    let mut tail = Tail::new(TAIL_BYTES + hidden_bytes);
    let reading = async {
        while let Some(chunk) = answer.chunk().await? {
            let before = moved_bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if before > 2 * CONTENT_MAX_BYTES {
                return Err(SendFail::TooLarge("the answer does not end".into()));
            }
            tail.push(&chunk);
        }
        Ok(())
    };
    tokio::time::timeout_at(deadline.into(), reading)
        .await
        .unwrap_or_else(|_| Err(SendFail::Lost(format!("no whole answer within {} s", longest.as_secs()))))?;
    let exchange = Exchange {
        status: answer.status,
        headers: std::mem::take(&mut answer.headers),
        body: tail.kept.into(),
    };
    let mut exchange = if tail.lost {
        secrets.take_out_of_tail(removal.tail(exchange))
    } else {
        secrets.take_out(removal.exchange(exchange))
    };
    let excess = exchange.body.len().saturating_sub(TAIL_BYTES);
    exchange.body.drain(..excess);
    Ok(exchange)
}

/// The last bytes of an answer.
struct Tail {
    kept: VecDeque<u8>,
    most_bytes: usize,
    /// Whether there was more before.
    lost: bool,
}

impl Tail {
    fn new(most_bytes: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            most_bytes,
            lost: false,
        }
    }

    fn push(&mut self, chunk: &Bytes) {
        self.kept.extend(chunk.iter());
        let excess = self.kept.len().saturating_sub(self.most_bytes);
        self.lost |= excess > 0;
        self.kept.drain(..excess);
    }
}

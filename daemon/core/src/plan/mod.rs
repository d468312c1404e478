//! The planners: pure functions from State, a fresh observation and volatile facts to one increment of work.
//!
//! A plan says what to write down, then at most one verb, what to ask, what it waits on and when to look again. It stops
//! where the next choice needs a new observation. Retry, back-off and giving up are decided here and nowhere else.

pub mod analysis;
pub mod facts;
pub mod health;
mod preflight;
pub mod rollout;
pub mod select;
pub mod unit;

use crate::entry::{Body, On};
use crate::ids::{Digest, GenNumber, Millis, ReleaseId, Seq, TargetName, WorkloadId};
use crate::release::Release;
use crate::spec::AnalysisSource;
use crate::target::Verb;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Version of the decision rules; recorded with every intent, so that a replay knows what to run.
pub const PLANNER_VERSION: u32 = 1;

/// An entry that a plan wants written, before it has a number.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub on: On,
    pub because: Vec<Seq>,
    /// Also because of the draft just before it in the same batch.
    pub because_previous: bool,
    pub blobs: BTreeMap<String, Digest>,
    pub body: Body,
}

impl Draft {
    pub fn new(on: On, because: Vec<Seq>, body: Body) -> Self {
        Self {
            on,
            because,
            because_previous: false,
            blobs: BTreeMap::new(),
            body,
        }
    }
    pub fn following(on: On, body: Body) -> Self {
        Self {
            on,
            because: Vec::new(),
            because_previous: true,
            blobs: BTreeMap::new(),
            body,
        }
    }
}

/// A question to the world. Asking needs no intent: it changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// `begun`: every entry below it was folded when the question was asked.
    Observe {
        target: TargetName,
        begun: Seq,
    },
    Pin {
        workload: WorkloadId,
        reference: String,
    },
    Check {
        workload: WorkloadId,
        target: TargetName,
        key: Digest,
        release: Arc<Release>,
        sources: BTreeMap<String, String>,
    },
    /// As `Check`, of a release that the ledger holds.
    CheckRelease {
        workload: WorkloadId,
        target: TargetName,
        key: Digest,
        release: ReleaseId,
    },
    Probe {
        workload: WorkloadId,
        target: TargetName,
        generation: GenNumber,
        path: String,
        addresses: Vec<String>,
    },
    /// The target's own counters of these generations, and the answers of other sources.
    Measure {
        workload: WorkloadId,
        target: TargetName,
        generations: Vec<GenNumber>,
        queries: Vec<MeasureQuery>,
    },
    Explain {
        workload: WorkloadId,
        target: TargetName,
        generation: GenNumber,
    },
    /// How many more instances of this generation the target has room for.
    Room {
        workload: WorkloadId,
        target: TargetName,
        generation: GenNumber,
    },
    /// What the target has instead of what this generation should be.
    Diff {
        workload: WorkloadId,
        target: TargetName,
        generation: GenNumber,
    },
    /// All tags of a repository, for a selector.
    Tags {
        workload: WorkloadId,
        repository: String,
    },
    /// Whether everything of a release could still be pulled: index, children, configs, layers.
    Pullable {
        workload: WorkloadId,
        release: ReleaseId,
    },
}

/// One analysis that is not answered by the target's own counters.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasureQuery {
    /// The analysis.
    pub name: String,
    pub source: AnalysisSource,
    /// For `http`: what to ask, by generation.
    pub addresses: BTreeMap<GenNumber, Vec<String>>,
}

/// What somebody waits for, since when, and what ends it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Waiting {
    /// A stable word.
    pub on: String,
    pub message: String,
    pub since: Millis,
    /// When it ends by itself, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
}

/// One increment for one unit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UnitPlan {
    pub records: Vec<Draft>,
    /// Needs a durable intent first.
    pub verb: Option<Verb>,
    /// Issue the open intent's verb again, under its old fence.
    pub reissue: bool,
    pub asks: Vec<Ask>,
    pub waiting: Option<Waiting>,
    /// A new observation is wanted by then.
    pub look_at: Option<Millis>,
    /// Plan again by then.
    pub wake_at: Option<Millis>,
}

impl UnitPlan {
    pub fn record(draft: Draft) -> Self {
        Self {
            records: vec![draft],
            ..Self::default()
        }
    }

    /// What it waits on ends by then at the latest.
    fn end_by(&mut self, t: Millis) {
        self.wake_at = earliest(self.wake_at, Some(t));
        if let Some(waiting) = &mut self.waiting {
            waiting.until = Some(t);
        }
    }
}

/// One increment for one workload.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RolloutPlan {
    pub records: Vec<Draft>,
    pub blobs: Vec<(Digest, Vec<u8>)>,
    pub asks: Vec<Ask>,
    pub waiting: Option<Waiting>,
    pub wake_at: Option<Millis>,
}

impl RolloutPlan {
    /// Both plans' questions and waits; this one's word counts first.
    fn joined(mut self, other: RolloutPlan) -> Self {
        self.asks.extend(other.asks);
        self.wake_at = earliest(self.wake_at, other.wake_at);
        self.waiting = self.waiting.or(other.waiting);
        self.records.extend(other.records);
        self.blobs.extend(other.blobs);
        self
    }

    /// What it waits on ends at `t`.
    fn end_at(&mut self, t: Millis) {
        self.wake_at = earliest(self.wake_at, Some(t));
        if let Some(waiting) = &mut self.waiting {
            waiting.until = Some(t);
        }
    }
}

pub use preflight::unable;

pub(crate) fn earliest(a: Option<Millis>, b: Option<Millis>) -> Option<Millis> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Back-off after `tries` failures: 1 s doubling to five minutes.
pub fn backoff_ms(tries: u32) -> Millis {
    const LONGEST_MS: Millis = 300_000;
    (500u64 << tries.clamp(1, 10)).min(LONGEST_MS)
}

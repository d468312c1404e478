//! Facts: what was learnt since boot and may be learnt again. Losing them costs time, never correctness.

use crate::ids::{Digest, GenNumber, Millis, ReleaseId, Seq};
use crate::target::{Change, Fault, GenerationState, Page, Report, RouteState, Sample};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is known of one target.
#[derive(Debug, Clone, Default)]
pub struct TargetFacts {
    /// The newest look: begun when every entry below this was folded, when it was asked for, and when it was answered.
    pub looked: Option<(Seq, Millis, Millis)>,
    /// When the look under way was asked for.
    pub asked_t: Millis,
    /// The newest intent of this run of the daemon.
    pub intended: Option<Seq>,
    /// What it showed, by workload; what is not in here is not on the target.
    pub seen: BTreeMap<String, Arc<Seen>>,
    /// Failed looks in a row.
    pub failures: u32,
    pub last_failure: Option<Fault>,
    pub asked: bool,
    pub next_look: Option<Millis>,
}

impl TargetFacts {
    /// The newest look at one workload.
    pub fn look(&self, workload: &str) -> Option<Look> {
        let (begun, asked_t, t) = self.looked?;
        let seen = self.seen.get(workload).cloned().unwrap_or_default();
        Some(Look { begun, asked_t, t, seen })
    }
}

/// What one look showed of one unit, and how fresh it is: begun when every entry below `begun` was folded. It shows the
/// target at some time between `asked_t` and `t`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Look {
    pub begun: Seq,
    pub asked_t: Millis,
    pub t: Millis,
    pub seen: Arc<Seen>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    pub generations: Vec<GenerationState>,
    pub route: Option<RouteState>,
}

impl Seen {
    /// A page, workload by workload.
    pub fn by_workload(page: Page) -> BTreeMap<String, Arc<Seen>> {
        let mut all: BTreeMap<String, Seen> = BTreeMap::new();
        for state in page.generations {
            all.entry(state.workload.clone()).or_default().generations.push(state);
        }
        for route in page.routes {
            let workload = route.workload.clone();
            all.entry(workload).or_default().route = Some(route);
        }
        all.into_iter().map(|(workload, seen)| (workload, Arc::new(seen))).collect()
    }

    pub fn generation(&self, number: GenNumber) -> Option<&GenerationState> {
        self.generations.iter().find(|state| state.number == number)
    }

    /// No traffic comes to it, and none will by a route that only some routers have yet.
    pub fn is_offline(&self, number: GenNumber) -> bool {
        self.share(number) == 0 && self.route.as_ref().is_none_or(|route| route.settled)
    }

    /// The share that a generation really has; 0 when there is no route.
    pub fn share(&self, number: GenNumber) -> u32 {
        let shares = self.route.iter().flat_map(|route| &route.shares);
        shares
            .filter(|share| share.number == number)
            .map(|share| share.live)
            .max()
            .unwrap_or(0)
    }
}

/// What is known of one unit.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct UnitFacts {
    pub check: Option<Check>,
    pub health: Health,
    pub probe: Option<Probe>,
    pub analysis: BTreeMap<String, AnalysisFacts>,
    pub measured_t: Option<Millis>,
    /// The generation that was seen to report telemetry.
    pub reported: Option<GenNumber>,
    pub room: Option<Room>,
    pub diff: Option<Diff>,
    pub call: CallFacts,
    /// What serves runs a digest that is not of its pin.
    pub wrong_digest: Option<String>,
    /// Planned at least once on a look of this run of the daemon.
    pub settled: bool,
    /// Fewer instances of the generation that should serve are ready than wanted, since then.
    pub short_since: Option<Millis>,
    /// The plan checker refused a plan: nothing happens here until a person looks.
    pub stalled: Option<String>,
}

/// The target's word on how many more instances it has room for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Room {
    pub generation: GenNumber,
    /// None: it cannot tell.
    pub room: Option<u32>,
    pub t: Millis,
}

/// What differs from the generation as launched, for the fingerprint that was seen then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    pub generation: GenNumber,
    pub fingerprint: String,
    /// Err: the target could not say.
    pub changes: Result<Vec<Change>, Fault>,
    pub t: Millis,
}

/// What is known of a repository's tags, for the selectors of one workload.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TagsFacts {
    pub asked: bool,
    pub tries: u32,
    pub again_at: Millis,
    pub failure: Option<String>,
    pub since: Millis,
    pub tags: Option<Vec<String>>,
}

/// Whether the way back could be pulled.
#[derive(Debug, Clone, PartialEq)]
pub struct PullFacts {
    pub release: ReleaseId,
    /// Err: what is missing, or why it cannot be known.
    pub outcome: Result<(), String>,
    pub t: Millis,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Check {
    /// Release, captured target and plugin: the answer is good for these only.
    pub key: Digest,
    pub answer: Result<Report, Fault>,
    pub t: Millis,
    /// Faults in a row.
    pub tries: u32,
}

/// Whether the candidate is healthy, and since when without a break.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub generation: GenNumber,
    pub healthy_since: Option<Millis>,
    /// When it was given a size last: the instances that came by it have been seen since then only.
    pub sized_t: Millis,
    pub unhealthy_since: Option<Millis>,
    /// Restarts when the present stretch of health began: a rise is a failure that polling would miss.
    pub restarts: u32,
    /// Ever seen running something that answers, rightly or wrongly.
    pub started: bool,
    /// Why not, for people.
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub generation: GenNumber,
    pub t: Millis,
    /// None: every address answered 2xx.
    pub failure: Option<String>,
    /// False: it could not be asked (no grant, no address), which says nothing of the release.
    pub asked: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct AnalysisFacts {
    /// Counters of each generation when the attempt was first measured.
    pub base: BTreeMap<GenNumber, (f64, f64)>,
    pub failures: u32,
    pub measured: Option<Measured>,
    pub unmeasured_since: Option<Millis>,
    /// Why nothing could be measured, for people.
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub t: Millis,
    pub canary: Measure,
    pub baseline: Measure,
    pub failed: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    pub value: f64,
    pub samples: u64,
}

/// The call in flight, or the wait before the next one.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct CallFacts {
    pub in_flight: Option<Seq>,
    /// `pending` said: again at this time, with this.
    pub again_at: Option<Millis>,
    pub resume: Option<String>,
    pub progress: String,
    /// The target keeps no stale call out, and one may be on its way until then: nothing is sent before.
    pub not_before: Millis,
    /// Routes that were done but did not read back as asked.
    pub route_repeats: u32,
    /// When the last route was intended: the back-off of the next one counts from here.
    pub routed_t: Millis,
}

/// Answers of one query, by generation. Err: why it is unmeasured.
pub type Answers = BTreeMap<GenNumber, Result<Measure, String>>;

/// Counters that a target reported for one generation.
pub type Samples = BTreeMap<GenNumber, Vec<Sample>>;

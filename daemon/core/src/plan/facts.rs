//! Facts: what was learnt since boot and may be learnt again. Losing them costs time, never correctness.

use crate::ids::{Digest, GenNumber, Millis, ReleaseId, Seq};
use crate::target::{Change, Fault, GenerationState, Observed, Report, RouteState, Sample};
use std::collections::BTreeMap;

/// What is known of one target.
#[derive(Debug, Clone, Default)]
pub struct TargetFacts {
    pub observed: Option<Observed>,
    pub observed_t: Millis,
    /// Failed observations in a row.
    pub failures: u32,
    pub last_failure: Option<Fault>,
    pub asked: bool,
    pub next_look: Option<Millis>,
}

/// What is known of one unit.
#[derive(Debug, Clone, Default)]
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
    /// The plan checker refused a plan: nothing happens here until a person looks.
    pub stalled: Option<String>,
}

/// The target's word on how many more instances it has room for.
#[derive(Debug, Clone, PartialEq)]
pub struct Room {
    pub generation: GenNumber,
    /// None: it cannot tell.
    pub room: Option<u32>,
    pub t: Millis,
}

/// What differs from the generation as launched, for the fingerprint that was seen then.
#[derive(Debug, Clone, PartialEq)]
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

#[derive(Debug, Clone)]
pub struct Check {
    /// Release, captured target and plugin: the answer is good for these only.
    pub key: Digest,
    pub answer: Result<Report, Fault>,
    pub t: Millis,
}

/// Whether the candidate is healthy, and since when without a break.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Health {
    pub generation: GenNumber,
    pub healthy_since: Option<Millis>,
    pub unhealthy_since: Option<Millis>,
    /// Restarts when the present stretch of health began: a rise is a failure that polling would miss.
    pub restarts: u32,
    /// Ever seen running something that answers, rightly or wrongly.
    pub started: bool,
    /// Why not, for people.
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    pub generation: GenNumber,
    pub t: Millis,
    /// None: every address answered 2xx.
    pub failure: Option<String>,
    /// An answer came, if a wrong one.
    pub answered: bool,
}

#[derive(Debug, Clone, Default)]
pub struct AnalysisFacts {
    /// Counters of each generation when the attempt was first measured.
    pub base: BTreeMap<GenNumber, (f64, f64)>,
    pub failures: u32,
    pub measured: Option<Measured>,
    pub unmeasured_since: Option<Millis>,
    /// Why nothing could be measured, for people.
    pub why: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub t: Millis,
    pub canary: Measure,
    pub baseline: Measure,
    pub failed: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Measure {
    pub value: f64,
    pub samples: u64,
}

/// The call in flight, or the wait before the next one.
#[derive(Debug, Clone, Default)]
pub struct CallFacts {
    pub in_flight: Option<Seq>,
    /// `pending` said: again at this time, with this.
    pub again_at: Option<Millis>,
    pub resume: Option<String>,
    pub progress: String,
    /// Routes that were done but did not read back as asked.
    pub route_repeats: u32,
    /// When the last route was intended: the back-off of the next one counts from here.
    pub routed_t: Millis,
}

/// Answers of one query, by generation. Err: why it is unmeasured.
pub type Answers = BTreeMap<GenNumber, Result<Measure, String>>;

/// Counters that a target reported for one generation.
pub type Samples = BTreeMap<GenNumber, Vec<Sample>>;

/// What one observation says of one unit.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub observed: &'a Observed,
    pub workload: &'a str,
    pub t: Millis,
}

impl<'a> Seen<'a> {
    pub fn generations(&self) -> impl Iterator<Item = &'a GenerationState> {
        let workload = self.workload;
        self.observed
            .page
            .generations
            .iter()
            .filter(move |state| state.workload == workload)
    }

    pub fn generation(&self, number: GenNumber) -> Option<&'a GenerationState> {
        self.generations().find(|state| state.number == number)
    }

    pub fn route(&self) -> Option<&'a RouteState> {
        self.observed.page.routes.iter().find(|route| route.workload == self.workload)
    }

    /// The share that a generation really has; 0 when there is no route.
    pub fn share(&self, number: GenNumber) -> u32 {
        self.route()
            .and_then(|route| route.shares.iter().find(|share| share.number == number))
            .map_or(0, |share| share.live)
    }
}

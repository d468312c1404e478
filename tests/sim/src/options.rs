//! What a run may do: which features the manifests use, and which faults strike until when.

use crate::random::Random;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Until here faults strike; afterwards it must come to rest.
pub const FAULTS_MS: u64 = 400_000;

/// A part of the engine: manifests use it, or the world tries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    Waves,
    Rolling,
    Recreate,
    Jobs,
    Approvals,
    /// Foreign edits, lost instances, extra generations: recorded and healed.
    Drift,
    Standby,
    Selectors,
    DependsOn,
    /// Targets with little room.
    Capacity,
    /// Analyses that are not answered by the target's own counters.
    Prometheus,
    /// `telemetryRequired`.
    Telemetry,
    /// Targets that cannot do everything.
    Abilities,
    /// One document: only `route` and the last `retire` are called.
    Unstaged,
    /// `suspend: true` in a manifest.
    Suspend,
    /// Retry, freeze, thaw, deploy --now, repin.
    Commands,
    /// `rollback: manual`.
    Manual,
    /// Time-outs are judged by a look that was begun after them, and a stretch of health by one after its end.
    Punctual,
    /// A ledger restored from an old copy is found out by what targets have seen.
    OldCopy,
    /// After a failed sync the daemon may be started again without the machine.
    FailedSync,
}

impl Feature {
    pub const ALL: [Feature; 20] = [
        Feature::Waves,
        Feature::Rolling,
        Feature::Recreate,
        Feature::Jobs,
        Feature::Approvals,
        Feature::Drift,
        Feature::Standby,
        Feature::Selectors,
        Feature::DependsOn,
        Feature::Capacity,
        Feature::Prometheus,
        Feature::Telemetry,
        Feature::Abilities,
        Feature::Unstaged,
        Feature::Suspend,
        Feature::Commands,
        Feature::Manual,
        Feature::Punctual,
        Feature::OldCopy,
        Feature::FailedSync,
    ];

    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|feature| feature.name() == text)
    }
}

thread_local! {
    /// Of the run that this thread is at.
    static ON: RefCell<BTreeSet<Feature>> = const { RefCell::new(BTreeSet::new()) };
}

/// From here on this thread's run has these features and no others.
pub fn set_features(features: &BTreeSet<Feature>) {
    ON.with_borrow_mut(|on| on.clone_from(features));
}

pub fn has(feature: Feature) -> bool {
    ON.with_borrow(|on| on.contains(&feature))
}

/// A class of faults, or of people who are in the way. Each draws from a stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL between two outputs.
    Kill,
    /// Power cut between two outputs, or within a write: unsynced sectors are torn or lost.
    Power,
    DiskFull,
    DiskError,
    /// A call is lost on its way; nothing happens.
    CallLost,
    /// It happens, and the answer is a time-out that comes before or after.
    CallLate,
    CallTwice,
    /// `pending`, or an effect that stops half-way.
    CallPartial,
    /// A route is set on some routers first.
    RoutePartial,
    /// An observation fails, or a target is away for a while.
    TargetAway,
    /// An observation or answer takes long, so that others overtake it.
    Slow,
    /// A target says ready where nothing is yet.
    Lies,
    /// It runs a digest that is not of the pin.
    WrongDigest,
    ForeignEdit,
    InstanceLost,
    ExtraGeneration,
    /// A target forgets a job that it began.
    JobLost,
    ProbeFails,
    RegistryDown,
    TagMoved,
    TagGone,
    GitAway,
    GitBroken,
    GitRewrite,
    GitRevert,
    MetricsGap,
    MetricsSpike,
    People,
    /// Workloads and targets come and go.
    Reshaped,
}

impl Fault {
    pub const ALL: [Fault; 29] = [
        Fault::Kill,
        Fault::Power,
        Fault::DiskFull,
        Fault::DiskError,
        Fault::CallLost,
        Fault::CallLate,
        Fault::CallTwice,
        Fault::CallPartial,
        Fault::RoutePartial,
        Fault::TargetAway,
        Fault::Slow,
        Fault::Lies,
        Fault::WrongDigest,
        Fault::ForeignEdit,
        Fault::InstanceLost,
        Fault::ExtraGeneration,
        Fault::JobLost,
        Fault::ProbeFails,
        Fault::RegistryDown,
        Fault::TagMoved,
        Fault::TagGone,
        Fault::GitAway,
        Fault::GitBroken,
        Fault::GitRewrite,
        Fault::GitRevert,
        Fault::MetricsGap,
        Fault::MetricsSpike,
        Fault::People,
        Fault::Reshaped,
    ];

    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == text)
    }

    fn needs(self) -> Option<Feature> {
        match self {
            Fault::ForeignEdit | Fault::InstanceLost | Fault::ExtraGeneration => Some(Feature::Drift),
            Fault::JobLost => Some(Feature::Jobs),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub seed: u64,
    pub features: BTreeSet<Feature>,
    /// Classes that do not strike although the seed says so: shrinking.
    pub off: BTreeSet<Fault>,
    pub faults_ms: u64,
    /// Says what happens, on stderr.
    pub loud: bool,
}

impl Options {
    /// With these features only.
    pub fn only(seed: u64, features: &BTreeSet<Feature>) -> Self {
        Self {
            features: features.clone(),
            ..Self::new(seed)
        }
    }

    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            features: Feature::ALL.into(),
            off: BTreeSet::new(),
            faults_ms: FAULTS_MS,
            loud: false,
        }
    }
}

/// The faults of one run: each seed has some of the classes, so that rare combinations meet.
pub struct Faults {
    enabled: BTreeMap<Fault, Random>,
    /// False once the world is calm.
    pub on: bool,
}

impl Faults {
    pub fn new(options: &Options) -> Self {
        let mut which = Random::of(options.seed, "classes");
        let density = [30, 60, 90][which.below(3) as usize];
        let mut enabled = BTreeMap::new();
        for fault in Fault::ALL {
            let drawn = which.chance(density);
            let possible = fault.needs().is_none_or(has) && !options.off.contains(&fault);
            if drawn && possible {
                enabled.insert(fault, Random::of(options.seed, &fault.name()));
            }
        }
        Self { enabled, on: true }
    }

    pub fn enabled(&self) -> impl Iterator<Item = Fault> + '_ {
        self.enabled.keys().copied()
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.enabled.contains_key(&fault)
    }

    /// Whether the class strikes here and now.
    pub fn strikes(&mut self, fault: Fault, percent: u64) -> bool {
        let on = self.on;
        self.enabled
            .get_mut(&fault)
            .is_some_and(|random| random.chance(percent) && on)
    }

    /// Numbers for a fault that struck.
    pub fn below(&mut self, fault: Fault, n: u64) -> u64 {
        self.enabled.get_mut(&fault).map_or(0, |random| random.below(n))
    }
}

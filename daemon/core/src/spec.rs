//! What a manifest means, after parsing: policy with its defaults, and content exactly as the user wrote it.
//!
//! These values are the bodies of `spec` entries, so their JSON shape is a compatibility promise.

use crate::ids::{Digest, FULL_SHARE, Millis};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// One deployable thing a team owns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadSpec {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The main one is named "main", or is the only one.
    pub artifacts: BTreeMap<String, ArtifactSpec>,
    pub placement: Placement,
    /// Instances per target; a floor where `instances_max` is set.
    pub instances: u32,
    /// An autoscaler owns the number, up to this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances_max: Option<u32>,
    /// The plugin's own dialect, before `${...}`.
    pub template: Value,
    /// Path inside the release to content hash. The contents are blobs of the ledger.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, Digest>,
    /// References only; values never come here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretRef>,
    /// Done, once per release and scope, before anything is launched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Job>,
    /// Done, once per release and scope, while the old generation is still there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Job>,
    pub strategy: Strategy,
    pub health: Health,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub analysis: Vec<Analysis>,
    pub rollback: Rollback,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// Names of workloads of the same repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    pub drain_ms: Millis,
    /// Last releases whose artifacts must stay pullable.
    #[serde(default = "default_retain")]
    pub retain: u32,
    /// Generations kept parked on each target: a way back that needs no registry.
    #[serde(default = "default_standby")]
    pub standby: u32,
    /// Nothing new begins while it is set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// Raised by people to try a quarantined release again.
    pub attempt: u32,
}

fn default_retain() -> u32 {
    5
}

fn default_standby() -> u32 {
    1
}

impl WorkloadSpec {
    /// What a manifest means that says nothing but this: the one place where defaults are.
    pub fn new(artifacts: BTreeMap<String, ArtifactSpec>, placement: Placement) -> Self {
        Self {
            labels: BTreeMap::new(),
            artifacts,
            placement,
            instances: 1,
            instances_max: None,
            template: Value::Object(serde_json::Map::new()),
            files: BTreeMap::new(),
            secrets: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
            strategy: Strategy::BlueGreen { bake_ms: 0 },
            health: Health {
                timeout_ms: 300_000,
                interval_ms: 5_000,
                stable_ms: 30_000,
                http: None,
                telemetry_required: false,
            },
            analysis: Vec::new(),
            rollback: Rollback::Automatic,
            approval: None,
            depends_on: Vec::new(),
            drain_ms: 30_000,
            retain: default_retain(),
            standby: default_standby(),
            suspend: false,
            attempt: 1,
        }
    }
}

/// Where an artifact comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ArtifactSpec {
    /// `REGISTRY/REPOSITORY:TAG` or `@DIGEST`, exactly as written.
    Reference(String),
    /// The best tag of a repository; which one that is, a `selection` entry says.
    Select { repository: String, select: Selector },
}

impl ArtifactSpec {
    /// The reference text, where the manifest names one.
    pub fn reference(&self) -> Option<&str> {
        match self {
            ArtifactSpec::Reference(text) => Some(text),
            ArtifactSpec::Select { .. } => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Selector {
    /// A requirement such as `~1.4`; the highest version that meets it.
    Semver(String),
    /// With one capture, sorted as numbers where all are, else as text; without, the whole tag is the key.
    Regex(String),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SecretRef {
    pub name: String,
    /// Never "latest": a new version is a new release.
    pub version: String,
}

/// Something that runs to its end, at most once per release and scope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub name: String,
    /// The plugin's own dialect.
    pub template: Value,
    pub scope: JobScope,
    /// A lost job (begun, and then nothing is known of it) may be run again without asking.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeatable: bool,
}

/// A job without its content: what State keeps of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRef {
    pub name: String,
    pub scope: JobScope,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeatable: bool,
}

impl From<&Job> for JobRef {
    fn from(job: &Job) -> Self {
        Self {
            name: job.name.clone(),
            scope: job.scope,
            repeatable: job.repeatable,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JobScope {
    /// Once on each target.
    Target,
    /// Once in all, on the first target that gets to it.
    Placement,
}

/// A number, or a share of a total in 1/10000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Count {
    Number(u32),
    Share(u32),
}

impl Count {
    /// Of `total`, a share rounded up; never more than `total`.
    pub fn up(self, total: u32) -> u32 {
        match self {
            Count::Number(number) => number.min(total),
            Count::Share(share) => share_of(total, share),
        }
    }

    /// Of `total`, a share rounded down; never more than `total`.
    pub fn down(self, total: u32) -> u32 {
        match self {
            Count::Number(number) => number.min(total),
            Count::Share(share) => (u64::from(total) * u64::from(share) / u64::from(FULL_SHARE)) as u32,
        }
    }
}

/// `share` of `total`, rounded up.
pub fn share_of(total: u32, share: u32) -> u32 {
    (u64::from(total) * u64::from(share.min(FULL_SHARE))).div_ceil(u64::from(FULL_SHARE)) as u32
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    #[serde(flatten)]
    pub targets: Targets,
    /// How many targets, in name order, each wave has reached when it is over. None given: all at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<Wave>,
    /// Units that may fail before no new unit starts.
    #[serde(default = "none_at_all")]
    pub max_failed: Count,
    /// Units that may be unreachable for longer than `lag_after` without holding up the others.
    #[serde(default = "none_at_all")]
    pub max_lagging: Count,
    #[serde(default = "default_lag_after")]
    pub lag_after_ms: Millis,
    #[serde(default)]
    pub on_halt: OnHalt,
}

fn none_at_all() -> Count {
    Count::Number(0)
}

fn default_lag_after() -> Millis {
    1_800_000
}

impl From<Targets> for Placement {
    fn from(targets: Targets) -> Self {
        Self {
            targets,
            waves: Vec::new(),
            max_failed: none_at_all(),
            max_lagging: none_at_all(),
            lag_after_ms: default_lag_after(),
            on_halt: OnHalt::Wait,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Targets {
    /// Targets by name.
    Names(Vec<String>),
    /// Targets that carry all these labels.
    MatchLabels(BTreeMap<String, String>),
}

impl Placement {
    pub fn includes(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        match &self.targets {
            Targets::Names(names) => names.iter().any(|n| n == name),
            Targets::MatchLabels(wanted) => wanted.iter().all(|(key, value)| labels.get(key) == Some(value)),
        }
    }

    /// How many of `total` targets each wave reaches; rises, and ends with all. At least one wave.
    pub fn wave_sizes(&self, total: u32) -> Vec<(u32, Millis)> {
        let mut sizes: Vec<(u32, Millis)> = Vec::new();
        for wave in &self.waves {
            let size = wave.targets.up(total).max(1);
            if sizes.last().is_none_or(|(before, _)| size > *before) {
                sizes.push((size, wave.hold_ms));
            }
        }
        if sizes.last().is_none_or(|(last, _)| *last < total) {
            sizes.push((total, 0));
        }
        sizes
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    pub targets: Count,
    /// Stay here so long before the next wave.
    pub hold_ms: Millis,
}

/// What a rollout does when more units failed than may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnHalt {
    /// Nothing new starts; a person decides.
    #[default]
    Wait,
    /// All units go back, and the release is quarantined everywhere.
    Abort,
}

/// How a unit's traffic comes to a new generation. Weights are in 1/10000.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Strategy {
    #[serde(rename_all = "snake_case")]
    BlueGreen { bake_ms: Millis },
    /// Steps rise strictly and end at 10000.
    #[serde(rename_all = "snake_case")]
    Canary { steps: Vec<CanaryStep>, bake_ms: Millis },
    /// New instances come and old ones go by turns, never under `instances - max_unavailable` ready ones, never over
    /// `instances + surge`.
    #[serde(rename_all = "snake_case")]
    Rolling {
        surge: Count,
        max_unavailable: Count,
        bake_ms: Millis,
    },
    /// The old generation is parked first: for what cannot run twice.
    #[serde(rename_all = "snake_case")]
    Recreate { bake_ms: Millis },
}

impl Strategy {
    /// The weights to reach, in order, each with its hold. A switch is one step.
    pub fn steps(&self) -> &[CanaryStep] {
        const SWITCH: &[CanaryStep] = &[CanaryStep {
            weight: FULL_SHARE,
            hold_ms: 0,
        }];
        match self {
            Strategy::Canary { steps, .. } => steps,
            Strategy::BlueGreen { .. } | Strategy::Rolling { .. } | Strategy::Recreate { .. } => SWITCH,
        }
    }
    pub fn bake_ms(&self) -> Millis {
        match self {
            Strategy::BlueGreen { bake_ms }
            | Strategy::Canary { bake_ms, .. }
            | Strategy::Rolling { bake_ms, .. }
            | Strategy::Recreate { bake_ms } => *bake_ms,
        }
    }
    pub fn name(&self) -> &'static str {
        match self {
            Strategy::BlueGreen { .. } => "blueGreen",
            Strategy::Canary { .. } => "canary",
            Strategy::Rolling { .. } => "rolling",
            Strategy::Recreate { .. } => "recreate",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStep {
    pub weight: u32,
    pub hold_ms: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// From launch until proven.
    pub timeout_ms: Millis,
    /// How often to look while proving.
    pub interval_ms: Millis,
    /// Healthy without a break for so long.
    pub stable_ms: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpHealth>,
    /// A new generation that reports no telemetry at all is not proven.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub telemetry_required: bool,
}

/// GET on every address of a generation, dialled by the host. 2xx is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpHealth {
    pub path: String,
}

/// Steps at which people must agree before the traffic gets there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Weights, in 1/10000.
    pub before: Vec<u32>,
    /// How many different people.
    pub count: u32,
    /// Whether authors and committers of the change count too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_author: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Analysis {
    pub name: String,
    pub source: AnalysisSource,
    /// CEL over `canary` and `baseline`, each `{value, samples}`. True is a failure.
    pub fail_when: String,
    /// Measured at these weights only; empty: at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at: Vec<u32>,
    pub interval_ms: Millis,
    /// Failures in a row that end the attempt.
    pub failures: u32,
    /// Below this many samples of the candidate's own, nothing is decided.
    pub min_samples: u64,
    pub unmeasured: Unmeasured,
    /// Recorded, never acted on.
    pub dry_run: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AnalysisSource {
    /// Ratio of two counters that the target itself keeps; `total` is the number of samples.
    Target { numerator: String, total: String },
    /// A query of the operator's source, once for the candidate and once for what it replaces. `{{generation}}`, `{{workload}}`,
    /// `{{target}}`, `{{release}}` and `{{deploy}}` are filled in.
    #[serde(rename_all = "snake_case")]
    Prometheus {
        source: String,
        query: String,
        /// Gives the number of samples; none: one for each point that the query answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        samples: Option<String>,
        /// A range query over so long, averaged; none: an instant one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        range_ms: Option<Millis>,
    },
    /// GET on every address of each generation; `value` is the share that did not answer 2xx, `samples` the number asked.
    Http { path: String },
}

/// What to do when nothing could be measured for so long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmeasured {
    pub for_ms: Millis,
    pub then: UnmeasuredThen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UnmeasuredThen {
    Hold,
    Fail,
    Pass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rollback {
    Automatic,
    /// A bad verdict stops and asks; a person says `abort` or `advance`.
    Manual,
}

/// One place that runs workloads, driven by one plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetSpec {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// A name that the operator's configuration maps to a plugin digest.
    pub plugin: String,
    /// JSON object; checked by the plugin.
    pub config: Value,
    /// For `${values.NAME}` in templates.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
}

impl TargetSpec {
    /// What a launch captures of it: canonical JSON of its `config` and `values`.
    pub fn captured_bytes(&self) -> Vec<u8> {
        let value = serde_json::json!({ "config": self.config, "values": self.values });
        // Canonical form of a JSON value cannot fail; an empty body would only make a different hash.
        serde_json_canonicalizer::to_vec(&value).unwrap_or_default()
    }
}

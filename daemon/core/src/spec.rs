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
    /// Artifact name to reference text, exactly as written. The main one is named "main", or is the only one.
    pub artifacts: BTreeMap<String, String>,
    pub placement: Placement,
    /// Instances per target.
    pub instances: u32,
    /// The plugin's own dialect, before `${...}`.
    pub template: Value,
    /// Path inside the release to content hash. The contents are blobs of the ledger.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, Digest>,
    pub strategy: Strategy,
    pub health: Health,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub analysis: Vec<Analysis>,
    pub rollback: Rollback,
    pub drain_ms: Millis,
    /// Raised by people to try a quarantined release again.
    pub attempt: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Placement {
    /// Targets by name.
    Names(Vec<String>),
    /// Targets that carry all these labels.
    MatchLabels(BTreeMap<String, String>),
}

impl Placement {
    pub fn includes(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Placement::Names(names) => names.iter().any(|n| n == name),
            Placement::MatchLabels(wanted) => wanted.iter().all(|(key, value)| labels.get(key) == Some(value)),
        }
    }
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
}

impl Strategy {
    /// The weights to reach, in order, each with its hold. A blue/green switch is one step.
    pub fn steps(&self) -> &[CanaryStep] {
        const SWITCH: &[CanaryStep] = &[CanaryStep {
            weight: FULL_SHARE,
            hold_ms: 0,
        }];
        match self {
            Strategy::BlueGreen { .. } => SWITCH,
            Strategy::Canary { steps, .. } => steps,
        }
    }
    pub fn bake_ms(&self) -> Millis {
        match self {
            Strategy::BlueGreen { bake_ms } | Strategy::Canary { bake_ms, .. } => *bake_ms,
        }
    }
    pub fn name(&self) -> &'static str {
        match self {
            Strategy::BlueGreen { .. } => "blueGreen",
            Strategy::Canary { .. } => "canary",
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
}

/// GET on every address of a generation, dialled by the host. 2xx is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpHealth {
    pub path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Analysis {
    pub name: String,
    pub source: AnalysisSource,
    /// CEL over `canary` and `baseline`, each `{value, samples}`. True is a failure.
    pub fail_when: String,
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

//! What the engine and a target say to each other, in plain values. They mirror `sdk/wit` one to one; the host converts.

use crate::ids::{Digest, FULL_SHARE, GenNumber};
use crate::spec::JobScope;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Routing {
    Fixed,
    Single,
    Pooled,
    Weighted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sizing {
    Unsized,
    Planned,
    Automatic,
}

/// What one workload can do on one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    pub routing: Routing,
    pub most_live: u32,
    pub finest_share: u32,
    pub sizing: Sizing,
    pub overlap: bool,
    pub staged: bool,
    pub seamless: bool,
    pub guarded: bool,
    pub probed: bool,
}

/// A target that can do everything.
impl Default for Abilities {
    fn default() -> Self {
        Self {
            routing: Routing::Weighted,
            most_live: u32::MAX,
            finest_share: 1,
            sizing: Sizing::Planned,
            overlap: true,
            staged: true,
            seamless: true,
            guarded: true,
            probed: true,
        }
    }
}

impl Abilities {
    /// Whether an observed share is the wanted one, as finely as the target can set it.
    pub fn same_share(&self, seen: u32, wanted: u32) -> bool {
        let whole = |share: u32| share == 0 || share == FULL_SHARE;
        if whole(wanted) {
            seen == wanted
        } else {
            seen.abs_diff(wanted) < self.finest_share.max(1)
        }
    }
}

/// `at` is a JSON pointer below /template or /config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckProblem {
    pub at: String,
    pub message: String,
    pub hint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub problems: Vec<CheckProblem>,
    pub abilities: Abilities,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GenPhase {
    Partial,
    Starting,
    Ready,
    /// The release is to blame.
    Failing,
    /// The release is not to blame.
    Stuck,
    Parked,
    Leaving,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceBy {
    Measured,
    Reported,
    Assumed,
}

/// A digest as the target names it, and how many instances run it (0: held, not run).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub artifact: String,
    pub digest: String,
    pub by: EvidenceBy,
    pub count: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub name: String,
    pub ready: bool,
    pub restarts: u32,
    /// host:port for the host's own probes, or empty.
    pub address: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationState {
    pub workload: String,
    pub number: GenNumber,
    pub release_id: String,
    pub fence: u64,
    pub phase: GenPhase,
    pub reason: String,
    pub message: String,
    pub wanted: Option<u32>,
    pub ready: u32,
    pub restarts: u32,
    pub proofs: Vec<Proof>,
    pub fingerprint: String,
    pub objects: Vec<String>,
    pub instances: Vec<Instance>,
}

/// live: in 1/10000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    pub number: GenNumber,
    pub live: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteState {
    pub workload: String,
    pub fence: u64,
    pub shares: Vec<Share>,
    pub settled: bool,
    pub fingerprint: String,
}

/// One page of an observation; the host joins pages into a whole one (`more` is then none).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    pub owner: Option<String>,
    pub high_fence: u64,
    pub generations: Vec<GenerationState>,
    pub routes: Vec<RouteState>,
    pub strangers: Vec<String>,
    pub more: Option<String>,
}

/// Why a verb did not do what was asked. The class decides blame and retry; the sentence is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub class: FaultClass,
    pub message: String,
    /// With `fenced`: the higher fence that the target has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultClass {
    /// Somebody must change something; never retried unchanged.
    Invalid,
    /// The release itself failed.
    Failed,
    Conflict,
    Fenced,
    Denied,
    Exhausted,
    Absent,
    Unavailable,
    /// Trap, memory, output or host bug: the plugin is to blame.
    Internal,
    /// The call's deadline passed: the effect is unknown.
    Deadline,
}

impl FaultClass {
    /// Whether the call may have had its effect, or have it yet.
    pub fn is_unknown(self) -> bool {
        matches!(self, FaultClass::Unavailable | FaultClass::Deadline | FaultClass::Internal)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            FaultClass::Invalid => "invalid",
            FaultClass::Failed => "failed",
            FaultClass::Conflict => "conflict",
            FaultClass::Fenced => "fenced",
            FaultClass::Denied => "denied",
            FaultClass::Exhausted => "exhausted",
            FaultClass::Absent => "absent",
            FaultClass::Unavailable => "unavailable",
            FaultClass::Internal => "internal",
            FaultClass::Deadline => "deadline",
        }
    }
}

/// What a mutating verb answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    Done,
    Pending { resume: String, after_ms: u32, message: String },
}

/// A verb with its arguments, by number: what an intent records. Everything else follows from State and blobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Verb {
    Launch {
        generation: GenNumber,
        size: u32,
    },
    Scale {
        generation: GenNumber,
        size: u32,
    },
    /// All existing generations of the workload; shares sum to 10000, or to 0 for off line.
    Route {
        shares: Vec<Share>,
        lead: GenNumber,
    },
    Retire {
        generation: GenNumber,
        last: bool,
    },
    /// Run a job to its end, under a name of its own; at most once, unless the manifest says it may be repeated.
    Run {
        generation: GenNumber,
        job: String,
        hook: Hook,
        scope: JobScope,
        /// Which run of the job it is, from 1: a lost one is repeated under another name.
        #[serde(default = "first_run", skip_serializing_if = "is_first_run")]
        run: u32,
    },
}

fn first_run() -> u32 {
    1
}

fn is_first_run(run: &u32) -> bool {
    *run == 1
}

/// The name under which a target knows a run of a job.
pub fn run_name(job: &str, run: u32) -> String {
    match run {
        0 | 1 => job.to_owned(),
        _ => format!("{job}-{run}"),
    }
}

/// When a job runs: before anything is launched, or once the new generation has all traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    Before,
    After,
}

impl Hook {
    pub fn as_str(self) -> &'static str {
        match self {
            Hook::Before => "before",
            Hook::After => "after",
        }
    }
}

impl Verb {
    /// The generation that the verb is about; of a route, the one that leads.
    pub fn generation(&self) -> GenNumber {
        match self {
            Verb::Launch { generation, .. }
            | Verb::Scale { generation, .. }
            | Verb::Retire { generation, .. }
            | Verb::Run { generation, .. } => *generation,
            Verb::Route { lead, .. } => *lead,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Verb::Launch { .. } => "launch",
            Verb::Scale { .. } => "scale",
            Verb::Route { .. } => "route",
            Verb::Retire { .. } => "retire",
            Verb::Run { .. } => "run",
        }
    }
}

// ---- what a plugin is given; assembled by the shell from State and blobs, passed by the host ----

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallContext {
    pub owner: String,
    pub target: String,
    /// JSON.
    pub config: String,
    /// 0 in reads.
    pub fence: u64,
    pub deploy_id: String,
    pub resume: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    pub digest: String,
    pub media_type: String,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformImage {
    pub platform: String,
    pub manifest: String,
    pub config: String,
    pub blobs: Vec<BlobRef>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    pub name: String,
    pub uri: String,
    pub digest: String,
    pub images: Vec<PlatformImage>,
    pub payload: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    pub name: String,
    pub version: String,
    /// What a request body carries; the host puts the value in, JSON-escaped or as base64.
    pub marker: String,
    pub marker_base64: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileBody {
    pub path: String,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    pub name: String,
    pub value: String,
}

/// One release on one target, whole, in every verb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    pub workload: String,
    pub key: String,
    pub name: String,
    pub number: GenNumber,
    pub release_id: String,
    pub artifacts: Vec<Artifact>,
    /// JSON with `${...}` filled in.
    pub template: String,
    pub files: Vec<FileBody>,
    pub secrets: Vec<Secret>,
    pub stamps: Vec<Stamp>,
    pub drain_ms: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEntry {
    pub generation: Generation,
    pub live: u32,
    pub lead: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excerpt {
    pub instance: String,
    pub source: String,
    pub text: String,
}

/// One difference between what a target has and what it should have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub item: String,
    pub path: String,
    pub have: String,
    pub want: String,
}

/// A counter or gauge of a target's own. `*_total` are cumulative since the generation began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub name: String,
    pub value: f64,
}

/// What the host saw a call do: one line per `endpoint.send`, without bodies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub alias: String,
    pub method: String,
    pub path: String,
    /// 0: nothing came back.
    pub status: u16,
}

/// The identity of a plugin as intents record it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginRef {
    pub name: String,
    pub digest: Digest,
    /// Hash of what the operator granted it for this target.
    pub grants: Digest,
}

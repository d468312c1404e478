//! The ledger's vocabulary: one envelope, one body per kind. These shapes are frozen by the first entry written.
//!
//! An entry is canonical JSON (RFC 8785). `because` is the causal chain that `audit why` walks; `blobs` names larger
//! content, which is durable before the entry is.

use crate::ids::{Digest, GenNumber, Millis, ReleaseId, Seq, TargetName, UnitId, WorkloadId};
use crate::spec::{JobRef, Selector, TargetSpec, WorkloadSpec};
use crate::target::{Abilities, FaultClass, PluginRef, Verb};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Format version of the envelope.
pub const ENTRY_VERSION: u32 = 1;

/// A tiled log's entry bundles carry the length in 16 bits.
pub const ENTRY_MAX_BYTES: usize = 65_535;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub v: u32,
    pub seq: Seq,
    /// Sequence number of the `term` entry of the daemon's run that wrote this.
    pub term: Seq,
    /// Ledger time.
    pub t: Millis,
    /// Wall time, RFC 3339 in UTC with milliseconds; for people, never for decisions.
    pub wall: String,
    pub by: By,
    #[serde(default, skip_serializing_if = "On::is_empty")]
    pub on: On,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<Seq>,
    /// Name within this entry to content.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blobs: BTreeMap<String, Digest>,
    #[serde(flatten)]
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// "daemon", "user" or "git".
    pub kind: String,
    pub id: String,
    /// How that was established: "self", "peercred", "unverified", or "process": whose process wrote the entry without a daemon.
    pub auth: String,
}

impl By {
    pub fn daemon() -> Self {
        Self {
            kind: "daemon".into(),
            id: "holdfast".into(),
            auth: "self".into(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct On {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    /// The request that the rollout serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Seq>,
    /// The entry that began the attempt; `deploy_id` is derived from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Seq>,
    #[serde(rename = "gen", default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenNumber>,
}

impl On {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
    pub fn workload(id: &WorkloadId) -> Self {
        Self {
            workload: Some(id.clone()),
            ..Self::default()
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "kebab-case")]
pub enum Body {
    /// A run of the daemon begins.
    Term(Term),
    Source(Source),
    Spec(Spec),
    Pin(Pin),
    TagMoved(TagMoved),
    Selection(Selection),
    Rollout(RolloutChange),
    Attempt(AttemptChange),
    Intent(Intent),
    Result(Outcome),
    Verdict(Verdict),
    Quarantine(Quarantine),
    Command(Command),
    Target(TargetChange),
    Plugin(PluginSeen),
    Drift(Drift),
    Guard(Guard),
    Clock(ClockTick),
    ObservationRoot(ObservationRoot),
    LogKey(LogKey),
    Retention(Retention),
}

impl Body {
    pub const KINDS: [&'static str; 21] = [
        "term",
        "source",
        "spec",
        "pin",
        "tag-moved",
        "selection",
        "rollout",
        "attempt",
        "intent",
        "result",
        "verdict",
        "quarantine",
        "command",
        "target",
        "plugin",
        "drift",
        "guard",
        "clock",
        "observation-root",
        "log-key",
        "retention",
    ];
    pub fn kind(&self) -> &'static str {
        let at = match self {
            Body::Term(_) => 0,
            Body::Source(_) => 1,
            Body::Spec(_) => 2,
            Body::Pin(_) => 3,
            Body::TagMoved(_) => 4,
            Body::Selection(_) => 5,
            Body::Rollout(_) => 6,
            Body::Attempt(_) => 7,
            Body::Intent(_) => 8,
            Body::Result(_) => 9,
            Body::Verdict(_) => 10,
            Body::Quarantine(_) => 11,
            Body::Command(_) => 12,
            Body::Target(_) => 13,
            Body::Plugin(_) => 14,
            Body::Drift(_) => 15,
            Body::Guard(_) => 16,
            Body::Clock(_) => 17,
            Body::ObservationRoot(_) => 18,
            Body::LogKey(_) => 19,
            Body::Retention(_) => 20,
        };
        Self::KINDS[at]
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    pub binary: String,
    pub planner: u32,
    /// SHA-256 of the operator's configuration.
    pub config: Digest,
    pub previous_size: u64,
    pub previous_root: String,
    /// Whether the run before stopped by itself.
    pub clean: bool,
    pub epoch: u64,
    /// This installation, 8 of a-z0-9: what it stamps on targets.
    pub owner: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub repository: String,
    #[serde(rename = "ref")]
    pub reference: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    pub new: String,
    pub fast_forward: bool,
    /// Whether the commit was taken: false for a non-fast-forward, which stops until acknowledged, and for what is untrusted.
    pub adopted: bool,
    /// Not adopted because the verdict on its signature is not what the operator requires. No command changes that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untrusted: bool,
    /// The verdict on the tip's signature: "verified: WHO FINGERPRINT", or why it is not.
    pub signer: String,
    /// Salted hash of the author's e-mail.
    pub author: String,
    /// Salted hashes of the e-mails of everybody who wrote or committed something since `old`: they do not approve it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub contributors: BTreeSet<String>,
    pub summary: String,
    pub committed_s: i64,
    pub changed: Vec<WorkloadId>,
    pub problems: Vec<SourceProblem>,
    /// Units that this revision removes, beyond the limit of one revision: they stay until `allow-removals`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<UnitId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceProblem {
    pub code: String,
    pub file: String,
    pub line: u32,
    pub column: u32,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    pub commit: String,
    #[serde(flatten)]
    pub object: SpecObject,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "object", rename_all = "kebab-case")]
pub enum SpecObject {
    Workload {
        presence: Presence,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spec: Option<WorkloadSpec>,
    },
    Target {
        presence: Presence,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spec: Option<TargetSpec>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    Present,
    /// Proven: every file in scope parsed and none has it.
    Absent,
    /// Its file does not parse; the last good state holds.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pin {
    pub reference: String,
    pub digest: Digest,
    /// `registry/repository`, or the layout: where the bytes are, without tag or digest.
    pub source: String,
    /// What the registry said; the per-platform images are the blob "images".
    pub evidence: Value,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TagMoved {
    pub reference: String,
    pub pinned: Digest,
    pub seen: Digest,
    pub evidence: Value,
}

/// A selector's tag: the request that it makes follows from it. The tag's pin is in the same batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    pub artifact: String,
    pub repository: String,
    pub select: Selector,
    pub tag: String,
    /// How many tags the repository had, and the SHA-256 of all of them in order, one a line.
    pub candidates: u32,
    pub candidates_hash: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutChange {
    pub to: RolloutState,
    pub release: ReleaseId,
    /// With `rolling` and `holding`: which wave, from 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wave: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// With `rolling`: where each artifact comes from, name to `registry/repository` (no tag, no digest).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, String>,
    /// With `rolling`: the release's jobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<JobRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<JobRef>,
    /// With `rolling`: name to pinned index digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub artifacts: BTreeMap<String, Digest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutState {
    /// Waiting for nothing but its units.
    Rolling,
    /// The wave is through; its hold is not over.
    Holding,
    /// Some unit failed; no new unit starts.
    Halted,
    /// Never began: quarantined, or a target cannot do it.
    Refused,
    Aborting,
    Aborted,
    Succeeded,
    Superseded,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum AttemptChange {
    Began {
        release: ReleaseId,
        values: Digest,
        generation: GenNumber,
        old: Option<GenNumber>,
        plugin: PluginRef,
        request: Seq,
        /// What the plugin said this release can do here: the strategy keeps to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        abilities: Option<Abilities>,
        /// A parked generation that is scaled up again, instead of a launch.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        revived: bool,
        /// Replaces what drifted: the same release again, with no steps.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        heal: bool,
    },
    /// A transition of the unit's state machine.
    Phase { to: PhaseName, reason: String, message: String },
    /// The weight was read back everywhere.
    Reached { weight: u32 },
    /// Hold, analysis and approval are over at this weight.
    Passed { weight: u32 },
    /// The way back begins; `outcome` is how the attempt will end.
    Undo {
        outcome: AttemptOutcome,
        reason: String,
        message: String,
    },
    /// The unit is stable again: on the new generation, on the old one, or on none.
    Ended {
        outcome: AttemptOutcome,
        reason: String,
        message: String,
        /// Generations that stay parked on the target, oldest first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        parked: Vec<GenNumber>,
    },
    /// The generation's content as it was right after launch.
    Fingerprint { fingerprint: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseName {
    Absent,
    Preparing,
    Launching,
    Proving,
    Shifting,
    Baking,
    Retiring,
    Undoing,
    Stable,
    Leaving,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptOutcome {
    /// The new generation serves alone.
    Succeeded,
    /// A bad verdict: quarantined.
    Bad,
    /// Aborted by a person, or superseded.
    Stopped,
    /// Could not be tried: nothing is said about the release.
    CouldNotTry,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    #[serde(flatten)]
    pub verb: Verb,
    pub plugin: PluginRef,
    /// Hash of the observation that the decision rests on.
    pub observed: Digest,
    pub planner: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub intent: Seq,
    /// None: done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<FaultClass>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Whether the intent is closed. An unknown effect leaves it open: it is issued again.
    pub closed: bool,
    /// `METHOD path status` of each request that the host sent for it; the last 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// "check", "health", "analysis/NAME", "diagnosis".
    pub about: String,
    pub outcome: VerdictOutcome,
    pub reason: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub evidence: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictOutcome {
    Pass,
    Fail,
    Unmeasured,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    pub action: QuarantineAction,
    pub release: ReleaseId,
    /// The release's own `attempt` number in the manifest: raising it is a way out.
    pub attempt: u32,
    /// Hash of the target's captured values and config; none: on every target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Digest>,
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuarantineAction {
    Set,
    Lift,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    #[serde(flatten)]
    pub verb: CommandVerb,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Repeating a command with the same key does nothing.
    pub key: String,
    /// What the person meant, as far as they said: it was so when the command was taken.
    #[serde(default, skip_serializing_if = "Precondition::is_empty")]
    pub only_if: Precondition,
}

/// What must be so for a command to be taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precondition {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Seq>,
    /// The beginning of a release id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Weight in 1/10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
}

impl Precondition {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum CommandVerb {
    /// Bring back a release that was proven before; none: the one proven before the current one.
    Rollback {
        to: Option<ReleaseId>,
    },
    Pause,
    Resume,
    Abort,
    /// Ends the present hold or analysis, never health.
    Advance,
    Lift {
        release: ReleaseId,
    },
    /// Take a non-fast-forward tip after all.
    AcceptRewrite {
        commit: String,
    },
    /// Let the removals of a revision that hit its limit go ahead.
    AllowRemovals {
        workloads: BTreeSet<WorkloadId>,
    },
    /// One person's yes to one step of one rollout.
    Approve {
        rollout: Seq,
        release: ReleaseId,
        step: u32,
        /// Name that the operator's configuration gives this person.
        approver: String,
    },
    /// Try again what could not be tried, was lost or was stalled; never what is quarantined.
    Retry,
    /// Units drop what they are at and turn to the newest request.
    DeployNow,
    /// Nothing new begins on this workload (or target) until it is thawed.
    Freeze,
    Thaw,
    /// Resolve a reference anew: the pin may become another digest, and that is a new release.
    Repin {
        reference: String,
    },
    /// Heals beyond their limit may go on.
    AllowHeals,
    /// A plugin's new version may have what it newly wants.
    AllowPlugin {
        name: String,
        plugin: Digest,
    },
    /// What a deploy did to its users afterwards, as a person found it: for the figures, never for decisions.
    OpenIncident {
        deploy: String,
    },
    CloseIncident {
        deploy: String,
    },
    /// The log gets a new key: the `log-key` entry that follows is signed by both.
    RotateLogKey,
    /// The log goes on under another name after entries were lost: `Term` entries that follow carry the new epoch.
    NewEpoch {
        epoch: u64,
        /// So many entries were acknowledged before, as far as is known.
        acknowledged: u64,
        found: String,
    },
    /// Published bundles of entries that somebody has exported may go: the `retention` entry that follows says which.
    PruneBundles,
    /// An e-mail address, of which the ledger has this salted hash only, cannot be told from it any more.
    ForgetAddress {
        hash: String,
    },
}

impl CommandVerb {
    pub fn name(&self) -> &'static str {
        match self {
            CommandVerb::Rollback { .. } => "rollback",
            CommandVerb::Pause => "pause",
            CommandVerb::Resume => "resume",
            CommandVerb::Abort => "abort",
            CommandVerb::Advance => "advance",
            CommandVerb::Lift { .. } => "lift",
            CommandVerb::AcceptRewrite { .. } => "accept-rewrite",
            CommandVerb::AllowRemovals { .. } => "allow-removals",
            CommandVerb::Approve { .. } => "approve",
            CommandVerb::Retry => "retry",
            CommandVerb::DeployNow => "deploy-now",
            CommandVerb::Freeze => "freeze",
            CommandVerb::Thaw => "thaw",
            CommandVerb::Repin { .. } => "repin",
            CommandVerb::AllowHeals => "allow-heals",
            CommandVerb::AllowPlugin { .. } => "allow-plugin",
            CommandVerb::OpenIncident { .. } => "open-incident",
            CommandVerb::CloseIncident { .. } => "close-incident",
            CommandVerb::RotateLogKey => "rotate-log-key",
            CommandVerb::NewEpoch { .. } => "new-epoch",
            CommandVerb::PruneBundles => "prune-bundles",
            CommandVerb::ForgetAddress { .. } => "forget-address",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum TargetChange {
    /// The target carries our owner's stamp, or none yet.
    Claimed,
    /// Another owner's: nothing there is touched.
    Conflict {
        owner: String,
    },
    /// It has seen a fence above our head: this ledger was restored from an old copy.
    Ahead {
        fence: u64,
    },
    Unreachable {
        message: String,
    },
    Reachable,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginSeen {
    pub name: String,
    pub digest: Digest,
    pub exports: Vec<String>,
    /// What it wants that the accepted one of its name does not: it waits for `allow-plugin`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub newly_wants: Vec<String>,
}

/// The world is not as it was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    pub what: DriftKind,
    pub wanted: String,
    pub seen: String,
    pub answer: DriftAnswer,
}

/// What is done about drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriftAnswer {
    /// A new generation of the same release.
    Replace,
    Scale,
    Route,
    Retire,
    /// Frozen: it is only written down.
    Nothing,
    /// It is as it should be again. With `content`: `seen` is the fingerprint that counts from now on.
    Over,
}

impl DriftAnswer {
    pub fn as_str(self) -> &'static str {
        match self {
            DriftAnswer::Replace => "replace",
            DriftAnswer::Scale => "scale",
            DriftAnswer::Route => "route",
            DriftAnswer::Retire => "retire",
            DriftAnswer::Nothing => "nothing",
            DriftAnswer::Over => "over",
        }
    }

    /// Whether it counts against the limits on heals.
    pub fn counts(self) -> bool {
        matches!(self, DriftAnswer::Replace | DriftAnswer::Scale | DriftAnswer::Retire)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriftKind {
    /// The serving generation is gone.
    Missing,
    /// Some of its instances are.
    Instances,
    /// It runs a digest that is not of its pin.
    Digest,
    /// Content that nobody may edit was edited.
    Content,
    /// The route is not as set.
    Route,
    /// A generation of ours that nothing wants.
    Extra,
}

/// A numeric limit was reached: that class of effect waits for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// "heals-per-unit" or "heals-per-hour".
    pub class: String,
    pub limit: u32,
}

/// Bounds what a crash costs an open hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockTick {}

/// What polls of tags saw since the entry of this kind before, or since the daemon's start: the blob "observations", a list of
/// `Observation` in canonical JSON. The blob's digest stands for all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservationRoot {
    pub references: u32,
    pub polls: u64,
}

/// How often one reference was seen at one digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    pub reference: String,
    pub digest: Digest,
    pub polls: u64,
    /// Wall time of the first and the last of them.
    pub first: String,
    pub last: String,
}

/// From here on another key signs the log's checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogKey {
    /// A signed note that names the old key and the new one, and is signed by both.
    pub note: String,
}

/// What is kept of the published log, from here on. The log itself, all hashes and all proofs stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Bundles are published from this entry on: a multiple of 256.
    pub bundles_from: Seq,
    /// SHA-256 of the export that has every entry below, each with its proof.
    pub export: Digest,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    #[error("the entry is {size} bytes; the limit is {ENTRY_MAX_BYTES}")]
    TooLarge { size: usize },
    #[error("the entry is not valid")]
    Json(#[source] serde_json::Error),
    #[error("the entry is valid JSON but not in canonical form (RFC 8785)")]
    NotCanonical,
    #[error("the entry has format version {0}; this binary reads version {ENTRY_VERSION}")]
    Version(u32),
}

impl Entry {
    /// Canonical bytes: what the log stores and the tree hashes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EntryError> {
        let bytes = serde_json_canonicalizer::to_vec(self).map_err(EntryError::Json)?;
        if bytes.len() > ENTRY_MAX_BYTES {
            return Err(EntryError::TooLarge { size: bytes.len() });
        }
        Ok(bytes)
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > ENTRY_MAX_BYTES {
            return Err(EntryError::TooLarge { size: bytes.len() });
        }
        let entry: Entry = serde_json::from_slice(bytes).map_err(EntryError::Json)?;
        if entry.v != ENTRY_VERSION {
            return Err(EntryError::Version(entry.v));
        }
        Ok(entry)
    }

    /// As `parse`, and the bytes must be the canonical ones: what a verifier asks for.
    pub fn parse_canonical(bytes: &[u8]) -> Result<Self, EntryError> {
        let entry = Self::parse(bytes)?;
        if entry.to_bytes()? != bytes {
            return Err(EntryError::NotCanonical);
        }
        Ok(entry)
    }
}

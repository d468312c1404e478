//! Healthy has one definition, for every kind of target: the plugin says ready with all wanted instances, restarts do
//! not rise, the digests really running are the release's, and the manifest's own HTTP check passes when it has one.

use super::facts::{Health, Probe};
use crate::ids::{Digest, Millis};
use crate::spec;
use crate::target::{EvidenceBy, GenPhase, GenerationState};
use std::collections::{BTreeMap, BTreeSet};

pub const PROBE_FAILED: &str = "probe-failed";
pub const NOT_PROBED: &str = "not-probed";

/// What an observation alone says of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    Ready,
    /// Not yet; `started` is whether something of the release runs, so that a time-out can be its fault.
    NotYet {
        started: bool,
        reason: String,
        message: String,
    },
    /// The release is to blame.
    Bad {
        reason: String,
        message: String,
    },
    /// Something of ours is missing to judge it.
    Unknown {
        reason: String,
        message: String,
    },
    /// Something else is to blame, and waiting may not help.
    Stuck {
        reason: String,
        message: String,
    },
}

/// `accepted`: per artifact, every digest by which a target may name it (index, manifest, config, layers). An artifact
/// without an entry is not compared: its images are not known here.
pub fn judge(state: &GenerationState, accepted: &BTreeMap<String, BTreeSet<Digest>>) -> Judgement {
    if let Some(wrong) = wrong_digest(state, accepted) {
        return Judgement::Stuck {
            reason: "wrong-digest".into(),
            message: wrong,
        };
    }
    let reason = |fallback: &str| {
        if state.reason.is_empty() {
            fallback.to_owned()
        } else {
            state.reason.clone()
        }
    };
    let message = || match state
        .instances
        .iter()
        .find(|instance| !instance.ready && !instance.message.is_empty())
    {
        _ if !state.message.is_empty() => state.message.clone(),
        Some(instance) => format!("{}: {}", instance.name, instance.message),
        None => String::new(),
    };
    match state.phase {
        GenPhase::Failing => Judgement::Bad {
            reason: reason("failing"),
            message: message(),
        },
        GenPhase::Stuck => Judgement::Stuck {
            reason: reason("stuck"),
            message: message(),
        },
        GenPhase::Ready if state.wanted.is_none_or(|wanted| state.ready >= wanted) => Judgement::Ready,
        GenPhase::Ready | GenPhase::Starting => {
            let started = !state.instances.is_empty();
            Judgement::NotYet {
                started,
                reason: reason("starting"),
                message: message(),
            }
        }
        GenPhase::Partial | GenPhase::Parked | GenPhase::Leaving => Judgement::NotYet {
            started: false,
            reason: reason("not-running"),
            message: message(),
        },
    }
}

fn wrong_digest(state: &GenerationState, accepted: &BTreeMap<String, BTreeSet<Digest>>) -> Option<String> {
    state
        .proofs
        .iter()
        .filter(|proof| proof.by != EvidenceBy::Assumed && proof.count > 0)
        .find_map(|proof| {
            let accepted = accepted.get(&proof.artifact)?;
            let matches = accepted.iter().any(|digest| digest.as_str() == proof.digest);
            (!matches).then(|| {
                format!(
                    "artifact {:?} runs as {}, which is not of its pin",
                    proof.artifact, proof.digest
                )
            })
        })
}

/// Folds one more look into what is known of a candidate's health. What cannot be known now changes nothing: neither a
/// restart of the daemon nor a missing grant makes a release unhealthy.
pub fn update(
    health: &mut Health,
    state: Option<&GenerationState>,
    judgement: &Judgement,
    probe: Option<&Probe>,
    spec: &spec::Health,
    now: Millis,
) {
    let restarts = state.map_or(0, |state| state.restarts);
    let (standing, reason, message) = match judgement {
        Judgement::Ready if restarts > health.restarts && health.healthy_since.is_some() => (
            Standing::Unhealthy,
            "restarted".to_owned(),
            format!("restarts rose from {} to {restarts}", health.restarts),
        ),
        Judgement::Ready => probed(spec.http.as_ref(), probe),
        Judgement::Unknown { reason, message } => (Standing::Unknown, reason.clone(), message.clone()),
        Judgement::NotYet { reason, message, .. } | Judgement::Bad { reason, message } | Judgement::Stuck { reason, message } => {
            (Standing::Unhealthy, reason.clone(), message.clone())
        }
    };
    // Ready without a probe that could be made says nothing of how it answers.
    health.started |= match judgement {
        Judgement::Ready => standing != Standing::Unknown,
        Judgement::Bad { .. } | Judgement::NotYet { started: true, .. } => true,
        _ => false,
    };
    match standing {
        Standing::Healthy => {
            if health.healthy_since.is_none() {
                health.healthy_since = Some(now);
                health.restarts = restarts;
            }
            health.unhealthy_since = None;
        }
        Standing::Unhealthy => {
            health.healthy_since = None;
            health.restarts = restarts;
            health.unhealthy_since.get_or_insert(now);
        }
        Standing::Unknown => {}
    }
    // That the next probe is not answered yet does not take back what the last one said.
    if reason != NOT_PROBED || health.reason != PROBE_FAILED {
        (health.reason, health.message) = (reason, message);
    }
}

/// The target could not be reached just now: what probes said until then may be about that, not about the release.
pub fn interrupt(health: &mut Health) {
    if health.reason == PROBE_FAILED {
        health.unhealthy_since = None;
        health.reason = NOT_PROBED.into();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Healthy,
    Unhealthy,
    Unknown,
}

fn probed(http: Option<&spec::HttpHealth>, probe: Option<&Probe>) -> (Standing, String, String) {
    let Some(http) = http else {
        return (Standing::Healthy, String::new(), String::new());
    };
    match probe {
        Some(Probe { failure: None, .. }) => (Standing::Healthy, String::new(), String::new()),
        Some(Probe {
            failure: Some(failure),
            asked: true,
            ..
        }) => (
            Standing::Unhealthy,
            PROBE_FAILED.into(),
            format!("GET {}: {failure}", http.path),
        ),
        Some(Probe {
            failure: Some(failure), ..
        }) => (
            Standing::Unknown,
            "probe-not-possible".into(),
            format!("GET {} could not be asked: {failure}", http.path),
        ),
        None => (
            Standing::Unknown,
            NOT_PROBED.into(),
            format!("GET {} has not been answered yet", http.path),
        ),
    }
}

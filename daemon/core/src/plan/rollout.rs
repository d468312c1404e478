//! `plan_rollout`: the next increment for one workload: pin, pre-flight, open, admit units, halt, finish.

use super::facts::{PullFacts, TagsFacts, UnitFacts};
use super::{Ask, Draft, RolloutPlan, Waiting, earliest};
use crate::config::EngineConfig;
use crate::entry::*;
use crate::ids::{Digest, FULL_SHARE, Millis, ReleaseId, Seq, TargetName, WorkloadId};
use crate::release::Release;
use crate::spec::{Strategy, TargetSpec, WorkloadSpec};
use crate::state::{PinState, Request, State, UnitState, WorkloadState};
use crate::target::{Abilities, PluginRef, Routing};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Units that may fail before no new unit starts.
const MAX_FAILED: usize = 0;

/// What is known of resolving one reference.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PinFacts {
    pub asked: bool,
    pub tries: u32,
    pub again_at: Millis,
    pub failure: Option<String>,
    pub since: Millis,
}

pub struct RolloutContext<'a> {
    pub state: &'a State,
    pub config: &'a EngineConfig,
    pub id: &'a WorkloadId,
    pub workload: &'a WorkloadState,
    pub units: &'a BTreeMap<TargetName, UnitFacts>,
    pub pins: &'a BTreeMap<String, PinFacts>,
    pub tags: &'a BTreeMap<String, TagsFacts>,
    pub pullable: Option<&'a PullFacts>,
    pub now: Millis,
}

/// A target's `config` and `values` as a launch captures them.
pub fn captured(spec: &TargetSpec) -> (Digest, Vec<u8>) {
    let value = serde_json::json!({ "config": spec.config, "values": spec.values });
    // Canonical form of a JSON value cannot fail; an empty body would only make a different hash.
    let bytes = serde_json_canonicalizer::to_vec(&value).unwrap_or_default();
    (Digest::of(&bytes), bytes)
}

/// The identity of a pre-flight's answer.
pub fn check_key(release: &ReleaseId, captured: &Digest, plugin: &PluginRef) -> Digest {
    Digest::of(format!("{release}\n{captured}\n{}\n{}", plugin.digest, plugin.grants).as_bytes())
}

/// A request that the newest spec or a command makes, before it is admitted.
struct Wish {
    id: Seq,
    release: Arc<Release>,
    release_id: ReleaseId,
    pins: BTreeMap<String, PinState>,
}

pub fn plan_rollout(c: &RolloutContext) -> RolloutPlan {
    let spec = match &c.workload.spec {
        Some(spec) if c.workload.presence != Some(Presence::Absent) => spec,
        _ => return drop_request(c),
    };
    match wish(c, spec) {
        Ok(Some(wish)) => open(c, spec, wish),
        Ok(None) => match &c.workload.request {
            Some(request) => proceed(c, request),
            None => RolloutPlan::default(),
        },
        // The newest text cannot be pinned yet; what was requested before goes on meanwhile.
        Err(pinning) => match &c.workload.request {
            Some(request) if request.is_open() => {
                let mut plan = proceed(c, request);
                plan.asks.extend(pinning.asks);
                plan.wake_at = earliest(plan.wake_at, pinning.wake_at);
                plan.waiting = pinning.waiting;
                plan
            }
            _ => *pinning,
        },
    }
}

/// The workload left Git: its rollout has nothing to bring anywhere.
fn drop_request(c: &RolloutContext) -> RolloutPlan {
    match &c.workload.request {
        Some(request) if request.is_open() => record(change(
            c,
            request,
            RolloutState::Superseded,
            "removed",
            "the workload was removed from Git".into(),
        )),
        _ => RolloutPlan::default(),
    }
}

fn record(draft: Draft) -> RolloutPlan {
    RolloutPlan {
        records: vec![draft],
        ..RolloutPlan::default()
    }
}

fn on(c: &RolloutContext, request: Seq) -> On {
    On {
        rollout: Some(request),
        ..On::workload(c.id)
    }
}

fn change(c: &RolloutContext, request: &Request, to: RolloutState, reason: &str, message: String) -> Draft {
    let body = RolloutChange {
        to,
        release: request.release.clone(),
        wave: request.wave,
        reason: reason.into(),
        message,
        sources: BTreeMap::new(),
        artifacts: BTreeMap::new(),
    };
    Draft::new(on(c, request.id), vec![request.seq], Body::Rollout(body))
}

/// What the manifest asks for beyond the present request. `Err`: its references are not all pinned yet.
fn wish(c: &RolloutContext, spec: &WorkloadSpec) -> Result<Option<Wish>, Box<RolloutPlan>> {
    // A command that came after this spec rules; only a newer spec can overrule it.
    if c.workload
        .request
        .as_ref()
        .is_some_and(|request| request.id >= c.workload.spec_seq)
    {
        return Ok(None);
    }
    let mut missing = RolloutPlan::default();
    let mut pins = BTreeMap::new();
    for name in spec.artifacts.keys() {
        let Some(reference) = c.workload.reference(name) else {
            continue;
        };
        match c.workload.pins.get(&reference) {
            Some(pin) => {
                pins.insert(name.clone(), pin.clone());
            }
            None => ask_pin(c, &reference, &mut missing),
        }
    }
    if pins.len() < spec.artifacts.len() {
        return Err(Box::new(missing));
    }
    let digests = pins.iter().map(|(name, pin)| (name.clone(), pin.digest.clone())).collect();
    let release = Release::from_spec(spec, &digests);
    let release_id = release.id();
    let same = c
        .workload
        .request
        .as_ref()
        .is_some_and(|request| request.release == release_id && request.attempt == spec.attempt);
    Ok((!same).then(|| Wish {
        id: c.workload.spec_seq,
        release: Arc::new(release),
        release_id,
        pins,
    }))
}

fn ask_pin(c: &RolloutContext, reference: &str, plan: &mut RolloutPlan) {
    let facts = c.pins.get(reference).cloned().unwrap_or_default();
    let message = match &facts.failure {
        Some(failure) => format!("{reference} cannot be resolved: {failure}"),
        None => format!("resolving {reference}"),
    };
    let again_at = (facts.again_at > c.now).then_some(facts.again_at);
    plan.waiting = Some(Waiting {
        on: "pin".into(),
        message,
        since: facts.since,
        until: again_at,
    });
    if facts.asked {
        return;
    }
    match again_at {
        Some(at) => plan.wake_at = earliest(plan.wake_at, Some(at)),
        None => plan.asks.push(Ask::Pin {
            workload: c.id.clone(),
            reference: reference.to_owned(),
        }),
    }
}

/// All targets are asked whether they could, before any of them is touched.
fn open(c: &RolloutContext, spec: &WorkloadSpec, wish: Wish) -> RolloutPlan {
    let mut plan = RolloutPlan::default();
    let mut problems = Vec::new();
    let mut quarantined = None;
    let mut unchecked = 0;
    let sources: BTreeMap<String, String> = wish
        .pins
        .iter()
        .map(|(name, pin)| (name.clone(), pin.source.clone()))
        .collect();
    for (target, target_spec) in c.state.placed(c.workload) {
        let plugin = match c.config.plugin_for(target, &target_spec.plugin) {
            Ok(plugin) => plugin,
            Err(problem) => {
                problems.push(format!("{target}: {problem}"));
                continue;
            }
        };
        let (captured, _) = captured(target_spec);
        if let Some(quarantine) = c.workload.quarantined(&wish.release_id, &captured, spec.attempt) {
            quarantined = Some(quarantine);
        }
        let key = check_key(&wish.release_id, &captured, &plugin);
        match c
            .units
            .get(target)
            .and_then(|facts| facts.check.as_ref())
            .filter(|check| check.key == key)
        {
            None => {
                unchecked += 1;
                let ask = Ask::Check {
                    workload: c.id.clone(),
                    target: target.clone(),
                    key,
                    release: wish.release.clone(),
                    sources: sources.clone(),
                };
                plan.asks.push(ask);
            }
            Some(check) => match &check.answer {
                Ok(report) => {
                    problems.extend(report.problems.iter().map(|problem| {
                        let hint = if problem.hint.is_empty() {
                            String::new()
                        } else {
                            format!(" ({})", problem.hint)
                        };
                        format!("{target}: {}: {}{hint}", problem.at, problem.message)
                    }));
                    problems.extend(unable(spec, &report.abilities).map(|problem| format!("{target}: {problem}")));
                }
                Err(fault) => problems.push(format!("{target}: the plugin could not check it: {}", fault.message)),
            },
        }
    }
    if quarantined.is_none() && problems.is_empty() && unchecked > 0 {
        let message = format!("{unchecked} targets have not checked the release yet");
        plan.waiting = Some(Waiting {
            on: "check".into(),
            message,
            since: c.now,
            until: None,
        });
        return plan;
    }
    let (to, reason, message, cause) = match quarantined {
        Some(quarantine) => {
            let message = format!(
                "release {} is quarantined: {}; deploy another one, raise `attempt`, or `holdfast quarantine lift`",
                wish.release_id.short(),
                quarantine.message
            );
            (RolloutState::Refused, "quarantined", message, Some(quarantine.seq))
        }
        None if !problems.is_empty() => (RolloutState::Refused, "check", problems.join("; "), None),
        None => (RolloutState::Rolling, "requested", String::new(), None),
    };
    let mut records = Vec::new();
    if let Some(request) = c.workload.request.as_ref().filter(|request| request.is_open()) {
        records.push(change(
            c,
            request,
            RolloutState::Superseded,
            "newer",
            "a newer request replaces it".into(),
        ));
    }
    let body = RolloutChange {
        to,
        release: wish.release_id.clone(),
        wave: 0,
        reason: reason.into(),
        message,
        sources,
        artifacts: wish
            .pins
            .iter()
            .map(|(name, pin)| (name.clone(), pin.digest.clone()))
            .collect(),
    };
    let because = std::iter::once(wish.id)
        .chain(wish.pins.values().map(|pin| pin.seq))
        .chain(cause)
        .collect();
    let mut draft = Draft::new(on(c, wish.id), because, Body::Rollout(body));
    draft.blobs.insert("release".into(), wish.release_id.blob());
    for (name, pin) in &wish.pins {
        if let Some(images) = &pin.images {
            draft.blobs.insert(format!("images/{name}"), images.clone());
        }
    }
    records.push(draft);
    let blobs = vec![(wish.release_id.blob(), wish.release.to_bytes())];
    RolloutPlan {
        records,
        blobs,
        ..RolloutPlan::default()
    }
}

/// What the strategy needs and this workload cannot do on this target.
pub fn unable(spec: &WorkloadSpec, abilities: &Abilities) -> Option<String> {
    if !abilities.overlap {
        return Some("two generations cannot run side by side here; strategy recreate is known, not in this version".into());
    }
    if spec.health.http.is_some() && !abilities.probed {
        return Some("health.http is set, but this target reports no addresses that could be probed".into());
    }
    match &spec.strategy {
        Strategy::BlueGreen { .. } if abilities.routing == Routing::Fixed => {
            Some("blueGreen switches traffic at once, but here an instance is live as soon as it is ready".into())
        }
        Strategy::Canary { .. } if abilities.routing != Routing::Weighted => {
            Some("canary needs weights, and this target cannot weigh traffic; use blueGreen".into())
        }
        Strategy::Canary { steps, .. } => steps
            .iter()
            .map(|step| step.weight)
            .find(|weight| *weight != FULL_SHARE && abilities.finest_share > 0 && weight % abilities.finest_share != 0)
            .map(|weight| {
                format!(
                    "weight {weight}/10000 is finer than the target's step of {}/10000",
                    abilities.finest_share
                )
            }),
        Strategy::BlueGreen { .. } | Strategy::Rolling { .. } | Strategy::Recreate { .. } => None,
    }
}

/// The open request: admit units, halt, finish.
fn proceed(c: &RolloutContext, request: &Request) -> RolloutPlan {
    if !request.is_open() {
        return catch_up(c, request);
    }
    let failed: Vec<&TargetName> = c
        .workload
        .units
        .iter()
        .filter(|(_, unit)| unit.last.as_ref().is_some_and(|last| failed_since(last, request)))
        .filter(|(_, unit)| unit.attempt.is_none())
        .map(|(target, _)| target)
        .collect();
    if request.state == RolloutState::Rolling && failed.len() > MAX_FAILED {
        let last = failed
            .first()
            .and_then(|target| c.workload.units.get(*target))
            .and_then(|unit| unit.last.as_ref());
        let (reason, message) = last.map_or(("failed".to_owned(), String::new()), |last| {
            (last.reason.clone(), last.message.clone())
        });
        let names: Vec<&str> = failed.iter().map(|name| name.as_str()).collect();
        let mut draft = change(
            c,
            request,
            RolloutState::Halted,
            &reason,
            format!("{} failed: {message}", names.join(", ")),
        );
        draft.because.extend(last.map(|last| last.seq));
        return record(draft);
    }
    if request.state == RolloutState::Aborting {
        let busy = c.workload.units.values().any(|unit| unit.attempt.is_some());
        return if busy {
            RolloutPlan::default()
        } else {
            record(change(
                c,
                request,
                RolloutState::Aborted,
                &request.reason,
                request.message.clone(),
            ))
        };
    }
    if request.state == RolloutState::Halted || request.paused {
        return RolloutPlan::default();
    }
    let plan = admit(c, request);
    if !plan.records.is_empty() || plan.waiting.is_some() {
        return plan;
    }
    let settled = c.state.placed(c.workload).all(|(target, spec)| {
        c.workload
            .units
            .get(target)
            .is_some_and(|unit| unit.attempt.is_none() && runs(unit, &request.release, &captured(spec).0))
    });
    if settled {
        record(change(
            c,
            request,
            RolloutState::Succeeded,
            "stable",
            "stable on every target".into(),
        ))
    } else {
        plan
    }
}

fn failed_since(last: &crate::state::LastAttempt, request: &Request) -> bool {
    last.request == request.id
        && last.seq > request.resumed
        && matches!(last.outcome, AttemptOutcome::Bad | AttemptOutcome::CouldNotTry)
}

/// Whether the unit's current generation is this release with these captured values.
pub fn runs(unit: &UnitState, release: &ReleaseId, captured: &Digest) -> bool {
    let current = unit.current.and_then(|number| unit.generations.get(&number));
    current.is_some_and(|generation| generation.release == *release && generation.captured == *captured)
}

/// Units that do not run the request's release begin an attempt, unless something holds them.
fn admit(c: &RolloutContext, request: &Request) -> RolloutPlan {
    let mut plan = RolloutPlan::default();
    for (target, spec) in c.state.placed(c.workload) {
        let unit = c.workload.units.get(target);
        let (captured, bytes) = captured(spec);
        if unit.is_some_and(|unit| unit.attempt.is_some() || unit.intent.is_some() || runs(unit, &request.release, &captured)) {
            continue;
        }
        if unit.is_some_and(|unit| unit.phase == PhaseName::Leaving) {
            continue;
        }
        if c.workload.quarantined(&request.release, &captured, request.attempt).is_some() {
            continue;
        }
        let plugin = match c.config.plugin_for(target, &spec.plugin) {
            Ok(plugin) => plugin,
            Err(message) => {
                plan.waiting = Some(Waiting {
                    on: "plugin".into(),
                    message: format!("{target}: {message}"),
                    since: request.since,
                    until: None,
                });
                continue;
            }
        };
        let began = AttemptChange::Began {
            release: request.release.clone(),
            values: captured.clone(),
            generation: unit.map_or(1, |unit| unit.next_generation),
            old: unit.and_then(|unit| unit.current),
            plugin,
            request: request.id,
            abilities: None,
            revived: false,
            heal: false,
        };
        let generation = unit.map_or(1, |unit| unit.next_generation);
        let on = On {
            target: Some(target.clone()),
            generation: Some(generation),
            ..on(c, request.id)
        };
        let mut draft = Draft::new(on, vec![request.seq], Body::Attempt(began));
        draft.blobs.insert("target".into(), captured.clone());
        draft.blobs.insert("release".into(), request.release.blob());
        plan.records.push(draft);
        plan.blobs.push((captured, bytes));
    }
    plan
}

/// After the rollout ended: a new target, or one whose values or config changed, gets the same release.
fn catch_up(c: &RolloutContext, request: &Request) -> RolloutPlan {
    if request.paused || request.state != RolloutState::Succeeded {
        return RolloutPlan::default();
    }
    let late = c.state.placed(c.workload).any(|(target, spec)| {
        let unit = c.workload.units.get(target);
        let failed = unit
            .and_then(|unit| unit.last.as_ref())
            .is_some_and(|last| failed_since(last, request) && last.captured == captured(spec).0);
        !failed && !unit.is_some_and(|unit| unit.attempt.is_some() || runs(unit, &request.release, &captured(spec).0))
    });
    if late {
        return record(change(
            c,
            request,
            RolloutState::Rolling,
            "target-changed",
            "a target is new, or its values or config changed".into(),
        ));
    }
    RolloutPlan::default()
}

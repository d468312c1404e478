//! `plan_rollout`: the next increment for one workload: what is wished, pins, pre-flight, waves, halt, finish.
//!
//! `select` finds tags for selectors; `preflight` asks everything that has to be known before a rollout opens.

use super::facts::{PullFacts, TagsFacts, UnitFacts};
use super::preflight;
use super::select::select;
use super::{Ask, Draft, RolloutPlan, Waiting, earliest};
use crate::config::EngineConfig;
use crate::engine::Resolved;
use crate::entry::*;
use crate::ids::{Digest, Millis, ReleaseId, Seq, TargetName, WorkloadId};
use crate::manifest::Places;
use crate::release::Release;
use crate::spec::{ArtifactSpec, OnHalt, WorkloadSpec};
use crate::state::{Claim, PinState, Place, Request, State, UnitState, WorkloadState};
use crate::target::{Abilities, PluginRef};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is known of resolving one reference.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PinFacts {
    pub asked: bool,
    pub tries: u32,
    pub again_at: Millis,
    pub failure: Option<String>,
    pub since: Millis,
    /// A selector's candidate: what it points at, since when, and when that was seen last. No pin yet.
    pub candidate: Option<Candidate>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub resolved: Arc<Resolved>,
    pub since: Millis,
    pub seen: Millis,
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
    pub places: &'a Places,
    pub now: Millis,
}

/// The identity of a pre-flight's answer.
pub fn check_key(release: &ReleaseId, captured: &Digest, plugin: &PluginRef) -> Digest {
    Digest::of(format!("{release}\n{captured}\n{}\n{}", plugin.digest, plugin.grants).as_bytes())
}

/// What the manifest and its selections ask for beyond the present request.
pub(super) struct Wish {
    pub id: Seq,
    pub release: Arc<Release>,
    pub release_id: ReleaseId,
    pub pins: BTreeMap<String, PinState>,
}

pub fn plan_rollout(c: &RolloutContext) -> RolloutPlan {
    let spec = match &c.workload.spec {
        Some(spec) if c.workload.presence != Some(Presence::Absent) => spec,
        _ => return drop_request(c),
    };
    let selecting = select(c, spec);
    if !selecting.records.is_empty() {
        return selecting;
    }
    let repinning = repins(c);
    let plan = match wish(c, spec) {
        Ok(Some(wish)) => match preflight::open(c, spec, wish) {
            // What was requested before goes on while the newest wish cannot.
            plan if plan.records.is_empty() => with_present(c, plan),
            plan => plan,
        },
        Ok(None) => match &c.workload.request {
            Some(request) => proceed(c, spec, request),
            None => RolloutPlan::default(),
        },
        Err(pinning) => with_present(c, *pinning),
    };
    plan.joined(selecting).joined(repinning)
}

/// The open request's next increment, with the asks and waits of a newer wish.
fn with_present(c: &RolloutContext, waiting: RolloutPlan) -> RolloutPlan {
    match (&c.workload.request, &c.workload.spec) {
        (Some(request), Some(spec)) if request.is_open() => waiting.joined(proceed(c, spec, request)),
        _ => waiting,
    }
}

/// Removed from Git: an open request ends with it.
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

pub(super) fn waiting(on: &str, message: String, since: Millis) -> RolloutPlan {
    RolloutPlan {
        waiting: Some(Waiting {
            on: on.into(),
            message,
            since,
            until: None,
        }),
        ..RolloutPlan::default()
    }
}

pub(super) fn on(c: &RolloutContext, request: Seq) -> On {
    On {
        rollout: Some(request),
        ..On::workload(c.id)
    }
}

pub(super) fn change(c: &RolloutContext, request: &Request, to: RolloutState, reason: &str, message: String) -> Draft {
    let body = RolloutChange {
        to,
        release: request.release.clone(),
        wave: request.wave,
        reason: reason.into(),
        message,
        sources: BTreeMap::new(),
        before: Vec::new(),
        after: Vec::new(),
        artifacts: BTreeMap::new(),
    };
    Draft::new(on(c, request.id), vec![request.seq], Body::Rollout(body))
}

/// What the manifest asks for beyond the present request. `Err`: its references are not all pinned yet.
fn wish(c: &RolloutContext, spec: &WorkloadSpec) -> Result<Option<Wish>, Box<RolloutPlan>> {
    // A command that came after this wish rules; only a newer spec, selection or repin can overrule it.
    let wish_seq = c.workload.wish_seq();
    if c.workload.request.as_ref().is_some_and(|request| request.id >= wish_seq) {
        return Ok(None);
    }
    let mut missing = RolloutPlan::default();
    let mut pins = BTreeMap::new();
    for name in spec.artifacts.keys() {
        // Without a selection there is nothing to pin yet; `select` says why.
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
    // A request that ended because the workload was removed does not count when it is back.
    let present = c
        .workload
        .request
        .as_ref()
        .filter(|request| request.state != RolloutState::Superseded);
    let same = present.is_some_and(|request| request.release == release_id && request.attempt == spec.attempt);
    Ok((!same).then(|| Wish {
        id: wish_seq,
        release: Arc::new(release),
        release_id,
        pins,
    }))
}

/// References that a command wants resolved anew.
fn repins(c: &RolloutContext) -> RolloutPlan {
    let mut plan = RolloutPlan::default();
    for reference in c.workload.repins.keys() {
        ask_pin(c, reference, &mut plan);
    }
    plan
}

/// Where the manifest names it.
fn written_at(c: &RolloutContext, reference: &str) -> String {
    let mut artifacts = c.workload.spec.iter().flat_map(|spec| &spec.artifacts);
    let names = |from: &ArtifactSpec| matches!(from, ArtifactSpec::Reference(text) if text == reference);
    match artifacts.find(|(_, from)| names(from)) {
        Some((name, _)) => c.places.suffix(c.id, &format!("/artifacts/{name}")),
        None => String::new(),
    }
}

pub(super) fn ask_pin(c: &RolloutContext, reference: &str, plan: &mut RolloutPlan) {
    let facts = c.pins.get(reference).cloned().unwrap_or_default();
    let message = match &facts.failure {
        Some(failure) => format!("{reference} cannot be resolved: {failure}{}", written_at(c, reference)),
        None => format!("resolving {reference}"),
    };
    let again_at = facts.failure.is_some().then_some(facts.again_at).filter(|at| *at > c.now);
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

/// The present request: admit units by wave, halt, finish.
fn proceed(c: &RolloutContext, spec: &WorkloadSpec, request: &Request) -> RolloutPlan {
    match request.state {
        RolloutState::Refused if matches!(request.reason.as_str(), "check" | preflight::NOT_PLACED) => {
            return preflight::check_again(c, spec, request);
        }
        RolloutState::Succeeded => return catch_up(c, spec, request),
        RolloutState::Refused | RolloutState::Aborted | RolloutState::Superseded => return admit_new(c, spec, request),
        RolloutState::Aborting => return go_back(c, request),
        RolloutState::Rolling | RolloutState::Holding | RolloutState::Halted => {}
    }
    let places: Vec<Place> = c.state.places(c.workload).collect();
    let total = u32::try_from(places.len()).unwrap_or(u32::MAX);
    let failed: Vec<&Place> = places
        .iter()
        .filter(|place| has_failed(place, request) || is_kept_out(c, place, request))
        .collect();
    if request.state == RolloutState::Halted {
        return admit_new(c, spec, request);
    }
    let failed_everywhere = !failed.is_empty() && failed.len() == places.len();
    if failed_everywhere || failed.len() > spec.placement.max_failed.down(total) as usize {
        return halt(c, spec, request, &failed);
    }
    if places.is_empty() {
        let message = preflight::NOWHERE.to_owned();
        return record(change(c, request, RolloutState::Refused, preflight::NOT_PLACED, message));
    }
    if request.paused {
        return waiting(
            "paused",
            format!("paused; `holdfast resume {}` goes on", c.id.name()),
            request.since,
        );
    }
    if let Some(plan) = held_back(c, spec) {
        return plan;
    }
    let sizes = spec.placement.wave_sizes(total);
    // A release that was proven everywhere comes back everywhere at once.
    let last = sizes.len() - 1;
    let wave = if c.workload.proven.contains(&request.release) {
        last
    } else {
        (request.wave as usize).min(last)
    };
    let (size, hold_ms) = sizes[wave];
    let members = &places[..(size as usize).min(places.len())];
    if request.state == RolloutState::Holding {
        let until = request.since + hold_ms;
        if c.now >= until || request.advanced > request.seq {
            return record(next_wave(c, request, wave));
        }
        let mut plan = waiting(
            "wave-hold",
            format!("wave {} of {} is through; holding", wave + 1, sizes.len()),
            request.since,
        );
        plan.end_at(until);
        return plan;
    }
    let plan = admit(c, request, members);
    if !plan.records.is_empty() || plan.waiting.is_some() {
        return plan;
    }
    let is_lagging = |place: &Place| is_lagging(c, spec, place, request);
    let lagging = members.iter().filter(|place| is_lagging(place)).count();
    let may_lag = lagging <= spec.placement.max_lagging.down(total) as usize;
    let is_done = |place: &Place| place.unit.is_some_and(|unit| unit.attempt.is_none()) && place.runs(&request.release);
    let missing: Vec<&Place> = members.iter().filter(|place| !is_done(place)).collect();
    let has_failed = |place: &Place| failed.iter().any(|failed| failed.target == place.target);
    let is_excused = |place: &&Place| has_failed(place) || (may_lag && is_lagging(place));
    // What is stable nowhere is not through, whoever may fail or lag.
    if missing.len() == members.len() || !missing.iter().all(is_excused) {
        let names: Vec<&str> = missing.iter().map(|place| place.target.as_str()).take(5).collect();
        return waiting("units", format!("not through yet: {}", names.join(", ")), request.since);
    }
    if wave < last {
        return record(if hold_ms > 0 {
            let mut draft = change(
                c,
                request,
                RolloutState::Holding,
                "wave",
                format!("wave {} of {} is through", wave + 1, sizes.len()),
            );
            set_wave(&mut draft, wave);
            draft
        } else {
            next_wave(c, request, wave)
        });
    }
    let message = match (failed.len(), lagging) {
        (0, 0) => "stable on every target".to_owned(),
        (failed, lagging) => format!("stable on every target but {failed} failed and {lagging} lagging"),
    };
    record(change(c, request, RolloutState::Succeeded, "stable", message))
}

fn next_wave(c: &RolloutContext, request: &Request, wave: usize) -> Draft {
    let mut draft = change(c, request, RolloutState::Rolling, "wave", format!("wave {} begins", wave + 2));
    set_wave(&mut draft, wave + 1);
    draft
}

fn set_wave(draft: &mut Draft, wave: usize) {
    if let Body::Rollout(change) = &mut draft.body {
        change.wave = u32::try_from(wave).unwrap_or(u32::MAX);
    }
}

/// Why nothing new may begin, though a request is there.
pub(super) fn held_back(c: &RolloutContext, spec: &WorkloadSpec) -> Option<RolloutPlan> {
    if let Some(frozen) = &c.workload.frozen {
        let text = format!(
            "frozen by {}: {}; `holdfast thaw {}` goes on",
            frozen.by,
            frozen.reason,
            c.id.name()
        );
        return Some(waiting("frozen", text, frozen.t));
    }
    spec.suspend
        .then(|| waiting("suspended", "its manifest says suspend: true".into(), c.workload.changed_t))
}

fn halt(c: &RolloutContext, spec: &WorkloadSpec, request: &Request, failed: &[&Place]) -> RolloutPlan {
    let last = failed.first().and_then(|place| place.unit?.last.as_ref());
    let (reason, why) = last.map_or(("failed", ""), |last| (last.reason.as_str(), last.message.as_str()));
    let names: Vec<&str> = failed.iter().map(|place| place.target.as_str()).collect();
    let message = format!("{} failed: {why}", names.join(", "));
    // What could not be tried anywhere is not known to be bad: it waits for a person.
    let any_bad = failed.iter().any(|place| {
        let last = place.unit.and_then(|unit| unit.last.as_ref());
        last.is_none_or(|last| last.request != request.id || last.outcome != AttemptOutcome::CouldNotTry)
    });
    let abort = spec.placement.on_halt == OnHalt::Abort && any_bad;
    let to = if abort { RolloutState::Aborting } else { RolloutState::Halted };
    let mut draft = change(c, request, to, reason, message.clone());
    draft.because.extend(last.map(|last| last.seq));
    let mut plan = record(draft);
    if abort {
        let quarantine = Quarantine {
            action: QuarantineAction::Set,
            release: request.release.clone(),
            attempt: request.attempt,
            values: None,
            reason: "aborted".into(),
            message,
        };
        plan.records
            .push(Draft::following(on(c, request.id), Body::Quarantine(quarantine)));
    }
    plan
}

/// Aborting: every unit goes back to the release proven before; without one, it ends when no unit is at it any more.
fn go_back(c: &RolloutContext, request: &Request) -> RolloutPlan {
    let aborted = change(c, request, RolloutState::Aborted, &request.reason, request.message.clone());
    let back = c.workload.proven.iter().rev().find(|release| **release != request.release);
    if let Some((release, known)) = back.and_then(|release| Some((release, c.workload.releases.get(release)?))) {
        let body = RolloutChange {
            to: RolloutState::Rolling,
            release: release.clone(),
            wave: 0,
            reason: "aborted".into(),
            message: "back to the release proven before".into(),
            sources: known.sources.clone(),
            before: known.before.clone(),
            after: known.after.clone(),
            artifacts: known.artifacts.clone(),
        };
        // The entry that aborted it made this request.
        let mut draft = Draft::new(on(c, request.seq), vec![request.seq], Body::Rollout(body));
        draft.blobs.insert("release".into(), release.blob());
        for (name, images) in &known.images {
            draft.blobs.insert(format!("images/{name}"), images.clone());
        }
        return RolloutPlan {
            records: vec![aborted, draft],
            ..RolloutPlan::default()
        };
    }
    let busy = c.workload.units.values().any(|unit| unit.attempt.is_some());
    if busy { RolloutPlan::default() } else { record(aborted) }
}

/// With the values and config that the target has now: others are another try.
fn has_failed(place: &Place, request: &Request) -> bool {
    let unit = place.unit.filter(|unit| unit.attempt.is_none());
    let last = unit.and_then(|unit| unit.last.as_ref());
    last.is_some_and(|last| failed_since(last, request) && last.captured == *place.spec.captured())
}

/// It neither runs there nor may it be tried: going on after a halt does not change that.
fn is_kept_out(c: &RolloutContext, place: &Place, request: &Request) -> bool {
    let busy = place.unit.is_some_and(|unit| unit.attempt.is_some());
    !busy && !place.runs(&request.release) && is_quarantined(c, place, &request.release, request)
}

fn is_quarantined(c: &RolloutContext, place: &Place, release: &ReleaseId, request: &Request) -> bool {
    c.workload
        .quarantined(release, place.spec.captured(), request.attempt)
        .is_some()
}

fn failed_since(last: &crate::state::LastAttempt, request: &Request) -> bool {
    last.request == request.id
        && last.seq > request.resumed
        && matches!(last.outcome, AttemptOutcome::Bad | AttemptOutcome::CouldNotTry)
}

/// Unreachable for longer than the manifest allows others to wait for it.
fn is_lagging(c: &RolloutContext, spec: &WorkloadSpec, place: &Place, request: &Request) -> bool {
    let since = place.state.unreachable_t.max(request.began);
    let is_away = place.state.unreachable.is_some() && c.now.saturating_sub(since) >= spec.placement.lag_after_ms;
    is_away
        && !place.unit.is_some_and(|unit| {
            unit.attempt.is_none() && unit.current().is_some_and(|current| current.release == request.release)
        })
}

/// Units that do not run the request's release begin an attempt, unless something holds them.
fn admit(c: &RolloutContext, request: &Request, members: &[Place]) -> RolloutPlan {
    let mut plan = RolloutPlan::default();
    for place in members {
        let is_busy = place
            .unit
            .is_some_and(|unit| unit.attempt.is_some() || unit.intent.is_some() || unit.phase == PhaseName::Leaving);
        if is_busy || place.runs(&request.release) || has_failed(place, request) {
            continue;
        }
        if is_quarantined(c, place, &request.release, request) {
            continue;
        }
        begin(c, &mut plan, place, &request.release, request);
    }
    plan
}

/// One attempt, with what the plugin says that this release can do there.
fn begin(c: &RolloutContext, plan: &mut RolloutPlan, place: &Place, release: &ReleaseId, request: &Request) {
    let Place { target, spec, unit, .. } = *place;
    let values = spec.captured();
    let since = request.since;
    let mut wait = |on: &str, message: String| {
        plan.waiting = Some(Waiting {
            on: on.into(),
            message: format!("{target}: {message}"),
            since,
            until: None,
        });
    };
    if let Claim::Conflict(owner) = &place.state.claim {
        return wait("conflict", format!("it belongs to owner {owner}; nothing there is touched"));
    }
    if let Claim::Ahead(fence) = &place.state.claim {
        return wait("ledger-loss", format!("it has seen fence {fence}, above this ledger's head"));
    }
    if let Some(frozen) = &place.state.frozen {
        return wait("frozen", format!("frozen by {}: {}", frozen.by, frozen.reason));
    }
    let plugin = match c.config.plugin_for(target, &spec.plugin) {
        Ok(plugin) => plugin,
        Err(message) => return wait("plugin", message),
    };
    let same = |number: &&u32| {
        let state = unit.and_then(|unit| unit.generations.get(number));
        state.is_some_and(|state| state.release == *release && state.captured == *values)
    };
    // A parked generation of the very same content comes back: neither registry nor Git is needed.
    let parked = unit.and_then(|unit| unit.parked.iter().rev().find(same).copied());
    let abilities: Option<Abilities> = match parked.and_then(|number| unit?.generations.get(&number)?.abilities.clone()) {
        Some(abilities) => Some(abilities),
        None => match preflight::abilities(c, target, release, values, &plugin) {
            Ok(abilities) => Some(abilities),
            Err(asking) => {
                plan.asks.extend(asking.asks);
                plan.wake_at = earliest(plan.wake_at, asking.wake_at);
                if let Some(waiting) = asking.waiting {
                    plan.waiting = Some(waiting);
                }
                return;
            }
        },
    };
    let generation = parked.unwrap_or_else(|| unit.map_or(1, |unit| unit.next_generation));
    let began = AttemptChange::Began {
        release: release.clone(),
        values: values.clone(),
        generation,
        old: unit.and_then(|unit| unit.current),
        plugin,
        request: request.id,
        abilities,
        revived: parked.is_some(),
        heal: false,
    };
    let on = On {
        target: Some(target.clone()),
        generation: Some(generation),
        ..on(c, request.id)
    };
    let mut draft = Draft::new(on, vec![request.seq], Body::Attempt(began));
    draft.blobs.insert("target".into(), values.clone());
    draft.blobs.insert("release".into(), release.blob());
    plan.records.push(draft);
    plan.blobs.push((values.clone(), spec.captured_bytes()));
}

/// After the rollout ended well: a new target, or one whose values or config changed, gets the same release through it once
/// more; a laggard that is back catches up alone.
fn catch_up(c: &RolloutContext, spec: &WorkloadSpec, request: &Request) -> RolloutPlan {
    if request.paused || held_back(c, spec).is_some() {
        return RolloutPlan::default();
    }
    let is_late = |place: &Place| {
        let busy = place.unit.is_some_and(|unit| unit.attempt.is_some());
        !busy && !place.runs(&request.release) && !has_failed(place, request)
    };
    let late = c.state.places(c.workload).filter(is_late);
    let (laggards, changed): (Vec<Place>, Vec<Place>) = late.partition(|place| is_behind(place, request));
    if !changed.is_empty() {
        let mut draft = change(
            c,
            request,
            RolloutState::Rolling,
            "target-changed",
            "a target is new, or its values or config changed".into(),
        );
        set_wave(&mut draft, 0);
        return record(draft);
    }
    let back: Vec<Place> = laggards
        .into_iter()
        .filter(|place| place.state.unreachable.is_none())
        .collect();
    admit(c, request, &back)
}

/// It runs another release than the one that succeeded: it was away when the others got it.
fn is_behind(place: &Place, request: &Request) -> bool {
    let current = place.unit.and_then(UnitState::current);
    current.is_some_and(|current| current.release != request.release)
}

/// The present request brings nothing new anywhere; a target without anything gets the last proven release.
fn admit_new(c: &RolloutContext, spec: &WorkloadSpec, request: &Request) -> RolloutPlan {
    let mut plan = RolloutPlan::default();
    let Some(release) = c.workload.proven.last() else {
        return plan;
    };
    if request.paused || held_back(c, spec).is_some() {
        return plan;
    }
    for place in c.state.places(c.workload) {
        let is_new = place.unit.is_none_or(|unit| {
            unit.current.is_none() && unit.attempt.is_none() && unit.intent.is_none() && unit.phase == PhaseName::Absent
        });
        if is_new && !has_failed(&place, request) && !is_quarantined(c, &place, release, request) {
            begin(c, &mut plan, &place, release, request);
        }
    }
    plan
}

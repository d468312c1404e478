//! Pre-flight: everything that has to be known before a rollout opens. All targets are asked whether they could, before any
//! of them is touched.

use super::rollout::{RolloutContext, Wish, change, check_key, held_back, on, waiting};
use super::{Ask, Draft, RolloutPlan, Waiting, backoff_ms, earliest};
use crate::entry::*;
use crate::ids::{Digest, FULL_SHARE, Millis, ReleaseId, TargetName, WorkloadId};
use crate::release::Release;
use crate::spec::{JobRef, Strategy, WorkloadSpec};
use crate::state::Request;
use crate::target::{Abilities, Fault, PluginRef, Report, Routing, Sizing};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An answer about the way back counts for so long.
const PULLABLE_FRESH_MS: Millis = 300_000;
/// A way back that could not be pulled is asked for again after so long.
const PULLABLE_AGAIN_MS: Millis = 60_000;

/// Reason of a refusal: the placement matches no target.
pub(super) const NOT_PLACED: &str = "placement";
pub(super) const NOWHERE: &str = "no target matches its placement; nothing runs";

/// Opens the wish, refuses it, or says what it waits on.
pub(super) fn open(c: &RolloutContext, spec: &WorkloadSpec, wish: Wish) -> RolloutPlan {
    if let Some(plan) = held_back(c, spec)
        .or_else(|| dependency(c, spec))
        .or_else(|| way_back(c, spec, &wish.release_id))
    {
        return plan;
    }
    let sources: BTreeMap<String, String> = wish
        .pins
        .iter()
        .map(|(name, pin)| (name.clone(), pin.source.clone()))
        .collect();
    let known_bad = c.workload.quarantine.get(&wish.release_id);
    let everywhere = known_bad.and_then(|all| all.iter().find(|q| q.values.is_none() && q.attempt >= spec.attempt));
    let quarantine = everywhere.or_else(|| {
        let mut places = c.state.places(c.workload);
        places.find_map(|place| c.workload.quarantined(&wish.release_id, place.spec.captured(), spec.attempt))
    });
    let (to, reason, message, cause) = match quarantine {
        Some(quarantine) => {
            let message = format!(
                "release {} is quarantined: {}; deploy another one, raise `attempt`, or `holdfast quarantine lift`",
                wish.release_id.short(),
                quarantine.message
            );
            (RolloutState::Refused, "quarantined", message, Some(quarantine.seq))
        }
        None if c.state.places(c.workload).next().is_none() => (RolloutState::Refused, NOT_PLACED, NOWHERE.to_owned(), None),
        None => match ask_targets(c, spec, &wish.release, &sources) {
            Err(asking) => return asking,
            Ok(problems) if !problems.is_empty() => (RolloutState::Refused, "check", problems.join("; "), None),
            Ok(_) => (RolloutState::Rolling, "requested", String::new(), None),
        },
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
        before: spec.before.iter().map(JobRef::from).collect(),
        after: spec.after.iter().map(JobRef::from).collect(),
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
    RolloutPlan {
        records,
        blobs: vec![(wish.release_id.blob(), wish.release.to_bytes())],
        ..RolloutPlan::default()
    }
}

/// A refusal by pre-flight is asked again when a plugin, a grant or a target changed, and after a restart.
pub(super) fn check_again(c: &RolloutContext, spec: &WorkloadSpec, request: &Request) -> RolloutPlan {
    let Some(known) = c.workload.releases.get(&request.release) else {
        return RolloutPlan::default();
    };
    let release = Release::from_spec(spec, &known.artifacts);
    // The manifest says something else by now: that is a wish of its own.
    if release.id() != request.release {
        return RolloutPlan::default();
    }
    if c.state.places(c.workload).next().is_none() {
        return RolloutPlan::default();
    }
    match ask_targets(c, spec, &Arc::new(release), &known.sources) {
        Ok(problems) if problems.is_empty() => RolloutPlan {
            records: vec![change(
                c,
                request,
                RolloutState::Rolling,
                "check-passed",
                "what refused it is gone".into(),
            )],
            ..RolloutPlan::default()
        },
        // The refusal stands, and is no wait: only a change can end it.
        Ok(_) => RolloutPlan::default(),
        Err(asking) => RolloutPlan { waiting: None, ..asking },
    }
}

/// What stands against the release on its targets, in words; none: nothing. `Err`: not all have answered.
fn ask_targets(
    c: &RolloutContext,
    spec: &WorkloadSpec,
    release: &Arc<Release>,
    sources: &BTreeMap<String, String>,
) -> Result<Vec<String>, RolloutPlan> {
    let release_id = release.id();
    let mut plan = RolloutPlan::default();
    let mut problems = Vec::new();
    let mut unanswered = Vec::new();
    for place in c.state.places(c.workload) {
        let (target, target_spec) = (place.target, place.spec);
        let plugin = match c.config.plugin_for(target, &target_spec.plugin) {
            Ok(plugin) => plugin,
            Err(problem) => {
                problems.push(format!("{target}: {problem}"));
                continue;
            }
        };
        problems.extend(
            c.config
                .fixed_problem(target, target_spec)
                .map(|problem| format!("{target}: {problem}")),
        );
        let key = check_key(&release_id, target_spec.captured(), &plugin);
        match answer(c, target, &key) {
            Ok(report) => {
                problems.extend(report.problems.iter().map(|problem| {
                    let hint = if problem.hint.is_empty() {
                        String::new()
                    } else {
                        format!(" ({})", problem.hint)
                    };
                    let place = c.places.suffix_of_check(c.id, target, &problem.at);
                    format!("{target}: {}: {}{hint}{place}", problem.at, problem.message)
                }));
                problems.extend(unable(spec, &report.abilities).map(|problem| format!("{target}: {problem}")));
            }
            Err(asking) => {
                unanswered.push(
                    asking
                        .message
                        .map_or_else(|| target.clone(), |why| format!("{target}: {why}")),
                );
                match asking.again_at {
                    Some(at) => plan.wake_at = earliest(plan.wake_at, Some(at)),
                    None => plan.asks.push(Ask::Check {
                        workload: c.id.clone(),
                        target: target.clone(),
                        key,
                        release: release.clone(),
                        sources: sources.clone(),
                    }),
                }
            }
        }
    }
    if !problems.is_empty() || unanswered.is_empty() {
        return Ok(problems);
    }
    unanswered.truncate(5);
    plan.waiting = Some(Waiting {
        on: "check".into(),
        message: format!("not checked yet: {}", unanswered.join("; ")),
        since: c.workload.changed_t,
        until: None,
    });
    Err(plan)
}

struct Asking {
    message: Option<String>,
    /// None: ask now.
    again_at: Option<Millis>,
}

/// A plugin that could not check says nothing of the release: it is asked again, later.
fn answer<'a>(c: &'a RolloutContext, target: &TargetName, key: &Digest) -> Result<&'a Report, Asking> {
    let check = c.units.get(target).and_then(|facts| facts.check.as_ref());
    match check.filter(|check| check.key == *key).map(|check| (&check.answer, check)) {
        Some((Ok(report), _)) => Ok(report),
        Some((Err(Fault { message, .. }), check)) => {
            let again_at = check.t + backoff_ms(check.tries);
            Err(Asking {
                message: Some(format!("the plugin could not check it: {message}")),
                again_at: Some(again_at).filter(|at| *at > c.now),
            })
        }
        None => Err(Asking {
            message: None,
            again_at: None,
        }),
    }
}

/// What the plugin says that a release can do on a target; asked again after a restart. `Err`: what to ask and wait for.
pub(super) fn abilities(
    c: &RolloutContext,
    target: &TargetName,
    release: &ReleaseId,
    values: &Digest,
    plugin: &PluginRef,
) -> Result<Abilities, RolloutPlan> {
    let key = check_key(release, values, plugin);
    let asking = match answer(c, target, &key) {
        Ok(report) => return Ok(report.abilities.clone()),
        Err(asking) => asking,
    };
    let message = asking
        .message
        .unwrap_or_else(|| "asking its plugin what the release can do there".into());
    let mut plan = waiting("check", format!("{target}: {message}"), c.now);
    match asking.again_at {
        Some(at) => plan.end_at(at),
        None => plan.asks.push(Ask::CheckRelease {
            workload: c.id.clone(),
            target: target.clone(),
            key,
            release: release.clone(),
        }),
    }
    Err(plan)
}

/// A workload that this one depends on: its change of the same revision must have succeeded; else any release proven.
fn dependency(c: &RolloutContext, spec: &WorkloadSpec) -> Option<RolloutPlan> {
    let repository = c.id.as_str().split('/').next()?;
    spec.depends_on.iter().find_map(|name| {
        let wait = |message: String| Some(waiting("dependency", message, c.workload.changed_t));
        let other = WorkloadId::new(repository, name)
            .ok()
            .and_then(|id| c.state.workloads.get(&id))
            .filter(|other| other.presence != Some(Presence::Absent));
        let Some(other) = other else {
            return wait(format!("it depends on {name}, and there is no such workload"));
        };
        if other.commit != c.workload.commit {
            return if other.proven.is_empty() {
                wait(format!("it depends on {name}, of which no release is proven yet"))
            } else {
                None
            };
        }
        match other.request.as_ref().filter(|request| request.id >= other.wish_seq()) {
            Some(request) if request.state == RolloutState::Succeeded => None,
            Some(request) if request.is_open() => wait(format!("it depends on {name}, which is being rolled out")),
            Some(request) => wait(format!(
                "it depends on {name}, whose change of the same revision did not succeed: {}",
                request.message
            )),
            // Its spec changed and its release did not: what is proven counts.
            None if !other.proven.is_empty() && other.request.as_ref().is_some_and(|request| !request.is_open()) => None,
            None => wait(format!("it depends on {name}, which has not begun")),
        }
    })
}

/// Where nothing stays parked on the target, the release to go back to must still be there to pull.
fn way_back(c: &RolloutContext, spec: &WorkloadSpec, wished: &ReleaseId) -> Option<RolloutPlan> {
    if !c.config.way_back_required || spec.standby > 0 || spec.retain == 0 {
        return None;
    }
    let back = c.workload.proven.last().filter(|release| *release != wished)?;
    let known = c.pullable.filter(|facts| facts.release == *back);
    let age_ms = known.map_or(Millis::MAX, |facts| c.now.saturating_sub(facts.t));
    let ask = |mut plan: RolloutPlan| {
        plan.asks.push(Ask::Pullable {
            workload: c.id.clone(),
            release: back.clone(),
        });
        plan
    };
    match known.map(|facts| &facts.outcome) {
        Some(Ok(())) if age_ms < PULLABLE_FRESH_MS => None,
        Some(Err(why)) => {
            let text = format!(
                "the way back, release {}, could not be pulled any more: {why}; `standby: 1` keeps one on the target, `way_back: optional` in holdfast.yaml does without",
                back.short()
            );
            let mut plan = waiting("way-back", text, c.workload.changed_t);
            if age_ms < PULLABLE_AGAIN_MS {
                plan.end_at(c.now - age_ms + PULLABLE_AGAIN_MS);
                Some(plan)
            } else {
                Some(ask(plan))
            }
        }
        _ => Some(ask(waiting(
            "way-back",
            format!("asking whether the way back, release {}, can still be pulled", back.short()),
            c.workload.changed_t,
        ))),
    }
}

/// What the strategy needs and this workload cannot do on this target, with what it can.
pub fn unable(spec: &WorkloadSpec, can: &Abilities) -> Option<String> {
    let name = spec.strategy.name();
    if !can.staged && can.routing == Routing::Fixed {
        return Some(
            "the plugin contradicts itself: neither launch nor route makes anything live (not staged, routing fixed)".into(),
        );
    }
    if !can.overlap && !matches!(spec.strategy, Strategy::Recreate { .. }) {
        return Some(format!(
            "{name} runs two generations side by side, which is not possible here; use recreate"
        ));
    }
    if spec.health.http.is_some() && !can.probed {
        return Some("health.http is set, but this target reports no addresses that could be probed".into());
    }
    if spec.instances_max.is_some() && can.sizing != Sizing::Automatic {
        return Some("instances {min, max} needs an autoscaler, and none owns the number here; give one number".into());
    }
    if can.sizing == Sizing::Unsized && spec.instances > 1 {
        return Some(format!(
            "instances: {} has no meaning here: there is nothing to count",
            spec.instances
        ));
    }
    match &spec.strategy {
        Strategy::Recreate { .. } => None,
        Strategy::BlueGreen { .. } if can.routing == Routing::Fixed => Some(
            "blueGreen switches traffic at once, but here an instance is live as soon as it is ready; use rolling or recreate"
                .into(),
        ),
        Strategy::BlueGreen { .. } => None,
        Strategy::Rolling { .. } | Strategy::Canary { .. } if !can.staged => Some(format!(
            "{name} needs a generation that can be judged before it is live, and here it is live at once; use blueGreen or recreate"
        )),
        Strategy::Rolling { .. } if can.sizing == Sizing::Unsized => {
            Some("rolling replaces instances by turns, and here there is nothing to count; use blueGreen or canary".into())
        }
        Strategy::Rolling { .. } if can.routing == Routing::Single => {
            Some("rolling has two generations live at once, and here exactly one is; use blueGreen".into())
        }
        Strategy::Rolling { .. } => None,
        Strategy::Canary { .. } if can.routing != Routing::Weighted => Some(format!(
            "canary needs weights, and this target cannot weigh traffic; use {}",
            if can.routing == Routing::Single {
                "blueGreen"
            } else {
                "rolling"
            }
        )),
        Strategy::Canary { steps, .. } if can.most_live < 2 && steps.len() > 1 => {
            Some("canary has two generations live at once, and here at most one is; use blueGreen".into())
        }
        Strategy::Canary { steps, .. } => steps
            .iter()
            .map(|step| step.weight)
            .find(|weight| *weight != FULL_SHARE && can.finest_share > 0 && weight % can.finest_share != 0)
            .map(|weight| {
                format!(
                    "weight {weight}/10000 is finer than the target's step of {}/10000",
                    can.finest_share
                )
            }),
    }
}

//! Drift: the world is not as it was left. It is written down once, and healed by what the target can be asked to do: a
//! new generation, a size, a route. Never by patching.

use super::rest::idle;
use super::route::{reads_as, set_route};
use super::*;
use crate::ids::{FULL_SHARE, GenNumber};
use crate::target::{Routing, Share};

/// Heals of one unit within an hour.
pub const HEALS_PER_UNIT: usize = 3;
const HOUR_MS: Millis = 3_600_000;
/// A target that could not say what differs is asked again after so long.
const DIFF_AGAIN_MS: Millis = 60_000;

struct Found {
    what: DriftKind,
    wanted: String,
    seen: String,
    answer: DriftAnswer,
    /// For `scale`, `route` and `retire`.
    verb: Option<Verb>,
}

pub(super) fn heal(c: &UnitContext) -> UnitPlan {
    let Some(seen) = c.fresh() else { return idle(c) };
    if let Some(plan) = resize(c, seen) {
        return plan;
    }
    let found = match find(c, seen) {
        Ok(found) => found,
        Err(plan) => return plan,
    };
    let Some(found) = found else {
        return match &c.unit.drift {
            Some(drift) => record(c, drift.what, String::new(), drift.seen.clone(), DriftAnswer::Over),
            None => idle(c),
        };
    };
    let target = c.state.targets.get(c.target);
    let is_frozen = c.workload.frozen.is_some() || target.is_some_and(|target| target.frozen.is_some());
    // Written down already, and nothing was done since: the same thing seen after an effect is seen anew.
    let known = c.unit.drift.as_ref().is_some_and(|drift| {
        let acted = found.answer.counts() && c.unit.last_result > drift.seq;
        drift.what == found.what && drift.seen == found.seen && !acted
    });
    if is_frozen {
        return if known {
            c.wait(
                "frozen",
                format!("drift is not healed while it is frozen: {}", found.seen),
                c.unit.phase_t,
                None,
            )
        } else {
            record(c, found.what, found.wanted, found.seen, DriftAnswer::Nothing)
        };
    }
    // What is written down was counted then.
    if found.answer.counts()
        && (!known || found.answer == DriftAnswer::Replace)
        && let Some(plan) = guard(c, &found)
    {
        return plan;
    }
    if found.answer == DriftAnswer::Replace
        && let Some(plan) = quarantined(c)
    {
        return plan;
    }
    if !known || found.answer == DriftAnswer::Replace {
        let mut plan = record(c, found.what, found.wanted, found.seen, found.answer);
        if found.answer == DriftAnswer::Replace {
            match replace(c, seen) {
                Ok(draft) => plan.records.push(draft),
                Err(waiting) => return waiting,
            }
        }
        return plan;
    }
    match found.verb {
        Some(Verb::Route { shares, lead }) => set_route(c, shares, lead),
        Some(verb) => c.act(verb),
        None => UnitPlan {
            look_at: Some(c.looked_t() + IDLE_LOOK_MS),
            ..c.wait(
                "drift",
                format!("{} is there, and nobody here made it", found.seen),
                c.unit.phase_t,
                None,
            )
        },
    }
}

fn record(c: &UnitContext, what: DriftKind, wanted: String, seen: String, answer: DriftAnswer) -> UnitPlan {
    let on = On {
        generation: c.unit.current,
        ..c.on()
    };
    let because = c.unit.last.iter().map(|last| last.seq).collect();
    let body = Drift {
        what,
        wanted,
        seen,
        answer,
    };
    UnitPlan::record(Draft::new(on, because, Body::Drift(body)))
}

/// Another number of instances in the manifest is policy: no new release, and no drift.
fn resize(c: &UnitContext, seen: &Seen) -> Option<UnitPlan> {
    let number = c.unit.current.filter(|_| c.is_placed())?;
    let known = generation(c, number)?;
    let state = seen.generation(number)?;
    let size = c.wanted_instances(&known.can());
    let is_planned = known.can().sizing == Sizing::Planned && state.wanted.is_some();
    (is_planned && known.size != size && known.size > 0).then(|| {
        c.act(Verb::Scale {
            generation: number,
            size,
        })
    })
}

/// The first thing that is not as it should be. `Err`: it cannot be known yet.
fn find(c: &UnitContext, seen: &Seen) -> Result<Option<Found>, UnitPlan> {
    let extra = seen
        .generations
        .iter()
        .find(|state| state.number > 0 && Some(state.number) != c.unit.current && !c.unit.parked.contains(&state.number))
        .map(|state| extra_found(c, state.number));
    let Some(number) = c.unit.current else {
        return Ok(extra);
    };
    let Some(known) = generation(c, number) else { return Ok(None) };
    let can = known.can();
    let Some(state) = seen.generation(number) else {
        return Ok(Some(Found {
            what: DriftKind::Missing,
            wanted: format!("generation {number}"),
            seen: "not on the target".into(),
            answer: DriftAnswer::Replace,
            verb: None,
        }));
    };
    if let Some(wrong) = &c.facts.wrong_digest {
        return Ok(Some(Found {
            what: DriftKind::Digest,
            wanted: format!("release {}", known.release.short()),
            seen: wrong.clone(),
            answer: DriftAnswer::Replace,
            verb: None,
        }));
    }
    if let Some(found) = edited(c, known, state)? {
        return Ok(Some(found));
    }
    if let Some(found) = wrong_size(c, &can, known, state) {
        return Ok(Some(found));
    }
    if let Some(found) = wrong_route(c, &can, seen, number) {
        return Ok(Some(found));
    }
    Ok(extra)
}

/// What came back after it was given up goes again. A number that was never given is another writer's: it is not touched.
fn extra_found(c: &UnitContext, number: GenNumber) -> Found {
    let is_ours = number < c.unit.next_generation;
    Found {
        what: DriftKind::Extra,
        wanted: "no such generation".into(),
        seen: format!("generation {number}"),
        answer: if is_ours { DriftAnswer::Retire } else { DriftAnswer::Nothing },
        verb: is_ours.then_some(Verb::Retire {
            generation: number,
            // Shared objects go only with a workload that is not wanted here.
            last: !c.is_placed(),
        }),
    }
}

/// The fingerprint changed: the target is asked what differs. Nothing: the new fingerprint counts.
fn edited(c: &UnitContext, known: &GenState, state: &GenerationState) -> Result<Option<Found>, UnitPlan> {
    if known.fingerprint.is_empty() || state.fingerprint.is_empty() || known.fingerprint == state.fingerprint {
        return Ok(None);
    }
    let diff = c
        .facts
        .diff
        .as_ref()
        .filter(|diff| diff.generation == state.number && diff.fingerprint == state.fingerprint);
    let changed = |what: String| Found {
        what: DriftKind::Content,
        wanted: known.fingerprint.clone(),
        seen: what,
        answer: DriftAnswer::Replace,
        verb: None,
    };
    match diff.map(|diff| (&diff.changes, diff.t)) {
        Some((Ok(changes), _)) if changes.is_empty() => Err(record(
            c,
            DriftKind::Content,
            known.fingerprint.clone(),
            state.fingerprint.clone(),
            DriftAnswer::Over,
        )),
        Some((Ok(changes), _)) => {
            let shown: Vec<String> = changes
                .iter()
                .take(5)
                .map(|change| format!("{} {}: {} instead of {}", change.item, change.path, change.have, change.want))
                .collect();
            Ok(Some(changed(shown.join("; ").chars().take(500).collect())))
        }
        // It has no preview: the fingerprint alone says so.
        Some((Err(fault), _)) if fault.class == FaultClass::Absent => {
            Ok(Some(changed(format!("fingerprint {}", state.fingerprint))))
        }
        Some((Err(fault), t)) if c.now < t + DIFF_AGAIN_MS => {
            let text = format!("its content changed, and the target cannot say how: {}", fault.message);
            Err(c.wait("diff", text, t, Some(t + DIFF_AGAIN_MS)))
        }
        _ => {
            let mut plan = c.wait("diff", "its content changed; asking the target how", c.looked_t(), None);
            plan.asks.push(Ask::Diff {
                workload: c.id.clone(),
                target: c.target.clone(),
                generation: state.number,
            });
            Err(plan)
        }
    }
}

fn wrong_size(c: &UnitContext, can: &Abilities, known: &GenState, state: &GenerationState) -> Option<Found> {
    if state.wanted.is_none() && c.is_short() {
        return Some(Found {
            what: DriftKind::Instances,
            wanted: "ready".into(),
            seen: "not ready, and there is nothing to count".into(),
            answer: DriftAnswer::Replace,
            verb: None,
        });
    }
    // What was never given a size (not staged, adopted) has none to keep to.
    let wanted = state.wanted.filter(|_| known.size > 0)?;
    let scaled = can.sizing == Sizing::Planned && wanted != known.size;
    let below_floor = can.sizing == Sizing::Automatic && wanted < known.size;
    let missing = state.ready < wanted && c.is_short() && state.phase != GenPhase::Failing;
    let size = if missing { wanted } else { known.size };
    (scaled || below_floor || missing).then(|| Found {
        what: DriftKind::Instances,
        wanted: format!("{size} instances"),
        seen: format!("{} of {wanted} ready", state.ready),
        answer: DriftAnswer::Scale,
        verb: Some(Verb::Scale {
            generation: state.number,
            size,
        }),
    })
}

fn wrong_route(c: &UnitContext, can: &Abilities, seen: &Seen, number: GenNumber) -> Option<Found> {
    if can.routing == Routing::Fixed {
        return None;
    }
    let ours = seen
        .generations
        .iter()
        .filter(|state| c.unit.generations.contains_key(&state.number));
    let shares: Vec<Share> = ours
        .map(|state| Share {
            number: state.number,
            live: if state.number == number { FULL_SHARE } else { 0 },
        })
        .collect();
    let settled = seen.route.as_ref().is_some_and(|route| route.settled);
    let is_so = settled && shares.iter().all(|share| reads_as(can, seen.share(share.number), share.live));
    (!is_so).then(|| {
        let have = seen.route.iter().flat_map(|route| &route.shares);
        let have: Vec<String> = have
            .map(|share| format!("{}: {}%", share.number, percent(share.live)))
            .collect();
        Found {
            what: DriftKind::Route,
            wanted: format!("{number}: 100%"),
            seen: have.join(", "),
            answer: DriftAnswer::Route,
            verb: Some(Verb::Route { shares, lead: number }),
        }
    })
}

/// The limits on heals: of this unit, and of all. Reaching one is an entry, once.
fn guard(c: &UnitContext, found: &Found) -> Option<UnitPlan> {
    let recent = |heals: &[Millis]| heals.iter().copied().filter(|t| t + HOUR_MS > c.now).collect::<Vec<_>>();
    let (mine, all) = (recent(&c.unit.heals), recent(&c.state.heals));
    let (class, limit, recorded, on, oldest) = if mine.len() >= HEALS_PER_UNIT {
        (
            "heals-per-unit",
            HEALS_PER_UNIT,
            c.unit.heal_guard,
            c.on(),
            mine.first().copied(),
        )
    } else if all.len() >= c.config.heals_per_hour {
        (
            "heals-per-hour",
            c.config.heals_per_hour,
            c.state.heal_guard,
            On::default(),
            all.first().copied(),
        )
    } else {
        return None;
    };
    if recorded.is_none() {
        let body = Guard {
            class: class.into(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        return Some(UnitPlan::record(Draft::new(on, Vec::new(), Body::Guard(body))));
    }
    let until = oldest.map(|t| t + HOUR_MS);
    let text = format!(
        "{} (wanted {}) is not healed: {limit} heals within an hour is the limit; `holdfast allow-heals` lifts it",
        found.seen, found.wanted
    );
    Some(c.wait("heal-guard", text, c.unit.phase_t, until))
}

/// Known-bad stays out, even where it is what was lost.
fn quarantined(c: &UnitContext) -> Option<UnitPlan> {
    let known = generation(c, c.unit.current?)?;
    let quarantine = c
        .workload
        .quarantined(&known.release, &known.captured, c.workload.attempt_number())?;
    let text = format!(
        "what ran here is quarantined and is not launched again: {}",
        quarantine.message
    );
    Some(c.wait("quarantined", text, c.unit.phase_t, None))
}

/// A new generation of what runs, with the same captured values and config.
fn replace(c: &UnitContext, seen: &Seen) -> Result<Draft, UnitPlan> {
    let current = c.unit.current.and_then(|number| Some((number, generation(c, number)?)));
    let Some((number, known)) = current else { return Err(idle(c)) };
    let spec = c.state.target_spec(c.target);
    let plugin = match spec.map(|spec| c.config.plugin_for(c.target, &spec.plugin)) {
        Some(Ok(plugin)) => plugin,
        Some(Err(message)) => return Err(c.wait("plugin", message, c.unit.phase_t, None)),
        None => return Err(idle(c)),
    };
    let began = AttemptChange::Began {
        release: known.release.clone(),
        values: known.captured.clone(),
        generation: c.unit.next_generation,
        old: seen.generation(number).map(|_| number),
        plugin,
        request: c.workload.request.as_ref().map_or(0, |request| request.id),
        abilities: known.abilities.clone(),
        revived: false,
        heal: true,
    };
    let on = On {
        rollout: c.workload.request.as_ref().map(|request| request.id),
        generation: Some(c.unit.next_generation),
        ..c.on()
    };
    let mut draft = Draft::following(on, Body::Attempt(began));
    draft.blobs.insert("target".into(), known.captured.clone());
    draft.blobs.insert("release".into(), known.release.blob());
    Ok(draft)
}

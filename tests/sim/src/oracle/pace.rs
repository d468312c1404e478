//! Sections 4 and 8: waves, holds, approvals, jobs, freezes, dependencies and the limits on healing.

use super::facts::{AttemptFacts, JobEnd, WorkloadFacts};
use super::{Check, Oracle};
use holdfast_core::entry::*;
use holdfast_core::ids::{FULL_SHARE, GenNumber, WorkloadId};
use holdfast_core::target::{Hook, Verb};

const HEALS_PER_HOUR: usize = 3;
const HOUR_MS: u64 = 3_600_000;

impl Oracle {
    pub(super) fn pace(&self, entry: &Entry) -> Check {
        let (Some(id), Some(target)) = (&entry.on.workload, &entry.on.target) else {
            return Ok(());
        };
        let Some(workload) = self.facts.workloads.get(id) else {
            return Ok(());
        };
        let attempt = workload.units.get(target).and_then(|unit| unit.attempt.as_ref());
        match &entry.body {
            Body::Attempt(AttemptChange::Began { heal, release, .. }) => {
                if *heal {
                    return self.heals(workload, target, entry.t);
                }
                let frozen = workload.frozen || self.facts.targets.get(target).is_some_and(|target| target.frozen);
                if frozen {
                    return Err("section 8: an attempt begins while its workload or target is frozen".into());
                }
                let state = workload.request.as_ref().map(|request| request.state);
                // A target without anything gets the last proven release while the request brings nothing new.
                let other = workload.request.as_ref().is_some_and(|request| request.release != *release);
                let empty = workload.units.get(target).is_none_or(|unit| unit.current.is_none());
                if other && empty && workload.proven.contains(release) {
                    return Ok(());
                }
                if !matches!(
                    state,
                    Some(RolloutState::Rolling | RolloutState::Holding | RolloutState::Succeeded)
                ) {
                    return Err(format!("section 4: an attempt begins while its rollout is {state:?}"));
                }
                self.waves(workload, target)?;
                self.dependencies(id, workload)
            }
            Body::Attempt(AttemptChange::Passed { weight }) => match attempt {
                // Gone or parked: there is nothing to share traffic with, and nothing to hold for.
                Some(attempt) if attempt.alone || !attempt.old.is_some_and(|old| self.shows(target, id, old)) => Ok(()),
                Some(attempt) => held_long_enough(workload, attempt, *weight, entry.t),
                None => Ok(()),
            },
            Body::Verdict(verdict) if verdict.about == "health" && verdict.outcome == VerdictOutcome::Fail => {
                let proving = workload
                    .units
                    .get(target)
                    .is_some_and(|unit| unit.phase == Some(PhaseName::Proving));
                // What says itself that it fails need not be waited for.
                match attempt.filter(|_| proving && verdict.evidence["phase"] != "failing") {
                    Some(attempt) => was_given_its_time(workload, attempt, entry.t),
                    None => Ok(()),
                }
            }
            Body::Attempt(AttemptChange::Phase {
                to: PhaseName::Retiring, ..
            }) => self.baked(workload, target, entry.t),
            Body::Attempt(AttemptChange::Ended {
                outcome: AttemptOutcome::Succeeded,
                parked,
                ..
            }) => match attempt {
                Some(attempt) => {
                    let shown = |number: &GenNumber| self.shows(target, id, *number);
                    kept_for_a_way_back(workload, target, attempt, parked, &shown)
                }
                None => Ok(()),
            },
            Body::Intent(intent) => match (&intent.verb, attempt) {
                (Verb::Launch { .. }, Some(attempt)) => jobs_done(workload, attempt, target, Hook::Before),
                (Verb::Run { .. }, _) => run_once(workload, &intent.verb, target),
                (Verb::Route { shares, .. }, Some(attempt)) => {
                    let live = shares
                        .iter()
                        .find(|share| share.number == attempt.generation)
                        .map_or(0, |share| share.live);
                    let steps = workload.spec.as_ref().map_or(&[][..], |spec| spec.strategy.steps());
                    // A weight that an amended manifest does not name any more has no hold.
                    let old_is_there = attempt.old.is_some_and(|old| self.shows(target, id, old));
                    let waits = old_is_there && steps.iter().any(|step| step.weight == attempt.weight) && !is_way_back(attempt);
                    if live > attempt.weight && waits && attempt.passed != Some(attempt.weight) {
                        return Err(format!(
                            "section 4: weight rises from {} to {live} before the step has passed",
                            attempt.weight
                        ));
                    }
                    approved(workload, attempt, live)
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn heals(&self, workload: &WorkloadFacts, target: &str, t: u64) -> Check {
        let Some(unit) = workload.units.get(target) else {
            return Ok(());
        };
        let allowed = self.facts.heals_allowed;
        let within = unit
            .heals
            .iter()
            .filter(|healed| **healed + HOUR_MS > t && **healed >= allowed);
        if within.count() >= HEALS_PER_HOUR {
            return Err(format!(
                "invariant 11: {target} is healed more than {HEALS_PER_HOUR} times an hour"
            ));
        }
        Ok(())
    }

    /// A unit begins only when its wave has.
    fn waves(&self, workload: &WorkloadFacts, target: &str) -> Check {
        let (Some(spec), Some(request)) = (&workload.spec, &workload.request) else {
            return Ok(());
        };
        if spec.placement.waves.is_empty() || request.state != RolloutState::Rolling {
            return Ok(());
        }
        // What was proven everywhere comes back everywhere at once.
        if workload.proven.contains(&request.release) {
            return Ok(());
        }
        let placed = self.facts.placed(workload);
        let sizes = spec.placement.wave_sizes(placed.len() as u32);
        let wave = sizes.get(request.wave as usize).or(sizes.last());
        let reached = wave.map_or(placed.len(), |(size, _)| *size as usize);
        let at = placed.iter().position(|name| *name == target).unwrap_or(0);
        // A target that left meanwhile moves the others forward.
        if at >= reached && workload.spec_seq <= request.id {
            return Err(format!(
                "section 4: {target} is number {at} and begins in wave {}, which reaches {reached}",
                request.wave
            ));
        }
        Ok(())
    }

    fn dependencies(&self, id: &WorkloadId, workload: &WorkloadFacts) -> Check {
        let Some(spec) = &workload.spec else { return Ok(()) };
        for name in &spec.depends_on {
            let other = WorkloadId::new("main", name)
                .ok()
                .and_then(|other| self.facts.workloads.get(&other));
            if other.is_none_or(|other| other.proven.is_empty()) {
                return Err(format!(
                    "section 5: {id} begins before {name}, which it depends on, was ever proven"
                ));
            }
        }
        Ok(())
    }

    fn baked(&self, workload: &WorkloadFacts, target: &str, t: u64) -> Check {
        let Some(unit) = workload.units.get(target) else {
            return Ok(());
        };
        let (Some(spec), Some(attempt)) = (&workload.spec, &unit.attempt) else {
            return Ok(());
        };
        jobs_done(workload, attempt, target, Hook::After)?;
        let until = unit.phase_t + spec.strategy.bake_ms();
        if unit.phase == Some(PhaseName::Baking) && t < until && !skips(workload, attempt) {
            return Err(format!(
                "section 4: it retires the old one at {t}; it should bake until {until}"
            ));
        }
        Ok(())
    }
}

fn is_way_back(attempt: &AttemptFacts) -> bool {
    attempt.old.is_none() || attempt.heal || attempt.known
}

/// The first generation, a heal and a proven release wait for nothing but health; a person may say so too.
fn skips(workload: &WorkloadFacts, attempt: &AttemptFacts) -> bool {
    is_way_back(attempt) || workload.advanced > attempt.reached.0
}

fn was_given_its_time(workload: &WorkloadFacts, attempt: &AttemptFacts, t: u64) -> Check {
    let (Some(spec), Some(made_t)) = (&workload.spec, attempt.made_t) else {
        return Ok(());
    };
    if t < made_t + spec.health.timeout_ms {
        return Err(format!(
            "section 4: generation {} was there at {made_t}, may take {} ms, and is too late at {t}",
            attempt.generation, spec.health.timeout_ms
        ));
    }
    Ok(())
}

fn held_long_enough(workload: &WorkloadFacts, attempt: &AttemptFacts, weight: u32, t: u64) -> Check {
    let Some(spec) = &workload.spec else { return Ok(()) };
    let step = spec.strategy.steps().iter().find(|step| step.weight == weight);
    let until = attempt.reached.1 + step.map_or(0, |step| step.hold_ms);
    if t < until && !skips(workload, attempt) {
        return Err(format!(
            "section 4: the hold at {weight} is over at {until} and was left at {t}"
        ));
    }
    Ok(())
}

fn approved(workload: &WorkloadFacts, attempt: &AttemptFacts, live: u32) -> Check {
    let (Some(spec), Some(request)) = (&workload.spec, &workload.request) else {
        return Ok(());
    };
    let Some(approval) = spec.approval.as_ref().filter(|_| !is_way_back(attempt)) else {
        return Ok(());
    };
    if request.release != attempt.release || workload.advanced > attempt.seq {
        return Ok(());
    }
    for step in approval
        .before
        .iter()
        .filter(|step| **step <= live && **step > attempt.weight)
    {
        let yes = request.approvals.get(step).map_or(0, |people| people.len());
        if (yes as u32) < approval.count {
            return Err(format!(
                "section 8: weight {live} of {FULL_SHARE} with {yes} of {} approvals for step {step}",
                approval.count
            ));
        }
    }
    Ok(())
}

/// The last `standby` generations stay, the newest of them the one that was replaced; a known-bad one is no way back.
fn kept_for_a_way_back(
    workload: &WorkloadFacts,
    target: &str,
    attempt: &AttemptFacts,
    parked: &[GenNumber],
    shown: &dyn Fn(&GenNumber) -> bool,
) -> Check {
    let Some(spec) = &workload.spec else { return Ok(()) };
    if parked.len() > spec.standby as usize {
        return Err(format!(
            "section 5: {} generations stay parked; standby is {}",
            parked.len(),
            spec.standby
        ));
    }
    if attempt.heal && attempt.old.is_some_and(|old| parked.contains(&old)) {
        return Err("section 8: what was healed by replacement stays parked for a way back".into());
    }
    let known_bad = |old: &GenNumber| {
        let generation = workload.units.get(target).and_then(|unit| unit.generations.get(old));
        generation.is_none_or(|one| workload.keeps_out(&one.release, &one.captured, workload.attempt_number()))
    };
    let old = attempt
        .old
        .filter(|_| spec.standby > 0 && !attempt.heal && attempt.can.staged);
    // What a foreign hand took is not there to be kept, nor what went while the manifest said otherwise.
    let amended = workload.spec_seq > attempt.seq;
    let old = old.filter(|old| !known_bad(old) && !amended && shown(old));
    match old {
        Some(old) if parked.last() != Some(&old) => Err(format!(
            "section 5: generation {old} was replaced and does not stay parked: {parked:?}"
        )),
        _ => Ok(()),
    }
}

/// Once for each release and scope, whatever crashes.
fn run_once(workload: &WorkloadFacts, verb: &Verb, target: &str) -> Check {
    let key = workload.units.get(target).and_then(|unit| unit.job(verb, target));
    let Some((key, known)) = key.and_then(|key| workload.jobs.get(&key).map(|job| (key, job))) else {
        return Ok(());
    };
    let repeatable = workload.spec.iter().flat_map(|spec| spec.before.iter().chain(&spec.after));
    let repeatable = repeatable.filter(|job| key.1.contains(&job.name)).any(|job| job.repeatable);
    let again = match known.ended {
        // The same target goes on with what it has begun.
        None => known.target == target,
        Some(JobEnd::Done) => false,
        Some(JobEnd::Failed) => workload.attempt_number() > known.attempt,
        Some(JobEnd::Lost) => repeatable || workload.attempt_number() > known.attempt,
    };
    if again {
        return Ok(());
    }
    Err(format!(
        "section 4: job {} is run a second time for release {}",
        key.1,
        key.0.short()
    ))
}

/// Jobs come before what they are for.
fn jobs_done(workload: &WorkloadFacts, attempt: &AttemptFacts, target: &str, hook: Hook) -> Check {
    let (Some(spec), Some(request)) = (&workload.spec, &workload.request) else {
        return Ok(());
    };
    let current = request.release == attempt.release && workload.spec_seq <= request.id;
    let jobs = match hook {
        Hook::Before => &spec.before,
        Hook::After => &spec.after,
    };
    if !current || attempt.heal {
        return Ok(());
    }
    for job in jobs {
        let key = holdfast_core::state::job_key(hook, &job.name, job.scope, target);
        let known = workload.jobs.get(&(attempt.release.clone(), key.clone()));
        if known.and_then(|job| job.ended) != Some(JobEnd::Done) {
            return Err(format!("section 4: job {key} is not done, and {target} goes on"));
        }
    }
    Ok(())
}

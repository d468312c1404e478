//! Pins, requests, jobs, quarantines and commands of one workload.

use crate::entry::*;
use crate::ids::{ReleaseId, TargetName};
use crate::state::{
    ApprovalState, Frozen, INCIDENTS_MAX, JobOutcome, JobState, PinState, QuarantineState, ReleaseState, Request, SelectionState,
    WorkloadState, job_key,
};
use crate::target::{FaultClass, Verb};

/// Releases that stay eligible for a way back, newest last.
const PROVEN_KEPT: usize = 16;

impl WorkloadState {
    pub(super) fn fold_command(&mut self, entry: &Entry, verb: &CommandVerb, frozen: Frozen) {
        match verb {
            CommandVerb::Freeze => self.frozen = Some(frozen),
            CommandVerb::Thaw => self.frozen = None,
            CommandVerb::Repin { reference } => {
                self.repins.insert(reference.clone(), entry.seq);
            }
            CommandVerb::Retry => self.retry(),
            CommandVerb::OpenIncident { deploy } if self.incidents.len() < INCIDENTS_MAX => {
                self.incidents.insert(deploy.clone());
            }
            CommandVerb::CloseIncident { deploy } => {
                self.incidents.remove(deploy);
            }
            _ => {}
        }
        let Some(request) = &mut self.request else { return };
        match verb {
            CommandVerb::Pause => request.paused = true,
            CommandVerb::Resume | CommandVerb::Retry => {
                request.paused = false;
                request.resumed = entry.seq;
            }
            CommandVerb::DeployNow => request.now = true,
            CommandVerb::Advance => {
                request.advanced = entry.seq;
                for attempt in self.units.values_mut().filter_map(|unit| unit.attempt.as_mut()) {
                    attempt.passed = Some(attempt.weight);
                    attempt.judged = None;
                }
            }
            CommandVerb::Approve {
                rollout,
                release,
                step,
                approver,
            } if request.id == *rollout && request.release == *release => {
                request.approvals.push(ApprovalState {
                    step: *step,
                    approver: approver.clone(),
                    seq: entry.seq,
                });
            }
            _ => {}
        }
    }

    /// A person wants it tried again: also lost jobs, and back-off begins anew.
    fn retry(&mut self) {
        for job in self.jobs.values_mut().flat_map(|jobs| jobs.values_mut()) {
            job.again = job.outcome == JobOutcome::Lost;
        }
        for unit in self.units.values_mut() {
            unit.faults = 0;
            unit.last_fault = None;
            unit.heals.clear();
            unit.heal_guard = None;
        }
    }

    pub(super) fn fold(&mut self, entry: &Entry) {
        match &entry.body {
            Body::Pin(pin) => {
                if self.repins.remove(&pin.reference).is_some() {
                    self.repinned = entry.seq;
                }
                let images = entry.blobs.get("images").cloned();
                self.pins.insert(
                    pin.reference.clone(),
                    PinState {
                        digest: pin.digest.clone(),
                        seq: entry.seq,
                        images,
                        source: pin.source.clone(),
                        moved_to: None,
                    },
                );
            }
            Body::TagMoved(moved) => {
                if let Some(pin) = self.pins.get_mut(&moved.reference) {
                    pin.moved_to = (moved.seen != pin.digest).then(|| moved.seen.clone());
                }
            }
            Body::Selection(selection) => {
                let state = SelectionState {
                    repository: selection.repository.clone(),
                    select: selection.select.clone(),
                    tag: selection.tag.clone(),
                    seq: entry.seq,
                };
                self.selections.insert(selection.artifact.clone(), state);
            }
            Body::Rollout(change) => self.fold_rollout(entry, change),
            Body::Quarantine(quarantine) => self.fold_quarantine(entry, quarantine),
            _ => {
                let Some(target) = entry.on.target.clone() else { return };
                self.fold_job(entry, &target);
                let commit = self
                    .request
                    .as_ref()
                    .map(|request| request.commit.clone())
                    .unwrap_or_default();
                self.units.entry(target).or_default().fold(entry, commit);
            }
        }
        if matches!(
            entry.body,
            Body::Attempt(AttemptChange::Ended { .. } | AttemptChange::Phase { .. }) | Body::Rollout(_)
        ) {
            self.forget_unused_releases();
        }
    }

    /// What the intent and the result of a `run` mean for the job.
    fn fold_job(&mut self, entry: &Entry, target: &TargetName) {
        let Some(unit) = self.units.get(target) else { return };
        let (verb, outcome) = match &entry.body {
            Body::Intent(intent) => (&intent.verb, None),
            Body::Result(outcome) if outcome.closed => match &unit.intent {
                Some(open) if open.seq == outcome.intent => (&open.verb, Some(outcome)),
                _ => return,
            },
            _ => return,
        };
        let Verb::Run {
            generation,
            job,
            hook,
            scope,
            run,
        } = verb
        else {
            return;
        };
        let Some(release) = unit.generations.get(generation).map(|generation| generation.release.clone()) else {
            return;
        };
        let attempt = self.attempt_number();
        let key = job_key(*hook, job, *scope, target);
        let jobs = self.jobs.entry(release).or_default();
        match outcome {
            None => {
                let state = JobState {
                    outcome: JobOutcome::Running,
                    target: target.clone(),
                    seq: entry.seq,
                    attempt,
                    run: *run,
                    again: false,
                    t: entry.t,
                    message: String::new(),
                };
                jobs.insert(key, state);
            }
            Some(outcome) => {
                let ended = match outcome.class {
                    None => JobOutcome::Done,
                    Some(FaultClass::Failed) => JobOutcome::Failed,
                    Some(FaultClass::Absent) => JobOutcome::Lost,
                    // Refused before it began.
                    Some(_) if *run <= 1 => {
                        jobs.remove(&key);
                        return;
                    }
                    Some(_) => JobOutcome::Lost,
                };
                if let Some(state) = jobs.get_mut(&key) {
                    state.again = outcome
                        .class
                        .is_some_and(|class| !matches!(class, FaultClass::Failed | FaultClass::Absent));
                    state.outcome = ended;
                    state.t = entry.t;
                    state.message = outcome.message.chars().take(500).collect();
                }
            }
        }
    }

    fn fold_rollout(&mut self, entry: &Entry, change: &RolloutChange) {
        let Some(id) = entry.on.rollout else { return };
        let (reason, message) = (change.reason.clone(), change.message.clone());
        match &mut self.request {
            Some(request) if request.id == id => {
                request.state = change.to;
                if matches!(change.to, RolloutState::Rolling | RolloutState::Holding) {
                    request.wave = change.wave;
                }
                request.since = entry.t;
                request.seq = entry.seq;
                (request.reason, request.message) = (reason, message);
            }
            _ => {
                self.request = Some(Request {
                    id,
                    release: change.release.clone(),
                    attempt: self.spec.as_ref().map_or(1, |spec| spec.attempt),
                    commit: self.commit.clone(),
                    state: change.to,
                    since: entry.t,
                    began: entry.t,
                    seq: entry.seq,
                    reason,
                    message,
                    paused: false,
                    resumed: id,
                    wave: change.wave,
                    now: false,
                    approvals: Vec::new(),
                    advanced: id,
                    contributors: self.contributors.clone(),
                });
                let images = change
                    .artifacts
                    .keys()
                    .filter_map(|name| Some((name.clone(), entry.blobs.get(&format!("images/{name}"))?.clone())))
                    .collect();
                self.releases.entry(change.release.clone()).or_insert_with(|| ReleaseState {
                    artifacts: change.artifacts.clone(),
                    sources: change.sources.clone(),
                    images,
                    before: change.before.clone(),
                    after: change.after.clone(),
                });
            }
        }
        if change.to == RolloutState::Succeeded {
            self.proven.retain(|release| *release != change.release);
            self.proven.push(change.release.clone());
            if self.proven.len() > PROVEN_KEPT {
                self.proven.remove(0);
            }
        }
    }

    fn fold_quarantine(&mut self, entry: &Entry, quarantine: &Quarantine) {
        match quarantine.action {
            QuarantineAction::Set => {
                self.proven.retain(|release| *release != quarantine.release);
                for unit in self.units.values_mut() {
                    unit.proven.retain(|(release, captured)| {
                        *release != quarantine.release || quarantine.values.as_ref().is_some_and(|values| values != captured)
                    });
                }
                self.quarantine
                    .entry(quarantine.release.clone())
                    .or_default()
                    .push(QuarantineState {
                        attempt: quarantine.attempt,
                        values: quarantine.values.clone(),
                        seq: entry.seq,
                        reason: quarantine.reason.clone(),
                        message: quarantine.message.clone(),
                    });
            }
            QuarantineAction::Lift => {
                self.quarantine.remove(&quarantine.release);
            }
        }
    }

    /// A release is remembered while something runs it, wants it, or may go back to it.
    fn forget_unused_releases(&mut self) {
        let is_used = |release: &ReleaseId| {
            let wanted = self.request.as_ref().is_some_and(|request| request.release == *release);
            wanted || self.proven.contains(release) || self.units.values().any(|unit| unit.knows(release))
        };
        let unused: Vec<ReleaseId> = self.releases.keys().filter(|release| !is_used(release)).cloned().collect();
        for release in unused {
            self.releases.remove(&release);
        }
    }
}

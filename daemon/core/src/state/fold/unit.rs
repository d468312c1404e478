//! Attempts, intents, results and drift of one unit.

use super::remember_heal;
use crate::entry::*;
use crate::ids::Millis;
use crate::state::{AttemptState, DriftState, GenState, LastAttempt, OpenIntent, UnitState};
use crate::target::Verb;

/// Proofs of a unit that are remembered.
const UNIT_PROVEN_KEPT: usize = 8;

impl UnitState {
    pub(super) fn fold(&mut self, entry: &Entry, commit: String) {
        match &entry.body {
            Body::Guard(_) => self.heal_guard = Some(entry.seq),
            Body::Drift(drift) => {
                if drift.answer.counts() {
                    remember_heal(&mut self.heals, entry.t);
                    self.heal_guard = None;
                }
                if drift.answer == DriftAnswer::Over {
                    let current = self.current.and_then(|number| self.generations.get_mut(&number));
                    if let Some(current) = current.filter(|_| drift.what == DriftKind::Content) {
                        current.fingerprint = drift.seen.clone();
                    }
                    self.drift = None;
                } else {
                    self.drift = Some(DriftState {
                        what: drift.what,
                        seen: drift.seen.clone(),
                        seq: entry.seq,
                        t: entry.t,
                    });
                }
            }
            Body::Attempt(change) => self.fold_attempt(entry, change, commit),
            Body::Intent(intent) => {
                self.fold_intent(&intent.verb);
                self.intent = Some(OpenIntent {
                    seq: entry.seq,
                    verb: intent.verb.clone(),
                    plugin: intent.plugin.clone(),
                    tries: 0,
                    since: entry.t,
                    last_t: entry.t,
                    last_fault: None,
                });
            }
            Body::Result(outcome) => self.fold_result(entry, outcome),
            Body::Verdict(verdict) => {
                if let Some(attempt) = &mut self.attempt {
                    match verdict.outcome {
                        _ if verdict.about == "diagnosis" => attempt.explained = true,
                        VerdictOutcome::Fail => attempt.judged = Some((verdict.reason.clone(), verdict.message.clone())),
                        VerdictOutcome::Pass | VerdictOutcome::Unmeasured => {}
                    }
                }
            }
            _ => {}
        }
    }

    /// From its intent on, an effect may be on the target.
    fn fold_intent(&mut self, verb: &Verb) {
        match verb {
            Verb::Launch { generation, size } | Verb::Scale { generation, size } => {
                if let Some(generation) = self.generations.get_mut(generation) {
                    generation.launched = true;
                    generation.size = *size;
                }
            }
            Verb::Route { shares, .. } => {
                for share in shares.iter().filter(|share| share.live > 0) {
                    if let Some(generation) = self.generations.get_mut(&share.number) {
                        generation.launched = true;
                    }
                }
            }
            Verb::Retire { .. } | Verb::Run { .. } => {}
        }
    }

    fn fold_attempt(&mut self, entry: &Entry, change: &AttemptChange, commit: String) {
        match change {
            AttemptChange::Began {
                release,
                values,
                generation,
                old,
                plugin,
                request,
                abilities,
                revived,
                heal,
            } => {
                self.parked.retain(|number| number != generation);
                self.next_generation = self.next_generation.max(generation + 1);
                let generation_state = GenState {
                    release: release.clone(),
                    captured: values.clone(),
                    plugin: plugin.clone(),
                    attempt: entry.seq,
                    commit,
                    launched: *revived,
                    fingerprint: String::new(),
                    since: entry.t,
                    size: 0,
                    abilities: abilities.clone(),
                };
                self.generations.insert(*generation, generation_state);
                self.attempt = Some(AttemptState {
                    id: entry.seq,
                    request: *request,
                    release: release.clone(),
                    captured: values.clone(),
                    generation: *generation,
                    old: *old,
                    began: entry.t,
                    launch_t: entry.t,
                    launched: false,
                    weight: 0,
                    weight_t: entry.t,
                    passed: None,
                    judged: None,
                    undo: None,
                    explained: false,
                    abilities: abilities.clone(),
                    revived: *revived,
                    heal: *heal,
                });
                self.enter(PhaseName::Preparing, entry.t);
            }
            AttemptChange::Phase { to, .. } => {
                if *to == PhaseName::Launching
                    && let Some(attempt) = &mut self.attempt
                {
                    attempt.launch_t = entry.t;
                }
                if *to == PhaseName::Baking
                    && let Some(attempt) = &mut self.attempt
                {
                    attempt.passed = None;
                }
                if matches!(to, PhaseName::Absent) {
                    // The tombstone: numbers are never reused.
                    self.generations.clear();
                    self.parked.clear();
                    self.current = None;
                    self.drift = None;
                }
                self.enter(*to, entry.t);
            }
            AttemptChange::Undo {
                outcome,
                reason,
                message,
            } => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.undo = Some((*outcome, reason.clone(), message.clone()));
                }
                self.enter(PhaseName::Undoing, entry.t);
            }
            AttemptChange::Reached { weight } => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.weight = *weight;
                    attempt.weight_t = entry.t;
                    attempt.passed = None;
                }
            }
            AttemptChange::Passed { weight } => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.passed = Some(*weight);
                }
            }
            AttemptChange::Fingerprint { fingerprint } => {
                if let Some(generation) = entry.on.generation.and_then(|number| self.generations.get_mut(&number)) {
                    generation.fingerprint = fingerprint.clone();
                }
            }
            AttemptChange::Ended {
                outcome,
                reason,
                message,
                parked,
            } => {
                let Some(attempt) = self.attempt.take() else { return };
                self.parked = parked.clone();
                self.drift = None;
                if *outcome == AttemptOutcome::Succeeded {
                    let proof = (attempt.release.clone(), attempt.captured.clone());
                    self.proven.retain(|known| *known != proof);
                    self.proven.push(proof);
                    if self.proven.len() > UNIT_PROVEN_KEPT {
                        self.proven.remove(0);
                    }
                    self.current = Some(attempt.generation);
                    self.generations
                        .retain(|number, _| *number == attempt.generation || parked.contains(number));
                } else {
                    self.generations.remove(&attempt.generation);
                }
                self.last = Some(LastAttempt {
                    id: attempt.id,
                    request: attempt.request,
                    release: attempt.release,
                    captured: attempt.captured,
                    outcome: *outcome,
                    reason: reason.clone(),
                    message: message.clone(),
                    t: entry.t,
                    seq: entry.seq,
                });
                self.faults = 0;
                self.last_fault = None;
                self.enter(
                    if self.current.is_some() {
                        PhaseName::Stable
                    } else {
                        PhaseName::Absent
                    },
                    entry.t,
                );
            }
        }
    }

    fn fold_result(&mut self, entry: &Entry, outcome: &Outcome) {
        let Some(intent) = self.intent.as_mut().filter(|intent| intent.seq == outcome.intent) else {
            return;
        };
        self.last_result = entry.seq;
        if let Some(class) = outcome.class {
            intent.tries += 1;
            intent.last_t = entry.t;
            intent.last_fault = Some((class, outcome.message.clone()));
            self.last_fault = intent.last_fault.clone();
            self.last_fault_t = entry.t;
            if outcome.closed {
                self.faults += 1;
            }
        } else {
            self.faults = 0;
            self.last_fault = None;
            let made = match &intent.verb {
                Verb::Launch { generation, .. } | Verb::Scale { generation, .. } => Some(*generation),
                // What is not staged comes to be by its route.
                Verb::Route { lead, .. } => Some(*lead),
                Verb::Retire { .. } | Verb::Run { .. } => None,
            };
            if let Some(attempt) = self
                .attempt
                .as_mut()
                .filter(|attempt| Some(attempt.generation) == made && !attempt.launched)
            {
                (attempt.launched, attempt.launch_t) = (true, entry.t);
            }
        }
        if outcome.closed {
            self.intent = None;
        }
    }

    fn enter(&mut self, phase: PhaseName, t: Millis) {
        self.phase = phase;
        self.phase_t = t;
    }
}

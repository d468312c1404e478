//! What the log says, folded for the oracles: plainer than State, and written without looking at it.

use holdfast_core::entry::*;
use holdfast_core::ids::{Digest, GenNumber, Millis, ReleaseId, Seq, WorkloadId};
use holdfast_core::spec::{TargetSpec, WorkloadSpec};
use holdfast_core::state::job_key;
use holdfast_core::target::{Abilities, FaultClass, Verb};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Facts {
    pub workloads: BTreeMap<WorkloadId, WorkloadFacts>,
    pub targets: BTreeMap<String, TargetFacts>,
    pub heals_allowed: Millis,
}

#[derive(Default)]
pub struct TargetFacts {
    pub spec: Option<TargetSpec>,
    pub present: bool,
    pub frozen: bool,
}

#[derive(Default)]
pub struct WorkloadFacts {
    pub spec: Option<WorkloadSpec>,
    pub spec_seq: Seq,
    pub presence: Option<Presence>,
    pub commit: String,
    pub pins: BTreeMap<String, Digest>,
    pub repins: BTreeSet<String>,
    pub quarantine: BTreeMap<ReleaseId, Vec<(u32, Option<Digest>)>>,
    pub request: Option<RequestFacts>,
    pub proven: BTreeSet<ReleaseId>,
    pub frozen: bool,
    /// Weights that somebody let pass without waiting.
    pub advanced: Seq,
    pub held: BTreeSet<String>,
    /// By release and key.
    pub jobs: BTreeMap<(ReleaseId, String), JobFacts>,
    pub units: BTreeMap<String, UnitFacts>,
}

pub struct JobFacts {
    pub target: String,
    /// The manifest's `attempt` number when it was begun.
    pub attempt: u32,
    pub ended: Option<JobEnd>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum JobEnd {
    Done,
    Failed,
    Lost,
}

pub struct RequestFacts {
    pub id: Seq,
    pub release: ReleaseId,
    pub attempt: u32,
    pub state: RolloutState,
    pub wave: u32,
    pub since: Millis,
    pub approvals: BTreeMap<u32, BTreeSet<String>>,
}

#[derive(Default)]
pub struct UnitFacts {
    pub open: Option<(Seq, Verb)>,
    pub last_result: Seq,
    /// Why the last verb was not done, if it was not.
    pub last_fault: Option<FaultClass>,
    pub generations: BTreeMap<GenNumber, GenFacts>,
    /// The highest number ever given.
    pub highest: GenNumber,
    pub current: Option<GenNumber>,
    pub parked: Vec<GenNumber>,
    pub attempt: Option<AttemptFacts>,
    pub phase: Option<PhaseName>,
    pub phase_t: Millis,
    pub heals: Vec<Millis>,
    /// What was proven here, with the target's captured values.
    pub proven: BTreeSet<(ReleaseId, Digest)>,
    pub last_outcome: Option<(AttemptOutcome, Seq)>,
}

#[derive(Clone)]
pub struct GenFacts {
    pub release: ReleaseId,
    pub captured: Digest,
    /// It passed a health verdict once.
    pub healthy: bool,
}

pub struct AttemptFacts {
    pub seq: Seq,
    pub release: ReleaseId,
    pub captured: Digest,
    /// It was proven here before.
    pub known: bool,
    pub generation: GenNumber,
    pub old: Option<GenNumber>,
    pub weight: u32,
    pub reached: (Seq, Millis),
    pub passed: Option<u32>,
    pub heal: bool,
    pub can: Abilities,
    /// The old generation was parked: there is nothing to share traffic with.
    pub alone: bool,
    /// When what makes the generation was done first.
    pub made_t: Option<Millis>,
}

impl Facts {
    pub fn unit(&self, workload: &WorkloadId, target: &str) -> Option<&UnitFacts> {
        self.workloads.get(workload)?.units.get(target)
    }

    /// Targets that the manifest places a workload on, in name order.
    pub fn placed<'a>(&'a self, workload: &'a WorkloadFacts) -> Vec<&'a str> {
        let Some(spec) = workload.spec.as_ref().filter(|_| workload.presence != Some(Presence::Absent)) else {
            return Vec::new();
        };
        let present = self.targets.iter().filter(|(_, target)| target.present);
        present
            .filter(|(name, target)| {
                let labels = target.spec.as_ref().map(|spec| &spec.labels);
                labels.is_some_and(|labels| spec.placement.includes(name, labels))
            })
            .map(|(name, _)| name.as_str())
            .collect()
    }

    pub fn fold(&mut self, entry: &Entry) {
        match (&entry.body, &entry.on.workload, &entry.on.target) {
            (Body::Source(source), _, _) => {
                for unit in &source.held {
                    let workload = self.workloads.entry(unit.workload.clone()).or_default();
                    workload.held.insert(unit.target.clone());
                }
            }
            (Body::Spec(spec), workload, target) => self.fold_spec(entry, spec, workload.as_ref(), target.as_deref()),
            (Body::Command(command), workload, target) => {
                self.fold_command(entry, &command.verb, workload.as_ref(), target.as_deref());
            }
            (_, Some(workload), _) => self.workloads.entry(workload.clone()).or_default().fold(entry),
            _ => {}
        }
    }

    fn fold_spec(&mut self, entry: &Entry, spec: &Spec, workload: Option<&WorkloadId>, target: Option<&str>) {
        match (&spec.object, workload, target) {
            (SpecObject::Workload { presence, spec: content }, Some(id), _) => {
                let workload = self.workloads.entry(id.clone()).or_default();
                workload.presence = Some(*presence);
                if let Some(content) = content {
                    workload.spec = Some(content.clone());
                    workload.spec_seq = entry.seq;
                    workload.commit = spec.commit.clone();
                    workload.held.clear();
                }
            }
            (SpecObject::Target { presence, spec: content }, _, Some(name)) => {
                let target = self.targets.entry(name.to_owned()).or_default();
                target.present = *presence != Presence::Absent;
                if let Some(content) = content {
                    target.spec = Some(content.clone());
                }
            }
            _ => {}
        }
    }

    fn fold_command(&mut self, entry: &Entry, verb: &CommandVerb, workload: Option<&WorkloadId>, target: Option<&str>) {
        match (verb, workload, target) {
            (CommandVerb::Freeze | CommandVerb::Thaw, None, Some(name)) => {
                self.targets.entry(name.to_owned()).or_default().frozen = *verb == CommandVerb::Freeze;
            }
            (CommandVerb::AllowHeals, _, _) => self.heals_allowed = entry.t,
            (CommandVerb::AllowRemovals { workloads }, _, _) => {
                for id in workloads {
                    self.workloads.entry(id.clone()).or_default().held.clear();
                }
            }
            (_, Some(id), _) => self.workloads.entry(id.clone()).or_default().fold_command(entry, verb),
            _ => {}
        }
    }
}

impl WorkloadFacts {
    /// Whether a quarantine keeps this release out under this `attempt` number.
    pub fn keeps_out(&self, release: &ReleaseId, captured: &Digest, attempt: u32) -> bool {
        let all = self.quarantine.get(release);
        all.is_some_and(|all| {
            all.iter()
                .any(|(set, values)| *set >= attempt && values.as_ref().is_none_or(|values| values == captured))
        })
    }

    pub fn attempt_number(&self) -> u32 {
        self.request.as_ref().map_or(1, |request| request.attempt)
    }

    fn fold_command(&mut self, entry: &Entry, verb: &CommandVerb) {
        match verb {
            CommandVerb::Freeze => self.frozen = true,
            CommandVerb::Thaw => self.frozen = false,
            CommandVerb::Advance => {
                self.advanced = entry.seq;
                for attempt in self.units.values_mut().filter_map(|unit| unit.attempt.as_mut()) {
                    attempt.passed = Some(attempt.weight);
                }
            }
            CommandVerb::Repin { reference } => {
                self.repins.insert(reference.clone());
            }
            CommandVerb::Retry => {
                self.units.values_mut().for_each(|unit| unit.heals.clear());
                self.jobs.retain(|_, job| matches!(job.ended, None | Some(JobEnd::Done)));
            }
            CommandVerb::Approve {
                rollout,
                release,
                step,
                approver,
            } => {
                let meant = self
                    .request
                    .as_mut()
                    .filter(|request| request.id == *rollout && request.release == *release);
                if let Some(request) = meant {
                    request.approvals.entry(*step).or_default().insert(approver.clone());
                }
            }
            _ => {}
        }
    }

    fn fold(&mut self, entry: &Entry) {
        match &entry.body {
            Body::Pin(pin) => {
                self.repins.remove(&pin.reference);
                self.pins.insert(pin.reference.clone(), pin.digest.clone());
            }
            Body::Quarantine(quarantine) => match quarantine.action {
                QuarantineAction::Set => {
                    self.proven.remove(&quarantine.release);
                    for unit in self.units.values_mut() {
                        unit.proven.retain(|(release, captured)| {
                            *release != quarantine.release || quarantine.values.as_ref().is_some_and(|values| values != captured)
                        });
                    }
                    let all = self.quarantine.entry(quarantine.release.clone()).or_default();
                    all.push((quarantine.attempt, quarantine.values.clone()));
                }
                QuarantineAction::Lift => {
                    self.quarantine.remove(&quarantine.release);
                }
            },
            Body::Rollout(change) => self.fold_rollout(entry, change),
            _ => {
                if let Some(target) = entry.on.target.clone() {
                    self.fold_job(entry, &target);
                    self.units.entry(target).or_default().fold(entry);
                }
            }
        }
    }

    fn fold_rollout(&mut self, entry: &Entry, change: &RolloutChange) {
        let Some(id) = entry.on.rollout else { return };
        let attempt = self.spec.as_ref().map_or(1, |spec| spec.attempt);
        match self.request.as_mut().filter(|request| request.id == id) {
            Some(request) => {
                (request.state, request.since) = (change.to, entry.t);
                if matches!(change.to, RolloutState::Rolling | RolloutState::Holding) {
                    request.wave = change.wave;
                }
            }
            None => {
                self.request = Some(RequestFacts {
                    id,
                    release: change.release.clone(),
                    attempt,
                    state: change.to,
                    wave: change.wave,
                    since: entry.t,
                    approvals: BTreeMap::new(),
                });
            }
        }
        if change.to == RolloutState::Succeeded {
            self.proven.insert(change.release.clone());
        }
    }

    fn fold_job(&mut self, entry: &Entry, target: &str) {
        let attempt = self.attempt_number();
        let Some(unit) = self.units.get(target) else { return };
        let (verb, outcome) = match &entry.body {
            Body::Intent(intent) => (&intent.verb, None),
            Body::Result(outcome) if outcome.closed => match &unit.open {
                Some((seq, verb)) if *seq == outcome.intent => (verb, Some(outcome.class)),
                _ => return,
            },
            _ => return,
        };
        let Some(key) = unit.job(verb, target) else { return };
        let ended = match outcome {
            None => None,
            Some(None) => Some(JobEnd::Done),
            Some(Some(FaultClass::Failed)) => Some(JobEnd::Failed),
            Some(Some(FaultClass::Absent)) => Some(JobEnd::Lost),
            // It was refused, and never began.
            Some(Some(_)) => {
                self.jobs.remove(&key);
                return;
            }
        };
        let target = target.to_owned();
        self.jobs.insert(key, JobFacts { target, attempt, ended });
    }
}

impl UnitFacts {
    /// The release and key of the job that a verb runs.
    pub fn job(&self, verb: &Verb, target: &str) -> Option<(ReleaseId, String)> {
        let Verb::Run {
            generation,
            job,
            hook,
            scope,
            ..
        } = verb
        else {
            return None;
        };
        let release = self.generations.get(generation)?.release.clone();
        Some((release, job_key(*hook, job, *scope, target)))
    }

    fn fold(&mut self, entry: &Entry) {
        match &entry.body {
            Body::Intent(intent) => {
                self.open = Some((entry.seq, intent.verb.clone()));
                if let (Verb::Scale { generation, size: 0 }, Some(attempt)) = (&intent.verb, &mut self.attempt) {
                    attempt.alone |= Some(*generation) == attempt.old;
                }
            }
            Body::Result(outcome) => {
                self.last_result = entry.seq;
                self.last_fault = outcome.class;
                if let (None, Some((_, verb)), Some(attempt)) = (outcome.class, &self.open, &mut self.attempt) {
                    let made = match verb {
                        Verb::Launch { generation, .. } | Verb::Scale { generation, .. } => Some(*generation),
                        Verb::Route { lead, .. } => Some(*lead),
                        Verb::Retire { .. } | Verb::Run { .. } => None,
                    };
                    if made == Some(attempt.generation) {
                        attempt.made_t.get_or_insert(entry.t);
                    }
                }
                if outcome.closed {
                    self.open = None;
                }
            }
            Body::Verdict(verdict) if verdict.about == "health" && verdict.outcome == VerdictOutcome::Pass => {
                let candidate = self.attempt.as_ref().map(|attempt| attempt.generation);
                if let Some(generation) = candidate.and_then(|number| self.generations.get_mut(&number)) {
                    generation.healthy = true;
                }
            }
            Body::Attempt(change) => self.fold_attempt(entry, change),
            _ => {}
        }
    }

    fn fold_attempt(&mut self, entry: &Entry, change: &AttemptChange) {
        match change {
            AttemptChange::Began {
                release,
                values,
                generation,
                old,
                heal,
                revived,
                abilities,
                ..
            } => {
                self.highest = self.highest.max(*generation);
                if *heal {
                    self.heals.push(entry.t);
                }
                let known = self.generations.get(generation).filter(|_| *revived);
                let healthy = known.is_some_and(|generation| generation.healthy);
                let facts = GenFacts {
                    release: release.clone(),
                    captured: values.clone(),
                    healthy,
                };
                self.generations.insert(*generation, facts);
                self.parked.retain(|number| number != generation);
                self.attempt = Some(AttemptFacts {
                    seq: entry.seq,
                    release: release.clone(),
                    captured: values.clone(),
                    known: self.proven.contains(&(release.clone(), values.clone())),
                    generation: *generation,
                    old: *old,
                    weight: 0,
                    reached: (entry.seq, entry.t),
                    passed: None,
                    heal: *heal,
                    can: abilities.clone().unwrap_or_default(),
                    alone: false,
                    made_t: None,
                });
                self.enter(PhaseName::Preparing, entry.t);
            }
            AttemptChange::Phase { to, .. } => {
                self.enter(*to, entry.t);
                if *to == PhaseName::Absent {
                    self.current = None;
                    self.parked.clear();
                }
            }
            AttemptChange::Undo { .. } => self.enter(PhaseName::Undoing, entry.t),
            AttemptChange::Reached { weight } => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.weight = *weight;
                    attempt.reached = (entry.seq, entry.t);
                    attempt.passed = None;
                }
            }
            AttemptChange::Passed { weight } => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.passed = Some(*weight);
                }
            }
            AttemptChange::Ended { outcome, parked, .. } => {
                self.last_outcome = Some((*outcome, entry.seq));
                self.parked = parked.clone();
                let Some(attempt) = self.attempt.take() else { return };
                if *outcome == AttemptOutcome::Succeeded {
                    self.proven.insert((attempt.release.clone(), attempt.captured.clone()));
                    self.current = Some(attempt.generation);
                }
                let phase = if self.current.is_some() {
                    PhaseName::Stable
                } else {
                    PhaseName::Absent
                };
                self.enter(phase, entry.t);
            }
            AttemptChange::Fingerprint { .. } => {}
        }
    }

    fn enter(&mut self, phase: PhaseName, t: Millis) {
        (self.phase, self.phase_t) = (Some(phase), t);
    }
}

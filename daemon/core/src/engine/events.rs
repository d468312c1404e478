//! What the world answered, turned into facts and entries.

use super::*;
use crate::plan::facts::{CallFacts, Check, Health, Probe, Seen};
use crate::plan::health::{Judgement, interrupt, judge, update};
use crate::plan::rollout::Candidate;
use crate::plan::select::pin_draft;
use crate::plan::{analysis, backoff_ms};
use crate::spec::{AnalysisSource, WorkloadSpec};
use crate::state::{Claim, WorkloadState};
use crate::target::{FaultClass, GenPhase};
use serde_json::json;
use std::sync::Arc;

/// Failed observations in a row before it is written down that a target is away.
const UNREACHABLE_AFTER: u32 = 3;
/// Answers of unknown effect to one intent before it is closed and superseded by another verb.
const TRIES_PER_INTENT: u32 = 5;
const SENT_KEPT: usize = 20;
/// Sentences from the world are cut to this.
const MESSAGE_MAX_BYTES: usize = 2_000;
/// Log excerpts kept in a diagnosis.
const EXCERPT_MAX_BYTES: usize = 4_000;

impl Engine {
    pub(super) fn take(&mut self, input: Input) {
        match input {
            Input::Boot(term) => {
                self.append(Draft::new(On::default(), Vec::new(), Body::Term(term)), By::daemon());
                let units: BTreeSet<TargetName> = self.state.workloads.values().flat_map(|w| w.units.keys().cloned()).collect();
                for target in units {
                    self.set_look(&target, self.now.t);
                }
                let open: Vec<(WorkloadId, TargetName)> = self
                    .state
                    .workloads
                    .iter()
                    .flat_map(|(id, workload)| workload.units.iter().map(move |(target, unit)| (id, target, unit)))
                    .filter(|(_, _, unit)| unit.intent.is_some())
                    .map(|(id, target, _)| (id.clone(), target.clone()))
                    .collect();
                open.iter().for_each(|(id, target)| self.wait_out(id, target));
            }
            Input::Revision(revision) => self.take_revision(*revision),
            Input::Durable { size } => self.take_durable(size),
            Input::Pinned {
                workload,
                reference,
                outcome,
            } => self.take_pinned(workload, reference, outcome),
            Input::Observed { target, begun, outcome } => self.take_observed(target, begun, outcome),
            Input::Checked {
                workload,
                target,
                key,
                outcome,
            } => {
                self.asked.remove(&(2, workload.to_string(), target.clone()));
                let t = self.now.t;
                let known = &mut self.unit_facts_mut(&workload, &target).check;
                let before = known.as_ref().filter(|known| known.key == key).map_or(0, |known| known.tries);
                let tries = if outcome.is_err() { before + 1 } else { 0 };
                *known = Some(Check {
                    key,
                    answer: outcome,
                    t,
                    tries,
                });
                self.schedule.mark_rollout(&workload);
            }
            Input::Probed {
                workload,
                target,
                generation,
                failure,
                asked,
            } => {
                self.asked.remove(&of_generation(3, &workload, &target, generation));
                let failure = failure.map(|failure| clip(&failure, MESSAGE_MAX_BYTES));
                let probe = Probe {
                    generation,
                    t: self.now.t,
                    failure,
                    asked,
                };
                self.unit_facts_mut(&workload, &target).probe = Some(probe);
                self.judge(&workload, &target);
                self.schedule.mark_unit(&workload, &target);
            }
            Input::Measured {
                workload,
                target,
                samples,
                answers,
            } => self.take_measured(workload, target, samples, answers),
            Input::Roomed {
                workload,
                target,
                generation,
                room,
            } => {
                self.asked.remove(&of_generation(6, &workload, &target, generation));
                // A target that fails to tell is tried, as one that cannot tell.
                let room = Room {
                    generation,
                    room: room.unwrap_or(None),
                    t: self.now.t,
                };
                self.unit_facts_mut(&workload, &target).room = Some(room);
                self.schedule.mark_unit(&workload, &target);
            }
            Input::Diffed {
                workload,
                target,
                generation,
                changes,
            } => self.take_diffed(workload, target, generation, changes),
            Input::Tagged {
                workload,
                repository,
                outcome,
            } => self.take_tags(workload, repository, outcome),
            Input::PullChecked {
                workload,
                release,
                outcome,
            } => {
                self.asked.remove(&(9, workload.to_string(), release.to_string()));
                let facts = PullFacts {
                    release,
                    outcome: outcome.map_err(|message| clip(&message, MESSAGE_MAX_BYTES)),
                    t: self.now.t,
                };
                self.pullable.insert(workload.clone(), facts);
                self.schedule.mark_rollout(&workload);
            }
            Input::Explained {
                workload,
                target,
                generation,
                excerpts,
            } => self.take_explained(workload, target, generation, excerpts),
            Input::Images { blob, accepted } => {
                self.images_asked.remove(&blob);
                self.images.insert(blob, accepted);
                let workloads: Vec<_> = self.state.workloads.keys().cloned().collect();
                for workload in workloads {
                    let targets: Vec<_> = self.state.workloads[&workload].units.keys().cloned().collect();
                    for target in targets {
                        self.judge(&workload, &target);
                    }
                    self.schedule.mark_all(&workload);
                }
            }
            Input::Called {
                workload,
                target,
                intent,
                outcome,
                sent,
            } => self.take_called(workload, target, intent, outcome, sent),
            Input::Command { token, request } => self.take_command(token, request),
            Input::PluginsSeen(plugins) => self.take_plugins(plugins),
            Input::Tick => {}
        }
    }

    /// Components are kept, so that what one launched can be routed and retired by it after an upgrade.
    fn take_plugins(&mut self, plugins: Vec<(PluginSeen, Vec<u8>)>) {
        for (plugin, component) in plugins {
            if self.state.plugins.contains_key(&plugin.digest) {
                continue;
            }
            self.blobs.insert(plugin.digest.clone(), component);
            let mut draft = Draft::new(On::default(), Vec::new(), Body::Plugin(plugin.clone()));
            draft.blobs.insert("component".into(), plugin.digest);
            self.append(draft, By::daemon());
        }
    }

    fn take_durable(&mut self, size: Seq) {
        self.durable = self.durable.max(size);
        while let Some(entry) = self.held_calls.first_entry() {
            if *entry.key() >= self.durable {
                break;
            }
            self.out.push(Output::Call(Durable(entry.remove())));
        }
        let asks = self.held_asks.extract_if(.., |(size, _)| *size <= self.durable);
        self.out.extend(asks.map(|(_, ask)| Output::Ask(ask)));
        let (ready, held) = std::mem::take(&mut self.held_replies)
            .into_iter()
            .partition(|(seq, _, _)| *seq < self.durable);
        self.held_replies = held;
        let ready: Vec<(Seq, Token, CommandReply)> = ready;
        self.out.extend(
            ready
                .into_iter()
                .map(|(_, token, reply)| Output::Reply { token, reply: Ok(reply) }),
        );
    }

    fn take_pinned(&mut self, workload: WorkloadId, reference: String, outcome: Result<Resolved, PinFailure>) {
        self.asked.remove(&(1, workload.to_string(), reference.clone()));
        let now = self.now.t;
        let poll_ms = self.config.tag_poll_ms;
        let facts = self
            .pins
            .entry(workload.clone())
            .or_default()
            .entry(reference.clone())
            .or_default();
        facts.asked = false;
        match outcome {
            Err(failure) => {
                facts.tries += 1;
                facts.failure = Some(clip(&failure.message, MESSAGE_MAX_BYTES));
                facts.again_at = now + failure.retry_after_ms.unwrap_or(0).max(backoff_ms(facts.tries));
            }
            Ok(resolved) => {
                *facts = PinFacts {
                    again_at: now + poll_ms,
                    since: facts.since,
                    candidate: facts.candidate.take(),
                    ..PinFacts::default()
                };
                self.observe_tag(&reference, &resolved.digest);
                self.record_pin(&workload, reference, resolved);
            }
        }
        self.schedule.mark_rollout(&workload);
    }

    /// A reference is pinned once. Afterwards, another digest under the same text is an event and nothing more, unless a
    /// command wants it resolved anew. What only a selector looks into is kept as a candidate.
    fn record_pin(&mut self, workload: &WorkloadId, reference: String, resolved: Resolved) {
        let Some(state) = self.state.workloads.get(workload) else {
            return;
        };
        let is_wanted = |spec: &WorkloadSpec| {
            spec.artifacts
                .keys()
                .any(|name| state.reference(name).as_ref() == Some(&reference))
        };
        let repin = state.repins.get(&reference).copied();
        let known = state.pins.get(&reference);
        let unchanged = known.is_some_and(|pin| pin.digest == resolved.digest);
        match (known, repin) {
            (None, _) if !state.spec.as_ref().is_some_and(is_wanted) => self.keep_candidate(workload, reference, resolved),
            (None, cause) => self.pin(workload, cause.unwrap_or(state.spec_seq), reference, resolved),
            // Looked at anew and the same: the pin is confirmed by an entry of its own, with what is known of it.
            (Some(pin), Some(cause)) if unchanged => {
                let body = Pin {
                    reference,
                    digest: pin.digest.clone(),
                    source: pin.source.clone(),
                    evidence: resolved.evidence,
                };
                let mut draft = Draft::new(On::workload(workload), vec![cause, pin.seq], Body::Pin(body));
                draft
                    .blobs
                    .extend(pin.images.clone().map(|images| ("images".to_owned(), images)));
                self.append(draft, By::daemon());
            }
            (Some(_), Some(cause)) => self.pin(workload, cause, reference, resolved),
            (Some(pin), None) => {
                let shown = pin.moved_to.as_ref().unwrap_or(&pin.digest);
                if *shown != resolved.digest {
                    let body = TagMoved {
                        reference,
                        pinned: pin.digest.clone(),
                        seen: resolved.digest,
                        evidence: resolved.evidence,
                    };
                    let because = vec![pin.seq];
                    self.append(
                        Draft::new(On::workload(workload), because, Body::TagMoved(body)),
                        By::daemon(),
                    );
                }
            }
        }
    }

    fn pin(&mut self, workload: &WorkloadId, because: Seq, reference: String, resolved: Resolved) {
        let (draft, blobs) = pin_draft(workload, because, reference, &resolved);
        self.images.insert(Digest::of(&resolved.images), resolved.accepted);
        self.blobs.extend(blobs);
        self.append(draft, By::daemon());
    }

    /// Since when a selector's candidate points at what it points at.
    fn keep_candidate(&mut self, workload: &WorkloadId, reference: String, resolved: Resolved) {
        let now = self.now.t;
        let facts = self.pins.entry(workload.clone()).or_default().entry(reference).or_default();
        let same = facts
            .candidate
            .as_ref()
            .filter(|known| known.resolved.digest == resolved.digest)
            .map(|known| known.since);
        facts.candidate = Some(Candidate {
            resolved: Arc::new(resolved),
            since: same.unwrap_or(now),
            seen: now,
        });
    }

    /// Looks at the tags of the present manifest again, so that a move is known. Never changes a pin.
    pub(super) fn poll_tags(&mut self, id: &WorkloadId) -> Option<Millis> {
        let workload = self
            .state
            .workloads
            .get(id)
            .filter(|workload| workload.presence == Some(Presence::Present))?;
        let references: Vec<String> = workload
            .spec
            .as_ref()?
            .artifacts
            .keys()
            .filter_map(|name| workload.reference(name))
            .filter(|reference| !reference.contains("@sha256:") && workload.pins.contains_key(reference))
            .collect();
        let mut next = None;
        for reference in references {
            let poll_ms = self.config.tag_poll_ms;
            let now = self.now.t;
            let facts = self.pins.entry(id.clone()).or_default().entry(reference.clone()).or_default();
            if facts.again_at == 0 {
                facts.again_at = now + poll_ms;
            }
            if facts.asked {
                continue;
            }
            if facts.again_at <= now {
                self.ask(Ask::Pin {
                    workload: id.clone(),
                    reference,
                });
            } else {
                next = earliest(next, Some(facts.again_at));
            }
        }
        next
    }

    fn take_observed(&mut self, target: TargetName, begun: Seq, outcome: Result<Page, Fault>) {
        self.asked.remove(&(0, String::new(), target.clone()));
        let now = self.now.t;
        let known = self
            .state
            .targets
            .get(&target)
            .is_some_and(|target| target.unreachable.is_some());
        let facts = self.targets.entry(target.clone()).or_default();
        match outcome {
            Err(fault) => {
                facts.failures += 1;
                let (failures, message) = (facts.failures, clip(&fault.message, MESSAGE_MAX_BYTES));
                facts.last_failure = Some(Fault {
                    message: message.clone(),
                    ..fault
                });
                self.look_done(&target, now + backoff_ms(failures));
                for units in self.units.values_mut() {
                    units
                        .get_mut(&target)
                        .into_iter()
                        .for_each(|facts| interrupt(&mut facts.health));
                }
                if failures >= UNREACHABLE_AFTER && !known {
                    self.target_entry(&target, TargetChange::Unreachable { message });
                    self.mark_on_target(&target, |_| true);
                }
            }
            Ok(page) => {
                let returned = facts.failures > 0;
                facts.failures = 0;
                facts.last_failure = None;
                facts.looked = Some((begun, facts.asked_t, now));
                let (owner, high_fence) = (page.owner.clone(), highest_fence(&page));
                let before = std::mem::replace(&mut facts.seen, Seen::by_workload(page));
                self.look_done(&target, now + IDLE_LOOK_MS);
                if known {
                    self.target_entry(&target, TargetChange::Reachable);
                }
                let change = self.claim_change(&target, owner, high_fence);
                let all = returned || change.is_some();
                if let Some(change) = change {
                    self.target_entry(&target, change);
                }
                let facts = &self.targets[&target];
                let changed: BTreeSet<String> = facts
                    .seen
                    .iter()
                    .filter(|(workload, seen)| before.get(*workload) != Some(*seen))
                    .map(|(workload, _)| workload.clone())
                    .chain(before.keys().filter(|workload| !facts.seen.contains_key(*workload)).cloned())
                    .collect();
                // A unit at rest whose slice is as it was has nothing to decide.
                self.mark_on_target(&target, |workload| all || changed.contains(workload.as_str()));
            }
        }
        if known != (self.targets[&target].failures >= UNREACHABLE_AFTER) {
            let here: Vec<WorkloadId> = self.on_target.get(&target).into_iter().flatten().cloned().collect();
            here.iter().for_each(|id| self.schedule.mark_rollout(id));
        }
    }

    /// Judges and plans the units of a target that are not at rest, and those that `also` names.
    fn mark_on_target(&mut self, target: &TargetName, also: impl Fn(&WorkloadId) -> bool) {
        let here: Vec<WorkloadId> = self.on_target.get(target).into_iter().flatten().cloned().collect();
        for id in here {
            let Some(unit) = self.state.unit(&id, target) else { continue };
            let facts = self.unit_facts(&id, target);
            let at_rest = unit.attempt.is_none()
                && unit.intent.is_none()
                && unit.drift.is_none()
                && matches!(unit.phase, PhaseName::Stable | PhaseName::Absent)
                && facts.is_some_and(|facts| facts.short_since.is_none() && facts.settled)
                // Whoever waits may have waited for this look.
                && self.schedule.waiting(&id, Some(target)).is_none();
            if !at_rest || also(&id) {
                self.judge(&id, target);
                self.unit_facts_mut(&id, target).settled = true;
                self.schedule.mark_unit(&id, target);
            }
        }
    }

    fn claim_change(&self, target: &str, owner: Option<String>, high_fence: u64) -> Option<TargetChange> {
        let claim = self
            .state
            .targets
            .get(target)
            .map(|target| target.claim.clone())
            .unwrap_or_default();
        let seen = match owner {
            Some(owner) if owner != self.state.owner => Claim::Conflict(owner),
            _ if self.is_not_ours(target, high_fence) => Claim::Ahead(high_fence),
            _ => Claim::Ours,
        };
        // Once seen, an old copy stays one until an operator opens a new epoch: its own growth proves nothing.
        if seen == claim || (matches!(claim, Claim::Ahead(_)) && seen == Claim::Ours) {
            return None;
        }
        match seen {
            Claim::Conflict(owner) => Some(TargetChange::Conflict { owner }),
            Claim::Ahead(fence) => Some(TargetChange::Ahead { fence }),
            Claim::Ours | Claim::Unseen => Some(TargetChange::Claimed),
        }
    }

    /// A fence that this ledger did not have when this run began, and that no intent of this run has on that target.
    fn is_not_ours(&self, target: &str, fence: u64) -> bool {
        let intended = self.targets.get(target).and_then(|facts| facts.intended);
        fence >= self.state.fence(self.size_at_boot.max(intended.map_or(0, |seq| seq + 1)))
    }

    fn target_entry(&mut self, target: &TargetName, change: TargetChange) {
        let on = On {
            target: Some(target.clone()),
            ..On::default()
        };
        let because = self.state.targets.get(target).map(|target| target.seq).into_iter().collect();
        self.append(Draft::new(on, because, Body::Target(change)), By::daemon());
    }

    /// Folds the newest look and probe into what is known of a unit's candidate, or of what serves.
    fn judge(&mut self, workload: &WorkloadId, target: &TargetName) {
        let Some(context) = self.unit_context(workload, target) else {
            return;
        };
        let (Some(look), Some(spec)) = (context.look.clone(), context.workload.spec.as_ref()) else {
            return;
        };
        let unit = context.unit;
        let candidate = unit.attempt.as_ref().filter(|_| unit.phase == PhaseName::Retiring);
        let serves = candidate.map(|attempt| attempt.generation).or(unit.current);
        let serves = serves.and_then(|number| look.seen.generation(number));
        let is_short = serves.is_some_and(|state| match state.wanted {
            Some(wanted) => state.ready < wanted,
            None => matches!(state.phase, GenPhase::Starting | GenPhase::Partial),
        });
        if look.begun <= unit.last_result || unit.intent.is_some() {
            return;
        }
        let attempt = unit.attempt.as_ref().map(|attempt| attempt.generation);
        let Some(number) = attempt.or(unit.current) else { return };
        let Some(known) = unit.generations.get(&number) else { return };
        let seen = look.seen.generation(number);
        let (accepted, unknown) = self.accepted(context.workload, &known.release);
        let judgement = match (seen, &unknown) {
            (Some(_), Some(_)) => Judgement::Unknown {
                reason: "digests".into(),
                message: "loading the pin's digests".into(),
            },
            (Some(state), None) => judge(state, &accepted),
            (None, _) => Judgement::NotYet {
                started: false,
                reason: "not-seen".into(),
                message: "not on the target".into(),
            },
        };
        let (health_spec, now) = (spec.health.clone(), self.now.t);
        if let Some(blob) = unknown.filter(|_| seen.is_some())
            && self.images_asked.insert(blob.clone())
        {
            self.out.push(Output::LoadImages { blob });
        }
        let away = self.targets.get(target).is_some_and(|facts| facts.last_failure.is_some());
        let facts = self.unit_facts_mut(workload, target);
        facts.short_since = is_short.then(|| facts.short_since.unwrap_or(now));
        if attempt.is_none() {
            facts.wrong_digest = match judgement {
                Judgement::Stuck { reason, message } if reason == "wrong-digest" => Some(message),
                _ => None,
            };
            return;
        }
        // It was about what this attempt replaces.
        facts.wrong_digest = None;
        if facts.health.generation != number {
            facts.health = Health {
                generation: number,
                ..Health::default()
            };
            facts.analysis.clear();
            facts.measured_t = None;
        }
        // A failure counts while the target itself answers: as it did when the look was asked for that is older than the probe.
        let counts = |probe: &&Probe| probe.failure.is_none() || (!away && probe.t >= look.asked_t);
        let probe = facts.probe.as_ref().filter(|probe| probe.generation == number);
        let probe = probe.filter(counts).cloned();
        update(&mut facts.health, seen, &judgement, probe.as_ref(), &health_spec, now);
    }

    /// Per artifact of a release, every digest by which a target may name it; and a blob that is not loaded yet.
    fn accepted(&self, workload: &WorkloadState, release: &ReleaseId) -> (BTreeMap<String, BTreeSet<Digest>>, Option<Digest>) {
        let mut accepted = BTreeMap::new();
        let Some(known) = workload.releases.get(release) else {
            return (accepted, None);
        };
        let mut unknown = None;
        for (artifact, blob) in &known.images {
            match self.images.get(blob) {
                Some(digests) => {
                    let mut digests = digests.clone();
                    digests.extend(known.artifacts.get(artifact).cloned());
                    accepted.insert(artifact.clone(), digests);
                }
                None => unknown = Some(blob.clone()),
            }
        }
        (accepted, unknown)
    }

    fn take_tags(&mut self, workload: WorkloadId, repository: String, outcome: Result<Vec<String>, PinFailure>) {
        self.asked.remove(&(8, workload.to_string(), repository.clone()));
        let (now, poll_ms) = (self.now.t, self.config.tag_poll_ms);
        let facts = self.tags.entry(workload.clone()).or_default().entry(repository).or_default();
        facts.asked = false;
        match outcome {
            Ok(tags) => {
                *facts = TagsFacts {
                    again_at: now + poll_ms,
                    since: facts.since,
                    tags: Some(tags),
                    ..TagsFacts::default()
                };
            }
            Err(failure) => {
                facts.tries += 1;
                facts.failure = Some(clip(&failure.message, MESSAGE_MAX_BYTES));
                facts.again_at = now + failure.retry_after_ms.unwrap_or(0).max(backoff_ms(facts.tries));
            }
        }
        self.schedule.mark_rollout(&workload);
    }

    fn take_diffed(
        &mut self,
        workload: WorkloadId,
        target: TargetName,
        generation: GenNumber,
        changes: Result<Vec<Change>, Fault>,
    ) {
        self.asked.remove(&of_generation(7, &workload, &target, generation));
        let look = self.targets.get(&target).and_then(|facts| facts.look(workload.as_str()));
        let fingerprint = look
            .and_then(|look| Some(look.seen.generation(generation)?.fingerprint.clone()))
            .unwrap_or_default();
        let diff = Diff {
            generation,
            fingerprint,
            changes,
            t: self.now.t,
        };
        self.unit_facts_mut(&workload, &target).diff = Some(diff);
        self.schedule.mark_unit(&workload, &target);
    }

    fn take_measured(
        &mut self,
        workload: WorkloadId,
        target: TargetName,
        samples: Result<Samples, Fault>,
        answers: BTreeMap<String, Answers>,
    ) {
        self.asked.remove(&(4, workload.to_string(), target.clone()));
        let now = self.now.t;
        self.schedule.mark_unit(&workload, &target);
        let Some(state) = self.state.workloads.get(&workload) else {
            return;
        };
        let (Some(spec), Some(attempt)) = (&state.spec, state.units.get(&target).and_then(|unit| unit.attempt.as_ref())) else {
            return;
        };
        let facts = self.units.entry(workload).or_default().entry(target).or_default();
        facts.measured_t = Some(now);
        if samples
            .as_ref()
            .is_ok_and(|samples| samples.get(&attempt.generation).is_some_and(|all| !all.is_empty()))
        {
            facts.reported = Some(attempt.generation);
        }
        for one in &spec.analysis {
            let known = facts.analysis.entry(one.name.clone()).or_default();
            let (candidate, old) = (attempt.generation, attempt.old);
            match (&one.source, &samples) {
                (AnalysisSource::Target { .. }, Ok(samples)) => analysis::update(known, one, samples, candidate, old, now),
                (AnalysisSource::Target { .. }, Err(_)) => analysis::unmeasured(known, now),
                _ => {
                    if let Some(answers) = answers.get(&one.name) {
                        analysis::update_from(known, one, answers, candidate, old, now);
                    }
                }
            }
        }
    }

    fn take_explained(
        &mut self,
        workload: WorkloadId,
        target: TargetName,
        generation: GenNumber,
        excerpts: Result<Vec<Excerpt>, Fault>,
    ) {
        self.asked.remove(&of_generation(5, &workload, &target, generation));
        self.schedule.mark_unit(&workload, &target);
        let Some(attempt) = self.state.unit(&workload, &target).and_then(|unit| unit.attempt.as_ref()) else {
            return;
        };
        if attempt.generation != generation || attempt.explained {
            return;
        }
        let on = On {
            workload: Some(workload.clone()),
            target: Some(target.clone()),
            rollout: Some(attempt.request),
            attempt: Some(attempt.id),
            generation: Some(generation),
        };
        let because = vec![attempt.id];
        let (outcome, message, evidence) = match excerpts {
            Ok(excerpts) => {
                let shown: Vec<Value> = excerpts
                    .iter()
                    .take(8)
                    .map(|e| json!({ "instance": clip(&e.instance, 200), "source": clip(&e.source, 200), "text": clip_front(&e.text, EXCERPT_MAX_BYTES) }))
                    .collect();
                (
                    VerdictOutcome::Fail,
                    format!("{} excerpts", excerpts.len()),
                    json!({ "excerpts": shown }),
                )
            }
            Err(fault) => (
                VerdictOutcome::Unmeasured,
                clip(&fault.message, MESSAGE_MAX_BYTES),
                Value::Null,
            ),
        };
        let verdict = Verdict {
            about: "diagnosis".into(),
            outcome,
            reason: "explained".into(),
            message,
            evidence,
        };
        self.append(Draft::new(on, because, Body::Verdict(verdict)), By::daemon());
    }

    fn take_called(
        &mut self,
        workload: WorkloadId,
        target: TargetName,
        intent: Seq,
        outcome: Result<Progress, Fault>,
        sent: Vec<Sent>,
    ) {
        let now = self.now.t;
        self.schedule.mark_unit(&workload, &target);
        let facts = self.unit_facts_mut(&workload, &target);
        if facts.call.in_flight != Some(intent) {
            return;
        }
        let (route_repeats, routed_t) = (facts.call.route_repeats, facts.call.routed_t);
        let progress = facts.call.progress.clone();
        facts.call = CallFacts {
            route_repeats,
            routed_t,
            ..CallFacts::default()
        };
        if let Ok(Progress::Pending {
            resume,
            after_ms,
            message,
        }) = outcome
        {
            facts.call.again_at = Some(now + u64::from(after_ms).clamp(10, 60_000));
            facts.call.resume = Some(resume);
            facts.call.progress = clip(&message, MESSAGE_MAX_BYTES);
            return;
        }
        let Some(unit) = self.state.unit(&workload, &target) else {
            return;
        };
        let Some(open) = unit.intent.as_ref().filter(|open| open.seq == intent) else {
            return;
        };
        let is_job = matches!(open.verb, Verb::Run { .. });
        let sized = match open.verb {
            Verb::Scale { generation, .. } => Some(generation),
            _ => None,
        };
        let fault = outcome.err();
        let closed = match &fault {
            None => true,
            Some(fault) => match fault.class {
                // The effect is unknown: the same verb again, under the same fence.
                // Of a job only the target knows whether it ran: it is asked for ever.
                class if class.is_unknown() => open.tries + 1 >= TRIES_PER_INTENT && !is_job,
                _ => true,
            },
        };
        let on = On {
            workload: Some(workload.clone()),
            target: Some(target.clone()),
            rollout: unit.attempt.as_ref().map(|attempt| attempt.request),
            attempt: unit.attempt.as_ref().map(|attempt| attempt.id),
            generation: None,
        };
        if let Some(Fault {
            class: FaultClass::Fenced,
            fence: Some(fence),
            ..
        }) = &fault
            && self.is_not_ours(&target, *fence)
        {
            let fence = *fence;
            self.target_entry(&target, TargetChange::Ahead { fence });
        }
        let is_unknown = fault.as_ref().is_some_and(|fault| fault.class.is_unknown());
        let skipped = sent.len().saturating_sub(SENT_KEPT);
        let body = Outcome {
            intent,
            class: fault.as_ref().map(|fault| fault.class),
            // The last words of a job are its output.
            message: match fault {
                Some(fault) => clip(&fault.message, MESSAGE_MAX_BYTES),
                None if is_job => progress,
                None => String::new(),
            },
            closed,
            sent: sent
                .iter()
                .skip(skipped)
                .map(|s| clip(&format!("{} {} {}", s.method, s.path, s.status), 300))
                .collect(),
        };
        if is_unknown {
            self.wait_out(&workload, &target);
        }
        self.append(Draft::new(on, vec![intent], Body::Result(body)), By::daemon());
        // What the effect did is known only from a look that begins now.
        let facts = self.unit_facts_mut(&workload, &target);
        facts.short_since = None;
        if sized == Some(facts.health.generation) {
            facts.health.sized_t = now;
        }
        self.set_look(&target, now);
    }
}

fn highest_fence(page: &Page) -> u64 {
    let of_generations = page.generations.iter().map(|generation| generation.fence);
    let of_routes = page.routes.iter().map(|route| route.fence);
    of_generations.chain(of_routes).fold(page.high_fence, u64::max)
}

impl Engine {
    /// What the open intent's call did, or will do, is not known. A target that tells stale calls by their fences takes another
    /// one at once; elsewhere the deadline of a call has to pass first.
    fn wait_out(&mut self, id: &WorkloadId, target: &TargetName) {
        let guarded = self.state.unit(id, target).is_none_or(|unit| {
            let number = unit.intent.as_ref().map(|intent| intent.verb.generation());
            let generation = number.and_then(|number| unit.generations.get(&number));
            generation.is_none_or(|generation| generation.can().guarded)
        });
        if !guarded {
            self.unit_facts_mut(id, target).call.not_before = self.now.t + self.config.call_deadline_ms;
        }
    }
}

/// The first `max` bytes, at a character's edge, with a mark where something was cut.
pub(super) fn clip(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{} [...]", &text[..end])
}

/// The last `max` bytes: of a log the end is what matters.
fn clip_front(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let from = text.len() - max;
    let start = (from..=text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len());
    format!("[...] {}", &text[start..])
}

/// Evidence is the only part of an entry whose size the world decides: if it is too large, its hash stands for it.
pub(super) fn within_limit(mut entry: Entry) -> Entry {
    if entry.to_bytes().is_ok() {
        return entry;
    }
    let shrink = |value: &mut Value| {
        let bytes = serde_json::to_vec(value).unwrap_or_default();
        *value = json!({ "left_out": "too large", "sha256": Digest::of(&bytes) });
    };
    match &mut entry.body {
        Body::Verdict(verdict) => shrink(&mut verdict.evidence),
        Body::Pin(pin) => shrink(&mut pin.evidence),
        Body::TagMoved(moved) => shrink(&mut moved.evidence),
        Body::Source(source) => {
            source.problems.truncate(50);
            source.changed.truncate(500);
        }
        Body::Rollout(change) => change.message = clip(&change.message, MESSAGE_MAX_BYTES),
        _ => {}
    }
    entry
}

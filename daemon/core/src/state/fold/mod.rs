//! What each entry does to State.
//!
//! `fold` is total: an entry that makes no sense here changes nothing but the head.

mod unit;
mod workload;

use super::{Claim, Frozen, LOG_KEYS_KEPT, LogKeyChange, SourceHead, State, UntrustedTip};
use crate::entry::*;
use crate::ids::Millis;

/// Idempotency keys of commands that are remembered.
const COMMAND_KEYS_KEPT: usize = 256;
const HOUR_MS: Millis = 3_600_000;
/// Times of heals that are remembered, for the guard on all of them.
const HEALS_KEPT: usize = 1_000;

impl State {
    pub fn fold(&mut self, entry: &Entry) {
        self.size = entry.seq + 1;
        self.t = self.t.max(entry.t);
        match &entry.body {
            Body::Term(term) => {
                self.term = entry.seq;
                if term.epoch > self.epoch {
                    // Its fences are above all that targets have seen of the epochs before.
                    for target in self
                        .targets
                        .values_mut()
                        .filter(|target| matches!(target.claim, Claim::Ahead(_)))
                    {
                        target.claim = Claim::Unseen;
                    }
                }
                self.epoch = term.epoch;
                self.owner = term.owner.clone();
            }
            Body::Source(source) => self.fold_source(entry, source),
            Body::Spec(spec) => self.fold_spec(entry, spec),
            Body::Target(change) => self.fold_target(entry, change),
            Body::Command(command) => self.fold_command(entry, command),
            Body::Plugin(plugin) => {
                self.plugins.insert(plugin.digest.clone(), plugin.name.clone());
                if plugin.newly_wants.is_empty() {
                    self.accepted_plugins.insert(plugin.name.clone(), plugin.digest.clone());
                }
            }
            Body::Clock(_) | Body::ObservationRoot(_) => {}
            Body::Retention(retention) => self.bundles_from = self.bundles_from.max(retention.bundles_from),
            Body::LogKey(change) => {
                let (seq, note) = (entry.seq, change.note.clone());
                self.log_keys.push(LogKeyChange { seq, note });
                let surplus = self.log_keys.len().saturating_sub(LOG_KEYS_KEPT);
                self.log_keys.drain(..surplus);
            }
            Body::Guard(guard) => match &entry.on.workload {
                Some(_) => self.fold_workload(entry),
                None if guard.class == "heals-per-hour" => self.heal_guard = Some(entry.seq),
                None => {}
            },
            Body::Pin(_)
            | Body::TagMoved(_)
            | Body::Selection(_)
            | Body::Drift(_)
            | Body::Rollout(_)
            | Body::Attempt(_)
            | Body::Intent(_)
            | Body::Result(_)
            | Body::Verdict(_)
            | Body::Quarantine(_) => {
                if let Body::Drift(drift) = &entry.body
                    && drift.answer.counts()
                {
                    remember_heal(&mut self.heals, entry.t);
                }
                self.fold_workload(entry);
            }
        }
    }

    fn fold_workload(&mut self, entry: &Entry) {
        if let Some(workload) = entry.on.workload.as_ref() {
            self.workloads.entry(workload.clone()).or_default().fold(entry);
        }
    }

    fn fold_source(&mut self, entry: &Entry, source: &Source) {
        self.untrusted = source.untrusted.then(|| UntrustedTip {
            commit: source.new.clone(),
            verdict: source.signer.clone(),
            t: entry.t,
        });
        if source.adopted {
            self.source = Some(SourceHead {
                seq: entry.seq,
                commit: source.new.clone(),
                summary: source.summary.clone(),
                t: entry.t,
                problems: source.problems.clone(),
                contributors: source.contributors.clone(),
                rewrite: None,
                accepted: None,
            });
        } else if let Some(head) = &mut self.source {
            head.rewrite = (!source.untrusted).then(|| source.new.clone());
        }
        for held in &source.held {
            if let Some(unit) = self
                .workloads
                .get_mut(&held.workload)
                .and_then(|w| w.units.get_mut(&held.target))
            {
                unit.held = true;
            }
        }
    }

    fn fold_spec(&mut self, entry: &Entry, spec: &Spec) {
        let contributors = self.source.as_ref().map(|head| head.contributors.clone()).unwrap_or_default();
        match (&spec.object, &entry.on.workload, &entry.on.target) {
            (SpecObject::Workload { presence, spec: content }, Some(id), _) => {
                let workload = self.workloads.entry(id.clone()).or_default();
                workload.changed_t = entry.t;
                workload.presence = Some(*presence);
                if let Some(content) = content {
                    // Pins of texts that no manifest names any more stay: going back to the old text returns the old pin.
                    workload.spec = Some(content.clone());
                    workload.spec_seq = entry.seq;
                    workload.commit = spec.commit.clone();
                    workload.contributors = contributors;
                    workload.units.values_mut().for_each(|unit| unit.held = false);
                }
            }
            (SpecObject::Target { presence, spec: content }, _, Some(name)) => {
                let target = self.targets.entry(name.clone()).or_default();
                target.changed_t = entry.t;
                target.presence = Some(*presence);
                target.seq = entry.seq;
                if let Some(content) = content {
                    target.spec = Some(content.clone().into());
                }
            }
            _ => {}
        }
    }

    fn fold_target(&mut self, entry: &Entry, change: &TargetChange) {
        let Some(name) = &entry.on.target else { return };
        let target = self.targets.entry(name.clone()).or_default();
        match change {
            TargetChange::Claimed => target.claim = Claim::Ours,
            TargetChange::Conflict { owner } => target.claim = Claim::Conflict(owner.clone()),
            TargetChange::Ahead { fence } => target.claim = Claim::Ahead(*fence),
            TargetChange::Unreachable { message } => {
                target.unreachable = Some(message.clone());
                target.unreachable_t = entry.t;
            }
            TargetChange::Reachable => target.unreachable = None,
        }
    }

    fn fold_command(&mut self, entry: &Entry, command: &Command) {
        self.command_keys.push(command.key.clone());
        if self.command_keys.len() > COMMAND_KEYS_KEPT {
            self.command_keys.remove(0);
        }
        if let (CommandVerb::AcceptRewrite { commit }, Some(head)) = (&command.verb, &mut self.source) {
            head.accepted = Some(commit.clone());
        }
        if let CommandVerb::AllowRemovals { workloads } = &command.verb {
            for id in workloads {
                if let Some(workload) = self.workloads.get_mut(id) {
                    workload.units.values_mut().for_each(|unit| unit.held = false);
                }
            }
        }
        let frozen = || Frozen {
            seq: entry.seq,
            by: entry.by.id.clone(),
            reason: command.reason.clone(),
            t: entry.t,
        };
        match (&command.verb, &entry.on.workload, &entry.on.target) {
            (CommandVerb::Freeze, None, Some(name)) => self.targets.entry(name.clone()).or_default().frozen = Some(frozen()),
            (CommandVerb::Thaw, None, Some(name)) => self.targets.entry(name.clone()).or_default().frozen = None,
            (CommandVerb::AllowHeals, _, _) => {
                self.heals.clear();
                self.heal_guard = None;
                for unit in self.workloads.values_mut().flat_map(|w| w.units.values_mut()) {
                    unit.heals.clear();
                    unit.heal_guard = None;
                }
            }
            (CommandVerb::AllowPlugin { name, plugin }, _, _) => {
                self.accepted_plugins.insert(name.clone(), plugin.clone());
            }
            (verb, Some(id), _) => {
                if let Some(workload) = self.workloads.get_mut(id) {
                    workload.fold_command(entry, verb, frozen());
                }
            }
            _ => {}
        }
    }
}

/// Adds one time and lets those go that are older than an hour.
fn remember_heal(heals: &mut Vec<Millis>, t: Millis) {
    heals.retain(|then| then + HOUR_MS > t);
    heals.push(t);
    if heals.len() > HEALS_KEPT {
        heals.remove(0);
    }
}

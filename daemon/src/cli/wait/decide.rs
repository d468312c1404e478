//! One commit's say on one workload, and what the ledger says became of it.

use crate::cli::draw;
use holdfast_core::entry::{
    AttemptChange, AttemptOutcome, Body, CommandVerb, Entry, Presence, RolloutChange, RolloutState, SpecObject,
};
use holdfast_core::ids::{Seq, deploy_id};
use holdfast_core::view::{WorkloadView, last_log_lines};
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Live,
    /// Nothing new to bring: the same release was live before.
    Unchanged,
    Removed,
    RolledBack,
    CouldNotTry,
    Halted,
    Aborted,
    Superseded,
    Refused,
    /// Its file cannot be read.
    Problem,
    /// Its removal waits for a person.
    Held,
}

impl Outcome {
    pub fn is_good(self) -> bool {
        matches!(self, Outcome::Live | Outcome::Unchanged | Outcome::Removed)
    }

    pub fn words(self) -> &'static str {
        match self {
            Outcome::Live => "is live",
            Outcome::Unchanged => "was live already",
            Outcome::Removed => "is removed",
            Outcome::RolledBack => "was rolled back",
            Outcome::CouldNotTry => "could not be tried",
            Outcome::Halted => "is halted",
            Outcome::Aborted => "was aborted",
            Outcome::Superseded => "was superseded",
            Outcome::Refused => "was refused",
            Outcome::Problem => "cannot be read",
            Outcome::Held => "waits for `holdfast allow-removals`",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    pub outcome: Outcome,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// The attempt that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy: Option<String>,
    /// The last it said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl Decision {
    fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            outcome,
            message: message.into(),
            release: None,
            deploy: None,
            log: Vec::new(),
        }
    }

    fn of(mut self, release: impl ToString) -> Self {
        self.release = Some(release.to_string());
        self
    }
}

/// `spec`: the entry with the manifest. `entries`: all of the workload from there on, oldest first. None: not decided.
pub fn decide(spec: Seq, entries: &[Entry], view: Option<&WorkloadView>, epoch: u64) -> Option<Decision> {
    let own = entries.iter().find(|entry| entry.seq == spec)?;
    let Body::Spec(content) = &own.body else { return None };
    let SpecObject::Workload { presence, .. } = &content.object else {
        return None;
    };
    let next = entries.iter().find(|entry| entry.seq > spec && says_content(entry));
    match presence {
        Presence::Unknown => {
            let message = "the last good state goes on";
            Some(Decision::new(Outcome::Problem, message))
        }
        Presence::Absent if next.is_some() => Some(superseded(next)),
        Presence::Absent => removed(view),
        Presence::Present => match request_of(spec, next, entries) {
            Some(request) => of_request(request, next, entries, epoch),
            None => without_request(spec, next, entries, view),
        },
    }
}

fn says_content(entry: &Entry) -> bool {
    matches!(
        &entry.body,
        Body::Spec(spec) if matches!(spec.object, SpecObject::Workload { spec: Some(_), .. })
    )
}

fn removed(view: Option<&WorkloadView>) -> Option<Decision> {
    let units = view.map(|view| view.units.as_slice()).unwrap_or_default();
    if units.iter().any(|unit| unit.held) {
        return Some(Decision::new(Outcome::Held, "its revision removes more than one may"));
    }
    let is_gone = units.iter().all(|unit| unit.generation.is_none() && unit.attempt.is_none());
    is_gone.then(|| Decision::new(Outcome::Removed, ""))
}

fn superseded(next: Option<&Entry>) -> Decision {
    let by = next.and_then(|entry| match &entry.body {
        Body::Spec(spec) => Some(format!("by commit {}", draw::short(&spec.commit))),
        _ => None,
    });
    Decision::new(Outcome::Superseded, by.unwrap_or_else(|| "by a newer request".into()))
}

fn rollouts(entries: &[Entry]) -> impl Iterator<Item = (&Entry, Seq, &RolloutChange)> {
    entries.iter().filter_map(|entry| match &entry.body {
        Body::Rollout(change) => Some((entry, entry.on.rollout?, change)),
        _ => None,
    })
}

/// The request that the manifest made: by itself, or by the first tag that was selected or pinned anew for it.
fn request_of(spec: Seq, next: Option<&Entry>, entries: &[Entry]) -> Option<Seq> {
    let end = next.map_or(Seq::MAX, |entry| entry.seq);
    let made_here = |request: Seq| {
        request == spec
            || entries.iter().any(|entry| {
                entry.seq == request && request > spec && request < end && matches!(entry.body, Body::Selection(_) | Body::Pin(_))
            })
    };
    rollouts(entries)
        .map(|(_, request, _)| request)
        .find(|request| made_here(*request))
}

fn of_request(request: Seq, next: Option<&Entry>, entries: &[Entry], epoch: u64) -> Option<Decision> {
    let states: Vec<(&Entry, &RolloutChange)> = rollouts(entries)
        .filter(|(_, id, _)| *id == request)
        .map(|(entry, _, change)| (entry, change))
        .collect();
    let (last_entry, last) = states.last()?;
    let release = &last.release;
    let live = states.iter().rfind(|(_, change)| change.to == RolloutState::Succeeded);
    let decision = match last.to {
        RolloutState::Rolling | RolloutState::Holding if live.is_none() => return None,
        // Opened again for a target that came later: the commit is live all the same.
        RolloutState::Rolling | RolloutState::Holding => Decision::new(Outcome::Live, ""),
        RolloutState::Succeeded => match undone_by(request, last_entry.seq, entries) {
            Some(message) => Decision::new(Outcome::RolledBack, message),
            None => Decision::new(Outcome::Live, ""),
        },
        RolloutState::Superseded => match undone_by(request, request, entries) {
            Some(message) => Decision::new(Outcome::RolledBack, message),
            None if live.is_some() => Decision::new(Outcome::Live, "until something newer came"),
            None if next.is_some() => superseded(next),
            None => Decision::new(Outcome::Superseded, last.message.clone()),
        },
        RolloutState::Refused => Decision::new(Outcome::Refused, last.message.clone()),
        RolloutState::Aborting | RolloutState::Aborted => {
            let by = undone_by(request, request, entries);
            Decision::new(Outcome::Aborted, by.unwrap_or_else(|| last.message.clone()))
        }
        RolloutState::Halted => halted(request, last, entries, epoch),
    };
    Some(decision.of(release))
}

/// The command that took the request back after `since`, and why.
fn undone_by(request: Seq, since: Seq, entries: &[Entry]) -> Option<String> {
    entries.iter().rev().find_map(|entry| match &entry.body {
        Body::Command(command)
            if entry.seq > since
                && entry.on.rollout == Some(request)
                && matches!(command.verb, CommandVerb::Rollback { .. } | CommandVerb::Abort) =>
        {
            let reason = if command.reason.is_empty() {
                "no reason given"
            } else {
                &command.reason
            };
            Some(format!("by {}: {reason}", entry.by.id))
        }
        _ => None,
    })
}

fn halted(request: Seq, last: &RolloutChange, entries: &[Entry], epoch: u64) -> Decision {
    let failed = entries.iter().rev().find_map(|entry| match &entry.body {
        Body::Attempt(AttemptChange::Ended { outcome, .. })
            if entry.on.rollout == Some(request) && matches!(outcome, AttemptOutcome::Bad | AttemptOutcome::CouldNotTry) =>
        {
            Some((*outcome, entry.on.attempt?))
        }
        _ => None,
    });
    let outcome = match failed {
        Some((AttemptOutcome::Bad, _)) => Outcome::RolledBack,
        Some(_) => Outcome::CouldNotTry,
        None => Outcome::Halted,
    };
    let mut decision = Decision::new(outcome, last.message.clone());
    if let Some((_, attempt)) = failed {
        decision.deploy = Some(deploy_id(epoch, attempt));
        let verdict = entries.iter().rev().find_map(|entry| match &entry.body {
            Body::Verdict(verdict) if entry.on.attempt == Some(attempt) && verdict.about == "diagnosis" => Some(verdict),
            _ => None,
        });
        decision.log = verdict.map(last_log_lines).unwrap_or_default();
    }
    decision
}

/// The manifest made no request: the same release is wanted as before, or it was not begun.
fn without_request(spec: Seq, next: Option<&Entry>, entries: &[Entry], view: Option<&WorkloadView>) -> Option<Decision> {
    if next.is_some() {
        return Some(superseded(next));
    }
    let command = |request: Seq| {
        entries
            .iter()
            .find(|entry| entry.seq == request && matches!(entry.body, Body::Command(_)))
    };
    if let Some((entry, change)) = rollouts(entries).find_map(|(_, request, change)| Some((command(request)?, change))) {
        let message = format!("by a command of {}, before it was begun", entry.by.id);
        return Some(Decision::new(Outcome::Superseded, message).of(&change.release));
    }
    let view = view.filter(|view| view.spec == spec && view.taken_up)?;
    let wanted = view.wanted.as_ref().filter(|wanted| wanted.request < spec)?;
    let outcome = match wanted.state {
        RolloutState::Succeeded if view.settled => Outcome::Unchanged,
        RolloutState::Succeeded | RolloutState::Rolling | RolloutState::Holding => return None,
        RolloutState::Halted => Outcome::Halted,
        RolloutState::Refused => Outcome::Refused,
        RolloutState::Aborting | RolloutState::Aborted => Outcome::Aborted,
        RolloutState::Superseded => Outcome::Superseded,
    };
    let message = if outcome.is_good() { "" } else { wanted.message.as_str() };
    Some(Decision::new(outcome, message).of(&wanted.release))
}

/// A workload whose targets changed: decided when it has settled.
pub fn after_target_change(view: Option<&WorkloadView>, since: u64) -> Option<Decision> {
    let Some(view) = view else {
        return Some(Decision::new(Outcome::Removed, ""));
    };
    let Some(wanted) = &view.wanted else {
        return view.settled.then(|| Decision::new(Outcome::Unchanged, ""));
    };
    let is_new = wanted.since >= since;
    let outcome = match wanted.state {
        RolloutState::Halted if is_new => Outcome::Halted,
        RolloutState::Refused if is_new => Outcome::Refused,
        RolloutState::Aborted | RolloutState::Aborting if is_new => Outcome::Aborted,
        _ if !view.settled => return None,
        RolloutState::Succeeded if is_new => Outcome::Live,
        _ => Outcome::Unchanged,
    };
    let message = if outcome.is_good() { "" } else { wanted.message.as_str() };
    Some(Decision::new(outcome, message).of(&wanted.release))
}

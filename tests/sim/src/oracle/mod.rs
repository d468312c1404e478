//! What must hold after every step, whatever went wrong: the invariants of DESIGN section 1 by their numbers, and the
//! oracles of section 11. Each group is a file. The facts they judge by are folded here a second time, from the
//! acknowledged log alone and without the engine's State.

mod absence;
mod blame;
mod content;
mod effects;
mod facts;
mod pace;
pub(crate) mod rest;
mod traffic;

use crate::git::Git;
use crate::options::{Faults, Feature, has};
use crate::registry::Registry;
pub use effects::replay;
use facts::Facts;
use holdfast_core::engine::{Call, CommandReply};
use holdfast_core::entry::{Body, Entry, VerdictOutcome};
use holdfast_core::ids::{GenNumber, Millis, ReleaseId, Seq, WorkloadId};
use holdfast_core::release::Release;
use holdfast_core::state::State;
use holdfast_core::target::{GenPhase, GenerationState, Page};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An error names the invariant.
pub type Check = Result<(), String>;

/// What is so in the world, which no daemon knows.
pub struct Truth<'a> {
    pub git: &'a Git,
    pub registry: &'a Registry,
    pub releases: &'a BTreeMap<ReleaseId, Arc<Release>>,
    pub faults: &'a Faults,
}

/// The last observation that was handed in.
pub(crate) struct Seen {
    pub begun: u64,
    pub t: Millis,
    /// Generations by workload.
    pub generations: BTreeSet<(String, GenNumber)>,
}

#[derive(Default)]
pub struct Oracle {
    /// Every acknowledged entry.
    pub log: Vec<Entry>,
    pub(crate) facts: Facts,
    pub(crate) seen: BTreeMap<String, Seen>,
    /// By intent: what had been observed when it was drafted.
    pub(crate) decided_on: BTreeMap<Seq, Decided>,
    /// Since when every look, one after the other, has shown a generation ready.
    ready_since: BTreeMap<(String, String, GenNumber), Millis>,
}

#[derive(Clone)]
pub(crate) struct Decided {
    pub begun: u64,
}

impl Oracle {
    /// A batch is durable: it is judged entry by entry, then remembered.
    pub fn durable(&mut self, batch: &[Entry], truth: &Truth) -> Check {
        for entry in batch {
            let place = |error: String| format!("{error} (entry {}, {})", entry.seq, entry.body.kind());
            if entry.seq != self.log.len() as u64 {
                return Err(place("invariant 4: an entry is missing, or there twice".into()));
            }
            self.content(entry, truth).map_err(place)?;
            self.effects(entry).map_err(place)?;
            self.traffic(entry).map_err(place)?;
            self.blame(entry, batch, truth).map_err(place)?;
            self.pace(entry).map_err(place)?;
            self.absence(entry, truth).map_err(place)?;
            self.decided_on.remove(&entry.seq);
            self.facts.fold(entry);
            self.log.push(entry.clone());
        }
        Ok(())
    }

    /// Entries as the engine puts them out, before they are durable.
    pub fn drafted(&mut self, batch: &[Entry]) -> Check {
        for entry in batch {
            self.stable(entry)?;
            let (Body::Intent(_), Some(target)) = (&entry.body, &entry.on.target) else {
                continue;
            };
            if let Some(seen) = self.seen.get(target) {
                let begun = seen.begun;
                self.decided_on.insert(entry.seq, Decided { begun });
            }
        }
        Ok(())
    }

    /// Invariant 3: proven is what was seen to be ready for as long as the manifest says.
    fn stable(&self, entry: &Entry) -> Check {
        let (Body::Verdict(verdict), Some(id), Some(target), Some(generation)) =
            (&entry.body, &entry.on.workload, &entry.on.target, entry.on.generation)
        else {
            return Ok(());
        };
        let spec = self.facts.workloads.get(id).and_then(|workload| workload.spec.as_ref());
        let passes = verdict.about == "health" && verdict.outcome == VerdictOutcome::Pass;
        let (true, Some(spec)) = (passes, spec) else { return Ok(()) };
        let since = self.ready_since.get(&(target.clone(), id.to_string(), generation));
        let last = self.seen.get(target).map_or(0, |seen| seen.t);
        let until = if has(Feature::Punctual) { last } else { entry.t };
        match since {
            Some(since) if until >= since + spec.health.stable_ms => Ok(()),
            _ => Err(format!(
                "invariant 3: generation {generation} on {target} counts as proven at {}, seen ready since {since:?}, last at {last}",
                entry.t
            )),
        }
    }

    /// Whether the last look at a target showed this generation.
    fn shows(&self, target: &str, workload: &WorkloadId, number: GenNumber) -> bool {
        let seen = self.seen.get(target);
        seen.is_some_and(|seen| seen.generations.contains(&(workload.to_string(), number)))
    }

    fn remember_ready(&mut self, target: &str, page: &Page, t: Millis) {
        let ready =
            |state: &&GenerationState| state.phase == GenPhase::Ready && state.wanted.is_none_or(|wanted| state.ready >= wanted);
        let now: BTreeSet<_> = page
            .generations
            .iter()
            .filter(ready)
            .map(|state| (target.to_owned(), state.workload.clone(), state.number))
            .collect();
        self.ready_since.retain(|key, _| key.0 != target || now.contains(key));
        for key in now {
            self.ready_since.entry(key).or_insert(t);
        }
    }

    pub fn observed(&mut self, target: &str, begun: u64, page: &Page, t: Millis) {
        self.remember_ready(target, page, t);
        let generations = page.generations.iter().map(|state| (state.workload.clone(), state.number));
        let generations = generations.collect();
        self.seen.insert(target.to_owned(), Seen { begun, t, generations });
    }

    /// A daemon that starts knows nothing of the world.
    pub fn forget_observations(&mut self) {
        self.seen.clear();
        self.decided_on.clear();
        self.ready_since.clear();
    }

    /// The release that a call is about.
    pub fn release_of(&self, call: &Call) -> Option<ReleaseId> {
        let unit = self.facts.unit(&call.workload, &call.target)?;
        Some(unit.generations.get(&call.verb.generation())?.release.clone())
    }

    /// DESIGN section 11: State is the fold of all, whatever snapshots were on the way.
    pub fn check_state(&self, state: &State) -> Check {
        let mut folded = State::default();
        self.log.iter().take(state.size as usize).for_each(|entry| folded.fold(entry));
        if folded == *state {
            Ok(())
        } else {
            let (have, want) = (serde_json::to_value(state), serde_json::to_value(&folded));
            let place = have.ok().zip(want.ok()).and_then(|(have, want)| difference("", &have, &want));
            Err(format!(
                "memory: State is not the fold of the log: {}",
                place.unwrap_or_default()
            ))
        }
    }

    /// What a person was told is durable.
    pub fn check_reply(&self, reply: &CommandReply) -> Check {
        match reply.seq {
            Some(seq) if !matches!(self.log.get(seq as usize).map(|entry| &entry.body), Some(Body::Command(_))) => {
                Err(format!("invariant 4: command {seq} is answered before it is durable"))
            }
            _ => Ok(()),
        }
    }
}

/// The first place at which two values differ.
fn difference(at: &str, have: &serde_json::Value, want: &serde_json::Value) -> Option<String> {
    match (have.as_object(), want.as_object()) {
        (Some(a), Some(b)) => a.keys().chain(b.keys()).find_map(|key| {
            let null = serde_json::Value::Null;
            difference(
                &format!("{at}/{key}"),
                a.get(key).unwrap_or(&null),
                b.get(key).unwrap_or(&null),
            )
        }),
        _ => (have != want).then(|| format!("{at} is {have} and should be {want}")),
    }
}

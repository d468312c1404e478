//! A target that keeps to the protocol, and is stricter than real ones: verbs repeat safely, fences are per workload, an
//! effect that could take the last server away is refused where the protocol says so. What it does wrong, faults make it do.

mod apply;
mod page;

pub use apply::{Effect, JobRun};

use crate::registry::Quality;
use crate::scenario::{Fencing, Place};
use holdfast_core::ids::{Digest, FULL_SHARE, GenNumber, ReleaseId};
use holdfast_core::target::{Abilities, Routing, Sizing};
use std::collections::{BTreeMap, BTreeSet};

/// An instance is ready so long after it began.
const WARM_UP_MS: u64 = 700;
/// A release that fails by itself has done so by then.
const FAILS_AFTER_MS: u64 = 1_500;
const RESTART_EVERY_MS: u64 = 600;

#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    pub release: ReleaseId,
    /// Fence of the launch.
    pub fence: u64,
    pub quality: Quality,
    pub artifact: Digest,
    /// Instances asked for; 0: parked. Of what has no size: 1 or 0.
    pub size: u32,
    /// When each of its instances began.
    pub instances: Vec<u64>,
    /// A launch that did not finish.
    pub partial: bool,
    /// Its bytes could not be pulled.
    pub stuck: bool,
    /// It runs something else than it was told to.
    pub wrong_digest: bool,
    /// How often somebody edited it.
    pub edits: u32,
    /// The edit is one that the target made itself: no change in what was asked for.
    pub harmless: bool,
}

impl Generation {
    fn begun(&self) -> u64 {
        self.instances.iter().copied().min().unwrap_or(0)
    }

    /// Instances that really serve.
    pub fn ready(&self, now: u64) -> u32 {
        if self.partial || self.stuck || matches!(self.quality, Quality::Failing | Quality::NeverReady) {
            return 0;
        }
        self.instances.iter().filter(|begun| **begun + WARM_UP_MS <= now).count() as u32
    }

    pub fn restarts(&self, now: u64) -> u32 {
        match self.quality {
            Quality::Restarting if self.size > 0 => (now.saturating_sub(self.begun()) / RESTART_EVERY_MS) as u32,
            _ => 0,
        }
    }

    /// Something that may carry traffic.
    pub fn runs(&self) -> bool {
        self.size > 0 && !self.partial && !self.stuck
    }
}

/// What one target holds of one workload.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Held {
    /// The highest fence on this workload's objects.
    pub fence: u64,
    pub generations: BTreeMap<GenNumber, Generation>,
    /// Shares as routed; what a router shows may follow instances instead.
    pub route: BTreeMap<GenNumber, u32>,
    /// Shares before a route that only some routers have yet.
    pub unsettled: Option<BTreeMap<GenNumber, u32>>,
    pub has_route: bool,
    pub jobs: BTreeMap<String, JobRun>,
    /// Serves since a foreign hand was here; fences up to this one were decided without knowing of it.
    pub disturbed: u64,
    pub highest_number: GenNumber,
}

#[derive(Debug, Clone)]
pub struct Site {
    pub abilities: Abilities,
    pub fencing: Fencing,
    pub room: Option<u32>,
    pub tells_room: bool,
    pub owner: Option<String>,
    pub high_fence: u64,
    pub held: BTreeMap<String, Held>,
    /// It keeps the bytes of what it ran.
    pub cached: BTreeSet<Digest>,
    pub away_until: u64,
    pub effects: u64,
}

impl Site {
    pub fn new(place: &Place) -> Self {
        Self {
            abilities: place.abilities.clone(),
            fencing: place.fencing,
            room: place.room,
            tells_room: place.tells_room,
            owner: None,
            high_fence: 0,
            held: BTreeMap::new(),
            cached: BTreeSet::new(),
            away_until: 0,
            effects: 0,
        }
    }

    pub fn of(&self, workload: &str) -> Held {
        self.held.get(workload).cloned().unwrap_or_default()
    }

    /// Instances of all workloads.
    pub fn used(&self) -> u32 {
        self.held
            .values()
            .flat_map(|held| held.generations.values())
            .map(|one| one.size)
            .sum()
    }

    pub fn room_left(&self) -> Option<u32> {
        self.room.map(|room| room.saturating_sub(self.used()))
    }

    /// Shares as the routers really have them.
    pub fn shares(&self, held: &Held, now: u64) -> BTreeMap<GenNumber, u32> {
        let members: BTreeMap<GenNumber, u32> = match self.abilities.routing {
            Routing::Single | Routing::Weighted => return held.route.clone(),
            // An instance is live as soon as it is ready.
            Routing::Fixed => held
                .generations
                .iter()
                .map(|(number, one)| (*number, one.ready(now)))
                .collect(),
            Routing::Pooled => held
                .generations
                .iter()
                .filter(|(number, _)| held.route.get(number).is_some_and(|live| *live > 0))
                .map(|(number, one)| (*number, one.ready(now)))
                .collect(),
        };
        let total: u32 = members.values().sum();
        let mut shares: BTreeMap<GenNumber, u32> = members
            .iter()
            .filter(|(_, ready)| **ready > 0)
            .map(|(number, ready)| (*number, ready * FULL_SHARE / total.max(1)))
            .collect();
        let short = FULL_SHARE - shares.values().sum::<u32>();
        if let Some(mut last) = shares.last_entry() {
            *last.get_mut() += short;
        }
        shares
    }

    pub fn is_unsized(&self) -> bool {
        self.abilities.sizing == Sizing::Unsized
    }

    /// Instances that are ready and have a share.
    pub fn serving(&self, held: &Held, now: u64) -> u32 {
        let shares = self.shares(held, now);
        held.generations
            .iter()
            .filter(|(number, _)| shares.get(number).is_some_and(|live| *live > 0))
            .map(|(_, one)| one.ready(now))
            .sum()
    }
}

//! The verbs. Each lands whole, or as far as a fault lets it.

use super::{Generation, Site};
use crate::options::{Feature, has};
use crate::registry::Quality;
use crate::scenario::Fencing;
use holdfast_core::engine::Call;
use holdfast_core::ids::{Digest, FULL_SHARE, GenNumber, ReleaseId};
use holdfast_core::target::*;

const JOB_MS: u64 = 2_000;

#[derive(Debug, Clone, PartialEq)]
pub struct JobRun {
    pub ends: u64,
    pub fails: bool,
    /// The target knows nothing of it any more but its name.
    pub forgotten: bool,
}

/// What a call is about, beyond the call: found in the ledger's blobs.
pub struct Effect<'a> {
    pub owner: &'a str,
    pub call: &'a Call,
    pub release: Option<ReleaseId>,
    pub artifact: Digest,
    pub quality: Quality,
    pub now: u64,
    /// The registry can be reached.
    pub pulls: bool,
    pub stops_half_way: bool,
    pub wrong_digest: bool,
    /// Only some routers have it at first.
    pub unsettled: bool,
}

fn fault<T>(class: FaultClass, message: &str) -> Result<T, Fault> {
    Err(Fault {
        class,
        message: message.into(),
        fence: None,
    })
}

pub fn job_name(generation: GenNumber, job: &str) -> String {
    format!("g{generation}-{job}")
}

impl Site {
    pub fn apply(&mut self, effect: &Effect) -> Result<Progress, Fault> {
        let call = effect.call;
        let workload = call.workload.to_string();
        if self.owner.as_deref().is_some_and(|owner| owner != effect.owner) {
            return fault(FaultClass::Conflict, "belongs to another owner");
        }
        let held = self.held.entry(workload.clone()).or_default();
        if self.fencing == Fencing::Strong && call.fence < held.fence {
            return Err(Fault {
                class: FaultClass::Fenced,
                message: "stale".into(),
                fence: Some(held.fence),
            });
        }
        let done = match &call.verb {
            Verb::Launch { generation, size } => self.launch(effect, &workload, *generation, *size),
            Verb::Scale { generation, size } => self.scale(effect, &workload, *generation, *size),
            Verb::Route { shares, .. } => self.route(effect, &workload, shares),
            Verb::Retire { generation, last } => self.retire(effect, &workload, *generation, *last),
            Verb::Run {
                generation, job, run, ..
            } => self.run(effect, &workload, *generation, &run_name(job, *run)),
        }?;
        self.owner = Some(effect.owner.to_owned());
        self.high_fence = self.high_fence.max(call.fence);
        self.effects += 1;
        if let Some(held) = self.held.get_mut(&workload) {
            held.fence = held.fence.max(call.fence);
            if held.generations.is_empty() && has(Feature::Drift) {
                // The objects that carried the fence are gone, and it with them.
                (held.fence, held.highest_number) = (0, 0);
            }
        }
        Ok(done)
    }

    fn whole_size(&self, size: u32) -> u32 {
        if self.is_unsized() { size.min(1) } else { size }
    }

    fn launch(&mut self, effect: &Effect, workload: &str, number: GenNumber, size: u32) -> Result<Progress, Fault> {
        let size = self.whole_size(size);
        let room = self.room_left();
        let Some(release) = effect.release.clone() else {
            return fault(FaultClass::Internal, "the release is not known");
        };
        if !self.abilities.staged {
            return fault(FaultClass::Invalid, "one document: nothing can be launched beside it");
        }
        let side_by_side = self.abilities.overlap;
        let by_name = self.fencing == Fencing::ByName;
        let available = effect.pulls || self.cached.contains(&effect.artifact);
        let held = self.held.entry(workload.to_owned()).or_default();
        if let Some(known) = held.generations.get_mut(&number) {
            if known.release != release {
                return fault(FaultClass::Conflict, "this number belongs to another release");
            }
            known.partial = false;
            known.stuck &= !available;
            return Ok(Progress::Done);
        }
        if by_name && number < held.highest_number {
            return fault(FaultClass::Conflict, "a later generation is there");
        }
        if !side_by_side && held.generations.values().any(|one| one.size > 0) {
            return fault(FaultClass::Conflict, "the port is taken by another generation");
        }
        if room.is_some_and(|room| room < size) {
            return fault(FaultClass::Exhausted, "no room for so many instances");
        }
        held.highest_number = held.highest_number.max(number);
        held.generations.insert(
            number,
            Generation {
                partial: effect.stops_half_way,
                ..made(effect, release, size, available)
            },
        );
        if available {
            self.cached.insert(effect.artifact.clone());
        }
        if effect.stops_half_way {
            return fault(FaultClass::Unavailable, "stopped half-way");
        }
        Ok(Progress::Done)
    }

    fn scale(&mut self, effect: &Effect, workload: &str, number: GenNumber, size: u32) -> Result<Progress, Fault> {
        if !self.abilities.staged {
            return fault(FaultClass::Invalid, "one document: there is nothing to count");
        }
        let size = self.whole_size(size);
        let room = self.room_left();
        let overlap = self.abilities.overlap;
        let held = self.held.entry(workload.to_owned()).or_default();
        let others = held.generations.iter().any(|(other, one)| *other != number && one.size > 0);
        let Some(one) = held.generations.get_mut(&number) else {
            return fault(FaultClass::Absent, "no such generation");
        };
        if size > one.size && room.is_some_and(|room| room < size - one.size) {
            return fault(FaultClass::Exhausted, "no room for so many instances");
        }
        if one.size == 0 && size > 0 && others && !overlap {
            return fault(FaultClass::Conflict, "the port is taken by another generation");
        }
        one.size = size;
        // Down: out of the router first. Up: fresh ones, also for what is missing.
        one.instances.truncate(size as usize);
        while (one.instances.len() as u32) < size {
            one.instances.push(effect.now);
        }
        if size == 0 {
            held.route.remove(&number);
        }
        Ok(Progress::Done)
    }

    fn route(&mut self, effect: &Effect, workload: &str, shares: &[Share]) -> Result<Progress, Fault> {
        let (routing, finest, most) = (
            self.abilities.routing,
            self.abilities.finest_share.max(1),
            self.abilities.most_live,
        );
        if !self.abilities.staged {
            self.write_document(effect, workload, shares)?;
        }
        let held = self.held.entry(workload.to_owned()).or_default();
        let live: Vec<&Share> = shares.iter().filter(|share| share.live > 0).collect();
        let sum: u32 = live.iter().map(|share| share.live).sum();
        if sum != 0 && sum != FULL_SHARE {
            return fault(FaultClass::Invalid, "shares do not sum to the whole");
        }
        if live
            .iter()
            .any(|share| held.generations.get(&share.number).is_none_or(|one| one.size == 0))
        {
            return fault(FaultClass::Absent, "no such generation, or it is parked");
        }
        if live.len() as u32 > most || (routing == Routing::Single && live.len() > 1) {
            return fault(FaultClass::Invalid, "so many generations cannot be live");
        }
        let before = held.route.clone();
        held.route = live.iter().map(|share| (share.number, share.live)).collect();
        if routing == Routing::Weighted && finest > 1 && live.len() > 1 {
            // As near as the steps allow, and the rest to the first.
            let mut rest = FULL_SHARE;
            for share in live.iter().skip(1) {
                let near = share.live / finest * finest;
                held.route.insert(share.number, near);
                rest -= near;
            }
            held.route.insert(live[0].number, rest);
            held.route.retain(|_, live| *live > 0);
        }
        held.has_route = true;
        held.unsettled = (effect.unsettled && before != held.route).then_some(before);
        Ok(Progress::Done)
    }

    /// One document: what has the traffic is all that is there.
    fn write_document(&mut self, effect: &Effect, workload: &str, shares: &[Share]) -> Result<(), Fault> {
        let Some(release) = effect.release.clone() else {
            return fault(FaultClass::Internal, "the release is not known");
        };
        let available = effect.pulls || self.cached.contains(&effect.artifact);
        let held = self.held.entry(workload.to_owned()).or_default();
        let live = |number: &GenNumber| shares.iter().any(|share| share.number == *number && share.live > 0);
        held.generations.retain(|number, _| live(number));
        for share in shares.iter().filter(|share| share.live > 0) {
            held.highest_number = held.highest_number.max(share.number);
            let generation = || made(effect, release.clone(), 1, available);
            held.generations.entry(share.number).or_insert_with(generation);
        }
        if available {
            self.cached.insert(effect.artifact.clone());
        }
        Ok(())
    }

    fn retire(&mut self, effect: &Effect, workload: &str, number: GenNumber, last: bool) -> Result<Progress, Fault> {
        let by_instances = self.abilities.routing == Routing::Fixed;
        let has_traffic = self
            .shares(&self.of(workload), effect.now)
            .get(&number)
            .is_some_and(|live| *live > 0);
        let held = self.held.entry(workload.to_owned()).or_default();
        if !last && !by_instances && has_traffic {
            return fault(FaultClass::Conflict, "it has traffic");
        }
        if last && held.generations.keys().any(|other| *other != number) {
            return fault(FaultClass::Conflict, "other generations hang off the shared objects");
        }
        if effect.stops_half_way {
            return fault(FaultClass::Unavailable, "stopped half-way");
        }
        held.generations.remove(&number);
        held.route.remove(&number);
        held.jobs.retain(|name, _| !name.starts_with(&format!("g{number}-")));
        if last {
            held.has_route = false;
            held.route.clear();
            held.unsettled = None;
        }
        Ok(Progress::Done)
    }

    fn run(&mut self, effect: &Effect, workload: &str, number: GenNumber, job: &str) -> Result<Progress, Fault> {
        let held = self.held.entry(workload.to_owned()).or_default();
        let run = held.jobs.entry(job_name(number, job)).or_insert(JobRun {
            ends: effect.now + JOB_MS,
            fails: effect.quality == Quality::JobFails,
            forgotten: false,
        });
        if run.forgotten {
            return fault(FaultClass::Absent, "begun, and nothing is known of it");
        }
        if effect.now < run.ends {
            return Ok(Progress::Pending {
                resume: "begun".into(),
                after_ms: 300,
                message: "runs".into(),
            });
        }
        if run.fails {
            return fault(FaultClass::Failed, "exit 1");
        }
        Ok(Progress::Done)
    }
}

/// A generation as an effect brings it about, whole.
fn made(effect: &Effect, release: ReleaseId, size: u32, available: bool) -> Generation {
    Generation {
        release,
        fence: effect.call.fence,
        quality: effect.quality,
        artifact: effect.artifact.clone(),
        size,
        instances: vec![effect.now; size as usize],
        partial: false,
        stuck: !available,
        wrong_digest: effect.wrong_digest,
        edits: 0,
        harmless: false,
    }
}

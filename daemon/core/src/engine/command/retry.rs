//! `retry`: again what could not be tried, was lost or was stalled; never what is quarantined.

use super::*;
use crate::state::JobState;

impl Engine {
    pub(super) fn retry(&mut self, command: &CommandRequest, id: &WorkloadId, workload: &WorkloadState) -> Done {
        let Some(request) = workload.request.clone() else {
            if !self.is_stuck(id, workload, None) {
                return refuse("nothing-to-retry", format!("nothing of {id} failed"));
            }
            let seq = self.record_command(command, CommandVerb::Retry);
            self.forget_failures(id);
            return Ok((Some(seq), format!("{id} is tried again")));
        };
        let mut quarantine = workload.quarantine.get(&request.release).into_iter().flatten();
        if let Some(quarantine) = quarantine.rfind(|q| q.attempt >= request.attempt) {
            let (name, release) = (id.name(), request.release.short());
            let others = match request.state {
                RolloutState::Halted => format!("; `holdfast resume {name}` goes on with the other targets"),
                _ => String::new(),
            };
            return refuse(
                "quarantined",
                format!(
                    "release {release} is quarantined: {}; `holdfast quarantine lift {name} {release}` lets it in again{others}",
                    quarantine.message
                ),
            );
        }
        let reopens = matches!(request.state, RolloutState::Halted | RolloutState::Refused);
        match request.state {
            RolloutState::Aborting | RolloutState::Aborted | RolloutState::Superseded => {
                return refuse(
                    "closed",
                    format!(
                        "the rollout of release {} is over: commit a new wish, or `holdfast rollback`",
                        request.release.short()
                    ),
                );
            }
            _ if !reopens && !self.is_stuck(id, workload, Some(&request)) => {
                return refuse("nothing-to-retry", format!("nothing of {id} failed, was lost or is stalled"));
            }
            _ => {}
        }
        let seq = self.record_command(command, CommandVerb::Retry);
        self.forget_failures(id);
        if reopens {
            self.record_rollout(id, &request, RolloutState::Rolling, "retry", &command.reason);
        }
        Ok((Some(seq), format!("release {} is tried again", request.release.short())))
    }

    fn is_stuck(&self, id: &WorkloadId, workload: &WorkloadState, request: Option<&Request>) -> bool {
        let unit_is_stuck = workload.units.iter().any(|(target, unit)| {
            let last = unit.last.as_ref().filter(|_| unit.attempt.is_none());
            let failed = last.is_some_and(|last| {
                last.outcome != AttemptOutcome::Succeeded && request.is_some_and(|request| request.id == last.request)
            });
            let stalled = self.unit_facts(id, target).is_some_and(|facts| facts.stalled.is_some());
            failed || stalled || unit.faults > 0
        });
        let job_is_lost = workload.jobs.values().flat_map(|jobs| jobs.values()).any(JobState::is_lost);
        let unresolved = self
            .pins
            .get(id)
            .is_some_and(|pins| pins.values().any(|pin| pin.failure.is_some()))
            || self
                .tags
                .get(id)
                .is_some_and(|tags| tags.values().any(|tags| tags.failure.is_some()));
        unit_is_stuck || job_is_lost || unresolved
    }

    /// Answers that were no good are asked for again, now.
    fn forget_failures(&mut self, id: &WorkloadId) {
        for facts in self.units.get_mut(id).into_iter().flat_map(|units| units.values_mut()) {
            facts.stalled = None;
            facts.check = None;
        }
        for facts in self.pins.get_mut(id).into_iter().flat_map(|pins| pins.values_mut()) {
            if facts.failure.take().is_some() {
                (facts.again_at, facts.tries) = (0, 0);
            }
        }
        for facts in self.tags.get_mut(id).into_iter().flat_map(|tags| tags.values_mut()) {
            if facts.failure.take().is_some() {
                (facts.again_at, facts.tries) = (0, 0);
            }
        }
        self.pullable.remove(id);
    }
}

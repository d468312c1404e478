//! People: some get in the way while faults strike; afterwards they do what `status` tells them to.

use crate::git::{email, workload_id};
use crate::options::{Feature, has};
use crate::world::World;
use holdfast_core::engine::{CommandRequest, Input, Person, Wish};
use holdfast_core::entry::{By, Precondition, RolloutState};
use holdfast_core::ids::WorkloadId;
use holdfast_core::state::{JobState, Request, WorkloadState};
use serde_json::{Value, json};

pub const PEOPLE: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// A wish by its JSON; none when this engine has no such command.
fn wish(value: Value) -> Option<Wish> {
    serde_json::from_value(value).ok()
}

fn person(name: &str) -> Person {
    Person {
        name: name.to_owned(),
        emails: [email(name)].into(),
    }
}

impl World {
    pub(crate) fn say(
        &mut self,
        daemon: usize,
        who: &str,
        on: Option<WorkloadId>,
        target: Option<String>,
        only_if: Precondition,
        wish: Wish,
    ) {
        if !self.daemons[daemon].runs() {
            return;
        }
        self.serial += 1;
        if let Wish::AcceptRewrite { commit } = &wish {
            self.daemons[daemon].accepted = Some(commit.clone());
        }
        self.tell(|| format!("{who} says {wish:?} on {on:?} {target:?}"));
        let request = CommandRequest {
            by: By {
                kind: "user".into(),
                id: who.to_owned(),
                auth: "peercred".into(),
            },
            person: Some(person(who)),
            workload: on,
            target,
            only_if,
            wish,
            reason: "simulated".into(),
            key: self.serial.to_string(),
        };
        self.input(
            daemon,
            Input::Command {
                token: self.serial,
                request,
            },
        );
    }

    /// Somebody does something, wise or not.
    pub(crate) fn meddle(&mut self) {
        let names: Vec<String> = self.scenario.workloads.keys().cloned().collect();
        let who = *self.random.pick(&PEOPLE).unwrap_or(&"alice");
        let daemon = self.random.below(self.daemons.len() as u64) as usize;
        let (Some(name), drawn) = (self.random.pick(&names).cloned(), self.random.below(16)) else {
            return;
        };
        let id = workload_id(&name);
        let Some(workload) = self.daemons[daemon].engine.state().workloads.get(&id).cloned() else {
            return;
        };
        let sites: Vec<String> = self.sites.keys().cloned().collect();
        let site = self.random.pick(&sites).cloned();
        let quarantined = workload.quarantine.keys().next().map(|release| release.to_string());
        let reference = workload.pins.keys().next().cloned().unwrap_or_default();
        let rewrite = self.rewrite(daemon);
        let more = has(Feature::Commands);
        let mut target = None;
        let chosen = match drawn {
            0 => Some(Wish::Pause),
            1 => Some(Wish::Abort),
            2 | 3 => Some(Wish::Advance),
            4 => quarantined.map(|release| Wish::Lift { release }),
            5 | 6 => Some(Wish::Rollback { to: None }),
            7 => rewrite.map(|commit| Wish::AcceptRewrite { commit }),
            8 if more => wish(json!({ "command": "retry" })),
            9 if more => wish(json!({ "command": "freeze" })),
            10 if more => {
                target = site;
                wish(json!({ "command": "freeze" }))
            }
            11 if more => wish(json!({ "command": "deploy-now" })),
            12 if more => wish(json!({ "command": "repin", "reference": reference })),
            13 if has(Feature::Approvals) => return self.approve(daemon, &id, &workload, who),
            14 => Some(Wish::AllowRemovals),
            _ => Some(Wish::Resume),
        };
        let Some(chosen) = chosen else { return };
        let on = target.is_none().then_some(id);
        self.say(daemon, who, on, target, Precondition::default(), chosen);
    }

    fn rewrite(&self, daemon: usize) -> Option<String> {
        self.daemons[daemon].engine.state().source.as_ref()?.rewrite.clone()
    }

    fn approve(&mut self, daemon: usize, id: &WorkloadId, workload: &WorkloadState, who: &str) {
        let (Some(request), Some(approval)) = (
            &workload.request,
            workload.spec.as_ref().and_then(|spec| spec.approval.clone()),
        ) else {
            return;
        };
        for step in approval.before {
            let only_if = Precondition {
                rollout: Some(request.id),
                release: Some(request.release.to_string()),
                step: None,
            };
            if let Some(yes) = wish(json!({ "command": "approve", "step": step })) {
                self.say(daemon, who, Some(id.clone()), None, only_if, yes);
            }
        }
    }

    /// Everything that waits for a person gets one.
    pub(crate) fn help(&mut self) {
        for daemon in 0..self.daemons.len() {
            if !self.daemons[daemon].runs() {
                continue;
            }
            if let Some(commit) = self.rewrite(daemon) {
                self.say(
                    daemon,
                    "alice",
                    None,
                    None,
                    Precondition::default(),
                    Wish::AcceptRewrite { commit },
                );
            }
            let state = self.daemons[daemon].engine.state();
            let frozen: Vec<String> = state
                .targets
                .iter()
                .filter(|(_, target)| target.frozen.is_some())
                .map(|(name, _)| name.clone())
                .collect();
            let units = state.workloads.values().flat_map(|workload| workload.units.values());
            let guarded = state.heal_guard.is_some() || units.clone().any(|unit| unit.heal_guard.is_some());
            let workloads: Vec<(WorkloadId, WorkloadState)> =
                state.workloads.iter().map(|(id, w)| (id.clone(), w.clone())).collect();
            for name in frozen {
                if let Some(thaw) = wish(json!({ "command": "thaw" })) {
                    self.say(daemon, "alice", None, Some(name), Precondition::default(), thaw);
                }
            }
            if let Some(allow) = wish(json!({ "command": "allow-heals" })).filter(|_| guarded) {
                self.say(daemon, "alice", None, None, Precondition::default(), allow);
            }
            for (id, workload) in workloads {
                self.help_workload(daemon, &id, &workload);
            }
        }
    }

    fn help_workload(&mut self, daemon: usize, id: &WorkloadId, workload: &WorkloadState) {
        let on = || Some(id.clone());
        // Nobody asks for a release that is known to be bad, or whose bytes are nowhere.
        let lost_bytes = self.scenario.registry_lost;
        let unpullable = |request: &Request| lost_bytes && request.reason == "ImagePull";
        let bad = |request: &Request| workload.quarantine.contains_key(&request.release) || unpullable(request);
        let asked = |request: &Request| request.paused || (request.state == RolloutState::Halted && !bad(request));
        let lost = workload.jobs.values().flat_map(|jobs| jobs.values()).any(JobState::is_lost);
        let stuck = workload
            .units
            .values()
            .any(|unit| unit.heals.len() >= 3 && unit.drift.is_some());
        if workload.frozen.is_some()
            && let Some(thaw) = wish(json!({ "command": "thaw" }))
        {
            self.say(daemon, "alice", on(), None, Precondition::default(), thaw);
        }
        if workload.units.values().any(|unit| unit.held) {
            self.say(daemon, "alice", on(), None, Precondition::default(), Wish::AllowRemovals);
        }
        if workload.request.as_ref().is_some_and(asked) {
            self.say(daemon, "alice", on(), None, Precondition::default(), Wish::Resume);
        }
        if (lost || stuck)
            && let Some(retry) = wish(json!({ "command": "retry" }))
        {
            self.say(daemon, "alice", on(), None, Precondition::default(), retry);
        }
        if workload.request.as_ref().is_some_and(Request::is_open) && has(Feature::Approvals) {
            for who in PEOPLE {
                self.approve(daemon, id, workload, who);
            }
        }
        let judged = |attempt: &holdfast_core::state::AttemptState| attempt.judged.is_some();
        if workload.units.values().filter_map(|unit| unit.attempt.as_ref()).any(judged) {
            self.say(daemon, "alice", on(), None, Precondition::default(), Wish::Advance);
        }
    }
}

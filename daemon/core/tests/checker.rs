//! The plan checker, each rule broken once: a unit in the middle of a canary, one thing wrong with it or with the plan.

use holdfast_core::check::{Violation, check_unit_plan};
use holdfast_core::entry::*;
use holdfast_core::ids::{Digest, ReleaseId, WorkloadId};
use holdfast_core::plan::facts::{TargetFacts, UnitFacts};
use holdfast_core::plan::unit::UnitContext;
use holdfast_core::plan::{Draft, UnitPlan};
use holdfast_core::spec::*;
use holdfast_core::state::*;
use holdfast_core::target::*;
use serde_json::json;
use std::collections::BTreeMap;

const OLD: u32 = 1;
const NEW: u32 = 2;

struct Case {
    state: State,
    facts: TargetFacts,
    plan: UnitPlan,
}

fn id() -> WorkloadId {
    WorkloadId::new("main", "app").unwrap()
}

fn plugin() -> PluginRef {
    PluginRef {
        name: "edge".into(),
        digest: Digest::of(b"p"),
        grants: Digest::of(b"g"),
    }
}

fn release(text: &str) -> ReleaseId {
    ReleaseId::of(text.as_bytes())
}

fn generation(text: &str) -> GenState {
    GenState {
        release: release(text),
        captured: Digest::of(b"c"),
        plugin: plugin(),
        attempt: 3,
        commit: String::new(),
        launched: true,
        fingerprint: String::new(),
        since: 0,
    }
}

fn seen(number: u32) -> GenerationState {
    GenerationState {
        workload: id().to_string(),
        number,
        release_id: String::new(),
        fence: 0,
        phase: GenPhase::Ready,
        reason: String::new(),
        message: String::new(),
        wanted: None,
        ready: 1,
        restarts: 0,
        proofs: vec![],
        fingerprint: String::new(),
        objects: vec![],
        instances: vec![],
    }
}

fn shares(list: &[(u32, u32)]) -> Vec<Share> {
    list.iter()
        .map(|(number, live)| Share {
            number: *number,
            live: *live,
        })
        .collect()
}

/// Shifting at 10 %, the old generation on 90 %, nothing wrong.
fn case() -> Case {
    let artifacts = [("main".to_owned(), ArtifactSpec::Reference("r.example.com/app:1".to_owned()))].into();
    let spec = WorkloadSpec {
        health: Health {
            timeout_ms: 2,
            interval_ms: 1,
            stable_ms: 1,
            http: None,
            telemetry_required: false,
        },
        ..WorkloadSpec::new(artifacts, Targets::Names(vec!["t".into()]).into())
    };
    let attempt = AttemptState {
        id: 3,
        request: 1,
        release: release("new"),
        captured: Digest::of(b"c"),
        generation: NEW,
        old: Some(OLD),
        began: 0,
        launch_t: 0,
        launched: true,
        weight: 1_000,
        weight_t: 0,
        passed: None,
        judged: None,
        undo: None,
        explained: false,
        abilities: None,
        revived: false,
        heal: false,
    };
    let unit = UnitState {
        next_generation: 3,
        generations: [(OLD, generation("old")), (NEW, generation("new"))].into(),
        current: Some(OLD),
        phase: PhaseName::Shifting,
        attempt: Some(attempt),
        last_result: 5,
        ..UnitState::default()
    };
    let known = ReleaseState {
        artifacts: [("main".to_owned(), Digest::of(b"a"))].into(),
        sources: [("main".to_owned(), "r.example.com/app".to_owned())].into(),
        images: BTreeMap::new(),
    };
    let request = Request {
        id: 1,
        release: release("new"),
        attempt: 1,
        commit: String::new(),
        state: RolloutState::Rolling,
        since: 0,
        began: 0,
        seq: 2,
        reason: String::new(),
        message: String::new(),
        paused: false,
        resumed: 1,
        wave: 0,
        now: false,
        approvals: Vec::new(),
        contributors: Default::default(),
    };
    let workload = WorkloadState {
        spec: Some(spec),
        presence: Some(Presence::Present),
        request: Some(request),
        releases: [(release("new"), known.clone()), (release("old"), known)].into(),
        units: [("t".to_owned(), unit)].into(),
        ..WorkloadState::default()
    };
    let target = TargetState {
        spec: Some(TargetSpec {
            labels: BTreeMap::new(),
            plugin: "edge".into(),
            config: json!({}),
            values: BTreeMap::new(),
        }),
        presence: Some(Presence::Present),
        claim: Claim::Ours,
        ..TargetState::default()
    };
    let route = RouteState {
        workload: id().to_string(),
        fence: 0,
        shares: shares(&[(OLD, 9_000), (NEW, 1_000)]),
        settled: true,
        fingerprint: String::new(),
    };
    let page = Page {
        generations: vec![seen(OLD), seen(NEW)],
        routes: vec![route],
        ..Page::default()
    };
    let state = State {
        size: 10,
        workloads: [(id(), workload)].into(),
        targets: [("t".to_owned(), target)].into(),
        ..State::default()
    };
    let facts = TargetFacts {
        observed: Some(Observed { begun: 9, page }),
        ..TargetFacts::default()
    };
    let plan = verb(Verb::Route {
        shares: shares(&[(OLD, 5_000), (NEW, 5_000)]),
        lead: OLD,
    });
    Case { state, facts, plan }
}

fn verb(verb: Verb) -> UnitPlan {
    UnitPlan {
        verb: Some(verb),
        ..UnitPlan::default()
    }
}

impl Case {
    fn unit(&mut self) -> &mut UnitState {
        self.workload().units.get_mut("t").unwrap()
    }
    fn workload(&mut self) -> &mut WorkloadState {
        self.state.workloads.get_mut(&id()).unwrap()
    }
    fn page(&mut self) -> &mut Page {
        &mut self.facts.observed.as_mut().unwrap().page
    }
    fn attempt(&mut self) -> &mut AttemptState {
        self.unit().attempt.as_mut().unwrap()
    }
    fn quarantine(&mut self) {
        let quarantine = QuarantineState {
            attempt: 1,
            values: None,
            seq: 4,
            reason: String::new(),
            message: String::new(),
        };
        self.workload().quarantine.insert(release("new"), vec![quarantine]);
    }
    fn check(&self) -> Result<(), Violation> {
        let (id, target, facts) = (id(), "t".to_owned(), UnitFacts::default());
        let context = UnitContext::of(&self.state, &id, &target, &self.facts, &facts, 1).unwrap();
        check_unit_plan(&context, &self.plan)
    }
}

type Change = fn(&mut Case);

#[test]
fn nothing_wrong_passes() {
    let good: [(&str, Change); 5] = [
        ("the next weight", |_| {}),
        ("launch", |case| {
            case.unit().phase = PhaseName::Launching;
            case.plan = verb(Verb::Launch {
                generation: NEW,
                size: 1,
            });
        }),
        ("retire the replaced", |case| {
            case.unit().phase = PhaseName::Retiring;
            case.attempt().weight = 10_000;
            case.page().routes[0].shares = shares(&[(NEW, 10_000)]);
            case.plan = verb(Verb::Retire {
                generation: OLD,
                last: false,
            });
        }),
        ("way back", |case| {
            case.unit().phase = PhaseName::Undoing;
            case.plan = verb(Verb::Route {
                shares: shares(&[(OLD, 10_000), (NEW, 0)]),
                lead: OLD,
            });
        }),
        ("retire the candidate", |case| {
            case.unit().phase = PhaseName::Undoing;
            case.page().routes[0].shares = shares(&[(OLD, 10_000)]);
            case.plan = verb(Verb::Retire {
                generation: NEW,
                last: false,
            });
        }),
    ];
    for (what, change) in good {
        let mut case = case();
        change(&mut case);
        assert_eq!(case.check(), Ok(()), "{what}");
    }
}

#[test]
fn each_rule_broken_once() {
    let bad: [(Violation, Change); 15] = [
        (Violation::SecondIntent("route"), |case| {
            let verb = Verb::Retire {
                generation: OLD,
                last: false,
            };
            case.unit().intent = Some(OpenIntent {
                seq: 6,
                verb,
                plugin: plugin(),
                tries: 0,
                since: 0,
                last_t: 0,
                last_fault: None,
            });
        }),
        (Violation::Unpinned, |case| {
            case.unit().phase = PhaseName::Launching;
            case.workload().releases.clear();
            case.plan = verb(Verb::Launch {
                generation: NEW,
                size: 1,
            });
        }),
        (Violation::NotTheCandidate(OLD), |case| {
            case.plan = verb(Verb::Launch {
                generation: OLD,
                size: 1,
            })
        }),
        (Violation::RetireLive(OLD), |case| {
            case.unit().phase = PhaseName::Retiring;
            case.plan = verb(Verb::Retire {
                generation: OLD,
                last: false,
            });
        }),
        (Violation::RetireUnreplaced(OLD), |case| {
            case.page().routes[0].shares = shares(&[(NEW, 10_000)]);
            case.plan = verb(Verb::Retire {
                generation: OLD,
                last: false,
            });
        }),
        (Violation::RetireUnreplaced(NEW), |case| {
            case.unit().phase = PhaseName::Undoing;
            case.page().routes[0].shares = vec![];
            case.plan = verb(Verb::Retire {
                generation: NEW,
                last: false,
            });
        }),
        (Violation::Unproven(NEW), |case| case.unit().phase = PhaseName::Proving),
        (Violation::WrongWayBack(OLD), |case| case.unit().phase = PhaseName::Undoing),
        (Violation::Quarantined, Case::quarantine),
        (Violation::VerdictAlone, |case| {
            let undo = AttemptChange::Undo {
                outcome: AttemptOutcome::Bad,
                reason: String::new(),
                message: String::new(),
            };
            case.plan = UnitPlan {
                records: vec![Draft::new(On::default(), vec![], Body::Attempt(undo))],
                ..UnitPlan::default()
            };
        }),
        (Violation::Foreign, |case| {
            case.state.targets.get_mut("t").unwrap().claim = Claim::Conflict("other".into())
        }),
        (Violation::UnprovenRemoval, |case| {
            let leave = AttemptChange::Phase {
                to: PhaseName::Leaving,
                reason: String::new(),
                message: String::new(),
            };
            case.plan = UnitPlan {
                records: vec![Draft::new(On::default(), vec![], Body::Attempt(leave))],
                ..UnitPlan::default()
            };
        }),
        (Violation::Shares(shares(&[(OLD, 5_000), (NEW, 4_000)])), |case| {
            case.plan = verb(Verb::Route {
                shares: shares(&[(OLD, 5_000), (NEW, 4_000)]),
                lead: OLD,
            });
        }),
        (Violation::WeightFalls { from: 1_000, to: 500 }, |case| {
            case.plan = verb(Verb::Route {
                shares: shares(&[(OLD, 9_500), (NEW, 500)]),
                lead: OLD,
            });
        }),
        (Violation::Stale, |case| case.facts.observed.as_mut().unwrap().begun = 4),
    ];
    for (violation, change) in bad {
        let mut case = case();
        change(&mut case);
        assert_eq!(case.check(), Err(violation));
    }
}

//! The plan checker, each rule broken once: a unit in the middle of a canary, one thing wrong with it or with the plan.

use holdfast_core::check::{Violation, check_rollout_plan, check_unit_plan};
use holdfast_core::config::EngineConfig;
use holdfast_core::entry::*;
use holdfast_core::ids::{Digest, ReleaseId, WorkloadId};
use holdfast_core::plan::facts::{Look, Seen, UnitFacts};
use holdfast_core::plan::unit::UnitContext;
use holdfast_core::plan::{Draft, RolloutPlan, UnitPlan};
use holdfast_core::spec::*;
use holdfast_core::state::*;
use holdfast_core::target::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

const OLD: u32 = 1;
const NEW: u32 = 2;

struct Case {
    state: State,
    begun: u64,
    seen: Seen,
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
        size: 1,
        abilities: None,
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
        before: vec![],
        after: vec![],
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
        advanced: 1,
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
        spec: Some(
            TargetSpec {
                labels: BTreeMap::new(),
                plugin: "edge".into(),
                config: json!({}),
                values: BTreeMap::new(),
            }
            .into(),
        ),
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
    let seen = Seen {
        generations: vec![seen(OLD), seen(NEW)],
        route: Some(route),
    };
    let state = State {
        size: 10,
        workloads: [(id(), workload)].into(),
        targets: [("t".to_owned(), target)].into(),
        ..State::default()
    };
    let plan = verb(Verb::Route {
        shares: shares(&[(OLD, 5_000), (NEW, 5_000)]),
        lead: OLD,
    });
    Case {
        state,
        begun: 9,
        seen,
        plan,
    }
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
    fn routed(&mut self, list: &[(u32, u32)]) {
        self.seen.route.as_mut().unwrap().shares = shares(list);
    }
    fn see(&mut self, number: u32) -> &mut GenerationState {
        self.seen.generations.iter_mut().find(|state| state.number == number).unwrap()
    }
    fn spec(&mut self) -> &mut WorkloadSpec {
        self.workload().spec.as_mut().unwrap()
    }
    fn can(&mut self, abilities: Abilities) {
        self.attempt().abilities = Some(abilities);
    }
    fn rest(&mut self) {
        let unit = self.unit();
        unit.attempt = None;
        unit.phase = PhaseName::Stable;
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
        let (id, target, facts, config) = (id(), "t".to_owned(), UnitFacts::default(), EngineConfig::default());
        let workload = &self.state.workloads[&id];
        let context = UnitContext {
            state: &self.state,
            config: &config,
            id: &id,
            target: &target,
            workload,
            unit: &workload.units["t"],
            look: Some(Look {
                asked_t: 0,
                begun: self.begun,
                t: 1,
                seen: Arc::new(self.seen.clone()),
            }),
            away: None,
            facts: &facts,
            now: 1,
        };
        check_unit_plan(&context, &self.plan)
    }
}

type Change = fn(&mut Case);

#[test]
fn nothing_wrong_passes() {
    let good: [(&str, Change); 13] = [
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
            case.routed(&[(NEW, 10_000)]);
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
            case.routed(&[(OLD, 10_000)]);
            case.plan = verb(Verb::Retire {
                generation: NEW,
                last: false,
            });
        }),
        ("park the replaced", |case| {
            case.unit().phase = PhaseName::Retiring;
            case.attempt().weight = 10_000;
            case.routed(&[(NEW, 10_000)]);
            case.plan = scale(OLD, 0);
        }),
        ("park the old where two cannot be", |case| {
            case.unit().phase = PhaseName::Launching;
            case.spec().strategy = Strategy::Recreate { bake_ms: 0 };
            case.plan = scale(OLD, 0);
        }),
        ("off line where two cannot be", |case| {
            case.unit().phase = PhaseName::Undoing;
            case.can(no_overlap());
            case.plan = verb(Verb::Route {
                shares: shares(&[(OLD, 0), (NEW, 0)]),
                lead: OLD,
            });
        }),
        ("fewer old ones above the floor", |case| {
            rolling(case);
            case.plan = scale(OLD, 2);
        }),
        ("what is live by its route", |case| {
            case.unit().phase = PhaseName::Launching;
            case.can(Abilities {
                staged: false,
                ..Abilities::default()
            });
            case.plan = verb(Verb::Route {
                shares: shares(&[(OLD, 0), (NEW, 10_000)]),
                lead: NEW,
            });
        }),
        ("a job in its turn", |case| {
            case.unit().phase = PhaseName::Preparing;
            case.plan = run("migrate", Hook::Before);
        }),
        ("an approved step", |case| {
            approval(case);
            case.workload().request.as_mut().unwrap().approvals = vec![approved("a"), approved("b")];
        }),
        ("what reappeared", |case| {
            case.rest();
            case.seen.generations.push(seen(7));
            case.plan = retire(7);
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
    let bad: [(Violation, Change); 31] = [
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
            case.routed(&[(NEW, 10_000)]);
            case.plan = verb(Verb::Retire {
                generation: OLD,
                last: false,
            });
        }),
        (Violation::RetireUnreplaced(NEW), |case| {
            case.unit().phase = PhaseName::Undoing;
            case.routed(&[]);
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
        (Violation::Stale, |case| case.begun = 4),
        (Violation::Quarantined, |case| {
            case.unit().phase = PhaseName::Launching;
            case.quarantine();
            case.plan = verb(Verb::Launch {
                generation: NEW,
                size: 1,
            });
        }),
        (Violation::UnprovenRemoval, |case| {
            case.rest();
            case.unit().phase = PhaseName::Leaving;
            case.unit().held = true;
            case.plan = retire(OLD);
        }),
        (Violation::RetireLive(OLD), |case| {
            case.unit().phase = PhaseName::Retiring;
            case.attempt().weight = 10_000;
            case.plan = scale(OLD, 0);
        }),
        (Violation::RetireUnreplaced(OLD), |case| case.plan = scale(OLD, 0)),
        (Violation::RetireUnreplaced(OLD), |case| {
            case.rest();
            case.plan = scale(OLD, 0);
        }),
        (Violation::RetireUnreplaced(OLD), |case| {
            case.rest();
            case.plan = retire(OLD);
        }),
        (Violation::BelowFloor { left: 2, floor: 3 }, |case| {
            rolling(case);
            case.plan = scale(OLD, 1);
        }),
        (Violation::Job("migrate".into()), |case| {
            case.unit().phase = PhaseName::Launching;
            let job = JobRef {
                name: "migrate".into(),
                scope: JobScope::Target,
                repeatable: false,
            };
            case.workload().releases.get_mut(&release("new")).unwrap().before = vec![job];
            case.plan = verb(Verb::Launch {
                generation: NEW,
                size: 1,
            });
        }),
        (Violation::Job("migrate".into()), |case| {
            case.unit().phase = PhaseName::Preparing;
            known_job(case, JobOutcome::Done);
            case.plan = run("migrate", Hook::Before);
        }),
        (Violation::Job("migrate".into()), |case| {
            // Lost, and nobody said to run it again.
            case.unit().phase = PhaseName::Preparing;
            known_job(case, JobOutcome::Lost);
            case.plan = run("migrate", Hook::Before);
        }),
        (Violation::Job("check".into()), |case| case.plan = run("check", Hook::After)),
        (Violation::Unapproved(5_000), approval),
        (Violation::Unapproved(5_000), |case| {
            // The same person twice is one.
            approval(case);
            case.workload().request.as_mut().unwrap().approvals = vec![approved("a"), approved("a")];
        }),
        (Violation::WrongWayBack(OLD), |case| {
            case.rest();
            case.plan = verb(Verb::Route {
                shares: shares(&[(OLD, 5_000), (NEW, 5_000)]),
                lead: OLD,
            });
        }),
        (Violation::NotTheCandidate(3), |case| {
            case.rest();
            case.plan = UnitPlan::record(Draft::new(On::default(), vec![], Body::Attempt(began(3, "new", false))));
        }),
        (Violation::NotAdmitted, |case| {
            case.rest();
            case.workload().frozen = Some(frozen());
            case.plan = UnitPlan::record(Draft::new(On::default(), vec![], Body::Attempt(began(3, "old", true))));
        }),
    ];
    for (violation, change) in bad {
        let mut case = case();
        change(&mut case);
        assert_eq!(case.check(), Err(violation));
    }
}

fn scale(generation: u32, size: u32) -> UnitPlan {
    verb(Verb::Scale { generation, size })
}

fn retire(generation: u32) -> UnitPlan {
    verb(Verb::Retire { generation, last: false })
}

fn known_job(case: &mut Case, outcome: JobOutcome) {
    let job = JobState {
        outcome,
        target: "t".into(),
        seq: 4,
        attempt: 1,
        run: 1,
        again: false,
        t: 0,
        message: String::new(),
    };
    let jobs = [("before/migrate@t".to_owned(), job)].into();
    case.workload().jobs.insert(release("new"), jobs);
}

fn run(job: &str, hook: Hook) -> UnitPlan {
    verb(Verb::Run {
        generation: NEW,
        job: job.into(),
        hook,
        scope: JobScope::Target,
        run: 1,
    })
}

fn no_overlap() -> Abilities {
    Abilities {
        overlap: false,
        ..Abilities::default()
    }
}

/// Two of four new instances are ready, and three of four are to be in all.
fn rolling(case: &mut Case) {
    case.spec().instances = 4;
    case.spec().strategy = Strategy::Rolling {
        surge: Count::Number(1),
        max_unavailable: Count::Number(1),
        bake_ms: 0,
    };
    for (number, ready, wanted) in [(OLD, 3, 3), (NEW, 1, 1)] {
        let state = case.see(number);
        (state.ready, state.wanted) = (ready, Some(wanted));
    }
}

fn approval(case: &mut Case) {
    case.spec().approval = Some(Approval {
        before: vec![5_000],
        count: 2,
        allow_author: false,
    });
}

fn approved(by: &str) -> ApprovalState {
    ApprovalState {
        step: 5_000,
        approver: by.into(),
        seq: 4,
    }
}

fn frozen() -> Frozen {
    Frozen {
        seq: 4,
        by: "a".into(),
        reason: String::new(),
        t: 0,
    }
}

fn began(generation: u32, name: &str, heal: bool) -> AttemptChange {
    AttemptChange::Began {
        release: release(name),
        values: Digest::of(b"c"),
        generation,
        old: Some(OLD),
        plugin: plugin(),
        request: 1,
        abilities: None,
        revived: false,
        heal,
    }
}

fn change(to: RolloutState, request: u64, artifact: &[u8]) -> Draft {
    let body = RolloutChange {
        to,
        release: release(std::str::from_utf8(artifact).unwrap()),
        wave: 0,
        reason: "requested".into(),
        message: String::new(),
        sources: BTreeMap::new(),
        before: vec![],
        after: vec![],
        artifacts: [("main".to_owned(), Digest::of(artifact))].into(),
    };
    let on = On {
        rollout: Some(request),
        ..On::workload(&id())
    };
    Draft::new(on, vec![], Body::Rollout(body))
}

fn admission(generation: u32, name: &str) -> Draft {
    let on = On {
        target: Some("t".into()),
        ..On::workload(&id())
    };
    Draft::new(on, vec![], Body::Attempt(began(generation, name, false)))
}

#[test]
fn each_rule_of_a_rollout_broken_once() {
    type Broken = (Option<Violation>, Draft, Change);
    let cases: [Broken; 14] = [
        (None, admission(3, "new"), Case::rest),
        (None, change(RolloutState::Rolling, 9, b"new"), |_| {}),
        (None, change(RolloutState::Succeeded, 1, b"old"), Case::rest),
        (
            Some(Violation::Unpinned),
            change(RolloutState::Rolling, 9, b"unheard of"),
            |_| {},
        ),
        (
            Some(Violation::Quarantined),
            change(RolloutState::Rolling, 9, b"new"),
            Case::quarantine,
        ),
        (
            Some(Violation::NotAdmitted),
            change(RolloutState::Rolling, 9, b"new"),
            |case| case.workload().frozen = Some(frozen()),
        ),
        (
            Some(Violation::VerdictAlone),
            change(RolloutState::Aborting, 1, b"new"),
            |_| {},
        ),
        (
            Some(Violation::NotDone(1)),
            change(RolloutState::Succeeded, 1, b"new"),
            Case::rest,
        ),
        (Some(Violation::SecondIntent("attempt")), admission(3, "new"), |_| {}),
        (Some(Violation::NotTheCandidate(2)), admission(2, "new"), Case::rest),
        (Some(Violation::Quarantined), admission(3, "new"), |case| {
            case.rest();
            case.quarantine();
        }),
        (Some(Violation::Unpinned), admission(3, "other"), Case::rest),
        (Some(Violation::Foreign), admission(3, "new"), |case| {
            case.rest();
            case.state.targets.get_mut("t").unwrap().claim = Claim::Ahead(7);
        }),
        (Some(Violation::NotAdmitted), admission(3, "new"), |case| {
            case.rest();
            case.state.targets.get_mut("t").unwrap().presence = Some(Presence::Absent);
        }),
    ];
    for (expected, draft, change) in cases {
        let mut case = case();
        change(&mut case);
        let plan = RolloutPlan {
            records: vec![draft.clone()],
            ..RolloutPlan::default()
        };
        let workload = &case.state.workloads[&id()];
        let verdict = check_rollout_plan(&case.state, &id(), workload, &plan, 1);
        assert_eq!(verdict.err(), expected, "{draft:?}");
    }
}

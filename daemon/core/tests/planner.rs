//! The planners, driven to rest over a model of targets that do at once what they are asked: whatever the strategy and
//! whatever the target can do, it converges, nothing is retired before its replacement is proven, nothing is launched that
//! is not pinned, and what has converged plans nothing more.

use holdfast_core::config::{BindingRule, EngineConfig};
use holdfast_core::engine::*;
use holdfast_core::entry::*;
use holdfast_core::ids::{Digest, FULL_SHARE, WorkloadId};
use holdfast_core::manifest::Desired;
use holdfast_core::plan::{Ask, PLANNER_VERSION, unable};
use holdfast_core::spec::*;
use holdfast_core::state::State;
use holdfast_core::target::*;
use proptest::prelude::{Just, ProptestConfig, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as _;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const HOUR_MS: u64 = 3_600_000;

#[derive(Debug, Clone, Default)]
struct Model {
    /// Number to size.
    generations: BTreeMap<u32, u32>,
    bad: BTreeSet<u32>,
    shares: BTreeMap<u32, u32>,
    fence: u64,
    jobs: BTreeMap<String, u32>,
}

struct Harness {
    engine: Engine,
    now: u64,
    can: Abilities,
    targets: BTreeMap<String, Model>,
    revision: u64,
    versions_bad: BTreeSet<u64>,
    entries: Vec<Entry>,
    durable: u64,
    calls: Vec<(String, Verb)>,
    floor: u32,
}

fn id() -> WorkloadId {
    WorkloadId::new("main", "app").unwrap()
}

fn config() -> EngineConfig {
    EngineConfig {
        plugins: [("p".to_owned(), Digest::of(b"plugin"))].into(),
        bindings: vec![BindingRule {
            target: "*".into(),
            plugin: "p".into(),
            grants: Digest::of(b"grants"),
            fixed: BTreeMap::new(),
        }],
        tag_poll_ms: 100 * HOUR_MS,
        ..EngineConfig::default()
    }
}

fn spec(strategy: Strategy, instances: u32) -> WorkloadSpec {
    WorkloadSpec {
        instances,
        strategy,
        health: Health {
            timeout_ms: 60_000,
            interval_ms: 1_000,
            stable_ms: 2_000,
            http: None,
            telemetry_required: false,
        },
        standby: 0,
        ..WorkloadSpec::new(BTreeMap::new(), Targets::MatchLabels(BTreeMap::new()).into())
    }
}

impl Harness {
    fn new(targets: usize, can: Abilities) -> Self {
        let mut harness = Self {
            engine: Engine::new(config(), State::default()),
            now: 1,
            can,
            targets: (0..targets).map(|n| (format!("t{n}"), Model::default())).collect(),
            revision: 0,
            versions_bad: BTreeSet::new(),
            entries: Vec::new(),
            durable: 0,
            calls: Vec::new(),
            floor: 0,
        };
        let term = Term {
            binary: "test".into(),
            planner: PLANNER_VERSION,
            config: Digest::of(b"c"),
            previous_size: 0,
            previous_root: String::new(),
            clean: true,
            epoch: 1,
            owner: "testowner".into(),
        };
        harness.input(Input::Boot(term));
        harness
    }

    /// Commits the workload at one version, as it is given or removed.
    fn commit(&mut self, version: u64, spec: Option<WorkloadSpec>) {
        self.revision += 1;
        let target = TargetSpec {
            labels: BTreeMap::new(),
            plugin: "p".into(),
            config: json!({}),
            values: BTreeMap::new(),
        };
        let workloads = spec.map(|spec| {
            let reference = ArtifactSpec::Reference(format!("r.example.com/app:{version}"));
            let spec = WorkloadSpec {
                artifacts: [("main".to_owned(), reference)].into(),
                ..spec
            };
            (id(), Arc::new(spec))
        });
        let desired = Desired {
            workloads: workloads.into_iter().collect(),
            targets: self.targets.keys().map(|name| (name.clone(), target.clone())).collect(),
            absence_proven: true,
            ..Desired::default()
        };
        let revision = Revision {
            commit: format!("{:040x}", self.revision),
            fast_forward: true,
            adopted: true,
            desired: desired.into(),
            ..Revision::default()
        };
        self.input(Input::Revision(Box::new(revision)));
    }

    fn input(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let now = Now {
                t: self.now,
                wall_ms: self.now,
            };
            if let Input::Durable { size } = &input {
                self.durable = *size;
            }
            for output in self.engine.handle(now, input) {
                if let Output::Ask(Ask::Room { .. } | Ask::Explain { .. } | Ask::Diff { .. }) = &output {
                    let last = self
                        .entries
                        .iter()
                        .rfind(|entry| matches!(entry.body, Body::Attempt(AttemptChange::Began { .. })));
                    assert!(
                        last.is_none_or(|began| began.seq < self.durable),
                        "asked about what the ledger does not have"
                    );
                }
                match output {
                    Output::Append { entries, .. } => {
                        self.entries.extend(entries);
                        inputs.push(Input::Durable {
                            size: self.engine.state().size,
                        });
                    }
                    Output::Ask(ask) => inputs.insert(0, self.answer(ask)),
                    Output::Call(call) => inputs.insert(0, self.perform(call.into_inner())),
                    Output::LoadImages { blob } => inputs.push(Input::Images {
                        blob,
                        accepted: BTreeSet::new(),
                    }),
                    Output::Reply { .. } => {}
                }
            }
        }
    }

    /// Lets time pass from wake to wake.
    fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(wake) = self.engine.next_wake().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake) + 1;
            self.input(Input::Tick);
        }
        self.now = end;
    }

    fn answer(&self, ask: Ask) -> Input {
        match ask {
            Ask::Observe { target, begun } => {
                let page = self.page(&self.targets[&target]);
                Input::Observed {
                    target,
                    begun,
                    outcome: Ok(page),
                }
            }
            Ask::Pin { workload, reference } => Input::Pinned {
                outcome: Ok(Resolved {
                    digest: Digest::of(reference.as_bytes()),
                    source: "r.example.com/app".into(),
                    images: b"[]".to_vec(),
                    accepted: BTreeSet::new(),
                    blobs: Vec::new(),
                    evidence: json!({}),
                }),
                workload,
                reference,
            },
            Ask::Check {
                workload, target, key, ..
            }
            | Ask::CheckRelease {
                workload, target, key, ..
            } => Input::Checked {
                workload,
                target,
                key,
                outcome: Ok(Report {
                    problems: Vec::new(),
                    abilities: self.can.clone(),
                }),
            },
            Ask::Probe {
                workload,
                target,
                generation,
                ..
            } => Input::Probed {
                workload,
                target,
                generation,
                failure: None,
                asked: true,
            },
            Ask::Measure { workload, target, .. } => Input::Measured {
                workload,
                target,
                samples: Ok(BTreeMap::new()),
                answers: BTreeMap::new(),
            },
            Ask::Explain {
                workload,
                target,
                generation,
            } => Input::Explained {
                workload,
                target,
                generation,
                excerpts: Ok(Vec::new()),
            },
            Ask::Room {
                workload,
                target,
                generation,
            } => Input::Roomed {
                workload,
                target,
                generation,
                room: Ok(None),
            },
            Ask::Diff {
                workload,
                target,
                generation,
            } => Input::Diffed {
                workload,
                target,
                generation,
                changes: Ok(Vec::new()),
            },
            Ask::Tags { workload, repository } => Input::Tagged {
                workload,
                repository,
                outcome: Ok(Vec::new()),
            },
            Ask::Pullable { workload, release } => Input::PullChecked {
                workload,
                release,
                outcome: Ok(()),
            },
        }
    }

    fn page(&self, model: &Model) -> Page {
        let sized = self.can.sizing != Sizing::Unsized;
        let generations = model.generations.iter().map(|(number, size)| GenerationState {
            workload: id().to_string(),
            number: *number,
            release_id: String::new(),
            fence: model.fence,
            phase: match (size, model.bad.contains(number)) {
                (0, _) => GenPhase::Parked,
                (_, true) => GenPhase::Failing,
                _ => GenPhase::Ready,
            },
            reason: String::new(),
            message: String::new(),
            wanted: sized.then_some(*size),
            ready: if model.bad.contains(number) { 0 } else { *size },
            restarts: 0,
            proofs: Vec::new(),
            fingerprint: format!("f{number}"),
            objects: Vec::new(),
            instances: Vec::new(),
        });
        let shares = model.shares.iter().map(|(number, live)| Share {
            number: *number,
            live: *live,
        });
        let route = RouteState {
            workload: id().to_string(),
            fence: model.fence,
            shares: shares.collect(),
            settled: true,
            fingerprint: String::new(),
        };
        Page {
            owner: None,
            high_fence: model.fence,
            routes: if model.shares.is_empty() { Vec::new() } else { vec![route] },
            generations: generations.collect(),
            strangers: Vec::new(),
            more: None,
        }
    }

    fn perform(&mut self, call: Call) -> Input {
        let version_is_bad = self.is_bad(&call);
        let model = self.targets.get_mut(&call.target).unwrap();
        assert!(call.fence > model.fence, "a fence that does not rise");
        model.fence = call.fence;
        self.calls.push((call.target.clone(), call.verb.clone()));
        match &call.verb {
            Verb::Launch { generation, size } => {
                assert!(*size > 0);
                model.generations.insert(*generation, *size);
                if version_is_bad {
                    model.bad.insert(*generation);
                }
            }
            Verb::Scale { generation, size } => {
                *model.generations.get_mut(generation).expect("scale of what is there") = *size;
                if *size == 0 {
                    model.shares.remove(generation);
                }
            }
            Verb::Route { shares, lead } => {
                if !self.can.staged {
                    model.generations = [(*lead, 1)].into();
                    model.bad.retain(|number| number == lead);
                    if version_is_bad {
                        model.bad.insert(*lead);
                    }
                }
                let there = |number: &u32| model.generations.get(number).is_some_and(|size| *size > 0);
                let live = shares.iter().filter(|share| share.live > 0);
                model.shares = live.map(|share| (share.number, share.live)).collect();
                assert!(model.shares.keys().all(there), "traffic to what is not there: {shares:?}");
            }
            Verb::Retire { generation, last } => {
                let live = model.shares.get(generation).copied().unwrap_or(0);
                assert!(live == 0 || *last, "retired while live");
                model.generations.remove(generation);
                model.shares.remove(generation);
            }
            Verb::Run { job, hook, .. } => {
                let key = format!("{}/{job}/{}", hook.as_str(), call.deploy_id);
                *model.jobs.entry(key).or_default() += 1;
            }
        }
        if self.floor > 0 && self.can.overlap && self.can.staged {
            self.check_floor(&call.target);
        }
        Input::Called {
            workload: call.workload,
            target: call.target,
            intent: call.intent,
            outcome: Ok(Progress::Done),
            sent: Vec::new(),
        }
    }

    fn is_bad(&self, call: &Call) -> bool {
        let state = self.engine.state();
        let unit = state.unit(&id(), &call.target).unwrap();
        let Some(generation) = unit.generations.get(&call.verb.generation()) else {
            return false;
        };
        let digest = &state.workloads[&id()].releases[&generation.release].artifacts["main"];
        let mut bad = self.versions_bad.iter();
        bad.any(|version| *digest == Digest::of(format!("r.example.com/app:{version}").as_bytes()))
    }

    /// Whoever served goes on serving with enough instances, whatever is done.
    fn check_floor(&self, target: &str) {
        let model = &self.targets[target];
        let routed = |number: &u32| self.can.routing == Routing::Fixed || model.shares.get(number).is_some_and(|live| *live > 0);
        let ready: u32 = model
            .generations
            .iter()
            .filter(|(number, _)| !model.bad.contains(number) && routed(number))
            .map(|(_, size)| *size)
            .sum();
        assert!(ready >= self.floor, "{ready} instances serve on {target}: {model:?}");
    }

    fn release_of(&self, target: &str) -> Option<Digest> {
        let state = self.engine.state();
        let unit = state.unit(&id(), target)?;
        let generation = unit.generations.get(&unit.current?)?;
        Some(state.workloads[&id()].releases[&generation.release].artifacts["main"].clone())
    }

    /// Every target serves this version whole, and knows of nothing else but what is parked.
    fn assert_serves(&self, version: u64) {
        let wanted = Digest::of(format!("r.example.com/app:{version}").as_bytes());
        for (target, model) in &self.targets {
            let waiting = self.engine.waiting(&id(), Some(target));
            assert_eq!(
                self.release_of(target).as_ref(),
                Some(&wanted),
                "{target} waits on {waiting:?}: {model:?}"
            );
            let unit = self.engine.state().unit(&id(), target).unwrap();
            let current = unit.current.unwrap();
            if self.can.routing != Routing::Fixed {
                assert_eq!(model.shares, [(current, FULL_SHARE)].into(), "{target}");
            }
            let others = model.generations.iter().filter(|(number, _)| **number != current);
            for (number, size) in others {
                assert!(*size == 0 && unit.parked.contains(number), "{target} still has {number}");
            }
        }
    }

    /// Looking again, for a while, decides nothing.
    fn assert_at_rest(&mut self) {
        let (entries, calls) = (self.entries.len(), self.calls.len());
        self.run(30 * 60_000);
        assert_eq!(self.calls.len(), calls, "{:?}", self.calls.last());
        assert_eq!(self.entries.len(), entries, "{:?}", self.entries.last());
    }
}

fn strategies() -> impl proptest::strategy::Strategy<Value = Strategy> {
    let count = prop_oneof![(0u32..3).prop_map(Count::Number), (0u32..6_000).prop_map(Count::Share)];
    let steps = prop::collection::btree_set(1u32..100, 0..3).prop_map(|weights| {
        let rising = weights.into_iter().map(|weight| weight * 100).chain([FULL_SHARE]);
        rising.map(|weight| CanaryStep { weight, hold_ms: 5_000 }).collect::<Vec<_>>()
    });
    prop_oneof![
        (0u64..5_000).prop_map(|bake_ms| Strategy::BlueGreen { bake_ms }),
        (steps, 0u64..5_000).prop_map(|(steps, bake_ms)| Strategy::Canary { steps, bake_ms }),
        (count.clone(), count, 0u64..5_000).prop_map(|(surge, max_unavailable, bake_ms)| Strategy::Rolling {
            surge,
            max_unavailable,
            bake_ms
        }),
        Just(Strategy::Recreate { bake_ms: 0 }),
    ]
}

fn abilities() -> impl proptest::strategy::Strategy<Value = Abilities> {
    let routing = prop_oneof![
        Just(Routing::Weighted),
        Just(Routing::Single),
        Just(Routing::Pooled),
        Just(Routing::Fixed)
    ];
    let sizing = prop_oneof![Just(Sizing::Planned), Just(Sizing::Unsized)];
    (routing, sizing, prop::bool::weighted(0.8), prop::bool::weighted(0.8)).prop_map(|(routing, sizing, overlap, staged)| {
        Abilities {
            routing,
            sizing,
            overlap,
            staged,
            ..Abilities::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(192), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn converges_whatever_the_target_can(
        strategy in strategies(),
        can in abilities(),
        targets in 1usize..4,
        instances in 1u32..6,
        standby in 0u32..3,
        wave in 1u32..3,
        jobs in any::<bool>(),
    ) {
        let instances = if can.sizing == Sizing::Unsized { 1 } else { instances };
        let mut spec = spec(strategy, instances);
        spec.standby = standby;
        spec.placement.waves = vec![Wave { targets: Count::Number(wave), hold_ms: 10_000 }];
        if jobs {
            let job = |name: &str, scope| Job { name: name.into(), template: json!({}), scope, repeatable: false };
            spec.before = vec![job("migrate", JobScope::Placement), job("prepare", JobScope::Target)];
            spec.after = vec![job("clean", JobScope::Target)];
        }
        let refused = unable(&spec, &can).is_some();
        let mut world = Harness::new(targets, can.clone());
        world.commit(1, Some(spec.clone()));
        world.run(HOUR_MS);
        if refused {
            // What cannot be done is refused before anything is touched.
            prop_assert!(world.calls.is_empty());
            prop_assert_eq!(world.engine.state().workloads[&id()].request.as_ref().unwrap().state, RolloutState::Refused);
            return Ok(());
        }
        world.assert_serves(1);
        world.floor = match &spec.strategy {
            Strategy::Rolling { max_unavailable, .. } => instances - max_unavailable.down(instances),
            Strategy::Recreate { .. } => 0,
            _ => instances,
        };
        world.commit(2, Some(spec.clone()));
        world.run(HOUR_MS);
        world.assert_serves(2);
        // A bad one comes back by itself, and its second try is refused.
        world.versions_bad.insert(3);
        world.commit(3, Some(spec.clone()));
        world.run(HOUR_MS);
        world.assert_serves(2);
        world.commit(2, Some(spec.clone()));
        world.run(HOUR_MS);
        world.commit(3, Some(spec.clone()));
        let calls = world.calls.len();
        world.run(HOUR_MS);
        prop_assert_eq!(world.calls.len(), calls, "a quarantined release was tried again");
        world.assert_serves(2);
        // Back to the first, by its old text: the old pin, and a way back without steps.
        world.commit(1, Some(spec.clone()));
        world.run(HOUR_MS);
        world.assert_serves(1);
        world.assert_at_rest();
        let jobs_run = world.targets.values().flat_map(|model| model.jobs.values());
        prop_assert!(jobs_run.clone().all(|times| *times == 1), "a job ran twice");
        world.floor = 0;
        world.commit(1, None);
        world.run(HOUR_MS);
        prop_assert!(world.targets.values().all(|model| model.generations.is_empty()));
        world.assert_at_rest();
        // No launch without a pin before it.
        let pinned: BTreeSet<&Digest> = world.entries.iter().filter_map(|entry| match &entry.body {
            Body::Pin(pin) => Some(&pin.digest),
            _ => None,
        }).collect();
        for entry in &world.entries {
            if let Body::Rollout(RolloutChange { to: RolloutState::Rolling, artifacts, .. }) = &entry.body {
                prop_assert!(artifacts.values().all(|digest| pinned.contains(digest)));
            }
        }
        // No retirement of a predecessor before the successor's health was proven, in the order of the log.
        let mut proven = BTreeSet::new();
        for entry in &world.entries {
            match &entry.body {
                Body::Verdict(verdict) if verdict.about == "health" && verdict.outcome == VerdictOutcome::Pass => {
                    proven.insert(entry.on.attempt);
                }
                Body::Attempt(AttemptChange::Phase { to: PhaseName::Retiring, .. }) => prop_assert!(proven.contains(&entry.on.attempt)),
                _ => {}
            }
        }
    }
}

/// Drift by hand, and what comes of it. Generation 1 was there once; 2 serves.
#[test]
fn drift_is_healed_and_written_down_once() {
    type Break = fn(&mut Model);
    let cases: [(&str, DriftKind, DriftAnswer, Break); 5] = [
        ("gone", DriftKind::Missing, DriftAnswer::Replace, |model| {
            model.generations.clear()
        }),
        ("scaled by hand", DriftKind::Instances, DriftAnswer::Scale, |model| {
            *model.generations.get_mut(&2).unwrap() = 1
        }),
        ("routed by hand", DriftKind::Route, DriftAnswer::Route, |model| {
            model.shares = [(2, 4_000)].into()
        }),
        ("back from the dead", DriftKind::Extra, DriftAnswer::Retire, |model| {
            model.generations.insert(1, 1);
        }),
        ("another writer's", DriftKind::Extra, DriftAnswer::Nothing, |model| {
            model.generations.insert(9, 1);
        }),
    ];
    for (what, kind, answer, break_it) in cases {
        let mut world = Harness::new(1, Abilities::default());
        for version in [1, 2] {
            world.commit(version, Some(spec(Strategy::BlueGreen { bake_ms: 0 }, 3)));
            world.run(HOUR_MS);
        }
        world.assert_serves(2);
        break_it(world.targets.get_mut("t0").unwrap());
        world.run(HOUR_MS);
        let drifts: Vec<_> = world
            .entries
            .iter()
            .filter_map(|entry| match &entry.body {
                Body::Drift(drift) if drift.answer != DriftAnswer::Over => Some((drift.what, drift.answer)),
                _ => None,
            })
            .collect();
        assert_eq!(drifts, [(kind, answer)], "{what}");
        let stranger = world.targets.get_mut("t0").unwrap().generations.remove(&9);
        assert_eq!(stranger.is_some(), answer == DriftAnswer::Nothing, "{what}");
        world.run(HOUR_MS);
        world.assert_serves(2);
        assert!(world.targets["t0"].generations.values().all(|size| *size == 3), "{what}");
        world.assert_at_rest();
    }
}

/// What breaks again and again is healed three times an hour, and then a person is asked.
#[test]
fn heals_are_limited() {
    let mut world = Harness::new(1, Abilities::default());
    world.commit(1, Some(spec(Strategy::BlueGreen { bake_ms: 0 }, 1)));
    world.run(HOUR_MS);
    for _ in 0..10 {
        world.targets.get_mut("t0").unwrap().generations.clear();
        world.run(120_000);
    }
    let count = |wanted: fn(&Body) -> bool| world.entries.iter().filter(|entry| wanted(&entry.body)).count();
    assert_eq!(
        count(|body| matches!(body, Body::Drift(drift) if drift.answer == DriftAnswer::Replace)),
        3
    );
    assert_eq!(count(|body| matches!(body, Body::Guard(_))), 1);
    assert_eq!(
        world.engine.waiting(&id(), Some(&"t0".to_owned())).map(|w| w.on.as_str()),
        Some("heal-guard")
    );
    // An hour later it is healed again.
    world.run(HOUR_MS);
    world.assert_serves(1);
}

#[test]
fn a_placement_that_matches_nothing_is_refused_until_it_matches() {
    let mut world = Harness::new(1, Abilities::default());
    let elsewhere = Targets::MatchLabels([("zone".to_owned(), "north".to_owned())].into());
    let nowhere = WorkloadSpec {
        placement: elsewhere.into(),
        ..spec(Strategy::BlueGreen { bake_ms: 0 }, 1)
    };
    world.commit(1, Some(nowhere));
    world.run(HOUR_MS);
    let request = world.engine.state().workloads[&id()].request.clone().unwrap();
    assert_eq!(
        (request.state, request.reason.as_str(), request.message.as_str()),
        (
            RolloutState::Refused,
            "placement",
            "no target matches its placement; nothing runs"
        )
    );
    assert!(world.calls.is_empty());
    world.commit(1, Some(spec(Strategy::BlueGreen { bake_ms: 0 }, 1)));
    world.run(HOUR_MS);
    world.assert_serves(1);
}

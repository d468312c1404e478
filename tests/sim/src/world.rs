//! The world around the engine: an event heap, sites, a registry, Git, people, a disk, and crashes between any two outputs.

use crate::oracle::Oracle;
use crate::random::Random;
use crate::site::{Quality, Site};
use holdfast_core::config::{BindingRule, EngineConfig};
use holdfast_core::engine::*;
use holdfast_core::entry::{By, Entry, Precondition, Term};
use holdfast_core::ids::{Digest, WorkloadId};
use holdfast_core::plan::{Ask, PLANNER_VERSION};
use holdfast_core::spec::*;
use holdfast_core::state::State;
use holdfast_core::target::*;
use holdfast_ledger::{Batch, Ledger, Options, SimDisk, load_state, state_bytes};
use serde_json::json;
use std::collections::BTreeMap;

const FAULTS_MS: u64 = 400_000;
const REST_MS: u64 = 1_800_000;
const STEPS_MAX: usize = 60_000;
const OWNER: &str = "simowner";

/// What a run showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Hash of everything the engine put out: the same seed gives the same one.
    pub trace: String,
    pub entries: u64,
    pub crashes: u64,
    pub effects: usize,
    pub rollbacks: usize,
}

enum Event {
    Input(Box<Input>),
    /// An effect that lands, and then answers, or does not.
    Land {
        call: Box<Call>,
        answers: bool,
        life: u64,
    },
    Look {
        target: String,
        begun: u64,
        life: u64,
    },
    Commit,
    Person,
    Crash,
    Wake,
}

pub struct World {
    random: Random,
    now: u64,
    serial: u64,
    events: BTreeMap<(u64, u64), Event>,
    ledger: Option<Ledger<SimDisk>>,
    engine: Engine,
    oracle: Oracle,
    sites: BTreeMap<String, Site>,
    /// Which run of the daemon this is: answers to an earlier one are lost.
    life: u64,
    faults: bool,
    commits: u64,
    spec: Option<WorkloadSpec>,
    trace: Vec<u8>,
    outcome: Outcome,
    /// Effects left to write before a crash in the middle of the outputs.
    crash_in: Option<u64>,
}

fn config() -> EngineConfig {
    let grants = Digest::of(b"grants");
    EngineConfig {
        plugins: [("edge".to_owned(), Digest::of(b"plugin"))].into(),
        bindings: vec![BindingRule {
            target: "*".into(),
            plugin: "edge".into(),
            grants,
            fixed: BTreeMap::new(),
        }],
        tag_poll_ms: 20_000,
        ..EngineConfig::default()
    }
}

fn app() -> WorkloadId {
    WorkloadId::new("main", "app").expect("a valid name")
}

fn spec(version: u64, canary: bool, attempt: u32) -> WorkloadSpec {
    let strategy = if canary {
        let step = |weight, hold_ms| CanaryStep { weight, hold_ms };
        Strategy::Canary {
            steps: vec![step(1_000, 3_000), step(5_000, 2_000), step(10_000, 1_000)],
            bake_ms: 1_000,
        }
    } else {
        Strategy::BlueGreen { bake_ms: 2_000 }
    };
    let analysis = Analysis {
        name: "errors".into(),
        source: AnalysisSource::Target {
            numerator: "errors_total".into(),
            total: "requests_total".into(),
        },
        fail_when: "canary.value > baseline.value * 2.0 && canary.value > 0.01".into(),
        interval_ms: 500,
        at: Vec::new(),
        failures: 2,
        min_samples: 10,
        unmeasured: Unmeasured {
            for_ms: 60_000,
            then: UnmeasuredThen::Fail,
        },
        dry_run: false,
    };
    let artifacts = [(
        "main".to_owned(),
        ArtifactSpec::Reference(format!("r.example.com/app:v{version}")),
    )]
    .into();
    WorkloadSpec {
        template: json!({ "version": version }),
        strategy,
        health: Health {
            timeout_ms: 20_000,
            interval_ms: 500,
            stable_ms: 1_000,
            http: Some(HttpHealth { path: "/healthz".into() }),
            telemetry_required: false,
        },
        analysis: vec![analysis],
        drain_ms: 1_000,
        attempt,
        standby: 0,
        ..WorkloadSpec::new(artifacts, Targets::MatchLabels(BTreeMap::new()).into())
    }
}

fn quality(version: u64) -> Quality {
    match version % 7 {
        3 => Quality::Erring,
        5 => Quality::Unhealthy,
        6 => Quality::Failing,
        _ => Quality::Good,
    }
}

/// Runs one seed; an error names what was violated and when.
pub fn run(seed: u64) -> Result<Outcome, String> {
    let mut world = World::new(seed);
    world.boot();
    for _ in 0..STEPS_MAX {
        world
            .step()
            .map_err(|error| format!("at {} ms, entry {}: {error}", world.now, world.engine.state().size))?;
        if world.now > FAULTS_MS + REST_MS
            || (!world.faults && world.now > FAULTS_MS + 120_000 && world.oracle.check_rest(&world.engine, &world.sites).is_ok())
        {
            break;
        }
    }
    world
        .oracle
        .check_rest(&world.engine, &world.sites)
        .map_err(|error| format!("after faults stopped: {error}"))?;
    world.check_memory()?;
    world.outcome.trace = Digest::of(&world.trace).to_string();
    world.outcome.entries = world.engine.state().size;
    world.outcome.effects = world.sites.values().map(|site| site.effects.len()).sum();
    Ok(world.outcome)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let sites = (0..1 + random.below(3))
            .map(|n| (format!("site-{n}"), Site::default()))
            .collect();
        let (ledger, _) = Ledger::open_on(SimDisk::new(), Options::default()).expect("an empty simulated disk opens");
        let mut world = Self {
            random,
            now: 1,
            serial: 0,
            events: BTreeMap::new(),
            ledger: Some(ledger),
            engine: Engine::new(config(), State::default()),
            oracle: Oracle::default(),
            sites,
            life: 0,
            faults: true,
            commits: 0,
            spec: None,
            trace: Vec::new(),
            outcome: Outcome {
                trace: String::new(),
                entries: 0,
                crashes: 0,
                effects: 0,
                rollbacks: 0,
            },
            crash_in: None,
        };
        world.at(10, Event::Commit);
        for _ in 0..world.random.below(6) {
            let t = world.random.below(FAULTS_MS);
            world.at(t, Event::Crash);
        }
        for _ in 0..world.random.below(8) {
            let t = world.random.below(FAULTS_MS);
            world.at(t, Event::Person);
        }
        for _ in 0..3 + world.random.below(6) {
            let t = world.random.below(FAULTS_MS);
            world.at(t, Event::Commit);
        }
        world
    }

    fn at(&mut self, t: u64, event: Event) {
        self.serial += 1;
        self.events.insert((t, self.serial), event);
    }

    fn soon(&mut self, event: Event) {
        let slow = self.random_fault(5);
        let delay = 1 + self.random.below(if slow { 30_000 } else { 200 });
        self.at(self.now + delay, event);
    }

    fn random_fault(&mut self, percent: u64) -> bool {
        self.faults && self.random.chance(percent)
    }

    fn boot(&mut self) {
        let ledger = self.ledger.as_mut().expect("open");
        let (state, _) = load_state(ledger).expect("an intact log folds");
        let term = Term {
            binary: "sim".into(),
            planner: PLANNER_VERSION,
            config: Digest::of(b"config"),
            previous_size: state.size,
            previous_root: String::new(),
            clean: false,
            epoch: 1,
            owner: OWNER.into(),
        };
        self.engine = Engine::new(config(), state);
        self.input(Input::Boot(term));
    }

    fn step(&mut self) -> Result<(), String> {
        if self.faults && self.now >= FAULTS_MS {
            self.faults = false;
            // The last word is a good one, so that there is something to come to rest on.
            self.commit(7 * (self.commits + 1));
        }
        let wake = self.engine.next_wake().unwrap_or(u64::MAX).max(self.now + 1);
        let next = self.events.first_key_value().map_or(u64::MAX, |((t, _), _)| *t);
        if wake < next {
            self.at(wake, Event::Wake);
        }
        let Some(((t, _), event)) = self.events.pop_first() else {
            return Err("nothing will ever happen again".into());
        };
        self.now = self.now.max(t);
        match event {
            Event::Input(input) => self.input(*input),
            Event::Wake => self.input(Input::Tick),
            Event::Look { target, begun, life } => self.look(target, begun, life),
            Event::Land { call, answers, life } => self.land(*call, answers, life)?,
            Event::Commit => {
                let version = self.random.below(20);
                self.commit(version);
            }
            Event::Person => self.person(),
            Event::Crash => self.crash_in = Some(self.random.below(6)),
        }
        self.oracle.check_engine(&self.engine)
    }

    fn input(&mut self, input: Input) {
        let outputs = self.engine.handle(
            Now {
                t: self.now,
                wall_ms: self.now,
            },
            input,
        );
        let mut failure = None;
        for output in outputs {
            if let Some(left) = &mut self.crash_in {
                if *left == 0 {
                    self.crash();
                    return;
                }
                *left -= 1;
            }
            if let Err(error) = self.carry(output) {
                failure = Some(error);
            }
        }
        if let Some(error) = failure {
            // Surfaces at the next check of the step.
            self.trace.extend_from_slice(error.as_bytes());
            self.pending_failure(error);
        }
    }

    fn pending_failure(&mut self, error: String) {
        panic!("at {} ms, entry {}: {error}", self.now, self.engine.state().size);
    }

    fn carry(&mut self, output: Output) -> Result<(), String> {
        self.trace.extend_from_slice(format!("{output:?}").as_bytes());
        match output {
            Output::Append { entries, blobs } => self.append(entries, blobs),
            Output::Call(call) => {
                let call = call.into_inner();
                self.oracle.check_call(&call, &self.sites[&call.target])?;
                self.send(call);
            }
            Output::Ask(ask) => self.ask(ask),
            Output::LoadImages { blob } => self.soon(Event::Input(Box::new(Input::Images {
                blob,
                accepted: Default::default(),
            }))),
            Output::Reply { .. } => {}
        }
        Ok(())
    }

    fn append(&mut self, entries: Vec<Entry>, blobs: Vec<(Digest, Vec<u8>)>) {
        self.outcome.rollbacks += entries
            .iter()
            .filter(|entry| matches!(entry.body, holdfast_core::entry::Body::Quarantine(_)))
            .count();
        let blobs = blobs.into_iter().map(|(digest, bytes)| (digest, bytes.into())).collect();
        let ledger = self.ledger.as_mut().expect("open");
        let committed = ledger
            .append(&Batch {
                entries: entries.clone(),
                blobs,
            })
            .expect("the disk has room");
        self.oracle.acknowledge(&entries);
        if self.random.chance(5) {
            let body = state_bytes(self.engine.state()).expect("State is JSON");
            let _ = self.ledger.as_mut().expect("open").write_snapshot(committed.size, body);
        }
        self.at(self.now, Event::Input(Box::new(Input::Durable { size: committed.size })));
    }

    fn send(&mut self, call: Call) {
        let fail = |class| Input::Called {
            workload: call.workload.clone(),
            target: call.target.clone(),
            intent: call.intent,
            outcome: Err(Fault {
                class,
                message: "simulated".into(),
                fence: None,
            }),
            sent: Vec::new(),
        };
        if self.random_fault(10) {
            // Lost on the way there.
            let input = fail(FaultClass::Unavailable);
            return self.soon(Event::Input(Box::new(input)));
        }
        let late = self.random_fault(10);
        if late {
            let input = fail(FaultClass::Deadline);
            self.soon(Event::Input(Box::new(input)));
        }
        let life = self.life;
        self.soon(Event::Land {
            call: Box::new(call),
            answers: !late,
            life,
        });
    }

    fn land(&mut self, call: Call, answers: bool, life: u64) -> Result<(), String> {
        let unit = self
            .oracle
            .acknowledged
            .get(call.intent as usize)
            .and_then(|entry| entry.on.attempt);
        let release = unit.and_then(|seq| match &self.oracle.acknowledged[seq as usize].body {
            holdfast_core::entry::Body::Attempt(holdfast_core::entry::AttemptChange::Began { release, .. }) => {
                Some(release.clone())
            }
            _ => None,
        });
        let release = release.map(|release| release.to_string()).unwrap_or_default();
        let version = self.version_of(&release);
        let site = self.sites.get_mut(&call.target).ok_or("no such site")?;
        let before = site.clone();
        let outcome = site.apply(OWNER, &call, &release, quality(version));
        let after = site.clone();
        self.oracle.check_site(&call.target, &before, &after, &call.verb)?;
        if answers && life == self.life {
            let Call {
                workload,
                target,
                intent,
                ..
            } = call;
            self.input(Input::Called {
                workload,
                target,
                intent,
                outcome,
                sent: Vec::new(),
            });
        }
        Ok(())
    }

    /// The version in a release's template, from the blob that the ledger holds.
    fn version_of(&self, release: &str) -> u64 {
        let digest: Option<Digest> = format!("sha256:{release}").parse().ok();
        let bytes = digest
            .and_then(|digest| self.ledger.as_ref()?.blob(&digest).ok())
            .unwrap_or_default();
        let release: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        release["template"]["version"].as_u64().unwrap_or(0)
    }

    fn look(&mut self, target: String, begun: u64, life: u64) {
        if life != self.life {
            return;
        }
        let outcome = if self.random_fault(8) {
            Err(Fault {
                class: FaultClass::Unavailable,
                message: "away".into(),
                fence: None,
            })
        } else {
            Ok(self.sites[&target].page(app().as_str()))
        };
        self.input(Input::Observed { target, begun, outcome });
    }

    fn ask(&mut self, ask: Ask) {
        let life = self.life;
        let faulty = self.random_fault(10);
        let away = || Fault {
            class: FaultClass::Unavailable,
            message: "away".into(),
            fence: None,
        };
        let input = match ask {
            Ask::Observe { target, begun } => return self.soon(Event::Look { target, begun, life }),
            Ask::Pin { workload, reference } => {
                let moved = self.random_fault(10);
                let digest = Digest::of(format!("{reference}{moved}").as_bytes());
                let images = serde_json::to_vec(&json!([])).unwrap_or_default();
                let resolved = Resolved {
                    digest,
                    source: "r.example.com/app".into(),
                    images,
                    accepted: Default::default(),
                    blobs: Vec::new(),
                    evidence: json!({}),
                };
                let outcome = if faulty {
                    Err(PinFailure {
                        message: "registry away".into(),
                        retry_after_ms: None,
                    })
                } else {
                    Ok(resolved)
                };
                Input::Pinned {
                    workload,
                    reference,
                    outcome,
                }
            }
            Ask::Check {
                workload, target, key, ..
            }
            | Ask::CheckRelease {
                workload, target, key, ..
            } => {
                let abilities = Abilities {
                    routing: Routing::Weighted,
                    most_live: 16,
                    finest_share: 1,
                    sizing: Sizing::Unsized,
                    overlap: true,
                    staged: true,
                    seamless: true,
                    guarded: true,
                    probed: true,
                };
                Input::Checked {
                    workload,
                    target,
                    key,
                    outcome: Ok(Report {
                        problems: Vec::new(),
                        abilities,
                    }),
                }
            }
            Ask::Probe {
                workload,
                target,
                generation,
                ..
            } => {
                let unhealthy = self.sites[&target]
                    .generations
                    .get(&generation)
                    .is_none_or(|one| one.quality == Quality::Unhealthy);
                let failure = (unhealthy || self.random_fault(3)).then(|| "503".to_owned());
                Input::Probed {
                    workload,
                    target,
                    generation,
                    failure,
                    asked: true,
                }
            }
            Ask::Measure {
                workload,
                target,
                generations,
                queries: _,
            } => {
                let site = &self.sites[&target];
                let now = self.now;
                let sample = |number: u32| {
                    let total = if site.shares.contains_key(&number) { now as f64 } else { 0.0 };
                    let erring = site
                        .generations
                        .get(&number)
                        .is_some_and(|one| one.quality == Quality::Erring);
                    let errors = if erring { total / 5.0 } else { 0.0 };
                    vec![
                        Sample {
                            name: "requests_total".into(),
                            value: total,
                        },
                        Sample {
                            name: "errors_total".into(),
                            value: errors,
                        },
                    ]
                };
                let samples = if faulty {
                    Err(away())
                } else {
                    Ok(generations.iter().map(|number| (*number, sample(*number))).collect())
                };
                Input::Measured {
                    workload,
                    target,
                    samples,
                    answers: BTreeMap::new(),
                }
            }
            Ask::Explain {
                workload,
                target,
                generation,
            } => Input::Explained {
                workload,
                target,
                generation,
                excerpts: if faulty { Err(away()) } else { Ok(Vec::new()) },
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
        };
        self.soon(Event::Input(Box::new(input)));
    }

    fn commit(&mut self, version: u64) {
        self.commits += 1;
        let attempt = self.spec.as_ref().map_or(1, |spec| spec.attempt) + u32::from(self.random_fault(5));
        let unreadable = self.random_fault(10);
        let removed = !unreadable && self.random_fault(5);
        let canary = self.random.chance(60);
        let spec = spec(version, canary, attempt);
        let target = TargetSpec {
            labels: BTreeMap::new(),
            plugin: "edge".into(),
            config: json!({}),
            values: BTreeMap::new(),
        };
        let old = self.engine.state().source.as_ref().map(|head| head.commit.clone());
        let revision = Revision {
            reference: "refs/heads/main".into(),
            commit: format!("{:040x}", self.commits),
            old,
            fast_forward: true,
            adopted: true,
            signer: "unverified".into(),
            workloads: if unreadable || removed {
                BTreeMap::new()
            } else {
                [(app(), spec.clone())].into()
            },
            unknown_workloads: if unreadable { [app()].into() } else { Default::default() },
            absence_proven: !unreadable,
            targets: self.sites.keys().map(|name| (name.clone(), target.clone())).collect(),
            ..Revision::default()
        };
        self.spec = Some(spec);
        self.input(Input::Revision(Box::new(revision)));
    }

    fn person(&mut self) {
        let quarantined = self
            .engine
            .state()
            .workloads
            .get(&app())
            .and_then(|w| w.quarantine.keys().next().map(|release| release.to_string()));
        let wish = match (self.random.below(6), quarantined) {
            (0, _) => Wish::Pause,
            (1, _) => Wish::Abort,
            (2, _) => Wish::Advance,
            (3, Some(release)) => Wish::Lift { release },
            (4, _) => Wish::Rollback { to: None },
            _ => Wish::Resume,
        };
        let paused = wish == Wish::Pause;
        self.say(wish);
        if paused {
            let t = self.now + 30_000;
            // Nobody stays paused for ever.
            self.at(t.min(FAULTS_MS - 1).max(self.now), Event::Person);
        }
    }

    fn say(&mut self, wish: Wish) {
        let by = By {
            kind: "user".into(),
            id: "someone".into(),
            auth: "peercred".into(),
        };
        self.serial += 1;
        let request = CommandRequest {
            by,
            person: None,
            workload: Some(app()),
            target: None,
            only_if: Precondition::default(),
            wish,
            reason: "simulated".into(),
            key: self.serial.to_string(),
        };
        self.input(Input::Command {
            token: self.serial,
            request,
        });
    }

    /// Power cut or SIGKILL between two outputs: what was not synced may be gone; answers under way are lost; effects are not.
    fn crash(&mut self) {
        self.crash_in = None;
        self.outcome.crashes += 1;
        self.life += 1;
        self.events.retain(|_, event| !matches!(event, Event::Input(_) | Event::Wake));
        let seed = self.random.next();
        let Some(ledger) = self.ledger.take() else { return };
        let disk = if self.random.chance(50) {
            ledger.disk().crash(seed)
        } else {
            ledger.disk().kill()
        };
        let (ledger, boot) = Ledger::open_on(disk, Options::default()).expect("a crashed disk opens");
        assert!(boot.loss.is_none(), "a crash was taken for a loss: {:?}", boot.loss);
        // Invariant 4: no acknowledged entry is lost.
        assert!(
            ledger.size() >= self.oracle.acknowledged.len() as u64,
            "{} of {} acknowledged entries are left",
            ledger.size(),
            self.oracle.acknowledged.len()
        );
        self.ledger = Some(ledger);
        self.boot();
    }

    /// Snapshot and tail give the same State as all entries.
    fn check_memory(&mut self) -> Result<(), String> {
        let mut folded = State::default();
        self.oracle.acknowledged.iter().for_each(|entry| folded.fold(entry));
        if folded != *self.engine.state() {
            return Err("State is not the fold of the log".into());
        }
        let disk = self.ledger.as_ref().expect("open").disk().kill();
        let (mut ledger, _) = Ledger::open_on(disk, Options::default()).map_err(|error| error.to_string())?;
        let (loaded, _) = load_state(&mut ledger).map_err(|error| error.to_string())?;
        if loaded == folded {
            Ok(())
        } else {
            Err("snapshot and tail do not give the fold of all".into())
        }
    }
}

//! A ledger's entries as a real fleet would have written them, and targets that do at once what they are told.

use holdfast_core::config::{BindingRule, EngineConfig};
use holdfast_core::engine::{Call, Input, Resolved, Revision};
use holdfast_core::entry::*;
use holdfast_core::ids::{Digest, FULL_SHARE, GenNumber, ReleaseId, WorkloadId, fence};
use holdfast_core::manifest::Desired;
use holdfast_core::plan::Ask;
use holdfast_core::release::Release;
use holdfast_core::spec::*;
use holdfast_core::state::State;
use holdfast_core::target::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

pub fn config() -> EngineConfig {
    EngineConfig {
        plugins: [("edge".to_owned(), Digest::of(b"plugin"))].into(),
        bindings: vec![BindingRule {
            target: "*".into(),
            plugin: "edge".into(),
            grants: Digest::of(b"grants"),
            fixed: BTreeMap::new(),
        }],
        ..EngineConfig::default()
    }
}

pub fn workload(n: usize) -> WorkloadId {
    WorkloadId::new("main", &format!("app-{n}")).expect("a valid name")
}

pub fn target(n: usize) -> String {
    format!("site-{n:04}")
}

pub fn target_spec() -> TargetSpec {
    TargetSpec {
        labels: [("env".to_owned(), "prod".to_owned())].into(),
        plugin: "edge".into(),
        config: json!({ "site": "x" }),
        values: [("host".to_owned(), "pay.example.com".to_owned())].into(),
    }
}

pub fn spec(n: usize, version: u32, targets: Targets) -> WorkloadSpec {
    let step = |weight| CanaryStep { weight, hold_ms: 0 };
    let artifacts = [(
        "main".to_owned(),
        ArtifactSpec::Reference(format!("r.example.com/app-{n}:1.{version}.0")),
    )];
    WorkloadSpec {
        template: json!({ "port": 8080, "env": { "LOG": "info", "POOL": "16" } }),
        strategy: Strategy::Canary {
            steps: vec![step(1_000), step(5_000), step(10_000)],
            bake_ms: 0,
        },
        health: Health {
            timeout_ms: 60_000,
            interval_ms: 500,
            stable_ms: 0,
            http: None,
            telemetry_required: false,
        },
        standby: 0,
        ..WorkloadSpec::new(artifacts.into(), targets.into())
    }
}

/// A single one by its name; more are all there are, by a label.
fn placed_on(numbers: &[usize]) -> Targets {
    match numbers {
        [one] => Targets::Names(vec![target(*one)]),
        _ => Targets::MatchLabels([("env".to_owned(), "prod".to_owned())].into()),
    }
}

/// Which targets a workload is on, by number.
pub type Spread = dyn Fn(usize) -> Vec<usize>;

/// Writes entries and folds them.
#[derive(Default)]
pub struct Scribe {
    pub state: State,
    pub entries: Vec<Entry>,
    pub keep: bool,
}

impl Scribe {
    pub fn write(&mut self, on: On, because: Vec<u64>, body: Body) -> u64 {
        let seq = self.state.size;
        let entry = Entry {
            v: ENTRY_VERSION,
            seq,
            term: 0,
            t: seq * 3,
            wall: "2026-11-24T12:00:00.000Z".into(),
            by: By::daemon(),
            on,
            because,
            blobs: BTreeMap::new(),
            body,
        };
        self.state.fold(&entry);
        if self.keep {
            self.entries.push(entry);
        }
        seq
    }

    pub fn begin(&mut self, targets: usize) {
        let term = Term {
            binary: "bench".into(),
            planner: 1,
            config: Digest::of(b"config"),
            previous_size: 0,
            previous_root: String::new(),
            clean: true,
            epoch: 1,
            owner: "benchown".into(),
        };
        self.write(On::default(), Vec::new(), Body::Term(term));
        for n in 0..targets {
            let on = On {
                target: Some(target(n)),
                ..On::default()
            };
            let object = SpecObject::Target {
                presence: Presence::Present,
                spec: Some(target_spec()),
            };
            self.write(
                on.clone(),
                Vec::new(),
                Body::Spec(Spec {
                    commit: commit(1),
                    object,
                }),
            );
            self.write(on, Vec::new(), Body::Target(TargetChange::Claimed));
        }
    }

    /// A whole rollout of one version of a workload, as it is written down when nothing goes wrong.
    pub fn rollout(&mut self, n: usize, version: u32, on_targets: &[usize]) {
        let id = workload(n);
        let spec = spec(n, version, placed_on(on_targets));
        let source = self.source(&id, version);
        let object = SpecObject::Workload {
            presence: Presence::Present,
            spec: Some(spec.clone()),
        };
        let made = Spec {
            commit: commit(version),
            object,
        };
        let request = self.write(On::workload(&id), vec![source], Body::Spec(made));
        let digest = digest(n, version);
        let pin = Pin {
            reference: format!("r.example.com/app-{n}:1.{version}.0"),
            digest: digest.clone(),
            source: format!("r.example.com/app-{n}"),
            evidence: json!({ "media_type": "application/vnd.oci.image.index.v1+json", "status": 200, "at": "2026-11-24T12:00:00Z" }),
        };
        let pin = self.write(On::workload(&id), vec![request], Body::Pin(pin));
        let release = Release::from_spec(&spec, &[("main".to_owned(), digest.clone())].into()).id();
        let on = On {
            rollout: Some(request),
            ..On::workload(&id)
        };
        let change = |to| RolloutChange {
            to,
            release: release.clone(),
            wave: 0,
            reason: "requested".into(),
            message: String::new(),
            sources: [("main".to_owned(), format!("r.example.com/app-{n}"))].into(),
            artifacts: [("main".to_owned(), digest.clone())].into(),
            before: Vec::new(),
            after: Vec::new(),
        };
        let begun = self.write(on.clone(), vec![request, pin], Body::Rollout(change(RolloutState::Rolling)));
        for at in on_targets {
            self.attempt(&id, &target(*at), request, begun, &release);
        }
        self.write(on, vec![begun], Body::Rollout(change(RolloutState::Succeeded)));
    }

    fn source(&mut self, id: &WorkloadId, version: u32) -> u64 {
        let source = Source {
            repository: "main".into(),
            reference: "refs/heads/main".into(),
            old: None,
            new: commit(version),
            fast_forward: true,
            adopted: true,
            untrusted: false,
            signer: "unverified".into(),
            author: "0123456789abcdef0123456789abcdef".into(),
            contributors: Default::default(),
            summary: "a version".into(),
            committed_s: 1,
            changed: vec![id.clone()],
            problems: Vec::new(),
            held: Vec::new(),
        };
        self.write(On::default(), Vec::new(), Body::Source(source))
    }

    fn attempt(&mut self, id: &WorkloadId, target: &str, request: u64, cause: u64, release: &ReleaseId) {
        let unit = self.state.unit(id, target);
        let generation = unit.map_or(1, |unit| unit.next_generation);
        let old = unit.and_then(|unit| unit.current);
        let plugin = PluginRef {
            name: "edge".into(),
            digest: Digest::of(b"plugin"),
            grants: Digest::of(b"grants"),
        };
        let mut on = On {
            workload: Some(id.clone()),
            target: Some(target.to_owned()),
            rollout: Some(request),
            attempt: None,
            generation: Some(generation),
        };
        let began = AttemptChange::Began {
            release: release.clone(),
            values: Digest::of(&target_spec().captured_bytes()),
            generation,
            old,
            plugin: plugin.clone(),
            request,
            abilities: None,
            revived: false,
            heal: false,
        };
        let attempt = self.write(on.clone(), vec![cause], Body::Attempt(began));
        on.attempt = Some(attempt);
        let phase = |to| {
            Body::Attempt(AttemptChange::Phase {
                to,
                reason: "next".into(),
                message: "goes on".into(),
            })
        };
        let verb = |scribe: &mut Self, verb| {
            let intent = Intent {
                verb,
                plugin: plugin.clone(),
                observed: Digest::of(b"observed"),
                planner: 1,
            };
            let intent = scribe.write(on.clone(), vec![attempt], Body::Intent(intent));
            let outcome = Outcome {
                intent,
                class: None,
                message: String::new(),
                closed: true,
                sent: vec!["PUT /v1/generations/app-g1 200".into()],
            };
            scribe.write(on.clone(), vec![intent], Body::Result(outcome));
        };
        let share = |number, live| Share { number, live };
        verb(self, Verb::Launch { generation, size: 1 });
        let shares = |live| {
            let old = old.map(|old| share(old, FULL_SHARE - live));
            old.into_iter().chain([share(generation, live)]).collect::<Vec<_>>()
        };
        verb(
            self,
            Verb::Route {
                shares: shares(1_000),
                lead: old.unwrap_or(generation),
            },
        );
        verb(
            self,
            Verb::Route {
                shares: shares(FULL_SHARE),
                lead: generation,
            },
        );
        if let Some(old) = old {
            verb(
                self,
                Verb::Retire {
                    generation: old,
                    last: false,
                },
            );
        }
        let on = On {
            attempt: Some(attempt),
            ..on
        };
        for to in [
            PhaseName::Launching,
            PhaseName::Proving,
            PhaseName::Shifting,
            PhaseName::Baking,
            PhaseName::Retiring,
        ] {
            self.write(on.clone(), vec![attempt], phase(to));
        }
        let verdict = Verdict {
            about: "health".into(),
            outcome: VerdictOutcome::Pass,
            reason: "stable".into(),
            message: "healthy for 30000 ms without a break".into(),
            evidence: json!({ "restarts": 0, "stable_ms": 30_000 }),
        };
        self.write(on.clone(), vec![attempt], Body::Verdict(verdict));
        let ended = AttemptChange::Ended {
            outcome: AttemptOutcome::Succeeded,
            reason: "stable".into(),
            message: "serves alone".into(),
            parked: Vec::new(),
        };
        self.write(on, vec![attempt], Body::Attempt(ended));
    }
}

pub fn commit(version: u32) -> String {
    format!("{version:040x}")
}

pub fn digest(n: usize, version: u32) -> Digest {
    Digest::of(format!("{n} {version}").as_bytes())
}

/// A fleet at rest: every workload at version 1.
pub fn fleet_at_rest(workloads: usize, targets: usize, spread: &Spread) -> State {
    let mut scribe = Scribe::default();
    scribe.begin(targets);
    for n in 0..workloads {
        scribe.rollout(n, 1, &spread(n));
    }
    scribe.state
}

/// The commit that names all workloads, with these at another version.
pub fn revision(number: u32, workloads: usize, targets: usize, spread: &Spread, versions: &dyn Fn(usize) -> u32) -> Revision {
    let specs = (0..workloads).map(|n| (workload(n), Arc::new(spec(n, versions(n), placed_on(&spread(n))))));
    let desired = Desired {
        workloads: specs.collect(),
        targets: (0..targets).map(|n| (target(n), target_spec())).collect(),
        absence_proven: true,
        ..Desired::default()
    };
    Revision {
        reference: "refs/heads/main".into(),
        commit: format!("{number:039x}f"),
        fast_forward: true,
        adopted: true,
        signer: "unverified".into(),
        desired: desired.into(),
        ..Revision::default()
    }
}

/// What every target has of every workload.
#[derive(Default)]
pub struct Sites {
    sites: BTreeMap<String, BTreeMap<String, Held>>,
    high: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Held {
    fence: u64,
    generations: BTreeMap<GenNumber, String>,
    shares: BTreeMap<GenNumber, u32>,
}

impl Sites {
    /// As the fleet at rest left them.
    pub fn of(state: &State) -> Self {
        let mut sites = Self::default();
        for (id, workload) in &state.workloads {
            for (target, unit) in &workload.units {
                let Some(current) = unit.current else { continue };
                let release = unit.generations[&current].release.to_string();
                let held = Held {
                    fence: fence(1, 1),
                    generations: [(current, release)].into(),
                    shares: [(current, FULL_SHARE)].into(),
                };
                sites.sites.entry(target.clone()).or_default().insert(id.to_string(), held);
                sites.high.insert(target.clone(), fence(1, 1));
            }
        }
        sites
    }

    pub fn apply(&mut self, call: &Call, state: &State) {
        let held = self
            .sites
            .entry(call.target.clone())
            .or_default()
            .entry(call.workload.to_string())
            .or_default();
        held.fence = call.fence;
        self.high.insert(call.target.clone(), call.fence);
        match &call.verb {
            Verb::Launch { generation, .. } => {
                let unit = state.unit(&call.workload, &call.target);
                let release = unit.and_then(|unit| Some(unit.generations.get(generation)?.release.to_string()));
                held.generations.insert(*generation, release.unwrap_or_default());
            }
            Verb::Route { shares, .. } => held.shares = shares.iter().map(|share| (share.number, share.live)).collect(),
            Verb::Retire { generation, .. } => {
                held.generations.remove(generation);
                held.shares.remove(generation);
            }
            Verb::Scale { .. } | Verb::Run { .. } => {}
        }
    }

    pub fn page(&self, target: &str) -> Page {
        let empty = BTreeMap::new();
        let site = self.sites.get(target).unwrap_or(&empty);
        let generations = site.iter().flat_map(|(workload, held)| {
            held.generations.iter().map(|(number, release)| GenerationState {
                workload: workload.clone(),
                number: *number,
                release_id: release.clone(),
                fence: held.fence,
                phase: GenPhase::Ready,
                reason: String::new(),
                message: String::new(),
                wanted: None,
                ready: 1,
                restarts: 0,
                proofs: Vec::new(),
                fingerprint: "f".into(),
                objects: vec![format!("generations/{number}")],
                instances: vec![Instance {
                    name: "i0".into(),
                    ready: true,
                    restarts: 0,
                    address: String::new(),
                    message: String::new(),
                }],
            })
        });
        let routes = site.iter().map(|(workload, held)| RouteState {
            workload: workload.clone(),
            fence: held.fence,
            shares: held
                .shares
                .iter()
                .map(|(number, live)| Share {
                    number: *number,
                    live: *live,
                })
                .collect(),
            settled: true,
            fingerprint: String::new(),
        });
        Page {
            owner: Some("benchown".into()),
            high_fence: self.high.get(target).copied().unwrap_or(0),
            generations: generations.collect(),
            routes: routes.collect(),
            strangers: Vec::new(),
            more: None,
        }
    }
}

/// Every question has a good answer.
pub fn answer(ask: Ask, sites: &Sites) -> Option<Input> {
    Some(match ask {
        Ask::Observe { target, begun } => Input::Observed {
            outcome: Ok(sites.page(&target)),
            target,
            begun,
        },
        Ask::Pin { workload, reference } => {
            let name = workload.name().trim_start_matches("app-").parse().unwrap_or(0);
            let version = reference
                .split('.')
                .rev()
                .nth(1)
                .and_then(|minor| minor.parse().ok())
                .unwrap_or(0);
            Input::Pinned {
                workload,
                outcome: Ok(Resolved {
                    digest: digest(name, version),
                    source: format!("r.example.com/app-{name}"),
                    images: reference.clone().into_bytes(),
                    accepted: Default::default(),
                    blobs: Vec::new(),
                    evidence: json!({}),
                }),
                reference,
            }
        }
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
                abilities: Abilities::default(),
            }),
        },
        Ask::Pullable { workload, release } => Input::PullChecked {
            workload,
            release,
            outcome: Ok(()),
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
        _ => return None,
    })
}

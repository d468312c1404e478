//! What a seed is about: targets and what each can do, workloads and their manifests, a second daemon or none.

use crate::options::{Feature, has};
use crate::random::Random;
use holdfast_core::ids::Digest;
use holdfast_core::spec::*;
use holdfast_core::target::{Abilities, Routing, Sizing};
use serde_json::json;
use std::collections::BTreeMap;

/// How a target keeps stale writers out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fencing {
    /// Each workload's objects carry the fence; a lower one is refused.
    Strong,
    /// Only a generation's name keeps another release from taking its place.
    ByName,
    Weak,
}

#[derive(Debug, Clone)]
pub struct Place {
    pub labels: BTreeMap<String, String>,
    pub abilities: Abilities,
    pub fencing: Fencing,
    /// Instances that it has room for; none: without limit.
    pub room: Option<u32>,
    pub tells_room: bool,
    /// It stays away when the faults stop.
    pub lost_for_good: bool,
    /// `values.host` of its manifest.
    pub host: u64,
}

impl Place {
    pub fn spec(&self) -> TargetSpec {
        TargetSpec {
            labels: self.labels.clone(),
            plugin: "edge".into(),
            config: json!({}),
            values: [("host".to_owned(), self.host.to_string())].into(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Second {
    None,
    /// Another installation was given the same targets.
    OtherOwner,
    /// A copy of the ledger is started while the first daemon goes on.
    Twin,
    /// The first daemon is replaced by one that starts from an old copy of the ledger.
    OldCopy,
}

pub struct Scenario {
    pub places: BTreeMap<String, Place>,
    pub workloads: BTreeMap<String, WorkloadSpec>,
    pub second: Second,
    /// The registry stays away when the faults stop: the last wish is then a release that every target has seen.
    pub registry_lost: bool,
}

pub const REGISTRY: &str = "r.example.com";

impl Scenario {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::of(seed, "scenario");
        let second = match random.below(100) {
            0..6 => Second::OtherOwner,
            6..12 if has(Feature::OldCopy) => Second::OldCopy,
            12..16 => Second::Twin,
            _ => Second::None,
        };
        let lost = random.chance(12);
        let targets = match random.below(10) {
            0..3 => 1,
            3..8 => random.between(2, 4),
            _ => random.between(5, 8),
        };
        let places: BTreeMap<String, Place> = (0..targets)
            .map(|n| {
                let mut place = place(&mut random, n);
                place.lost_for_good = lost && n + 1 == targets && targets > 1;
                (format!("site-{n}"), place)
            })
            .collect();
        let count = match random.below(10) {
            0..4 => 1,
            4..8 => 2,
            _ => random.between(3, 4),
        };
        let names: Vec<String> = ["app", "db", "web", "job"]
            .iter()
            .take(count as usize)
            .map(|s| (*s).to_owned())
            .collect();
        let workloads = names
            .iter()
            .enumerate()
            .map(|(at, name)| (name.clone(), first_spec(&mut random, &places, name, &names[..at])))
            .collect();
        Self {
            places,
            workloads,
            second,
            registry_lost: random.chance(10),
        }
    }
}

fn place(random: &mut Random, n: u64) -> Place {
    let env = if random.chance(60) { "a" } else { "b" };
    let fencing = match random.below(10) {
        0..6 => Fencing::Strong,
        6..8 => Fencing::ByName,
        _ => Fencing::Weak,
    };
    let routing = match random.below(10) {
        0 => Routing::Fixed,
        1 | 2 => Routing::Single,
        3 | 4 => Routing::Pooled,
        _ => Routing::Weighted,
    };
    let sizing = *random
        .pick(&[Sizing::Unsized, Sizing::Planned, Sizing::Planned])
        .unwrap_or(&Sizing::Planned);
    let staged = !(random.chance(8) && has(Feature::Unstaged));
    let (routing, sizing) = match (staged, routing) {
        (true, _) => (routing, sizing),
        // One document: there is nothing to count, and nothing is live without it.
        (false, Routing::Fixed) => (Routing::Single, Sizing::Unsized),
        (false, _) => (routing, Sizing::Unsized),
    };
    let abilities = Abilities {
        routing,
        most_live: *random.pick(&[2, 2, 5, 100]).unwrap_or(&2),
        finest_share: *random.pick(&[1, 1, 100, 500, 1_000]).unwrap_or(&1),
        sizing,
        overlap: random.chance(85),
        staged,
        seamless: random.chance(85),
        guarded: fencing == Fencing::Strong,
        probed: random.chance(95),
    };
    let room = random.chance(25).then(|| random.between(4, 14) as u32);
    let tells_room = random.chance(60);
    let able = has(Feature::Abilities);
    Place {
        labels: [("env".to_owned(), env.to_owned())].into(),
        abilities: if able {
            abilities
        } else {
            Abilities {
                sizing,
                guarded: fencing == Fencing::Strong,
                ..Abilities::default()
            }
        },
        fencing,
        room: room.filter(|_| has(Feature::Capacity)),
        tells_room,
        lost_for_good: false,
        host: n,
    }
}

/// A strategy that every target can do, most of the time.
pub fn strategy(random: &mut Random, places: &BTreeMap<String, Place>) -> Strategy {
    let careless = random.chance(10);
    let all = |can: &dyn Fn(&Abilities) -> bool| careless || places.values().all(|place| can(&place.abilities));
    let bake_ms = *random.pick(&[0, 1_000, 2_000, 5_000]).unwrap_or(&0);
    let mut able: Vec<Strategy> = Vec::new();
    let canary = canary_steps(random, places);
    let (surge, max_unavailable) = match random.below(4) {
        0 => (Count::Number(1), Count::Number(0)),
        1 => (Count::Number(0), Count::Number(1)),
        2 => (Count::Share(2_500), Count::Number(0)),
        _ => (Count::Share(5_000), Count::Share(2_500)),
    };
    if all(&|can| can.overlap && can.routing != Routing::Fixed) {
        able.push(Strategy::BlueGreen { bake_ms });
    }
    if all(&|can| can.overlap && can.routing == Routing::Weighted && can.staged) {
        able.push(Strategy::Canary {
            steps: canary.clone(),
            bake_ms,
        });
        able.push(Strategy::Canary { steps: canary, bake_ms });
    }
    if has(Feature::Rolling) && all(&|can| can.overlap && can.routing != Routing::Single && can.sizing == Sizing::Planned) {
        able.push(Strategy::Rolling {
            surge,
            max_unavailable,
            bake_ms,
        });
    }
    if has(Feature::Recreate) {
        able.push(Strategy::Recreate { bake_ms });
    }
    random.pick(&able).cloned().unwrap_or(if has(Feature::Recreate) {
        Strategy::Recreate { bake_ms }
    } else {
        Strategy::BlueGreen { bake_ms }
    })
}

fn canary_steps(random: &mut Random, places: &BTreeMap<String, Place>) -> Vec<CanaryStep> {
    let finest = places.values().map(|place| place.abilities.finest_share).max().unwrap_or(1);
    let finest = if random.chance(90) { finest.max(100) } else { 1 };
    let mut weights: Vec<u32> = (0..random.below(4))
        .map(|_| (random.between(1, 9_999) as u32 / finest * finest).clamp(finest, 9_900))
        .collect();
    weights.push(10_000);
    weights.sort_unstable();
    weights.dedup();
    weights
        .into_iter()
        .map(|weight| CanaryStep {
            weight,
            hold_ms: random.below(5) * 1_000,
        })
        .collect()
}

fn first_spec(random: &mut Random, places: &BTreeMap<String, Place>, name: &str, before: &[String]) -> WorkloadSpec {
    let artifact = if random.chance(20) && has(Feature::Selectors) {
        ArtifactSpec::Select {
            repository: format!("{REGISTRY}/{name}"),
            select: if random.chance(50) {
                Selector::Semver("~1".into())
            } else {
                Selector::Regex(r"^1\.([0-9]+)\.0$".into())
            },
        }
    } else {
        ArtifactSpec::Reference(reference(name, 0))
    };
    let targets = match random.below(10) {
        0..7 => Targets::MatchLabels(BTreeMap::new()),
        7..9 => Targets::MatchLabels([("env".to_owned(), "a".to_owned())].into()),
        _ => Targets::Names(places.keys().take(2).cloned().collect()),
    };
    let probed = places.values().all(|place| place.abilities.probed);
    let http = (random.chance(70) && (probed || random.chance(10))).then(|| HttpHealth { path: "/healthz".into() });
    let telemetry_required = random.chance(15) && has(Feature::Telemetry);
    let analysis = (0..random.below(3)).map(|n| analysis(random, n)).collect();
    let standby = random.below(3) as u32;
    let approval = Approval {
        before: vec![*random.pick(&[5_000, 10_000]).unwrap_or(&10_000)],
        count: random.between(1, 2) as u32,
        allow_author: random.chance(30),
    };
    let jobs = |random: &mut Random, hook: &str| -> Vec<Job> {
        (0..1 + random.below(2))
            .map(|n| Job {
                name: format!("{hook}-{n}"),
                template: json!({ "job": n }),
                scope: if random.chance(50) {
                    JobScope::Placement
                } else {
                    JobScope::Target
                },
                repeatable: random.chance(20),
            })
            .collect()
    };
    let (before_jobs, after_jobs) = (jobs(random, "before"), jobs(random, "after"));
    let (with_before, with_after, approved, dependent) = (
        random.chance(25) && has(Feature::Jobs),
        random.chance(15) && has(Feature::Jobs),
        random.chance(15) && has(Feature::Approvals),
        random.chance(40) && has(Feature::DependsOn),
    );
    let placement = placement(random, targets);
    let spec = WorkloadSpec::new([("main".to_owned(), artifact)].into(), placement);
    WorkloadSpec {
        instances: random.between(1, 4) as u32,
        template: json!({ "app": name }),
        secrets: if random.chance(30) {
            vec![SecretRef {
                name: "db".into(),
                version: "1".into(),
            }]
        } else {
            Vec::new()
        },
        before: if with_before { before_jobs } else { Vec::new() },
        after: if with_after { after_jobs } else { Vec::new() },
        strategy: strategy(random, places),
        health: Health {
            timeout_ms: 20_000,
            interval_ms: 500,
            stable_ms: 1_000,
            http,
            telemetry_required,
        },
        analysis,
        approval: approved.then_some(approval),
        depends_on: if dependent {
            before.first().cloned().into_iter().collect()
        } else {
            Vec::new()
        },
        drain_ms: 1_000,
        rollback: if random.chance(5) && has(Feature::Manual) {
            Rollback::Manual
        } else {
            Rollback::Automatic
        },
        standby: if has(Feature::Standby) { standby } else { 0 },
        ..spec
    }
}

fn placement(random: &mut Random, targets: Targets) -> Placement {
    let mut placement = Placement::from(targets);
    let waves = vec![
        Wave {
            targets: Count::Number(random.between(1, 2) as u32),
            hold_ms: random.below(4) * 2_000,
        },
        Wave {
            targets: Count::Share(5_000),
            hold_ms: random.below(3) * 1_000,
        },
    ];
    let lagging = random.chance(40);
    let failing = random.chance(20);
    let abort = random.chance(15);
    if has(Feature::Waves) {
        if random.chance(50) {
            placement.waves = waves;
        }
        if lagging {
            placement.max_lagging = Count::Share(5_000);
        }
        if failing {
            placement.max_failed = Count::Number(1);
        }
        if abort {
            placement.on_halt = OnHalt::Abort;
        }
        placement.lag_after_ms = 30_000;
    }
    placement
}

fn analysis(random: &mut Random, n: u64) -> Analysis {
    let other = random.below(4);
    let source = match other {
        1 if has(Feature::Prometheus) => AnalysisSource::Prometheus {
            source: "main".into(),
            query: "errors{generation=\"{{generation}}\"}".into(),
            samples: None,
            range_ms: None,
        },
        2 if has(Feature::Prometheus) => AnalysisSource::Http { path: "/metrics".into() },
        _ => AnalysisSource::Target {
            numerator: "errors_total".into(),
            total: "requests_total".into(),
        },
    };
    Analysis {
        name: format!("errors-{n}"),
        source,
        fail_when: "canary.value > baseline.value * 2.0 && canary.value > 0.01".into(),
        interval_ms: 500,
        at: Vec::new(),
        failures: 2,
        min_samples: 10,
        unmeasured: Unmeasured {
            for_ms: 60_000,
            then: *random
                .pick(&[UnmeasuredThen::Hold, UnmeasuredThen::Fail, UnmeasuredThen::Pass])
                .unwrap_or(&UnmeasuredThen::Hold),
        },
        dry_run: random.chance(15),
    }
}

pub fn reference(name: &str, version: u64) -> String {
    format!("{REGISTRY}/{name}:1.{version}.0")
}

/// The content of a config file, of which there are many.
pub fn config_file(n: u64) -> (Digest, Vec<u8>) {
    let bytes = format!("setting = {n}\n").into_bytes();
    (Digest::of(&bytes), bytes)
}

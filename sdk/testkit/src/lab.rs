//! Where a plugin is tried: targets on which nothing was done yet, and what to bring there.

use crate::scenario::Scenario;
use holdfast_core::target::Artifact;
use holdfast_host::{Exchange, Sending, Wire, WireRequest};
use holdfast_simulation::{Description, Simulation};
use serde::Deserialize;
use std::sync::Arc;

pub trait Lab {
    /// A target that nobody has touched. Real software may be slow to begin, so one is asked for only where it is needed.
    fn fresh(&self) -> Arc<dyn Wire>;
    fn subjects(&self) -> &Subjects;
    /// How many generations of one workload are tried at once, where many are.
    fn crowd(&self) -> u32 {
        80
    }
}

/// What generations are made of.
#[derive(Debug, Clone)]
pub struct Subjects {
    /// JSON.
    pub config: String,
    /// JSON.
    pub template: String,
    /// The artifacts of two releases; each has one, named `main`.
    pub artifacts: [Artifact; 2],
    pub observed: Observed,
}

/// Members of the target's answers, by name, that tell what IS there, as opposed to what was asked for. Where one is not
/// named, what rests on it is left out and the report says so.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// The digest of what runs.
    #[serde(default)]
    pub digest: Vec<String>,
    /// Shares that are in effect, as a map from generation to share.
    #[serde(default)]
    pub shares: Vec<String>,
}

/// Targets in memory.
pub struct SimulatedLab {
    description: Description,
    subjects: Subjects,
}

impl SimulatedLab {
    pub fn new(scenario: Scenario) -> Self {
        let artifact = |digit: &str| {
            let digest = format!("sha256:{}", digit.repeat(64));
            Artifact {
                name: "main".into(),
                uri: format!("registry.example.com/app@{digest}"),
                digest,
                images: Vec::new(),
                payload: Vec::new(),
            }
        };
        Self {
            description: scenario.target,
            subjects: Subjects {
                config: scenario.config.to_string(),
                template: scenario.template.to_string(),
                artifacts: [artifact("a"), artifact("b")],
                observed: scenario.observed,
            },
        }
    }
}

impl Lab for SimulatedLab {
    fn fresh(&self) -> Arc<dyn Wire> {
        Arc::new(Simulated(Simulation::new(self.description.clone())))
    }

    fn subjects(&self) -> &Subjects {
        &self.subjects
    }
}

struct Simulated(Simulation);

impl Wire for Simulated {
    fn send<'a>(&'a self, request: &'a WireRequest) -> Sending<'a> {
        let answer = self.0.handle(&request.method, &request.path, &request.headers, &request.body);
        let exchange = Exchange {
            status: answer.status,
            headers: answer.headers,
            body: answer.body,
        };
        Box::pin(async move { Ok(exchange) })
    }
}

//! `simulation.json`: the target that an author's plugin is tested against, and what it is asked to run there.

use crate::lab::Observed;
use holdfast_simulation::Description;
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The target that is simulated.
    pub target: Description,
    /// A target's `config`, valid.
    #[serde(default = "empty")]
    pub config: Value,
    /// A generation's template, valid.
    #[serde(default = "empty")]
    pub template: Value,
    #[serde(default)]
    pub observed: Observed,
}

fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}

#[derive(Debug, thiserror::Error)]
#[error("the description of the simulated target is not valid, at {at}: {message}")]
pub struct ScenarioError {
    pub at: String,
    pub message: String,
}

impl Scenario {
    pub fn parse(json: &[u8]) -> Result<Self, ScenarioError> {
        serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(json)).map_err(|error| ScenarioError {
            at: error.path().to_string(),
            message: error.into_inner().to_string(),
        })
    }
}

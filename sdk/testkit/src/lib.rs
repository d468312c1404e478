//! Conformance kit for target plugins: what `sdk/wit` promises, checked from outside, in the daemon's own host and under its
//! limits. It needs something that the plugin talks to, a [`Lab`]: a simulated target for an author, real software for us.
//!
//! Every check has a target of its own, a name, and a part of `sdk/CHECKS.md` under that name.

mod checks;
mod lab;
mod record;
mod report;
mod scenario;
mod stage;
mod tap;

pub use checks::{NAMES, run};
pub use lab::{Lab, Observed, SimulatedLab, Subjects};
pub use record::{Recorder, Recording, RecordingError, Replayer};
pub use report::{CheckResult, Outcome, Report};
pub use scenario::{Scenario, ScenarioError};
pub use stage::{binding_over, sample_generation};

//! How calls end. Every failure has a class; the class says who did what wrong.

use holdfast_core::target::{Fault, FaultClass, Sent};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// The wall deadline passed.
    Deadline,
    /// It computed for too long.
    CpuBudget,
    /// It recursed too deep.
    Stack,
    /// It wanted more memory than its cap.
    Memory,
    /// Its answer was too large.
    OutputSize,
    /// It panicked or trapped.
    Panic,
    /// It called exit.
    Exit,
    /// It called the host too often.
    HostCalls,
    /// Too many of its calls are under way.
    Busy,
    /// Our own code failed.
    HostBug,
    /// It does not export what was called.
    NotExported,
}

/// What the author did wrong, by class.
pub const FAILURES_PAGE: &str = "sdk/FAILURES.md";

impl FailureClass {
    pub const ALL: [FailureClass; 11] = [
        FailureClass::Deadline,
        FailureClass::CpuBudget,
        FailureClass::Stack,
        FailureClass::Memory,
        FailureClass::OutputSize,
        FailureClass::Panic,
        FailureClass::Exit,
        FailureClass::HostCalls,
        FailureClass::Busy,
        FailureClass::HostBug,
        FailureClass::NotExported,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            FailureClass::Deadline => "deadline",
            FailureClass::CpuBudget => "cpu-budget",
            FailureClass::Stack => "stack",
            FailureClass::Memory => "memory",
            FailureClass::OutputSize => "output-size",
            FailureClass::Panic => "panic",
            FailureClass::Exit => "exit",
            FailureClass::HostCalls => "host-calls",
            FailureClass::Busy => "busy",
            FailureClass::HostBug => "host-bug",
            FailureClass::NotExported => "not-exported",
        }
    }
}

/// The plugin said no, or did not get to say anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallFailure {
    Fault(Fault),
    Failed { class: FailureClass, message: String },
}

impl CallFailure {
    /// What the planners see. A plugin that failed is `internal`; a deadline leaves the effect unknown; what it does not
    /// export is `absent`.
    pub fn into_fault(self) -> Fault {
        match self {
            CallFailure::Fault(fault) => fault,
            CallFailure::Failed {
                class: FailureClass::Deadline,
                message,
            } => Fault {
                class: FaultClass::Deadline,
                message: format!("{message} (see {FAILURES_PAGE}#deadline)"),
                fence: None,
            },
            // Nothing of it was begun.
            CallFailure::Failed {
                class: FailureClass::Busy,
                message,
            } => Fault {
                class: FaultClass::Exhausted,
                message,
                fence: None,
            },
            CallFailure::Failed {
                class: FailureClass::NotExported,
                message,
            } => Fault {
                class: FaultClass::Absent,
                message: format!("the plugin cannot be asked: {message}"),
                fence: None,
            },
            CallFailure::Failed { class, message } => Fault {
                class: FaultClass::Internal,
                message: format!(
                    "plugin {}: {message} (see {FAILURES_PAGE}#{})",
                    class.as_str(),
                    class.as_str()
                ),
                fence: None,
            },
        }
    }
}

/// A call's answer and what the host saw of it.
#[derive(Debug)]
pub struct CallReport<T> {
    pub answer: Result<T, CallFailure>,
    pub sent: Vec<Sent>,
    pub elapsed: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("plugin {name} is {size} bytes; the limit is {limit} (see {FAILURES_PAGE}#too-large)")]
    TooLarge { name: String, size: usize, limit: usize },
    #[error("plugin {name} is not a valid WebAssembly component: {message} (see {FAILURES_PAGE}#invalid)")]
    Invalid { name: String, message: String },
    #[error("plugin {name} does not fit the plugin world: {message} (see {FAILURES_PAGE}#world)")]
    World { name: String, message: String },
    #[error("plugin {name} {found}; this holdfast calls holdfast:target {supported} (see {FAILURES_PAGE}#version)")]
    Version { name: String, found: String, supported: String },
    #[error("plugin {name} imports {import}, which no plugin gets (see {FAILURES_PAGE}#import)")]
    Import { name: String, import: String },
    #[error("plugin {name}: {message} (see {FAILURES_PAGE}#metadata)")]
    Metadata { name: String, message: String },
    #[error("plugin {name} asks for {asked_mib} MiB of memory; a call gets at most {limit_mib} (see {FAILURES_PAGE}#metadata)")]
    Memory { name: String, asked_mib: u32, limit_mib: usize },
    #[error("plugin {name} does not start: {message} (see {FAILURES_PAGE}#start)")]
    Start { name: String, message: String },
    #[error(
        "plugin {name} was still compiling after {limit_ms} ms and is not tried again before a restart (see {FAILURES_PAGE}#compile-time)"
    )]
    CompileTime { name: String, limit_ms: u64 },
    #[error("the WebAssembly engine cannot be started: {0}")]
    Engine(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_place_on_the_page() {
        let page = include_str!("../../../sdk/FAILURES.md");
        let load = ["too-large", "invalid", "world", "import", "start", "compile-time"];
        for class in FailureClass::ALL.map(FailureClass::as_str).into_iter().chain(load) {
            assert!(page.contains(&format!("\n## {class}\n")), "{class}");
        }
    }

    #[test]
    fn what_the_planners_see_names_the_place() {
        for (class, expected) in [
            (FailureClass::Memory, FaultClass::Internal),
            (FailureClass::Deadline, FaultClass::Deadline),
        ] {
            let fault = CallFailure::Failed {
                class,
                message: "x".into(),
            }
            .into_fault();
            assert_eq!(fault.class, expected);
            let place = format!("(see sdk/FAILURES.md#{})", class.as_str());
            assert!(fault.message.ends_with(&place), "{}", fault.message);
        }
    }
}

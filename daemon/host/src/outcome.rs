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
    /// Our own code failed.
    HostBug,
    /// It does not export what was called.
    NotExported,
}

impl FailureClass {
    pub fn as_str(self) -> &'static str {
        match self {
            FailureClass::Deadline => "deadline",
            FailureClass::CpuBudget => "cpu-budget",
            FailureClass::Stack => "stack",
            FailureClass::Memory => "memory",
            FailureClass::OutputSize => "output-size",
            FailureClass::Panic => "panic",
            FailureClass::Exit => "exit",
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
                message: format!("plugin {}: {message}", class.as_str()),
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
    #[error("plugin {name} is {size} bytes; the limit is {limit}")]
    TooLarge { name: String, size: usize, limit: usize },
    #[error("plugin {name} is not a valid WebAssembly component: {message}")]
    Invalid { name: String, message: String },
    #[error("plugin {name} does not fit the plugin world: {message}")]
    World { name: String, message: String },
    #[error("plugin {name} {found}; this holdfast calls holdfast:target {supported}")]
    Version { name: String, found: String, supported: String },
    #[error("plugin {name} imports {import}, which no plugin gets")]
    Import { name: String, import: String },
    #[error("plugin {name}: {message}")]
    Metadata { name: String, message: String },
    #[error("plugin {name} asks for {asked_mib} MiB of memory; a call gets at most {limit_mib}")]
    Memory { name: String, asked_mib: u32, limit_mib: usize },
    #[error("plugin {name} does not start: {message}")]
    Start { name: String, message: String },
    #[error("the WebAssembly engine cannot be started: {0}")]
    Engine(String),
}

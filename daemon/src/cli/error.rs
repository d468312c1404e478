//! Errors as people see them: `error:`, `caused by:`, `hint:`, and an exit code by kind.

use super::show::clean;
use crate::api::ClientError;
use crate::operator::OperatorError;
use crate::shell::ShellError;
use holdfast_core::manifest::render;
use holdfast_ledger::LedgerError;
use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

/// Something is wrong with what was given.
pub const USAGE: u8 = 2;
/// It ran, and the answer is no: problems found, verification failed, rolled back.
pub const NEGATIVE: u8 = 1;
/// Something outside failed.
pub const TROUBLE: u8 = 3;
/// `status --wait`: nothing was decided in time.
pub const TIMED_OUT: u8 = 4;

/// A line on standard error. Where that cannot be written either, there is nobody left to tell.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", clean(text));
}

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error(transparent)]
    Shell(#[from] ShellError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    EdgeNode(#[from] holdfast_edge_node::EdgeNodeError),
    #[error(transparent)]
    Git(#[from] crate::adapters::git::GitError),
    #[error(transparent)]
    Key(#[from] holdfast_ledger::tlog::key::KeyError),
    #[error(transparent)]
    Publishing(#[from] crate::shell::PublishingError),
    #[error(transparent)]
    Backup(#[from] holdfast_ledger::backup::BackupError),
    #[error("{what}")]
    Io { what: String, source: std::io::Error },
    #[error("{message}")]
    Usage { message: String, hint: String },
}

impl CliError {
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }

    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: hint.into(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            CliError::Operator(OperatorError::Read { .. }) => {
                Some("`holdfast init REPOSITORY` writes one; --config names another".into())
            }
            CliError::Client(ClientError::NotRunning { .. }) => {
                Some("`holdfast run` starts the daemon; --config says which one is meant".into())
            }
            CliError::Ledger(LedgerError::Locked(_)) | CliError::Shell(ShellError::Ledger(LedgerError::Locked(_))) => {
                Some("only one daemon may use a ledger; stop the other one first".into())
            }
            CliError::Usage { hint, .. } if !hint.is_empty() => Some(hint.clone()),
            _ => None,
        }
    }

    pub fn report(&self) -> ExitCode {
        if let CliError::Operator(OperatorError::Invalid(_, problems, text))
        | CliError::Shell(ShellError::Operator(OperatorError::Invalid(_, problems, text))) = self
        {
            for problem in problems {
                render(problem, Some(text)).lines().for_each(say);
            }
            return ExitCode::from(USAGE);
        }
        say(&format!("error: {self}"));
        let mut last = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // A transparent variant repeats its source.
            if text != last {
                say(&format!("caused by: {text}"));
            }
            last = text;
            source = cause.source();
        }
        if let Some(hint) = self.hint() {
            say(&format!("hint: {hint}"));
        }
        ExitCode::from(match self {
            CliError::Operator(_) | CliError::Usage { .. } => USAGE,
            CliError::Client(ClientError::Refused(_)) => NEGATIVE,
            _ => TROUBLE,
        })
    }
}

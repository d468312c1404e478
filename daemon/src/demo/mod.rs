//! The demo: the main job on embedded defaults, with real processes, real requests and a real crash. It judges by what
//! clients were answered, what the sites journalled and what the log says; never by what the daemon says of itself.

mod evidence;
mod screen;
mod steps;
mod traffic;
mod world;

pub use traffic::{TrafficArgs, traffic};

use screen::Screen;
use serde::Serialize;
use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use world::World;

const SIGPIPE: u8 = 13;

#[derive(clap::Args)]
pub struct DemoArgs {
    /// Leave everything running, and say what to try next
    #[arg(long)]
    keep: bool,
    /// Where to put it; default: a new temporary directory
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What one step should show, and what was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub name: &'static str,
    pub expected: String,
    pub seen: String,
    pub ok: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("{what}")]
    Io { what: String, source: std::io::Error },
    #[error("the demo's repository cannot be used")]
    Git(#[from] git2::Error),
    #[error("{what} did not come to pass within {within_s} s")]
    TimeOut { what: String, within_s: u64 },
    #[error("the daemon's log cannot be read")]
    Ledger(#[from] holdfast_ledger::LedgerError),
    #[error("stopped by a signal; its processes are ended and its directory is removed")]
    Interrupted(u8),
    #[error("nobody reads the output any more; its processes are ended and its directory is removed")]
    ReaderGone,
}

impl DemoError {
    fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }
}

/// One process of the demo.
#[derive(clap::Args)]
pub struct ProcessArgs {
    /// It outlives the demo
    #[arg(long)]
    keep: bool,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Becomes another command of this program, in a session of its own: a closed terminal does not end it. Unless it is to be
/// kept, the kernel ends it with the demo, however that ends.
pub fn process(args: &ProcessArgs) -> ExitCode {
    let prepared = rustix::process::setsid().and_then(|_| match args.keep {
        true => Ok(()),
        false => rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)),
    });
    let error = match (prepared, std::env::current_exe()) {
        (Ok(()), Ok(program)) => std::process::Command::new(program).args(&args.args).exec(),
        (Err(error), _) => error.into(),
        (_, Err(error)) => error,
    };
    let _ = writeln!(std::io::stderr(), "error: a process of the demo cannot be started: {error}");
    ExitCode::from(3)
}

pub fn run(args: &DemoArgs, json: bool) -> ExitCode {
    let mut steps = Vec::new();
    let mut world = None;
    let outcome =
        World::start(args.dir.clone(), args.keep, json).and_then(|started| steps::all(world.insert(started), &mut steps));
    let ok = outcome.is_ok() && steps.len() == steps::COUNT && steps.iter().all(|step| step.ok);
    let screen = Screen::new(json);
    let stopped = match &outcome {
        Err(DemoError::Interrupted(signal)) => Some(128 + signal),
        Err(DemoError::ReaderGone) => Some(128 + SIGPIPE),
        _ => None,
    };
    if stopped.is_some() {
        // Dropping it stops every process and removes the directory.
        world = None;
    }
    if let Err(error) = &outcome {
        screen.trouble(&format!("error: {error}"));
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            screen.trouble(&format!("caused by: {cause}"));
            source = cause.source();
        }
    }
    if let Some(code) = stopped {
        return ExitCode::from(code);
    }
    if json {
        screen.data(&serde_json::json!({ "steps": steps, "ok": ok }).to_string());
    } else {
        screen.table(&steps);
        screen.data(match ok {
            true => "all seen as expected",
            false => "not all was seen as expected",
        });
    }
    if args.keep
        && outcome.is_ok()
        && let Some(world) = world
    {
        world.keep();
    }
    ExitCode::from(u8::from(!ok))
}

//! The demo: the main job on embedded defaults, with real processes, real requests and a real crash. It judges by what
//! clients were answered, what the sites journalled and what the log says; never by what the daemon says of itself.

mod evidence;
mod steps;
mod traffic;
mod world;

pub use traffic::{TrafficArgs, traffic};

use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use world::World;

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
    #[error("the demo's repository: {0}")]
    Git(#[from] git2::Error),
    #[error("{what} did not come to pass within {within_s} s")]
    TimeOut { what: String, within_s: u64 },
    #[error("{0}")]
    Ledger(#[from] holdfast_ledger::LedgerError),
    #[error("{program} ended with {status}: {output}")]
    Program {
        program: String,
        status: String,
        output: String,
    },
}

impl DemoError {
    fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }
}

pub fn run(args: &DemoArgs, json: bool) -> ExitCode {
    let mut steps = Vec::new();
    let outcome = World::start(args.dir.clone(), json).and_then(|mut world| {
        let outcome = steps::all(&mut world, &mut steps);
        if args.keep && outcome.is_ok() {
            world.keep();
        }
        outcome
    });
    if let Err(error) = &outcome {
        eprintln!("error: {error}");
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            eprintln!("caused by: {cause}");
            source = cause.source();
        }
    }
    let ok = outcome.is_ok() && steps.len() == steps::COUNT && steps.iter().all(|step| step.ok);
    if json {
        println!("{}", serde_json::json!({ "steps": steps, "ok": ok }));
    } else {
        println!();
        for step in &steps {
            println!("{}  {}", if step.ok { "ok  " } else { "FAIL" }, step.name);
            println!("      expected  {}", step.expected);
            println!("      seen      {}", step.seen);
        }
        println!(
            "\n{}",
            if ok {
                "all seen as expected"
            } else {
                "not all was seen as expected"
            }
        );
    }
    ExitCode::from(u8::from(!ok))
}

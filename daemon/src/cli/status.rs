//! `status`: two lines for each workload, Wanted and Running, every wait, and each way out as a command.

use super::error::{CliError, NEGATIVE};
use super::show::{Out, Tone};
use crate::api::{Ask, ClientError, ask};
use crate::operator;
use holdfast_core::entry::{AttemptOutcome, PhaseName, RolloutState};
use holdfast_core::manifest::human_ms;
use holdfast_core::plan::unit::percent;
use holdfast_core::view::{StatusView, UnitView, WorkloadView};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(200);
const STARTS_WITHIN: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub struct StatusArgs {
    /// Only this workload
    workload: Option<String>,
    /// Wait until this commit is decided: live, or rolled back with the reason
    #[arg(long, value_name = "COMMIT")]
    wait: Option<String>,
    /// Give up waiting after so many seconds
    #[arg(long, default_value_t = 3600)]
    timeout_s: u64,
}

pub fn view(config: &Path) -> Result<StatusView, CliError> {
    let operator = operator::load(config)?;
    fetch(&operator)
}

fn fetch(operator: &operator::Operator) -> Result<StatusView, CliError> {
    let value = ask(&operator.socket(), &Ask::Status)?;
    serde_json::from_value(value).map_err(|error| CliError::Client(crate::api::ClientError::Json(error)))
}

pub fn status(config: &Path, args: &StatusArgs, out: &Out) -> Result<ExitCode, CliError> {
    let operator = operator::load(config)?;
    let mut view = match &args.wait {
        Some(commit) => wait(&operator, commit, Duration::from_secs(args.timeout_s))?,
        None => fetch(&operator)?,
    };
    if let Some(name) = &args.workload {
        let full = super::commands::full_name(&operator.repository.name, name);
        view.workloads.retain(|workload| workload.name == full);
        if view.workloads.is_empty() {
            return Err(CliError::usage(
                format!("there is no workload {full}"),
                "`holdfast status` lists them",
            ));
        }
    }
    match out.is_json {
        true => out.json(&serde_json::to_value(&view).unwrap_or_default()),
        false => draw(&view, out),
    }
    let bad = args.wait.is_some() && view.workloads.iter().any(|workload| is_bad(workload, args.wait.as_deref()));
    Ok(ExitCode::from(if bad { NEGATIVE } else { 0 }))
}

/// The commit's request did not go live.
fn is_bad(workload: &WorkloadView, commit: Option<&str>) -> bool {
    workload.wanted.as_ref().is_some_and(|wanted| {
        commit.is_none_or(|commit| wanted.commit.starts_with(commit))
            && matches!(
                wanted.state,
                RolloutState::Halted | RolloutState::Refused | RolloutState::Aborted | RolloutState::Aborting
            )
    })
}

#[allow(clippy::disallowed_methods, reason = "a person waits in real time")]
fn wait(operator: &operator::Operator, commit: &str, timeout: Duration) -> Result<StatusView, CliError> {
    let begun = Instant::now();
    sync_when_up(operator)?;
    loop {
        let view = fetch(operator)?;
        let seen = view.source.as_ref().is_some_and(|source| source.commit.starts_with(commit));
        if seen && view.workloads.iter().all(|workload| workload.settled) {
            return Ok(view);
        }
        if begun.elapsed() > timeout {
            let what = if seen { "is not decided" } else { "has not been seen" };
            return Err(CliError::usage(
                format!("commit {commit} {what} after {} s", timeout.as_secs()),
                "`holdfast status` says what it waits on",
            ));
        }
        std::thread::sleep(POLL);
    }
}

/// A daemon that was just started may not listen yet.
#[allow(clippy::disallowed_methods, reason = "a person waits in real time")]
fn sync_when_up(operator: &operator::Operator) -> Result<(), CliError> {
    let begun = Instant::now();
    loop {
        match ask(&operator.socket(), &Ask::Sync) {
            Err(ClientError::NotRunning { .. }) if begun.elapsed() < STARTS_WITHIN => std::thread::sleep(POLL),
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

fn ago(view: &StatusView, t: u64) -> String {
    format!("{} ago", human_ms(view.t.saturating_sub(t)))
}

fn draw(view: &StatusView, out: &Out) {
    match &view.source {
        Some(source) => {
            out.line(&format!("Git     {} {}", short(&source.commit), source.summary));
            for problem in &source.problems {
                out.line(&out.paint(Tone::Bad, &format!("        {problem}")));
            }
            if let Some(rewrite) = &source.rewrite {
                let text = format!(
                    "        the branch was rewritten to {}; nothing of it is taken: holdfast accept-rewrite {rewrite}",
                    short(rewrite)
                );
                out.line(&out.paint(Tone::Bad, &text));
            }
        }
        None => out.line("Git     no revision yet"),
    }
    out.line(&format!("Ledger  {} entries, {} durable", view.entries, view.durable));
    for target in view.targets.iter().filter(|target| target.state != "ok") {
        out.line(&out.paint(
            Tone::Warn,
            &format!("Target  {} is {} {}", target.name, target.state, target.message),
        ));
    }
    if view.workloads.is_empty() {
        out.line("\nno workloads yet: commit a manifest, or see examples/");
    }
    for workload in &view.workloads {
        draw_workload(view, workload, out);
    }
}

fn short(text: &str) -> &str {
    text.get(..12).unwrap_or(text)
}

fn draw_workload(view: &StatusView, workload: &WorkloadView, out: &Out) {
    out.line("");
    let note = if workload.presence == "present" {
        String::new()
    } else {
        format!("  ({})", workload.presence)
    };
    out.line(&out.paint(Tone::Bold, &format!("{}{note}", workload.name)));
    match &workload.wanted {
        Some(wanted) => {
            let state = serde_json::to_value(wanted.state)
                .ok()
                .and_then(|value| value.as_str().map(str::to_owned))
                .unwrap_or_default();
            let tone = match wanted.state {
                RolloutState::Succeeded => Tone::Good,
                RolloutState::Rolling => Tone::Plain,
                _ => Tone::Bad,
            };
            let paused = if wanted.paused { ", paused" } else { "" };
            let line = format!(
                "  Wanted   release {} of commit {}: {state}{paused}, {}",
                short(&wanted.release),
                short(&wanted.commit),
                ago(view, wanted.since)
            );
            out.line(&out.paint(tone, &line));
            if !wanted.message.is_empty() {
                out.line(&format!("           {}", wanted.message));
            }
        }
        None => out.line("  Wanted   nothing yet"),
    }
    if let Some(waiting) = &workload.waiting {
        out.line(&format!("           waits on {}: {}", waiting.on, waiting.message));
    }
    for unit in &workload.units {
        draw_unit(view, unit, out);
    }
    for moved in &workload.moved_tags {
        let text = format!(
            "  Moved    {} points at {} now; {} stays pinned",
            moved.reference,
            short(&moved.seen[7..]),
            short(&moved.pinned[7..])
        );
        out.line(&out.paint(Tone::Warn, &text));
    }
    for quarantine in &workload.quarantine {
        out.line(&out.paint(
            Tone::Warn,
            &format!("  Kept out release {}: {}", short(&quarantine.release), quarantine.message),
        ));
    }
    for exit in &workload.exits {
        out.line(&out.paint(Tone::Dim, &format!("           $ {exit}")));
    }
}

fn draw_unit(view: &StatusView, unit: &UnitView, out: &Out) {
    let running = match (&unit.release, unit.generation) {
        (Some(release), Some(generation)) => format!("generation {generation}, release {}", short(release)),
        _ => "nothing".to_owned(),
    };
    let attempt = unit.attempt.as_ref().map(|attempt| {
        let phase = serde_json::to_value(unit.phase)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default();
        format!(
            "; {} brings generation {}: {phase} at {}%",
            attempt.deploy,
            attempt.generation,
            percent(attempt.weight)
        )
    });
    let leaving = if unit.phase == PhaseName::Leaving { ", leaving" } else { "" };
    out.line(&format!(
        "  Running  {}: {running}{leaving}{}, {}",
        unit.target,
        attempt.unwrap_or_default(),
        ago(view, unit.since)
    ));
    if let Some(waiting) = &unit.waiting {
        let until = waiting
            .until
            .map(|until| format!(", until {} from now", human_ms(until.saturating_sub(view.t))))
            .unwrap_or_default();
        out.line(&format!(
            "           waits on {} since {}{until}: {}",
            waiting.on,
            ago(view, waiting.since),
            waiting.message
        ));
    }
    if let Some(last) = unit.last.as_ref().filter(|last| last.outcome != AttemptOutcome::Succeeded) {
        let word = match last.outcome {
            AttemptOutcome::Bad => "rolled back",
            AttemptOutcome::CouldNotTry => "could not be tried",
            _ => "stopped",
        };
        out.line(&out.paint(
            Tone::Warn,
            &format!(
                "           {} of release {} {word}: {}: {}",
                last.deploy,
                short(&last.release),
                last.reason,
                last.message
            ),
        ));
    }
}

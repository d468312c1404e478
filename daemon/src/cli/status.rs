//! `status`: two lines for each workload, Wanted and Running, every wait, and each way out as a command.

use super::error::{CliError, NEGATIVE, TIMED_OUT};
use super::show::Out;
use super::{commit, draw, wait, watch};
use crate::api::{Ask, ClientError, ask};
use crate::operator::{self, Operator};
use holdfast_core::view::StatusView;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args)]
pub struct StatusArgs {
    /// Only this workload, as in shop or main/shop
    workload: Option<String>,
    /// Wait until this commit is decided: live, or why not, with the last log lines of what failed
    #[arg(long, value_name = "COMMIT", conflicts_with = "watch")]
    wait: Option<String>,
    /// Show what happens, as it happens, until Ctrl-C; in a pipe, one line for each change
    #[arg(long)]
    watch: bool,
    /// With --wait: give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout_s: u64,
}

pub fn view(config: &Path) -> Result<StatusView, CliError> {
    fetch(&operator::load(config)?)
}

pub fn fetch(operator: &Operator) -> Result<StatusView, CliError> {
    let value = ask(&operator.socket(), &Ask::Status)?;
    serde_json::from_value(value).map_err(|error| CliError::Client(ClientError::Json(error)))
}

/// Only one workload, if one is named; it must be there.
pub fn narrow(view: &mut StatusView, name: Option<&str>) -> Result<(), CliError> {
    let Some(name) = name else { return Ok(()) };
    view.workloads.retain(|workload| workload.name == name);
    match view.workloads.is_empty() {
        true => Err(CliError::usage(
            format!("there is no workload {name}"),
            "`holdfast status` lists them",
        )),
        false => Ok(()),
    }
}

pub fn status(config: &Path, args: &StatusArgs, out: &Out) -> Result<ExitCode, CliError> {
    let operator = operator::load(config)?;
    let workload = args
        .workload
        .as_ref()
        .map(|name| super::commands::full_name(&operator.repository.name, name));
    if args.watch {
        return watch::watch(&operator, workload.as_deref(), out);
    }
    if let Some(text) = &args.wait {
        let commit = commit::resolve(text, Path::new("."))?;
        let report = wait::wait(&operator, &commit, workload.as_deref(), Duration::from_secs(args.timeout_s))?;
        wait::show(&report, out);
        return Ok(match report.verdict {
            wait::Overall::Live => ExitCode::SUCCESS,
            wait::Overall::NotLive => ExitCode::from(NEGATIVE),
            wait::Overall::TimedOut => ExitCode::from(TIMED_OUT),
        });
    }
    let mut view = fetch(&operator)?;
    narrow(&mut view, workload.as_deref())?;
    match out.is_json {
        true => out.json(&serde_json::to_value(&view).unwrap_or_default()),
        false => draw::status(&view).iter().for_each(|line| out.line(line)),
    }
    Ok(ExitCode::SUCCESS)
}

//! `plugin run`: one verb, as the daemon calls it, over a binding of holdfast.yaml, a simulated target or a recording.

use super::{cannot, load};
use crate::cli::error::{CliError, NEGATIVE};
use crate::cli::show::Out;
use holdfast_core::config::matches;
use holdfast_core::target::{CallContext, Progress, RouteEntry};
use holdfast_host::{Binding, CallFailure, CallOptions, CallReport, Plugin, Wire};
use holdfast_testkit::{Lab, Recorder, Recording, Replayer, Scenario, SimulatedLab, binding_over, sample_generation};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CallVerb {
    Check,
    Observe,
    Launch,
    Scale,
    Route,
    Retire,
    Room,
    Telemetry,
    Explain,
}

#[derive(clap::Args)]
pub struct RunArgs {
    /// Verb to call
    verb: CallVerb,
    /// The component
    file: PathBuf,
    /// Over the binding of this target in holdfast.yaml
    #[arg(long, conflicts_with_all = ["simulation", "replay"])]
    target: Option<String>,
    /// Over a new simulated target, as simulation.json describes it
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    simulation: Option<PathBuf>,
    /// Answer host calls from a recording; what was not recorded fails
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Write down the host calls and their answers
    #[arg(long, value_name = "FILE", requires = "target")]
    record: Option<PathBuf>,
    /// Target's config, JSON
    #[arg(long, default_value = "{}")]
    target_config: String,
    /// Whose installation it is
    #[arg(long, default_value = "tryout00")]
    owner: String,
    /// Fence of the call
    #[arg(long, default_value_t = 1)]
    fence: u64,
    /// Workload, as in shop
    #[arg(long, default_value = "shop")]
    workload: String,
    /// Number of the generation
    #[arg(long, default_value_t = 1)]
    number: u32,
    /// The main artifact, as in registry.example.com/shop@sha256:...
    #[arg(
        long,
        default_value = "registry.example.com/shop@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    )]
    artifact: String,
    /// The generation's template, JSON
    #[arg(long, default_value = "{}")]
    template: String,
    /// For launch and scale: instances
    #[arg(long, default_value_t = 1)]
    size: u32,
    /// For route: shares in 1/10000, as in 1=9000,2=1000; the first one leads
    #[arg(long, value_delimiter = ',', default_value = "1=10000")]
    shares: Vec<String>,
    /// For retire: nothing of the workload is left after it
    #[arg(long)]
    last: bool,
    /// Milliseconds that the call has
    #[arg(long, default_value_t = 15_000)]
    deadline_ms: u64,
}

/// What answers the plugin's requests.
enum Over {
    Nothing,
    Wire,
    Recorder(Arc<Recorder>, PathBuf),
    Replayer(Arc<Replayer>),
}

pub fn run(config: &Path, args: &RunArgs, out: &Out) -> Result<ExitCode, CliError> {
    let plugin = load(&args.file)?;
    let (binding, over) = binding(config, args, &plugin)?;
    let context = CallContext {
        owner: args.owner.clone(),
        target: args.target.clone().unwrap_or_else(|| "target-a".into()),
        config: args.target_config.clone(),
        fence: args.fence,
        deploy_id: "d0".into(),
        resume: None,
    };
    let options = CallOptions {
        binding,
        context: &context,
        deadline: Duration::from_millis(args.deadline_ms),
        now_ms: now_ms(),
        secrets: &[],
        artifacts: None,
    };
    let report = super::super::run::runtime()?.block_on(call(&plugin, args, &options))?;
    let (is_good, answer) = match &report.answer {
        Ok(answer) => (true, answer.clone()),
        Err(CallFailure::Fault(fault)) => (false, json!({ "fault": fault })),
        Err(CallFailure::Failed { class, message }) => (false, json!({ "failed": class.as_str(), "message": message })),
    };
    let elapsed_us = report.elapsed.as_micros() as u64;
    out.json(&json!({ "answer": answer, "sent": report.sent, "elapsed_us": elapsed_us }));
    match over {
        Over::Recorder(recorder, file) => {
            let text = serde_json::to_vec_pretty(&recorder.recording()).unwrap_or_default();
            std::fs::write(&file, text).map_err(cannot(&file, "written"))?;
        }
        Over::Replayer(replayer) => {
            if let Err(difference) = replayer.outcome() {
                crate::cli::error::say(&format!("error: {difference}"));
                return Ok(ExitCode::from(NEGATIVE));
            }
        }
        Over::Nothing | Over::Wire => {}
    }
    Ok(ExitCode::from(if is_good { 0 } else { NEGATIVE }))
}

#[allow(clippy::disallowed_methods, reason = "the plugin's clock shows the time of the call")]
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

fn binding(config: &Path, args: &RunArgs, plugin: &Plugin) -> Result<(Option<Arc<Binding>>, Over), CliError> {
    let over = |wire: Arc<dyn Wire>| binding_over(plugin, wire).map(Some).map_err(super::unusable);
    if let Some(file) = &args.replay {
        let text = std::fs::read(file).map_err(cannot(file, "read"))?;
        let recording: Recording = serde_json::from_slice(&text)
            .map_err(|error| CliError::usage(format!("{} is no recording: {error}", file.display()), ""))?;
        let replayer = Arc::new(Replayer::new(recording));
        return Ok((over(replayer.clone())?, Over::Replayer(replayer)));
    }
    if let Some(file) = &args.simulation {
        return Ok((over(simulated(file)?.fresh())?, Over::Wire));
    }
    let Some(target) = &args.target else {
        return Ok((None, Over::Nothing));
    };
    let operator = crate::operator::load(config)?;
    let bindings = operator.bindings()?;
    let found = bindings.into_iter().find(|(rule, _)| matches(&rule.target, target));
    let (_, real) = found.ok_or_else(|| CliError::usage(format!("no binding of holdfast.yaml is for target {target:?}"), ""))?;
    let Some(file) = &args.record else {
        return Ok((Some(real), Over::Wire));
    };
    let recorder = Arc::new(Recorder::new(real));
    Ok((over(recorder.clone())?, Over::Recorder(recorder, file.clone())))
}

pub fn simulated(file: &Path) -> Result<SimulatedLab, CliError> {
    let text = std::fs::read(file).map_err(cannot(file, "read"))?;
    let scenario = Scenario::parse(&text).map_err(|error| CliError::usage(format!("{}: {error}", file.display()), ""))?;
    Ok(SimulatedLab::new(scenario))
}

async fn call(plugin: &Plugin, args: &RunArgs, options: &CallOptions<'_>) -> Result<CallReport<Value>, CliError> {
    let generation = |number| sample_generation(&args.workload, number, &args.artifact, &args.template);
    let subject = generation(args.number);
    Ok(match args.verb {
        CallVerb::Check => shown(plugin.check(options, &subject).await),
        CallVerb::Observe => shown(plugin.observe(options, None).await),
        CallVerb::Launch => progress(plugin.launch(options, &subject, args.size).await),
        CallVerb::Scale => progress(plugin.scale(options, &subject, args.size).await),
        CallVerb::Route => {
            let entries = args.shares.iter().enumerate().map(|(index, share)| {
                let parts = share
                    .split_once('=')
                    .and_then(|(number, live)| Some((number.parse().ok()?, live.parse().ok()?)));
                let (number, live) =
                    parts.ok_or_else(|| CliError::usage(format!("{share:?} is no share"), "as in 1=9000,2=1000"))?;
                Ok(RouteEntry {
                    generation: generation(number),
                    live,
                    lead: index == 0,
                })
            });
            let entries: Vec<RouteEntry> = entries.collect::<Result<_, CliError>>()?;
            progress(plugin.route(options, &entries).await)
        }
        CallVerb::Retire => progress(plugin.retire(options, &subject, args.last).await),
        CallVerb::Room => shown(plugin.room(options, &subject).await),
        CallVerb::Telemetry => shown(plugin.telemetry(options, &subject).await),
        CallVerb::Explain => shown(plugin.explain(options, &subject).await),
    })
}

fn shown<T: serde::Serialize>(report: CallReport<T>) -> CallReport<Value> {
    CallReport {
        answer: report.answer.map(|answer| serde_json::to_value(answer).unwrap_or_default()),
        sent: report.sent,
        elapsed: report.elapsed,
    }
}

fn progress(report: CallReport<Progress>) -> CallReport<Value> {
    shown(report)
}

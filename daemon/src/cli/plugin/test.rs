//! `plugin test`, `bench` and `simulate`: a plugin against a target that a file describes.

use super::call::simulated;
use super::{cannot, load};
use crate::cli::error::{CliError, NEGATIVE};
use crate::cli::show::Out;
use holdfast_core::target::CallContext;
use holdfast_host::{CallOptions, Limits, PluginHost, Wire, WireRequest};
use holdfast_testkit::{CheckResult, Lab, NAMES, Outcome, binding_over, sample_generation};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

const REQUEST_MAX_BYTES: usize = 4 << 20;

#[derive(clap::Args)]
pub struct TestArgs {
    /// Directory of the plugin (plugin.wasm and simulation.json), or the component
    #[arg(default_value = ".")]
    path: PathBuf,
    /// The simulated target; default: simulation.json beside the component
    #[arg(long, value_name = "FILE")]
    simulation: Option<PathBuf>,
    /// Only this check
    #[arg(long = "check", value_name = "NAME")]
    checks: Vec<String>,
    /// Also write the outcome as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct BenchArgs {
    /// Directory of the plugin (plugin.wasm and simulation.json), or the component
    #[arg(default_value = ".")]
    path: PathBuf,
    /// The simulated target; default: simulation.json beside the component
    #[arg(long, value_name = "FILE")]
    simulation: Option<PathBuf>,
    /// Calls of each verb
    #[arg(long, default_value_t = 1_000)]
    calls: u32,
}

#[derive(clap::Args)]
pub struct SimulateArgs {
    /// The simulated target
    #[arg(default_value = "simulation.json")]
    file: PathBuf,
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:7620")]
    listen: SocketAddr,
}

/// The component, and what it is tried against.
fn files(path: &Path, simulation: Option<&PathBuf>) -> (PathBuf, PathBuf) {
    let component = if path.is_dir() {
        path.join("plugin.wasm")
    } else {
        path.to_owned()
    };
    let beside = component.parent().unwrap_or(Path::new(".")).join("simulation.json");
    (component, simulation.cloned().unwrap_or(beside))
}

pub fn test(args: &TestArgs, out: &Out) -> Result<ExitCode, CliError> {
    if let Some(unknown) = args.checks.iter().find(|check| !NAMES.contains(&check.as_str())) {
        return Err(CliError::usage(
            format!("there is no check {unknown:?}"),
            format!("there are {}", NAMES.join(", ")),
        ));
    }
    let (component, simulation) = files(&args.path, args.simulation.as_ref());
    let plugin = load(&component)?;
    let lab = simulated(&simulation)?;
    let report = super::super::run::runtime()?.block_on(holdfast_testkit::run(&plugin, &lab, &args.checks));
    if let Some(file) = &args.junit {
        std::fs::write(file, report.junit()).map_err(cannot(file, "written"))?;
    }
    if out.is_json {
        let result = |result: &CheckResult| {
            let (outcome, why) = match &result.outcome {
                Outcome::Passed => ("passed", None),
                Outcome::Failed(why) => ("failed", Some(why)),
                Outcome::NotReached(why) => ("not-reached", Some(why)),
                Outcome::Skipped(why) => ("left-out", Some(why)),
            };
            json!({ "check": result.name, "about": result.about, "outcome": outcome, "why": why, "page": result.page() })
        };
        let results: Vec<_> = report.results.iter().map(result).collect();
        out.json(&json!({ "plugin": plugin.digest, "ok": report.is_good(), "checks": results }));
    } else {
        out.lines(&report.text());
    }
    Ok(ExitCode::from(if report.is_good() { 0 } else { NEGATIVE }))
}

#[allow(clippy::disallowed_methods, reason = "measures real time")]
pub fn bench(args: &BenchArgs, out: &Out) -> Result<ExitCode, CliError> {
    let (component, simulation) = files(&args.path, args.simulation.as_ref());
    let bytes = super::read_component(&component)?;
    let cache = tempfile::tempdir().map_err(|source| CliError::io("a temporary directory cannot be made", source))?;
    let mut loads_ms = Vec::new();
    let mut plugin = None;
    // The first one compiles; the second one finds it in the cache, in a host of its own.
    for _ in 0..2 {
        let host = PluginHost::new(Limits::default(), Some(cache.path().to_owned())).map_err(super::unusable)?;
        let begun = Instant::now();
        plugin = Some(host.load("bench", &bytes).map_err(super::unusable)?);
        loads_ms.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let Some(plugin) = plugin else { return Ok(ExitCode::SUCCESS) };
    let lab = simulated(&simulation)?;
    let binding = binding_over(&plugin, lab.fresh()).map_err(super::unusable)?;
    let context = CallContext {
        owner: "bench000".into(),
        target: "target-a".into(),
        config: lab.subjects().config.clone(),
        fence: 0,
        deploy_id: "d0".into(),
        resume: None,
    };
    let options = CallOptions {
        binding: Some(binding),
        context: &context,
        deadline: Duration::from_secs(15),
        now_ms: 0,
        secrets: &[],
        artifacts: None,
    };
    let artifact = format!("registry.example.com/app@sha256:{}", "a".repeat(64));
    let subject = sample_generation("shop", 1, &artifact, &lab.subjects().template);
    let (mut check_us, mut observe_us) = (Vec::new(), Vec::new());
    let done = super::super::run::runtime()?.block_on(async {
        for _ in 0..args.calls.max(1) {
            let checked = plugin.check(&options, &subject).await;
            let observed = plugin.observe(&options, None).await;
            check_us.push(checked.elapsed.as_secs_f64() * 1e6);
            observe_us.push(observed.elapsed.as_secs_f64() * 1e6);
            checked.answer.map(drop).and(observed.answer.map(drop))?;
        }
        Ok(())
    });
    done.map_err(|failure: holdfast_host::CallFailure| super::unusable(failure.into_fault().message))?;
    let at = |took: &mut Vec<f64>, share: f64| {
        took.sort_by(f64::total_cmp);
        took[((took.len() - 1) as f64 * share) as usize]
    };
    let [compile_ms, cached_ms] = [loads_ms[0], loads_ms[1]];
    let figures = [
        ("check", at(&mut check_us, 0.5), at(&mut check_us, 0.99)),
        ("observe", at(&mut observe_us, 0.5), at(&mut observe_us, 0.99)),
    ];
    if out.is_json {
        let calls = figures.map(|(verb, p50, p99)| json!({ "verb": verb, "p50_us": p50, "p99_us": p99 }));
        out.json(&json!({ "compile_ms": compile_ms, "cached_load_ms": cached_ms, "calls": calls, "size_bytes": bytes.len() }));
    } else {
        out.line(&format!(
            "{} bytes; compiled in {compile_ms:.0} ms, from the cache in {cached_ms:.1} ms",
            bytes.len()
        ));
        for (verb, p50, p99) in figures {
            out.line(&format!(
                "{verb}: {} calls, a fresh instance each: p50 {p50:.0} us, p99 {p99:.0} us",
                args.calls
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub fn simulate(args: &SimulateArgs) -> Result<ExitCode, CliError> {
    let target = simulated(&args.file)?.fresh();
    super::super::run::runtime()?.block_on(async {
        let stop = super::super::run::termination()?;
        let listening = crate::http::listen(args.listen, move |request| answer(request, target.clone()));
        let (address, task) = listening
            .await
            .map_err(|source| CliError::io(format!("{} cannot be listened on", args.listen), source))?;
        crate::cli::error::say(&format!("a simulated target listens on http://{address}"));
        stop.await;
        task.abort();
        Ok(ExitCode::SUCCESS)
    })
}

async fn answer(request: Request<Incoming>, target: Arc<dyn Wire>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let plain = |status: StatusCode| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        response
    };
    let Ok(body) = Limited::new(body, REQUEST_MAX_BYTES).collect().await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let headers = parts
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
    let request = WireRequest {
        alias: String::new(),
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: headers.collect(),
        body: body.to_bytes().to_vec(),
    };
    let Ok(exchange) = target.send(&request).await else {
        return plain(StatusCode::BAD_GATEWAY);
    };
    let mut response = Response::builder().status(exchange.status);
    for (name, value) in exchange.headers {
        response = response.header(name, value);
    }
    response
        .body(Full::new(Bytes::from(exchange.body)))
        .unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR))
}

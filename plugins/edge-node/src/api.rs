//! The management API: JSON over HTTP/1.1 behind a bearer token. See `API.md`.

use crate::jobs::{JobRequest, Wanted};
use crate::record::{Generation, Template};
use crate::server::{Handler, KnownClient, Stop};
use crate::site::{Done, Live, Refused, Site, Status, Writer, fingerprint, lock};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

type Answer = Response<Full<Bytes>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LaunchBody {
    owner: String,
    fence: u64,
    deploy_id: String,
    workload: String,
    name: String,
    release_id: String,
    artifact: String,
    source: String,
    digest: String,
    #[serde(default)]
    template: Template,
    #[serde(default)]
    stamps: BTreeMap<String, String>,
    #[serde(default)]
    drain_ms: u32,
    size: u32,
}

/// A job is of a generation that need not be there: it may have to run first.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JobBody {
    owner: String,
    fence: u64,
    deploy_id: String,
    workload: String,
    name: String,
    release_id: String,
    artifact: String,
    source: String,
    digest: String,
    #[serde(default)]
    template: Template,
    job: JobRequest,
}

#[derive(Deserialize)]
struct SizeBody {
    #[serde(flatten)]
    writer: Writer,
    size: u32,
}

#[derive(Deserialize)]
struct RouteBody {
    #[serde(flatten)]
    writer: Writer,
    shares: BTreeMap<u32, u32>,
}

#[derive(Deserialize)]
struct RetireBody {
    #[serde(flatten)]
    writer: Writer,
    #[serde(default)]
    last: bool,
}

/// `token`: what a client without a certificate must have; none: only certificates open the door.
pub fn handler(site: Arc<Site>, token: Option<String>) -> Handler {
    // Generations outlive the request that launched them, and end with the node.
    let stop = Stop::default();
    Arc::new(move |request: Request<Bytes>| {
        let (site, token, stop) = (site.clone(), token.clone(), stop.clone());
        Box::pin(async move { handle(&site, token.as_deref(), &stop, request).await })
    })
}

async fn handle(site: &Arc<Site>, token: Option<&str>, stop: &Stop, request: Request<Bytes>) -> Answer {
    let path = request.uri().path().to_owned();
    if path == "/healthz" {
        return json_answer(StatusCode::OK, &json!({ "ok": true }));
    }
    let given = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let has_token = matches!((given, token), (Some(given), Some(token)) if same(given.as_bytes(), token.as_bytes()));
    if !has_token && request.extensions().get::<KnownClient>().is_none() {
        let needed = match token {
            Some(_) => "a bearer token is needed",
            None => "a client certificate is needed",
        };
        return error(StatusCode::UNAUTHORIZED, "denied", needed);
    }
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["v1", "site"]) => json_answer(StatusCode::OK, &site_view(site)),
        (&Method::GET, ["v1", "room"]) => json_answer(StatusCode::OK, &json!({ "instances": site.room() })),
        (&Method::GET, ["metrics"]) => text_answer(metrics(site)),
        (_, ["v1", "workloads", key, "route"]) if is_key(key) => match (request.method(), body::<RouteBody>(&request)) {
            (&Method::PUT, Ok(route)) => outcome(site.set_route(key, &route.writer, route.shares)),
            (&Method::PUT, Err(answer)) => *answer,
            _ => method_not_allowed(),
        },
        (_, ["v1", "workloads", key, "generations", number, rest @ ..]) if is_key(key) => match number.parse::<u32>() {
            Ok(number) => generation(site, stop, key, number, rest, &request).await,
            Err(_) => error(StatusCode::BAD_REQUEST, "invalid", "the generation is not a number"),
        },
        _ => error(StatusCode::NOT_FOUND, "absent", "no such path"),
    }
}

async fn generation(site: &Arc<Site>, stop: &Stop, key: &str, number: u32, rest: &[&str], request: &Request<Bytes>) -> Answer {
    match (request.method(), rest) {
        (&Method::PUT, []) => match body::<LaunchBody>(request) {
            Ok(launch) => {
                let writer = Writer {
                    owner: launch.owner,
                    fence: launch.fence,
                    deploy_id: launch.deploy_id.clone(),
                };
                let wanted = Generation {
                    name: launch.name,
                    release_id: launch.release_id,
                    fence: launch.fence,
                    deploy_id: launch.deploy_id,
                    artifact: launch.artifact,
                    source: launch.source,
                    digest: launch.digest,
                    template: launch.template,
                    stamps: launch.stamps,
                    drain_ms: launch.drain_ms,
                    size: launch.size.min(1),
                    port: 0,
                    blobs: Vec::new(),
                };
                outcome(site.launch(key, number, &writer, &launch.workload, wanted, stop).await)
            }
            Err(answer) => *answer,
        },
        (&Method::PUT, ["size"]) => match body::<SizeBody>(request) {
            Ok(size) => outcome(site.size(key, number, &size.writer, size.size, stop).await),
            Err(answer) => *answer,
        },
        (&Method::PUT, ["jobs", job]) if is_key(job) => match body::<JobBody>(request) {
            Ok(body) => outcome(run_job(site, key, number, job, body)),
            Err(answer) => *answer,
        },
        (&Method::DELETE, []) => match body::<RetireBody>(request) {
            Ok(retire) => outcome(site.retire(key, number, &retire.writer, retire.last)),
            Err(answer) => *answer,
        },
        (&Method::GET, ["telemetry"]) => match site.live(key, number) {
            Some(live) => json_answer(StatusCode::OK, &telemetry(&live)),
            None => error(StatusCode::NOT_FOUND, "absent", "no such generation"),
        },
        (&Method::GET, ["diagnosis"]) => diagnosis(site, key, number),
        _ => method_not_allowed(),
    }
}

fn run_job(site: &Arc<Site>, key: &str, number: u32, job: &str, body: JobBody) -> Result<Done, Refused> {
    let writer = Writer {
        owner: body.owner,
        fence: body.fence,
        deploy_id: body.deploy_id.clone(),
    };
    let generation = Generation {
        name: body.name,
        release_id: body.release_id,
        fence: body.fence,
        deploy_id: body.deploy_id,
        artifact: body.artifact,
        source: body.source,
        digest: body.digest,
        template: body.template,
        stamps: BTreeMap::new(),
        drain_ms: 0,
        size: 0,
        port: 0,
        blobs: Vec::new(),
    };
    let wanted = Wanted {
        number,
        workload: body.workload,
        job: job.to_owned(),
        request: body.job,
        generation,
    };
    site.run_job(key, &writer, wanted)
}

/// Of the generation, and of its jobs, which may be there alone.
fn diagnosis(site: &Site, key: &str, number: u32) -> Answer {
    let live = site.live(key, number);
    let jobs: Vec<Value> = site
        .jobs_of(key, number)
        .into_iter()
        .map(|(name, state, outcome)| {
            json!({ "name": name, "state": state, "message": outcome.message, "output": outcome.output })
        })
        .collect();
    if live.is_none() && jobs.is_empty() {
        return error(StatusCode::NOT_FOUND, "absent", "no such generation");
    }
    let (_, reason, message) = live.as_deref().map_or(("", "", String::new()), phase);
    let output = live.map(|live| live.output.text()).unwrap_or_default();
    json_answer(
        StatusCode::OK,
        &json!({ "reason": reason, "message": message, "output": output, "jobs": jobs }),
    )
}

/// Compares in a time that does not tell where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

fn is_key(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn body<T: DeserializeOwned>(request: &Request<Bytes>) -> Result<T, Box<Answer>> {
    serde_json::from_slice(request.body())
        .map_err(|problem| Box::new(error(StatusCode::BAD_REQUEST, "invalid", &problem.to_string())))
}

fn outcome(result: Result<Done, Refused>) -> Answer {
    match result {
        Ok(Done::Done) => json_answer(StatusCode::OK, &json!({ "state": "done" })),
        Ok(Done::Pending) => json_answer(StatusCode::ACCEPTED, &json!({ "state": "pending" })),
        Err(Refused::Fenced(fence)) => {
            let error = json!({ "class": "fenced", "message": format!("fence {fence} was seen"), "fence": fence });
            json_answer(StatusCode::CONFLICT, &json!({ "error": error }))
        }
        Err(Refused::Conflict(message)) => error(StatusCode::CONFLICT, "conflict", &message),
        Err(Refused::Absent(message)) => error(StatusCode::NOT_FOUND, "absent", &message),
        Err(Refused::Invalid(message)) => error(StatusCode::BAD_REQUEST, "invalid", &message),
        Err(Refused::Exhausted(message)) => error(StatusCode::INSUFFICIENT_STORAGE, "exhausted", &message),
        Err(Refused::Failed(message)) => error(StatusCode::UNPROCESSABLE_ENTITY, "failed", &message),
        Err(Refused::Unavailable(message)) => error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &message),
        Err(Refused::Internal(message)) => error(StatusCode::INTERNAL_SERVER_ERROR, "internal", &message),
    }
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text_answer(text: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    response
}

fn error(status: StatusCode, class: &str, message: &str) -> Answer {
    json_answer(status, &json!({ "error": { "class": class, "message": message } }))
}

fn method_not_allowed() -> Answer {
    error(StatusCode::METHOD_NOT_ALLOWED, "invalid", "this path knows another method")
}

/// Phase as plugins name it, a stable word, a sentence.
fn phase(live: &Live) -> (&'static str, &'static str, String) {
    match &*lock(&live.status) {
        Status::Pulling => ("starting", "pulling", "the bundle is being pulled or compiled".into()),
        Status::Ready(_) => ("ready", "", String::new()),
        Status::Stuck(message) => ("stuck", "pull-failed", message.clone()),
        Status::Failing(message) => ("failing", "bundle-invalid", message.clone()),
        Status::Parked => ("parked", "parked", String::new()),
        Status::Draining => ("leaving", "draining", String::new()),
    }
}

fn site_view(site: &Site) -> Value {
    let record = site.record();
    let high_fence = record.fences.values().max().copied().unwrap_or(0);
    let workloads: Vec<Value> = record
        .workloads
        .iter()
        .map(|(key, workload)| {
            let generations: Vec<Value> = workload
                .generations
                .iter()
                .map(|(number, generation)| generation_view(site, key, *number, generation))
                .collect();
            json!({
                "key": key, "workload": workload.workload, "fence": record.fences.get(key), "route_fence": workload.route_fence,
                "shares": workload.shares, "generations": generations, "jobs": workload.jobs.keys().collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "version": env!("CARGO_PKG_VERSION"), "owner": record.owner, "high_fence": high_fence, "workloads": workloads })
}

fn generation_view(site: &Site, key: &str, number: u32, generation: &Generation) -> Value {
    let live = site.live(key, number);
    let (phase, reason, message) = live.as_deref().map_or(("starting", "resuming", String::new()), phase);
    let digests = live.as_ref().map_or(Vec::new(), |live| match &*lock(&live.status) {
        Status::Ready(loaded) => loaded.digests.clone(),
        // Not running, but here: it can come back without a registry.
        Status::Parked if site.store.holds(&generation.blobs) => generation.blobs.clone(),
        _ => Vec::new(),
    });
    let address = live
        .as_ref()
        .and_then(|live| live.address())
        .map(|address| address.to_string());
    json!({
        "number": number, "name": generation.name, "release_id": generation.release_id, "fence": generation.fence,
        "deploy_id": generation.deploy_id, "artifact": generation.artifact, "digest": generation.digest, "digests": digests,
        "phase": phase, "reason": reason, "message": message, "size": generation.size, "address": address,
        "fingerprint": fingerprint(generation), "stamps": generation.stamps, "template": generation.template,
    })
}

fn telemetry(live: &Live) -> Value {
    let counters = &live.counters;
    let mut samples = serde_json::Map::new();
    samples.insert("requests_total".into(), counters.requests().into());
    samples.insert("errors_total".into(), counters.errors().into());
    for (name, quantile) in [("latency_ms_p50", 0.5), ("latency_ms_p95", 0.95), ("latency_ms_p99", 0.99)] {
        if let Some(value) = counters.latency_ms(quantile) {
            samples.insert(name.into(), value.into());
        }
    }
    Value::Object(samples)
}

/// Name, type, help and value of a metric.
type Family = (&'static str, &'static str, &'static str, fn(&Live) -> f64);

fn metrics(site: &Site) -> String {
    let mut text = String::new();
    let record = site.record();
    let all = || {
        record
            .workloads
            .iter()
            .flat_map(|(key, workload)| workload.generations.keys().map(move |number| (key, *number)))
    };
    let families: [Family; 3] = [
        (
            "holdfast_edge_requests_total",
            "counter",
            "Requests answered since the node started",
            |live| live.counters.requests() as f64,
        ),
        (
            "holdfast_edge_errors_total",
            "counter",
            "Answers of 5xx since the node started",
            |live| live.counters.errors() as f64,
        ),
        ("holdfast_edge_in_flight", "gauge", "Requests being answered", |live| {
            f64::from(live.counters.in_flight())
        }),
    ];
    for (name, kind, help, read) in families {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (key, number) in all() {
            if let Some(live) = site.live(key, number) {
                let _ = writeln!(text, "{name}{{workload=\"{key}\",generation=\"{number}\"}} {}", read(&live));
            }
        }
    }
    let _ = writeln!(
        text,
        "# HELP holdfast_edge_latency_ms Latency quantiles, to within a quarter\n# TYPE holdfast_edge_latency_ms gauge"
    );
    for (key, number) in all() {
        let Some(live) = site.live(key, number) else { continue };
        for quantile in ["0.5", "0.95", "0.99"] {
            if let Some(value) = quantile.parse().ok().and_then(|quantile| live.counters.latency_ms(quantile)) {
                let _ = writeln!(
                    text,
                    "holdfast_edge_latency_ms{{workload=\"{key}\",generation=\"{number}\",quantile=\"{quantile}\"}} {value}"
                );
            }
        }
    }
    text
}

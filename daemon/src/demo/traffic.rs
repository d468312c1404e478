//! The demo's client: a modest stream of real requests to every site, and a line for each answer.

use crate::cli::exit_on_io;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Requests to each site, one every so often.
const EVERY: Duration = Duration::from_millis(10);

#[derive(clap::Args)]
pub struct TrafficArgs {
    /// File for the answers, a JSON line each
    #[arg(long)]
    out: PathBuf,
    /// NAME=ADDRESS
    sites: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// Unix milliseconds when it came.
    pub at_ms: u64,
    pub site: String,
    /// 0: none came.
    pub status: u16,
    pub generation: u32,
    pub body: String,
}

pub fn traffic(args: &TrafficArgs) -> ExitCode {
    let file = match std::fs::OpenOptions::new().create(true).append(true).open(&args.out) {
        Ok(file) => Arc::new(Mutex::new(file)),
        Err(error) => return exit_on_io(&args.out, &error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit_on_io(&args.out, &error),
    };
    runtime.block_on(async {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut tasks = Vec::new();
        for (site, address) in args.sites.iter().filter_map(|text| text.split_once('=')) {
            let (site, uri, client, file) = (site.to_owned(), format!("http://{address}/"), client.clone(), file.clone());
            tasks.push(tokio::spawn(async move {
                let mut ticks = tokio::time::interval(EVERY);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    let Ok(request) = Request::get(&uri).body(Empty::<Bytes>::new()) else {
                        return;
                    };
                    let answer = match tokio::time::timeout(Duration::from_secs(5), client.request(request)).await {
                        Ok(Ok(response)) => {
                            let status = response.status().as_u16();
                            let generation = response
                                .headers()
                                .get("x-holdfast-generation")
                                .and_then(|value| value.to_str().ok()?.parse().ok())
                                .unwrap_or(0);
                            let body = response
                                .into_body()
                                .collect()
                                .await
                                .map(|body| body.to_bytes())
                                .unwrap_or_default();
                            Answer {
                                at_ms: crate::shell::unix_ms(),
                                site: site.clone(),
                                status,
                                generation,
                                body: String::from_utf8_lossy(&body).trim().chars().take(60).collect(),
                            }
                        }
                        _ => Answer {
                            at_ms: crate::shell::unix_ms(),
                            site: site.clone(),
                            status: 0,
                            generation: 0,
                            body: String::new(),
                        },
                    };
                    let mut line = serde_json::to_vec(&answer).unwrap_or_default();
                    line.push(b'\n');
                    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                    if file.write_all(&line).is_err() {
                        return;
                    }
                }
            }));
        }
        for task in tasks {
            let _ = task.await;
        }
    });
    ExitCode::SUCCESS
}

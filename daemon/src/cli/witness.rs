//! `witness`: cosigns other teams' ledgers, after checking that each only grew (C2SP tlog-witness).

use super::error::CliError;
use super::log::LogArgs;
use holdfast_ledger::RealDisk;
use holdfast_ledger::tlog::key;
use holdfast_ledger::tlog::note::{KeyKind, VerifierKey};
use holdfast_ledger::tlog::witness::{Answer, Witness};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// A checkpoint, a proof of at most 63 hashes, and some signatures.
const REQUEST_MAX_BYTES: usize = 64 << 10;

#[derive(clap::Args)]
pub struct WitnessArgs {
    /// What it cosigned last, for each log: without it, nothing can be vouched for
    #[arg(long)]
    dir: PathBuf,
    /// Its secret key, outside of --dir: `holdfast ledger key new FILE --name NAME --witness` makes it
    #[arg(long)]
    key: PathBuf,
    /// Where it listens; put a TLS proxy before it
    #[arg(long, default_value = "127.0.0.1:7610")]
    listen: SocketAddr,
    /// Verifier key of a log that it cosigns, as `holdfast ledger key show` prints it; a log that changes its key needs the new
    /// one here
    #[arg(long = "log-key", value_name = "VKEY", required = true)]
    logs: Vec<VerifierKey>,
    #[command(flatten)]
    logging: LogArgs,
}

pub fn witness(args: &WitnessArgs) -> Result<ExitCode, CliError> {
    args.logging.start()?;
    let at_dir = |source| CliError::io(format!("{} cannot be used", args.dir.display()), source);
    std::fs::create_dir_all(&args.dir).map_err(at_dir)?;
    let key = key::load(&args.key, Some(&args.dir), KeyKind::Witness)?;
    let disk = RealDisk::create(&args.dir).map_err(at_dir)?;
    let name = key.verifier().to_string();
    let witness = Arc::new(Mutex::new(Witness::new(disk, key, args.logs.clone())));
    super::run::runtime()?.block_on(async {
        let stop = super::run::termination()?;
        let serving = crate::http::listen(args.listen, move |request| answer(request, witness.clone()));
        let (address, task) = serving
            .await
            .map_err(|source| CliError::io(format!("{} cannot be listened on", args.listen), source))?;
        tracing::info!(%address, key = name, logs = args.logs.len(), "the witness listens");
        stop.await;
        task.abort();
        Ok(ExitCode::SUCCESS)
    })
}

async fn answer(request: Request<Incoming>, witness: Arc<Mutex<Witness<RealDisk>>>) -> Response<Full<Bytes>> {
    let plain = |status: u16, body: &str| Answer {
        status,
        content_type: "text/plain; charset=utf-8",
        body: body.to_owned(),
    };
    let answer = match (request.method(), request.uri().path()) {
        (&Method::POST, path) if path.ends_with("/add-checkpoint") => {
            match Limited::new(request.into_body(), REQUEST_MAX_BYTES).collect().await {
                Ok(body) => {
                    let body = body.to_bytes();
                    let now_s = crate::shell::wall_ms() / 1_000;
                    let cosign = move || {
                        witness
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .add_checkpoint(&body, now_s)
                    };
                    let answered = tokio::task::spawn_blocking(cosign).await;
                    answered.unwrap_or_else(|_| plain(500, "the witness failed\n"))
                }
                Err(_) => plain(413, "the request is too large, or was cut\n"),
            }
        }
        (&Method::GET, "/healthz") => plain(200, "alive\n"),
        _ => plain(404, "there is POST /add-checkpoint\n"),
    };
    tracing::info!(status = answer.status, "asked");
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = HeaderValue::from_static(answer.content_type);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

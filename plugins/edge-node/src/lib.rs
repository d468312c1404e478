//! The native runtime of an edge site: keeps OCI-delivered bundles by digest, runs generations side by side, splits
//! traffic by weight, drains, counts, refuses stale fences, remembers its owner, and survives being killed.
//!
//! It knows nothing of manifests, rollouts or ledgers; it does what an authorised client says, idempotently. Its HTTP
//! API is described in `API.md`.

mod api;
mod bundle;
mod component;
mod files;
mod jobs;
mod journal;
mod output;
mod record;
mod server;
mod site;
mod tls;
mod traffic;

pub use bundle::{ArtifactSource, FetchError};
pub use journal::JournalLine;
pub use record::{Generation, Job, Outcome, SiteRecord, WorkloadRecord};
pub use tls::TlsFiles;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Clone)]
pub struct EdgeNodeConfig {
    /// What the site keeps: state, journal, bundles.
    pub dir: PathBuf,
    /// Where the management API listens.
    pub api: SocketAddr,
    /// Bearer token of the management API, in a file. None: only client certificates open it.
    pub token_file: Option<PathBuf>,
    /// How the management API shows who it is; none: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Where the site serves its workloads.
    pub listen: SocketAddr,
    /// Each generation gets a port of its own on this address.
    pub instance_ip: IpAddr,
    pub bundle_max_bytes: u64,
    /// How many generations may run at once on the site; none: no limit, and nothing to tell room by.
    pub max_instances: Option<u32>,
}

/// Where the node came to listen; also in `DIR/addresses.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Addresses {
    pub api: SocketAddr,
    pub listen: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum EdgeNodeError {
    #[error("{} of the edge node cannot be used", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{} of the edge node is damaged; restore it, or move the directory away to begin anew", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("the edge node cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the token file {} holds no token", .0.display())]
    NoToken(PathBuf),
    #[error("nobody could use the management API: give a token file, or an authority for client certificates")]
    NoClients,
    #[error("{} holds no PEM {what}", path.display())]
    Pem { path: PathBuf, what: &'static str },
    #[error("TLS of the management API cannot be set up with {}", path.display())]
    Tls { path: PathBuf, source: rustls::Error },
    #[error("the WebAssembly engine cannot be started: {0}")]
    Engine(String),
}

/// Runs until `shutdown`, then stops accepting and lets requests in flight end.
pub async fn run(
    config: EdgeNodeConfig,
    source: Arc<dyn ArtifactSource>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), EdgeNodeError> {
    let token = config.token_file.as_ref().map(read_token).transpose()?;
    let client_authority = config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    if token.is_none() && !client_authority {
        return Err(EdgeNodeError::NoClients);
    }
    let tls = config.tls.as_ref().map(TlsFiles::acceptor).transpose()?;
    let site = site::Site::open(&config, source)?;
    let api = server::bind(config.api).await?;
    let front = server::bind(config.listen).await?;
    let addresses = Addresses {
        api: server::local(&api, config.api)?,
        listen: server::local(&front, config.listen)?,
    };
    record::write_whole(
        &config.dir.join("addresses.json"),
        &serde_json::to_vec(&addresses).unwrap_or_default(),
    )?;
    tracing::info!(api = %addresses.api, listen = %addresses.listen, "edge node listens");
    let stop = server::Stop::default();
    site.resume(&stop).await;
    let api = tokio::spawn(server::serve(api, tls, stop.clone(), api::handler(site.clone(), token)));
    let front = tokio::spawn(server::serve(front, None, stop.clone(), traffic::front_handler(site.clone())));
    tokio::pin!(shutdown);
    shutdown.await;
    stop.stop();
    let _ = tokio::join!(api, front);
    Ok(())
}

fn read_token(path: &PathBuf) -> Result<String, EdgeNodeError> {
    let text = std::fs::read_to_string(path).map_err(|source| EdgeNodeError::File {
        path: path.clone(),
        source,
    })?;
    let token = text.trim().to_owned();
    if token.is_empty() {
        Err(EdgeNodeError::NoToken(path.clone()))
    } else {
        Ok(token)
    }
}

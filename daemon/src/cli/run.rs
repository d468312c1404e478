//! `run` and `edge-node`: the programs that stay.

use super::error::CliError;
use super::log::LogArgs;
use crate::shell::RunState;
use holdfast_edge_node::{EdgeNodeConfig, TlsFiles};
use holdfast_registry::{Registries, RegistryConfig};
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr as SocketAddrUnix, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

#[derive(clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    log: LogArgs,
}

#[derive(clap::Args)]
pub struct EdgeNodeArgs {
    /// What the site keeps: state, journal, bundles
    #[arg(long)]
    dir: PathBuf,
    /// Where the management API listens
    #[arg(long, default_value = "127.0.0.1:7601")]
    api: SocketAddr,
    /// File with the management API's bearer token
    #[arg(long, required_unless_present = "client_ca")]
    token_file: Option<PathBuf>,
    /// PEM file with the management API's certificate; without it, it is plain HTTP
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the key of --tls-cert
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// PEM file of an authority: clients with a certificate of it need no token
    #[arg(long, requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Where the site serves
    #[arg(long, default_value = "127.0.0.1:7600")]
    listen: SocketAddr,
    /// Address on which each generation gets a port of its own
    #[arg(long, default_value = "127.0.0.1")]
    instance_ip: IpAddr,
    /// YAML file with the registries that bundles are pulled from, as under `registries` in holdfast.yaml
    #[arg(long)]
    registries: PathBuf,
    /// Largest bundle
    #[arg(long, default_value_t = 256)]
    bundle_max_mib: u64,
    /// How many generations may run at once; without it, as many as are asked for
    #[arg(long)]
    max_instances: Option<u32>,
    #[command(flatten)]
    log: LogArgs,
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::io("the runtime cannot be started", source))
}

pub fn daemon(config: &Path, args: &RunArgs) -> Result<ExitCode, CliError> {
    args.log.start()?;
    let operator = crate::operator::load(config)?;
    let bytes = std::fs::read(config).map_err(|source| CliError::io(format!("{} cannot be read", config.display()), source))?;
    std::fs::create_dir_all(&operator.data)
        .map_err(|source| CliError::io(format!("{} cannot be made", operator.data.display()), source))?;
    runtime()?.block_on(crate::shell::run(operator, &bytes, notify_systemd))?;
    Ok(ExitCode::SUCCESS)
}

/// sd_notify(3): one datagram for each state, if somebody waits for it.
fn notify_systemd(state: RunState) {
    tracing::info!(state = state.as_str(), "state");
    let word: &[u8] = match state {
        RunState::Starting => return,
        RunState::Ready => b"READY=1",
        RunState::Stopping => b"STOPPING=1",
    };
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = notify(&place, word) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "systemd was not told what the daemon is at"
        );
    }
}

/// A path, or `@NAME` for an abstract address.
fn notify(place: &OsStr, word: &[u8]) -> std::io::Result<()> {
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::from_abstract_name(name)?,
        _ => SocketAddrUnix::from_pathname(place)?,
    };
    UnixDatagram::unbound()?.send_to_addr(word, &address).map(drop)
}

pub fn edge_node(args: &EdgeNodeArgs) -> Result<ExitCode, CliError> {
    args.log.start()?;
    let text = std::fs::read_to_string(&args.registries)
        .map_err(|source| CliError::io(format!("{} cannot be read", args.registries.display()), source))?;
    let configs: Vec<RegistryConfig> = serde_yaml::from_str(&text).map_err(|error| {
        CliError::usage(
            format!("{}: {error}", args.registries.display()),
            "a list, as under `registries` in holdfast.yaml",
        )
    })?;
    let registries = Registries::new(&configs).map_err(crate::shell::ShellError::from)?;
    let config = EdgeNodeConfig {
        dir: args.dir.clone(),
        api: args.api,
        token_file: args.token_file.clone(),
        tls: args.tls_cert.clone().zip(args.tls_key.clone()).map(|(cert, key)| TlsFiles {
            cert,
            key,
            client_ca: args.client_ca.clone(),
        }),
        listen: args.listen,
        instance_ip: args.instance_ip,
        bundle_max_bytes: args.bundle_max_mib << 20,
        max_instances: args.max_instances,
    };
    runtime()?.block_on(async {
        let stop = termination()?;
        holdfast_edge_node::run(config, Arc::new(registries), stop)
            .await
            .map_err(CliError::from)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Ends when the process is told to.
pub(super) fn termination() -> Result<impl Future<Output = ()>, CliError> {
    use tokio::signal::unix::{SignalKind, signal};
    let fail = |source| CliError::io("signals cannot be handled", source);
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate()).map_err(fail)?,
        signal(SignalKind::interrupt()).map_err(fail)?,
    );
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

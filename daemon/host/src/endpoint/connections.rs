//! Connections of one endpoint: so many at once, and used again while they are fresh.
//!
//! A server may close an idle connection at the moment at which a request goes out on it, and then nobody knows whether the
//! request was taken. So what changes something only goes out on a connection that has just answered, and what reads is
//! asked once more on a new one.

use super::tls::Tls;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;

pub(crate) type RequestBody = UnsyncBoxBody<Bytes, crate::content::BodyFailed>;

/// Also the largest head of an answer.
const BUFFER_BYTES: usize = 64 << 10;
const HEADERS_MAX: usize = 100;
/// Servers keep an idle connection for at least so long.
const READING_IDLE: Duration = Duration::from_secs(30);
const WRITING_IDLE: Duration = Duration::from_secs(1);
const READY: Duration = Duration::from_millis(50);

pub(super) enum Place {
    Tcp(String),
    Tls(String, ServerName<'static>, Tls),
    Unix(PathBuf),
}

pub(super) struct Connections {
    place: Place,
    limit: usize,
    permits: Arc<Semaphore>,
    /// The last used one comes last.
    idle: Mutex<Vec<Connection>>,
}

pub(super) struct Connection {
    pub sender: SendRequest<RequestBody>,
    /// Whether it has answered before.
    pub used: bool,
    last_used: Instant,
    tls: Option<Arc<ClientConfig>>,
    task: tokio::task::AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connections {
    pub fn new(place: Place, limit: usize) -> Self {
        Self {
            place,
            limit,
            permits: Arc::new(Semaphore::new(limit)),
            idle: Mutex::default(),
        }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Held for as long as the exchange takes.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.permits.clone().acquire_owned().await.ok()
    }

    /// An idle connection, or a new one.
    pub async fn get(&self, writes: bool) -> std::io::Result<Connection> {
        let tls = self.tls();
        while let Some(mut connection) = self.idle(writes, tls.as_ref()) {
            // It was read to its end, so it is ready at once, or closed.
            if let Ok(Ok(())) = tokio::time::timeout(READY, connection.sender.ready()).await {
                return Ok(connection);
            }
        }
        self.open(tls).await
    }

    #[allow(clippy::disallowed_methods, reason = "how long a connection is idle is real time")]
    fn idle(&self, writes: bool, tls: Option<&Arc<ClientConfig>>) -> Option<Connection> {
        let now = Instant::now();
        let idle_for = |one: &Connection| now.duration_since(one.last_used);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|one| {
            one.tls.as_ref().map(Arc::as_ptr) == tls.map(Arc::as_ptr) && !one.sender.is_closed() && idle_for(one) < READING_IDLE
        });
        let longest = if writes { WRITING_IDLE } else { READING_IDLE };
        idle.pop_if(|last| idle_for(last) < longest)
    }

    /// A connection that has answered, for the next one.
    #[allow(clippy::disallowed_methods, reason = "how long a connection is idle is real time")]
    pub fn put_back(&self, mut connection: Connection) {
        connection.used = true;
        connection.last_used = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.limit && !connection.sender.is_closed() {
            idle.push(connection);
        }
    }

    /// A new connection, whatever is idle.
    pub async fn fresh(&self) -> std::io::Result<Connection> {
        self.open(self.tls()).await
    }

    fn tls(&self) -> Option<Arc<ClientConfig>> {
        match &self.place {
            Place::Tls(_, _, tls) => Some(tls.current()),
            Place::Tcp(_) | Place::Unix(_) => None,
        }
    }

    async fn open(&self, tls: Option<Arc<ClientConfig>>) -> std::io::Result<Connection> {
        match (&self.place, &tls) {
            (Place::Tls(address, name, _), Some(config)) => {
                let stream = connect(address).await?;
                let stream = TlsConnector::from(config.clone()).connect(name.clone(), stream).await?;
                handshake(stream, tls).await
            }
            (Place::Unix(path), _) => handshake(UnixStream::connect(path).await?, tls).await,
            (Place::Tcp(address) | Place::Tls(address, _, _), _) => handshake(connect(address).await?, tls).await,
        }
    }
}

async fn connect(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[allow(clippy::disallowed_methods, reason = "how long a connection is idle is real time")]
async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tls: Option<Arc<ClientConfig>>,
) -> std::io::Result<Connection> {
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(BUFFER_BYTES)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    Ok(Connection {
        sender,
        used: false,
        last_used: Instant::now(),
        tls,
        task: tokio::spawn(connection).abort_handle(),
    })
}

//! HTTP/1.1 listeners with caps: bodies are collected up to a limit, and a stop lets requests in flight end.

use crate::EdgeNodeError;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

const REQUEST_MAX_BYTES: usize = 4 << 20;
const CONNECTIONS_MAX: usize = 4_096;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN: Duration = Duration::from_secs(10);

pub type Handler = Arc<dyn Fn(Request<Bytes>) -> BoxFuture<'static, Response<Full<Bytes>>> + Send + Sync>;

/// Says stop to any number of listeners; a child also stops with its parent.
#[derive(Clone)]
pub struct Stop {
    own: Arc<watch::Sender<bool>>,
    parent: Option<watch::Receiver<bool>>,
}

impl Default for Stop {
    fn default() -> Self {
        Self {
            own: Arc::new(watch::Sender::new(false)),
            parent: None,
        }
    }
}

impl Stop {
    pub fn child(&self) -> Self {
        Self {
            parent: Some(self.own.subscribe()),
            ..Self::default()
        }
    }

    pub fn stop(&self) {
        self.own.send_replace(true);
    }

    pub async fn stopped(&self) {
        let mut own = self.own.subscribe();
        let parent = async {
            match self.parent.clone() {
                // A parent that is gone has stopped.
                Some(mut parent) => drop(parent.wait_for(|stop| *stop).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = own.wait_for(|stop| *stop) => {}
            () = parent => {}
        }
    }
}

pub async fn bind(address: SocketAddr) -> Result<TcpListener, EdgeNodeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| EdgeNodeError::Listen { address, source })
}

pub fn local(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, EdgeNodeError> {
    listener
        .local_addr()
        .map_err(|source| EdgeNodeError::Listen { address, source })
}

/// Among a request's extensions: its connection showed a certificate of the authority that clients must have.
#[derive(Debug, Clone, Copy)]
pub struct KnownClient;

pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, stop: Stop, handler: Handler) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.stopped() => break,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: not a reason to spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            continue;
        };
        let (handler, watcher, tls) = (handler.clone(), graceful.watcher(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => connection(stream, watcher, handler, false).await,
                Some(tls) => {
                    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                        let known = stream.get_ref().1.peer_certificates().is_some();
                        connection(stream, watcher, handler, known).await;
                    }
                }
            }
            drop(slot);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    watcher: hyper_util::server::graceful::Watcher,
    handler: Handler,
    known: bool,
) {
    let service = service_fn(move |request| one(handler.clone(), request, known));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    // A client that went away is no event.
    let _ = watcher.watch(connection).await;
}

async fn one(handler: Handler, request: Request<Incoming>, known: bool) -> Result<Response<Full<Bytes>>, Infallible> {
    let (mut parts, body) = request.into_parts();
    if known {
        parts.extensions.insert(KnownClient);
    }
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, REQUEST_MAX_BYTES).collect()).await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        _ => {
            let mut response = Response::new(Full::new(Bytes::from_static(b"the request body is too large or too slow\n")));
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            return Ok(response);
        }
    };
    Ok(handler(Request::from_parts(parts, body)).await)
}

//! An optional loopback listener: is the daemon alive, is it ready, and its numbers for Prometheus. It has no
//! authentication, and nothing can be changed through it.

use crate::api::{ApiRequest, Query};
use crate::shell::Event;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};

const CONNECTIONS_MAX: usize = 32;
const CONNECTION_WITHIN: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Says where it listens, for a port that the system chose.
pub async fn serve(
    address: SocketAddr,
    events: mpsc::UnboundedSender<Event>,
) -> io::Result<(SocketAddr, tokio::task::AbortHandle)> {
    listen(address, move |request| {
        let events = events.clone();
        async move { answer(&request, &events).await }
    })
    .await
}

/// HTTP/1.1 with caps on connections, headers and time.
pub async fn listen<F, Answered>(address: SocketAddr, answer: F) -> io::Result<(SocketAddr, tokio::task::AbortHandle)>
where
    F: Fn(Request<Incoming>) -> Answered + Clone + Send + 'static,
    Answered: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let task = tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                continue;
            };
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answering = answer(request);
                    async move { Ok::<_, Infallible>(answering.await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(ANSWER_WITHIN)
                    .max_buf_size(16 << 10)
                    .serve_connection(TokioIo::new(stream), service);
                // A client that went away is no event.
                let _ = tokio::time::timeout(CONNECTION_WITHIN, connection).await;
                drop(slot);
            });
        }
    });
    Ok((address, task.abort_handle()))
}

async fn answer(request: &Request<Incoming>, events: &mpsc::UnboundedSender<Event>) -> Response<Full<Bytes>> {
    let plain = |status, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let kind = hyper::header::HeaderValue::from_static(PROMETHEUS_TEXT);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    let query = match request.uri().path() {
        "/healthz" => return plain(StatusCode::OK, "alive\n".into()),
        "/readyz" => Query::Ready,
        "/metrics" => Query::Metrics,
        _ => {
            return plain(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n".into());
        }
    };
    match ask(query, events).await {
        Ok(text) => plain(StatusCode::OK, text),
        Err(message) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{message}\n")),
    }
}

async fn ask(query: Query, events: &mpsc::UnboundedSender<Event>) -> Result<String, String> {
    let (reply, answered) = oneshot::channel();
    let stopping = || "the daemon is stopping".to_owned();
    events.send(Event::Api(ApiRequest { query }, reply)).map_err(|_| stopping())?;
    match tokio::time::timeout(ANSWER_WITHIN, answered).await {
        Ok(Ok(answer)) => answer.map(|text| text.as_str().unwrap_or_default().to_owned()),
        Ok(Err(_)) => Err(stopping()),
        Err(_) => Err("the daemon's loop did not answer in time".into()),
    }
}

//! One exchange with an endpoint: what goes out, what may come back, and what is known of it when it fails.

use super::Alias;
use super::connections::{Connection, RequestBody};
use crate::content::BodyFailed;
use crate::policy::{path_problem, response_header_allowed};
use crate::secrets::Removal;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// As in the WIT: what was sent, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SendFail {
    Denied(String),
    Unreachable(String),
    Lost(String),
    TooLarge(String),
}

/// A whole answer, as a guest may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A request whose policy was checked.
pub(crate) struct Outgoing {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub payload: Payload,
    /// The registry from which the request makes the target pull.
    pub pulls_from: Option<String>,
}

pub(crate) enum Payload {
    Bytes(Bytes),
    /// Moved once: it cannot be sent again.
    Stream {
        size_bytes: u64,
        body: RequestBody,
    },
}

/// Status and headers of an answer whose body is still to come.
pub(crate) struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Incoming,
    connection: Connection,
    /// Its place among the endpoint's connections; a long one has none.
    turn: Option<OwnedSemaphorePermit>,
}

impl Alias {
    /// One exchange within `timeout`, whose answer has at most so many bytes.
    #[allow(clippy::disallowed_methods, reason = "a request's time is real time")]
    pub async fn send(&self, outgoing: Outgoing, timeout: Duration, answer_max_bytes: usize) -> Result<Exchange, SendFail> {
        let deadline = Instant::now() + timeout;
        let turn = tokio::time::timeout_at(deadline.into(), self.connections.turn()).await;
        let turn = turn.map_err(|_| {
            let limit = self.connections.limit();
            SendFail::Unreachable(format!("all {limit} connections of the endpoint were in use"))
        })?;
        let (mut answer, removal) = self.begin(outgoing, deadline, timeout).await?;
        answer.turn = turn;
        let whole = self.whole(answer, answer_max_bytes);
        let whole = tokio::time::timeout_at(deadline.into(), whole).await;
        let exchange = whole.unwrap_or_else(|_| Err(too_late(timeout)))?;
        Ok(removal.exchange(exchange))
    }

    /// Sends, and waits for the head of the answer, until the deadline that `timeout` leads to. What was put in must be taken
    /// out of all that is shown of the answer.
    pub async fn begin(&self, outgoing: Outgoing, deadline: Instant, timeout: Duration) -> Result<(Answer, Removal), SendFail> {
        let put_in = self.credentials.read(outgoing.pulls_from.as_deref())?;
        let removal = Removal::new(&put_in.hidden).map_err(SendFail::Denied)?;
        let (mut head, payload) = self.head(outgoing)?;
        for (name, value) in put_in.headers {
            head.headers.insert(name, value);
        }
        let writes = !matches!(head.method, Method::GET | Method::HEAD);
        let connection = tokio::time::timeout_at(deadline.into(), self.connections.get(writes)).await;
        let connection = connected(connection, timeout)?;
        let sending = self.over(connection, head, payload, writes);
        let answer = tokio::time::timeout_at(deadline.into(), sending).await;
        let mut answer = answer.unwrap_or_else(|_| Err(too_late(timeout)))?;
        for (_, value) in &mut answer.headers {
            *value = removal.text(value);
        }
        Ok((answer, removal))
    }

    fn head(&self, outgoing: Outgoing) -> Result<(Head, Payload), SendFail> {
        let Outgoing {
            method,
            path,
            headers,
            payload,
            ..
        } = outgoing;
        debug_assert!(path_problem(&path).is_none());
        let method =
            Method::from_bytes(method.as_bytes()).map_err(|_| SendFail::Denied(format!("{method:?} is no HTTP method")))?;
        let mut all = HeaderMap::new();
        let authority = HeaderValue::from_str(&self.authority);
        all.insert(HOST, authority.map_err(|error| SendFail::Denied(error.to_string()))?);
        for (name, value) in &headers {
            let name =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| SendFail::Denied(format!("{name:?} is no header name")))?;
            let value =
                HeaderValue::from_str(value).map_err(|_| SendFail::Denied(format!("the value of header {name} is not valid")))?;
            if all.insert(name.clone(), value).is_some() {
                return Err(SendFail::Denied(format!("header {name} is set twice")));
            }
        }
        if let Payload::Stream { size_bytes, .. } = &payload {
            all.insert(CONTENT_LENGTH, HeaderValue::from(*size_bytes));
        }
        let head = Head {
            method,
            path,
            headers: all,
        };
        Ok((head, payload))
    }

    async fn over(&self, mut connection: Connection, head: Head, payload: Payload, writes: bool) -> Result<Answer, SendFail> {
        let again = match &payload {
            Payload::Bytes(bytes) => Some(bytes.clone()),
            Payload::Stream { .. } => None,
        };
        let request = head.request(payload)?;
        let failure = match connection.sender.try_send_request(request).await {
            Ok(response) => return Ok(Answer::new(response, connection)),
            Err(failure) => failure,
        };
        // It came back unsent, or it only reads: then a connection that had gone stale is no reason to give up.
        let unsent = failure.message().is_some();
        let retried = again.filter(|_| connection.used && (unsent || !writes));
        let Some(bytes) = retried else {
            return Err(failed(failure.error()));
        };
        let request = head.request(Payload::Bytes(bytes))?;
        let mut connection = self.connections.fresh().await.map_err(unreachable)?;
        match connection.sender.try_send_request(request).await {
            Ok(response) => Ok(Answer::new(response, connection)),
            Err(failure) => Err(failed(failure.error())),
        }
    }

    async fn whole(&self, mut answer: Answer, max_bytes: usize) -> Result<Exchange, SendFail> {
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > max_bytes {
                return Err(SendFail::TooLarge(format!("the answer has more than {max_bytes} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        self.connections.put_back(answer.connection);
        drop(answer.turn);
        Ok(Exchange {
            status: answer.status,
            headers: answer.headers,
            body,
        })
    }
}

/// What goes before the body.
struct Head {
    method: Method,
    path: String,
    headers: HeaderMap,
}

impl Head {
    fn request(&self, payload: Payload) -> Result<Request<RequestBody>, SendFail> {
        let body = match payload {
            Payload::Bytes(bytes) => Full::new(bytes).map_err(|never| match never {}).boxed_unsync(),
            Payload::Stream { body, .. } => body,
        };
        let request = Request::builder().method(self.method.clone()).uri(&self.path).body(body);
        let mut request = request.map_err(|error| SendFail::Denied(error.to_string()))?;
        if request.uri().path_and_query().map(|sent| sent.as_str()) != Some(&self.path) {
            return Err(SendFail::Denied("the path would not be sent byte for byte".into()));
        }
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }
}

impl Answer {
    fn new(response: Response<Incoming>, connection: Connection) -> Self {
        let (parts, body) = response.into_parts();
        let shown = parts
            .headers
            .iter()
            .filter(|(name, _)| response_header_allowed(name.as_str()));
        let headers = shown
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
            .collect();
        Self {
            status: parts.status.as_u16(),
            headers,
            body,
            connection,
            turn: None,
        }
    }

    /// The next part of the body. None: it ended.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, SendFail> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                // Trailers are nobody's.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(failed(&error)),
            }
        }
    }
}

fn connected(
    outcome: Result<std::io::Result<Connection>, tokio::time::error::Elapsed>,
    timeout: Duration,
) -> Result<Connection, SendFail> {
    match outcome {
        Ok(connection) => connection.map_err(unreachable),
        Err(_) => Err(SendFail::Unreachable(format!(
            "no connection within {} ms",
            timeout.as_millis()
        ))),
    }
}

fn unreachable(error: std::io::Error) -> SendFail {
    SendFail::Unreachable(error.to_string())
}

/// Whether it had been taken is unknown, and then it must be assumed.
fn too_late(timeout: Duration) -> SendFail {
    SendFail::Lost(format!("no whole answer within {} ms", timeout.as_millis()))
}

/// In the words of whoever knows: our own body, or the connection.
fn failed(error: &hyper::Error) -> SendFail {
    let mut cause = std::error::Error::source(error);
    while let Some(found) = cause {
        if let Some(body) = found.downcast_ref::<BodyFailed>() {
            return SendFail::Lost(format!("the body was not sent whole: {body}"));
        }
        cause = found.source();
    }
    SendFail::Lost(error.to_string())
}

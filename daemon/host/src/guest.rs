//! What one instance holds while it runs, and the three interfaces it may call.

use crate::bindings::holdfast::target::{clock, endpoint, log, types};
use crate::content::{Contents, Wanted};
use crate::endpoint::{Alias, Binding, Exchange, Outgoing, Payload, SendFail};
use crate::long::{LongKey, LongRequest, LongSends, LongState};
use crate::policy::{Names, Phase, Rule, granted, path_problem, pulls_from, request_header_allowed};
use crate::secrets::Secrets;
use crate::wire::WireRequest;
use holdfast_core::ids::Digest;
use holdfast_core::target::Sent;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::AsyncWrite;
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView};

const REQUESTS_PER_CALL: usize = 64;
/// Of its own interfaces, granted or not: more says that the guest does not wait but spin.
const HOST_CALLS_PER_CALL: u32 = 100_000;
/// Bodies and headers of all requests and answers of a call.
const BYTES_PER_CALL: usize = 64 << 20;
const HEADERS_BYTES: usize = 16 << 10;
/// What a guest made up is quoted in messages up to here.
const QUOTED_CHARS: usize = 80;
const LOG_LINES_PER_CALL: u32 = 200;
const LOG_LINE_CHARS: usize = 2_000;
const STDERR_KEPT_BYTES: usize = 16 << 10;
const TABLE_ELEMENTS: usize = 100_000;

pub(crate) struct Guest {
    pub wasi: WasiCtx,
    pub table: ResourceTable,
    pub limits: MemoryLimit,
    pub binding: Option<Arc<Binding>>,
    /// What the plugin's metadata says it wants, by alias; none: it has no metadata.
    pub wants: Option<Arc<BTreeMap<String, Vec<Rule>>>>,
    pub phase: Phase,
    pub names: Names,
    pub secrets: Arc<Secrets>,
    pub contents: Contents,
    /// What is under way beyond this call, and the step that the call belongs to.
    pub long: Option<Step>,
    pub plugin: String,
    pub sent: Vec<Sent>,
    pub bytes_left: usize,
    host_calls_left: u32,
    pub log_lines: u32,
    pub deadline: Instant,
    /// Unix milliseconds when the call began; the same for the whole call, so that a replay can give it again.
    pub now_ms: u64,
}

/// Where a long request is remembered, and under what.
pub(crate) struct Step {
    pub sends: Arc<LongSends>,
    pub plugin: Digest,
    pub target: String,
    pub fence: u64,
}

/// It called the host too often.
#[derive(Debug, thiserror::Error)]
#[error("more than {HOST_CALLS_PER_CALL} calls of the host in one call")]
pub(crate) struct TooManyHostCalls;

impl Guest {
    pub fn new(wasi: WasiCtx, memory_bytes: usize, deadline: Instant) -> Self {
        Self {
            wasi,
            table: ResourceTable::new(),
            limits: MemoryLimit {
                left_bytes: memory_bytes,
                left_elements: TABLE_ELEMENTS,
                refused: false,
            },
            binding: None,
            wants: None,
            phase: Phase::Pure,
            names: Names::default(),
            secrets: Arc::default(),
            contents: Contents::default(),
            long: None,
            plugin: String::new(),
            sent: Vec::new(),
            bytes_left: BYTES_PER_CALL,
            host_calls_left: HOST_CALLS_PER_CALL,
            log_lines: 0,
            deadline,
            now_ms: 0,
        }
    }

    fn count(&mut self) -> wasmtime::Result<()> {
        let left = self.host_calls_left.checked_sub(1);
        self.host_calls_left = left.ok_or_else(|| wasmtime::Error::new(TooManyHostCalls))?;
        Ok(())
    }

    /// Log lines that were dropped.
    pub fn dropped_lines(&self) -> u32 {
        self.log_lines.saturating_sub(LOG_LINES_PER_CALL)
    }

    #[allow(clippy::disallowed_methods, reason = "a call's wall deadline is real time")]
    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Sums over all linear memories and tables: wasmtime's own limit counts each alone.
pub(crate) struct MemoryLimit {
    left_bytes: usize,
    left_elements: usize,
    /// Growth was refused: if the guest then traps, memory is why.
    pub refused: bool,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        if more <= self.left_bytes {
            self.left_bytes -= more;
            return Ok(true);
        }
        self.refused = true;
        Ok(false)
    }
    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        if more <= self.left_elements {
            self.left_elements -= more;
            return Ok(true);
        }
        self.refused = true;
        Ok(false)
    }
    fn instances(&self) -> usize {
        256
    }
    fn memories(&self) -> usize {
        8
    }
    fn tables(&self) -> usize {
        32
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl types::Host for Guest {}

impl endpoint::Host for Guest {
    async fn send(
        &mut self,
        alias: String,
        request: endpoint::Request,
    ) -> wasmtime::Result<Result<endpoint::Response, endpoint::Fail>> {
        self.count()?;
        let (method, path) = (request.method.clone(), request.path.clone());
        let outcome = self.exchange(&alias, request).await;
        let status = outcome.as_ref().map_or(0, |response| response.status as u16);
        self.journal(alias, method, path, status, outcome.as_ref().err());
        Ok(outcome)
    }

    async fn send_long(
        &mut self,
        alias: String,
        request: endpoint::Request,
    ) -> wasmtime::Result<Result<endpoint::LongState, endpoint::Fail>> {
        self.count()?;
        let (method, path) = (request.method.clone(), request.path.clone());
        let outcome = self.exchange_long(&alias, request).await;
        let status = match &outcome {
            Ok(endpoint::LongState::Finished(response)) => response.status as u16,
            _ => 0,
        };
        self.journal(alias, method, path, status, outcome.as_ref().err());
        Ok(outcome)
    }
}

impl Guest {
    fn journal(&mut self, alias: String, method: String, path: String, status: u16, fail: Option<&endpoint::Fail>) {
        // What was denied was not sent; it is the plugin's log that says so.
        if !matches!(fail, Some(endpoint::Fail::Denied(_))) {
            self.sent.push(Sent {
                alias,
                method,
                path,
                status,
            });
        }
    }

    async fn exchange(&mut self, alias: &str, request: endpoint::Request) -> Result<endpoint::Response, endpoint::Fail> {
        let (name, timeout_ms) = (alias, request.timeout_ms);
        let (alias, mut outgoing, wanted) = self.allowed(alias, request)?;
        let left = outgoing.size_bytes().filter(|size| *size <= self.bytes_left);
        let left = left.map(|size| self.bytes_left - size).filter(|left| *left > 0);
        let left = left.ok_or_else(|| denied(format!("more than {BYTES_PER_CALL} bytes moved in one call")))?;
        if let Some(wanted) = wanted {
            let content = self.contents.find(&wanted).await.map_err(denied)?;
            if content.size_bytes > left as u64 {
                return Err(denied(format!(
                    "{} bytes are too many for a send; use send-long",
                    content.size_bytes
                )));
            }
            outgoing.payload = content.into_payload(Arc::default());
        }
        self.bytes_left = left;
        let asked = match timeout_ms {
            0 => alias.timeout,
            ms => Duration::from_millis(ms.into()).min(alias.timeout),
        };
        let answer_max_bytes = alias.max_body_bytes.min(self.bytes_left);
        let wire = self.binding.as_ref().and_then(|binding| binding.wire.clone());
        let exchange = match wire {
            None => alias.send(outgoing, asked.min(self.remaining()), answer_max_bytes).await?,
            Some(wire) => wire.send(&WireRequest::new(name, outgoing)?).await?,
        };
        let exchange = self.secrets.take_out(exchange);
        self.bytes_left = self.bytes_left.saturating_sub(exchange.body.len());
        Ok(exchange.into())
    }

    async fn exchange_long(&mut self, alias: &str, request: endpoint::Request) -> Result<endpoint::LongState, endpoint::Fail> {
        let name = alias.to_owned();
        let (alias, outgoing, wanted) = self.allowed(alias, request)?;
        let step = self.long.as_ref().filter(|_| self.phase == Phase::Mutating);
        let step = step.ok_or_else(|| denied("send-long is for verbs that change something".into()))?;
        if self.binding.as_ref().is_some_and(|binding| binding.wire.is_some()) {
            return Err(denied(
                "send-long needs a real endpoint; here the network is simulated or recorded".into(),
            ));
        }
        let key = LongKey {
            plugin: step.plugin.clone(),
            target: step.target.clone(),
            alias: name,
            request: request_hash(&outgoing, wanted.as_ref()),
            fence: step.fence,
        };
        let sends = step.sends.clone();
        let state = match sends.report(&key) {
            Some(state) => state?,
            // It waits its turn: the guest asks again.
            None if !sends.has_room(&key) => LongState::Running { moved_kib: 0 },
            None => {
                let content = match wanted {
                    Some(wanted) => Some(self.contents.find(&wanted).await.map_err(denied)?),
                    None => None,
                };
                let request = LongRequest {
                    alias,
                    outgoing,
                    content,
                    secrets: self.secrets.clone(),
                };
                sends.begin(key, request)
            }
        };
        Ok(match state {
            LongState::Running { moved_kib } => endpoint::LongState::Running(moved_kib),
            LongState::Finished(exchange) => endpoint::LongState::Finished(exchange.into()),
        })
    }

    /// Every rule that a request has to pass before anything of it is done. Its secrets are put in.
    #[allow(clippy::type_complexity, reason = "three parts of one request")]
    fn allowed(&self, alias: &str, request: endpoint::Request) -> Result<(Arc<Alias>, Outgoing, Option<Wanted>), endpoint::Fail> {
        if self.phase == Phase::Pure {
            return Err(denied("check is pure: nothing may be sent".into()));
        }
        let found = self.binding.as_ref().and_then(|binding| binding.aliases.get(alias));
        let found = found.ok_or_else(|| denied(format!("the operator grants no endpoint named {:?}", quoted(alias))))?;
        if let Some(problem) = path_problem(&request.path) {
            return Err(denied(format!("the path is refused: {problem}")));
        }
        if let Some(header) = request.headers.iter().find(|header| !request_header_allowed(&header.name)) {
            return Err(denied(format!("header {:?} is not a plugin's to set", quoted(&header.name))));
        }
        let headers = request.headers.into_iter().map(|header| (header.name, header.value));
        let headers: Vec<(String, String)> = headers.collect();
        if header_bytes(&headers) > HEADERS_BYTES {
            return Err(denied(format!("the headers have more than {HEADERS_BYTES} bytes")));
        }
        let (body, wanted) = match request.body {
            endpoint::Content::Empty => (Vec::new(), None),
            endpoint::Content::Bytes(bytes) => (bytes, None),
            endpoint::Content::Blob(digest) => (Vec::new(), Some(Wanted::Blob(digest))),
            endpoint::Content::Archive(digest) => (Vec::new(), Some(Wanted::Archive(digest))),
        };
        let (method, path) = (request.method, request.path);
        if !granted(&found.rules, self.phase, &method, &path, &body, &self.names) {
            let method = quoted(&method);
            return Err(denied(format!("no rule of endpoint {alias} grants {method} {path} here")));
        }
        let is_wanted = self.wants.as_ref().is_none_or(|wants| {
            let rules = wants.get(alias).map_or(&[][..], Vec::as_slice);
            granted(rules, self.phase, &method, &path, &body, &self.names)
        });
        if !is_wanted {
            let method = quoted(&method);
            return Err(denied(format!(
                "the plugin's metadata does not say that it wants {method} {path} of endpoint {alias} here"
            )));
        }
        if self.sent.len() >= REQUESTS_PER_CALL {
            return Err(denied(format!("more than {REQUESTS_PER_CALL} requests in one call")));
        }
        let uris = self.contents.artifacts.iter().map(|artifact| artifact.uri.as_str());
        let pulls_from = pulls_from(&path, !body.is_empty() || wanted.is_some(), uris);
        // Only now, when everything is granted: what the rules looked at holds no secret.
        let body = self.secrets.fill(body, self.bytes_left)?;
        let outgoing = Outgoing {
            method,
            path,
            headers,
            payload: Payload::Bytes(body.into()),
            pulls_from,
        };
        Ok((found.clone(), outgoing, wanted))
    }
}

fn denied(message: String) -> endpoint::Fail {
    endpoint::Fail::Denied(message)
}

fn header_bytes(headers: &[(String, String)]) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.len()).sum()
}

impl Outgoing {
    /// None: a stream, which is counted elsewhere.
    fn size_bytes(&self) -> Option<usize> {
        match &self.payload {
            Payload::Bytes(bytes) => Some(bytes.len() + header_bytes(&self.headers)),
            Payload::Stream { .. } => None,
        }
    }
}

/// What makes one long request the same as another: with its secrets in place, because their markers are new in every call.
fn request_hash(outgoing: &Outgoing, wanted: Option<&Wanted>) -> Digest {
    let body = match (wanted, &outgoing.payload) {
        (Some(Wanted::Blob(digest)), _) => ("blob", digest.clone()),
        (Some(Wanted::Archive(digest)), _) => ("archive", digest.clone()),
        (None, Payload::Bytes(bytes)) => ("bytes", Digest::of(bytes).to_string()),
        (None, Payload::Stream { .. }) => ("stream", String::new()),
    };
    // Text and numbers always become JSON.
    Digest::of(&serde_json::to_vec(&(&outgoing.method, &outgoing.path, &outgoing.headers, body)).unwrap_or_default())
}

impl From<Exchange> for endpoint::Response {
    fn from(exchange: Exchange) -> Self {
        let headers = exchange.headers.into_iter();
        Self {
            status: exchange.status.into(),
            headers: headers.map(|(name, value)| endpoint::Header { name, value }).collect(),
            body: exchange.body,
        }
    }
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS).collect()
}

impl From<SendFail> for endpoint::Fail {
    fn from(fail: SendFail) -> Self {
        match fail {
            SendFail::Denied(message) => endpoint::Fail::Denied(message),
            SendFail::Unreachable(message) => endpoint::Fail::Unreachable(message),
            SendFail::Lost(message) => endpoint::Fail::Lost(message),
            SendFail::TooLarge(message) => endpoint::Fail::TooLarge(message),
        }
    }
}

/// WASI's clocks stand still: a guest has the `clock` interface, and what it does with it can be replayed.
pub(crate) struct FixedClock(pub u64);

impl HostWallClock for FixedClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }
    fn now(&self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl HostMonotonicClock for FixedClock {
    fn resolution(&self) -> u64 {
        1_000_000
    }
    fn now(&self) -> u64 {
        self.0
    }
}

impl log::Host for Guest {
    async fn write(&mut self, at: log::Level, message: String) -> wasmtime::Result<()> {
        self.count()?;
        self.log_lines += 1;
        if self.log_lines > LOG_LINES_PER_CALL {
            return Ok(());
        }
        let text: String = message.chars().take(LOG_LINE_CHARS).map(harmless).collect();
        let plugin = &self.plugin;
        match at {
            log::Level::Debug => tracing::debug!(plugin, text, "plugin log"),
            log::Level::Info => tracing::info!(plugin, text, "plugin log"),
            log::Level::Warn => tracing::warn!(plugin, text, "plugin log"),
            log::Level::Error => tracing::error!(plugin, text, "plugin log"),
        }
        Ok(())
    }
}

/// A plugin must not be able to forge a line, move the cursor of whoever reads the log, or turn its text around.
fn harmless(c: char) -> char {
    let turns = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    if c.is_control() || turns { ' ' } else { c }
}

impl clock::Host for Guest {
    async fn now_ms(&mut self) -> wasmtime::Result<u64> {
        self.count()?;
        Ok(self.now_ms)
    }
    async fn remaining_ms(&mut self) -> wasmtime::Result<u32> {
        self.count()?;
        Ok(u32::try_from(self.remaining().as_millis()).unwrap_or(u32::MAX))
    }
}

/// The last of what a guest wrote to stderr: panic messages, mostly. Never blocks it, never grows.
#[derive(Clone, Default)]
pub(crate) struct Stderr(Arc<Mutex<Ring>>);

#[derive(Default)]
struct Ring {
    kept: VecDeque<u8>,
    dropped_bytes: u64,
}

impl Stderr {
    pub fn dropped_bytes(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).dropped_bytes
    }

    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .kept
            .iter()
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes)
            .chars()
            .map(|c| if c == '\n' { c } else { harmless(c) })
            .collect::<String>()
            .trim()
            .to_owned()
    }
}

impl IsTerminal for Stderr {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stderr {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Stderr {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &bytes[bytes.len().saturating_sub(STDERR_KEPT_BYTES)..];
        ring.kept.extend(last);
        let excess = ring.kept.len().saturating_sub(STDERR_KEPT_BYTES);
        ring.kept.drain(..excess);
        ring.dropped_bytes += (excess + bytes.len() - last.len()) as u64;
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

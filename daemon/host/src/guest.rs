//! What one instance holds while it runs, and the three interfaces it may call.

use crate::bindings::holdfast::target::{clock, endpoint, log, types};
use crate::endpoint::{Binding, SendFail};
use crate::policy::{Names, Phase, Rule, granted, path_problem, request_header_allowed};
use crate::secrets::Secrets;
use crate::wire::WireRequest;
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

const LATER: &str = "comes in step 4";
const REQUESTS_PER_CALL: usize = 64;
/// Bodies and headers of all requests and answers of a call.
const BYTES_PER_CALL: usize = 64 << 20;
const HEADERS_BYTES: usize = 16 << 10;
/// What a guest made up is quoted in messages up to here.
const QUOTED_CHARS: usize = 80;
const LOG_LINES_PER_CALL: u32 = 200;
const LOG_LINE_BYTES: usize = 2_000;
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
    pub plugin: String,
    pub sent: Vec<Sent>,
    pub bytes_left: usize,
    pub log_lines: u32,
    pub deadline: Instant,
    /// Unix milliseconds when the call began; the same for the whole call, so that a replay can give it again.
    pub now_ms: u64,
}

impl Guest {
    pub fn new(wasi: WasiCtx, memory_bytes: usize, deadline: Instant) -> Self {
        Self {
            wasi,
            table: ResourceTable::new(),
            limits: MemoryLimit {
                left_bytes: memory_bytes,
                refused: false,
            },
            binding: None,
            wants: None,
            phase: Phase::Pure,
            names: Names::default(),
            secrets: Arc::default(),
            plugin: String::new(),
            sent: Vec::new(),
            bytes_left: BYTES_PER_CALL,
            log_lines: 0,
            deadline,
            now_ms: 0,
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a call's wall deadline is real time")]
    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Sums over all linear memories: wasmtime's own limit counts each alone.
pub(crate) struct MemoryLimit {
    left_bytes: usize,
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
    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.refused |= desired > TABLE_ELEMENTS;
        Ok(desired <= TABLE_ELEMENTS)
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
        let (method, path) = (request.method.clone(), request.path.clone());
        let outcome = self.exchange(&alias, request).await;
        let status = outcome.as_ref().map_or(0, |response| response.status as u16);
        // What was denied was not sent; it is the plugin's log that says so.
        if !matches!(outcome, Err(endpoint::Fail::Denied(_))) {
            self.sent.push(Sent {
                alias,
                method,
                path,
                status,
            });
        }
        Ok(outcome)
    }

    async fn send_long(
        &mut self,
        _: String,
        _: endpoint::Request,
    ) -> wasmtime::Result<Result<endpoint::LongState, endpoint::Fail>> {
        Ok(Err(endpoint::Fail::Denied(format!("send-long {LATER}"))))
    }
}

impl Guest {
    async fn exchange(&mut self, alias: &str, request: endpoint::Request) -> Result<endpoint::Response, endpoint::Fail> {
        let denied = |message: String| Err(endpoint::Fail::Denied(message));
        if self.phase == Phase::Pure {
            return denied("check is pure: nothing may be sent".into());
        }
        let binding = self.binding.clone();
        let Some(alias_config) = binding.as_ref().and_then(|binding| binding.aliases.get(alias)) else {
            return denied(format!("the operator grants no endpoint named {:?}", quoted(alias)));
        };
        if let Some(problem) = path_problem(&request.path) {
            return denied(format!("the path is refused: {problem}"));
        }
        if let Some(header) = request.headers.iter().find(|header| !request_header_allowed(&header.name)) {
            return denied(format!("header {:?} is not a plugin's to set", quoted(&header.name)));
        }
        let header_bytes: usize = request
            .headers
            .iter()
            .map(|header| header.name.len() + header.value.len())
            .sum();
        if header_bytes > HEADERS_BYTES {
            return denied(format!("the headers have more than {HEADERS_BYTES} bytes"));
        }
        let body = match request.body {
            endpoint::Content::Empty => Vec::new(),
            endpoint::Content::Bytes(bytes) => bytes,
            endpoint::Content::Blob(_) => return denied(format!("content::blob {LATER}")),
            endpoint::Content::Archive(_) => return denied(format!("content::archive {LATER}")),
        };
        if !granted(
            &alias_config.rules,
            self.phase,
            &request.method,
            &request.path,
            &body,
            &self.names,
        ) {
            return denied(format!(
                "no rule of endpoint {alias} grants {} {} here",
                quoted(&request.method),
                request.path
            ));
        }
        let is_wanted = self.wants.as_ref().is_none_or(|wants| {
            let rules = wants.get(alias).map_or(&[][..], Vec::as_slice);
            granted(rules, self.phase, &request.method, &request.path, &body, &self.names)
        });
        if !is_wanted {
            return denied(format!(
                "the plugin's metadata does not say that it wants {} {} of endpoint {alias} here",
                quoted(&request.method),
                request.path
            ));
        }
        if self.sent.len() >= REQUESTS_PER_CALL {
            return denied(format!("more than {REQUESTS_PER_CALL} requests in one call"));
        }
        // Only now, when everything is granted: what the rules looked at holds no secret.
        let secrets = self.secrets.clone();
        let body = match secrets.fill(body, self.bytes_left) {
            Ok(body) => body,
            Err(fail) => return Err(fail.into()),
        };
        let Some(left) = self
            .bytes_left
            .checked_sub(body.len() + header_bytes)
            .filter(|left| *left > 0)
        else {
            return denied(format!("more than {BYTES_PER_CALL} bytes moved in one call"));
        };
        self.bytes_left = left;
        let asked = match request.timeout_ms {
            0 => alias_config.timeout,
            ms => Duration::from_millis(ms.into()).min(alias_config.timeout),
        };
        let headers: Vec<(String, String)> = request
            .headers
            .into_iter()
            .map(|header| (header.name, header.value))
            .collect();
        let timeout = asked.min(self.remaining());
        let answer_max_bytes = alias_config.max_body_bytes.min(self.bytes_left);
        let exchange = match binding.as_ref().and_then(|binding| binding.wire.as_ref()) {
            None => {
                alias_config
                    .send(&request.method, &request.path, &headers, body, timeout, answer_max_bytes)
                    .await?
            }
            Some(wire) => {
                let (alias, method, path) = (alias.to_owned(), request.method, request.path);
                let request = WireRequest {
                    alias,
                    method,
                    path,
                    headers,
                    body,
                };
                wire.send(&request).await?
            }
        };
        let exchange = secrets.take_out(exchange);
        self.bytes_left = self.bytes_left.saturating_sub(exchange.body.len());
        let headers = exchange
            .headers
            .into_iter()
            .map(|(name, value)| endpoint::Header { name, value })
            .collect();
        Ok(endpoint::Response {
            status: exchange.status.into(),
            headers,
            body: exchange.body,
        })
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
        self.log_lines += 1;
        if self.log_lines > LOG_LINES_PER_CALL {
            return Ok(());
        }
        // A plugin must not be able to forge a line or move the cursor of whoever reads the log.
        let text: String = message
            .chars()
            .take(LOG_LINE_BYTES)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
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

impl clock::Host for Guest {
    async fn now_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(self.now_ms)
    }
    async fn remaining_ms(&mut self) -> wasmtime::Result<u32> {
        Ok(u32::try_from(self.remaining().as_millis()).unwrap_or(u32::MAX))
    }
}

/// The last of what a guest wrote to stderr: panic messages, mostly. Never blocks it, never grows.
#[derive(Clone, Default)]
pub(crate) struct Stderr(Arc<Mutex<VecDeque<u8>>>);

impl Stderr {
    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes)
            .chars()
            .filter(|c| *c == '\n' || !c.is_control())
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
        ring.extend(&bytes[bytes.len().saturating_sub(STDERR_KEPT_BYTES)..]);
        let excess = ring.len().saturating_sub(STDERR_KEPT_BYTES);
        ring.drain(..excess);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

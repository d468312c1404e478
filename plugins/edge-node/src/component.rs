//! A `wasi:http` component: a fresh instance for each request, without network, files, environment or memory of the last.

use crate::output::Output;
use crate::record::Template;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Config, Engine, ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

const EPOCH_TICK: Duration = Duration::from_millis(10);
const RESPONSE_MAX_BYTES: usize = 8 << 20;
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// One engine for the whole node, ticking while it lives.
pub fn engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .max_wasm_stack(512 << 10);
    let engine = Engine::new(&config)?;
    let weak = engine.weak();
    std::thread::Builder::new().name("epoch".into()).spawn(move || {
        while let Some(engine) = weak.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(EPOCH_TICK);
        }
    })?;
    Ok(engine)
}

pub struct Bundle {
    pre: ProxyPre<Guest>,
    template: Template,
    output: Output,
}

struct Guest {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: NoNetwork,
    table: ResourceTable,
    limits: MemoryLimit,
}

/// Outgoing requests are refused, whatever the component imports.
struct NoNetwork;

type Transfer = Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>;

impl WasiHttpHooks for NoNetwork {
    fn send_request(
        &mut self,
        _: hyper::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Transfer,
    ) -> Box<dyn Future<Output = Result<(hyper::Response<WasiBody>, Transfer), wasmtime_wasi_http::Error>> + Send> {
        Box::new(async { Err(wasmtime_wasi_http::Error::HttpRequestDenied) })
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

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.hooks,
        }
    }
}

/// Sums over all memories of the instance: wasmtime's own limit counts each alone.
struct MemoryLimit {
    left_bytes: usize,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        let fits = more <= self.left_bytes;
        if fits {
            self.left_bytes -= more;
        }
        Ok(fits)
    }
    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
    fn instances(&self) -> usize {
        256
    }
    fn memories(&self) -> usize {
        16
    }
    fn tables(&self) -> usize {
        64
    }
}

impl Bundle {
    /// Compiles and links; the message says what the component wants that it does not get.
    pub fn load(engine: &Engine, bytes: &[u8], template: Template, output: Output) -> Result<Self, String> {
        let pre = || -> wasmtime::Result<ProxyPre<Guest>> {
            let component = Component::new(engine, bytes)?;
            let mut linker = Linker::<Guest>::new(engine);
            wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
            wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
            ProxyPre::new(linker.instantiate_pre(&component)?)
        };
        let pre = pre().map_err(|error| format!("{error:#}"))?;
        Ok(Self { pre, template, output })
    }

    /// Answers, or says why the bundle did not.
    pub async fn handle(self: Arc<Self>, request: Request<Bytes>) -> Result<Response<Full<Bytes>>, String> {
        let timeout = Duration::from_millis(self.template.timeout_ms.into());
        match tokio::time::timeout(timeout, self.call(request)).await {
            Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
            Err(_) => Err(format!("no answer within {} ms", self.template.timeout_ms)),
        }
    }

    async fn call(&self, request: Request<Bytes>) -> wasmtime::Result<Response<Full<Bytes>>> {
        let mut wasi = WasiCtx::builder();
        wasi.stdout(self.output.clone()).stderr(self.output.clone());
        let guest = Guest {
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            hooks: NoNetwork,
            table: ResourceTable::new(),
            limits: MemoryLimit {
                left_bytes: (self.template.memory_mib as usize) << 20,
            },
        };
        let mut store = Store::new(self.pre.engine(), guest);
        store.limiter(|guest| &mut guest.limits);
        store.set_hostcall_fuel(RESPONSE_MAX_BYTES * 2);
        let mut ticks_left = self.template.timeout_ms / EPOCH_TICK.as_millis() as u32 + 1;
        store.set_epoch_deadline(1);
        // Yielding at each tick lets the deadline's timer fire even while the guest only computes.
        store.epoch_deadline_callback(move |_| {
            ticks_left = ticks_left.saturating_sub(1);
            Ok(if ticks_left == 0 {
                UpdateDeadline::Interrupt
            } else {
                UpdateDeadline::Yield(1)
            })
        });
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let request = request.map(Full::new);
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let outparam = store.data_mut().http().new_response_outparam(sender)?;
        let proxy = self.pre.instantiate_async(&mut store).await?;
        let run = async {
            let outcome = proxy
                .wasi_http_incoming_handler()
                .call_handle(&mut store, request, outparam)
                .await;
            // The response body ends when the guest's side of it is dropped with the store.
            drop(store);
            outcome
        };
        let answer = async {
            let Ok(answer) = receiver.await else {
                return Ok::<_, wasmtime::Error>(None);
            };
            let (parts, body) = answer
                .map_err(|code| wasmtime::Error::msg(format!("the bundle answered with {code:?}")))?
                .into_parts();
            let body = Limited::new(body, RESPONSE_MAX_BYTES).collect().await;
            let body = body
                .map_err(|error| wasmtime::Error::msg(format!("its answer broke off: {error}")))?
                .to_bytes();
            Ok::<_, wasmtime::Error>(Some(Response::from_parts(parts, Full::new(body))))
        };
        let (outcome, answer) = tokio::join!(run, answer);
        outcome?;
        answer?.ok_or_else(|| wasmtime::Error::msg("the bundle ended without an answer"))
    }
}

/// What a client sees when the bundle did not answer.
pub fn bad_gateway() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"the bundle failed\n")));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

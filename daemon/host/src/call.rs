//! Plugins and calls: loaded once, instantiated afresh for each call, cut off at the deadline.

use crate::bindings::{TargetPlugin, TargetPluginPre};
use crate::convert;
use crate::endpoint::Binding;
use crate::guest::{Guest, Stderr};
use crate::outcome::{CallFailure, CallReport, FailureClass, LoadError};
use crate::policy::{Names, Phase};
use holdfast_core::ids::Digest;
use holdfast_core::target as core;
use holdfast_core::target::{CallContext, Excerpt, Generation, Page, PluginRef, Progress, Report, RouteEntry, Sample};
use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::Instrument;
use wasmtime::component::{Component, Instance, Linker};
use wasmtime::{Cache, CacheConfig, Config, Engine, Store, Trap, UpdateDeadline};
use wasmtime_wasi::WasiCtx;

const EPOCH_TICK: Duration = Duration::from_millis(10);
const OBSERVE_PAGES_MAX: usize = 1_000;
const INTERFACES: &str = "holdfast:target/";
const WORLD_VERSION: &str = "@0.1.";

#[derive(Debug, Clone)]
pub struct Limits {
    pub component_bytes: usize,
    pub memory_bytes: usize,
    /// Bytes that may cross to or from the guest in one call.
    pub crossing_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            component_bytes: 64 << 20,
            memory_bytes: 64 << 20,
            crossing_bytes: 16 << 20,
        }
    }
}

pub struct PluginHost {
    engine: Engine,
    linker: Arc<Linker<Guest>>,
    limits: Limits,
}

/// A compiled plugin. Cheap to clone; a call in flight keeps the one it began with.
pub struct Plugin {
    pub name: String,
    pub digest: Digest,
    /// Interfaces it exports, as in `telemetry`.
    pub exports: BTreeSet<String>,
    pre: TargetPluginPre<Guest>,
    limits: Limits,
}

/// What a call may use.
pub struct CallOptions<'a> {
    pub binding: Option<Arc<Binding>>,
    pub context: &'a CallContext,
    pub deadline: Duration,
    /// Unix milliseconds, for the guest's clock.
    pub now_ms: u64,
}

impl PluginHost {
    /// `cache_dir` holds native code: whoever can write there owns the daemon.
    pub fn new(limits: Limits, cache_dir: Option<PathBuf>) -> Result<Self, LoadError> {
        let start = || -> wasmtime::Result<(Engine, Linker<Guest>)> {
            let mut config = Config::new();
            config
                .epoch_interruption(true)
                .concurrency_support(false)
                .wasm_memory64(false)
                .wasm_relaxed_simd(false)
                .max_wasm_stack(512 << 10)
                .async_stack_size(2 << 20);
            if let Some(dir) = cache_dir {
                let mut cache = CacheConfig::new();
                cache.with_directory(dir);
                config.cache(Some(Cache::new(cache)?));
            }
            let engine = Engine::new(&config)?;
            let weak = engine.weak();
            std::thread::Builder::new().name("epoch".into()).spawn(move || {
                while let Some(engine) = weak.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(EPOCH_TICK);
                }
            })?;
            let mut linker = Linker::<Guest>::new(&engine);
            wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
            TargetPlugin::add_to_linker::<_, wasmtime::component::HasSelf<_>>(&mut linker, |guest| guest)?;
            Ok((engine, linker))
        };
        let (engine, linker) = start().map_err(|error| LoadError::Engine(format!("{error:#}")))?;
        Ok(Self {
            engine,
            linker: Arc::new(linker),
            limits,
        })
    }

    /// Validates, compiles and links. Takes seconds for a large component: call it off the event loop.
    pub fn load(&self, name: &str, bytes: &[u8]) -> Result<Plugin, LoadError> {
        let name_of = || name.to_owned();
        if bytes.len() > self.limits.component_bytes {
            return Err(LoadError::TooLarge {
                name: name_of(),
                size: bytes.len(),
                limit: self.limits.component_bytes,
            });
        }
        let invalid = |message: String| LoadError::Invalid {
            name: name_of(),
            message,
        };
        // Another implementation looks first: a compiler should only see what is valid.
        let mut validator = wasmparser::Validator::new();
        validator.validate_all(bytes).map_err(|error| invalid(error.to_string()))?;
        let component = Component::new(&self.engine, bytes).map_err(|error| invalid(format!("{error:#}")))?;
        let kind = component.component_type();
        for (import, _) in kind.imports(&self.engine) {
            let ours = ["endpoint", "log", "clock", "types"]
                .iter()
                .any(|one| import.starts_with(&format!("{INTERFACES}{one}{WORLD_VERSION}")));
            // What std needs; linked to an empty WASI: no files, arguments, environment, network.
            let empty_wasi = ["wasi:cli/", "wasi:io/", "wasi:clocks/", "wasi:random/", "wasi:filesystem/"]
                .iter()
                .any(|one| import.starts_with(one));
            if !ours && !empty_wasi {
                return Err(LoadError::Import {
                    name: name_of(),
                    import: import.to_owned(),
                });
            }
        }
        let exports = kind
            .exports(&self.engine)
            .filter_map(|(export, _)| {
                let (interface, version) = export.strip_prefix(INTERFACES)?.split_once('@')?;
                format!("@{version}").starts_with(WORLD_VERSION).then(|| interface.to_owned())
            })
            .collect();
        let world = |error: wasmtime::Error| LoadError::World {
            name: name_of(),
            message: format!("{error:#}"),
        };
        let pre = self.linker.instantiate_pre(&component).map_err(world)?;
        let pre = TargetPluginPre::new(pre).map_err(world)?;
        Ok(Plugin {
            name: name_of(),
            digest: Digest::of(bytes),
            exports,
            pre,
            limits: self.limits.clone(),
        })
    }
}

type Running<'a, T> = Pin<Box<dyn Future<Output = wasmtime::Result<Result<T, core::Fault>>> + Send + 'a>>;

impl Plugin {
    pub fn reference(&self, grants: &Digest) -> PluginRef {
        PluginRef {
            name: self.name.clone(),
            digest: self.digest.clone(),
            grants: grants.clone(),
        }
    }

    /// Pure: nothing may be sent.
    pub async fn check(&self, options: &CallOptions<'_>, subject: &Generation) -> CallReport<Report> {
        let (ctx, subject) = (convert::context(options.context), convert::generation(subject));
        self.call(options, Phase::Pure, Names::default(), move |store, instance| {
            Box::pin(async move {
                let plugin = TargetPlugin::new(&mut *store, instance)?;
                let answer = plugin.holdfast_target_target().call_check(store, &ctx, &subject).await?;
                Ok(answer.map(convert::report).map_err(convert::fault))
            })
        })
        .await
    }

    /// Every page joined, under one deadline.
    pub async fn observe(&self, options: &CallOptions<'_>, workload: Option<String>) -> CallReport<Page> {
        let ctx = convert::context(options.context);
        let names = Names {
            target: options.context.target.clone(),
            ..Names::default()
        };
        self.call(options, Phase::Reading, names, move |store, instance| {
            Box::pin(async move {
                let plugin = TargetPlugin::new(&mut *store, instance)?;
                let target = plugin.holdfast_target_target();
                let mut whole: Option<Page> = None;
                let mut cursor = None;
                for _ in 0..OBSERVE_PAGES_MAX {
                    let query = crate::bindings::holdfast::target::types::Query {
                        workload: workload.clone(),
                        cursor,
                    };
                    let page = match target.call_observe(&mut *store, &ctx, &query).await? {
                        Ok(page) => convert::page(page),
                        Err(fault) => return Ok(Err(convert::fault(fault))),
                    };
                    cursor = page.more.clone();
                    match &mut whole {
                        None => whole = Some(page),
                        Some(whole) => {
                            whole.high_fence = whole.high_fence.max(page.high_fence);
                            whole.generations.extend(page.generations);
                            whole.routes.extend(page.routes);
                            whole.strangers.extend(page.strangers);
                        }
                    }
                    if cursor.is_none() {
                        let mut whole = whole.unwrap_or_default();
                        whole.more = None;
                        return Ok(Ok(whole));
                    }
                }
                let message = format!("observe did not end after {OBSERVE_PAGES_MAX} pages");
                Ok(Err(core::Fault {
                    class: core::FaultClass::Internal,
                    message,
                    fence: None,
                }))
            })
        })
        .await
    }

    pub async fn launch(&self, options: &CallOptions<'_>, subject: &Generation, size: u32) -> CallReport<Progress> {
        let names = names_of(options, subject);
        let (ctx, subject) = (convert::context(options.context), convert::generation(subject));
        self.call(options, Phase::Mutating, names, move |store, instance| {
            Box::pin(async move {
                let plugin = TargetPlugin::new(&mut *store, instance)?;
                let answer = plugin
                    .holdfast_target_target()
                    .call_launch(store, &ctx, &subject, size)
                    .await?;
                Ok(answer.map(convert::progress).map_err(convert::fault))
            })
        })
        .await
    }

    pub async fn scale(&self, options: &CallOptions<'_>, subject: &Generation, size: u32) -> CallReport<Progress> {
        let names = names_of(options, subject);
        let (ctx, subject) = (convert::context(options.context), convert::generation(subject));
        self.call(options, Phase::Mutating, names, move |store, instance| {
            Box::pin(async move {
                let plugin = TargetPlugin::new(&mut *store, instance)?;
                let answer = plugin
                    .holdfast_target_target()
                    .call_scale(store, &ctx, &subject, size)
                    .await?;
                Ok(answer.map(convert::progress).map_err(convert::fault))
            })
        })
        .await
    }

    pub async fn route(&self, options: &CallOptions<'_>, entries: &[RouteEntry]) -> CallReport<Progress> {
        let names = Names {
            key: entries.first().map(|entry| entry.generation.key.clone()),
            names: entries.iter().map(|entry| entry.generation.name.clone()).collect(),
            target: options.context.target.clone(),
        };
        let ctx = convert::context(options.context);
        let entries: Vec<_> = entries.iter().map(convert::route_entry).collect();
        self.call(options, Phase::Mutating, names, move |store, instance| {
            Box::pin(async move {
                let plugin = TargetPlugin::new(&mut *store, instance)?;
                let answer = plugin.holdfast_target_target().call_route(store, &ctx, &entries).await?;
                Ok(answer.map(convert::progress).map_err(convert::fault))
            })
        })
        .await
    }

    pub async fn retire(&self, options: &CallOptions<'_>, subject: &Generation, last: bool) -> CallReport<Progress> {
        let names = names_of(options, subject);
        let (ctx, subject) = (convert::context(options.context), convert::generation(subject));
        self.call(options, Phase::Mutating, names, move |store, instance| {
            Box::pin(async move {
                let plugin = TargetPlugin::new(&mut *store, instance)?;
                let answer = plugin
                    .holdfast_target_target()
                    .call_retire(store, &ctx, &subject, last)
                    .await?;
                Ok(answer.map(convert::progress).map_err(convert::fault))
            })
        })
        .await
    }

    pub async fn telemetry(&self, options: &CallOptions<'_>, subject: &Generation) -> CallReport<Vec<Sample>> {
        if !self.exports.contains("telemetry") {
            return not_exported("telemetry");
        }
        let names = names_of(options, subject);
        let (ctx, subject) = (convert::context(options.context), convert::generation(subject));
        self.call(options, Phase::Reading, names, move |store, instance| {
            Box::pin(async move {
                let plugin = crate::telemetry::Telemetry::new(&mut *store, instance)?;
                let answer = plugin.holdfast_target_telemetry().call_read(store, &ctx, &subject).await?;
                let sample = |sample: crate::telemetry::exports::holdfast::target::telemetry::Sample| Sample {
                    name: sample.name,
                    value: sample.value,
                };
                Ok(answer
                    .map(|samples| samples.into_iter().map(sample).collect())
                    .map_err(convert::fault))
            })
        })
        .await
    }

    pub async fn explain(&self, options: &CallOptions<'_>, subject: &Generation) -> CallReport<Vec<Excerpt>> {
        if !self.exports.contains("diagnosis") {
            return not_exported("diagnosis");
        }
        let names = names_of(options, subject);
        let (ctx, subject) = (convert::context(options.context), convert::generation(subject));
        self.call(options, Phase::Reading, names, move |store, instance| {
            Box::pin(async move {
                let plugin = crate::diagnosis::Diagnosis::new(&mut *store, instance)?;
                let answer = plugin.holdfast_target_diagnosis().call_explain(store, &ctx, &subject).await?;
                let excerpt = |excerpt: crate::diagnosis::exports::holdfast::target::diagnosis::Excerpt| Excerpt {
                    instance: excerpt.instance,
                    source: excerpt.source,
                    text: excerpt.text,
                };
                Ok(answer
                    .map(|excerpts| excerpts.into_iter().map(excerpt).collect())
                    .map_err(convert::fault))
            })
        })
        .await
    }

    /// A fresh store and instance; `run` calls one export; whatever happens, it ends by the deadline.
    #[allow(clippy::disallowed_methods, reason = "a call's wall deadline is real time")]
    async fn call<T>(
        &self,
        options: &CallOptions<'_>,
        phase: Phase,
        names: Names,
        run: impl for<'a> FnOnce(&'a mut Store<Guest>, &'a Instance) -> Running<'a, T>,
    ) -> CallReport<T> {
        let begun = Instant::now();
        let stderr = Stderr::default();
        let mut wasi = WasiCtx::builder();
        wasi.stdout(stderr.clone()).stderr(stderr.clone());
        let mut guest = Guest::new(wasi.build(), self.limits.memory_bytes, begun + options.deadline);
        guest.binding.clone_from(&options.binding);
        guest.phase = phase;
        guest.names = names;
        guest.plugin.clone_from(&self.name);
        guest.now_ms = options.now_ms;
        let mut store = Store::new(self.pre.engine(), guest);
        store.limiter(|guest| &mut guest.limits);
        store.set_hostcall_fuel(self.limits.crossing_bytes);
        store.data_mut().table.set_max_capacity(1_000);
        let mut ticks_left = (options.deadline.as_millis() / EPOCH_TICK.as_millis()) as u64 + 1;
        store.set_epoch_deadline(1);
        // Yielding at each tick lets the wall deadline fire while the guest only computes.
        store.epoch_deadline_callback(move |_| {
            ticks_left = ticks_left.saturating_sub(1);
            Ok(if ticks_left == 0 {
                UpdateDeadline::Interrupt
            } else {
                UpdateDeadline::Yield(1)
            })
        });
        let span = tracing::info_span!("plugin_call", plugin = self.name, digest = self.digest.short());
        let outcome = tokio::time::timeout(options.deadline, async {
            let instance = self.pre.instance_pre().instantiate_async(&mut store).await?;
            run(&mut store, &instance).await
        })
        .instrument(span.clone())
        .await;
        let answer = match outcome {
            Ok(Ok(answer)) => answer.map_err(CallFailure::Fault),
            Ok(Err(error)) => Err(classify(&error, store.data().limits.refused, &stderr)),
            Err(_) => Err(CallFailure::Failed {
                class: FailureClass::Deadline,
                message: format!("it did not answer within {} ms", options.deadline.as_millis()),
            }),
        };
        let sent = std::mem::take(&mut store.data_mut().sent);
        let elapsed_ms = begun.elapsed().as_millis() as u64;
        span.in_scope(|| tracing::debug!(elapsed_ms, requests = sent.len(), ok = answer.is_ok(), "plugin call ended"));
        CallReport {
            answer,
            sent,
            elapsed: begun.elapsed(),
        }
    }
}

fn names_of(options: &CallOptions<'_>, subject: &Generation) -> Names {
    Names {
        key: Some(subject.key.clone()),
        names: [subject.name.clone()].into(),
        target: options.context.target.clone(),
    }
}

fn not_exported<T>(interface: &str) -> CallReport<T> {
    let message = format!("it does not export {interface}");
    CallReport {
        answer: Err(CallFailure::Failed {
            class: FailureClass::NotExported,
            message,
        }),
        sent: Vec::new(),
        elapsed: Duration::ZERO,
    }
}

fn classify(error: &wasmtime::Error, memory_refused: bool, stderr: &Stderr) -> CallFailure {
    let said = stderr.text();
    let last = said
        .lines()
        .rev()
        .take(3)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
        .join(" / ");
    let text = format!("{error:#}");
    let (class, message) = match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => (FailureClass::CpuBudget, "it computed until its budget was used up".to_owned()),
        Some(Trap::StackOverflow) => (FailureClass::Stack, "it recursed too deep".to_owned()),
        _ if memory_refused => (FailureClass::Memory, "it wanted more memory than its cap".to_owned()),
        _ if error.downcast_ref::<wasmtime_wasi::I32Exit>().is_some() => (FailureClass::Exit, "it called exit".to_owned()),
        // The error's type is private; a test pins its text.
        _ if text.contains("fuel") => (
            FailureClass::OutputSize,
            "too many bytes crossed between it and the host".to_owned(),
        ),
        _ => (FailureClass::Panic, if last.is_empty() { text } else { last }),
    };
    CallFailure::Failed { class, message }
}

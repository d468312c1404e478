//! Plugins and calls: loaded once, instantiated afresh for each call, cut off at the deadline.

use crate::bindings::holdfast::target::types as wit;
use crate::compile::Compiler;
use crate::content::{ArtifactSource, Contents};
use crate::convert::{self, ResumeTooLarge};
use crate::endpoint::Binding;
use crate::guest::{FixedClock, Guest, Stderr, Step, TooManyHostCalls};
use crate::long::{LongLimits, LongSends};
use crate::metadata::{Metadata, inspect};
use crate::optional::Optional;
use crate::outcome::{CallFailure, CallReport, FailureClass, LoadError};
use crate::policy::{Names, Phase, Rule};
use crate::secrets::{SecretValue, Secrets};
use crate::versions::{Bound, Mutation, Protocol, Since01, is_of, version_of};
use futures_util::FutureExt;
use holdfast_core::ids::Digest;
use holdfast_core::target as core;
use holdfast_core::target::{CallContext, Generation, Page, PluginRef, Progress, Report, RouteEntry};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tracing::Instrument;
use wasmtime::component::{Instance, InstancePre, Linker};
use wasmtime::{Cache, CacheConfig, Config, Engine, Store, Trap, UpdateDeadline};
use wasmtime_wasi::{Deterministic, WasiCtx};

const EPOCH_TICK: Duration = Duration::from_millis(10);
const OBSERVE_PAGES_MAX: usize = 1_000;
/// All pages of one observation, joined; each page alone is under `Limits::crossing_bytes`.
const OBSERVED_BYTES_MAX: usize = 64 << 20;
/// Without a call, a guest has nothing to compute.
const SELF_TEST: Duration = Duration::from_secs(3);
const HANDLES_MAX: usize = 1_000;
/// What a guest gets where it asks for randomness: the same in every call, so that a call can be replayed.
const RANDOM_CYCLE: &[u8] = b"holdfast: nothing here is random";
const RANDOM_MAX_BYTES: u64 = 64 << 10;
const INTERFACES: &str = "holdfast:target/";

#[derive(Debug, Clone)]
pub struct Limits {
    pub component_bytes: usize,
    pub memory_bytes: usize,
    /// Bytes that may come from the guest at once: in one answer, or one call of the host.
    pub crossing_bytes: usize,
    /// Calls of one plugin at once, on all its targets; the next one waits within its own deadline.
    pub calls_at_once: usize,
    /// A component that compiles for longer is given up, and not tried again.
    pub compile: Duration,
    pub long: LongLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            component_bytes: 64 << 20,
            memory_bytes: 64 << 20,
            crossing_bytes: 16 << 20,
            calls_at_once: 64,
            compile: Duration::from_secs(120),
            long: LongLimits::default(),
        }
    }
}

pub struct PluginHost {
    compiler: Compiler,
    linker: Arc<Linker<Guest>>,
    protocols: Vec<Arc<dyn Protocol>>,
    limits: Limits,
    long: Arc<LongSends>,
}

/// A compiled plugin. Cheap to clone; a call in flight keeps the one it began with.
pub struct Plugin {
    pub name: String,
    pub digest: Digest,
    /// Interfaces it exports, as in `telemetry`.
    pub exports: BTreeSet<String>,
    /// What it says of itself.
    pub metadata: Option<Metadata>,
    wants: Option<Arc<BTreeMap<String, Vec<Rule>>>>,
    pre: InstancePre<Guest>,
    /// Its exports, in the version that it was built for.
    target: Box<dyn Bound>,
    pub(crate) optional: Optional,
    limits: Limits,
    calls: Semaphore,
    long: Arc<LongSends>,
}

/// What a call may use.
pub struct CallOptions<'a> {
    pub binding: Option<Arc<Binding>>,
    pub context: &'a CallContext,
    pub deadline: Duration,
    /// Unix milliseconds, for the guest's clock.
    pub now_ms: u64,
    /// What the markers of the call's generation stand for.
    pub secrets: &'a [SecretValue],
    /// Where the artifacts of the call's generations are kept. None: none can be sent.
    pub artifacts: Option<Arc<dyn ArtifactSource>>,
}

/// What a call is about, and may do.
#[derive(Default)]
pub(crate) struct Scope {
    pub phase: Phase,
    pub names: Names,
    pub artifacts: Vec<core::Artifact>,
}

impl Scope {
    pub fn reading(names: Names) -> Self {
        Self {
            phase: Phase::Reading,
            names,
            artifacts: Vec::new(),
        }
    }

    /// All of `subjects` belong to one workload.
    pub fn mutating<'a>(options: &CallOptions<'_>, subjects: impl Iterator<Item = &'a Generation>) -> Self {
        let mut scope = Self {
            phase: Phase::Mutating,
            names: Names {
                target: options.context.target.clone(),
                ..Names::default()
            },
            artifacts: Vec::new(),
        };
        for subject in subjects {
            scope.names.key.get_or_insert_with(|| subject.key.clone());
            scope.names.names.insert(subject.name.clone());
            scope.artifacts.extend(subject.artifacts.iter().cloned());
        }
        scope
    }
}

impl PluginHost {
    /// `cache_dir` holds native code: whoever can write there owns the daemon.
    pub fn new(limits: Limits, cache_dir: Option<PathBuf>) -> Result<Self, LoadError> {
        Self::with_protocols(limits, cache_dir, vec![Arc::new(Since01)])
    }

    pub(crate) fn with_protocols(
        limits: Limits,
        cache_dir: Option<PathBuf>,
        protocols: Vec<Arc<dyn Protocol>>,
    ) -> Result<Self, LoadError> {
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
            for protocol in &protocols {
                protocol.link(&mut linker)?;
            }
            Ok((engine, linker))
        };
        let (engine, linker) = start().map_err(|error| LoadError::Engine(format!("{error:#}")))?;
        Ok(Self {
            compiler: Compiler::new(engine),
            linker: Arc::new(linker),
            protocols,
            long: Arc::new(LongSends::new(limits.long.clone())),
            limits,
        })
    }

    /// Validates, compiles and links. Takes seconds for a large component: call it off the event loop.
    pub fn load(&self, name: &str, bytes: &[u8]) -> Result<Plugin, LoadError> {
        let name_of = || name.to_owned();
        let digest = Digest::of(bytes);
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
        let component = self.compiler.compile(&digest, bytes, self.limits.compile);
        let component = component.map_err(|error| error.named(name))?;
        let kind = component.component_type();
        let names: Vec<&str> = kind.exports(self.compiler.engine()).map(|(export, _)| export).collect();
        let versions = version_of(names);
        let known = |version: &&str| self.protocols.iter().find(|protocol| is_of(version, protocol.series()));
        let Some(protocol) = versions.iter().find_map(known) else {
            let supported: Vec<&str> = self.protocols.iter().map(|protocol| protocol.series()).collect();
            return Err(LoadError::Version {
                name: name_of(),
                found: match versions.is_empty() {
                    true => "exports no holdfast:target/target".into(),
                    false => format!("was built for holdfast:target {}", versions.join(" and ")),
                },
                supported: supported.join(", "),
            });
        };
        for (import, _) in kind.imports(self.compiler.engine()) {
            let ours = import
                .strip_prefix(INTERFACES)
                .and_then(|import| import.split_once('@'))
                .is_some_and(|(one, version)| protocol.imports().contains(&one) && is_of(version, protocol.series()));
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
            .exports(self.compiler.engine())
            .filter_map(|(export, _)| {
                let (interface, version) = export.strip_prefix(INTERFACES)?.split_once('@')?;
                is_of(version, protocol.series()).then(|| interface.to_owned())
            })
            .collect();
        let world = |error: wasmtime::Error| LoadError::World {
            name: name_of(),
            message: format!("{error:#}"),
        };
        let pre = self.linker.instantiate_pre(&component).map_err(world)?;
        let metadata = inspect(bytes)
            .map_err(|error| LoadError::Metadata {
                name: name_of(),
                message: error.to_string(),
            })?
            .metadata;
        let mut limits = self.limits.clone();
        if let Some(asked_mib) = metadata.as_ref().and_then(|metadata| metadata.limits.memory_mib) {
            let asked_bytes = (asked_mib as usize) << 20;
            if asked_bytes > limits.memory_bytes {
                return Err(LoadError::Memory {
                    name: name_of(),
                    asked_mib,
                    limit_mib: limits.memory_bytes >> 20,
                });
            }
            limits.memory_bytes = asked_bytes;
        }
        let plugin = Plugin {
            name: name_of(),
            digest,
            target: protocol.bind(&pre).map_err(world)?,
            optional: Optional::new(&exports, &pre).map_err(world)?,
            exports,
            wants: metadata.as_ref().map(|metadata| Arc::new(metadata.wanted_rules())),
            metadata,
            pre,
            calls: Semaphore::new(self.limits.calls_at_once),
            limits,
            long: self.long.clone(),
        };
        plugin.self_test()?;
        Ok(plugin)
    }
}

pub(crate) type Running<'a, T> = Pin<Box<dyn Future<Output = wasmtime::Result<Result<T, core::Fault>>> + Send + 'a>>;

impl Plugin {
    /// Starts once, calls nothing, and compares the types of everything it exports: what does not fit is found here and not in
    /// the middle of a rollout.
    fn self_test(&self) -> Result<(), LoadError> {
        let name = || self.name.clone();
        let stderr = Stderr::default();
        let mut store = self.store(&stderr, 0, SELF_TEST);
        store.set_epoch_deadline((SELF_TEST.as_millis() / EPOCH_TICK.as_millis()) as u64);
        store.epoch_deadline_trap();
        let started = async {
            let instance = self.pre.instantiate_async(&mut store).await?;
            Ok::<_, wasmtime::Error>(instance)
        };
        // It has nothing to wait for, so it is done at once or waits for ever.
        let instance = match started.now_or_never() {
            Some(Ok(instance)) => instance,
            Some(Err(error)) => {
                let refused = store.data().limits.refused;
                let message = match classify(&error, refused, &stderr) {
                    CallFailure::Failed { class, message } => format!("{}: {message}", class.as_str()),
                    CallFailure::Fault(fault) => fault.message,
                };
                return Err(LoadError::Start { name: name(), message });
            }
            None => {
                return Err(LoadError::Start {
                    name: name(),
                    message: "it waits for something before anything is called".into(),
                });
            }
        };
        let mut fits = || -> wasmtime::Result<()> {
            self.target.fits(&mut store, &instance)?;
            self.optional.types(&mut store, &instance)
        };
        fits().map_err(|error| LoadError::World {
            name: name(),
            message: format!("{error:#}"),
        })
    }

    /// A store with all limits, and a guest to which nothing is granted.
    #[allow(clippy::disallowed_methods, reason = "a call's wall deadline is real time")]
    fn store(&self, stderr: &Stderr, now_ms: u64, deadline: Duration) -> Store<Guest> {
        let mut wasi = WasiCtx::builder();
        wasi.stdout(stderr.clone()).stderr(stderr.clone());
        wasi.wall_clock(FixedClock(now_ms)).monotonic_clock(FixedClock(0));
        wasi.secure_random(Deterministic::new(RANDOM_CYCLE.to_vec()))
            .insecure_random(Deterministic::new(RANDOM_CYCLE.to_vec()))
            .insecure_random_seed(0)
            .max_random_size(RANDOM_MAX_BYTES);
        let mut guest = Guest::new(wasi.build(), self.limits.memory_bytes, Instant::now() + deadline);
        guest.plugin.clone_from(&self.name);
        guest.now_ms = now_ms;
        let mut store = Store::new(self.pre.component().engine(), guest);
        store.limiter(|guest| &mut guest.limits);
        store.set_hostcall_fuel(self.limits.crossing_bytes);
        store.set_max_component_handles(HANDLES_MAX);
        store.data_mut().table.set_max_capacity(HANDLES_MAX);
        store
    }

    pub fn reference(&self, grants: &Digest) -> PluginRef {
        PluginRef {
            name: self.name.clone(),
            digest: self.digest.clone(),
            grants: grants.clone(),
        }
    }

    /// Pure: nothing may be sent.
    pub async fn check(&self, options: &CallOptions<'_>, subject: &Generation) -> CallReport<Report> {
        let (ctx, subject) = (options.context.clone(), subject.clone());
        self.call(options, Scope::default(), move |plugin, store, instance| {
            Box::pin(async move { plugin.target.check(store, instance, &ctx, &subject).await })
        })
        .await
    }

    /// Every page joined, under one deadline.
    pub async fn observe(&self, options: &CallOptions<'_>, workload: Option<String>) -> CallReport<Page> {
        let ctx = options.context.clone();
        let names = Names {
            target: options.context.target.clone(),
            ..Names::default()
        };
        self.call(options, Scope::reading(names), move |plugin, store, instance| {
            Box::pin(async move {
                let mut whole: Option<Page> = None;
                let mut cursor = None;
                let mut left_bytes = OBSERVED_BYTES_MAX;
                for _ in 0..OBSERVE_PAGES_MAX {
                    let page = match plugin.target.observe(store, instance, &ctx, workload.clone(), cursor).await? {
                        Ok(page) => page,
                        Err(fault) => return Ok(Err(fault)),
                    };
                    left_bytes = left_bytes
                        .checked_sub(size_of_page(&page))
                        .ok_or_else(|| TooMuch.into_error())?;
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
        let scope = Scope::mutating(options, std::iter::once(subject));
        self.mutate(options, scope, Mutation::Launch(subject.clone(), size)).await
    }

    pub async fn scale(&self, options: &CallOptions<'_>, subject: &Generation, size: u32) -> CallReport<Progress> {
        let scope = Scope::mutating(options, std::iter::once(subject));
        self.mutate(options, scope, Mutation::Scale(subject.clone(), size)).await
    }

    pub async fn route(&self, options: &CallOptions<'_>, entries: &[RouteEntry]) -> CallReport<Progress> {
        let scope = Scope::mutating(options, entries.iter().map(|entry| &entry.generation));
        self.mutate(options, scope, Mutation::Route(entries.to_vec())).await
    }

    pub async fn retire(&self, options: &CallOptions<'_>, subject: &Generation, last: bool) -> CallReport<Progress> {
        let scope = Scope::mutating(options, std::iter::once(subject));
        self.mutate(options, scope, Mutation::Retire(subject.clone(), last)).await
    }

    async fn mutate(&self, options: &CallOptions<'_>, scope: Scope, verb: Mutation) -> CallReport<Progress> {
        let ctx = options.context.clone();
        self.call(options, scope, move |plugin, store, instance| {
            Box::pin(async move { plugin.target.mutate(store, instance, &ctx, &verb).await })
        })
        .await
    }

    /// A fresh store and instance; `run` calls one export; whatever happens, it ends by the deadline.
    #[allow(clippy::disallowed_methods, reason = "a call's wall deadline is real time")]
    pub(crate) async fn call<T>(
        &self,
        options: &CallOptions<'_>,
        scope: Scope,
        run: impl for<'a> FnOnce(&'a Plugin, &'a mut Store<Guest>, &'a Instance) -> Running<'a, T>,
    ) -> CallReport<T> {
        let begun = Instant::now();
        let ended = |answer, sent| CallReport {
            answer,
            sent,
            elapsed: begun.elapsed(),
        };
        let failed = |class, message| Err(CallFailure::Failed { class, message });
        let secrets = match Secrets::new(options.secrets) {
            Ok(secrets) => secrets,
            Err(message) => return ended(failed(FailureClass::HostBug, message), Vec::new()),
        };
        // It is never closed.
        let Ok(Ok(_turn)) = tokio::time::timeout(options.deadline, self.calls.acquire()).await else {
            let message = format!("all {} calls of the plugin were in use", self.limits.calls_at_once);
            return ended(failed(FailureClass::Busy, message), Vec::new());
        };
        let deadline = options.deadline.saturating_sub(begun.elapsed());
        let stderr = Stderr::default();
        let mut store = self.store(&stderr, options.now_ms, deadline);
        let guest = store.data_mut();
        guest.binding.clone_from(&options.binding);
        guest.wants.clone_from(&self.wants);
        guest.phase = scope.phase;
        guest.names = scope.names;
        guest.secrets = Arc::new(secrets);
        if scope.phase == Phase::Mutating {
            guest.contents = Contents {
                artifacts: scope.artifacts.into(),
                source: options.artifacts.clone(),
            };
            guest.long = Some(Step {
                sends: self.long.clone(),
                plugin: self.digest.clone(),
                target: options.context.target.clone(),
                fence: options.context.fence,
            });
        }
        let mut ticks_left = (deadline.as_millis() / EPOCH_TICK.as_millis()) as u64 + 1;
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
        let guarded = AssertUnwindSafe(async {
            let instance = self.pre.instantiate_async(&mut store).await?;
            run(self, &mut store, &instance).await
        })
        .catch_unwind();
        let outcome = tokio::time::timeout(deadline, guarded).instrument(span.clone()).await;
        let answer = match outcome {
            Ok(Ok(Ok(answer))) => answer.map_err(CallFailure::Fault),
            Ok(Ok(Err(error))) => Err(classify(&error, store.data().limits.refused, &stderr)),
            // The message went to stderr; whoever waits for this call must not wait for ever.
            Ok(Err(_)) => {
                let message = "the host panicked; its own message stands before this one";
                return ended(failed(FailureClass::HostBug, message.into()), Vec::new());
            }
            Err(_) => failed(
                FailureClass::Deadline,
                format!("it did not answer within {} ms", options.deadline.as_millis()),
            ),
        };
        let guest = store.data_mut();
        let sent = std::mem::take(&mut guest.sent);
        let (dropped_lines, dropped_bytes) = (guest.dropped_lines(), stderr.dropped_bytes());
        let elapsed_ms = begun.elapsed().as_millis() as u64;
        span.in_scope(|| {
            tracing::debug!(elapsed_ms, requests = sent.len(), ok = answer.is_ok(), "plugin call ended");
            if dropped_lines > 0 || dropped_bytes > 0 {
                tracing::warn!(dropped_lines, dropped_bytes, "the plugin logged more than is kept");
            }
        });
        ended(answer, sent)
    }
}

/// What a mutating verb answered.
pub(crate) fn progress(answer: Result<wit::Progress, wit::Fault>) -> wasmtime::Result<Result<Progress, core::Fault>> {
    match answer {
        Ok(done) => convert::progress(done).map(Ok),
        Err(fault) => Ok(Err(convert::fault(fault))),
    }
}

/// What a verb about one generation may name.
pub(crate) fn names_of(options: &CallOptions<'_>, subject: &Generation) -> Names {
    Names {
        key: Some(subject.key.clone()),
        names: [subject.name.clone()].into(),
        target: options.context.target.clone(),
    }
}

/// What wasmtime says when more crosses at once than it may.
const FUEL_TEXT: &str = "fuel allocated for hostcalls has been exhausted";

/// What wasmtime says when there are more memories, tables or instances than there may be.
const COUNT_TEXT: &str = "resource limit exceeded";

/// The pages of an observation are too much together.
#[derive(Debug, thiserror::Error)]
#[error("all pages together are more than {OBSERVED_BYTES_MAX} bytes")]
struct TooMuch;

impl TooMuch {
    fn into_error(self) -> wasmtime::Error {
        wasmtime::Error::new(self)
    }
}

/// As JSON, which is about what it takes in memory.
fn size_of_page(page: &Page) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting cannot fail, and a page has nothing that JSON has not.
    let _ = serde_json::to_writer(&mut count, page);
    count.0
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
    // The rest of the chain is a backtrace without names.
    let text = error.root_cause().to_string();
    let (class, message) = match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => (FailureClass::CpuBudget, "it computed until its budget was used up".to_owned()),
        Some(Trap::StackOverflow) => (FailureClass::Stack, "it recursed too deep".to_owned()),
        // Memories and tables, counted; private like the error below, and pinned likewise.
        _ if text.contains(COUNT_TEXT) => (FailureClass::Memory, text),
        _ if memory_refused => (FailureClass::Memory, "it wanted more memory than its cap".to_owned()),
        _ if error.downcast_ref::<wasmtime_wasi::I32Exit>().is_some() => (FailureClass::Exit, "it called exit".to_owned()),
        _ if error.is::<TooManyHostCalls>() => (FailureClass::HostCalls, text),
        // The error's type is private; tests/hostile/limits.rs pins its text.
        _ if error.is::<ResumeTooLarge>() => (FailureClass::OutputSize, text),
        _ if text.contains(FUEL_TEXT) || error.is::<TooMuch>() => (
            FailureClass::OutputSize,
            "too many bytes crossed between it and the host".to_owned(),
        ),
        _ => (FailureClass::Panic, if last.is_empty() { text } else { last }),
    };
    CallFailure::Failed { class, message }
}

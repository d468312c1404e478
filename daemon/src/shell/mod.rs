//! The shell: carries inputs to the engine and its outputs to the world. One attempt for each thing, and no choices.

mod alarms;
mod answer;
mod calls;
mod metrics;
mod people;
mod pin;
mod plugins;
mod publish;
mod reload;
mod say;
mod scrub;
mod secrets;
mod source;

pub(crate) use answer::Blobs;
pub(crate) use calls::pullable;
pub use people::{People, Salts};
pub use plugins::{PluginSet, PluginsError};
use publish::Publishing;
pub use publish::PublishingError;
pub(crate) use publish::policy as witness_policy;
pub use reload::Configured;
pub(crate) use source::Trust;
pub use source::load_desired;

/// Unix milliseconds.
pub fn unix_ms() -> u64 {
    wall_ms()
}

use crate::adapters::prometheus::MetricSources;
use crate::adapters::web::WebError;
use crate::api::{ApiRequest, Query};
use crate::operator::{Operator, OperatorError};
use alarms::Alarms;
use holdfast_core::engine::{Engine, Input, Now, Output, Wish};
use holdfast_core::entry::{Body, Entry, Term};
use holdfast_core::ids::{Digest, Millis, hex};
use holdfast_core::plan::PLANNER_VERSION;
use holdfast_ledger::index::Indexer;
use holdfast_ledger::tlog::tile::TILE_WIDTH;
use holdfast_ledger::{Batch, Ledger, LedgerError, Loss, Options, Reader, Writer, load_state, state_bytes};
use holdfast_registry::Registries;
use metrics::{LedgerFigures, Metrics};
use scrub::Scrubbed;
use secrets::SecretStore;
use source::Looks;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};

/// A snapshot is written after so many entries, and at every clean stop.
const SNAPSHOT_ENTRIES: u64 = 5_000;
/// Reads at once on one target, and as many writes.
const CALLS_PER_TARGET: usize = 4;
const STOP_WAITS: Duration = Duration::from_secs(20);
/// As a shell reports a program that SIGTERM ended.
const ENDED_BY_SIGNAL: i32 = 143;

/// What the daemon is at, for whoever waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Its own first entry is not durable yet.
    Starting,
    Ready,
    /// No new effects; what is under way may end.
    Stopping,
}

impl RunState {
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Starting => "starting",
            RunState::Ready => "ready",
            RunState::Stopping => "stopping",
        }
    }
}

/// Everything that can wake the daemon.
#[allow(clippy::large_enum_variant, reason = "nearly all events are inputs")]
pub enum Event {
    Input(Input),
    Api(ApiRequest, oneshot::Sender<Result<serde_json::Value, String>>),
    /// Look at Git now.
    Poke,
    /// The operator's file changed, and is good.
    Configured(Box<Configured>),
    /// The ledger cannot be written.
    LedgerFailed(String),
    Stop,
}

#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Plugins(#[from] PluginsError),
    #[error(transparent)]
    Registry(#[from] holdfast_registry::ConfigError),
    #[error(transparent)]
    Metrics(#[from] WebError),
    #[error(transparent)]
    Git(#[from] crate::adapters::git::GitError),
    #[error("{0} (`repository.trust` of the configuration)")]
    AllowedSigners(String),
    #[error("the socket {} cannot be used", path.display())]
    Socket { path: PathBuf, source: std::io::Error },
    #[error("{address} (`listen` of the configuration) cannot be listened on")]
    Listen {
        address: std::net::SocketAddr,
        source: std::io::Error,
    },
    #[error("{what} cannot be started")]
    Start { what: &'static str, source: std::io::Error },
    #[error("the ledger stopped: {0}; nothing more was done. The daemon goes on from the ledger when it is started again")]
    LedgerStopped(String),
    #[error(transparent)]
    Publishing(#[from] PublishingError),
    #[error(
        "LEDGER_LOSS: {}, at byte {} of {}: entries from {} on were acknowledged and are not whole; `holdfast ledger verify` says more. Restore a backup, or give them up by `holdfast ledger new-epoch --from {}`",
        .0.what, .0.offset, .0.file, .0.first_damaged_seq, .0.first_damaged_seq
    )]
    Loss(Loss),
}

/// What tasks beside the loop need.
#[derive(Clone)]
pub(crate) struct World {
    pub events: mpsc::UnboundedSender<Event>,
    pub operator: Arc<Operator>,
    pub plugins: Arc<PluginSet>,
    pub registries: Arc<Registries>,
    pub metrics: Arc<MetricSources>,
    pub secrets: Arc<SecretStore>,
    pub blobs: Blobs,
    pub owner: String,
    pub call_deadline: Duration,
    pub targets: Arc<std::sync::Mutex<BTreeMap<String, calls::Turns>>>,
}

struct Shell {
    engine: Engine,
    writer: Writer,
    world: World,
    waiting_replies: BTreeMap<u64, oneshot::Sender<Result<serde_json::Value, String>>>,
    next_token: u64,
    clock: LedgerClock,
    snapshot_at: u64,
    run_state: RunState,
    tell: fn(RunState),
    in_flight: usize,
    index: Indexer,
    publishing: Option<Publishing>,
    alarms: Alarms,
    scrubbed: Arc<Scrubbed>,
    reader: Reader,
    poke: mpsc::Sender<()>,
    /// The rewritten tip that may be taken, for the source.
    accepted: watch::Sender<Option<String>>,
    looks: Arc<Looks>,
    metrics: Metrics,
    salts: Salts,
    /// Addresses to be erased when the command that says so is durable, by its token.
    forgetting: BTreeMap<u64, String>,
    people: watch::Sender<Arc<People>>,
}

/// Ledger time goes on from the last entry and stands still while the daemon is down.
struct LedgerClock {
    base: Millis,
    begun: Instant,
}

impl LedgerClock {
    #[allow(clippy::disallowed_methods, reason = "the Clock adapter")]
    fn start(base: Millis) -> Self {
        Self {
            base,
            begun: Instant::now(),
        }
    }
    fn t(&self) -> Millis {
        self.base + self.begun.elapsed().as_millis() as u64
    }
    fn now(&self) -> Now {
        Now {
            t: self.t(),
            wall_ms: wall_ms(),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the Clock adapter")]
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64)
}

/// 8 of a-z0-9, made once for a ledger.
fn new_owner(seed: &[u8]) -> String {
    let digest = Digest::of(seed);
    digest.hex()[..8].to_owned()
}

/// Runs the daemon until it is told to stop or cannot go on. `tell` hears of every change of what it is at.
pub async fn run(operator: Operator, config_bytes: &[u8], tell: fn(RunState)) -> Result<(), ShellError> {
    let dir = operator.ledger_dir();
    let options = Options {
        log_keys: publish::log_key(&operator)?.into_iter().collect(),
        ..Options::default()
    };
    let (mut ledger, boot) = Ledger::open(&dir, options)?;
    if let Some(loss) = &boot.loss {
        tracing::error!(
            first_damaged = loss.first_damaged_seq,
            file = loss.file,
            what = loss.what,
            "LEDGER_LOSS"
        );
        return Err(ShellError::Loss(loss.clone()));
    }
    if boot.cut_bytes > 0 {
        tracing::warn!(cut_bytes = boot.cut_bytes, "an unacknowledged tail of the ledger was cut");
    }
    for ignored in &boot.ignored {
        tracing::warn!(ignored, "damaged, and not needed");
    }
    let (state, _) = load_state(&mut ledger)?;
    let operator = Arc::new(operator);
    let reader = ledger.reader();
    let blobs = Blobs::new(reader.clone());
    let (plugins, seen) = PluginSet::load(&operator, blobs.clone(), state.accepted_plugins.clone())?;
    let plugins = Arc::new(plugins);
    let registries = Arc::new(Registries::new(&operator.registries)?);
    let salting = |source| ShellError::Start {
        what: "the salts of e-mail addresses",
        source,
    };
    let salts = Salts::load(&operator.data.join("author.salts")).map_err(salting)?;
    let index = Indexer::spawn(&dir.join("index"), reader.clone()).map_err(|source| ShellError::Start {
        what: "the index",
        source,
    })?;
    index.wake();
    let (events, inbox) = mpsc::unbounded_channel();
    let alarms = Alarms::default();
    let publishing = publish::start(&operator, reader.clone(), &state, boot.epoch, alarms.clone(), events.clone())?;
    let signing = publishing.as_ref().map(|publishing| publishing.signing.subscribe());
    let scrubbed = scrub::spawn(reader.clone(), signing.clone(), alarms.clone(), events.clone());
    let scrubbed = scrubbed.map_err(|source| ShellError::Start {
        what: "the ledger's scrub",
        source,
    })?;
    let owner = if state.owner.is_empty() {
        new_owner(format!("{}{}{}", wall_ms(), std::process::id(), dir.display()).as_bytes())
    } else {
        state.owner.clone()
    };
    let term = Term {
        binary: env!("CARGO_PKG_VERSION").into(),
        planner: PLANNER_VERSION,
        config: Digest::of(config_bytes),
        previous_size: boot.size,
        previous_root: hex(&boot.root),
        clean: boot.clean,
        epoch: boot.epoch,
        owner: owner.clone(),
    };
    let socket = operator.socket();
    let (people, known_people) = watch::channel(Arc::new(People::new(&operator, &salts).map_err(salting)?));
    let api = crate::api::serve(&socket, events.clone(), known_people).map_err(|source| ShellError::Socket {
        path: socket.clone(),
        source,
    })?;
    let world = World {
        events: events.clone(),
        operator: operator.clone(),
        plugins: plugins.clone(),
        registries,
        metrics: Arc::new(MetricSources::new(&operator.metrics.sources)?),
        secrets: Arc::new(SecretStore::new(operator.secrets.clone())),
        blobs,
        owner,
        call_deadline: call_deadline(&operator),
        targets: Arc::default(),
    };
    let engine = Engine::new(operator.engine_config(plugins.digests(), plugins.upgrades())?, state);
    let clock = LedgerClock::start(engine.state().t);
    let snapshot_at = engine.state().size + SNAPSHOT_ENTRIES;
    let (poke, pokes) = mpsc::channel(1);
    let writer = Writer::spawn(ledger).map_err(|source| ShellError::Start {
        what: "the ledger's writer",
        source,
    })?;
    let source = engine.state().source.as_ref();
    let known = source.map(|head| head.commit.clone());
    let (accepted, accepted_tip) = watch::channel(source.and_then(|head| head.accepted.clone()));
    let looks = Arc::<Looks>::default();
    let mut shell = Shell {
        metrics: Metrics::new(engine.state()),
        engine,
        writer,
        world,
        waiting_replies: BTreeMap::new(),
        next_token: 1,
        clock,
        snapshot_at,
        run_state: RunState::Starting,
        tell,
        in_flight: 0,
        index,
        publishing,
        alarms,
        scrubbed,
        reader,
        poke,
        accepted,
        looks: looks.clone(),
        salts: salts.clone(),
        forgetting: BTreeMap::new(),
        people,
    };
    let known_people = shell.people.subscribe();
    shell.input(Input::Boot(term));
    shell.input(Input::PluginsSeen(seen));
    let source = source::spawn(source::Start {
        repository: operator.repository.clone(),
        mirror: operator.data.join("git"),
        salts,
        people: known_people,
        known,
        accepted: accepted_tip,
        pokes,
        events: events.clone(),
        looks,
    })?;
    let http = match operator.listen {
        Some(address) => Some(listen(address, &events).await?),
        None => None,
    };
    let reload = reload::spawn(operator, plugins, signing, events.clone());
    let signals = stop_on_signal(events)?;
    let outcome = shell.run(inbox).await;
    signals.abort();
    reload.abort();
    http.inspect(tokio::task::AbortHandle::abort);
    source.abort();
    api.abort();
    let _ = std::fs::remove_file(&socket);
    if outcome.is_ok() {
        shell.snapshot();
    }
    shell.writer.close()?;
    // Publishes the last entries.
    drop(shell.publishing.take());
    outcome
}

fn call_deadline(operator: &Operator) -> Duration {
    Duration::from_millis(operator.limits.call_deadline_ms)
}

async fn listen(
    address: std::net::SocketAddr,
    events: &mpsc::UnboundedSender<Event>,
) -> Result<tokio::task::AbortHandle, ShellError> {
    let serving = crate::http::serve(address, events.clone()).await;
    let (address, task) = serving.map_err(|source| ShellError::Listen { address, source })?;
    tracing::info!(%address, "health and metrics are served");
    Ok(task)
}

fn stop_on_signal(events: mpsc::UnboundedSender<Event>) -> Result<tokio::task::JoinHandle<()>, ShellError> {
    use tokio::signal::unix::{SignalKind, signal};
    let start = |kind| {
        signal(kind).map_err(|source| ShellError::Start {
            what: "signal handling",
            source,
        })
    };
    let (mut terminate, mut interrupt) = (start(SignalKind::terminate())?, start(SignalKind::interrupt())?);
    Ok(tokio::spawn(async move {
        for code in [None, Some(ENDED_BY_SIGNAL)] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if let Some(code) = code {
                tracing::warn!("told to stop twice: ending at once; the next start goes on from the ledger");
                std::process::exit(code);
            }
            let _ = events.send(Event::Stop);
        }
    }))
}

impl Shell {
    #[allow(clippy::disallowed_methods, reason = "a stop waits in real time")]
    async fn run(&mut self, mut inbox: mpsc::UnboundedReceiver<Event>) -> Result<(), ShellError> {
        let mut deadline: Option<tokio::time::Instant> = None;
        loop {
            let stopping = self.run_state == RunState::Stopping;
            if stopping && self.in_flight == 0 && self.engine.durable() >= self.engine.state().size {
                return Ok(());
            }
            // The first entry of this run is its own.
            if self.run_state == RunState::Starting && self.engine.durable() > self.engine.state().term {
                self.enter(RunState::Ready);
            }
            let sleep = self.engine.next_wake().map_or(Duration::from_secs(3600), |t| {
                Duration::from_millis(t.saturating_sub(self.clock.t()).max(1))
            });
            let stop_at = deadline.unwrap_or_else(|| tokio::time::Instant::now() + Duration::from_secs(3600));
            // Cancel-safe: receiving takes an event only when this arm is the one that completes.
            tokio::select! {
                event = inbox.recv() => match event {
                    Some(Event::Stop) => {
                        tracing::info!(entries = self.engine.state().size, "stopping: no new effects; calls in flight may end");
                        let outputs = self.engine.stop(self.clock.now());
                        outputs.into_iter().for_each(|output| self.carry(output));
                        self.enter(RunState::Stopping);
                        deadline = Some(tokio::time::Instant::now() + STOP_WAITS);
                    }
                    Some(Event::LedgerFailed(message)) => return Err(ShellError::LedgerStopped(message)),
                    Some(event) => self.take(event),
                    None => return Ok(()),
                },
                () = tokio::time::sleep(sleep), if !stopping => self.input(Input::Tick),
                () = tokio::time::sleep_until(stop_at), if deadline.is_some() => {
                    tracing::warn!(in_flight = self.in_flight, "calls did not end in time; the next start takes them up again");
                    return Ok(());
                }
            }
        }
    }

    fn enter(&mut self, state: RunState) {
        self.run_state = state;
        (self.tell)(state);
    }

    fn take(&mut self, event: Event) {
        match event {
            // What else comes in would only make new work; the next start asks again.
            Event::Input(input)
                if self.run_state == RunState::Stopping && !matches!(input, Input::Called { .. } | Input::Durable { .. }) => {}
            Event::Input(input) => {
                if matches!(input, Input::Called { .. }) {
                    self.in_flight = self.in_flight.saturating_sub(1);
                }
                self.input(input);
            }
            Event::Api(request, reply) => self.api(request, reply),
            Event::Poke => {
                // A poke that is already waiting is enough.
                let _ = self.poke.try_send(());
            }
            Event::Configured(configured) => self.configure(*configured),
            Event::LedgerFailed(_) | Event::Stop => {}
        }
    }

    /// Tasks in flight keep the configuration that they began with.
    fn configure(&mut self, configured: Configured) {
        let Configured {
            operator,
            plugins,
            seen,
            registries,
            metrics,
            secrets,
            engine,
        } = configured;
        match People::new(&operator, &self.salts) {
            Ok(people) => drop(self.people.send_replace(Arc::new(people))),
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the salts of e-mail addresses cannot be used; the `users` from before go on"
            ),
        }
        self.world.call_deadline = call_deadline(&operator);
        self.world.operator = operator;
        self.world.plugins = plugins;
        self.world.registries = registries;
        self.world.metrics = metrics;
        self.world.secrets = secrets;
        self.engine.configure(engine);
        self.input(Input::PluginsSeen(seen));
        tracing::info!("the changed configuration is taken");
    }

    fn input(&mut self, input: Input) {
        let outputs = self.engine.handle(self.clock.now(), input);
        for output in outputs {
            self.carry(output);
        }
        let accepted = self.engine.state().source.as_ref().and_then(|head| head.accepted.as_ref());
        if self.accepted.borrow().as_ref() != accepted {
            self.accepted.send_replace(accepted.cloned());
        }
        self.world.plugins.accept(&self.engine.state().accepted_plugins);
        if self.engine.state().size >= self.snapshot_at {
            self.snapshot_at = self.engine.state().size + SNAPSHOT_ENTRIES;
            self.snapshot();
        }
    }

    /// State as of everything submitted so far: the end of the last batch.
    fn snapshot(&self) {
        match state_bytes(self.engine.state()) {
            Ok(body) => self.writer.snapshot(self.engine.state().size, body, |outcome| {
                if let Err(error) = outcome {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "snapshot not written; the next start folds more"
                    );
                }
            }),
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "State cannot be written down"),
        }
    }

    fn carry(&mut self, output: Output) {
        match output {
            Output::Append { entries, blobs } => self.append(entries, blobs),
            Output::Ask(ask) => {
                if self.run_state != RunState::Stopping {
                    calls::ask(&self.world, &self.engine, ask);
                }
            }
            Output::LoadImages { blob } => answer::load_images(&self.world, self.engine.state(), blob),
            Output::Call(call) => {
                // Its intent is open in the ledger: the next start issues it again.
                if self.run_state != RunState::Stopping {
                    self.in_flight += 1;
                    calls::call(&self.world, &self.engine, call);
                }
            }
            Output::Reply { token, reply } => {
                let mut reply = match reply {
                    Ok(reply) => Ok(serde_json::to_value(reply).unwrap_or_default()),
                    Err(refusal) => Err(refusal.message),
                };
                // The command is durable by now: whoever asks sees it before the salt is gone.
                if let (Some(address), Ok(_)) = (self.forgetting.remove(&token), &reply)
                    && let Err(error) = self.salts.forget(&address)
                {
                    reply = Err(format!(
                        "the command is written down, and the salt could not be erased: {error}; give it again"
                    ));
                }
                if let Some(sender) = self.waiting_replies.remove(&token) {
                    // Whoever asked may have gone away; the command stands.
                    let _ = sender.send(reply);
                }
            }
        }
    }

    fn append(&mut self, entries: Vec<Entry>, blobs: Vec<(Digest, Vec<u8>)>) {
        for entry in &entries {
            say::entry(entry, self.engine.state().epoch);
            self.metrics.entry(entry);
            match (&entry.body, &mut self.publishing) {
                (Body::LogKey(_), Some(publishing)) => publishing.change_key(entry.seq),
                (Body::Retention(retention), Some(publishing)) => {
                    publishing.publisher.retention().keep_from(entry.seq, retention.bundles_from);
                }
                _ => {}
            }
        }
        let (events, index) = (self.world.events.clone(), self.index.clone());
        let publisher = self.publishing.as_ref().map(|publishing| publishing.publisher.clone());
        let blobs = blobs.into_iter().map(|(digest, bytes)| (digest, bytes.into())).collect();
        self.writer.submit(Batch { entries, blobs }, move |outcome| {
            let event = match outcome {
                Ok(committed) => {
                    index.wake();
                    publisher.iter().for_each(|publisher| publisher.wake());
                    Event::Input(Input::Durable { size: committed.size })
                }
                Err(error) => Event::LedgerFailed(alarms::said(&error)),
            };
            let _ = events.send(event);
        });
    }

    fn api(&mut self, request: ApiRequest, reply: oneshot::Sender<Result<serde_json::Value, String>>) {
        match request.query {
            Query::Sync | Query::Command(_) if self.run_state == RunState::Stopping => {
                let message = "the daemon is stopping and takes no commands; give it again when it runs";
                let _ = reply.send(Err(message.into()));
            }
            Query::Status => {
                let mut view = holdfast_core::view::status(&self.engine);
                view.state = self.run_state.as_str().into();
                view.ledger_alarms = self.alarms.open().into_values().collect();
                let (index, reader) = (self.index.clone(), self.reader.clone());
                // Whoever asked may have gone away.
                tokio::task::spawn_blocking(move || {
                    answer::fill(&mut view, &index, &reader);
                    drop(reply.send(serde_json::to_value(view).map_err(|error| error.to_string())));
                });
            }
            Query::Sync => {
                let _ = self.poke.try_send(());
                let _ = reply.send(Ok(serde_json::json!({ "message": "looking at Git now" })));
            }
            Query::Ready => {
                let _ = reply.send(self.ready().map(Into::into).map_err(Into::into));
            }
            Query::Metrics => {
                let text = self
                    .metrics
                    .text(&self.engine, &self.looks, &self.ledger_figures(), wall_ms());
                let _ = reply.send(Ok(text.into()));
            }
            Query::State => {
                let _ = reply.send(serde_json::to_value(self.engine.state()).map_err(|error| error.to_string()));
            }
            Query::Ledger(question) => {
                let (index, reader) = (self.index.clone(), self.reader.clone());
                // Whoever asked may have gone away.
                tokio::task::spawn_blocking(move || drop(reply.send(answer::ledger(&index, &reader, question))));
            }
            Query::Command(mut command) => {
                let token = self.next_token;
                if let Err(refusal) = self.prepare(token, &mut command.wish) {
                    let _ = reply.send(Err(refusal));
                    return;
                }
                self.next_token += 1;
                self.waiting_replies.insert(token, reply);
                self.input(Input::Command {
                    token,
                    request: *command,
                });
            }
        }
    }
}

impl Shell {
    fn ledger_figures(&self) -> LedgerFigures<'_> {
        LedgerFigures {
            sizes: self.publishing.as_ref().map(|publishing| &*publishing.sizes),
            scrubbed: &self.scrubbed,
            alarms: self.alarms.open().into_keys().collect(),
        }
    }

    /// What the engine cannot check of a command about the ledger itself.
    fn prepare(&mut self, token: u64, wish: &mut Wish) -> Result<(), String> {
        match (wish, &mut self.publishing) {
            (Wish::RotateLogKey { note, key_file }, Some(publishing)) => {
                publishing.prepare(note, Path::new(key_file), &self.world.operator.data)
            }
            (Wish::RotateLogKey { .. }, None) => Err("the log has no key: name one under `ledger.key_file` first".into()),
            (Wish::PruneBundles { below, .. }, Some(_)) if *below % TILE_WIDTH != 0 || *below > self.reader.size() => {
                Err(format!(
                    "bundles have {TILE_WIDTH} entries each: {below} is no multiple of that, or there are not so many entries"
                ))
            }
            (Wish::PruneBundles { .. }, None) => Err("the log is not published: there are no bundles".into()),
            (Wish::ForgetAddress { address }, _) => {
                let same = |email: &String| email.trim().eq_ignore_ascii_case(address.trim());
                if self.world.operator.users.values().any(|user| user.emails.iter().any(same)) {
                    return Err("`users` of the configuration names this address: take it out there first".into());
                }
                let known = self.salts.known(address);
                let hash = known.ok_or("the ledger has no hash of this address, or it is forgotten")?;
                self.forgetting.insert(token, std::mem::replace(address, hash));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whoever asks gets an answer only from a loop whose ledger could be written: it ends with the ledger.
    fn ready(&self) -> Result<&'static str, &'static str> {
        if self.run_state == RunState::Stopping {
            Err("the daemon is stopping")
        } else if self.looks.good_ms.load(Ordering::Relaxed) == 0 {
            Err("the repository was not read yet")
        } else {
            Ok("ready\n")
        }
    }
}

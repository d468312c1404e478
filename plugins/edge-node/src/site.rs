//! The site: what is recorded, what runs, and every effect on it. All changes go through one lock, are journalled and
//! saved before they act, and repeat harmlessly. Requests never wait for the disk: what they read has a lock of its own.

use crate::bundle::{Loaded, Store, Trouble};
use crate::component;
use crate::jobs::JobAtWork;
use crate::journal::{Journal, JournalLine};
use crate::output::Output;
use crate::record::{Generation, SiteRecord, WorkloadRecord};
use crate::server::{self, Stop};
use crate::traffic::{Counters, Split};
use crate::{ArtifactSource, EdgeNodeConfig, EdgeNodeError};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub const FULL: u32 = 10_000;
const GENERATIONS_MAX: usize = 64;
const RETRY_PULL: Duration = Duration::from_secs(2);

/// A refusal, by class. The class is what a client decides by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// This higher fence was seen.
    Fenced(u64),
    Conflict(String),
    Absent(String),
    Invalid(String),
    Exhausted(String),
    /// The release's own job failed.
    Failed(String),
    /// Nothing was done, and it may work later.
    Unavailable(String),
    /// The disk failed.
    Internal(String),
}

/// Done, or ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    Done,
    Pending,
}

/// Who asks, and under which fence.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Writer {
    pub owner: String,
    pub fence: u64,
    pub deploy_id: String,
}

/// What a generation is doing now; gone with the process.
pub struct Live {
    pub status: Mutex<Status>,
    pub counters: Counters,
    pub output: Output,
    /// The address of its own, while it has one, and what ends it.
    listening: Mutex<Option<(SocketAddr, Stop)>>,
}

impl Live {
    pub fn address(&self) -> Option<SocketAddr> {
        lock(&self.listening).as_ref().map(|(address, _)| *address)
    }

    /// Gives the address back; requests in flight end.
    fn close(&self) {
        if let Some((_, stop)) = lock(&self.listening).take() {
            stop.stop();
        }
    }
}

#[derive(Clone)]
pub enum Status {
    Pulling,
    Ready(Arc<Loaded>),
    Stuck(String),
    Failing(String),
    Parked,
    Draining,
}

pub struct Site {
    dir: PathBuf,
    instance_ip: IpAddr,
    /// How many generations may run at once; none: no limit.
    max_instances: Option<u32>,
    /// Whoever holds it may change the record and is the only one; taken before `inner`.
    journal: Mutex<Journal>,
    /// Never held while the disk works.
    pub(crate) inner: Mutex<Inner>,
    pub(crate) store: Store,
}

pub(crate) struct Inner {
    pub record: Arc<SiteRecord>,
    live: BTreeMap<(String, u32), Arc<Live>>,
    splits: BTreeMap<String, Arc<Split>>,
    /// Jobs at work in this process, by key and name.
    pub jobs: BTreeMap<(String, String), Arc<JobAtWork>>,
}

impl Inner {
    /// Whether this owner may change this workload under this fence.
    pub fn admit(&self, key: &str, writer: &Writer) -> Result<(), Refused> {
        if let Some(owner) = self.record.owner.as_ref().filter(|owner| **owner != writer.owner) {
            return Err(Refused::Conflict(format!("the site belongs to owner {owner}")));
        }
        match self.record.fences.get(key) {
            Some(fence) if writer.fence < *fence => Err(Refused::Fenced(*fence)),
            _ => Ok(()),
        }
    }

    fn running(&self) -> u32 {
        let all = self
            .record
            .workloads
            .values()
            .flat_map(|workload| workload.generations.values());
        u32::try_from(all.filter(|generation| generation.size > 0).count()).unwrap_or(u32::MAX)
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn internal(error: EdgeNodeError) -> Refused {
    let cause = std::error::Error::source(&error)
        .map(|source| format!(": {source}"))
        .unwrap_or_default();
    Refused::Internal(format!("{error}{cause}"))
}

impl Site {
    pub fn open(config: &EdgeNodeConfig, source: Arc<dyn ArtifactSource>) -> Result<Arc<Self>, EdgeNodeError> {
        std::fs::create_dir_all(&config.dir).map_err(|source| EdgeNodeError::File {
            path: config.dir.clone(),
            source,
        })?;
        let record = SiteRecord::load(&config.dir.join("state.json"))?;
        let journal = Journal::open(&config.dir.join("journal.jsonl"))?;
        let engine = component::engine().map_err(|error| EdgeNodeError::Engine(format!("{error:#}")))?;
        let splits = record
            .workloads
            .iter()
            .map(|(key, workload)| (key.clone(), Arc::new(Split::new(&workload.shares))))
            .collect();
        let store = Store::new(&config.dir, source, engine, config.bundle_max_bytes);
        let inner = Inner {
            record: Arc::new(record),
            live: BTreeMap::new(),
            splits,
            jobs: BTreeMap::new(),
        };
        Ok(Arc::new(Self {
            dir: config.dir.clone(),
            instance_ip: config.instance_ip,
            max_instances: config.max_instances,
            journal: Mutex::new(journal),
            inner: Mutex::new(inner),
            store,
        }))
    }

    /// Starts what was running before, and serves it before anything else is accepted.
    pub async fn resume(self: &Arc<Self>, stop: &Stop) {
        let all: Vec<(String, u32)> = {
            let inner = lock(&self.inner);
            inner
                .record
                .workloads
                .iter()
                .flat_map(|(key, workload)| workload.generations.keys().map(|n| (key.clone(), *n)))
                .collect()
        };
        for (key, number) in all {
            self.start(&key, number, stop).await;
        }
    }

    pub fn record(&self) -> Arc<SiteRecord> {
        lock(&self.inner).record.clone()
    }

    pub fn live(&self, key: &str, number: u32) -> Option<Arc<Live>> {
        lock(&self.inner).live.get(&(key.to_owned(), number)).cloned()
    }

    /// The workload that a request is for: by Host, else by the first part of the path, else the only one.
    pub fn route(&self, host: Option<&str>, path: &str) -> Option<(String, Arc<Split>)> {
        let inner = lock(&self.inner);
        let host = host.map(|host| host.split(':').next().unwrap_or(host));
        let wants = |workload: &WorkloadRecord| {
            let number = workload
                .shares
                .iter()
                .max_by_key(|(_, live)| **live)
                .map(|(number, _)| number);
            number
                .and_then(|number| workload.generations.get(number))
                .and_then(|generation| generation.template.host.clone())
        };
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let workloads = &inner.record.workloads;
        let by_host = workloads
            .iter()
            .find(|(_, workload)| host.is_some() && wants(workload).as_deref() == host)
            .map(|(key, _)| key);
        let by_path = || workloads.keys().find(|key| *key == first);
        let only = || if workloads.len() == 1 { workloads.keys().next() } else { None };
        let key = by_host.or_else(by_path).or_else(only)?;
        Some((key.clone(), inner.splits.get(key)?.clone()))
    }

    /// Checks owner and fence, then applies `change` to a copy; journals, saves, and only then makes it so.
    pub(crate) fn change<T>(
        &self,
        key: &str,
        writer: &Writer,
        line: JournalLine,
        change: impl FnOnce(&mut WorkloadRecord, Room) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let mut journal = lock(&self.journal);
        let (before, room) = {
            let inner = lock(&self.inner);
            inner.admit(key, writer)?;
            let room = Room {
                limit: self.max_instances,
                running: inner.running(),
            };
            (inner.record.clone(), room)
        };
        let mut record = SiteRecord::clone(&before);
        record.owner = Some(writer.owner.clone());
        record.fences.insert(key.to_owned(), writer.fence);
        let outcome = change(record.workloads.entry(key.to_owned()).or_default(), room)?;
        record
            .workloads
            .retain(|_, workload| !workload.generations.is_empty() || !workload.shares.is_empty() || !workload.jobs.is_empty());
        journal.write(&line).map_err(internal)?;
        tracing::info!(
            verb = line.verb,
            workload = key,
            generation = line.generation,
            deploy = writer.deploy_id,
            fence = writer.fence,
            "effect"
        );
        if record != *before {
            self.save(&record)?;
        }
        let mut inner = lock(&self.inner);
        match record.workloads.get(key).map(|workload| &workload.shares) {
            Some(shares) => match inner.splits.get(key) {
                Some(split) => split.set(shares),
                None => drop(inner.splits.insert(key.to_owned(), Arc::new(Split::new(shares)))),
            },
            None => drop(inner.splits.remove(key)),
        }
        inner.record = Arc::new(record);
        Ok(outcome)
    }

    /// Changes the record outside of an effect: `set` says what goes into the journal, if anything.
    pub(crate) fn amend(&self, set: impl FnOnce(&mut SiteRecord) -> Option<JournalLine>) -> Result<(), Refused> {
        let mut journal = lock(&self.journal);
        let before = self.record();
        let mut record = SiteRecord::clone(&before);
        let line = set(&mut record);
        if record == *before {
            return Ok(());
        }
        self.save(&record)?;
        lock(&self.inner).record = Arc::new(record);
        // The state is what counts; a line that the disk does not take is missing from the evidence, no more.
        if let Some(line) = line
            && let Err(error) = journal.append(&line)
        {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "an effect's end is not in the journal"
            );
        }
        Ok(())
    }

    pub async fn launch(
        self: &Arc<Self>,
        key: &str,
        number: u32,
        writer: &Writer,
        workload: &str,
        wanted: Generation,
        stop: &Stop,
    ) -> Result<Done, Refused> {
        if let Some(problem) = wanted.template.problem() {
            return Err(Refused::Invalid(problem));
        }
        let line = line("launch", key, Some(number), writer);
        self.change(key, writer, line, |record, room| {
            record.workload = workload.to_owned();
            let full = record.generations.len() >= GENERATIONS_MAX;
            match record.generations.get_mut(&number) {
                Some(known) if known.release_id != wanted.release_id => Err(Refused::Conflict(format!(
                    "generation {number} is of release {}",
                    known.release_id
                ))),
                Some(known) => {
                    room.for_one_more(known.size, wanted.size)?;
                    known.size = wanted.size;
                    known.fence = writer.fence;
                    Ok(())
                }
                None if full => Err(Refused::Exhausted(format!(
                    "{GENERATIONS_MAX} generations of this workload are on the site already"
                ))),
                None => {
                    room.for_one_more(0, wanted.size)?;
                    record.generations.insert(number, wanted);
                    Ok(())
                }
            }
        })?;
        self.start(key, number, stop).await;
        let pulling = self
            .live(key, number)
            .is_some_and(|live| matches!(*lock(&live.status), Status::Pulling));
        Ok(if pulling { Done::Pending } else { Done::Done })
    }

    pub async fn size(
        self: &Arc<Self>,
        key: &str,
        number: u32,
        writer: &Writer,
        size: u32,
        stop: &Stop,
    ) -> Result<Done, Refused> {
        self.change(key, writer, line("size", key, Some(number), writer), |record, room| {
            let live = record.shares.get(&number).copied().unwrap_or(0);
            let generation = record.generations.get_mut(&number).ok_or_else(|| absent(number))?;
            if size == 0 && live > 0 {
                return Err(Refused::Conflict(format!(
                    "generation {number} has a share of {live}/10000; route it away first"
                )));
            }
            room.for_one_more(generation.size, size)?;
            generation.size = size.min(1);
            generation.fence = writer.fence;
            Ok(())
        })?;
        if size == 0 {
            if let Some(live) = self.live(key, number) {
                *lock(&live.status) = Status::Parked;
                live.close();
            }
        } else {
            self.start(key, number, stop).await;
        }
        Ok(Done::Done)
    }

    pub fn set_route(&self, key: &str, writer: &Writer, shares: BTreeMap<u32, u32>) -> Result<Done, Refused> {
        let sum: u64 = shares.values().map(|live| u64::from(*live)).sum();
        if sum != 0 && sum != u64::from(FULL) {
            return Err(Refused::Invalid(format!(
                "shares sum to {sum}; they must sum to {FULL}, or to 0 for off line"
            )));
        }
        let live: BTreeMap<u32, u32> = shares
            .iter()
            .filter(|(_, live)| **live > 0)
            .map(|(number, live)| (*number, *live))
            .collect();
        let mut line = line("route", key, None, writer);
        line.shares = shares;
        self.change(key, writer, line, |record, _| {
            for number in live.keys() {
                let generation = record.generations.get(number).ok_or_else(|| absent(*number))?;
                if generation.size == 0 {
                    return Err(Refused::Conflict(format!("generation {number} is parked")));
                }
            }
            record.shares = live;
            record.route_fence = writer.fence;
            Ok(Done::Done)
        })
    }

    pub fn retire(&self, key: &str, number: u32, writer: &Writer, last: bool) -> Result<Done, Refused> {
        let Some(known) = self
            .record()
            .workloads
            .get(key)
            .and_then(|workload| workload.generations.get(&number))
            .cloned()
        else {
            self.forget_jobs(key, number, writer)?;
            return Ok(Done::Done);
        };
        let live = self.live(key, number);
        // First out of the split, so that what drains does not fill up again.
        self.change(key, writer, line("retire", key, Some(number), writer), |record, _| {
            let share = record.shares.get(&number).copied().unwrap_or(0);
            if share > 0 && !last {
                return Err(Refused::Conflict(format!(
                    "generation {number} still has a share of {share}/10000"
                )));
            }
            record.shares.remove(&number);
            Ok(())
        })?;
        if let Some(live) = &live {
            *lock(&live.status) = Status::Draining;
            if live.counters.in_flight() > 0 && live.counters.draining_ms() < u64::from(known.drain_ms) {
                return Ok(Done::Pending);
            }
            live.close();
        }
        self.forget_jobs(key, number, writer)?;
        self.change(key, writer, line("retire", key, Some(number), writer), |record, _| {
            record.generations.remove(&number);
            if last && record.generations.is_empty() {
                record.shares.clear();
            }
            Ok(())
        })?;
        let needed = {
            let mut inner = lock(&self.inner);
            inner.live.remove(&(key.to_owned(), number));
            let running = inner.live.values().flat_map(|live| match &*lock(&live.status) {
                Status::Ready(loaded) => loaded.digests.clone(),
                _ => Vec::new(),
            });
            let recorded = inner.record.workloads.values().flat_map(|w| {
                w.generations
                    .values()
                    .flat_map(|g| g.blobs.iter().chain([&g.digest]).cloned())
            });
            recorded.chain(running).collect::<BTreeSet<_>>()
        };
        self.store.keep_only(&needed);
        Ok(Done::Done)
    }

    /// Brings a recorded generation to life, if it is not: its own address first, then the bundle in the background.
    async fn start(self: &Arc<Self>, key: &str, number: u32, stop: &Stop) {
        let (generation, live) = {
            let mut inner = lock(&self.inner);
            let Some(generation) = inner
                .record
                .workloads
                .get(key)
                .and_then(|w| w.generations.get(&number))
                .cloned()
            else {
                return;
            };
            let id = (key.to_owned(), number);
            let live = inner.live.entry(id).or_insert_with(|| {
                Arc::new(Live {
                    status: Mutex::new(Status::Parked),
                    counters: Counters::default(),
                    output: Output::default(),
                    listening: Mutex::new(None),
                })
            });
            (generation, live.clone())
        };
        if generation.size == 0 {
            return;
        }
        {
            let mut status = lock(&live.status);
            if !matches!(*status, Status::Parked) {
                return;
            }
            *status = Status::Pulling;
        }
        if live.address().is_none() {
            self.listen(key, number, &generation, &live, stop.child()).await;
        }
        let site = self.clone();
        let key = key.to_owned();
        let task = async move {
            loop {
                let outcome = site.store.load(&generation, live.output.clone()).await;
                let next = match outcome {
                    Ok(loaded) => Status::Ready(Arc::new(loaded)),
                    Err(Trouble::Bundle(message)) => Status::Failing(message),
                    Err(Trouble::Pull(message)) => Status::Stuck(message),
                };
                let stuck = matches!(next, Status::Stuck(_));
                if let Status::Ready(loaded) = &next {
                    site.remember(&key, number, |known| known.blobs.clone_from(&loaded.digests));
                }
                {
                    let mut status = lock(&live.status);
                    if !matches!(*status, Status::Pulling | Status::Stuck(_)) {
                        return;
                    }
                    if let Status::Stuck(message) | Status::Failing(message) = &next {
                        live.output.line(message);
                        tracing::warn!(
                            workload = key,
                            generation = number,
                            deploy = generation.deploy_id,
                            detail = message,
                            "bundle does not run"
                        );
                    }
                    *status = next;
                }
                if !stuck {
                    return;
                }
                tokio::time::sleep(RETRY_PULL).await;
            }
        };
        tokio::spawn(task);
    }

    /// Each generation answers on an address of its own, with traffic or without.
    async fn listen(self: &Arc<Self>, key: &str, number: u32, generation: &Generation, live: &Arc<Live>, stop: Stop) {
        let wanted = SocketAddr::new(self.instance_ip, generation.port);
        let listener = match server::bind(wanted).await {
            Ok(listener) => listener,
            // Somebody took the port meanwhile; any other will do.
            Err(_) => match server::bind(SocketAddr::new(self.instance_ip, 0)).await {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "a generation has no address of its own"
                    );
                    return;
                }
            },
        };
        let Ok(address) = listener.local_addr() else { return };
        *lock(&live.listening) = Some((address, stop.clone()));
        self.remember(key, number, |known| known.port = address.port());
        let (number, live) = (number, live.clone());
        let handler = crate::traffic::instance_handler(number, generation.clone(), live.clone());
        tokio::spawn(server::serve(listener, None, stop, handler));
    }

    /// Keeps something of a generation over restarts that is not an effect; where the disk fails, it is found out anew.
    fn remember(&self, key: &str, number: u32, set: impl FnOnce(&mut Generation)) {
        let amended = self.amend(|record| {
            set(record.workloads.get_mut(key)?.generations.get_mut(&number)?);
            None
        });
        if let Err(refused) = amended {
            tracing::warn!(?refused, "what was found out is not remembered");
        }
    }

    /// How many more generations could run now; none: there is no limit to tell by.
    pub fn room(&self) -> Option<u32> {
        let running = lock(&self.inner).running();
        self.max_instances.map(|limit| limit.saturating_sub(running))
    }

    fn save(&self, record: &SiteRecord) -> Result<(), Refused> {
        record.save(&self.dir.join("state.json")).map_err(internal)
    }
}

/// How much of the site's limit is used, at the moment of a change.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    limit: Option<u32>,
    running: u32,
}

impl Room {
    fn for_one_more(self, size_now: u32, size_wanted: u32) -> Result<(), Refused> {
        match self.limit {
            Some(limit) if size_now == 0 && size_wanted > 0 && self.running >= limit => Err(Refused::Exhausted(format!(
                "{} generations run here already, and the site takes {limit}; park or retire one first",
                self.running
            ))),
            _ => Ok(()),
        }
    }
}

fn absent(number: u32) -> Refused {
    Refused::Absent(format!("there is no generation {number}"))
}

pub(crate) fn line(verb: &str, key: &str, generation: Option<u32>, writer: &Writer) -> JournalLine {
    JournalLine {
        fence: writer.fence,
        verb: verb.into(),
        workload: key.into(),
        generation,
        deploy_id: writer.deploy_id.clone(),
        shares: BTreeMap::new(),
        job: None,
    }
}

/// Hash of what nobody may edit.
pub fn fingerprint(generation: &Generation) -> String {
    let content = (
        &generation.release_id,
        &generation.digest,
        &generation.template,
        &generation.stamps,
    );
    let bytes = serde_json::to_vec(&content).unwrap_or_default();
    Sha256::digest(bytes)
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

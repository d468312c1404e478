//! One daemon: the real engine, the real log on a simulated disk, and what a shell remembers between two inputs.

use crate::git::Git;
use crate::oracle::{Check, Oracle, Truth, replay};
use holdfast_core::config::{BindingRule, EngineConfig};
use holdfast_core::engine::{Engine, Input, Now, Output};
use holdfast_core::entry::{Entry, Term};
use holdfast_core::ids::Digest;
use holdfast_core::manifest::{Delta, Desired};
use holdfast_core::plan::PLANNER_VERSION;
use holdfast_core::state::State;
use holdfast_ledger::{Batch, Ledger, Options, SimDisk, load_state, state_bytes};
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct Daemon {
    pub owner: String,
    /// None: not running.
    pub ledger: Option<Ledger<SimDisk>>,
    /// Batches that the writer has not come to: a crash loses them, and nobody was told of them.
    queue: Vec<Batch>,
    pub disk: SimDisk,
    pub engine: Engine,
    /// The fold of what the engine put out: its State before each entry.
    shadow: State,
    pub oracle: Oracle,
    /// Which run of the daemon this is: answers to an earlier one are lost.
    pub life: u64,
    started: u64,
    base: u64,
    /// Outputs left before a crash in the middle of them.
    pub crash_in: Option<u64>,
    pub power_cut: bool,
    /// A sync was made to fail: what the system thinks of its pages afterwards is worth nothing.
    pub sync_failed: bool,
    pub stopped_for_good: bool,
    /// The commit that the Git thread knows, in memory only.
    known: Option<String>,
    /// What this run was told last.
    told: Option<Arc<Desired>>,
    /// A file that `accept-rewrite` writes.
    pub accepted: Option<String>,
    pub head_at_boot: u64,
}

/// Where nothing keeps stale calls out, a call has landed by then or never will.
pub const CALL_DEADLINE_MS: u64 = 10_000;

pub fn config() -> EngineConfig {
    EngineConfig {
        plugins: [("edge".to_owned(), Digest::of(b"plugin"))].into(),
        bindings: vec![BindingRule {
            target: "*".into(),
            plugin: "edge".into(),
            grants: Digest::of(b"grants"),
            fixed: BTreeMap::new(),
        }],
        tag_poll_ms: 20_000,
        settle_ms: 5_000,
        removal_grace_ms: 3_000,
        removals_per_revision: 4,
        call_deadline_ms: CALL_DEADLINE_MS,
        ..EngineConfig::default()
    }
}

/// The disk could not take it, or the power is gone: the daemon has to stop.
pub struct Stopped;

impl Daemon {
    pub fn new(owner: &str, disk: SimDisk) -> Self {
        Self {
            owner: owner.to_owned(),
            ledger: None,
            queue: Vec::new(),
            disk,
            engine: Engine::new(config(), State::default()),
            shadow: State::default(),
            oracle: Oracle::default(),
            life: 0,
            started: 0,
            base: 0,
            crash_in: None,
            power_cut: false,
            sync_failed: false,
            stopped_for_good: false,
            known: None,
            told: None,
            accepted: None,
            head_at_boot: 0,
        }
    }

    pub fn runs(&self) -> bool {
        self.ledger.is_some()
    }

    /// Ledger time: stands still while the daemon is down.
    pub fn t(&self, now: u64) -> u64 {
        self.base + (now - self.started)
    }

    /// When the engine wants to be woken, in the world's time.
    pub fn wake(&self) -> Option<u64> {
        let t = self.engine.next_wake().filter(|_| self.runs())?;
        Some(self.started + t.saturating_sub(self.base))
    }

    /// Opens the ledger and gives the first input; none when the disk does not let it.
    pub fn open(&mut self, now: u64, truth: &Truth) -> Result<Option<Input>, String> {
        let Ok((mut ledger, boot)) = Ledger::open_on(self.disk.clone(), Options::default()) else {
            return Ok(None);
        };
        if let Some(loss) = boot.loss {
            return Err(format!("invariant 4: a crash was taken for a loss: {loss:?}"));
        }
        self.take_up(&ledger, truth)?;
        let Ok((state, _)) = load_state(&mut ledger) else {
            return Err("the log of a crashed daemon cannot be folded".into());
        };
        self.oracle.check_state(&state)?;
        self.life += 1;
        self.head_at_boot = state.size;
        (self.started, self.base) = (now, state.t);
        self.known = state.source.as_ref().map(|head| head.commit.clone());
        self.told = None;
        self.crash_in = None;
        let term = Term {
            binary: "sim".into(),
            planner: PLANNER_VERSION,
            config: Digest::of(b"config"),
            previous_size: state.size,
            previous_root: String::new(),
            clean: boot.clean,
            epoch: 1,
            owner: self.owner.clone(),
        };
        self.shadow = state.clone();
        self.engine = Engine::new(config(), state);
        self.ledger = Some(ledger);
        Ok(Some(Input::Boot(term)))
    }

    /// What was acknowledged is there; what was written but not acknowledged may be, and counts from now on.
    fn take_up(&mut self, ledger: &Ledger<SimDisk>, truth: &Truth) -> Check {
        let entries = ledger
            .reader()
            .entries(0, u64::MAX)
            .map_err(|error| format!("invariant 4: {error}"))?;
        let known = &self.oracle.log;
        // Numbers may be written in more than one way in memory: the bytes are what counts.
        let same = |(a, b): (&Entry, &Entry)| a == b || matches!((a.to_bytes(), b.to_bytes()), (Ok(a), Ok(b)) if a == b);
        if entries.len() < known.len() || !entries.iter().zip(known).all(same) {
            return Err(format!(
                "invariant 4: {} entries were acknowledged; {} are left, or others",
                known.len(),
                entries.len()
            ));
        }
        let named: BTreeMap<&Digest, u64> = entries
            .iter()
            .flat_map(|entry| entry.blobs.values().map(|digest| (digest, entry.seq)))
            .collect();
        for (digest, seq) in named {
            if let Err(error) = ledger.blob(digest) {
                return Err(format!("invariant 9: a blob that entry {seq} names cannot be read: {error}"));
            }
        }
        let tail = entries[known.len()..].to_vec();
        self.oracle.durable(&tail, truth)?;
        self.oracle.forget_observations();
        Ok(())
    }

    pub fn handle(&mut self, now: u64, input: Input) -> Vec<Output> {
        if let Input::Observed {
            target,
            begun,
            outcome: Ok(page),
        } = &input
        {
            let t = self.t(now);
            self.oracle.observed(target, *begun, page, t);
        }
        let now = Now {
            t: self.t(now),
            wall_ms: now,
        };
        self.engine.handle(now, input)
    }

    pub fn queue(&mut self, entries: Vec<Entry>, blobs: Vec<(Digest, Vec<u8>)>) -> Check {
        self.oracle.drafted(&entries)?;
        for entry in &entries {
            replay(&self.shadow, self.engine.config(), entry, &blobs)?;
            self.shadow.fold(entry);
        }
        self.queue.push(Batch {
            entries,
            blobs: blobs.into_iter().map(|(digest, bytes)| (digest, bytes.into())).collect(),
        });
        Ok(())
    }

    /// Everything queued becomes durable under one sync; gives the log's size.
    pub fn write(&mut self, truth: &Truth) -> Result<u64, Result<Stopped, String>> {
        let Some(ledger) = &mut self.ledger else {
            return Err(Ok(Stopped));
        };
        let batches = std::mem::take(&mut self.queue);
        let mut size = ledger.size();
        for (batch, outcome) in batches.iter().zip(ledger.append_group(&batches)) {
            match outcome {
                Ok(committed) => {
                    size = committed.size;
                    self.oracle.durable(&batch.entries, truth).map_err(Err)?;
                }
                Err(error) if error.is_final() || error.is_disk_full() => return Err(Ok(Stopped)),
                // A disk without power answers nothing, so that a blob looks as if it were not there.
                Err(_) if ledger.room().is_err() => return Err(Ok(Stopped)),
                Err(error) => return Err(Err(format!("the ledger refused a batch: {error}"))),
            }
        }
        Ok(size)
    }

    /// Off the acknowledged path: a snapshot or the head. False: the disk failed, and the daemon has to stop.
    pub fn tidy(&mut self, snapshot: bool) -> bool {
        let Some(ledger) = &mut self.ledger else { return true };
        let size = ledger.size();
        let done = if snapshot && self.engine.state().size == size {
            match state_bytes(self.engine.state()) {
                Ok(body) => ledger.write_snapshot(size, body),
                Err(error) => Err(error),
            }
        } else {
            ledger.write_head().map(|_| ())
        };
        done.is_ok() || ledger.writable().is_ok()
    }

    /// SIGTERM: a clean end.
    pub fn close(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            self.disk = ledger.disk().clone();
            let _ = ledger.close();
            self.disk = self.disk.kill();
        }
    }

    /// SIGKILL, or a power cut that loses what was not synced.
    pub fn die(&mut self, power_cut: Option<u64>) {
        self.sync_failed = false;
        self.queue.clear();
        if let Some(ledger) = self.ledger.take() {
            self.disk = match power_cut {
                Some(seed) => ledger.disk().crash(seed),
                None => ledger.disk().kill(),
            };
        }
        self.crash_in = None;
    }

    pub fn fetch(&mut self, git: &Git) -> Option<Input> {
        let mut revision = git.fetch(self.known.as_deref(), self.told.is_none(), self.accepted.as_deref())?;
        if revision.adopted {
            self.known = Some(revision.commit.clone());
            let before = self.told.replace(revision.desired.clone());
            revision.delta = before.and_then(|before| Delta::between(&before, &revision.desired));
        }
        Some(Input::Revision(Box::new(revision)))
    }
}

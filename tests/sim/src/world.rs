//! One seed's world: it moves from event to event, first with faults, then without, until everything is at rest.

use crate::daemon::{CALL_DEADLINE_MS, Daemon, Stopped};
use crate::git::Git;
use crate::heap::{Event, Heap, Landing};
use crate::options::{Fault, Faults, Feature, Options, has};
use crate::oracle::{Check, Truth, rest};
use crate::random::Random;
use crate::registry::{Quality, Registry};
use crate::scenario::{Scenario, Second};
use crate::site::{Effect, Site};
use holdfast_core::engine::{Call, Input, Output};
use holdfast_core::entry::{AttemptChange, Body, QuarantineAction};
use holdfast_core::ids::{Digest, ReleaseId};
use holdfast_core::release::Release;
use holdfast_core::target::{Fault as TargetFault, FaultClass, Verb};
use holdfast_ledger::SimDisk;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// So long after the faults it may take until everything is at rest.
const REST_MS: u64 = 2_400_000;
/// What was under way when the faults stopped has landed by then.
const ECHO_MS: u64 = 100_000;
const STEPS_MAX: usize = 120_000;
/// More than any run writes that comes to rest: an engine that goes round in circles is found out, not waited for.
const ENTRIES_MAX: u64 = 20_000;
const HELP_EVERY_MS: u64 = 15_000;
const REST_LOOK_MS: u64 = 2_000;
const OWNER: &str = "simowner";
const OTHER: &str = "strangerx";

/// What a run showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Hash of everything the engines put out: the same seed gives the same one.
    pub trace: String,
    pub entries: u64,
    pub crashes: u64,
    pub stops_by_disk: u64,
    pub effects: u64,
    pub quarantines: u64,
    pub heals: u64,
    pub jobs: u64,
    pub calm_ms: u64,
}

pub struct World {
    pub(crate) options: Options,
    pub(crate) random: Random,
    pub(crate) faults: Faults,
    pub(crate) now: u64,
    pub(crate) serial: u64,
    pub(crate) heap: Heap,
    pub(crate) scenario: Scenario,
    pub(crate) git: Git,
    pub(crate) registry: Registry,
    pub(crate) sites: BTreeMap<String, Site>,
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) releases: BTreeMap<ReleaseId, Arc<Release>>,
    pub(crate) metrics_away_until: u64,
    /// A copy of the first daemon's disk, for a second daemon that should not be.
    copied: Option<SimDisk>,
    trace: Sha256,
    outcome: Outcome,
    violation: Option<String>,
    helped: u64,
    looked: u64,
}

/// Runs one seed; an error names what was violated and when.
pub fn run(options: &Options) -> Result<Outcome, String> {
    let mut world = World::new(options);
    let at = |world: &World, error: String| format!("at {} ms: {error}", world.now);
    world.start(0).map_err(|error| at(&world, error))?;
    let calm_from = options.faults_ms + ECHO_MS;
    let deadline = options.faults_ms + REST_MS;
    let mut unrest = String::from("it was never looked at");
    for _ in 0..STEPS_MAX {
        world.step().map_err(|error| at(&world, error))?;
        if !world.faults.on && world.now > calm_from && world.now >= world.looked + REST_LOOK_MS {
            world.looked = world.now;
            match rest::at_rest(&world) {
                Ok(()) => return world.finish(),
                Err(error) => unrest = error,
            }
        }
        if world.now > deadline {
            break;
        }
    }
    Err(format!("convergence: at {} ms it has not come to rest: {unrest}", world.now))
}

impl World {
    fn new(options: &Options) -> Self {
        let seed = options.seed;
        let scenario = Scenario::new(seed);
        let sites = scenario
            .places
            .iter()
            .map(|(name, place)| (name.clone(), Site::new(place)))
            .collect();
        let mut world = Self {
            options: options.clone(),
            random: Random::of(seed, "world"),
            faults: Faults::new(options),
            now: 1,
            serial: 0,
            heap: Heap::default(),
            scenario,
            git: Git::default(),
            registry: Registry::new(seed),
            sites,
            daemons: vec![Daemon::new(OWNER, SimDisk::new())],
            releases: BTreeMap::new(),
            metrics_away_until: 0,
            copied: None,
            trace: Sha256::new(),
            outcome: Outcome::default(),
            violation: None,
            helped: 0,
            looked: 0,
        };
        world.plan_ahead();
        world
    }

    /// What will go wrong, and when, apart from what goes wrong on the way.
    fn plan_ahead(&mut self) {
        let until = self.options.faults_ms;
        let seed = self.options.seed;
        let mut at = Random::of(seed, "plan");
        self.heap.push(10, Event::Commit);
        for _ in 0..3 + at.below(8) {
            let t = at.below(until);
            self.heap.push(t, Event::Commit);
            if at.chance(25) {
                self.heap.push(t + at.below(1_000), Event::Commit);
            }
        }
        let mut crashes = Random::of(seed, "crashes");
        for _ in 0..crashes.below(7) {
            let t = crashes.below(until);
            if self.faults.has(Fault::Kill) || self.faults.has(Fault::Power) {
                self.heap.push(t, Event::Crash { daemon: 0 });
            }
        }
        for (fault, times) in [(Fault::People, 10), (Fault::DiskFull, 3), (Fault::DiskError, 3)] {
            let mut when = Random::of(seed, &format!("when {fault:?}"));
            for _ in 0..when.below(times) {
                let t = when.below(until);
                if self.faults.has(fault) {
                    let event = if fault == Fault::People {
                        Event::Person
                    } else {
                        Event::Disk { daemon: 0 }
                    };
                    self.heap.push(t, event);
                }
            }
        }
        for t in (0..until).step_by(7_000) {
            self.heap.push(t, Event::Weather);
        }
        for _ in 0..at.below(5) {
            let t = at.below(until);
            self.heap.push(t, Event::Tag);
        }
        if self.scenario.second != Second::None {
            let t = at.between(20_000, until.max(40_000) / 2);
            self.heap.push(t, Event::Second);
        }
    }

    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        if self.options.loud {
            eprintln!("{:>8} {}", self.now, what());
        }
    }

    /// How long something is on its way.
    pub(crate) fn latency(&mut self, slow: Fault) -> u64 {
        let slow = self.faults.strikes(slow, 6);
        1 + self.random.below(if slow { 30_000 } else { 150 })
    }

    pub(crate) fn deliver(&mut self, daemon: usize, life: u64, input: Input) {
        let at = self.now + self.latency(Fault::Slow);
        self.heap.push(
            at,
            Event::Deliver {
                daemon,
                life,
                input: Box::new(input),
            },
        );
    }

    /// Every daemon hears of a commit soon.
    pub(crate) fn poke(&mut self) {
        for daemon in 0..self.daemons.len() {
            let (at, life) = (self.now + self.random.below(500), self.daemons[daemon].life);
            self.heap.push(at, Event::Fetch { daemon, life });
        }
    }

    fn calm_down(&mut self) {
        self.tell(|| "the faults stop".to_owned());
        self.faults.on = false;
        self.registry.away_until = if self.scenario.registry_lost { u64::MAX } else { 0 };
        self.git.away_until = 0;
        self.metrics_away_until = 0;
        for site in self.sites.values_mut() {
            site.away_until = 0;
        }
        for daemon in &mut self.daemons {
            daemon.crash_in = None;
            daemon.disk.set_room(None);
            if let Some(ledger) = &daemon.ledger {
                ledger.disk().set_room(None);
            }
        }
        self.last_commit();
    }

    fn step(&mut self) -> Check {
        if self.faults.on && self.now >= self.options.faults_ms {
            self.calm_down();
        }
        if !self.faults.on && self.now >= self.helped + HELP_EVERY_MS {
            self.helped = self.now;
            self.help();
            self.poke();
        }
        let wake = (0..self.daemons.len())
            .filter_map(|daemon| Some((self.daemons[daemon].wake()?.max(self.now + 1), daemon)))
            .min();
        let next = self.heap.next_time();
        if let Some((t, daemon)) = wake
            && next.is_none_or(|next| t < next)
        {
            self.now = t;
            self.input(daemon, Input::Tick);
        } else {
            match self.heap.pop() {
                Some((t, event)) => {
                    self.now = self.now.max(t);
                    self.happen(event)?;
                }
                None if self.faults.on => self.now = self.options.faults_ms,
                // Nobody wants to be woken: people still look.
                None => self.now += HELP_EVERY_MS,
            }
        }
        if let Some(violation) = self.violation.take() {
            return Err(violation);
        }
        for daemon in self.daemons.iter().filter(|daemon| daemon.runs()) {
            rest::check_engine(&daemon.engine)?;
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Check {
        match event {
            Event::Deliver { daemon, life, input } => {
                if self.lives(daemon, life) {
                    self.input(daemon, *input);
                }
            }
            Event::Read {
                daemon,
                life,
                target,
                begun,
            } => {
                if self.lives(daemon, life) {
                    self.read(daemon, life, target, begun);
                }
            }
            Event::Land(landing) => return self.land(landing),
            Event::Write { daemon, life } => {
                if self.lives(daemon, life) {
                    return self.write(daemon);
                }
            }
            Event::Fetch { daemon, life } => {
                if self.lives(daemon, life) && self.now >= self.git.away_until {
                    let revision = self.daemons[daemon].fetch(&self.git);
                    if let Some(revision) = revision {
                        self.input(daemon, revision);
                    }
                }
            }
            Event::Commit => self.commit(),
            Event::Person => self.meddle(),
            Event::Crash { daemon } => {
                let after = self.random.below(8);
                let power = self.faults.has(Fault::Power) && (!self.faults.has(Fault::Kill) || self.random.chance(50));
                let one = &mut self.daemons[daemon];
                one.crash_in = Some(after);
                one.power_cut = power;
                if power && self.random.chance(30) {
                    // In the middle of a write.
                    let changes = self.random.below(6);
                    if let Some(ledger) = &self.daemons[daemon].ledger {
                        ledger.disk().crash_after(changes);
                    }
                }
            }
            Event::Start { daemon } => return self.start(daemon),
            Event::Disk { daemon } => self.trouble_disk(daemon),
            Event::Weather => self.weather(),
            Event::Second => return self.second(),
            Event::Tag => {
                let names: Vec<String> = self.scenario.workloads.keys().cloned().collect();
                let version = self.random.between(1, 24);
                if let Some(name) = self.random.pick(&names) {
                    self.registry.publish(&crate::scenario::reference(name, version));
                }
            }
        }
        Ok(())
    }

    fn lives(&self, daemon: usize, life: u64) -> bool {
        self.daemons[daemon].runs() && self.daemons[daemon].life == life
    }

    pub(crate) fn input(&mut self, daemon: usize, input: Input) {
        if self.violation.is_some() {
            return;
        }
        let outputs = self.daemons[daemon].handle(self.now, input);
        for output in outputs {
            match &mut self.daemons[daemon].crash_in {
                Some(0) => return self.crash(daemon),
                Some(left) => *left -= 1,
                None => {}
            }
            match self.carry(daemon, output) {
                Ok(true) => {}
                Ok(false) => return,
                Err(violation) => {
                    self.violation.get_or_insert(violation);
                    return;
                }
            }
        }
    }

    /// False: the daemon is down now, and the rest of its outputs with it.
    fn carry(&mut self, daemon: usize, output: Output) -> Result<bool, String> {
        self.trace.update(format!("{daemon} {} {output:?}", self.now).as_bytes());
        match output {
            Output::Append { entries, blobs } => {
                if self.options.loud {
                    for entry in &entries {
                        self.tell(|| format!("[{daemon}] {:>4} {:?} {:?}", entry.seq, entry.on, entry.body));
                    }
                }
                self.count(&entries);
                if let Some(last) = entries.last().filter(|last| last.seq >= ENTRIES_MAX) {
                    return Err(format!(
                        "convergence: entry {} is a {}, and there is no end",
                        last.seq,
                        last.body.kind()
                    ));
                }
                self.daemons[daemon].queue(entries, blobs)?;
                let (at, life) = (self.now + self.random.below(4), self.daemons[daemon].life);
                self.heap.push(at, Event::Write { daemon, life });
            }
            Output::Call(call) => {
                let call = call.into_inner();
                self.check_call(daemon, &call)?;
                self.send(daemon, call);
            }
            Output::Ask(ask) => self.ask(daemon, ask),
            Output::LoadImages { blob } => {
                let accepted = self.registry.accepted(&blob);
                let life = self.daemons[daemon].life;
                self.deliver(daemon, life, Input::Images { blob, accepted });
            }
            Output::Reply { reply, .. } => {
                self.tell(|| format!("[{daemon}] replies {reply:?}"));
                if let Ok(reply) = reply {
                    self.daemons[daemon].oracle.check_reply(&reply)?;
                }
            }
        }
        Ok(true)
    }

    /// The writer makes durable what is queued, and says so; or the disk does not let it, and the daemon stops.
    fn write(&mut self, daemon: usize) -> Check {
        let truth = truth(&self.git, &self.registry, &self.releases, &self.faults);
        match self.daemons[daemon].write(&truth) {
            Ok(size) => {
                let life = self.daemons[daemon].life;
                let input = Box::new(Input::Durable { size });
                let at = self.now + self.random.below(3);
                self.heap.push(at, Event::Deliver { daemon, life, input });
                let (tidy, snapshot) = (self.random.chance(15), self.random.chance(30));
                if tidy && !self.daemons[daemon].tidy(snapshot) {
                    self.stop_by_disk(daemon);
                }
                Ok(())
            }
            Err(Ok(Stopped)) => {
                self.stop_by_disk(daemon);
                Ok(())
            }
            Err(Err(violation)) => Err(violation),
        }
    }

    fn count(&mut self, entries: &[holdfast_core::entry::Entry]) {
        for entry in entries {
            match &entry.body {
                Body::Quarantine(quarantine) if quarantine.action == QuarantineAction::Set => self.outcome.quarantines += 1,
                Body::Attempt(AttemptChange::Began { heal: true, .. }) => self.outcome.heals += 1,
                Body::Intent(intent) if matches!(intent.verb, Verb::Run { .. }) => self.outcome.jobs += 1,
                _ => {}
            }
        }
    }

    fn check_call(&self, daemon: usize, call: &Call) -> Check {
        let one = &self.daemons[daemon];
        one.oracle.check_call(call)?;
        match self.scenario.second {
            Second::Twin => Ok(()),
            Second::None | Second::OtherOwner => one.oracle.check_claim(call),
            Second::OldCopy => {
                one.oracle.check_claim(call)?;
                one.oracle.check_copy(call, &self.sites[&call.target], one.head_at_boot)
            }
        }
    }

    fn send(&mut self, daemon: usize, call: Call) {
        self.tell(|| format!("[{daemon}] calls {} {:?} under {}", call.target, call.verb, call.intent));
        let life = self.daemons[daemon].life;
        let answer = |class| Input::Called {
            workload: call.workload.clone(),
            target: call.target.clone(),
            intent: call.intent,
            outcome: Err(TargetFault {
                class,
                message: "simulated".into(),
                fence: None,
            }),
            sent: Vec::new(),
        };
        if self.is_away(&call.target) || self.faults.strikes(Fault::CallLost, 10) {
            let input = answer(FaultClass::Unavailable);
            return self.deliver(daemon, life, input);
        }
        let late = self.faults.strikes(Fault::CallLate, 10);
        let landing = |answers| Landing {
            daemon,
            life,
            call: call.clone(),
            answers,
        };
        if late {
            let input = answer(FaultClass::Deadline);
            let never = self.faults.below(Fault::CallLate, 3) == 0;
            // A target without fences is not written to by a call whose time is over: the host cuts it.
            let cut = !self.sites[&call.target].abilities.guarded;
            let lands = 1 + self
                .faults
                .below(Fault::CallLate, if cut { CALL_DEADLINE_MS - 1 } else { 30_000 });
            if !never {
                self.heap.push(self.now + lands, Event::Land(landing(false)));
            }
            let at = self.now + 1 + self.random.below(300);
            self.heap.push(
                at,
                Event::Deliver {
                    daemon,
                    life,
                    input: Box::new(input),
                },
            );
            return;
        }
        let twice = self.faults.strikes(Fault::CallTwice, 6);
        let guarded = self.sites[&call.target].abilities.guarded;
        let latency = self.latency(Fault::Slow);
        let at = self.now + if guarded { latency } else { latency.min(CALL_DEADLINE_MS - 1) };
        if twice {
            let again = self.now
                + 1
                + self
                    .faults
                    .below(Fault::CallTwice, if guarded { 10_000 } else { at - self.now });
            self.heap.push(again, Event::Land(landing(false)));
        }
        self.heap.push(at, Event::Land(landing(true)));
    }

    fn land(&mut self, landing: Landing) -> Check {
        let Landing {
            daemon,
            life,
            call,
            answers,
        } = landing;
        let release = self.daemons[daemon].oracle.release_of(&call);
        let artifact = release
            .as_ref()
            .and_then(|release| self.releases.get(release)?.artifacts.get("main").cloned())
            .unwrap_or_else(|| Digest::of(b"unknown"));
        let effect = Effect {
            owner: &self.daemons[daemon].owner.clone(),
            call: &call,
            quality: self.quality(&call, &artifact),
            release,
            artifact,
            now: self.now,
            pulls: !self.registry.is_away(self.now),
            stops_half_way: self.faults.strikes(Fault::CallPartial, 8),
            wrong_digest: self.faults.strikes(Fault::WrongDigest, 3),
            unsettled: self.faults.strikes(Fault::RoutePartial, 20),
        };
        let before = self.sites[&call.target].clone();
        let Some(site) = self.sites.get_mut(&call.target) else {
            return Ok(());
        };
        let outcome = site.apply(&effect);
        let after = site.clone();
        self.tell(|| {
            format!(
                "[{daemon}] {} under {} lands on {}: {outcome:?}",
                call.verb.name(),
                call.intent,
                call.target
            )
        });
        if self.scenario.second != Second::Twin && outcome.is_ok() {
            self.daemons[daemon].oracle.check_effect(&call, &before, &after, self.now)?;
        }
        if answers && self.lives(daemon, life) {
            let input = Input::Called {
                workload: call.workload,
                target: call.target,
                intent: call.intent,
                outcome,
                sent: Vec::new(),
            };
            self.input(daemon, input);
        }
        Ok(())
    }

    /// What the bytes are like here: without an HTTP check, what would not pass it cannot start.
    fn quality(&self, call: &Call, artifact: &Digest) -> Quality {
        let quality = self.registry.quality(artifact);
        let probed = self
            .scenario
            .workloads
            .get(call.workload.name())
            .is_some_and(|spec| spec.health.http.is_some());
        match quality {
            Quality::Unhealthy if !probed => Quality::Failing,
            quality => quality,
        }
    }

    fn stop_by_disk(&mut self, daemon: usize) {
        self.outcome.stops_by_disk += 1;
        self.crash(daemon);
    }

    /// What was not synced may be gone; answers under way are lost; effects are not.
    fn crash(&mut self, daemon: usize) {
        let seed = self.random.next();
        let one = &mut self.daemons[daemon];
        let restarted = one.power_cut || (one.sync_failed && !has(Feature::FailedSync));
        let power = restarted.then_some(seed);
        one.die(power);
        self.outcome.crashes += 1;
        self.tell(|| {
            format!(
                "[{daemon}] dies, {}",
                if power.is_some() { "and the power too" } else { "killed" }
            )
        });
        if !self.daemons[daemon].stopped_for_good {
            let down = 1 + self.random.below(20_000);
            self.heap.push(self.now + down, Event::Start { daemon });
        }
    }

    fn start(&mut self, daemon: usize) -> Check {
        if self.daemons[daemon].runs() || self.daemons[daemon].stopped_for_good {
            return Ok(());
        }
        let truth = truth(&self.git, &self.registry, &self.releases, &self.faults);
        let Some(boot) = self.daemons[daemon].open(self.now, &truth)? else {
            // The disk does not let it; somebody starts it again.
            self.daemons[daemon].disk = self.daemons[daemon].disk.kill();
            self.heap.push(self.now + 5_000, Event::Start { daemon });
            return Ok(());
        };
        self.tell(|| format!("[{daemon}] starts at entry {}", self.daemons[daemon].head_at_boot));
        self.input(daemon, boot);
        let life = self.daemons[daemon].life;
        let at = self.now + 1 + self.random.below(1_000);
        self.heap.push(at, Event::Fetch { daemon, life });
        Ok(())
    }

    /// A daemon that should not be there.
    fn second(&mut self) -> Check {
        let disk = |world: &Self| world.daemons[0].ledger.as_ref().map(|ledger| ledger.disk().copy());
        match (self.scenario.second, self.copied.take()) {
            (Second::None, _) => return Ok(()),
            (Second::OtherOwner, _) => self.daemons.push(Daemon::new(OTHER, SimDisk::new())),
            (Second::Twin, _) => {
                let Some(disk) = disk(self) else { return Ok(()) };
                self.daemons.push(Daemon::new(OWNER, disk.kill()));
            }
            (Second::OldCopy, None) => {
                self.copied = disk(self);
                let later = self.now + self.random.between(1_000, 120_000);
                self.heap
                    .push(later.min(self.options.faults_ms - 1).max(self.now), Event::Second);
                return Ok(());
            }
            (Second::OldCopy, Some(copy)) => {
                self.daemons[0].stopped_for_good = true;
                self.daemons[0].die(None);
                self.daemons.push(Daemon::new(OWNER, copy.kill()));
            }
        }
        let daemon = self.daemons.len() - 1;
        self.tell(|| format!("[{daemon}] is a second daemon: {:?}", self.scenario.second));
        // Whatever a copied ledger holds was acknowledged by the daemon that wrote it.
        self.start(daemon)
    }

    fn finish(mut self) -> Result<Outcome, String> {
        for daemon in &mut self.daemons {
            let truth = truth(&self.git, &self.registry, &self.releases, &self.faults);
            if daemon.runs()
                && let Err(Err(violation)) = daemon.write(&truth)
            {
                return Err(violation);
            }
            if daemon.engine.state().size == daemon.oracle.log.len() as u64 {
                daemon.oracle.check_state(daemon.engine.state())?;
            }
            daemon.close();
            // A sync that was to fail and has not come yet would fail now.
            daemon.disk = daemon.disk.copy();
            if !daemon.stopped_for_good && daemon.open(self.now, &truth)?.is_none() {
                return Err("memory: the ledger cannot be opened after the run".into());
            }
        }
        self.outcome.trace = holdfast_core::ids::hex(&self.trace.finalize());
        self.outcome.entries = self.daemons.iter().map(|daemon| daemon.engine.state().size).sum();
        self.outcome.effects = self.sites.values().map(|site| site.effects).sum();
        self.outcome.calm_ms = self.now - self.options.faults_ms;
        Ok(self.outcome)
    }
}

pub(crate) fn truth<'a>(
    git: &'a Git,
    registry: &'a Registry,
    releases: &'a BTreeMap<ReleaseId, Arc<Release>>,
    faults: &'a Faults,
) -> Truth<'a> {
    Truth {
        git,
        registry,
        releases,
        faults,
    }
}

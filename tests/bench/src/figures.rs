//! Planning one change, folding a log, idling, and the way from an answer to the next call.

use crate::clock::{resident_mb, say, timed};
use crate::fleet::Fleet;
use crate::world::{Scribe, Sites, answer, config, fleet_at_rest, revision, target, workload};
use holdfast_core::engine::{Engine, Input, Now, Output};
use holdfast_core::entry::Term;
use holdfast_core::ids::Digest;
use holdfast_core::manifest::Delta;
use holdfast_core::state::State;
use holdfast_ledger::{Batch, Ledger, Options, SimDisk, load_state};

const PLAN_MS: f64 = 20.0;
const FOLD_MS: f64 = 1_000.0;
const IDLE_PERCENT: f64 = 0.5;
const IDLE_MB: f64 = 40.0;

/// An engine that has started, seen every target once and has nothing to do.
fn started(state: State, targets: usize) -> (Engine, Sites) {
    let sites = Sites::of(&state);
    let t = state.t;
    let mut engine = Engine::new(config(), state);
    let now = Now { t, wall_ms: 0 };
    let mut outputs = engine.handle(now, Input::Boot(term(&engine)));
    for n in 0..targets {
        let size = engine.state().size;
        let (begun, name) = (size, target(n));
        let page = sites.page(&name);
        let _ = engine.handle(
            now,
            Input::Observed {
                target: name,
                begun,
                outcome: Ok(page),
            },
        );
    }
    outputs.clear();
    let size = engine.state().size;
    let _ = engine.handle(now, Input::Durable { size });
    (engine, sites)
}

pub fn term(engine: &Engine) -> Term {
    Term {
        binary: "bench".into(),
        planner: 1,
        config: Digest::of(b"config"),
        previous_size: engine.state().size,
        previous_root: String::new(),
        clean: true,
        epoch: 1,
        owner: "benchown".into(),
    }
}

/// One commit that changes one workload of very many, until the engine has asked for the new version's digest, then until the
/// new generation's launch is intended.
pub fn plan() {
    println!("plan: one change among N workloads spread over 100 targets");
    let mut whole = Vec::new();
    for workloads in [1_000, 10_000] {
        let spread = |n: usize| vec![n % 100];
        let (mut engine, sites) = started(fleet_at_rest(workloads, 100, &spread), 100);
        let changed = workloads / 2;
        let now = Now {
            t: engine.state().t + 1,
            wall_ms: 0,
        };
        let first = revision(1, workloads, 100, &spread, &|_| 1);
        let before = first.desired.clone();
        engine.handle(now, Input::Revision(Box::new(first)));
        let mut wanted = revision(2, workloads, 100, &spread, &|n| 1 + u32::from(n == changed));
        let (delta, compared) = timed(|| Delta::between(&before, &wanted.desired));
        wanted.delta = delta;
        // As the Git thread does, so that the engine frees neither.
        let told = (before, wanted.desired.clone());
        let (outputs, took) = timed(|| engine.handle(now, Input::Revision(Box::new(wanted))));
        say(
            &format!("  {workloads:6} workloads: handle(revision)"),
            took,
            "ms",
            Some(PLAN_MS),
        );
        say(
            &format!("  {workloads:6} workloads: compared on Git's thread"),
            compared,
            "ms",
            None,
        );
        drop(told);
        let mut steps = 0.0;
        let mut inputs = inputs_of(outputs, &sites, &engine);
        let mut handled = 0;
        while let Some(input) = inputs.pop() {
            let (outputs, took) = timed(|| engine.handle(now, input));
            steps += took;
            handled += 1;
            let intended = outputs.iter().any(|output| matches!(output, Output::Call(_)));
            inputs.extend(inputs_of(outputs, &sites, &engine));
            if intended {
                break;
            }
        }
        say(
            &format!("  {workloads:6} workloads: {handled} more inputs until the launch goes out"),
            steps,
            "ms",
            None,
        );
        whole.push(took + steps);
    }
    say(
        "  ratio of 10,000 to 1,000 (1: grows with the change)",
        whole[1] / whole[0].max(0.001),
        "x",
        None,
    );
}

fn inputs_of(outputs: Vec<Output>, sites: &Sites, engine: &Engine) -> Vec<Input> {
    let size = engine.state().size;
    let answers = outputs.into_iter().filter_map(|output| match output {
        Output::Ask(ask) => answer(ask, sites),
        Output::Append { .. } => Some(Input::Durable { size }),
        _ => None,
    });
    answers.collect()
}

/// From nothing: the entries of a fleet of 1,000 units that was rolled again and again.
pub fn fold() {
    let mut scribe = Scribe {
        keep: true,
        ..Scribe::default()
    };
    scribe.begin(100);
    let mut version = 0;
    while scribe.entries.len() < 100_000 {
        version += 1;
        for n in 0..1_000 {
            scribe.rollout(n, version, &[n % 100]);
            if scribe.entries.len() >= 100_000 {
                break;
            }
        }
    }
    let entries = scribe.entries;
    println!("fold: {} entries", entries.len());
    let (folded, took) = timed(|| {
        let mut state = State::default();
        entries.iter().for_each(|entry| state.fold(entry));
        state
    });
    say("  fold alone", took, "ms", None);
    let disk = SimDisk::new();
    let Ok((mut ledger, _)) = Ledger::open_on(disk.clone(), Options::default()) else {
        return println!("  the ledger does not open");
    };
    for portion in entries.chunks(256) {
        let batch = Batch {
            entries: portion.to_vec(),
            blobs: Vec::new(),
        };
        if let Err(error) = ledger.append(&batch) {
            return println!("  the ledger does not take the entries: {error}");
        }
    }
    drop(ledger);
    let (opened, opening) = timed(|| Ledger::open_on(disk.kill(), Options::default()));
    let Ok((mut ledger, _)) = opened else {
        return println!("  the ledger does not open again");
    };
    say("  open: every frame's checksum and the Merkle root", opening, "ms", None);
    let (loaded, took) = timed(|| load_state(&mut ledger));
    say("  read, parse and fold", took, "ms", Some(FOLD_MS));
    let same = loaded.is_ok_and(|(state, _)| state == folded);
    println!("  {}", if same { "the State is the same" } else { "THE STATE DIFFERS" });
}

/// Ten minutes in which nothing happens but looks. Memory counts only where nothing ran in this process before.
pub fn idle() {
    let before = resident_mb();
    let spread = |n: usize| vec![n % 100];
    let (mut engine, sites) = started(fleet_at_rest(1_000, 100, &spread), 100);
    println!("idle: 1,000 workloads over 100 targets");
    let begun = engine.state().t;
    let minutes = 10.0;
    let (mut looks, mut inputs, mut entries, mut tags) = (0, 0, 0, 0);
    let ((), took) = timed(|| {
        while let Some(t) = engine.next_wake().filter(|t| *t < begun + 600_000) {
            let now = Now { t, wall_ms: t };
            let mut queue = vec![Input::Tick];
            while let Some(input) = queue.pop() {
                inputs += 1;
                for output in engine.handle(now, input) {
                    match output {
                        Output::Append { entries: written, .. } => {
                            entries += written.len();
                            queue.push(Input::Durable {
                                size: engine.state().size,
                            });
                        }
                        Output::Ask(ask) => {
                            looks += usize::from(matches!(ask, holdfast_core::plan::Ask::Observe { .. }));
                            tags += usize::from(matches!(ask, holdfast_core::plan::Ask::Pin { .. }));
                            queue.extend(answer(ask, &sites));
                        }
                        _ => {}
                    }
                }
            }
        }
    });
    println!("  {looks} looks, {tags} tag polls, {inputs} inputs, {entries} entries in ten minutes");
    say("  of a core", took / (minutes * 60_000.0) * 100.0, "%", Some(IDLE_PERCENT));
    say(
        "  memory of State, facts and fakes",
        resident_mb() - before,
        "MB",
        Some(IDLE_MB),
    );
    let json = serde_json::to_vec(engine.state()).map_or(0, |bytes| bytes.len());
    say("  State as JSON, a unit", json as f64 / 1_000.0, "bytes", None);
}

/// What the engine needs between the answer to one call and the next one going out.
pub fn call() {
    println!("call: one unit's whole canary among N units on 100 targets");
    let mut each = Vec::new();
    for workloads in [100, 1_000, 4_000] {
        let spread = |n: usize| vec![n % 100];
        let mut fleet = Fleet::new(fleet_at_rest(workloads, 100, &spread));
        let wanted = revision(2, workloads, 100, &spread, &|n| 1 + u32::from(n == 7));
        fleet.run(Input::Revision(Box::new(wanted)), 30_000.0);
        let done = fleet
            .engine
            .state()
            .unit(&workload(7), &target(7))
            .and_then(|unit| unit.current)
            == Some(2);
        let took = fleet.took_ms / f64::from(fleet.calls.max(1));
        say(
            &format!(
                "  {workloads:6} units: engine time a call ({} calls, {} inputs{})",
                fleet.calls,
                fleet.inputs,
                if done { "" } else { ", NOT DONE" }
            ),
            took,
            "ms",
            None,
        );
        each.push(took);
    }
    say(
        "  ratio of 4,000 units to 100 (1: independent of the fleet)",
        each[2] / each[0].max(0.001),
        "x",
        None,
    );
}

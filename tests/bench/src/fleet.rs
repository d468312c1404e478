//! 2,000 targets with 5 workloads each, rolled by canary without holds: what the engine needs of one core.

use crate::clock::{cpu_ms, say};
use crate::figures::term;
use crate::world::{Sites, answer, config, fleet_at_rest, revision};
use holdfast_core::engine::{Engine, Input, Now, Output};
use holdfast_core::entry::RolloutState;
use holdfast_core::state::State;
use holdfast_core::target::Progress;
use std::collections::VecDeque;

const WORKLOADS: usize = 5;
const FLEET_MS: f64 = 60_000.0;
/// The full fleet is given up on after so long.
const PATIENCE_MS: f64 = 180_000.0;

/// An engine with targets that answer at once; time passes only when there is nothing else to do.
pub struct Fleet {
    pub engine: Engine,
    sites: Sites,
    queue: VecDeque<Input>,
    t: u64,
    pub took_ms: f64,
    pub calls: u32,
    pub inputs: u32,
    pub entries: usize,
}

impl Fleet {
    pub fn new(state: State) -> Self {
        let sites = Sites::of(&state);
        let t = state.t;
        let mut engine = Engine::new(config(), state);
        let boot = engine.handle(Now { t, wall_ms: 0 }, Input::Boot(term(&engine)));
        let mut fleet = Self {
            engine,
            sites,
            queue: VecDeque::new(),
            t,
            took_ms: 0.0,
            calls: 0,
            inputs: 0,
            entries: 0,
        };
        fleet.carry(boot);
        fleet.run(Input::Tick, PATIENCE_MS);
        (fleet.took_ms, fleet.calls, fleet.inputs, fleet.entries) = (0.0, 0, 0, 0);
        fleet
    }

    fn carry(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Append { entries, .. } => {
                    self.entries += entries.len();
                    let size = self.engine.state().size;
                    self.queue.push_back(Input::Durable { size });
                }
                Output::Ask(ask) => self.queue.extend(answer(ask, &self.sites)),
                Output::Call(call) => {
                    let call = call.into_inner();
                    self.calls += 1;
                    self.sites.apply(&call, self.engine.state());
                    self.queue.push_back(Input::Called {
                        workload: call.workload,
                        target: call.target,
                        intent: call.intent,
                        outcome: Ok(Progress::Done),
                        sent: Vec::new(),
                    });
                }
                Output::LoadImages { blob } => self.queue.push_back(Input::Images {
                    blob,
                    accepted: Default::default(),
                }),
                Output::Reply { .. } => {}
            }
        }
    }

    /// Until every rollout is over, or the patience is. True: over.
    pub fn run(&mut self, input: Input, patience_ms: f64) -> bool {
        self.queue.push_back(input);
        let mut idle = 0;
        while self.took_ms < patience_ms {
            let input = match self.queue.pop_front() {
                Some(input) => {
                    idle = 0;
                    input
                }
                None if self.is_over() || idle > 50 => return self.is_over(),
                None => {
                    idle += 1;
                    self.t = self.engine.next_wake().unwrap_or(self.t).max(self.t + 1);
                    Input::Tick
                }
            };
            let now = Now {
                t: self.t,
                wall_ms: self.t,
            };
            let begun = cpu_ms();
            let outputs = self.engine.handle(now, input);
            self.took_ms += cpu_ms() - begun;
            self.inputs += 1;
            self.carry(outputs);
        }
        false
    }

    fn is_over(&self) -> bool {
        let state = self.engine.state();
        state.workloads.values().all(|workload| {
            let request = workload.request.as_ref();
            workload.units.values().all(|unit| unit.attempt.is_none())
                && request.is_none_or(|request| request.state == RolloutState::Succeeded && request.id >= workload.spec_seq)
        })
    }
}

pub fn fleet(targets: usize) {
    let mut sizes = vec![targets / 16, targets / 8, targets];
    sizes.retain(|size| *size > 0);
    println!("fleet: N targets with {WORKLOADS} workloads each, canary 10 %, 50 %, 100 % without holds");
    let mut before: Option<(usize, f64)> = None;
    for size in sizes {
        let spread = move |_: usize| (0..size).collect::<Vec<_>>();
        let mut fleet = Fleet::new(fleet_at_rest(WORKLOADS, size, &spread));
        let wanted = revision(2, WORKLOADS, size, &spread, &|_| 2);
        let over = fleet.run(Input::Revision(Box::new(wanted)), PATIENCE_MS);
        let limit = (size == 2_000).then_some(FLEET_MS);
        say(
            &format!(
                "  {size:5} targets: {} calls, {} inputs, {} entries",
                fleet.calls, fleet.inputs, fleet.entries
            ),
            fleet.took_ms,
            "ms",
            limit,
        );
        if !over {
            let done = fleet
                .engine
                .state()
                .workloads
                .values()
                .flat_map(|w| w.units.values())
                .filter(|unit| unit.current == Some(2))
                .count();
            println!("  given up: {done} of {} units were through", size * WORKLOADS);
        }
        if let Some((smaller, took)) = before {
            let growth = (fleet.took_ms / took.max(0.001)) / (size as f64 / smaller as f64);
            say("        against the size before, beyond linear", growth, "x", None);
        }
        before = Some((size, fleet.took_ms));
    }
}

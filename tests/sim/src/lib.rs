//! Deterministic simulation: the real engine, the real fold and the real log format, over a simulated disk, targets,
//! registry, metrics, Git and people. First the world is unkind and the oracles must hold; then faults stop and it must
//! come to rest. A seed is a world: the same seed gives the same trace.

mod answers;
mod committers;
mod daemon;
mod git;
mod heap;
mod metrics;
pub mod options;
mod oracle;
mod people;
mod random;
mod registry;
mod scenario;
pub mod shrink;
mod site;
mod weather;
mod world;

pub use options::{Fault, Feature, Options};
pub use world::Outcome;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs one seed. A panic of the engine is a failure like any other.
pub fn run(options: &Options) -> Result<Outcome, String> {
    options::set_features(&options.features);
    catch_unwind(AssertUnwindSafe(|| world::run(options))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Runs many seeds on some threads; failures in the order of their seeds.
pub fn run_many(
    seeds: impl Iterator<Item = u64>,
    features: &BTreeSet<Feature>,
    threads: usize,
) -> (Vec<Outcome>, Vec<(u64, String)>) {
    let seeds: Vec<u64> = seeds.collect();
    let next = AtomicUsize::new(0);
    let (mut outcomes, mut failures) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let worker = || {
            let mut done = Vec::new();
            while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push((*seed, run(&Options::only(*seed, features))));
            }
            done
        };
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            for (seed, outcome) in worker.join().unwrap_or_default() {
                match outcome {
                    Ok(outcome) => outcomes.push(outcome),
                    Err(error) => failures.push((seed, error)),
                }
            }
        }
    });
    failures.sort();
    (outcomes, failures)
}

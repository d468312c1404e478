//! Many seeds; a failing one prints the command that replays it.

use holdfast_sim::run;
use std::panic::catch_unwind;

const SEEDS: u64 = 240;

fn outcome(seed: u64) -> Result<holdfast_sim::Outcome, String> {
    match catch_unwind(|| run(seed)) {
        Ok(outcome) => outcome,
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default()),
    }
}

#[test]
fn invariants_hold_and_it_comes_to_rest() {
    let seeds = match std::env::var("HOLDFAST_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("HOLDFAST_SIM_SEED is a number")],
        Err(_) => (0..SEEDS).collect::<Vec<u64>>(),
    };
    let mut failures = Vec::new();
    let (mut crashes, mut effects, mut rollbacks) = (0, 0, 0);
    for seed in &seeds {
        match outcome(*seed) {
            Ok(outcome) => {
                crashes += outcome.crashes;
                effects += outcome.effects;
                rollbacks += outcome.rollbacks;
            }
            Err(error) => failures.push(format!(
                "HOLDFAST_SIM_SEED={seed} cargo test --release -p holdfast-sim: {error}"
            )),
        }
    }
    println!(
        "{} seeds: {crashes} crashes, {effects} effects, {rollbacks} quarantines",
        seeds.len()
    );
    assert!(
        failures.is_empty(),
        "{} of {} seeds failed:\n{}",
        failures.len(),
        seeds.len(),
        failures.join("\n")
    );
    // A simulation in which nothing happens proves nothing.
    assert!(seeds.len() == 1 || (crashes > 100 && effects > 1_000 && rollbacks > 50));
}

#[test]
fn a_seed_is_a_trace() {
    for seed in [1, 2, 3] {
        assert_eq!(outcome(seed), outcome(seed), "seed {seed}");
    }
}

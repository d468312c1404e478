//! Many seeds; a failing one prints the command that replays it.

use holdfast_sim::{Options, run, run_many, shrink};

const SEEDS: u64 = 500;

/// Seeds that found a bug in the engine once, and what it was.
const FOUND_BUGS: &[(u64, &str)] = &[
    (
        13,
        "a copied ledger was taken for ours as soon as its own head had grown past the targets' fences",
    ),
    (27, "after a failed sync, a restart built on pages that were not on the disk"),
    (
        36,
        "a halted rollout of a quarantined release was resumed and waited for nothing, for ever",
    ),
    (56, "a good release was condemned by a look from before its time-out"),
    (340, "a launch of unknown effect landed after its attempt had ended"),
];

#[test]
fn invariants_hold_and_it_comes_to_rest() {
    let (outcomes, failures) = run_many(0..SEEDS, 2);
    let sum = |of: fn(&holdfast_sim::Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let (crashes, effects, quarantines) = (sum(|o| o.crashes), sum(|o| o.effects), sum(|o| o.quarantines));
    println!("{SEEDS} seeds: {crashes} crashes, {effects} effects, {quarantines} quarantines");
    let mut report: Vec<String> = failures
        .iter()
        .map(|(seed, error)| format!("tests/sim/run --seed {seed}: {error}"))
        .collect();
    if let Some((options, error)) = failures.first().and_then(|(seed, _)| shrink::shrink(*seed)) {
        report.push(format!("shrunk: {}: {error}", shrink::command(&options)));
    }
    assert!(
        failures.is_empty(),
        "{} of {SEEDS} seeds failed:\n{}",
        failures.len(),
        report.join("\n")
    );
    // A simulation in which nothing happens proves nothing.
    assert!(crashes > 400 && effects > 5_000 && quarantines > 200);
}

#[test]
fn seeds_that_found_bugs_hold() {
    for (seed, bug) in FOUND_BUGS {
        if let Err(error) = run(&Options::new(*seed)) {
            panic!("tests/sim/run --seed {seed} ({bug}): {error}");
        }
    }
}

#[test]
fn a_seed_is_a_trace() {
    for seed in [1, 2, 3, 4, 5] {
        let options = Options::new(seed);
        assert_eq!(run(&options), run(&options), "seed {seed}");
    }
    assert_ne!(run(&Options::new(1)), run(&Options::new(2)));
}

//! Many seeds; a failing one prints the command that replays it.

use holdfast_sim::{Feature, Options, run, run_many, shrink};
use std::collections::BTreeSet;

const SEEDS: u64 = 500;

const BASE: &str =
    "waves,recreate,jobs,approvals,selectors,dependson,capacity,prometheus,telemetry,abilities,suspend,commands,manual";

/// Seeds that found a bug in the engine or the ledger once, the features that were on beside those of `BASE` (`only`: instead),
/// and what it was.
const FOUND_BUGS: &[(u64, &str, &str)] = &[
    (
        170,
        "only waves,recreate,jobs,selectors,suspend",
        "a rollout that had failed with other values succeeded and began again, for ever",
    ),
    (
        168,
        "only waves,recreate,jobs,selectors,suspend",
        "a rollout that failed on every target counted as proven",
    ),
    (
        82,
        "only waves,recreate,jobs,selectors,suspend",
        "a probe of the old generation that hung kept the new one from being probed",
    ),
    (
        13,
        "only oldcopy",
        "a copied ledger was taken for ours as soon as its own head had grown past the targets' fences",
    ),
    (58, "only drift", "what came back kept a workload from leaving"),
    (
        79,
        "only punctual",
        "a look from before the end of `stable` proved a release that restarts",
    ),
    (
        9,
        "only failedsync",
        "after a failed sync, a restart built on pages that were not on the disk",
    ),
    (458, "", "a bad candidate held the room that the way back needed"),
    (14, "rolling", "old instances went on one look at new ones"),
    (
        38,
        "punctual",
        "the time-out of a launch ran while the launch was still refused",
    ),
    (
        174,
        "standby",
        "a release that is quarantined everywhere was requested for no target",
    ),
    (239, "unstaged", "a document was replaced before people had said yes"),
    (
        612,
        "rolling,standby,unstaged,punctual,oldcopy",
        "probes that failed while the target was away condemned a good release",
    ),
    (
        1051,
        "rolling,standby,unstaged,punctual,oldcopy",
        "a workload that was removed and is back as it was stayed away",
    ),
    (
        96,
        "rolling,standby,unstaged,punctual,oldcopy,drift",
        "the way back waited for instances that were lost",
    ),
    (
        289,
        "rolling,standby,unstaged,punctual,oldcopy,drift",
        "rolling waited for lost instances of the old generation",
    ),
    (
        449,
        "rolling,standby,unstaged,punctual,oldcopy,drift",
        "the third heal of an hour was written down and not done",
    ),
    (
        458,
        "rolling,standby,unstaged,punctual,oldcopy,drift",
        "a proven generation that was taken away was waited for, for ever",
    ),
];

fn features(named: &str) -> BTreeSet<Feature> {
    let named = match named.strip_prefix("only ") {
        Some(only) => only.to_owned(),
        None => format!("{BASE},{named}"),
    };
    let named = named.split(',').filter(|name| !name.is_empty());
    named.map(|name| Feature::parse(name).expect(name)).collect()
}

#[test]
fn invariants_hold_and_it_comes_to_rest() {
    let (outcomes, failures) = run_many(0..SEEDS, &Feature::ALL.into(), 2);
    let sum = |of: fn(&holdfast_sim::Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let (crashes, effects, quarantines) = (sum(|o| o.crashes), sum(|o| o.effects), sum(|o| o.quarantines));
    println!("{SEEDS} seeds: {crashes} crashes, {effects} effects, {quarantines} quarantines");
    let mut report: Vec<String> = failures
        .iter()
        .map(|(seed, error)| format!("tests/sim/run --seed {seed}: {error}"))
        .collect();
    if let Some((options, error)) = failures.first().and_then(|(seed, _)| shrink::shrink(Options::new(*seed))) {
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
    for (seed, named, bug) in FOUND_BUGS {
        let options = Options::only(*seed, &features(named));
        if let Err(error) = run(&options) {
            panic!("{} ({bug}): {error}", shrink::command(&options));
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

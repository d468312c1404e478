//! A failing seed made smaller: fault classes that do not matter are switched off, and the faults end as early as they can.

use crate::options::{Fault, Faults, Feature, Options};
use crate::run;

const EARLIEST_MS: u64 = 5_000;

/// The smallest options found that fail with the same oracle, and how.
pub fn shrink(mut options: Options) -> Option<(Options, String)> {
    let mut error = run(&options).err()?;
    let oracle = oracle(&error);
    crate::options::set_features(&options.features);
    let classes: Vec<Fault> = Faults::new(&options).enabled().collect();
    let fails = |options: &Options| run(options).err().filter(|found| self::oracle(found) == oracle);
    for fault in classes {
        let mut smaller = options.clone();
        smaller.off.insert(fault);
        if let Some(found) = fails(&smaller) {
            (options, error) = (smaller, found);
        }
    }
    let (mut passes, mut breaks) = (0, options.faults_ms);
    while breaks > passes + EARLIEST_MS {
        let mut smaller = options.clone();
        smaller.faults_ms = (passes + breaks) / 2;
        match fails(&smaller) {
            Some(found) => {
                breaks = smaller.faults_ms;
                (options, error) = (smaller, found);
            }
            None => passes = smaller.faults_ms,
        }
    }
    Some((options, error))
}

/// "invariant 3", "section 4", "convergence" ...: the same trouble, wherever it shows. The time comes before it.
fn oracle(error: &str) -> String {
    let said = error.split_once(" ms: ").map_or(error, |(_, said)| said);
    said.split(':').next().unwrap_or_default().to_owned()
}

/// The command that replays these options.
pub fn command(options: &Options) -> String {
    let mut text = format!("tests/sim/run --seed {}", options.seed);
    if !options.off.is_empty() {
        let off: Vec<String> = options.off.iter().map(|fault| fault.name()).collect();
        text += &format!(" --off {}", off.join(","));
    }
    if options.features.len() < Feature::ALL.len() {
        let only: Vec<String> = options.features.iter().map(|feature| feature.name()).collect();
        text += &format!(" --only {}", only.join(","));
    }
    if options.faults_ms != crate::options::FAULTS_MS {
        text += &format!(" --until {}", options.faults_ms);
    }
    text
}

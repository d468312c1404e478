//! Runs seeds: many of them, or one with everything that happens. `tests/sim/run` builds and calls it.

use holdfast_sim::options::FAULTS_MS;
use holdfast_sim::{Fault, Feature, Options, run, run_many, shrink};
use std::collections::BTreeSet;
use std::process::ExitCode;

const USAGE: &str = "usage: holdfast-sim --seeds N [--from M] [--threads N] [--first] | --seed N [--off CLASS,...] [--until MS] [--loud]; both: [--only FEATURE,...]";

struct Arguments {
    features: BTreeSet<Feature>,
    seeds: u64,
    from: u64,
    threads: usize,
    /// Stop at the first failure, and say how many seeds it took.
    first: bool,
    one: Option<Options>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        features: Feature::ALL.into(),
        seeds: 500,
        from: 0,
        threads: 2,
        first: false,
        one: None,
    };
    let mut options = Options::new(0);
    let mut single = false;
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text:?} is not a number"));
        match word.as_str() {
            "--seeds" => arguments.seeds = number(value()?)?,
            "--from" => arguments.from = number(value()?)?,
            "--threads" => arguments.threads = number(value()?)? as usize,
            "--seed" => (options.seed, single) = (number(value()?)?, true),
            "--first" => arguments.first = true,
            "--until" => options.faults_ms = number(value()?)?.min(FAULTS_MS),
            "--loud" => options.loud = true,
            "--only" => {
                let named = value()?;
                let features = named.split(',').map(|name| {
                    let all = Feature::ALL.map(Feature::name).join(", ");
                    Feature::parse(name).ok_or_else(|| format!("no feature {name:?}; there are {all}"))
                });
                arguments.features = features.collect::<Result<_, _>>()?;
            }
            "--off" => {
                for name in value()?.split(',') {
                    let fault = Fault::parse(name).ok_or_else(|| {
                        let all: Vec<String> = Fault::ALL.iter().map(|fault| fault.name()).collect();
                        format!("no fault class {name:?}; there are {}", all.join(", "))
                    })?;
                    options.off.insert(fault);
                }
            }
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    options.features.clone_from(&arguments.features);
    arguments.one = single.then_some(options);
    Ok(arguments)
}

fn main() -> ExitCode {
    // A panic of the engine is reported with its seed, once.
    std::panic::set_hook(Box::new(|_| {}));
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("error: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match &arguments.one {
        Some(options) => replay(options),
        None if arguments.first => first(&arguments),
        None => many(&arguments),
    }
}

fn replay(options: &Options) -> ExitCode {
    match run(options) {
        Ok(outcome) => {
            println!("seed {}: {outcome:?}", options.seed);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("seed {}: {error}", options.seed);
            ExitCode::FAILURE
        }
    }
}

fn first(arguments: &Arguments) -> ExitCode {
    let (from, seeds, threads) = (arguments.from, arguments.seeds, arguments.threads);
    let portion = threads.max(1) as u64 * 2;
    for at in (0..seeds).step_by(portion as usize) {
        let (_, failures) = run_many(from + at..from + (at + portion).min(seeds), &arguments.features, threads);
        if let Some((seed, error)) = failures.first() {
            println!("{} seeds: {error}", seed - from + 1);
            return ExitCode::FAILURE;
        }
    }
    println!("{seeds} seeds hold");
    ExitCode::SUCCESS
}

fn many(arguments: &Arguments) -> ExitCode {
    let (from, seeds) = (arguments.from, arguments.seeds);
    let (outcomes, failures) = run_many(from..from + seeds, &arguments.features, arguments.threads);
    let sum = |of: fn(&holdfast_sim::Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    println!(
        "{} of {seeds} seeds hold: {} entries, {} effects, {} crashes, {} stops by the disk, {} quarantines, {} heals, {} jobs",
        outcomes.len(),
        sum(|o| o.entries),
        sum(|o| o.effects),
        sum(|o| o.crashes),
        sum(|o| o.stops_by_disk),
        sum(|o| o.quarantines),
        sum(|o| o.heals),
        sum(|o| o.jobs),
    );
    for (seed, error) in &failures {
        println!("tests/sim/run --seed {seed}: {error}");
    }
    if let Some((seed, _)) = failures.first()
        && let Some((options, error)) = shrink::shrink(Options::only(*seed, &arguments.features))
    {
        println!("shrunk: {}: {error}", shrink::command(&options));
    }
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

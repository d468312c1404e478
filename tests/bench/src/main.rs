//! Figures of speed, each with its limit or as a ratio where the machine matters.
//!
//! `cargo run --release -p holdfast-bench -- [plan|fold|fleet|idle|call]...`; none: all. `--targets N` makes the fleet smaller.

mod clock;
mod figures;
mod fleet;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut targets = 2_000;
    let mut names = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--targets" {
            targets = words.next().and_then(|text| text.parse().ok()).unwrap_or(targets);
        } else {
            names.push(word);
        }
    }
    if names.is_empty() {
        names = ["idle", "plan", "fold", "call", "fleet"].map(str::to_owned).to_vec();
    }
    for name in names {
        match name.as_str() {
            "plan" => figures::plan(),
            "fold" => figures::fold(),
            "idle" => figures::idle(),
            "call" => figures::call(),
            "fleet" => fleet::fleet(targets),
            _ => {
                eprintln!("error: no figure {name:?}\nhint: there are plan, fold, fleet, idle and call");
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::SUCCESS
}

//! Examples, completions and manual pages: all from the one description of the command line.

use super::Cli;
use super::error::CliError;
use super::show::Out;
use clap::{Command, CommandFactory};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXIT_CODES: &str = "Exit codes:
  0  done; with `status --wait`: the commit is live
  1  it ran, and the answer is no: problems found, verification failed, refused, not live
  2  something is wrong with what was given
  3  something outside failed: no daemon, a file, the network
  4  `status --wait`: not decided in time";

/// Command, and how it is used.
const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "init",
        &[
            "holdfast init /srv/deploy.git",
            "holdfast --config prod.yaml init ssh://git@example.com/deploy.git",
            "holdfast init /srv/deploy.git --edge site-a",
        ],
    ),
    (
        "bundle pack",
        &[
            "holdfast bundle pack shop.wasm --layout bundles/shop --tag 1.4.2",
            "holdfast bundle pack site/ --layout bundles/site --tag 2026-11-24",
        ],
    ),
    (
        "plugin new",
        &[
            "holdfast plugin new my-plugin --lang rust",
            "holdfast plugin new my-plugin --lang python",
        ],
    ),
    ("plugin build", &["holdfast plugin build", "holdfast plugin build my-plugin"]),
    (
        "plugin inspect",
        &[
            "holdfast plugin inspect plugin.wasm",
            "holdfast plugin inspect registry.example.com/plugins/mine:1.0 --json",
        ],
    ),
    (
        "plugin diff",
        &["holdfast plugin diff mine-1.0.wasm mine-1.1.wasm          # 1: it wants more"],
    ),
    (
        "plugin test",
        &[
            "holdfast plugin test",
            "holdfast plugin test my-plugin --check fence --check resume",
            "holdfast plugin test --junit conformance.xml",
        ],
    ),
    (
        "plugin run",
        &[
            "holdfast plugin run check plugin.wasm --template '{}'",
            "holdfast plugin run observe plugin.wasm --target site-a --record observe.json",
            "holdfast plugin run observe plugin.wasm --replay observe.json",
        ],
    ),
    ("plugin bench", &["holdfast plugin bench --calls 5000"]),
    (
        "plugin simulate",
        &["holdfast plugin simulate simulation.json --listen 127.0.0.1:7620"],
    ),
    (
        "plugin approve",
        &["holdfast plugin approve mine --reason \"it may read the new API\""],
    ),
    (
        "plugin push",
        &[
            "holdfast plugin push plugin.wasm registry.example.com/plugins/mine:1.0",
            "holdfast plugin push plugin.wasm registry.example.com/plugins/mine:1.0 --sign plugin.key",
        ],
    ),
    (
        "plugin pull",
        &["holdfast plugin pull registry.example.com/plugins/mine:1.0 --into mine.wasm"],
    ),
    (
        "plugin verify",
        &["holdfast plugin verify mine.wasm --key ledger.example/sample+eb661133+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs"],
    ),
    (
        "run",
        &["holdfast run", "holdfast run --log-format json --log holdfast=debug"],
    ),
    ("demo", &["holdfast demo"]),
    (
        "validate",
        &[
            "holdfast validate .",
            "holdfast validate holdfast.yaml",
            "holdfast validate clusters/prod --json",
        ],
    ),
    ("plan", &["holdfast plan", "holdfast plan clusters/prod"]),
    (
        "status",
        &[
            "holdfast status",
            "holdfast status shop --json",
            "holdfast status --watch",
            "holdfast status --wait HEAD          # 0: live, 1: not live, 4: not decided in time",
            "holdfast status shop --wait 3f2a9c1 --timeout-s 600",
        ],
    ),
    ("sync", &["holdfast sync"]),
    (
        "rollback",
        &[
            "holdfast rollback shop --reason \"checkout is slow\"",
            "holdfast rollback shop --to 4be1c09d77aa",
        ],
    ),
    (
        "approve",
        &[
            "holdfast approve shop",
            "holdfast approve shop --step 100% --if-release 4be1c09d77aa",
        ],
    ),
    ("pause", &["holdfast pause shop --reason \"looking at the errors\""]),
    ("resume", &["holdfast resume shop"]),
    ("abort", &["holdfast abort shop --reason \"wrong prices\""]),
    ("advance", &["holdfast advance shop", "holdfast advance shop --if-step 25%"]),
    ("retry", &["holdfast retry shop --reason \"the registry is back\""]),
    ("deploy", &["holdfast deploy shop --now --reason \"the fix cannot wait\""]),
    (
        "freeze",
        &[
            "holdfast freeze shop --reason \"the fair\"",
            "holdfast freeze --target site-a --reason \"new cables\"",
        ],
    ),
    ("thaw", &["holdfast thaw shop", "holdfast thaw --target site-a"]),
    ("repin", &["holdfast repin shop registry.example.com/shop:1.4"]),
    ("allow-heals", &["holdfast allow-heals --reason \"the rack was rebuilt\""]),
    ("allow-removals", &["holdfast allow-removals shop"]),
    (
        "accept-rewrite",
        &["holdfast accept-rewrite 3f2a9c1d6b0e4c5a8f7e9d0b1a2c3d4e5f607182"],
    ),
    ("quarantine list", &["holdfast quarantine list"]),
    (
        "quarantine lift",
        &["holdfast quarantine lift shop 4be1c09d77aa --reason \"it was the database\""],
    ),
    (
        "ledger log",
        &[
            "holdfast ledger log",
            "holdfast ledger log -n 500 --workload shop --kind rollout",
        ],
    ),
    ("ledger show", &["holdfast ledger show 812"]),
    (
        "ledger verify",
        &[
            "holdfast ledger verify https://ledger.example.com/prod --key ledger.example/sample+eb661133+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs",
            "holdfast ledger verify",
            "holdfast ledger verify /mnt/copy/ledger --key ledger.example/sample+eb661133+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs --from checkpoint.march",
        ],
    ),
    (
        "ledger key new",
        &["holdfast ledger key new log.key --name holdfast.example.com/prod"],
    ),
    ("ledger key show", &["holdfast ledger key show"]),
    (
        "ledger key rotate",
        &["holdfast ledger key rotate log-2027.key --reason yearly"],
    ),
    ("ledger prove", &["holdfast ledger prove 812 815 --into evidence"]),
    (
        "ledger check",
        &[
            "holdfast ledger check evidence/812.json --key ledger.example/sample+eb661133+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs",
        ],
    ),
    (
        "ledger export",
        &[
            "holdfast ledger export --format csv > ledger.csv",
            "holdfast ledger export --proof --from 800",
        ],
    ),
    (
        "ledger prune",
        &["holdfast ledger prune --below 256000 --export /mnt/archive/ledger-2026.jsonl --reason retention"],
    ),
    ("ledger forget", &["holdfast ledger forget ada@example.com --reason request"]),
    ("ledger tail", &["holdfast ledger tail"]),
    ("ledger backup", &["holdfast ledger backup /mnt/backup/ledger"]),
    (
        "ledger new-epoch",
        &["holdfast ledger new-epoch --from 812 --reason disk-failed"],
    ),
    (
        "ledger restore",
        &["holdfast ledger restore /mnt/backup/ledger --from checkpoint"],
    ),
    (
        "witness",
        &[
            "holdfast witness --dir witness --key witness.key --log-key ledger.example/sample+eb661133+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs",
        ],
    ),
    (
        "audit digest",
        &[
            "holdfast audit digest sha256:9f86d081884c",
            "holdfast audit digest 9f86d081884c --json",
        ],
    ),
    (
        "audit target",
        &[
            "holdfast audit target site-a",
            "holdfast audit target site-a --proof evidence",
        ],
    ),
    (
        "audit workload",
        &[
            "holdfast audit workload shop",
            "holdfast audit workload shop --as-of 2026-11-24",
        ],
    ),
    (
        "audit tags",
        &[
            "holdfast audit tags registry.example.com/shop:1.4",
            "holdfast audit tags registry.example.com/shop:1.4 --from 2026-11-01 --to 2026-12-01",
        ],
    ),
    ("audit attest", &["holdfast audit attest shop@site-a > deploy.dsse.json"]),
    (
        "audit drift",
        &["holdfast audit drift", "holdfast audit drift --target site-a --all"],
    ),
    ("audit unsigned", &["holdfast audit unsigned --as-of 2026-11-24"]),
    (
        "audit retention",
        &["holdfast audit retention", "holdfast audit retention shop -n 5"],
    ),
    (
        "audit dora",
        &[
            "holdfast audit dora",
            "holdfast audit dora --by team --since 2026-11-01 --until 2026-12-01",
        ],
    ),
    (
        "incident open",
        &["holdfast incident open --deploy d1-42 --reason \"checkout is slow\""],
    ),
    ("incident close", &["holdfast incident close --deploy d1-42"]),
    ("audit why", &["holdfast audit why d1-42", "holdfast audit why shop@site-a"]),
    (
        "explain",
        &["holdfast explain Workload", "holdfast explain Workload.strategy.canary.steps"],
    ),
    (
        "schema",
        &[
            "holdfast schema > manifests.schema.json",
            "holdfast schema --operator > holdfast.schema.json",
        ],
    ),
    (
        "completions",
        &[
            "holdfast completions bash > /etc/bash_completion.d/holdfast",
            "holdfast completions zsh > ~/.zfunc/_holdfast",
            "holdfast completions fish > ~/.config/fish/completions/holdfast.fish",
        ],
    ),
    (
        "man",
        &["holdfast man | man -l -", "holdfast man --dir /usr/local/share/man/man1"],
    ),
    (
        "edge-node",
        &["holdfast edge-node --dir /var/lib/site --token-file /etc/site.token --registries registries.yaml"],
    ),
];

#[derive(clap::Args)]
pub struct ManArgs {
    /// Write one page for each command into this directory
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// The command line, with its examples.
pub fn command() -> Command {
    with_examples(Cli::command(), "").after_help(EXIT_CODES)
}

fn with_examples(command: Command, path: &str) -> Command {
    let command = match EXAMPLES.iter().find(|(of, _)| *of == path) {
        Some((_, examples)) => command.after_help(format!("Examples:\n  {}", examples.join("\n  "))),
        None => command,
    };
    command.mut_subcommands(|sub| {
        let path = format!("{path} {}", sub.get_name()).trim_start().to_owned();
        with_examples(sub, &path)
    })
}

pub fn completions(shell: clap_complete::Shell, out: &Out) -> Result<ExitCode, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "holdfast", &mut script);
    out.write(&String::from_utf8_lossy(&script));
    Ok(ExitCode::SUCCESS)
}

pub fn man(args: &ManArgs, out: &Out) -> Result<ExitCode, CliError> {
    let mut command = command().disable_help_subcommand(true);
    command.build();
    match &args.dir {
        None => out.write(&page(&command)?),
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(|source| CliError::io(format!("{} cannot be made", dir.display()), source))?;
            write_pages(&command, dir)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn page(command: &Command) -> Result<String, CliError> {
    let mut roff = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut roff)
        .map_err(|source| CliError::io("the manual page cannot be made", source))?;
    Ok(String::from_utf8_lossy(&roff).into_owned())
}

/// `holdfast.1`, `holdfast-audit.1`, `holdfast-audit-why.1` ...
fn write_pages(command: &Command, dir: &Path) -> Result<(), CliError> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let file = dir.join(format!("{name}.1"));
    std::fs::write(&file, page(command)?)
        .map_err(|source| CliError::io(format!("{} cannot be written", file.display()), source))?;
    let mut shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    shown.try_for_each(|sub| write_pages(sub, dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(command: &Command, path: &str, missing: &mut Vec<String>) {
        if command.get_about().is_none() {
            missing.push(format!("{path}: what it does"));
        }
        for arg in command.get_arguments() {
            if arg.get_help().is_none() && !arg.is_hide_set() {
                missing.push(format!("{path}: what {} is", arg.get_id()));
            }
        }
        let subs: Vec<&Command> = command.get_subcommands().filter(|sub| !sub.is_hide_set()).collect();
        if subs.is_empty() && command.get_after_help().is_none() {
            missing.push(format!("{path}: an example"));
        }
        for sub in subs {
            walk(sub, &format!("{path} {}", sub.get_name()), missing);
        }
    }

    #[test]
    fn every_command_is_explained_with_an_example() {
        let mut missing = Vec::new();
        walk(&command(), "holdfast", &mut missing);
        assert!(missing.is_empty(), "missing:\n{}", missing.join("\n"));
    }

    #[test]
    fn examples_are_commands() {
        for (path, examples) in EXAMPLES {
            for example in *examples {
                let line = example.split(['#', '|', '>']).next().unwrap_or_default();
                let mut words = Vec::new();
                // Quoted words are one argument.
                for (index, part) in line.split('"').enumerate() {
                    match index % 2 {
                        0 => words.extend(part.split_whitespace().map(str::to_owned)),
                        _ => words.push(part.to_owned()),
                    }
                }
                let parsed = command().try_get_matches_from(&words);
                assert!(
                    parsed.is_ok(),
                    "{path}: {example}: {}",
                    parsed.err().map(|e| e.to_string()).unwrap_or_default()
                );
            }
        }
    }

    #[test]
    fn a_manual_page_for_each_command() {
        let dir = tempfile::tempdir().unwrap();
        let out = Out::new(false);
        let to = dir.path().join("man1");
        man(&ManArgs { dir: Some(to.clone()) }, &out).unwrap();
        for (name, text) in [
            ("holdfast.1", "tamper\\-evident"),
            ("holdfast-approve.1", "holdfast approve shop"),
            ("holdfast-quarantine-lift.1", "Beginning of the release id"),
        ] {
            let page = std::fs::read_to_string(to.join(name)).unwrap();
            assert!(page.starts_with(".ie") && page.contains(text), "{name}: {page}");
        }
        assert!(!to.join("holdfast-demo-traffic.1").exists());
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }
}

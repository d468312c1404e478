//! `ledger new-epoch`: a person gives up what is lost, and the log goes on under another name.

use super::ledger_dir;
use crate::api::user_name;
use crate::cli::error::CliError;
use crate::cli::show::Out;
use crate::operator;
use holdfast_core::engine::rfc3339;
use holdfast_core::entry::{Body, By, Command, CommandVerb, ENTRY_VERSION, Entry, On, Precondition};
use holdfast_ledger::epoch::{LOST_DIR, begin_epoch};
use holdfast_ledger::{Ledger, Options, load_state};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct NewEpochArgs {
    /// The first entry that is given up, as `ledger verify` names it; for an old copy that is whole: the number of its entries
    #[arg(long, value_name = "SEQ")]
    from: u64,
    /// Why, for the ledger
    #[arg(long)]
    reason: String,
}

pub fn new_epoch(config: &Path, args: &NewEpochArgs, out: &Out) -> Result<ExitCode, CliError> {
    operator::load(config)?;
    let dir = ledger_dir(config, None)?;
    let (mut ledger, report) = Ledger::open_read_only(&dir, Options::default())?;
    let (kept, epoch) = (report.size, report.epoch + 1);
    let first_damaged = report.loss.as_ref().map_or(kept, |loss| loss.first_damaged_seq);
    if args.from != first_damaged && args.from != kept {
        return Err(CliError::usage(
            format!("entry {} is not where the ledger ends to be whole", args.from),
            format!("its first {kept} entries are whole and committed: `--from {kept}` gives up what comes after them"),
        ));
    }
    if args.reason.trim().is_empty() {
        return Err(CliError::usage("a reason is needed", "--reason TEXT: it stays in the ledger"));
    }
    let (state, _) = load_state(&mut ledger)?;
    drop(ledger);
    let (acknowledged, found) = match &report.loss {
        Some(loss) => (loss.acknowledged, loss.what.clone()),
        None => (kept, "the log was whole".to_owned()),
    };
    let wall_ms = crate::shell::unix_ms();
    let command = Entry {
        v: ENTRY_VERSION,
        seq: kept,
        term: state.term,
        t: state.t,
        wall: rfc3339(wall_ms),
        by: By {
            kind: "user".into(),
            id: user_name(rustix::process::getuid().as_raw()),
            auth: "process".into(),
        },
        on: On::default(),
        because: Vec::new(),
        blobs: Default::default(),
        body: Body::Command(Command {
            verb: CommandVerb::NewEpoch {
                epoch,
                acknowledged,
                found,
            },
            reason: args.reason.clone(),
            key: format!("new-epoch-{wall_ms}"),
            only_if: Precondition::default(),
        }),
    };
    let begun = begin_epoch(&dir, &Options::default(), &command)?;
    let lost = dir.join(LOST_DIR).join(report.epoch.to_string());
    if out.is_json {
        out.json(&json!({ "epoch": begun.epoch, "entries": begun.size, "lost": lost.display().to_string() }));
    } else {
        out.line(&format!(
            "epoch {} begins with entry {kept}; what is left of epoch {} is in {}",
            begun.epoch,
            report.epoch,
            lost.display()
        ));
        out.line(
            "The log's name ends in the epoch's number from here on: witnesses have to be told, and a checkpoint kept from before shows what is missing.",
        );
    }
    Ok(ExitCode::SUCCESS)
}

//! What of the ledger need not be kept where it is published: bundles that somebody has exported, and addresses of people.

use super::ledger_dir;
use super::proofs::{Keys, with_former};
use crate::cli::commands::{Why, command};
use crate::cli::error::CliError;
use crate::cli::show::Out;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_core::engine::Wish;
use holdfast_core::ids::Digest;
use holdfast_ledger::tlog::proof::TlogProof;
use holdfast_ledger::tlog::tile::TILE_WIDTH;
use holdfast_ledger::{Ledger, Options, load_state};
use serde::Deserialize;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct PruneArgs {
    /// Bundles of entries below may go; rounded down to a multiple of 256
    #[arg(long, value_name = "SEQ")]
    below: u64,
    /// What `ledger export --proof` wrote: every entry below that is still published has to be in it, with its proof
    #[arg(long, value_name = "FILE")]
    export: PathBuf,
    #[command(flatten)]
    why: Why,
}

#[derive(clap::Args)]
pub struct ForgetArgs {
    /// E-mail address, as in the commits
    address: String,
    #[command(flatten)]
    why: Why,
}

/// A line of `ledger export --proof`.
#[derive(Deserialize)]
struct Exported {
    entry: String,
    proof: String,
}

pub fn prune(config: &Path, args: &PruneArgs, out: &Out) -> Result<ExitCode, CliError> {
    let below = args.below - args.below % TILE_WIDTH;
    let dir = ledger_dir(config, None)?;
    let (mut ledger, _) = Ledger::open_read_only(&dir, Options::default())?;
    let (state, _) = load_state(&mut ledger)?;
    drop(ledger);
    let export = check(config, &args.export, state.bundles_from, below)?;
    command(config, None, None, Wish::PruneBundles { below, export }, &args.why, out)
}

/// Digest of an export that has every entry from `from` to `below`, proven.
fn check(config: &Path, file: &Path, from: u64, below: u64) -> Result<Digest, CliError> {
    let shown = file.display();
    let (keys, policy) = Keys::default().with_configured(config)?;
    let keys = with_former(config, keys)?;
    let bytes = std::fs::read(file).map_err(|source| CliError::io(format!("{shown} cannot be read"), source))?;
    let mut next = from;
    for (number, line) in (1..).zip(bytes.lines()) {
        let line = line.map_err(|source| CliError::io(format!("{shown}:{number}"), source))?;
        let refuse = |why: String| CliError::usage(format!("{shown}:{number}: {why}"), "`holdfast ledger export --proof`");
        let exported: Exported = serde_json::from_str(&line).map_err(|error| refuse(error.to_string()))?;
        let entry = STANDARD.decode(&exported.entry).map_err(|error| refuse(error.to_string()))?;
        let proof: TlogProof = exported.proof.parse().map_err(|error| refuse(format!("{error}")))?;
        proof
            .verify(&entry, &keys, &policy)
            .map_err(|error| refuse(error.to_string()))?;
        if proof.index == next {
            next += 1;
        }
    }
    if next < below {
        return Err(CliError::usage(
            format!("{shown} has no entry {next}"),
            format!("`holdfast ledger export --proof --from {from} --to {below}`"),
        ));
    }
    Ok(Digest::of(&bytes))
}

pub fn forget(config: &Path, args: &ForgetArgs, out: &Out) -> Result<ExitCode, CliError> {
    let address = args.address.clone();
    command(config, None, None, Wish::ForgetAddress { address }, &args.why, out)
}

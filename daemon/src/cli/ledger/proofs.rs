//! Keys of the log, and proofs of single entries that anybody can check with the log's public key.

use super::{ledger_dir, open};
use crate::cli::commands::{Why, command};
use crate::cli::error::{CliError, NEGATIVE};
use crate::cli::show::{Out, Tone};
use crate::operator;
use crate::shell::witness_policy;
use holdfast_core::engine::Wish;
use holdfast_ledger::tlog::TLOG_DIR;
use holdfast_ledger::tlog::checkpoint::Checkpoint;
use holdfast_ledger::tlog::key;
use holdfast_ledger::tlog::note::{KeyKind, Note, SignerKey, VerifierKey};
use holdfast_ledger::tlog::proof::TlogProof;
use holdfast_ledger::tlog::rotation::{Rotation, former};
use holdfast_ledger::tlog::witness::Policy;
use holdfast_ledger::{Ledger, Options, Reader, load_state};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum KeyCommand {
    /// Make a secret key in a new file, mode 0600, and print its verifier key
    New {
        /// The file; not inside the data directory
        file: PathBuf,
        /// Name of the log (or witness): a host name and path that are yours, as in holdfast.example.com/prod
        #[arg(long)]
        name: String,
        /// A witness's key instead of a log's
        #[arg(long)]
        witness: bool,
    },
    /// Put another key in the place of the log's: an entry says so, signed by both, and from there on only the new one signs
    Rotate {
        /// File of the new key; made if it is not there. Not inside the data directory
        file: PathBuf,
        #[command(flatten)]
        why: Why,
    },
    /// Print the verifier key of a secret key: give it to everybody who verifies
    Show {
        /// File of a secret key; default: `ledger.key_file` of the configuration
        file: Option<PathBuf>,
    },
}

/// What whoever checks knows from elsewhere.
#[derive(clap::Args, Default)]
pub struct Keys {
    /// Verifier key of the log; may be given more than once
    #[arg(long = "key", value_name = "VKEY")]
    pub keys: Vec<VerifierKey>,
    /// Verifier key of a witness that has to have cosigned
    #[arg(long = "witness", value_name = "VKEY")]
    witnesses: Vec<VerifierKey>,
    /// How many of the witnesses have to have; default: all that are named
    #[arg(long, value_name = "N", requires = "witnesses")]
    needed: Option<usize>,
}

impl Keys {
    /// What is not given is the configuration's, if there is one: an auditor with a copy has none.
    pub fn with_configured(&self, config: &Path) -> Result<(Vec<VerifierKey>, Policy), CliError> {
        let needed = self.needed.unwrap_or(self.witnesses.len());
        let given = Policy::new(needed, self.witnesses.clone()).map_err(|error| CliError::usage(error.to_string(), ""))?;
        if !self.keys.is_empty() || !config.exists() {
            return Ok((self.keys.clone(), given));
        }
        let operator = operator::load(config)?;
        let Some(ledger) = &operator.ledger else {
            return Ok((Vec::new(), given));
        };
        let keys = vec![
            key::load(&ledger.key_file, Some(&operator.data), KeyKind::Log)?
                .verifier()
                .clone(),
        ];
        let policy = if self.witnesses.is_empty() {
            witness_policy(ledger)?
        } else {
            given
        };
        Ok((keys, policy))
    }
}

/// The keys with those that they replaced, as far as the configured ledger knows.
pub fn with_former(config: &Path, mut keys: Vec<VerifierKey>) -> Result<Vec<VerifierKey>, CliError> {
    let dir = operator::load(config)?.ledger_dir();
    let [key] = &keys[..] else { return Ok(keys) };
    if !dir.is_dir() {
        return Ok(keys);
    }
    let (mut ledger, _) = Ledger::open_read_only(&dir, Options::default())?;
    let (state, _) = load_state(&mut ledger)?;
    let former = former(key, &state.log_keys).map_err(|error| CliError::usage(error.to_string(), "see `ledger.key_file`"))?;
    keys.extend(former.into_iter().map(|former| former.key));
    Ok(keys)
}

fn rotate(config: &Path, file: &Path, why: &Why, out: &Out) -> Result<ExitCode, CliError> {
    let old = log_key(config)?;
    let data = operator::load(config)?.data;
    let file = std::path::absolute(file).map_err(|source| CliError::io(format!("{}", file.display()), source))?;
    let Some(key_file) = file.to_str().map(str::to_owned) else {
        return Err(CliError::usage(format!("{} is no UTF-8", file.display()), ""));
    };
    // A command that was interrupted is given again.
    let new = match file.exists() {
        true => key::load(&file, Some(&data), KeyKind::Log)?,
        false => key::create(&file, Some(&data), old.verifier().name(), KeyKind::Log)?,
    };
    let note = Rotation::sign(&old, &new).map_err(|error| {
        CliError::usage(
            format!("{}: {error}", file.display()),
            "`ledger.key_file` has to name the present key",
        )
    })?;
    command(config, None, None, Wish::RotateLogKey { note, key_file }, why, out)?;
    if !out.is_json {
        out.line(&format!("new key: {}", new.verifier()));
        out.line(&format!(
            "Before the daemon is started again, `ledger.key_file` has to name {}: with the old key it will not start.\n\
             Whoever verifies with the old key follows by itself. Witnesses have to be told the new one (`holdfast witness --log-key`).",
            file.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub fn key(config: &Path, command: &KeyCommand, out: &Out) -> Result<ExitCode, CliError> {
    let signer = match command {
        KeyCommand::Rotate { file, why } => return rotate(config, file, why, out),
        KeyCommand::New { file, name, witness } => {
            let kind = if *witness { KeyKind::Witness } else { KeyKind::Log };
            // Where there is a configuration, the key must not end up in its data directory.
            let data = match config.exists() {
                true => Some(operator::load(config)?.data),
                false => None,
            };
            key::create(file, data.as_deref(), name, kind)?
        }
        KeyCommand::Show { file } => load_any(config, file.as_deref())?,
    };
    let verifier = signer.verifier().to_string();
    if out.is_json {
        out.json(&json!({ "name": signer.verifier().name(), "key": verifier }));
    } else {
        out.line(&verifier);
    }
    Ok(ExitCode::SUCCESS)
}

fn load_any(config: &Path, file: Option<&Path>) -> Result<SignerKey, CliError> {
    let Some(file) = file else { return log_key(config) };
    match key::load(file, None, KeyKind::Log) {
        Err(key::KeyError::Kind { .. }) => Ok(key::load(file, None, KeyKind::Witness)?),
        loaded => Ok(loaded?),
    }
}

/// The key that the configuration names.
pub fn log_key(config: &Path) -> Result<SignerKey, CliError> {
    let operator = operator::load(config)?;
    match &operator.ledger {
        Some(ledger) => Ok(key::load(&ledger.key_file, Some(&operator.data), KeyKind::Log)?),
        None => Err(CliError::usage(
            "the configuration names no key".to_owned(),
            "`holdfast ledger key new` makes one; name it under `ledger.key_file`",
        )),
    }
}

/// Proves entries under the checkpoint that is published now.
pub struct Prover {
    ledger: Reader,
    /// The signed note, whole.
    text: String,
    checkpoint: Checkpoint,
}

impl Prover {
    pub fn open(dir: &Path) -> Result<Self, CliError> {
        let file = dir.join(TLOG_DIR).join("checkpoint");
        let text = std::fs::read_to_string(&file).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => CliError::usage(
                "no checkpoint is published for this ledger".to_owned(),
                "name a key under `ledger.key_file`: the daemon signs checkpoints with it",
            ),
            _ => CliError::io(format!("{} cannot be read", file.display()), source),
        })?;
        let damaged = |error: &dyn std::fmt::Display| CliError::usage(format!("{}: {error}", file.display()), "");
        let note = Note::parse(text.as_bytes()).map_err(|error| damaged(&error))?;
        let checkpoint = Checkpoint::parse(&note.text).map_err(|error| damaged(&error))?;
        // After the checkpoint, so that the log has all of it.
        let ledger = open(dir)?;
        Ok(Self {
            ledger,
            text,
            checkpoint,
        })
    }

    pub fn proof(&self, seq: u64) -> Result<TlogProof, CliError> {
        let size = self.checkpoint.size;
        if seq >= size {
            return Err(CliError::usage(
                format!("the published checkpoint has {size} entries, and entry {seq} is not among them"),
                "the daemon publishes within a second; try again",
            ));
        }
        Ok(TlogProof {
            extra: None,
            index: seq,
            path: self.ledger.inclusion_proof(seq, size)?,
            checkpoint: self.text.clone(),
        })
    }

    /// `SEQ.json` and `SEQ.json.tlog-proof` in `into`: an entry's bytes, and what proves them.
    pub fn write(&self, seqs: impl IntoIterator<Item = u64>, into: &Path) -> Result<Vec<PathBuf>, CliError> {
        let fail = |path: &Path, source| CliError::io(format!("{} cannot be written", path.display()), source);
        std::fs::create_dir_all(into).map_err(|source| fail(into, source))?;
        let mut written = Vec::new();
        for seq in seqs {
            let proof = self.proof(seq)?.to_string();
            let files = [into.join(format!("{seq}.json")), into.join(format!("{seq}.json.tlog-proof"))];
            for (file, bytes) in files.into_iter().zip([self.ledger.raw_entry(seq)?, proof.into_bytes()]) {
                std::fs::write(&file, bytes).map_err(|source| fail(&file, source))?;
                written.push(file);
            }
        }
        Ok(written)
    }
}

pub fn prove(config: &Path, seqs: &[u64], into: &Path, dir: Option<&Path>, out: &Out) -> Result<ExitCode, CliError> {
    let written = Prover::open(&ledger_dir(config, dir)?)?.write(seqs.iter().copied(), into)?;
    let shown: Vec<String> = written.iter().map(|file| file.display().to_string()).collect();
    if out.is_json {
        out.json(&json!({ "files": shown }));
    } else {
        shown.iter().for_each(|file| out.line(file));
    }
    Ok(ExitCode::SUCCESS)
}

/// Needs nothing of the ledger: an entry, its proof and the log's key.
pub fn check(config: &Path, entry: &Path, proof: Option<&Path>, keys: &Keys, out: &Out) -> Result<ExitCode, CliError> {
    let beside = PathBuf::from(format!("{}.tlog-proof", entry.display()));
    let proof = proof.unwrap_or(&beside);
    let read =
        |path: &Path| std::fs::read(path).map_err(|source| CliError::io(format!("{} cannot be read", path.display()), source));
    let (bytes, text) = (read(entry)?, String::from_utf8_lossy(&read(proof)?).into_owned());
    let is_configured = keys.keys.is_empty();
    let (mut keys, policy) = keys.with_configured(config)?;
    if is_configured && !keys.is_empty() {
        keys = with_former(config, keys)?;
    }
    if keys.is_empty() {
        return Err(CliError::usage(
            "without the log's key nothing is proven".to_owned(),
            "--key VKEY, as `holdfast ledger key show` prints it",
        ));
    }
    let checked = text
        .parse::<TlogProof>()
        .and_then(|proof| Ok((proof.index, proof.verify(&bytes, &keys, &policy)?)));
    match checked {
        Ok((index, signed)) => {
            let head = &signed.checkpoint;
            if out.is_json {
                out.json(&json!({ "ok": true, "entry": index, "origin": head.origin, "size": head.size }));
            } else {
                let text = format!("ok: it is entry {index} of {} as of {} entries", head.origin, head.size);
                out.line(&out.paint(Tone::Good, &text));
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            if out.is_json {
                out.json(&json!({ "ok": false, "message": error.to_string() }));
            } else {
                out.line(&out.paint(Tone::Bad, &error.to_string()));
            }
            Ok(ExitCode::from(NEGATIVE))
        }
    }
}

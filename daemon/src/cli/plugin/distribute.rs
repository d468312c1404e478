//! `plugin push`, `pull` and `verify`: Wasm OCI artifacts, pinned by digest, and signed if somebody vouches for them.
//!
//! A signature is a C2SP signed note over id, version and digest, as the ledger's own; it travels as an annotation of the
//! manifest, and lies beside a pulled file.

use super::{Component, RegistryArgs, cannot, fetch, unusable};
use crate::cli::error::{CliError, NEGATIVE};
use crate::cli::show::Out;
use crate::plugin_note::{ANNOTATION, note_file, note_text, signers};
use holdfast_ledger::tlog::key;
use holdfast_ledger::tlog::note::{KeyKind, Note, VerifierKey};
use holdfast_registry::Reference;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct PushArgs {
    /// The component
    file: PathBuf,
    /// Where to, with a tag
    reference: String,
    /// Secret key to sign it with: `holdfast ledger key new FILE --name NAME` makes one
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
    #[command(flatten)]
    registries: RegistryArgs,
}

#[derive(clap::Args)]
pub struct PullArgs {
    /// What to pull
    reference: String,
    /// File to write
    #[arg(long, value_name = "FILE")]
    into: PathBuf,
    /// Verifier key of somebody whose signature it has to have
    #[arg(long = "key", value_name = "VKEY")]
    keys: Vec<VerifierKey>,
    #[command(flatten)]
    registries: RegistryArgs,
}

#[derive(clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    component: Component,
    /// Verifier key of somebody whose signature counts
    #[arg(long = "key", value_name = "VKEY", required = true)]
    keys: Vec<VerifierKey>,
}

pub fn push(config: &Path, args: &PushArgs, out: &Out) -> Result<ExitCode, CliError> {
    let component = super::read_component(&args.file)?;
    let inspection = holdfast_host::inspect(&component).map_err(unusable)?;
    if inspection.metadata.is_none() {
        return Err(CliError::usage(
            format!("{} has no metadata", args.file.display()),
            "`holdfast plugin build` puts it in: an operator wants to see what a plugin wants",
        ));
    }
    let reference =
        Reference::parse(&args.reference).map_err(|error| CliError::usage(format!("{}: {error}", args.reference), ""))?;
    let mut annotations = BTreeMap::new();
    if let Some(file) = &args.sign {
        let key = key::load(file, None, KeyKind::Log)?;
        let note = Note::sign(note_text(&inspection), &[&key]);
        annotations.insert(ANNOTATION.to_owned(), note.to_string());
    }
    let registries = args.registries.open(config)?;
    let pushed = super::super::run::runtime()?.block_on(registries.push_component(&reference, &component, &annotations));
    let digest = pushed.map_err(|error| CliError::io(format!("{reference} cannot be pushed"), std::io::Error::other(error)))?;
    let source = reference.source();
    if out.is_json {
        out.json(
            &json!({ "reference": format!("{source}@{digest}"), "component": inspection.digest, "signed": args.sign.is_some() }),
        );
    } else {
        out.line(&format!("{reference} is {source}@{digest}"));
    }
    Ok(ExitCode::SUCCESS)
}

pub fn pull(config: &Path, args: &PullArgs, out: &Out) -> Result<ExitCode, CliError> {
    let (component, pulled) = fetch(config, &args.reference, &args.registries)?;
    let inspection = holdfast_host::inspect(&component).map_err(unusable)?;
    let note = pulled.and_then(|pulled| pulled.annotations.get(ANNOTATION).cloned());
    let by = signers(&inspection, note.as_deref(), &args.keys);
    if !args.keys.is_empty() && by.is_empty() {
        crate::cli::error::say("error: none of the keys has signed it; nothing was written");
        return Ok(ExitCode::from(NEGATIVE));
    }
    std::fs::write(&args.into, &component).map_err(cannot(&args.into, "written"))?;
    if let Some(note) = &note {
        let file = note_file(&args.into);
        std::fs::write(&file, note).map_err(cannot(&file, "written"))?;
    }
    let name = args
        .into
        .file_stem()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let pin = format!(
        "plugins: {{ {name}: {{ file: {}, digest: \"{}\" }} }}",
        args.into.display(),
        inspection.digest
    );
    if out.is_json {
        out.json(&json!({ "file": args.into, "digest": inspection.digest, "signed_by": by, "pin": pin }));
    } else {
        out.line(&format!(
            "{} is written; it is pinned in holdfast.yaml by",
            args.into.display()
        ));
        out.line(&pin);
    }
    Ok(ExitCode::SUCCESS)
}

pub fn verify(config: &Path, args: &VerifyArgs, out: &Out) -> Result<ExitCode, CliError> {
    let (component, pulled) = fetch(config, &args.component.component, &args.component.registries)?;
    let inspection = holdfast_host::inspect(&component).map_err(unusable)?;
    let note = match pulled {
        Some(pulled) => pulled.annotations.get(ANNOTATION).cloned(),
        None => std::fs::read_to_string(note_file(Path::new(&args.component.component))).ok(),
    };
    let by = signers(&inspection, note.as_deref(), &args.keys);
    if out.is_json {
        out.json(&json!({ "digest": inspection.digest, "signed_by": by }));
    } else if by.is_empty() {
        let why = if note.is_some() {
            "its signature is by none of the keys, or over something else"
        } else {
            "it has no signature"
        };
        out.line(&format!("{}: {why}", inspection.digest));
    } else {
        out.line(&format!("{} is signed by {}", inspection.digest, by.join(", ")));
    }
    Ok(ExitCode::from(if by.is_empty() { NEGATIVE } else { 0 }))
}

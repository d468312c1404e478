//! `plugin inspect` and `plugin diff`: what a component says of itself, read and not run.

use super::{Component, RegistryArgs, fetch, unusable};
use crate::cli::error::{CliError, NEGATIVE};
use crate::cli::show::Out;
use holdfast_host::{Inspection, newly_wanted};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

pub fn inspect(config: &Path, component: &Component, out: &Out) -> Result<ExitCode, CliError> {
    let (bytes, _) = fetch(config, &component.component, &component.registries)?;
    let inspection = holdfast_host::inspect(&bytes).map_err(unusable)?;
    if out.is_json {
        out.json(&serde_json::to_value(&inspection).unwrap_or_default());
    } else {
        show(&inspection, out);
    }
    Ok(ExitCode::from(if inspection.supported { 0 } else { NEGATIVE }))
}

fn show(inspection: &Inspection, out: &Out) {
    let versions: Vec<&str> = inspection.versions.iter().map(String::as_str).collect();
    let mut rows = vec![
        vec!["digest".into(), inspection.digest.to_string()],
        vec!["size".into(), format!("{} bytes", inspection.size_bytes)],
        vec![
            "world".into(),
            match (versions.as_slice(), inspection.supported) {
                ([], _) => "exports no holdfast:target/target: this is no plugin".into(),
                (versions, true) => format!("holdfast:target {}", versions.join(", ")),
                (versions, false) => format!(
                    "holdfast:target {}: not supported; this holdfast calls {}",
                    versions.join(", "),
                    holdfast_host::SUPPORTED_VERSIONS.join(", ")
                ),
            },
        ],
        vec![
            "exports".into(),
            inspection.exports.iter().cloned().collect::<Vec<_>>().join(" "),
        ],
        vec![
            "imports".into(),
            inspection.imports.iter().cloned().collect::<Vec<_>>().join(" "),
        ],
    ];
    let Some(metadata) = &inspection.metadata else {
        rows.push(vec!["metadata".into(), "none: what it wants is not known".into()]);
        return out.table(&["WHAT", ""], &rows);
    };
    let mut more = |name: &str, text: String| rows.push(vec![name.into(), text]);
    more("id", format!("{} {}", metadata.id, metadata.version));
    more("about", metadata.description.clone());
    more("licence", metadata.licence.clone());
    more("source", metadata.source.clone());
    more(
        "optional",
        metadata.capabilities.iter().cloned().collect::<Vec<_>>().join(" "),
    );
    more(
        "memory",
        metadata
            .limits
            .memory_mib
            .map_or("what the host gives".into(), |mib| format!("{mib} MiB")),
    );
    more("config", metadata.config.to_string());
    rows.retain(|row| !row[1].is_empty());
    out.table(&["WHAT", ""], &rows);
    let wants = metadata.wants.iter().flat_map(|want| {
        want.rules.iter().map(|rule| {
            let effect = serde_json::to_value(rule.effect).unwrap_or_default();
            let effect = effect.as_str().unwrap_or_default().to_owned();
            vec![
                want.alias.clone(),
                effect,
                rule.methods.join(","),
                rule.path.clone(),
                want.why.clone(),
            ]
        })
    });
    let wants: Vec<Vec<String>> = wants.collect();
    if wants.is_empty() {
        return out.line("It wants to reach nothing.");
    }
    out.line("It wants, and gets no more than this and the operator's rules both grant:");
    out.table(&["ENDPOINT", "EFFECT", "METHODS", "PATH", "WHY"], &wants);
}

/// Exit code 1: it wants more.
pub fn diff(config: &Path, old: &str, new: &str, registries: &RegistryArgs, out: &Out) -> Result<ExitCode, CliError> {
    let read = |place: &str| -> Result<Inspection, CliError> {
        let (bytes, _) = fetch(config, place, registries)?;
        holdfast_host::inspect(&bytes).map_err(|error| CliError::usage(format!("{place}: {error}"), ""))
    };
    let (old, new) = (read(old)?, read(new)?);
    let wants = newly_wanted(old.metadata.as_ref(), new.metadata.as_ref());
    let names = |of: &Inspection, than: &Inspection| of.exports.difference(&than.exports).cloned().collect::<Vec<_>>();
    let (more, fewer) = (names(&new, &old), names(&old, &new));
    let unknown = old.metadata.is_none();
    if out.is_json {
        out.json(
            &json!({ "wants": wants, "exports_more": more, "exports_no_longer": fewer, "old": old.digest, "new": new.digest,
            "old_wants_unknown": unknown }),
        );
    } else {
        if unknown {
            out.line("The old one has no metadata: it could already reach all that the operator grants.");
        }
        for (what, names) in [("exports more", &more), ("exports no longer", &fewer)] {
            if !names.is_empty() {
                out.line(&format!("It {what}: {}", names.join(" ")));
            }
        }
        if wants.is_empty() {
            out.line("It wants nothing that the old one did not.");
        } else {
            out.line("It newly wants:");
            let rows: Vec<Vec<String>> = wants
                .iter()
                .map(|want| vec![want.alias.clone(), want.method.clone(), want.path.clone(), want.why.clone()])
                .collect();
            out.table(&["ENDPOINT", "METHOD", "PATH", "WHY"], &rows);
        }
    }
    Ok(ExitCode::from(if wants.is_empty() { 0 } else { NEGATIVE }))
}

//! `explain`: what a field of a manifest is, from the same table that manifests are read by.

use super::error::CliError;
use super::show::{Out, Tone};
use holdfast_core::manifest::{Explained, explain as of_path};
use std::process::ExitCode;

pub fn explain(path: &str, out: &Out) -> Result<ExitCode, CliError> {
    let explained = of_path(path).map_err(|error| {
        let hint = error.hint.clone();
        CliError::usage(error.to_string(), hint)
    })?;
    if out.is_json {
        out.json(&serde_json::to_value(&explained).unwrap_or_default());
        return Ok(ExitCode::SUCCESS);
    }
    out.line(&out.paint(Tone::Bold, &explained.path));
    out.line(&format!("  {}", explained.doc));
    out.line("");
    out.line(&format!("type:     {}", explained.kind));
    out.line(&format!("default:  {}", default(&explained)));
    if !explained.one_of.is_empty() {
        out.line(&format!("one of:   {}", explained.one_of.join(", ")));
    }
    out.line("example:");
    for line in explained.example.lines() {
        out.line(&format!("  {line}"));
    }
    if !explained.fields.is_empty() {
        out.line("");
        let rows: Vec<Vec<String>> = explained
            .fields
            .iter()
            .map(|field| {
                let name = field.path.rsplit('.').next().unwrap_or_default().to_owned();
                vec![name, field.kind.clone(), default(field), field.doc.clone()]
            })
            .collect();
        out.table(&["FIELD", "TYPE", "DEFAULT", "MEANING"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}

fn default(explained: &Explained) -> String {
    match &explained.default {
        Some(default) => default.clone(),
        None if explained.required => "required".to_owned(),
        None => "none".to_owned(),
    }
}

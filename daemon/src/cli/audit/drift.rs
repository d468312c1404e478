//! What ran, or was there, though nothing authorised it.

use super::super::book::Book;
use super::super::error::{CliError, NEGATIVE};
use super::super::show::{Out, Tone};
use super::{as_of_line, within_limit};
use crate::api::FindBy;
use holdfast_core::entry::{Body, Drift, DriftAnswer, DriftKind, Entry};
use serde_json::json;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct DriftArgs {
    /// Only on this target
    #[arg(long)]
    target: Option<String>,
    /// Also what was only missing, short or routed otherwise: nothing foreign ran
    #[arg(long)]
    all: bool,
}

pub(super) fn drift(book: &Book, args: &DriftArgs, limit: usize, out: &Out) -> Result<ExitCode, CliError> {
    let mut keys = vec![(FindBy::Kind, "drift")];
    keys.extend(args.target.as_deref().map(|target| (FindBy::Target, target)));
    let entries = book.find(&keys)?;
    let found: Vec<(&Entry, &Drift)> = entries
        .iter()
        .filter_map(|entry| match &entry.body {
            Body::Drift(drift) if args.all || is_foreign(drift) => Some((entry, drift)),
            _ => None,
        })
        .collect();
    let any = !found.is_empty();
    let (shown, left_out) = within_limit(found, limit);
    book.show(shown.iter().map(|(entry, _)| entry.seq));
    if out.is_json {
        let shown: Vec<&Entry> = shown.iter().map(|(entry, _)| *entry).collect();
        out.json(&json!({ "as_of": book.as_of(), "drift": shown, "left_out": left_out }));
    } else if any {
        let rows: Vec<Vec<String>> = shown.iter().map(|(entry, drift)| row(entry, drift)).collect();
        out.table(&["WALL", "WORKLOAD", "TARGET", "WHAT", "WANTED", "SEEN", "ANSWER"], &rows);
        super::more_line(left_out, out);
        as_of_line(book, out);
    } else {
        out.line(&out.paint(Tone::Good, "nothing ran that was not authorised"));
        as_of_line(book, out);
    }
    Ok(ExitCode::from(if any { NEGATIVE } else { 0 }))
}

/// Something was there that no entry authorised: another digest, edited content, a generation that nobody launched.
fn is_foreign(drift: &Drift) -> bool {
    matches!(drift.what, DriftKind::Digest | DriftKind::Content | DriftKind::Extra) && drift.answer != DriftAnswer::Over
}

fn row(entry: &Entry, drift: &Drift) -> Vec<String> {
    vec![
        entry.wall.clone(),
        entry.on.workload.as_ref().map(ToString::to_string).unwrap_or_default(),
        entry.on.target.clone().unwrap_or_default(),
        super::deploy::text_of(&drift.what),
        drift.wanted.clone(),
        drift.seen.clone(),
        drift.answer.as_str().to_owned(),
    ]
}

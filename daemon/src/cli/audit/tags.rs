//! Tags: what they were pinned to, when they moved, and what every poll saw.

use super::super::book::Book;
use super::super::error::{CliError, NEGATIVE};
use super::super::show::{Out, Tone};
use super::as_of_line;
use super::time::Time;
use crate::api::FindBy;
use holdfast_core::entry::{Body, Entry, Observation};
use serde_json::json;
use std::collections::BTreeSet;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct TagsArgs {
    /// Tag, as in registry.example.com/pay/api:1.4.2
    reference: String,
    /// Only polls at or after this time, as in 2026-11-24 or 2026-11-24T10:00
    #[arg(long, value_name = "TIME")]
    from: Option<Time>,
    /// Only polls before this time
    #[arg(long, value_name = "TIME")]
    to: Option<Time>,
}

impl TagsArgs {
    /// Whether something of what lies between these moments, both included, is asked for.
    fn asks_for(&self, first: &str, last: &str) -> bool {
        self.from.as_ref().is_none_or(|from| *last >= *from.0) && self.to.as_ref().is_none_or(|to| *first < *to.0)
    }
}

pub(super) fn tags(book: &Book, args: &TagsArgs, out: &Out) -> Result<ExitCode, CliError> {
    let entries: Vec<Entry> = book.find(&[(FindBy::Reference, &args.reference)])?;
    if entries.is_empty() {
        return Err(CliError::usage(
            format!("no entry names {:?}", args.reference),
            "give the reference as manifests write it, with its tag",
        ));
    }
    let events: Vec<[String; 4]> = entries.iter().filter_map(event).collect();
    let mut spans: Vec<Observation> = Vec::new();
    book.show(entries.iter().map(|entry| entry.seq));
    for root in book.find(&[(FindBy::Kind, "observation-root")])? {
        let Some(digest) = root.blobs.get("observations") else {
            continue;
        };
        // What a root has was seen before it was written.
        if args.from.as_ref().is_some_and(|from| root.wall < from.0) {
            continue;
        }
        let seen: Vec<Observation> = serde_json::from_slice(&book.blob(digest)?)
            .map_err(|error| CliError::usage(format!("the observations of entry {} cannot be read: {error}", root.seq), ""))?;
        book.show([root.seq]);
        let of_this = seen.into_iter().filter(|one| one.reference == args.reference);
        spans.extend(of_this.filter(|one| args.asks_for(&one.first, &one.last)));
    }
    let digests: BTreeSet<&str> = spans.iter().map(|span| span.digest.as_str()).collect();
    let moved = entries
        .iter()
        .any(|entry| matches!(entry.body, Body::TagMoved(_)) && args.asks_for(&entry.wall, &entry.wall));
    let still = !moved && digests.len() <= 1;
    let polls: u64 = spans.iter().map(|span| span.polls).sum();
    if out.is_json {
        out.json(&json!({
            "as_of": book.as_of(), "reference": args.reference, "still": still, "polls": polls, "observations": spans,
            "events": events.iter().map(|[wall, workload, kind, digest]| json!({ "wall": wall, "workload": workload, "kind": kind, "digest": digest })).collect::<Vec<_>>(),
        }));
        return Ok(ExitCode::from(if still { 0 } else { NEGATIVE }));
    }
    let rows: Vec<Vec<String>> = events.iter().map(|event| event.to_vec()).collect();
    out.table(&["WALL", "WORKLOAD", "WHAT", "DIGEST"], &rows);
    match (spans.first(), spans.last()) {
        (Some(first), Some(last)) => {
            let rows: Vec<Vec<String>> = spans
                .iter()
                .map(|span| {
                    vec![
                        span.first.clone(),
                        span.last.clone(),
                        span.polls.to_string(),
                        span.digest.to_string(),
                    ]
                })
                .collect();
            out.table(&["FIRST", "LAST", "POLLS", "SEEN"], &rows);
            let verdict = match still {
                true => format!(
                    "no poll saw another digest between {} and {}: {polls} polls",
                    first.first, last.last
                ),
                false => format!("it moved: {} digests in {polls} polls", digests.len().max(2)),
            };
            out.line(&out.paint(if still { Tone::Good } else { Tone::Bad }, &verdict));
        }
        _ => out.line("no polls are written down for this time yet: they are by the hour, and when the daemon stops"),
    }
    as_of_line(book, out);
    Ok(ExitCode::from(if still { 0 } else { NEGATIVE }))
}

fn event(entry: &Entry) -> Option<[String; 4]> {
    let workload = entry.on.workload.as_ref().map(ToString::to_string).unwrap_or_default();
    let (what, digest) = match &entry.body {
        Body::Pin(pin) => ("pinned", pin.digest.to_string()),
        Body::TagMoved(moved) => ("moved", moved.seen.to_string()),
        _ => return None,
    };
    Some([entry.wall.clone(), workload, what.to_owned(), digest])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_counts_where_it_touches_what_is_asked_for() {
        let args = TagsArgs {
            reference: "r.example.com/a:1".into(),
            from: Some("2026-11-24T10:15".parse().unwrap()),
            to: Some("2026-11-24T10:30".parse().unwrap()),
        };
        for (first, last, expected) in [
            ("10:00", "11:00", true),
            ("10:00", "10:15", true),
            ("10:20", "10:25", true),
            ("10:29", "11:00", true),
            ("10:00", "10:14", false),
            ("10:30", "11:00", false),
        ] {
            let at = |minute: &str| format!("2026-11-24T{minute}:00.000Z");
            assert_eq!(args.asks_for(&at(first), &at(last)), expected, "{first} to {last}");
        }
    }
}

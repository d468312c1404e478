//! Why a deploy happened and ended as it did: the causal chain, and each of its effects decided once more.

use super::super::book::Book;
use super::super::error::{CliError, NEGATIVE};
use super::super::ledger::what;
use super::super::show::{Out, Tone};
use super::deploy::{deploy, find_deploy, no_deploy};
use super::{as_of_line, replay};
use crate::api::FindBy;
use holdfast_core::entry::{AttemptChange, Body, Entry, PhaseName};
use serde_json::json;
use std::process::ExitCode;

pub(super) fn why(book: &Book, wanted: &str, out: &Out) -> Result<ExitCode, CliError> {
    let Some(began) = find_deploy(book, wanted)? else {
        return Err(no_deploy(wanted));
    };
    let deploy = deploy(book, &began)?;
    let replayed = replay::all(book, &deploy)?;
    let mut chain = deploy.causes.clone();
    let own = book.entries(&deploy.entries)?;
    for entry in own.into_iter().filter(|entry| !is_detail(entry)) {
        // What stopped it may have been decided elsewhere: a quarantine on another target, a command.
        chain.extend(book.entries(&entry.because)?);
        chain.push(entry);
    }
    // What was decided because of it, but is not on the attempt itself.
    let of_release = book.find(&[(FindBy::Release, &deploy.release)])?;
    let effects = of_release.into_iter().filter(|entry| {
        matches!(entry.body, Body::Quarantine(_) | Body::Rollout(_))
            && entry.because.iter().any(|cause| deploy.entries.contains(cause))
    });
    chain.extend(effects);
    chain.sort_by_key(|entry| entry.seq);
    chain.dedup_by_key(|entry| entry.seq);
    book.show(chain.iter().map(|entry| entry.seq));
    if out.is_json {
        out.json(&json!({ "as_of": book.as_of(), "deploy": deploy, "chain": chain, "replay": replayed }));
        return Ok(ExitCode::from(if replay::differs(&replayed) { NEGATIVE } else { 0 }));
    }
    out.line(&out.paint(
        Tone::Bold,
        &format!(
            "{} {}@{} generation {}: {} {}",
            deploy.deploy, deploy.workload, deploy.target, deploy.generation, deploy.outcome, deploy.reason
        ),
    ));
    out.line(&format!("asked for by {}", deploy.request));
    out.line(&format!(
        "content of commit {} {} by author {}",
        deploy.commit, deploy.summary, deploy.author
    ));
    let rows: Vec<Vec<String>> = chain
        .iter()
        .map(|entry| {
            let because = entry.because.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            vec![
                entry.seq.to_string(),
                because,
                entry.wall.clone(),
                entry.body.kind().to_owned(),
                what(&entry.body),
            ]
        })
        .collect();
    out.table(&["SEQ", "BECAUSE", "WALL", "KIND", "WHAT"], &rows);
    replay::show(&replayed, out);
    as_of_line(book, out);
    Ok(ExitCode::from(if replay::differs(&replayed) { NEGATIVE } else { 0 }))
}

/// Entries that only repeat what their neighbours say.
fn is_detail(entry: &Entry) -> bool {
    matches!(
        &entry.body,
        Body::Attempt(
            AttemptChange::Fingerprint { .. }
                | AttemptChange::Phase {
                    to: PhaseName::Preparing,
                    ..
                }
        )
    )
}

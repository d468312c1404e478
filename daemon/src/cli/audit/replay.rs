//! Decides each effect of a deploy a second time, from what the ledger says it was decided on.

use super::super::book::Book;
use super::super::error::CliError;
use super::super::show::{Out, Tone};
use super::deploy::Deploy;
use holdfast_core::config::EngineConfig;
use holdfast_core::entry::{Body, Entry, Intent};
use holdfast_core::ids::Seq;
use holdfast_core::plan::PLANNER_VERSION;
use holdfast_core::plan::unit::Inputs;
use holdfast_core::state::State;
use holdfast_core::target::Verb;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What came of deciding one effect again.
#[derive(Debug, Serialize)]
pub(super) struct Replayed {
    intent: Seq,
    verb: &'static str,
    /// None: it could not be decided again, and `message` says why.
    same: Option<bool>,
    message: String,
}

pub(super) fn differs(all: &[Replayed]) -> bool {
    all.iter().any(|one| one.same == Some(false))
}

/// Every intent of the deploy, in order. State is the fold of all entries before each.
pub(super) fn all(book: &Book, deploy: &Deploy) -> Result<Vec<Replayed>, CliError> {
    let entries = book.entries(&deploy.entries)?;
    let mut intents = entries.iter().filter_map(|entry| match &entry.body {
        Body::Intent(intent) => Some((entry, intent)),
        _ => None,
    });
    let mut replayed = Vec::new();
    let mut next = intents.next();
    let mut state = State::default();
    book.each_entry(&mut |entry| {
        while let Some((at, intent)) = next.filter(|(at, _)| at.seq == entry.seq) {
            replayed.push(one(book, &state, at, intent));
            next = intents.next();
        }
        state.fold(entry);
        next.is_some()
    })?;
    Ok(replayed)
}

fn one(book: &Book, state: &State, entry: &Entry, intent: &Intent) -> Replayed {
    let outcome = decide(book, state, entry, intent);
    let (same, message) = match outcome {
        Ok(message) if message.is_empty() => (Some(true), message),
        Ok(message) => (Some(false), message),
        Err(message) => (None, message),
    };
    Replayed {
        intent: entry.seq,
        verb: intent.verb.name(),
        same,
        message,
    }
}

/// Empty: the same again. Else what was decided instead.
fn decide(book: &Book, state: &State, entry: &Entry, intent: &Intent) -> Result<String, String> {
    if intent.planner != PLANNER_VERSION {
        return Err(format!(
            "planner version {} decided it, and this binary has version {PLANNER_VERSION}",
            intent.planner
        ));
    }
    let inputs: Inputs = blob(book, entry, "inputs")?;
    let config: EngineConfig = blob(book, entry, "config")?;
    let (Some(workload), Some(target)) = (&entry.on.workload, &entry.on.target) else {
        return Err("the intent names no unit".to_owned());
    };
    let plan = inputs.replay(state, &config, workload, target);
    Ok(difference(plan.and_then(|plan| plan.verb).as_ref(), &intent.verb))
}

fn difference(decided: Option<&Verb>, recorded: &Verb) -> String {
    match decided {
        Some(verb) if verb == recorded => String::new(),
        Some(verb) => format!("{} instead", serde_json::to_string(verb).unwrap_or_default()),
        None => "no effect instead".to_owned(),
    }
}

fn blob<T: DeserializeOwned>(book: &Book, entry: &Entry, name: &str) -> Result<T, String> {
    let digest = entry.blobs.get(name).ok_or_else(|| format!("its {name} was not recorded"))?;
    let bytes = book.blob(digest).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| format!("its {name} cannot be read: {error}"))
}

pub(super) fn show(all: &[Replayed], out: &Out) {
    let same = all.iter().filter(|one| one.same == Some(true)).count();
    let tone = if differs(all) { Tone::Bad } else { Tone::Good };
    out.line(&out.paint(
        tone,
        &format!(
            "decided again from what was recorded: {same} of {} effects are the same",
            all.len()
        ),
    ));
    for one in all.iter().filter(|one| one.same != Some(true)) {
        out.line(&format!("  entry {} {}: {}", one.intent, one.verb, one.message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_decision_is_told() {
        let launch = |generation| Verb::Launch { generation, size: 1 };
        for (decided, expected) in [
            (Some(launch(2)), ""),
            (Some(launch(3)), r#"{"verb":"launch","generation":3,"size":1} instead"#),
            (None, "no effect instead"),
        ] {
            assert_eq!(difference(decided.as_ref(), &launch(2)), expected);
        }
        let all = |same| {
            vec![Replayed {
                intent: 1,
                verb: "launch",
                same,
                message: String::new(),
            }]
        };
        assert!(differs(&all(Some(false))) && !differs(&all(Some(true))) && !differs(&all(None)));
    }
}

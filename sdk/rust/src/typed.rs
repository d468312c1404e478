//! Config and template as the author's own types. What does not fit becomes a problem at a JSON pointer.

use crate::{Fault, Problem};
use serde::de::DeserializeOwned;

fn problem(at: &str, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    // serde_json appends its own line and column, which are those of a text that nobody wrote.
    let message = text.split(" at line ").next().unwrap_or(&text).to_owned();
    let pointer = message
        .split('`')
        .nth(1)
        .filter(|_| message.starts_with("unknown field"))
        .map_or(at.to_owned(), |field| format!("{at}/{field}"));
    Problem {
        at: pointer,
        message,
        hint: String::new(),
    }
}

/// The target's config; for verbs other than `check`, where a problem is a fault.
pub fn config<T: DeserializeOwned>(json: &str) -> Result<T, Fault> {
    serde_json::from_str(json).map_err(|error| Fault::Invalid(format!("config: {error}")))
}

/// The template, or the problem that `check` reports.
pub fn template<T: DeserializeOwned>(json: &str) -> Result<T, Problem> {
    serde_json::from_str(json).map_err(|error| problem("/template", &error))
}

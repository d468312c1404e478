//! Config and template as the author's own types. What does not fit becomes a problem at a JSON pointer.

use crate::{Fault, Problem};
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

/// The place that serde was at, as a JSON pointer below `at`.
fn problem(at: &str, error: serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let mut pointer = at.to_owned();
    for segment in error.path() {
        match segment {
            Segment::Map { key } => pointer = format!("{pointer}/{}", escaped(key)),
            Segment::Seq { index } => pointer = format!("{pointer}/{index}"),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    let text = error.into_inner().to_string();
    // serde_json appends its own line and column, which are those of a text that nobody wrote.
    let message = text.split(" at line ").next().unwrap_or(&text).to_owned();
    let unknown = message.split('`').nth(1).filter(|_| message.starts_with("unknown field"));
    if let Some(field) = unknown.map(escaped)
        && !pointer.ends_with(&format!("/{field}"))
    {
        pointer = format!("{pointer}/{field}");
    }
    Problem {
        at: pointer,
        message,
        hint: String::new(),
    }
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The target's config; for verbs other than `check`, where a problem is a fault.
pub fn config<T: DeserializeOwned>(json: &str) -> Result<T, Fault> {
    serde_json::from_str(json).map_err(|error| Fault::Invalid(format!("config: {error}")))
}

/// The template, of a generation or of a job, or the problem that a check reports.
pub fn template<T: DeserializeOwned>(json: &str) -> Result<T, Problem> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(json)).map_err(|error| problem("/template", error))
}

/// The target's config, or the problem that `check` reports.
pub fn checked_config<T: DeserializeOwned>(json: &str) -> Result<T, Problem> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(json)).map_err(|error| problem("/config", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "read by serde")]
    struct Template {
        size: u32,
        #[serde(default)]
        parts: Vec<Part>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "read by serde")]
    struct Part {
        name: String,
    }

    #[test]
    fn problems_have_a_place() {
        for (json, at, part) in [
            (r#"{"size":"x"}"#, "/template/size", "invalid type"),
            (r#"{"size":1,"sise":2}"#, "/template/sise", "unknown field"),
            (
                r#"{"size":1,"parts":[{"name":"a"},{"name":3}]}"#,
                "/template/parts/1/name",
                "invalid type",
            ),
            (
                r#"{"size":1,"parts":[{"nam/e":"a"}]}"#,
                "/template/parts/0/nam~1e",
                "unknown field",
            ),
            (r#"{}"#, "/template", "missing field"),
            (r#"[]"#, "/template", "invalid"),
        ] {
            let problem = template::<Template>(json).unwrap_err();
            assert_eq!(problem.at, at, "{json}: {}", problem.message);
            assert!(problem.message.contains(part), "{json}: {}", problem.message);
        }
    }
}

//! A problem, and how it is shown: the line, a caret, and what to do.

use super::fields::did_you_mean;
use super::yaml::Node;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Error,
    Warning,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A stable word.
    pub code: &'static str,
    pub severity: Severity,
    pub file: String,
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// How many characters the caret covers.
    pub width: u32,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// `error[code]: message`, the place, the line and a caret. `source` is the file's text.
pub fn render(problem: &Problem, source: Option<&str>) -> String {
    let severity = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut text = format!(
        "{severity}[{}]: {}\n  --> {}:{}:{}\n",
        problem.code,
        visible(&problem.message),
        visible(&problem.file),
        problem.line,
        problem.column
    );
    let line = source.and_then(|source| source.lines().nth(problem.line.saturating_sub(1) as usize));
    if let Some(line) = line {
        const SHOWN: usize = 160;
        let shown: String = visible(line).chars().take(SHOWN).collect();
        let margin = problem.line.to_string();
        let pad = " ".repeat(margin.len());
        let before = " ".repeat((problem.column.saturating_sub(1) as usize).min(SHOWN));
        let width = (problem.width.max(1) as usize).min(SHOWN.saturating_sub(before.len()).max(1));
        text.push_str(&format!(
            "{pad} |\n{margin} | {shown}\n{pad} | {before}{}\n",
            "^".repeat(width)
        ));
    }
    if let Some(hint) = &problem.hint {
        text.push_str(&format!("  hint: {}\n", visible(hint)));
    }
    text
}

/// What was written by others can move no cursor and colour nothing.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A serde error over another file's value (the operator's), put at its place.
pub fn operator_problem(file: &str, node: Option<&Node>, pointer: &str, message: &str) -> Problem {
    let place = node.map(|node| node.locate(pointer)).unwrap_or_default();
    let hint = message.strip_prefix("unknown field `").and_then(|rest| {
        let (field, rest) = rest.split_once('`')?;
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        did_you_mean(field, known.into_iter())
    });
    Problem {
        code: if message.starts_with("unknown field") {
            "unknown-field"
        } else {
            "invalid"
        },
        severity: Severity::Error,
        file: file.to_owned(),
        line: place.line.max(1),
        column: place.column.max(1),
        width: place.width.max(1),
        message: message.to_owned(),
        hint,
    }
}

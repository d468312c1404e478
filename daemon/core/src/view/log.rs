//! The last lines of what failed, from a diagnosis in the ledger.

use crate::entry::Verdict;

/// The end of a log is what matters.
const LINES_MAX: usize = 10;
const LINE_MAX_CHARS: usize = 300;

pub fn last_log_lines(diagnosis: &Verdict) -> Vec<String> {
    let excerpts = diagnosis.evidence["excerpts"].as_array();
    let mut lines: Vec<String> = Vec::new();
    for excerpt in excerpts.into_iter().flatten() {
        let instance = excerpt["instance"].as_str().unwrap_or_default();
        let text = excerpt["text"].as_str().unwrap_or_default();
        let own = text.lines().filter(|line| !line.trim().is_empty());
        lines.extend(own.map(|line| {
            let line: String = line.chars().take(LINE_MAX_CHARS).collect();
            match instance {
                "" => line,
                instance => format!("{instance}: {line}"),
            }
        }));
    }
    lines.split_off(lines.len().saturating_sub(LINES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::VerdictOutcome;
    use serde_json::json;

    #[test]
    fn the_last_lines_of_all_instances() {
        let of = |evidence| Verdict {
            about: "diagnosis".into(),
            outcome: VerdictOutcome::Fail,
            reason: String::new(),
            message: String::new(),
            evidence,
        };
        let many: String = (0..20).map(|number| format!("line {number}\n\n")).collect();
        let excerpts = json!({ "excerpts": [ { "instance": "i1", "text": many }, { "text": "x".repeat(900) } ] });
        let lines = last_log_lines(&of(excerpts));
        assert_eq!((lines.len(), lines[0].as_str(), lines[9].len()), (10, "i1: line 11", 300));
        assert!(last_log_lines(&of(json!(null))).is_empty());
    }
}

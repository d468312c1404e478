//! What came of it: for people, and as JUnit XML.

use std::fmt::Write;

/// Where the checks are explained, one part for each.
const PAGE: &str = "sdk/CHECKS.md";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed(String),
    /// The plugin did not get as far as the check, so nothing is known: no pass either.
    NotReached(String),
    /// There is nothing to check, and why.
    Skipped(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    pub name: &'static str,
    pub about: &'static str,
    pub outcome: Outcome,
}

impl CheckResult {
    /// Where to read what the plugin did wrong.
    pub fn page(&self) -> String {
        format!("{PAGE}#{}", self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub plugin: String,
    pub results: Vec<CheckResult>,
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.results
            .iter()
            .all(|result| matches!(result.outcome, Outcome::Passed | Outcome::Skipped(_)))
    }

    pub fn failed(&self) -> Vec<&'static str> {
        let failed = |result: &&CheckResult| matches!(result.outcome, Outcome::Failed(_));
        self.results.iter().filter(failed).map(|result| result.name).collect()
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |word: &str, result: &CheckResult, why: &str| {
            let _ = writeln!(text, "{word:11} {:11} {}", result.name, result.about);
            if !why.is_empty() {
                let _ = writeln!(text, "            {why}");
            }
            if matches!(word, "FAILED" | "NOT REACHED") {
                let _ = writeln!(text, "            see {}", result.page());
            }
        };
        let count = |of: fn(&Outcome) -> bool| self.results.iter().filter(|result| of(&result.outcome)).count();
        for result in &self.results {
            match &result.outcome {
                Outcome::Passed => line("ok", result, ""),
                Outcome::Failed(why) => line("FAILED", result, why),
                Outcome::NotReached(why) => line("NOT REACHED", result, why),
                Outcome::Skipped(why) => line("left out", result, why),
            }
        }
        let _ = writeln!(
            text,
            "{}: {} passed, {} failed, {} not reached, {} left out",
            self.plugin,
            count(|outcome| matches!(outcome, Outcome::Passed)),
            count(|outcome| matches!(outcome, Outcome::Failed(_))),
            count(|outcome| matches!(outcome, Outcome::NotReached(_))),
            count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        );
        text
    }

    pub fn junit(&self) -> String {
        let count = |of: fn(&Outcome) -> bool| self.results.iter().filter(|result| of(&result.outcome)).count();
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let _ = writeln!(
            xml,
            r#"<testsuite name="{}" tests="{}" failures="{}" errors="{}" skipped="{}">"#,
            escaped(&self.plugin),
            self.results.len(),
            count(|outcome| matches!(outcome, Outcome::Failed(_))),
            count(|outcome| matches!(outcome, Outcome::NotReached(_))),
            count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        );
        for result in &self.results {
            let case = format!(r#"  <testcase classname="conformance" name="{}""#, result.name);
            let inner = match &result.outcome {
                Outcome::Passed => None,
                Outcome::Failed(why) => Some(("failure", why)),
                Outcome::NotReached(why) => Some(("error", why)),
                Outcome::Skipped(why) => Some(("skipped", why)),
            };
            let _ = match inner {
                None => writeln!(xml, "{case}/>"),
                Some((tag, why)) => {
                    let see = if tag == "skipped" {
                        String::new()
                    } else {
                        format!("; see {}", result.page())
                    };
                    writeln!(
                        xml,
                        r#"{case}><{tag} message="{}"/></testcase>"#,
                        escaped(&format!("{why}{see}"))
                    )
                }
            };
        }
        xml.push_str("</testsuite>\n");
        xml
    }
}

/// XML 1.0 has no control characters but white space.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_machines_read_it() {
        let result = |name, outcome| CheckResult {
            name,
            about: "about it",
            outcome,
        };
        let report = Report {
            plugin: "mine".into(),
            results: vec![
                result("life", Outcome::Passed),
                result("fence", Outcome::Failed("a <b> & \"c\"\u{1}".into())),
                result("resume", Outcome::NotReached("no".into())),
                result("weights", Outcome::Skipped("not weighted".into())),
            ],
        };
        assert!(!report.is_good() && report.failed() == ["fence"]);
        let text = report.text();
        assert!(text.contains("see sdk/CHECKS.md#fence") && text.ends_with("1 passed, 1 failed, 1 not reached, 1 left out\n"));
        let xml = report.junit();
        assert!(xml.contains(r#"tests="4" failures="1" errors="1" skipped="1""#), "{xml}");
        assert!(
            xml.contains(r#"message="a &lt;b&gt; &amp; &quot;c&quot; ; see sdk/CHECKS.md#fence""#),
            "{xml}"
        );
    }
}

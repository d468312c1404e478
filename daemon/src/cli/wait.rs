//! `status --wait COMMIT`: what became of one commit, by the ledger's word on what that commit asked for.

mod decide;
mod source;

pub use decide::{Decision, Outcome};

use super::error::CliError;
use super::show::{Line, Out, Tone};
use super::{draw, status};
use crate::api::{Ask, ClientError, FindBy, LedgerQuestion, ask};
use crate::operator::Operator;
use decide::{after_target_change, decide};
use holdfast_core::entry::{Body, Entry, SpecObject};
use holdfast_core::ids::Seq;
use holdfast_core::view::{StatusView, WaitView, WorkloadView, untrusted};
use serde::Serialize;
use source::{Found, Sources};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(200);
/// A daemon that was just started may not listen yet.
const STARTS_WITHIN: Duration = Duration::from_secs(10);
const PAGE: usize = 500;
/// Entries of one workload that are looked at, at most.
const PAGES_MAX: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overall {
    Live,
    NotLive,
    TimedOut,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub commit: String,
    pub verdict: Overall,
    /// What is not one workload's: a manifest that cannot be read, a tip that is not taken, nothing to do.
    pub notes: Vec<String>,
    pub workloads: Vec<Case>,
}

/// One workload that the commit changed.
#[derive(Debug, Serialize)]
pub struct Case {
    pub workload: String,
    /// None: not decided yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitView>,
    #[serde(skip)]
    follows: Follows,
}

#[derive(Debug)]
enum Follows {
    /// Its own manifest, and what the ledger said of the workload since.
    Spec { seq: Seq, entries: Vec<Entry> },
    /// A change of targets that it runs on.
    Targets { since: u64 },
}

pub fn find(operator: &Operator, by: FindBy, key: &str, before: Option<Seq>, limit: usize) -> Result<Vec<Entry>, CliError> {
    let ask_for = Ask::Ledger(LedgerQuestion::Find {
        keys: vec![(by, key.to_owned())],
        before,
        limit,
    });
    let mut answer = ask(&operator.socket(), &ask_for)?;
    serde_json::from_value(answer["entries"].take()).map_err(|error| CliError::Client(ClientError::Json(error)))
}

/// A daemon that is started again meanwhile is waited for.
fn away(error: &CliError) -> bool {
    matches!(error, CliError::Client(ClientError::NotRunning { .. } | ClientError::Talk(_)))
}

#[allow(clippy::disallowed_methods, reason = "a person waits in real time")]
pub fn wait(operator: &Operator, commit: &str, only: Option<&str>, timeout: Duration) -> Result<Report, CliError> {
    let begun = Instant::now();
    while let Err(error) = ask(&operator.socket(), &Ask::Sync) {
        let may_start = matches!(error, ClientError::NotRunning { .. }) && begun.elapsed() < STARTS_WITHIN.min(timeout);
        if !may_start {
            return Err(error.into());
        }
        std::thread::sleep(POLL);
    }
    let mut waiter = Waiter {
        operator,
        commit,
        only,
        sources: Sources::new(operator),
        found: None,
        report: Report {
            commit: commit.to_owned(),
            verdict: Overall::TimedOut,
            notes: Vec::new(),
            workloads: Vec::new(),
        },
    };
    loop {
        match waiter.look() {
            Ok(true) => return Ok(waiter.report),
            Ok(false) => {}
            Err(error) if away(&error) => {}
            Err(error) => return Err(error),
        }
        if begun.elapsed() >= timeout {
            waiter.report.notes.push(match waiter.found {
                None => format!("the daemon has not seen it within {} s", timeout.as_secs()),
                Some(_) => format!("it is not decided after {} s", timeout.as_secs()),
            });
            return Ok(waiter.report);
        }
        std::thread::sleep(POLL);
    }
}

struct Waiter<'a> {
    operator: &'a Operator,
    commit: &'a str,
    only: Option<&'a str>,
    sources: Sources,
    found: Option<Found>,
    report: Report,
}

impl Waiter<'_> {
    /// True when it is decided.
    fn look(&mut self) -> Result<bool, CliError> {
        let view = status::fetch(self.operator)?;
        if self.found.is_none() && !self.take_up(&view)? {
            return Ok(false);
        }
        let problems = self.found.as_ref().map(|found| found.problems.join("; ")).unwrap_or_default();
        for case in self.report.workloads.iter_mut().filter(|case| case.decision.is_none()) {
            let seen = view.workloads.iter().find(|workload| workload.name == case.workload);
            case.decision = match &mut case.follows {
                Follows::Targets { since } => after_target_change(seen, *since),
                Follows::Spec { seq, entries } => {
                    let from = entries.last().map_or(*seq, |last| last.seq + 1);
                    entries.extend(entries_from(self.operator, &case.workload, from)?);
                    decide(*seq, entries, seen, view.epoch)
                }
            };
            if let Some(decision) = case
                .decision
                .as_mut()
                .filter(|d| d.outcome == Outcome::Problem && self.only.is_some())
            {
                decision.message.clone_from(&problems);
            }
            case.waiting = seen.filter(|_| case.decision.is_none()).and_then(first_wait);
        }
        let decisions: Vec<&Decision> = self
            .report
            .workloads
            .iter()
            .filter_map(|case| case.decision.as_ref())
            .collect();
        let bad = self.report.verdict == Overall::NotLive || decisions.iter().any(|decision| !decision.outcome.is_good());
        let all = decisions.len() == self.report.workloads.len();
        if bad || all {
            self.report.verdict = if bad { Overall::NotLive } else { Overall::Live };
        }
        Ok(bad || all)
    }

    /// The revision that has the commit, and what it asks for.
    fn take_up(&mut self, view: &StatusView) -> Result<bool, CliError> {
        self.sources.update(self.operator)?;
        let Some(found) = self.sources.with(self.commit)? else {
            return Ok(false);
        };
        if !found.adopted {
            self.report.verdict = Overall::NotLive;
            self.report.notes.push(match &found.untrusted {
                Some(verdict) => untrusted(&found.commit, verdict),
                None => format!(
                    "the branch was rewritten, and nothing of it is taken until `holdfast accept-rewrite {}`",
                    found.commit
                ),
            });
            self.found = Some(found);
            return Ok(true);
        }
        let specs: Vec<Entry> = find(self.operator, FindBy::Commit, &found.commit, None, 10_000)?
            .into_iter()
            .filter(|entry| matches!(entry.body, Body::Spec(_)) && entry.because.contains(&found.seq))
            .collect();
        let changed: Vec<&Entry> = specs.iter().filter(|entry| entry.on.workload.is_some()).collect();
        if changed.len() < found.changed {
            // The index is not so far yet.
            return Ok(false);
        }
        if found.commit != self.report.commit && !found.commit.starts_with(&self.report.commit) {
            self.report
                .notes
                .push(format!("it came with commit {}, which decides", draw::short(&found.commit)));
        }
        self.report.workloads = cases(&specs, found.t, view, self.only);
        self.add_problems(&found, view);
        if let Some(only) = self.only
            && self.report.workloads.is_empty()
            && self.report.verdict != Overall::NotLive
        {
            if !view.workloads.iter().any(|workload| workload.name == only) {
                return Err(CliError::usage(
                    format!("there is no workload {only}"),
                    "`holdfast status` lists them",
                ));
            }
            self.report.notes.push(format!("it does not change {only}"));
        } else if self.report.workloads.is_empty() && self.report.notes.is_empty() {
            self.report.notes.push("it changes no workload".into());
        }
        self.found = Some(found);
        Ok(true)
    }

    /// Manifests of this commit that cannot be read: of all workloads, or of the one that is asked for.
    fn add_problems(&mut self, found: &Found, view: &StatusView) {
        let is_known = |name: &str| view.workloads.iter().any(|workload| workload.name == name);
        // A workload that nobody knows may be in the file that cannot be read.
        let counts = self
            .only
            .is_none_or(|only| self.report.workloads.is_empty() && !is_known(only));
        if counts && !found.problems.is_empty() {
            self.report.verdict = Overall::NotLive;
            self.report.notes.extend(found.problems.iter().cloned());
        }
    }
}

fn first_wait(workload: &WorkloadView) -> Option<WaitView> {
    let of_units = || workload.units.iter().find_map(|unit| unit.waiting.clone());
    workload.waiting.clone().or_else(of_units)
}

fn cases(specs: &[Entry], t: u64, view: &StatusView, only: Option<&str>) -> Vec<Case> {
    let mut follows: BTreeMap<String, Follows> = BTreeMap::new();
    for entry in specs {
        let Body::Spec(spec) = &entry.body else { continue };
        match (&spec.object, &entry.on.workload, &entry.on.target) {
            (SpecObject::Workload { .. }, Some(id), _) => {
                let entries = Vec::new();
                follows.insert(id.to_string(), Follows::Spec { seq: entry.seq, entries });
            }
            (SpecObject::Target { .. }, _, Some(target)) => {
                let here = view
                    .workloads
                    .iter()
                    .filter(|w| w.units.iter().any(|unit| unit.target == *target));
                for workload in here {
                    follows.entry(workload.name.clone()).or_insert(Follows::Targets { since: t });
                }
            }
            _ => {}
        }
    }
    follows
        .into_iter()
        .filter(|(workload, _)| only.is_none_or(|only| only == workload))
        .map(|(workload, follows)| Case {
            workload,
            decision: None,
            waiting: None,
            follows,
        })
        .collect()
}

/// A workload's entries from `from` on, oldest first.
fn entries_from(operator: &Operator, workload: &str, from: Seq) -> Result<Vec<Entry>, CliError> {
    let mut all: Vec<Entry> = Vec::new();
    for _ in 0..PAGES_MAX {
        let before = all.last().map(|oldest| oldest.seq);
        let page = find(operator, FindBy::Workload, workload, before, PAGE)?;
        let whole = page.len() == PAGE;
        let reached = page.last().is_some_and(|oldest| oldest.seq <= from);
        all.extend(page.into_iter().filter(|entry| entry.seq >= from));
        if reached || !whole {
            break;
        }
    }
    all.reverse();
    Ok(all)
}

pub fn show(report: &Report, out: &Out) {
    if out.is_json {
        out.json(&serde_json::to_value(report).unwrap_or_default());
    } else {
        lines(report).iter().for_each(|line| out.line(line));
    }
}

fn lines(report: &Report) -> Vec<Line> {
    let (tone, verdict) = match report.verdict {
        Overall::Live => (Tone::Good, "is live"),
        Overall::NotLive => (Tone::Bad, "is not live"),
        Overall::TimedOut => (Tone::Warn, "is not decided"),
    };
    let mut lines = vec![Line::of(tone, &format!("commit {} {verdict}", draw::short(&report.commit)))];
    lines.extend(report.notes.iter().map(|note| Line::from(format!("  {note}"))));
    for case in &report.workloads {
        let Some(decision) = &case.decision else {
            let waits = case.waiting.as_ref().map_or("under way".to_owned(), |waiting| {
                format!("waits on {}: {}", waiting.on, waiting.message)
            });
            lines.push(Line::from(format!("  {}: {waits}", case.workload)));
            continue;
        };
        let release = decision
            .release
            .as_ref()
            .map(|release| format!(" release {}", draw::short(release)))
            .unwrap_or_default();
        let message = if decision.message.is_empty() {
            String::new()
        } else {
            format!(": {}", decision.message)
        };
        let tone = if decision.outcome.is_good() { Tone::Good } else { Tone::Bad };
        let text = format!("  {}:{release} {}{message}", case.workload, decision.outcome.words());
        lines.push(Line::of(tone, &text));
        lines.extend(draw::log(&decision.log));
    }
    lines
}

#[cfg(test)]
#[path = "wait_tests.rs"]
mod tests;

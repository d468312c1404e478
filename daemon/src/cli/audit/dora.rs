//! Delivery figures, from what the ledger has: how often, how fast, how well, and how it was noticed.

use super::super::book::Book;
use super::super::error::CliError;
use super::super::show::Out;
use super::time::{Time, wall_ms};
use super::{Of, as_of_line, retention};
use crate::api::FindBy;
use holdfast_core::entry::{AttemptChange, AttemptOutcome, Body, CommandVerb, Entry, SpecObject};
use holdfast_core::ids::{FULL_SHARE, Millis, Seq, parse_deploy_id};
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct DoraArgs {
    /// One row each: `workload`, or the name of a label, as in team
    #[arg(long, value_name = "KEY")]
    by: Option<String>,
    /// Only deploys that ended at or after this time
    #[arg(long, value_name = "TIME")]
    since: Option<Time>,
    /// Only deploys that ended before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Time>,
    /// Also ask the registries whether the last N proven releases can be pulled
    #[arg(long, value_name = "N")]
    retention: Option<usize>,
}

/// One deploy to one target, from its entries. A heal is none: nobody asked for it.
#[derive(Debug, Default)]
struct Run {
    workload: String,
    request: Seq,
    began_t: Millis,
    /// When it first had traffic.
    exposed_t: Option<Millis>,
    /// It had a part of the traffic beside the old one.
    canary: bool,
    undo_t: Option<Millis>,
    ended: Option<(Millis, String, AttemptOutcome)>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Figures {
    succeeded: usize,
    bad: usize,
    stopped: usize,
    could_not_try: usize,
    /// Of those that were judged: succeeded or bad.
    success_rate: Option<f64>,
    /// Of those that had a part of the traffic.
    canary_failure_rate: Option<f64>,
    /// From the first traffic, or from the launch where there was none, to the verdict.
    mean_time_to_detect_s: Option<f64>,
    /// From the verdict until the old release had all traffic again.
    mean_time_to_roll_back_s: Option<f64>,
    /// From the commit until a target was through.
    median_lead_time_s: Option<f64>,
    incidents: usize,
    /// Deploys that had succeeded and had an incident afterwards.
    incident_rate: Option<f64>,
    mean_time_to_close_incident_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_coverage: Option<f64>,
}

/// An incident's deploy, and how long it was open.
struct Incident {
    attempt: Seq,
    open_ms: Option<Millis>,
}

pub(super) fn dora(config: &Path, book: &Book, args: &DoraArgs, of: &Of, out: &Out) -> Result<ExitCode, CliError> {
    let runs = runs(&book.find(&[(FindBy::Kind, "attempt")])?);
    let committed = committed_ms(book, &runs)?;
    let incidents = incidents(&book.find(&[(FindBy::Kind, "command")])?);
    let labels = match args.by.as_deref() {
        None | Some("workload") => BTreeMap::new(),
        Some(key) => labels(book, key)?,
    };
    let group = |workload: &str| match args.by.as_deref() {
        None => "all".to_owned(),
        Some("workload") => workload.to_owned(),
        Some(_) => labels.get(workload).cloned().unwrap_or_else(|| "(none)".to_owned()),
    };
    let inside = |run: &Run| {
        run.ended.as_ref().is_some_and(|(_, wall, _)| {
            args.since.as_ref().is_none_or(|since| *wall >= since.0) && args.until.as_ref().is_none_or(|until| *wall < until.0)
        })
    };
    let mut groups: BTreeMap<String, BTreeMap<Seq, &Run>> = BTreeMap::new();
    for (seq, run) in runs.iter().filter(|(_, run)| inside(run)) {
        groups.entry(group(&run.workload)).or_default().insert(*seq, run);
    }
    let mut rows: BTreeMap<String, Figures> = groups
        .into_iter()
        .map(|(name, runs)| (name, figures(&runs, &committed, &incidents)))
        .collect();
    if let Some(n) = args.retention {
        let mut kept: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for one in retention::kept(config, of.dir.as_deref(), n, |_| true)? {
            let (there, all) = kept.entry(group(&one.workload)).or_default();
            *there += usize::from(one.missing.is_empty());
            *all += 1;
        }
        for (name, (there, all)) in kept {
            if let Some(row) = rows.get_mut(&name) {
                row.retention_coverage = share(there, all);
            }
        }
    }
    if out.is_json {
        out.json(&json!({ "as_of": book.as_of(), "figures": rows }));
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        out.line("no deploy ended in this time");
    }
    for (name, figures) in &rows {
        out.lines(&format!("{name}: {}", words(figures)));
    }
    as_of_line(book, out);
    Ok(ExitCode::SUCCESS)
}

fn runs(entries: &[Entry]) -> BTreeMap<Seq, Run> {
    let mut runs: BTreeMap<Seq, Run> = BTreeMap::new();
    for entry in entries {
        let Body::Attempt(change) = &entry.body else { continue };
        if let AttemptChange::Began {
            request, heal: false, ..
        } = change
        {
            let workload = entry.on.workload.as_ref().map(ToString::to_string).unwrap_or_default();
            let run = Run {
                workload,
                request: *request,
                began_t: entry.t,
                ..Run::default()
            };
            runs.insert(entry.seq, run);
            continue;
        }
        let Some(run) = entry.on.attempt.and_then(|attempt| runs.get_mut(&attempt)) else {
            continue;
        };
        match change {
            AttemptChange::Reached { weight } if *weight > 0 => {
                run.exposed_t.get_or_insert(entry.t);
                run.canary |= *weight < FULL_SHARE;
            }
            AttemptChange::Undo { .. } => {
                run.undo_t.get_or_insert(entry.t);
            }
            AttemptChange::Ended { outcome, .. } => run.ended = Some((entry.t, entry.wall.clone(), *outcome)),
            _ => {}
        }
    }
    runs
}

/// When the commits were made that asked for these, by request. What a person or a tag asked for has none.
fn committed_ms(book: &Book, runs: &BTreeMap<Seq, Run>) -> Result<BTreeMap<Seq, u64>, CliError> {
    let requests: Vec<Seq> = runs
        .values()
        .map(|run| run.request)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let specs: Vec<Entry> = book.entries(&requests)?;
    let specs: Vec<&Entry> = specs.iter().filter(|entry| matches!(entry.body, Body::Spec(_))).collect();
    let sources: BTreeSet<Seq> = specs.iter().flat_map(|spec| spec.because.iter().copied()).collect();
    let times: BTreeMap<Seq, u64> = book
        .entries(&sources.into_iter().collect::<Vec<_>>())?
        .iter()
        .filter_map(|entry| match &entry.body {
            Body::Source(source) => Some((entry.seq, u64::try_from(source.committed_s).ok()?.checked_mul(1_000)?)),
            _ => None,
        })
        .collect();
    let of_spec = |spec: &&Entry| spec.because.iter().find_map(|seq| times.get(seq)).map(|ms| (spec.seq, *ms));
    Ok(specs.iter().filter_map(of_spec).collect())
}

fn incidents(commands: &[Entry]) -> Vec<Incident> {
    let mut open: BTreeMap<&str, (usize, Millis)> = BTreeMap::new();
    let mut all: Vec<Incident> = Vec::new();
    for entry in commands {
        let Body::Command(command) = &entry.body else { continue };
        match &command.verb {
            CommandVerb::OpenIncident { deploy } => {
                let Some((_, attempt)) = parse_deploy_id(deploy) else {
                    continue;
                };
                open.insert(deploy, (all.len(), entry.t));
                all.push(Incident { attempt, open_ms: None });
            }
            CommandVerb::CloseIncident { deploy } => {
                if let Some((at, since)) = open.remove(deploy.as_str()) {
                    all[at].open_ms = Some(entry.t.saturating_sub(since));
                }
            }
            _ => {}
        }
    }
    all
}

/// The newest value of a label, by workload.
fn labels(book: &Book, key: &str) -> Result<BTreeMap<String, String>, CliError> {
    let mut labels = BTreeMap::new();
    for entry in book.find(&[(FindBy::Kind, "spec")])? {
        let (Body::Spec(spec), Some(id)) = (&entry.body, &entry.on.workload) else {
            continue;
        };
        let SpecObject::Workload { spec: Some(spec), .. } = &spec.object else {
            continue;
        };
        match spec.labels.get(key) {
            Some(value) => labels.insert(id.to_string(), value.clone()),
            None => labels.remove(id.as_str()),
        };
    }
    Ok(labels)
}

fn figures(runs: &BTreeMap<Seq, &Run>, committed: &BTreeMap<Seq, u64>, incidents: &[Incident]) -> Figures {
    let count = |wanted: AttemptOutcome| runs.values().filter(|run| outcome(run) == Some(wanted)).count();
    let bad: Vec<&&Run> = runs
        .values()
        .filter(|run| outcome(run) == Some(AttemptOutcome::Bad))
        .collect();
    let detect = bad
        .iter()
        .filter_map(|run| Some(run.undo_t?.saturating_sub(run.exposed_t.unwrap_or(run.began_t))));
    let roll_back = bad
        .iter()
        .filter_map(|run| Some(run.ended.as_ref()?.0.saturating_sub(run.undo_t?)));
    let canaries = runs.values().filter(|run| run.canary).count();
    let mut lead_ms: Vec<u64> = runs
        .values()
        .filter(|run| outcome(run) == Some(AttemptOutcome::Succeeded))
        .filter_map(|run| wall_ms(&run.ended.as_ref()?.1)?.checked_sub(*committed.get(&run.request)?))
        .collect();
    lead_ms.sort_unstable();
    let of_these: Vec<&Incident> = incidents.iter().filter(|one| runs.contains_key(&one.attempt)).collect();
    let hit: BTreeSet<Seq> = of_these.iter().map(|one| one.attempt).collect();
    let hit = hit
        .iter()
        .filter(|seq| runs.get(*seq).and_then(|run| outcome(run)) == Some(AttemptOutcome::Succeeded));
    let (succeeded, failed) = (count(AttemptOutcome::Succeeded), bad.len());
    Figures {
        succeeded,
        bad: failed,
        stopped: count(AttemptOutcome::Stopped),
        could_not_try: count(AttemptOutcome::CouldNotTry),
        success_rate: share(succeeded, succeeded + failed),
        canary_failure_rate: share(bad.iter().filter(|run| run.canary).count(), canaries),
        mean_time_to_detect_s: mean_s(detect),
        mean_time_to_roll_back_s: mean_s(roll_back),
        median_lead_time_s: lead_ms.get(lead_ms.len() / 2).map(|ms| seconds(*ms)),
        incidents: of_these.len(),
        incident_rate: share(hit.count(), succeeded),
        mean_time_to_close_incident_s: mean_s(of_these.iter().filter_map(|one| one.open_ms)),
        retention_coverage: None,
    }
}

fn outcome(run: &Run) -> Option<AttemptOutcome> {
    run.ended.as_ref().map(|(_, _, outcome)| *outcome)
}

fn share(part: usize, all: usize) -> Option<f64> {
    (all > 0).then(|| part as f64 / all as f64)
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

fn mean_s(all_ms: impl Iterator<Item = u64>) -> Option<f64> {
    let (count, sum_ms) = all_ms.fold((0u32, 0u64), |(count, sum), ms| (count + 1, sum.saturating_add(ms)));
    (count > 0).then(|| seconds(sum_ms) / f64::from(count))
}

fn words(figures: &Figures) -> String {
    let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.1}%", share * 100.0));
    let time = |s: Option<f64>| s.map_or("-".to_owned(), |s| holdfast_core::manifest::human_ms((s * 1_000.0) as u64));
    let mut lines = vec![
        format!(
            "deploys by outcome: {} succeeded, {} bad, {} stopped, {} could not be tried",
            figures.succeeded, figures.bad, figures.stopped, figures.could_not_try
        ),
        format!("  success rate             {}", percent(figures.success_rate)),
        format!("  canary failure rate      {}", percent(figures.canary_failure_rate)),
        format!("  lead time (median)       {}", time(figures.median_lead_time_s)),
        format!("  time to detect (mean)    {}", time(figures.mean_time_to_detect_s)),
        format!("  time to roll back (mean) {}", time(figures.mean_time_to_roll_back_s)),
        format!(
            "  incidents afterwards     {} ({} of deploys; closed after {})",
            figures.incidents,
            percent(figures.incident_rate),
            time(figures.mean_time_to_close_incident_s)
        ),
    ];
    lines.extend(
        figures
            .retention_coverage
            .map(|share| format!("  retention coverage       {}", percent(Some(share)))),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        request: Seq,
        exposed_t: Option<Millis>,
        canary: bool,
        undo_t: Option<Millis>,
        ended: (Millis, &str, AttemptOutcome),
    ) -> Run {
        Run {
            workload: "main/shop".into(),
            request,
            began_t: 1_000,
            exposed_t,
            canary,
            undo_t,
            ended: Some((ended.0, ended.1.into(), ended.2)),
        }
    }

    #[test]
    fn figures_of_a_window() {
        let all = [
            run(
                1,
                Some(2_000),
                true,
                None,
                (9_000, "1970-01-01T00:01:10.000Z", AttemptOutcome::Succeeded),
            ),
            run(
                2,
                Some(2_000),
                true,
                Some(6_000),
                (9_000, "1970-01-01T00:02:00.000Z", AttemptOutcome::Bad),
            ),
            run(
                3,
                None,
                false,
                Some(3_000),
                (4_000, "1970-01-01T00:03:00.000Z", AttemptOutcome::Bad),
            ),
            run(
                4,
                None,
                false,
                Some(3_000),
                (4_000, "1970-01-01T00:03:00.000Z", AttemptOutcome::CouldNotTry),
            ),
        ];
        let runs: BTreeMap<Seq, &Run> = (10..).zip(&all).collect();
        let committed = BTreeMap::from([(1, 10_000)]);
        let incidents = [(10, Some(5_000)), (10, None), (99, Some(1))].map(|(attempt, open_ms)| Incident { attempt, open_ms });
        let seen = figures(&runs, &committed, &incidents);
        let expected = Figures {
            succeeded: 1,
            bad: 2,
            stopped: 0,
            could_not_try: 1,
            success_rate: Some(1.0 / 3.0),
            canary_failure_rate: Some(0.5),
            mean_time_to_detect_s: Some(3.0),
            mean_time_to_roll_back_s: Some(2.0),
            median_lead_time_s: Some(60.0),
            incidents: 2,
            incident_rate: Some(1.0),
            mean_time_to_close_incident_s: Some(5.0),
            retention_coverage: None,
        };
        assert_eq!(seen, expected);
        assert_eq!(figures(&BTreeMap::new(), &committed, &[]), Figures::default());
    }
}

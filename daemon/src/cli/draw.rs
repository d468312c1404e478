//! Status as lines: a pure function of what the daemon answered.

use super::show::{Line, Tone};
use holdfast_core::entry::{AttemptOutcome, PhaseName, RolloutState};
use holdfast_core::ids::{FULL_SHARE, Millis};
use holdfast_core::manifest::human_ms;
use holdfast_core::state::JobOutcome;
use holdfast_core::view::{
    ApprovalView, CauseView, FrozenView, JobView, LastView, StatusView, TargetView, UnitView, WaitView, WantedView, WorkloadView,
    percent,
};

/// So many targets that only run what is wanted are one line.
const QUIET_SHOWN: usize = 8;
const INDENT: &str = "           ";

pub fn status(view: &StatusView) -> Vec<Line> {
    let mut lines = git(view);
    lines.push(Line::from(format!(
        "Ledger  {}, {} durable",
        count(view.entries, "entry", "entries"),
        view.durable
    )));
    for target in &view.targets {
        lines.extend(self::target(view, target));
    }
    lines.extend(view.exits.iter().map(|exit| self::exit(HEAD, exit)));
    if view.workloads.is_empty() {
        lines.push(Line::default());
        lines.push("no workloads yet: commit a manifest, or see examples/".into());
    }
    for workload in &view.workloads {
        lines.push(Line::default());
        lines.extend(self::workload(view, workload));
    }
    lines
}

pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Twelve digits of a release, a commit or a digest.
pub fn short(text: &str) -> &str {
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    text.get(..12).unwrap_or(text)
}

/// How long something is so.
fn lasting(view: &StatusView, t: Millis) -> String {
    match view.t.saturating_sub(t) {
        0..1_000 => "just now".to_owned(),
        ms => format!("for {}", human_ms(ms)),
    }
}

/// When something happened.
fn ago(view: &StatusView, t: Millis) -> String {
    match view.t.saturating_sub(t) {
        0..1_000 => "just now".to_owned(),
        ms => format!("{} ago", human_ms(ms)),
    }
}

/// The margin of lines that are not a workload's.
const HEAD: &str = "        ";

/// An enum's word as the ledger spells it.
pub fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn exit(indent: &str, command: &str) -> Line {
    Line::of(Tone::Dim, &format!("{indent}$ {command}"))
}

fn git(view: &StatusView) -> Vec<Line> {
    let head = view.source.as_ref().map_or("Git     no revision yet".to_owned(), |source| {
        let (commit, since) = (short(&source.commit), ago(view, source.since));
        format!("Git     {commit} \"{}\", {since}", source.summary)
    });
    let mut lines = vec![Line::from(head).hang(HEAD.len())];
    if let Some(tip) = &view.untrusted {
        lines.push(Line::of(Tone::Bad, &format!("{HEAD}{}", tip.message)));
    }
    let alarms = view.ledger_alarms.iter();
    lines.extend(alarms.map(|alarm| Line::of(Tone::Bad, &format!("Ledger  {alarm}")).hang(HEAD.len())));
    let Some(source) = &view.source else { return lines };
    let problems = source.problems.iter();
    lines.extend(problems.map(|problem| Line::of(Tone::Bad, &format!("        {problem}"))));
    if let Some(rewrite) = &source.rewrite {
        let text = format!(
            "        the branch was rewritten to {}; nothing of it is taken until somebody accepts it",
            short(rewrite)
        );
        lines.push(Line::of(Tone::Bad, &text));
    }
    lines
}

fn target(view: &StatusView, target: &TargetView) -> Vec<Line> {
    let mut lines = Vec::new();
    if target.state != "ok" {
        let since = target
            .since
            .map(|since| format!(" {}", lasting(view, since)))
            .unwrap_or_default();
        let message = if target.message.is_empty() {
            String::new()
        } else {
            format!(": {}", target.message)
        };
        let text = format!("Target  {} is {}{since}{message}", target.name, target.state);
        let tone = if target.state == "unseen" { Tone::Plain } else { Tone::Warn };
        lines.push(Line::of(tone, &text).hang(HEAD.len()));
    }
    if let Some(frozen) = &target.frozen {
        let text = format!("Target  {} is {}", target.name, self::frozen(view, frozen));
        lines.push(Line::of(Tone::Warn, &text).hang(HEAD.len()));
    }
    lines
}

fn frozen(view: &StatusView, frozen: &FrozenView) -> String {
    let reason = if frozen.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", frozen.reason)
    };
    format!("frozen by {}, {}{reason}", frozen.by, lasting(view, frozen.since))
}

fn workload(view: &StatusView, workload: &WorkloadView) -> Vec<Line> {
    let mut notes = Vec::new();
    if workload.presence != "present" {
        notes.push(workload.presence.clone());
    }
    notes.extend(workload.frozen.as_ref().map(|frozen| self::frozen(view, frozen)));
    if workload.suspended {
        notes.push("suspended by its manifest".into());
    }
    let title = Line::of(Tone::Bold, &workload.name);
    let mut lines = vec![match notes.is_empty() {
        true => title,
        false => title.and(Tone::Warn, &format!("  ({})", notes.join("; "))),
    }];
    match &workload.wanted {
        Some(wanted) => lines.extend(self::wanted(view, workload, wanted)),
        None => lines.push("  Wanted   nothing yet".into()),
    }
    lines.extend(
        workload
            .approvals
            .iter()
            .filter(|a| a.awaited || !a.given.is_empty())
            .map(approval),
    );
    lines.extend(workload.jobs.iter().map(|job| self::job(view, job)));
    lines.extend(workload.waiting.as_ref().map(|waiting| wait(view, waiting)));
    lines.extend(units(view, workload));
    for moved in &workload.moved_tags {
        let text = format!(
            "  Moved    {} points at {} now; {} stays pinned",
            moved.reference,
            short(&moved.seen),
            short(&moved.pinned)
        );
        lines.push(Line::of(Tone::Warn, &text));
    }
    for quarantine in &workload.quarantine {
        let text = format!("  Kept out release {}: {}", short(&quarantine.release), quarantine.message);
        lines.push(Line::of(Tone::Warn, &text));
    }
    lines.extend(workload.exits.iter().map(|exit| self::exit(INDENT, exit)));
    lines
}

fn wanted(view: &StatusView, workload: &WorkloadView, wanted: &WantedView) -> Vec<Line> {
    let tone = match wanted.state {
        RolloutState::Succeeded => Tone::Good,
        RolloutState::Rolling | RolloutState::Holding | RolloutState::Superseded => Tone::Plain,
        RolloutState::Halted | RolloutState::Refused | RolloutState::Aborting | RolloutState::Aborted => Tone::Bad,
    };
    let text = format!(
        "  Wanted   release {} {}: {}, {}",
        short(&wanted.release),
        cause(&wanted.cause, &wanted.commit),
        progress(workload, wanted),
        lasting(view, wanted.since)
    );
    let mut lines = vec![Line::of(tone, &text).hang(INDENT.len())];
    if !wanted.message.is_empty() {
        lines.push(Line::from(format!("{INDENT}{}", wanted.message)));
    }
    lines
}

fn cause(cause: &CauseView, commit: &str) -> String {
    let commit = short(commit);
    match (cause.kind.as_str(), cause.text.as_str()) {
        ("", _) => format!("of commit {commit}"),
        ("commit", "") => format!("by commit {commit}"),
        ("commit", summary) => format!("by commit {commit} \"{summary}\""),
        (kind, text) => format!("by {kind} ({text}), of commit {commit}"),
    }
}

/// The rollout's state, with its wave.
fn progress(workload: &WorkloadView, wanted: &WantedView) -> String {
    let mut text = word(&wanted.state);
    if let Some(wave) = &workload.wave {
        if wave.of > 1 {
            text.push_str(&format!(" wave {} of {}", wave.number, wave.of));
        }
        let targets = count(wave.targets.into(), "target", "targets");
        text.push_str(&format!(", stable on {} of {targets}", wave.stable));
    }
    if wanted.paused {
        text.push_str(", paused");
    }
    text
}

fn approval(approval: &ApprovalView) -> Line {
    let names = if approval.given.is_empty() {
        String::new()
    } else {
        format!(" ({})", approval.given.join(", "))
    };
    Line::from(format!(
        "{INDENT}approvals before {}%: {} of {}{names}",
        percent(approval.step),
        approval.given.len(),
        approval.needed
    ))
}

fn job(view: &StatusView, job: &JobView) -> Line {
    let message = if job.message.is_empty() {
        String::new()
    } else {
        format!(": {}", job.message)
    };
    let text = format!(
        "{INDENT}job {} on {} {}, {}{message}",
        job.job,
        job.target,
        word(&job.outcome),
        match job.outcome {
            JobOutcome::Running => lasting(view, job.since),
            JobOutcome::Done | JobOutcome::Failed | JobOutcome::Lost => ago(view, job.since),
        }
    );
    let tone = match job.outcome {
        JobOutcome::Running | JobOutcome::Done => Tone::Plain,
        JobOutcome::Failed | JobOutcome::Lost => Tone::Warn,
    };
    Line::of(tone, &text)
}

fn wait(view: &StatusView, waiting: &WaitView) -> Line {
    let left = waiting
        .until
        .map(|until| format!(", {} left", human_ms(until.saturating_sub(view.t))))
        .unwrap_or_default();
    let ends = if waiting.ends.is_empty() {
        String::new()
    } else {
        format!("; ended by {}", waiting.ends)
    };
    Line::from(format!(
        "{INDENT}waits on {} {}{left}: {}{ends}",
        waiting.on,
        lasting(view, waiting.since),
        waiting.message
    ))
}

fn units(view: &StatusView, workload: &WorkloadView) -> Vec<Line> {
    if workload.units.is_empty() {
        return vec!["  Running  nothing yet".into()];
    }
    let wanted = workload.wanted.as_ref().map(|wanted| &wanted.release);
    let is_quiet = |unit: &&UnitView| {
        let plain = unit.attempt.is_none() && unit.waiting.is_none() && unit.overlays.is_empty() && unit.drift.is_none();
        let went_well = unit
            .last
            .as_ref()
            .is_none_or(|last| last.outcome == AttemptOutcome::Succeeded);
        plain && went_well && unit.phase == PhaseName::Stable && unit.release.as_ref() == wanted
    };
    let quiet: Vec<&UnitView> = workload.units.iter().filter(is_quiet).collect();
    let mut lines = Vec::new();
    let together = quiet.len() > QUIET_SHOWN;
    if let (true, Some(release)) = (together, wanted) {
        let names: Vec<&str> = quiet.iter().take(3).map(|unit| unit.target.as_str()).collect();
        let since = quiet.iter().map(|unit| unit.since).max().unwrap_or(0);
        let text = format!(
            "  Running  {} ({} and {} more): release {}, 100%, all {}",
            count(quiet.len() as u64, "target", "targets"),
            names.join(", "),
            quiet.len() - names.len(),
            short(release),
            lasting(view, since)
        );
        lines.push(Line::from(text));
    }
    let shown = workload.units.iter().filter(|unit| !(together && is_quiet(unit)));
    lines.extend(shown.flat_map(|unit| self::unit(view, unit)));
    lines
}

fn unit(view: &StatusView, unit: &UnitView) -> Vec<Line> {
    let running = match (&unit.release, unit.generation) {
        (Some(release), Some(generation)) => format!(
            "generation {generation}, release {}, {}%, {}",
            short(release),
            percent(unit.weight),
            lasting(view, unit.running_since.unwrap_or(unit.since))
        ),
        _ => "nothing".to_owned(),
    };
    let leaving = if unit.phase == PhaseName::Leaving { ", leaving" } else { "" };
    let mut lines = vec![Line::from(format!("  Running  {}: {running}{leaving}", unit.target)).hang(INDENT.len())];
    if let Some(attempt) = &unit.attempt {
        let what = if attempt.heal { "replaces it by" } else { "brings" };
        lines.push(Line::from(format!(
            "{INDENT}{} {what} generation {}, release {}: {} at {}%, {}",
            attempt.deploy,
            attempt.generation,
            short(&attempt.release),
            word(&unit.phase),
            percent(attempt.weight),
            lasting(view, unit.since)
        )));
    }
    if !unit.parked.is_empty() {
        let parked: Vec<String> = unit
            .parked
            .iter()
            .map(|parked| format!("generation {} (release {})", parked.generation, short(&parked.release)))
            .collect();
        lines.push(Line::from(format!("{INDENT}parked for a way back: {}", parked.join(", "))));
    }
    for overlay in &unit.overlays {
        let since = overlay
            .since
            .map(|since| format!(" {}", lasting(view, since)))
            .unwrap_or_default();
        let text = format!("{INDENT}{}{since}: {}", overlay.name, overlay.message);
        lines.push(Line::of(Tone::Warn, &text));
    }
    if let Some(drift) = &unit.drift {
        let text = format!(
            "{INDENT}drift of {} {}: {}",
            word(&drift.what),
            lasting(view, drift.since),
            drift.seen
        );
        lines.push(Line::of(Tone::Warn, &text));
    }
    if unit.held {
        let text = format!("{INDENT}would leave, but its revision removes more than one may");
        lines.push(Line::of(Tone::Warn, &text));
    }
    lines.extend(unit.waiting.as_ref().map(|waiting| wait(view, waiting)));
    lines.extend(last(unit));
    lines
}

fn failure(unit: &UnitView) -> Option<&LastView> {
    unit.last.as_ref().filter(|last| last.outcome != AttemptOutcome::Succeeded)
}

/// How the last attempt failed, and the last it said.
fn last(unit: &UnitView) -> Vec<Line> {
    let Some(last) = failure(unit) else {
        return Vec::new();
    };
    let text = format!(
        "{INDENT}{} of release {} {}: {}: {}",
        last.deploy,
        short(&last.release),
        ended(last.outcome),
        last.reason,
        last.message
    );
    let mut lines = vec![Line::of(Tone::Warn, &text)];
    lines.extend(log(&last.log));
    lines
}

pub fn log(text: &[String]) -> impl Iterator<Item = Line> {
    text.iter().map(|line| Line::of(Tone::Dim, &format!("{INDENT}| {line}")))
}

pub fn ended(outcome: AttemptOutcome) -> &'static str {
    match outcome {
        AttemptOutcome::Succeeded => "went live",
        AttemptOutcome::Bad => "was rolled back",
        AttemptOutcome::CouldNotTry => "could not be tried",
        AttemptOutcome::Stopped => "was stopped",
    }
}

/// The live view: each workload with its wave, each target with a bar.
pub fn live(view: &StatusView, columns: usize) -> Vec<Line> {
    let mut lines = git(view);
    for target in &view.targets {
        lines.extend(self::target(view, target));
    }
    if view.workloads.is_empty() {
        lines.push("no workloads yet".into());
    }
    let bar_width = if columns < 60 { 8 } else { 20 };
    for workload in &view.workloads {
        lines.push(Line::default());
        lines.extend(live_workload(view, workload, bar_width));
    }
    lines
}

fn live_workload(view: &StatusView, workload: &WorkloadView, bar_width: usize) -> Vec<Line> {
    let title = Line::of(Tone::Bold, &workload.name);
    let Some(wanted) = &workload.wanted else {
        let mut lines = vec![title.and(Tone::Plain, "  nothing wanted yet")];
        lines.extend(workload.waiting.as_ref().map(|waiting| wait(view, waiting)));
        return lines;
    };
    let text = format!(
        "  release {}: {}, {}",
        short(&wanted.release),
        progress(workload, wanted),
        lasting(view, wanted.since)
    );
    let mut lines = vec![title.and(Tone::Plain, &text)];
    if !wanted.message.is_empty() {
        lines.push(Line::from(format!("{INDENT}{}", wanted.message)));
    }
    if let Some(wave) = workload.wave.as_ref().filter(|wave| wave.of > 1) {
        let share = FULL_SHARE * wave.stable / wave.targets.max(1);
        let reach = format!(" of {} in this wave, {} in all", wave.reaches, wave.targets);
        lines.push(
            Line::from("  targets ")
                .and(Tone::Good, &bar(share, bar_width))
                .and(Tone::Plain, &format!(" {}{reach}", wave.stable)),
        );
    }
    lines.extend(workload.approvals.iter().filter(|approval| approval.awaited).map(approval));
    lines.extend(workload.waiting.as_ref().map(|waiting| wait(view, waiting)));
    let names = workload.units.iter().map(|unit| unit.target.len()).max().unwrap_or(0);
    for unit in &workload.units {
        let share = share_of_wanted(unit, &wanted.release);
        let name = format!("  {:names$} ", unit.target);
        let state = format!(" {:>5}  {}", format!("{}%", percent(share)), unit_state(view, unit));
        let tone = match unit.last.as_ref().map(|last| last.outcome) {
            Some(AttemptOutcome::Bad) if unit.attempt.is_none() => Tone::Bad,
            _ if unit.overlays.is_empty() => Tone::Good,
            _ => Tone::Warn,
        };
        let hang = names + bar_width + 11;
        lines.push(
            Line::from(name)
                .and(tone, &bar(share, bar_width))
                .and(Tone::Plain, &state)
                .hang(hang),
        );
    }
    lines
}

/// How much of the unit's traffic the wanted release has.
fn share_of_wanted(unit: &UnitView, release: &str) -> u32 {
    match &unit.attempt {
        Some(attempt) if attempt.release == release => attempt.weight,
        Some(_) => 0,
        None if unit.release.as_deref() == Some(release) => FULL_SHARE,
        None => 0,
    }
}

fn bar(share: u32, width: usize) -> String {
    let full = share as usize * width / FULL_SHARE as usize;
    "█".repeat(full) + &"░".repeat(width.saturating_sub(full))
}

fn unit_state(view: &StatusView, unit: &UnitView) -> String {
    let mut parts = vec![word(&unit.phase)];
    parts.extend(unit.overlays.iter().map(|overlay| overlay.name.clone()));
    if let Some(waiting) = &unit.waiting {
        let left = waiting
            .until
            .map(|until| format!(", {} left", human_ms(until.saturating_sub(view.t))))
            .unwrap_or_default();
        parts.push(format!("waits on {}{left}", waiting.on));
    } else if let Some(last) = failure(unit).filter(|_| unit.attempt.is_none()) {
        parts.push(format!("{} {}: {}", last.deploy, ended(last.outcome), last.message));
    }
    parts.join("; ")
}

/// What there is to tell, without times: when one of these changes, something happened.
pub fn facts(view: &StatusView) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    if let Some(source) = &view.source {
        facts.push(("git".to_owned(), format!("{} {}", short(&source.commit), source.summary)));
        facts.extend(
            source
                .problems
                .iter()
                .map(|problem| (format!("git: {problem}"), "problem".to_owned())),
        );
    }
    for target in &view.targets {
        let frozen = if target.frozen.is_some() { ", frozen" } else { "" };
        facts.push((format!("target {}", target.name), format!("{}{frozen}", target.state)));
    }
    for workload in &view.workloads {
        if let Some(wanted) = &workload.wanted {
            let text = format!("release {} is {}", short(&wanted.release), progress(workload, wanted));
            let why = if wanted.message.is_empty() {
                String::new()
            } else {
                format!(": {}", wanted.message)
            };
            facts.push((workload.name.clone(), text + &why));
        }
        if let Some(waiting) = &workload.waiting {
            facts.push((
                format!("{} waits", workload.name),
                format!("{}: {}", waiting.on, waiting.message),
            ));
        }
        for unit in &workload.units {
            let key = format!("{}@{}", workload.name, unit.target);
            let running = match (&unit.release, unit.generation) {
                (Some(release), Some(generation)) => format!("generation {generation}, release {}", short(release)),
                _ => "nothing".to_owned(),
            };
            let attempt = unit.attempt.as_ref().map(|attempt| {
                format!(
                    "; {} brings release {} at {}%",
                    attempt.deploy,
                    short(&attempt.release),
                    percent(attempt.weight)
                )
            });
            let mut text = format!("{running}, {}{}", word(&unit.phase), attempt.unwrap_or_default());
            for overlay in &unit.overlays {
                text.push_str(&format!(", {}", overlay.name));
            }
            if let Some(waiting) = &unit.waiting {
                text.push_str(&format!("; waits on {}", waiting.on));
            }
            if let Some(last) = failure(unit).filter(|_| unit.attempt.is_none()) {
                text.push_str(&format!("; {} {}: {}", last.deploy, ended(last.outcome), last.message));
            }
            facts.push((key, text));
        }
    }
    facts
}

#[cfg(test)]
#[path = "draw_tests.rs"]
pub mod tests;

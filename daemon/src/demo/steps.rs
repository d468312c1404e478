//! The seven steps, each with what should be seen.

use super::evidence::{attempt_of, journal_faults, measured_shares, percent_of, unmatched_effects, wall_ms};
use super::world::{HOST, SITES, World};
use super::{DemoError, Step};
use holdfast_core::entry::{AttemptChange, AttemptOutcome, Body, Entry, QuarantineAction, RolloutState, VerdictOutcome};
use holdfast_core::ids::deploy_id;
use std::collections::BTreeSet;

pub const COUNT: usize = 7;
const MIN_SAMPLES: usize = 25;

fn targets() -> String {
    SITES.iter().map(|site| format!("apiVersion: holdfast.dev/v1alpha1\nkind: Target\nmetadata: {{ name: {site}, labels: {{ env: demo }} }}\nspec: {{ plugin: edge }}\n---\n")).collect()
}

fn shop(tag: &str, timeout_ms: u32) -> String {
    format!(
        r#"apiVersion: holdfast.dev/v1alpha1
kind: Workload
metadata: {{ name: shop }}
spec:
  artifacts: {{ main: "{HOST}/shop:{tag}" }}
  placement: {{ targets: {{ matchLabels: {{ env: demo }} }} }}
  template: {{ timeout_ms: {timeout_ms} }}
  strategy:
    canary: {{ steps: [ {{ weight: 10%, hold: 2500ms }}, {{ weight: 50%, hold: 2500ms }}, {{ weight: 100%, hold: 2500ms }} ] }}
  health: {{ timeout: 4s, interval: 200ms, stable: 600ms, http: {{ path: /healthz }} }}
  analysis:
    - name: errors
      target: errors_total/requests_total
      baseline: current
      failWhen: "canary.value > baseline.value * 2.0 && canary.value > 0.01"
      interval: 250ms
      failures: 2
      minSamples: {MIN_SAMPLES}
  drain: 1s
"#
    )
}

/// Waits until the commit's rollout is decided, as the log says; gives the log and where its part begins.
fn decided(world: &World, commit: &str, within_s: u64) -> Result<(Vec<Entry>, u64, RolloutState), DemoError> {
    world.until("a decision on the commit", within_s, |world| {
        let log = world.log()?;
        let Some(spec) = log
            .iter()
            .rfind(|entry| matches!(&entry.body, Body::Spec(spec) if spec.commit == commit && entry.on.workload.is_some()))
        else {
            return Ok(None);
        };
        let from = spec.seq;
        let last = log.iter().rev().find_map(|entry| match &entry.body {
            Body::Rollout(change) if entry.on.rollout == Some(from) => Some(change.to),
            _ => None,
        });
        let busy = log
            .iter()
            .filter(|entry| entry.seq >= from)
            .fold(0i32, |busy, entry| match attempt_of(entry) {
                Some(AttemptChange::Began { .. }) => busy + 1,
                Some(AttemptChange::Ended { .. }) => busy - 1,
                _ => busy,
            });
        Ok(last
            .filter(|state| busy <= 0 && !matches!(state, RolloutState::Rolling | RolloutState::Aborting))
            .map(|state| (log, from, state)))
    })
}

fn unix_ms() -> u64 {
    crate::shell::unix_ms()
}

fn push(world: &World, steps: &mut Vec<Step>, name: &'static str, expected: impl Into<String>, seen: String, ok: bool) {
    world.say(&format!("{} {name}: {seen}", if ok { "ok  " } else { "FAIL" }));
    steps.push(Step {
        name,
        expected: expected.into(),
        seen,
        ok,
    });
}

pub fn all(world: &mut World, steps: &mut Vec<Step>) -> Result<(), DemoError> {
    first_commit(world, steps)?;
    canary(world, steps)?;
    moved_tag(world, steps)?;
    let failing = failing(world, steps)?;
    never_healthy(world, steps)?;
    let newest = crash(world, steps)?;
    audit(world, steps, &failing, &newest)
}

fn first_commit(world: &World, steps: &mut Vec<Step>) -> Result<(), DemoError> {
    let begun = unix_ms();
    let commit = world.commit(
        "shop 1.0.0 on three sites",
        &[("targets.yaml", &targets()), ("shop.yaml", &shop("1.0.0", 2_000))],
    )?;
    let (_, _, state) = decided(world, &commit, 30)?;
    world.until("answers of 1.0.0 from every site", 10, |world| {
        Ok(world.all_answer("shop 1.0.0", begun).then_some(()))
    })?;
    let serving = world
        .answers()
        .iter()
        .find(|answer| answer.status == 200)
        .map_or(0, |answer| answer.at_ms.saturating_sub(begun));
    let seen = format!("every site answers \"shop 1.0.0\"; the first answer came {serving} ms after the commit");
    push(
        world,
        steps,
        "(a) first commit",
        "live on three sites",
        seen,
        state == RolloutState::Succeeded,
    );
    Ok(())
}

fn canary(world: &World, steps: &mut Vec<Step>) -> Result<(), DemoError> {
    let begun = unix_ms();
    let commit = world.commit("shop 1.1.0 by canary", &[("shop.yaml", &shop("1.1.0", 2_000))])?;
    let (log, from, state) = decided(world, &commit, 60)?;
    world.until("answers of 1.1.0 from every site", 10, |world| {
        Ok(world.all_answer("shop 1.1.0", begun).then_some(()))
    })?;
    let answers = world.answers();
    let shares = measured_shares(&log, &answers, from);
    let lost = answers
        .iter()
        .filter(|answer| answer.at_ms >= begun && answer.status != 200)
        .count();
    let mut weights: Vec<u32> = shares.iter().map(|share| share.weight).collect();
    weights.dedup();
    let mut text = Vec::new();
    let mut close = true;
    for weight in &weights {
        let at = || shares.iter().filter(|share| share.weight == *weight);
        let (all, new) = at().fold((0, 0), |(all, new), share| (all + share.all, new + share.new));
        let share = percent_of(new, all);
        close &= (share - f64::from(*weight) / 100.0).abs() <= 5.0 && all >= 200 && at().count() == SITES.len();
        text.push(format!("{}%: {share:.1}% of {all}", weight / 100));
    }
    let outside: Vec<String> = shares
        .iter()
        .filter(|share| !share.is_within())
        .map(|share| {
            let seen = percent_of(share.new, share.all);
            format!("{} at {}%: {seen:.1}% of {}", share.site, share.weight / 100, share.all)
        })
        .collect();
    let sites = match outside.is_empty() {
        true => "each site within its bound".to_owned(),
        false => format!("outside its bound: {}", outside.join(", ")),
    };
    let seen = format!("{}; {sites}; {lost} failed requests", text.join(", "));
    let ok = state == RolloutState::Succeeded && close && outside.is_empty() && weights == [1_000, 5_000, 10_000] && lost == 0;
    drop(answers);
    push(
        world,
        steps,
        "(b) canary",
        "10%, 50%, 100% within 5 points over at least 200 answers each, each site within 4 deviations, none failed",
        seen,
        ok,
    );
    Ok(())
}

fn moved_tag(world: &World, steps: &mut Vec<Step>) -> Result<(), DemoError> {
    let lines = world.journal_lines();
    let moved_to = world.digests["1.2.0"].clone();
    world.say("the tag 1.1.0 is moved to other bytes");
    world.move_tag("1.1.0", &moved_to)?;
    let entry = world.until("the move in the log", 15, |world| {
        Ok(world
            .log()?
            .into_iter()
            .find(|entry| matches!(&entry.body, Body::TagMoved(moved) if moved.seen.as_str() == moved_to)))
    })?;
    // Time for whatever a moved tag might wrongly set off.
    let until = unix_ms() + 1_500;
    world.until("a while", 5, |_| Ok((unix_ms() > until).then_some(())))?;
    let same = world.journal_lines() == lines && world.all_answer("shop 1.1.0", until - 500);
    let seen = format!(
        "entry {} records it; {} new effects on the sites; every site answers 1.1.0",
        entry.seq,
        world.journal_lines() - lines
    );
    world.move_tag("1.1.0", &world.digests["1.1.0"])?;
    push(world, steps, "(c) moved tag", "recorded, nothing deployed", seen, same);
    Ok(())
}

fn quarantined(log: &[Entry], from: u64) -> Vec<&Entry> {
    log.iter()
        .filter(|entry| entry.seq >= from && matches!(&entry.body, Body::Quarantine(q) if q.action == QuarantineAction::Set))
        .collect()
}

fn failing(world: &World, steps: &mut Vec<Step>) -> Result<String, DemoError> {
    let begun = unix_ms();
    let commit = world.commit(
        "shop 1.2.0, which fails one request in five",
        &[("shop.yaml", &shop("1.2.0", 2_000))],
    )?;
    let (log, from, state) = decided(world, &commit, 60)?;
    let ended = unix_ms();
    world.until("answers of 1.1.0 from every site", 10, |world| {
        Ok(world.all_answer("shop 1.1.0", ended).then_some(()))
    })?;
    let answers = world.answers();
    let verdicts: Vec<&Entry> = log
        .iter()
        .filter(|entry| entry.seq >= from)
        .filter(|entry| {
            matches!(&entry.body, Body::Verdict(verdict) if verdict.outcome == VerdictOutcome::Fail && verdict.about.starts_with("analysis/"))
        })
        .collect();
    // What the client had from the candidate when the verdict fell: the verdict may rest on no less.
    let samples = verdicts
        .iter()
        .map(|verdict| {
            let of_candidate = answers.iter().filter(|answer| {
                Some(&answer.site) == verdict.on.target.as_ref()
                    && Some(answer.generation) == verdict.on.generation
                    && answer.at_ms <= wall_ms(verdict)
            });
            of_candidate.count()
        })
        .min()
        .unwrap_or(0);
    let episode = || answers.iter().filter(|answer| (begun..=ended).contains(&answer.at_ms));
    let (all, errors) = (episode().count(), episode().filter(|answer| answer.status != 200).count());
    let kept_out = quarantined(&log, from).len();
    let reason = verdicts.first().map_or("none", |entry| match &entry.body {
        Body::Verdict(verdict) => &verdict.message,
        _ => "",
    });
    let seen = format!(
        "{errors} of {all} answers were errors; each verdict after at least {samples} answers of the candidate; {kept_out} of {} sites rolled back and keep it out; every site answers 1.1.0 again; {reason}",
        SITES.len()
    );
    let ok = state == RolloutState::Halted
        && !verdicts.is_empty()
        && samples >= MIN_SAMPLES
        && kept_out == verdicts.len()
        && kept_out >= 1;
    push(
        world,
        steps,
        "(d) failing release",
        format!("caught by its own counters after at least {MIN_SAMPLES} answers, old serves all, quarantined with the reason"),
        seen,
        ok,
    );
    Ok(commit)
}

fn never_healthy(world: &World, steps: &mut Vec<Step>) -> Result<(), DemoError> {
    let begun = unix_ms();
    let commit = world.commit(
        "shop 1.3.0, which never becomes healthy",
        &[("shop.yaml", &shop("1.3.0", 2_000))],
    )?;
    let (log, from, state) = decided(world, &commit, 60)?;
    let ended = unix_ms();
    world.until("answers of 1.1.0 from every site", 10, |world| {
        Ok(world.all_answer("shop 1.1.0", ended).then_some(()))
    })?;
    let deploys: BTreeSet<String> = log
        .iter()
        .filter(|entry| entry.seq >= from && matches!(attempt_of(entry), Some(AttemptChange::Began { .. })))
        .map(|entry| deploy_id(1, entry.seq))
        .collect();
    let routed = SITES
        .iter()
        .flat_map(|site| world.journal(site))
        .filter(|line| line.verb == "route" && deploys.contains(&line.deploy_id))
        .count();
    let reached = world
        .answers()
        .iter()
        .filter(|answer| answer.at_ms >= begun && answer.body != "shop 1.1.0")
        .count();
    let reason = quarantined(&log, from).first().and_then(|entry| match &entry.body {
        Body::Quarantine(quarantine) => Some(quarantine.message.clone()),
        _ => None,
    });
    let ok = state == RolloutState::Halted && routed == 0 && reached == 0 && reason.is_some();
    let seen = format!(
        "{routed} routes and {reached} answers went to it; kept out: {}",
        reason.unwrap_or_default()
    );
    push(world, steps, "(e) never healthy", "never gets traffic, quarantined", seen, ok);
    Ok(())
}

fn crash(world: &mut World, steps: &mut Vec<Step>) -> Result<String, DemoError> {
    let begun = unix_ms();
    let commit = world.commit(
        "shop 1.1.0 with a shorter time-out, by canary",
        &[("shop.yaml", &shop("1.1.0", 1_500))],
    )?;
    let at = world.until("the first weight of the rollout", 30, |world| {
        let log = world.log()?;
        let spec = log
            .iter()
            .rfind(|entry| matches!(&entry.body, Body::Spec(spec) if spec.commit == commit && entry.on.workload.is_some()));
        let from = spec.map(|entry| entry.seq);
        Ok(log
            .iter()
            .find(|entry| {
                from.is_some_and(|from| entry.seq > from) && matches!(attempt_of(entry), Some(AttemptChange::Reached { .. }))
            })
            .map(|entry| entry.seq))
    })?;
    world.kill_daemon()?;
    world.say(&format!("the daemon is killed at entry {at}, in the middle of the rollout"));
    world.start_daemon()?;
    let (log, from, state) = decided(world, &commit, 60)?;
    let deploys: BTreeSet<String> = log
        .iter()
        .filter(|entry| entry.seq >= from && matches!(attempt_of(entry), Some(AttemptChange::Began { .. })))
        .map(|entry| deploy_id(1, entry.seq))
        .collect();
    let succeeded = log
        .iter()
        .filter(|entry| {
            entry.seq >= from
                && matches!(
                    attempt_of(entry),
                    Some(AttemptChange::Ended {
                        outcome: AttemptOutcome::Succeeded,
                        ..
                    })
                )
        })
        .count();
    let journals: Vec<_> = SITES.iter().map(|site| (*site, world.journal(site))).collect();
    let mut faults = journal_faults(&journals, &deploys);
    faults.extend(unmatched_effects(&journals, &log));
    let effects: usize = journals.iter().map(|(_, lines)| lines.len()).sum();
    let lost = world
        .answers()
        .iter()
        .filter(|answer| answer.at_ms >= begun && answer.status != 200)
        .count();
    let terms = log.iter().filter(|entry| matches!(entry.body, Body::Term(_))).count();
    let ok = state == RolloutState::Succeeded
        && faults.is_empty()
        && deploys.len() == SITES.len()
        && succeeded == SITES.len()
        && terms == 2
        && lost == 0;
    let problems = if faults.is_empty() {
        format!("{effects} effects of all steps match the log's intents one to one")
    } else {
        faults.join("; ")
    };
    let seen = format!(
        "{succeeded} of {} attempts went on to the end; {problems}; {lost} failed requests",
        deploys.len()
    );
    push(
        world,
        steps,
        "(f) daemon killed",
        "goes on, each effect once by log and journals, no weight goes back",
        seen,
        ok,
    );
    Ok(commit)
}

fn audit(world: &World, steps: &mut Vec<Step>, failing: &str, newest: &str) -> Result<(), DemoError> {
    let digest = world.digests["1.2.0"].clone();
    let (code, text) = world.cli(&["audit", "digest", &digest, "--json"])?;
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let commits = |answer: &serde_json::Value| -> Vec<String> {
        let deploys = answer["deploys"].as_array().into_iter().flatten();
        deploys
            .filter_map(|deploy| Some(deploy["commit"].as_str()?.to_owned()))
            .collect()
    };
    let ran = commits(&answer).len();
    let of_failing = commits(&answer).iter().all(|commit| commit == failing);
    // Its digest was pinned by an earlier commit: the one to name is that which asked for it.
    let (_, text) = world.cli(&["audit", "target", SITES[0], "--json"])?;
    let on_site = commits(&serde_json::from_str(&text).unwrap_or_default());
    let of_newest = on_site.last().is_some_and(|commit| commit == newest);
    let deploy = answer["deploys"][0]["deploy"].as_str().unwrap_or_default().to_owned();
    let (why_code, why) = world.cli(&["audit", "why", &deploy, "--json"])?;
    let why: serde_json::Value = serde_json::from_str(&why).unwrap_or_default();
    let kinds: BTreeSet<&str> = why["chain"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["kind"].as_str())
        .collect();
    let whole_chain = [
        "source",
        "spec",
        "pin",
        "rollout",
        "attempt",
        "intent",
        "result",
        "verdict",
        "quarantine",
    ]
    .iter()
    .all(|kind| kinds.contains(kind));
    let (verified, _) = world.cli(&["ledger", "verify"])?;
    let (damaged_entry, found) = damage(world)?;
    let why_commit = why["deploy"]["commit"] == *failing;
    let named_right = of_failing && of_newest && why_commit;
    let ok = code == 0
        && why_code == 0
        && ran == SITES.len()
        && named_right
        && whole_chain
        && verified == 0
        && found == Some(damaged_entry);
    let named = found.map_or("no entry".to_owned(), |seq| format!("entry {seq}"));
    let chain: Vec<&str> = kinds.into_iter().collect();
    let seen = format!(
        "1.2.0 ran in {ran} deploys; {}; {deploy} is explained by {}; verify: {}; after one byte of entry {damaged_entry} changed, verify names {named}",
        if named_right {
            "each by the commit that asked for it"
        } else {
            "a wrong commit is named"
        },
        chain.join(", "),
        if verified == 0 { "whole" } else { "not whole" }
    );
    push(
        world,
        steps,
        "(g) audit",
        "digest, target and why name the commit that asked; verify is ok, and names the damaged entry of a changed copy",
        seen,
        ok,
    );
    Ok(())
}

/// Changes one byte in a copy of the log; which entry that was, and which one `verify` names.
fn damage(world: &World) -> Result<(u64, Option<u64>), DemoError> {
    let copy = world.dir.join("copy");
    let _ = std::fs::remove_dir_all(&copy);
    copy_dir(&world.dir.join("holdfast-data/ledger"), &copy)?;
    let log = world.log()?;
    let seq = log.len() as u64 / 2;
    let bytes = log[seq as usize].to_bytes().unwrap_or_default();
    let file = copy.join("log").join(format!("{:020}.log", 0));
    let fail = |source| DemoError::io("the copy of the log cannot be changed", source);
    let mut content = std::fs::read(&file).map_err(fail)?;
    let at = content.windows(bytes.len()).position(|window| window == bytes).unwrap_or(0) + bytes.len() / 2;
    content[at] ^= 1;
    std::fs::write(&file, content).map_err(fail)?;
    let (code, text) = world.cli(&["ledger", "verify", "copy", "--json"])?;
    let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    Ok((seq, report["findings"][0]["seq"].as_u64().filter(|_| code != 0)))
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) -> Result<(), DemoError> {
    let fail = |source| DemoError::io(format!("{} cannot be copied", from.display()), source);
    std::fs::create_dir_all(to).map_err(fail)?;
    for entry in std::fs::read_dir(from).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let target = to.join(entry.file_name());
        match entry.file_type().map_err(fail)?.is_dir() {
            true => copy_dir(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), target).map_err(fail)?),
        }
    }
    Ok(())
}

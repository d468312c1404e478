//! The checks, each with a target of its own. What a check needs first is another check's business: where that does not
//! work, it says so and proves nothing.

mod claims;
mod faults;
mod repeats;
mod strangers;
mod truth;

use crate::lab::Lab;
use crate::report::{CheckResult, Outcome, Report};
use crate::stage::{Checked, Kit, Stop, WHOLE, difference, fail, said, state_of};
use holdfast_core::target::{Abilities, CallContext};
use holdfast_host::{CallOptions, CallReport, Plugin};
use std::time::Duration;

/// Name, and what is promised.
const CHECKS: [(&str, &str); 15] = [
    (
        "life",
        "a generation comes, becomes ready, goes live, gives way to the next, and goes",
    ),
    ("problems", "what is wrong with config or template has a JSON pointer"),
    ("claims", "what check says that the target can do is so"),
    ("idempotence", "every verb, done twice, is done once"),
    ("fence", "a lower fence than the workload's is refused and changes nothing"),
    (
        "resume",
        "after a cut at any host call, the same verb again leads to the same state",
    ),
    ("guarded", "a writer with a higher fence in between is not overwritten"),
    ("digest", "never healthy under the asked digest while the target runs another"),
    ("weights", "shares are read back from what is in effect"),
    ("retire", "retire takes away its own generation and no other"),
    ("neighbours", "two workloads on one target leave each other alone"),
    ("foreign", "what another installation owns is not touched"),
    ("classes", "a refusal of the target has its class"),
    ("faults", "whatever happens to a request: no trap, no blame, no false success"),
    (
        "bounded",
        "answers stay small when the target's are large, and limits hold among many generations",
    ),
];

/// Every check's name, in order.
pub const NAMES: [&str; CHECKS.len()] = {
    let mut names = [""; CHECKS.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = CHECKS[index].0;
        index += 1;
    }
    names
};

/// Runs the checks that are named, or all.
pub async fn run(plugin: &Plugin, lab: &dyn Lab, only: &[String]) -> Report {
    let mut results = Vec::new();
    let kit = abilities(plugin, lab).await.map(|abilities| Kit { plugin, lab, abilities });
    for (name, about) in CHECKS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let outcome = match &kit {
            Ok(kit) => one(kit, name).await,
            Err(stop) => Err(stop.clone()),
        };
        let outcome = match outcome {
            Ok(()) => Outcome::Passed,
            Err(Stop::Failed(why)) => Outcome::Failed(why),
            Err(Stop::NotReached(why)) => Outcome::NotReached(why),
            Err(Stop::Skipped(why)) => Outcome::Skipped(why),
        };
        results.push(CheckResult { name, about, outcome });
    }
    Report {
        plugin: plugin.name.clone(),
        results,
    }
}

async fn one(kit: &Kit<'_>, name: &str) -> Checked {
    match name {
        "life" => life(kit).await,
        "problems" => problems(kit).await,
        "claims" => claims::claims(kit).await,
        "idempotence" => repeats::idempotence(kit).await,
        "fence" => repeats::fence(kit).await,
        "resume" => repeats::resume(kit).await,
        "guarded" => claims::guarded(kit).await,
        "digest" => truth::digest(kit).await,
        "weights" => truth::weights(kit).await,
        "retire" => strangers::retire(kit).await,
        "neighbours" => strangers::neighbours(kit).await,
        "foreign" => strangers::foreign(kit).await,
        "classes" => faults::classes(kit).await,
        "faults" => faults::faults(kit).await,
        _ => faults::bounded(kit).await,
    }
}

async fn check(plugin: &Plugin, lab: &dyn Lab, config: &str) -> CallReport<holdfast_core::target::Report> {
    let context = CallContext {
        owner: crate::stage::OWNER.into(),
        target: "target-a".into(),
        config: config.into(),
        fence: 0,
        deploy_id: String::new(),
        resume: None,
    };
    let options = CallOptions {
        binding: None,
        context: &context,
        deadline: Duration::from_secs(10),
        now_ms: 0,
        secrets: &[],
        artifacts: None,
    };
    let kit = Kit {
        plugin,
        lab,
        abilities: Abilities::default(),
    };
    plugin.check(&options, &kit.generation("shop", 1)).await
}

async fn abilities(plugin: &Plugin, lab: &dyn Lab) -> Result<Abilities, Stop> {
    let report = check(plugin, lab, &lab.subjects().config).await.answer;
    let report = report.map_err(|failure| Stop::NotReached(format!("check did not work: {}", said(&failure))))?;
    match report.problems.first() {
        None => Ok(report.abilities),
        Some(problem) => Err(Stop::NotReached(format!(
            "check finds a problem with what should be valid, at {}: {}",
            problem.at, problem.message
        ))),
    }
}

/// Everything once, as a rollout does it.
async fn life(kit: &Kit<'_>) -> Checked {
    let stage = kit.stage()?;
    let bad = |stop| match stop {
        Stop::NotReached(why) => Stop::Failed(why),
        other => other,
    };
    let staged = kit.abilities.staged;
    stage.bring("shop", 1, 10).await.map_err(bad)?;
    stage.route("shop", &[(1, WHOLE)], 11).await.map_err(bad)?;
    stage.bring("shop", 2, 12).await.map_err(bad)?;
    let shares: &[(u32, u32)] = if staged { &[(2, WHOLE), (1, 0)] } else { &[(2, WHOLE)] };
    stage.route("shop", shares, 13).await.map_err(bad)?;
    let live = |page: &holdfast_core::target::Page| {
        page.routes
            .iter()
            .any(|route| route.shares.iter().any(|share| share.number == 2 && share.live == WHOLE))
    };
    if stage.seen_when(live).await.map_err(bad)?.is_none() {
        return fail("after route, observe never gave the second generation the whole share");
    }
    let retire = |number, last| crate::stage::Verb::Retire(kit.generation("shop", number), last);
    if staged {
        stage.do_it(14, &retire(1, false)).await.map_err(bad)?;
    }
    stage.route("shop", &[(2, 0)], 15).await.map_err(bad)?;
    stage.do_it(16, &retire(2, true)).await.map_err(bad)?;
    let left = stage
        .seen_when(|page| page.generations.is_empty() && page.routes.is_empty())
        .await
        .map_err(bad)?;
    match left {
        Some(_) => Ok(()),
        None => fail("after the last retire, observe still shows generations or routes of ours"),
    }
}

async fn problems(kit: &Kit<'_>) -> Checked {
    const UNKNOWN: &str = "holdfast-unknown-field";
    let mut config: serde_json::Value = serde_json::from_str(&kit.subjects().config).unwrap_or_default();
    config[UNKNOWN] = true.into();
    let report = check(kit.plugin, kit.lab, &config.to_string()).await.answer;
    let report = match report {
        Ok(report) => report,
        Err(failure) => return fail(format!("with an unknown field in the config, check ends: {}", said(&failure))),
    };
    match report.problems.as_slice() {
        [] => fail("check finds nothing wrong with an unknown field in the config: a typing error would go unseen"),
        problems if problems.iter().any(|problem| problem.at == format!("/config/{UNKNOWN}")) => Ok(()),
        [problem, ..] => fail(format!(
            "the problem of an unknown field in the config is not at /config/{UNKNOWN} but at {:?}",
            problem.at
        )),
    }
}

/// That nothing changed on the target.
async fn unchanged(stage: &crate::stage::Stage<'_>, before: &std::collections::BTreeMap<String, String>, what: &str) -> Checked {
    let after = state_of(&stage.seen().await?);
    match difference(before, &after) {
        None => Ok(()),
        Some(difference) => fail(format!("{what} changed {difference}")),
    }
}

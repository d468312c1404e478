//! What is logged: info when something changed, warn when it will be tried again, error when a person must act. Messages are
//! constant; what varies is a field. Each line that concerns a deploy names it, and stands in the spans
//! `target > unit > step` (the host adds `plugin_call`).
//!
//! `target` and `message` are taken in the JSON format: a target of ours is `site`, a sentence is `detail`.

use holdfast_core::engine::Call;
use holdfast_core::entry::{AttemptChange, Body, Entry};
use holdfast_core::ids::{WorkloadId, deploy_id};
use holdfast_core::plan::Ask;
use tracing::{Span, info_span};

fn target_span(site: &str) -> Span {
    info_span!(parent: None, "target", site)
}

fn unit_span(workload: &str, site: &str) -> Span {
    info_span!(parent: &target_span(site), "unit", workload)
}

/// Around one call of a verb.
pub(super) fn call(call: &Call) -> Span {
    let unit = unit_span(call.workload.as_str(), &call.target);
    let (deploy, verb) = (call.deploy_id.as_str(), call.verb.name());
    info_span!(parent: &unit, "step", deploy, verb, intent = call.intent, fence = call.fence)
}

/// Around one question. `deploy` is known where the question is about an attempt.
pub(super) fn ask(ask: &Ask, deploy: impl Fn(&WorkloadId, &str) -> Option<String>) -> Span {
    let of = |workload: &WorkloadId, target: &str, verb: &'static str| {
        let unit = unit_span(workload.as_str(), target);
        let deploy = deploy(workload, target).unwrap_or_default();
        info_span!(parent: &unit, "step", deploy, verb)
    };
    match ask {
        Ask::Observe { target, .. } => info_span!(parent: &target_span(target), "step", verb = "observe"),
        Ask::Pin { workload, reference } => info_span!(parent: None, "step", verb = "pin", %workload, reference),
        Ask::Tags { workload, repository } => info_span!(parent: None, "step", verb = "tags", %workload, repository),
        Ask::Pullable { workload, release } => {
            info_span!(parent: None, "step", verb = "pullable", %workload, release = release.short())
        }
        Ask::Check { workload, target, .. } | Ask::CheckRelease { workload, target, .. } => of(workload, target, "check"),
        Ask::Probe { workload, target, .. } => of(workload, target, "probe"),
        Ask::Measure { workload, target, .. } => of(workload, target, "measure"),
        Ask::Explain { workload, target, .. } => of(workload, target, "explain"),
        Ask::Room { workload, target, .. } => of(workload, target, "room"),
        Ask::Diff { workload, target, .. } => of(workload, target, "diff"),
    }
}

/// The deploy that an entry is about.
fn deploy_of(entry: &Entry, epoch: u64) -> Option<String> {
    let began = matches!(entry.body, Body::Attempt(AttemptChange::Began { .. })).then_some(entry.seq);
    Some(deploy_id(epoch, entry.on.attempt.or(began)?))
}

fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

pub(super) fn entry(entry: &Entry, epoch: u64) {
    let deploy = deploy_of(entry, epoch);
    let workload = entry.on.workload.as_ref().map(WorkloadId::as_str);
    let site = entry.on.target.as_deref();
    let (seq, kind, rollout) = (entry.seq, entry.body.kind(), entry.on.rollout);
    let (deploy, workload, site) = (deploy.as_deref(), workload, site);
    let span = match (site, workload) {
        (Some(site), Some(workload)) => unit_span(workload, site),
        (Some(site), None) => target_span(site),
        _ => Span::none(),
    };
    let span = match (deploy, &entry.body) {
        (Some(deploy), Body::Intent(_) | Body::Result(_)) => info_span!(parent: &span, "step", deploy),
        _ => span,
    };
    let _in = span.enter();
    match &entry.body {
        Body::Quarantine(q) => tracing::error!(
            seq,
            workload,
            site,
            deploy,
            rollout,
            action = word(&q.action),
            release = q.release.short(),
            reason = q.reason,
            detail = q.message,
            "quarantine"
        ),
        Body::Result(outcome) => match outcome.class {
            None => tracing::info!(seq, workload, site, deploy, rollout, intent = outcome.intent, "result"),
            Some(class) => tracing::warn!(
                seq,
                workload,
                site,
                deploy,
                rollout,
                intent = outcome.intent,
                class = class.as_str(),
                detail = outcome.message,
                "call failed; will retry or turn back"
            ),
        },
        Body::Attempt(change) => {
            let change = serde_json::to_value(change).unwrap_or_default();
            let (what, change) = (change["change"].as_str().unwrap_or_default(), change.to_string());
            tracing::info!(seq, workload, site, deploy, rollout, what, change, "attempt");
        }
        Body::Rollout(change) => tracing::info!(
            seq,
            workload,
            rollout,
            release = change.release.short(),
            to = word(&change.to),
            reason = change.reason,
            detail = change.message,
            "rollout"
        ),
        Body::Intent(intent) => tracing::info!(seq, workload, site, deploy, rollout, verb = intent.verb.name(), "intent"),
        Body::Command(command) => tracing::info!(
            seq,
            workload,
            rollout,
            verb = command.verb.name(),
            who = entry.by.id,
            reason = command.reason,
            "command"
        ),
        Body::LogKey(_) => tracing::warn!(
            seq,
            "the log has a new key; name its file in `ledger.key_file` before the next start"
        ),
        Body::TagMoved(moved) => tracing::warn!(
            seq,
            workload,
            reference = moved.reference,
            seen = moved.seen.as_str(),
            "tag moved; nothing is deployed"
        ),
        Body::Source(source) => tracing::info!(
            seq,
            commit = source.new,
            problems = source.problems.len(),
            adopted = source.adopted,
            signer = source.signer,
            "revision"
        ),
        _ => tracing::debug!(seq, kind, workload, site, deploy, rollout, "entry"),
    }
}

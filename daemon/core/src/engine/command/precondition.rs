//! What must be so for a command to be taken. A refusal says what is so instead.

use super::{PREFIX_MIN, Refusal, refuse};
use crate::entry::Precondition;
use crate::ids::WorkloadId;
use crate::state::WorkloadState;
use crate::view::percent;

pub(super) fn check(only_if: &Precondition, id: &WorkloadId, workload: &WorkloadState) -> Result<(), Refusal> {
    if only_if.is_empty() {
        return Ok(());
    }
    let Some(request) = &workload.request else {
        return refuse("precondition", format!("nothing was done: {id} has no rollout yet"));
    };
    if let Some(rollout) = only_if.rollout
        && rollout != request.id
    {
        return refuse(
            "precondition",
            format!("nothing was done: {id} is at rollout {}, not {rollout}", request.id),
        );
    }
    if let Some(prefix) = &only_if.release {
        if prefix.len() < PREFIX_MIN {
            return refuse(
                "precondition",
                format!("nothing was done: {prefix:?} is too short, give at least {PREFIX_MIN} digits of the release"),
            );
        }
        if !request.release.as_str().starts_with(prefix.as_str()) {
            return refuse(
                "precondition",
                format!(
                    "nothing was done: {id} is at release {}, not {prefix}",
                    request.release.short()
                ),
            );
        }
    }
    match only_if.step {
        Some(step) => check_step(step, id, workload),
        None => Ok(()),
    }
}

/// Every unit in progress is at this weight.
fn check_step(step: u32, id: &WorkloadId, workload: &WorkloadState) -> Result<(), Refusal> {
    let weights: Vec<(&str, u32)> = workload
        .units
        .iter()
        .filter_map(|(target, unit)| Some((target.as_str(), unit.attempt.as_ref()?.weight)))
        .collect();
    if weights.is_empty() {
        return refuse("precondition", format!("nothing was done: no unit of {id} is at any step"));
    }
    if weights.iter().all(|(_, weight)| *weight == step) {
        return Ok(());
    }
    let at: Vec<String> = weights
        .iter()
        .map(|(target, weight)| format!("{}% on {target}", percent(*weight)))
        .collect();
    refuse(
        "precondition",
        format!("nothing was done: {id} is at {}, not at {}%", at.join(", "), percent(step)),
    )
}

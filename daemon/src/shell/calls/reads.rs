//! Questions to a target through its plugin: nothing is changed.

use super::generation::{Identity, Prepared, SecretsNeed, generation, job_template, jobs_of, prepare};
use super::{Turn, World, context, fault, turn};
use crate::shell::wall_ms;
use holdfast_core::engine::Engine;
use holdfast_core::engine::subject::Subject;
use holdfast_core::ids::{ReleaseId, WorkloadId};
use holdfast_core::release::Release;
use holdfast_core::state::ReleaseState;
use holdfast_core::target::*;
use holdfast_host::CallOptions;
use serde_json::Value;
use std::collections::BTreeMap;

/// A target as its manifest is now: for observing and checking.
pub(super) struct Place {
    plugin: Result<PluginRef, String>,
    config: Value,
    values: BTreeMap<String, String>,
}

pub(super) fn place(engine: &Engine, target: &str) -> Option<Place> {
    // A target that left Git is still looked at: what runs there is kept and reported.
    let spec = engine.state().targets.get(target)?.spec.as_ref()?;
    Some(Place {
        plugin: engine.config().plugin_for(target, &spec.plugin),
        config: spec.config.clone(),
        values: spec.values.clone(),
    })
}

pub(super) async fn observe(world: &World, target: &str, place: Option<Place>) -> Result<Page, Fault> {
    let place = place.ok_or_else(|| fault(FaultClass::Invalid, "the target has no manifest"))?;
    let plugin = place.plugin.map_err(|message| fault(FaultClass::Invalid, message))?;
    let (plugin, binding) = world
        .plugins
        .find(target, &plugin)
        .ok_or_else(|| fault(FaultClass::Invalid, "no plugin is bound to it"))?;
    let context = context(world, target, &place.config);
    let _turn = turn(world, target, Turn::Read).await;
    let options = CallOptions {
        binding: Some(binding),
        context: &context,
        deadline: world.call_deadline,
        now_ms: wall_ms(),
        secrets: &[],
        artifacts: None,
    };
    plugin
        .observe(&options, None)
        .await
        .answer
        .map_err(|failure| failure.into_fault())
}

/// A release that the ledger holds.
pub(super) async fn check_release(
    world: &World,
    workload: &WorkloadId,
    target: &str,
    place: Option<Place>,
    release: &ReleaseId,
    known: Option<&ReleaseState>,
) -> Result<Report, Fault> {
    let invalid = |message: String| fault(FaultClass::Invalid, message);
    let known = known.ok_or_else(|| invalid("the release is not known any more".into()))?;
    let bytes = world.blobs.get(&release.blob()).map_err(|error| invalid(error.to_string()))?;
    let release = Release::parse(&bytes).map_err(|error| invalid(error.to_string()))?;
    check(world, workload, target, place, &release, &known.sources).await
}

pub(super) async fn check(
    world: &World,
    workload: &WorkloadId,
    target: &str,
    place: Option<Place>,
    release: &Release,
    sources: &BTreeMap<String, String>,
) -> Result<Report, Fault> {
    let place = place.ok_or_else(|| fault(FaultClass::Invalid, "the target has no manifest"))?;
    let plugin = place.plugin.map_err(|message| fault(FaultClass::Invalid, message))?;
    let (plugin, _) = world
        .plugins
        .find(target, &plugin)
        .ok_or_else(|| fault(FaultClass::Invalid, "no plugin is bound to it"))?;
    let identity = Identity {
        workload,
        target,
        number: 1,
        release_id: release.id().to_string(),
        deploy_id: String::new(),
        commit: String::new(),
        drain_ms: 0,
        owner: &world.owner,
    };
    // A secret that could not be put in is said now, not in the middle of a rollout.
    let issued = world.secrets.issue(&release.secrets, workload, target)?;
    if let Some(missing) = issued.missing {
        return Err(missing);
    }
    let subject = generation(
        &identity,
        release,
        sources,
        &BTreeMap::new(),
        &place.values,
        issued.markers,
        &world.blobs,
    )
    .map_err(|message| fault(FaultClass::Invalid, message))?;
    let context = context(world, target, &place.config);
    let _turn = turn(world, target, Turn::Read).await;
    let options = CallOptions {
        binding: None,
        context: &context,
        deadline: world.call_deadline,
        now_ms: wall_ms(),
        secrets: &[],
        artifacts: None,
    };
    let report = plugin.check(&options, &subject).await.answer;
    let mut report = report.map_err(|failure| failure.into_fault())?;
    for hook in [Hook::Before, Hook::After] {
        for (index, job) in jobs_of(release, hook).iter().enumerate() {
            let template = job_template(release, hook, &job.name, &place.values, &subject.artifacts)
                .map_err(|message| fault(FaultClass::Invalid, message))?;
            let answer = plugin.check_job(&options, &subject, &job.name, &template).await.answer;
            let found = job_problems(hook, index, answer.map_err(|failure| failure.into_fault()))?;
            report.problems.extend(found);
        }
    }
    Ok(report)
}

/// Placed where the job stands in the release: the plugin knows only the job's own template.
fn job_problems(hook: Hook, index: usize, answer: Result<Vec<CheckProblem>, Fault>) -> Result<Vec<CheckProblem>, Fault> {
    let at = format!("/{}/{index}", hook.as_str());
    match answer {
        Ok(problems) => {
            let placed = problems.into_iter().map(|problem| CheckProblem {
                at: format!("{at}{}", problem.at),
                ..problem
            });
            Ok(placed.collect())
        }
        Err(fault) if fault.class == FaultClass::Absent => Ok(vec![CheckProblem {
            at,
            message: "the target's plugin runs no jobs".into(),
            hint: String::new(),
        }]),
        Err(fault) => Err(fault),
    }
}

/// A generation in State, with its plugin.
pub(super) type Known = Option<(Subject, PluginRef)>;

fn known(world: &World, target: &str, subject: Known, need: SecretsNeed) -> Result<Prepared, Fault> {
    let (subject, plugin) = subject.ok_or_else(|| fault(FaultClass::Absent, "the generation is not known any more"))?;
    prepare(world, target, &subject, &plugin, need)
}

pub(super) async fn explain(world: &World, target: &str, subject: Known) -> Result<Vec<Excerpt>, Fault> {
    let _turn = turn(world, target, Turn::Read).await;
    let prepared = known(world, target, subject, SecretsNeed::Spared)?;
    let report = prepared.plugin.explain(&prepared.options(world), &prepared.generation).await;
    report.answer.map_err(|failure| failure.into_fault())
}

pub(super) async fn telemetry(world: &World, target: &str, subject: Known) -> Result<Vec<Sample>, Fault> {
    let _turn = turn(world, target, Turn::Read).await;
    let prepared = known(world, target, subject, SecretsNeed::Spared)?;
    let report = prepared
        .plugin
        .telemetry(&prepared.options(world), &prepared.generation)
        .await;
    report.answer.map_err(|failure| failure.into_fault())
}

pub(super) async fn room(world: &World, target: &str, subject: Known) -> Result<Option<u32>, Fault> {
    let _turn = turn(world, target, Turn::Read).await;
    let prepared = known(world, target, subject, SecretsNeed::Spared)?;
    let report = prepared.plugin.room(&prepared.options(world), &prepared.generation).await;
    report.answer.map_err(|failure| {
        let fault = failure.into_fault();
        // Nobody else says so: a target that fails to tell is tried.
        tracing::debug!(
            reason = fault.class.as_str(),
            detail = fault.message,
            "the target's room is not known"
        );
        fault
    })
}

/// Against the generation's own objects: what somebody else changed. Without its secrets' values these would differ too.
pub(super) async fn diff(world: &World, target: &str, subject: Known) -> Result<Vec<Change>, Fault> {
    let _turn = turn(world, target, Turn::Read).await;
    let prepared = known(world, target, subject, SecretsNeed::Required)?;
    let report = prepared
        .plugin
        .diff(&prepared.options(world), None, &prepared.generation)
        .await;
    report.answer.map_err(|failure| failure.into_fault())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_of_jobs_are_placed_where_the_job_stands() {
        let problem = |at: &str, message: &str| CheckProblem {
            at: at.into(),
            message: message.into(),
            hint: String::new(),
        };
        let answer = Ok(vec![problem("/template/image", "no such image")]);
        assert_eq!(
            job_problems(Hook::After, 1, answer).unwrap(),
            [problem("/after/1/template/image", "no such image")]
        );
        let absent = Err(fault(FaultClass::Absent, "it does not export jobs"));
        assert_eq!(
            job_problems(Hook::Before, 0, absent).unwrap(),
            [problem("/before/0", "the target's plugin runs no jobs")]
        );
        let trap = fault(FaultClass::Internal, "trap");
        assert_eq!(job_problems(Hook::Before, 0, Err(trap.clone())), Err(trap));
    }
}

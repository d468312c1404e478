//! Questions to a target through its plugin: nothing is changed.

use super::generation::{Identity, Prepared, SecretsNeed, generation, prepare};
use super::{World, context, fault};
use crate::shell::wall_ms;
use holdfast_core::engine::Engine;
use holdfast_core::engine::subject::Subject;
use holdfast_core::ids::WorkloadId;
use holdfast_core::release::Release;
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
    let options = CallOptions {
        binding: Some(binding),
        context: &context,
        deadline: world.call_deadline,
        now_ms: wall_ms(),
        secrets: &[],
    };
    plugin
        .observe(&options, None)
        .await
        .answer
        .map_err(|failure| failure.into_fault())
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
    let options = CallOptions {
        binding: None,
        context: &context,
        deadline: world.call_deadline,
        now_ms: wall_ms(),
        secrets: &[],
    };
    plugin
        .check(&options, &subject)
        .await
        .answer
        .map_err(|failure| failure.into_fault())
}

/// A generation in State, with its plugin.
pub(super) type Known = Option<(Subject, PluginRef)>;

fn known(world: &World, target: &str, subject: Known, need: SecretsNeed) -> Result<Prepared, Fault> {
    let (subject, plugin) = subject.ok_or_else(|| fault(FaultClass::Absent, "the generation is not known any more"))?;
    prepare(world, target, &subject, &plugin, need)
}

pub(super) async fn explain(world: &World, target: &str, subject: Known) -> Result<Vec<Excerpt>, Fault> {
    let prepared = known(world, target, subject, SecretsNeed::Spared)?;
    let report = prepared.plugin.explain(&prepared.options(world), &prepared.generation).await;
    report.answer.map_err(|failure| failure.into_fault())
}

pub(super) async fn telemetry(world: &World, target: &str, subject: Known) -> Result<Vec<Sample>, Fault> {
    let prepared = known(world, target, subject, SecretsNeed::Spared)?;
    let report = prepared
        .plugin
        .telemetry(&prepared.options(world), &prepared.generation)
        .await;
    report.answer.map_err(|failure| failure.into_fault())
}

pub(super) async fn room(world: &World, target: &str, subject: Known) -> Result<Option<u32>, Fault> {
    let prepared = known(world, target, subject, SecretsNeed::Spared)?;
    let report = prepared.plugin.room(&prepared.options(world), &prepared.generation).await;
    report.answer.map_err(|failure| failure.into_fault())
}

/// Against the generation's own objects: what somebody else changed. Without its secrets' values these would differ too.
pub(super) async fn diff(world: &World, target: &str, subject: Known) -> Result<Vec<Change>, Fault> {
    let prepared = known(world, target, subject, SecretsNeed::Required)?;
    let report = prepared
        .plugin
        .diff(&prepared.options(world), None, &prepared.generation)
        .await;
    report.answer.map_err(|failure| failure.into_fault())
}

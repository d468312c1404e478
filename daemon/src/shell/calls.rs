//! Asks and calls: each one attempt in a task of its own, whose answer comes back as an input.

use super::answer::{Blobs, accepted};
use super::{Event, World, wall_ms};
use holdfast_core::engine::subject::{Subject, generation_name, workload_key};
use holdfast_core::engine::{Call, Durable, Engine, Input, PinFailure, Resolved};
use holdfast_core::ids::{Digest, WorkloadId};
use holdfast_core::manifest::fill::fill;
use holdfast_core::plan::Ask;
use holdfast_core::release::Release;
use holdfast_core::target::*;
use holdfast_host::{CallOptions, ProbeOutcome, probe_http};
use holdfast_registry::Reference;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tracing::Instrument;

const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const PIN_DEADLINE: Duration = Duration::from_secs(120);

fn send(world: &World, input: Input) {
    // The loop is gone only when the daemon stops.
    let _ = world.events.send(Event::Input(input));
}

fn fault(class: FaultClass, message: impl Into<String>) -> Fault {
    Fault {
        class,
        message: message.into(),
        fence: None,
    }
}

fn slots(world: &World, target: &str) -> Arc<Semaphore> {
    let mut targets = world.targets.lock().unwrap_or_else(PoisonError::into_inner);
    targets
        .entry(target.to_owned())
        .or_insert_with(|| Arc::new(Semaphore::new(super::CALLS_PER_TARGET)))
        .clone()
}

/// A target as its manifest is now: for observing and checking.
struct Place {
    plugin: Result<PluginRef, String>,
    config: Value,
    values: BTreeMap<String, String>,
}

fn place(engine: &Engine, target: &str) -> Option<Place> {
    // A target that left Git is still looked at: what runs there is kept and reported.
    let spec = engine.state().targets.get(target)?.spec.as_ref()?;
    Some(Place {
        plugin: engine.config().plugin_for(target, &spec.plugin),
        config: spec.config.clone(),
        values: spec.values.clone(),
    })
}

fn context(world: &World, target: &str, config: &Value) -> CallContext {
    CallContext {
        owner: world.owner.clone(),
        target: target.to_owned(),
        config: config.to_string(),
        fence: 0,
        deploy_id: String::new(),
        resume: None,
    }
}

pub(super) fn ask(world: &World, engine: &Engine, ask: Ask) {
    let world = world.clone();
    let span = super::say::ask(&ask, |workload, target| deploy_of(engine, workload, target));
    match ask {
        Ask::Observe { target, begun } => {
            let place = place(engine, &target);
            spawn(span, async move {
                let outcome = observe(&world, &target, place).await;
                send(&world, Input::Observed { target, begun, outcome });
            });
        }
        Ask::Pin { workload, reference } => {
            let known = engine.state().workloads.get(&workload).and_then(|w| w.pins.get(&reference));
            let known = known.map(|pin| pin.moved_to.as_ref().unwrap_or(&pin.digest).to_string());
            spawn(span, async move {
                let outcome = match tokio::time::timeout(PIN_DEADLINE, pin(&world, &reference, known)).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(PinFailure {
                        message: format!("{reference}: no answer in time"),
                        retry_after_ms: None,
                    }),
                };
                send(
                    &world,
                    Input::Pinned {
                        workload,
                        reference,
                        outcome,
                    },
                );
            });
        }
        Ask::Check {
            workload,
            target,
            key,
            release,
            sources,
        } => {
            let place = place(engine, &target);
            spawn(span, async move {
                let outcome = check(&world, &workload, &target, place, &release, &sources).await;
                send(
                    &world,
                    Input::Checked {
                        workload,
                        target,
                        key,
                        outcome,
                    },
                );
            });
        }
        Ask::Probe {
            workload,
            target,
            generation,
            path,
            addresses,
        } => {
            let plugin = engine
                .state()
                .unit(&workload, &target)
                .and_then(|unit| unit.generations.get(&generation))
                .map(|g| g.plugin.clone());
            spawn(span, async move {
                let (failure, answered) = probe(&world, &target, plugin, &path, &addresses).await;
                send(
                    &world,
                    Input::Probed {
                        workload,
                        target,
                        generation,
                        failure,
                        answered,
                    },
                );
            });
        }
        Ask::Measure {
            workload,
            target,
            generations,
            queries: _,
        } => {
            let subjects: Vec<_> = generations
                .iter()
                .filter_map(|number| subject_of(engine, &workload, &target, *number))
                .collect();
            spawn(span, async move {
                let samples = measure(&world, &target, subjects).await;
                send(
                    &world,
                    Input::Measured {
                        workload,
                        target,
                        samples,
                        answers: BTreeMap::new(),
                    },
                );
            });
        }
        Ask::Explain {
            workload,
            target,
            generation,
        } => {
            let subject = subject_of(engine, &workload, &target, generation);
            spawn(span, async move {
                let excerpts = explain(&world, &target, subject).await;
                send(
                    &world,
                    Input::Explained {
                        workload,
                        target,
                        generation,
                        excerpts,
                    },
                );
            });
        }
        Ask::Room {
            workload,
            target,
            generation,
        } => send(
            &world,
            Input::Roomed {
                workload,
                target,
                generation,
                room: Ok(None),
            },
        ),
        Ask::Diff {
            workload,
            target,
            generation,
        } => send(
            &world,
            Input::Diffed {
                workload,
                target,
                generation,
                changes: Err(fault(FaultClass::Absent, "this plugin shows no differences")),
            },
        ),
        Ask::Tags { workload, repository } => send(
            &world,
            Input::Tagged {
                workload,
                repository,
                outcome: Err(PinFailure {
                    message: "tags are not listed".into(),
                    retry_after_ms: None,
                }),
            },
        ),
        Ask::Pullable { workload, release } => send(
            &world,
            Input::PullChecked {
                workload,
                release,
                outcome: Ok(()),
            },
        ),
    }
}

/// The deploy that is under way on a unit, or the one that its generation came by.
fn deploy_of(engine: &Engine, workload: &WorkloadId, target: &str) -> Option<String> {
    let unit = engine.state().unit(workload, target)?;
    let current = || unit.generations.get(&unit.current?).map(|generation| generation.attempt);
    let attempt = unit.attempt.as_ref().map(|attempt| attempt.id).or_else(current)?;
    Some(holdfast_core::ids::deploy_id(engine.state().epoch, attempt))
}

/// A task whose lines stand in a span.
fn spawn(span: tracing::Span, task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task.instrument(span));
}

fn subject_of(engine: &Engine, workload: &WorkloadId, target: &str, number: u32) -> Option<(Subject, PluginRef)> {
    let subject = engine.state().subject(workload, target, number)?;
    let plugin = engine
        .state()
        .unit(workload, target)?
        .generations
        .get(&number)?
        .plugin
        .clone();
    Some((subject, plugin))
}

async fn observe(world: &World, target: &str, place: Option<Place>) -> Result<Page, Fault> {
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
    };
    plugin
        .observe(&options, None)
        .await
        .answer
        .map_err(|failure| failure.into_fault())
}

async fn pin(world: &World, reference: &str, known: Option<String>) -> Result<Resolved, PinFailure> {
    let fail = |message: String| PinFailure {
        message,
        retry_after_ms: None,
    };
    let parsed = Reference::parse(reference).map_err(|error| fail(error.to_string()))?;
    let resolved = world.registries.resolve(&parsed, known.as_deref()).await;
    let resolved = resolved.map_err(|error| PinFailure {
        message: error.to_string(),
        retry_after_ms: error.retry_after_ms,
    })?;
    let Some(resolution) = resolved else {
        // As it was: the digest alone says so.
        let digest = known
            .and_then(|known| known.parse().ok())
            .ok_or_else(|| fail("the registry says unchanged, but of what?".into()))?;
        return Ok(Resolved {
            digest,
            source: parsed.source(),
            images: Vec::new(),
            accepted: Default::default(),
            blobs: Vec::new(),
            evidence: Value::Null,
        });
    };
    let images = serde_json::to_vec(&resolution.images).map_err(|error| fail(error.to_string()))?;
    let listed: Vec<PlatformImage> = serde_json::from_slice(&images).map_err(|error| fail(error.to_string()))?;
    let mut accepted = accepted(&listed);
    let digest: Digest = resolution
        .digest
        .parse()
        .map_err(|_| fail("the registry's digest is not sha256".into()))?;
    accepted.insert(digest.clone());
    let blobs = resolution
        .manifests
        .into_iter()
        .filter_map(|(digest, bytes)| Some((digest.parse().ok()?, bytes)))
        .collect();
    let evidence = serde_json::to_value(&resolution.evidence).unwrap_or_default();
    Ok(Resolved {
        digest,
        source: resolution.source,
        images,
        accepted,
        blobs,
        evidence,
    })
}

async fn check(
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
    let subject = generation(&identity, release, sources, &BTreeMap::new(), &place.values, &world.blobs)
        .map_err(|message| fault(FaultClass::Invalid, message))?;
    let context = context(world, target, &place.config);
    let options = CallOptions {
        binding: None,
        context: &context,
        deadline: world.call_deadline,
        now_ms: wall_ms(),
    };
    plugin
        .check(&options, &subject)
        .await
        .answer
        .map_err(|failure| failure.into_fault())
}

async fn probe(
    world: &World,
    target: &str,
    plugin: Option<PluginRef>,
    path: &str,
    addresses: &[String],
) -> (Option<String>, bool) {
    let Some((_, binding)) = plugin.and_then(|plugin| world.plugins.find(target, &plugin)) else {
        return (Some("no plugin is bound to the target".into()), false);
    };
    let mut answered = false;
    for address in addresses {
        let failure = match probe_http(address, path, &binding.probe_networks, PROBE_TIMEOUT).await {
            ProbeOutcome::Healthy => {
                answered = true;
                continue;
            }
            ProbeOutcome::Status(status) => {
                answered = true;
                format!("{address} answered {status}")
            }
            // An instance that is there and says nothing is too late or not at all: that is an answer too.
            ProbeOutcome::Silent(message) => {
                answered = true;
                format!("{address}: {message}")
            }
            ProbeOutcome::NotGranted(message) => message,
        };
        return (Some(failure), answered);
    }
    (None, answered)
}

async fn measure(world: &World, target: &str, subjects: Vec<(Subject, PluginRef)>) -> Result<BTreeMap<u32, Vec<Sample>>, Fault> {
    let mut samples = BTreeMap::new();
    for (subject, plugin) in subjects {
        let prepared = prepare(world, target, &subject, &plugin)?;
        let report = prepared
            .plugin
            .telemetry(&prepared.options(world, 0, &subject.deploy_id, None), &prepared.generation)
            .await;
        samples.insert(subject.number, report.answer.map_err(|failure| failure.into_fault())?);
    }
    Ok(samples)
}

async fn explain(world: &World, target: &str, subject: Option<(Subject, PluginRef)>) -> Result<Vec<Excerpt>, Fault> {
    let (subject, plugin) = subject.ok_or_else(|| fault(FaultClass::Absent, "the generation is not known any more"))?;
    let prepared = prepare(world, target, &subject, &plugin)?;
    let report = prepared
        .plugin
        .explain(&prepared.options(world, 0, &subject.deploy_id, None), &prepared.generation)
        .await;
    report.answer.map_err(|failure| failure.into_fault())
}

/// A generation with the plugin that drives it.
struct Prepared {
    plugin: Arc<holdfast_host::Plugin>,
    binding: Arc<holdfast_host::Binding>,
    generation: Generation,
    context: std::sync::OnceLock<CallContext>,
    config: Value,
    target: String,
}

impl Prepared {
    fn options<'a>(&'a self, world: &World, fence: u64, deploy_id: &str, resume: Option<String>) -> CallOptions<'a> {
        let context = self.context.get_or_init(|| CallContext {
            fence,
            deploy_id: deploy_id.to_owned(),
            resume,
            ..context(world, &self.target, &self.config)
        });
        CallOptions {
            binding: Some(self.binding.clone()),
            context,
            deadline: world.call_deadline,
            now_ms: wall_ms(),
        }
    }
}

fn prepare(world: &World, target: &str, subject: &Subject, plugin: &PluginRef) -> Result<Prepared, Fault> {
    let missing = || {
        fault(
            FaultClass::Invalid,
            format!(
                "plugin {} with digest {} is not loaded, or not bound to {target}",
                plugin.name, plugin.digest
            ),
        )
    };
    let (plugin, binding) = world.plugins.find(target, plugin).ok_or_else(missing)?;
    let (generation, config) = build(world, subject).map_err(|message| fault(FaultClass::Invalid, message))?;
    Ok(Prepared {
        plugin,
        binding,
        generation,
        context: Default::default(),
        config,
        target: target.to_owned(),
    })
}

/// The whole generation from the ledger's blobs: neither Git nor registry is needed.
fn build(world: &World, subject: &Subject) -> Result<(Generation, Value), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let release =
        Release::parse(&world.blobs.get(&subject.release.blob()).map_err(|error| text(&error))?).map_err(|error| text(&error))?;
    let captured: Value = serde_json::from_slice(&world.blobs.get(&subject.captured).map_err(|error| text(&error))?)
        .map_err(|error| text(&error))?;
    let values: BTreeMap<String, String> = serde_json::from_value(captured["values"].clone()).unwrap_or_default();
    let identity = Identity {
        workload: &subject.workload,
        target: &subject.target,
        number: subject.number,
        release_id: subject.release.to_string(),
        deploy_id: subject.deploy_id.clone(),
        commit: subject.commit.clone(),
        drain_ms: subject.drain_ms,
        owner: &world.owner,
    };
    let generation = generation(&identity, &release, &subject.sources, &subject.images, &values, &world.blobs)?;
    Ok((generation, captured["config"].clone()))
}

/// Who a generation is, apart from its content.
struct Identity<'a> {
    workload: &'a WorkloadId,
    target: &'a str,
    number: u32,
    release_id: String,
    deploy_id: String,
    commit: String,
    drain_ms: u32,
    owner: &'a str,
}

fn generation(
    identity: &Identity<'_>,
    release: &Release,
    sources: &BTreeMap<String, String>,
    images: &BTreeMap<String, Digest>,
    values: &BTreeMap<String, String>,
    blobs: &Blobs,
) -> Result<Generation, String> {
    let mut artifacts = Vec::new();
    for (name, digest) in &release.artifacts {
        let source = sources.get(name).ok_or_else(|| format!("artifact {name} has no source"))?;
        let images = match images.get(name) {
            Some(blob) => blobs.images(blob)?,
            None => Vec::new(),
        };
        artifacts.push(Artifact {
            name: name.clone(),
            uri: format!("{source}@{digest}"),
            digest: digest.to_string(),
            images,
            payload: Vec::new(),
        });
    }
    let uris = artifacts
        .iter()
        .map(|artifact| (artifact.name.clone(), artifact.uri.clone()))
        .collect();
    let template = fill(&release.template, values, &uris).map_err(|error| error.to_string())?;
    let files = release.files.iter().map(|(path, digest)| {
        let body = blobs.get(digest).map_err(|error| error.to_string())?;
        Ok(FileBody {
            path: path.clone(),
            body,
        })
    });
    let stamps = [
        ("owner", identity.owner.to_owned()),
        ("workload", identity.workload.as_str().replace('/', ".")),
        ("target", identity.target.to_owned()),
        ("generation", identity.number.to_string()),
        ("release", identity.release_id.chars().take(63).collect()),
        ("deploy", identity.deploy_id.clone()),
        ("commit", identity.commit.clone()),
    ];
    Ok(Generation {
        workload: identity.workload.to_string(),
        key: workload_key(identity.workload),
        name: generation_name(identity.workload, identity.number),
        number: identity.number,
        release_id: identity.release_id.clone(),
        artifacts,
        template: template.to_string(),
        files: files.collect::<Result<_, String>>()?,
        secrets: Vec::new(),
        stamps: stamps
            .into_iter()
            .map(|(name, value)| Stamp {
                name: name.into(),
                value,
            })
            .collect(),
        drain_ms: identity.drain_ms,
    })
}

/// One attempt of one verb, under its intent's fence.
pub(super) fn call(world: &World, engine: &Engine, call: Durable<Call>) {
    let call = call.into_inner();
    let numbers: Vec<u32> = match &call.verb {
        Verb::Route { shares, .. } => shares.iter().map(|share| share.number).collect(),
        verb => vec![verb.generation()],
    };
    let subjects: Option<Vec<Subject>> = numbers
        .iter()
        .map(|number| engine.state().subject(&call.workload, &call.target, *number))
        .collect();
    let world = world.clone();
    spawn(super::say::call(&call), async move {
        let slots = slots(&world, &call.target);
        let _slot = slots.acquire().await;
        tracing::debug!("call begins");
        let (outcome, sent) = match subjects {
            Some(subjects) => perform(&world, &call, &subjects).await,
            None => (Err(fault(FaultClass::Internal, "the generation is not in State")), Vec::new()),
        };
        let Call {
            workload,
            target,
            intent,
            ..
        } = call;
        send(
            &world,
            Input::Called {
                workload,
                target,
                intent,
                outcome,
                sent,
            },
        );
    });
}

async fn perform(world: &World, call: &Call, subjects: &[Subject]) -> (Result<Progress, Fault>, Vec<Sent>) {
    let mut prepared = Vec::new();
    for subject in subjects {
        match prepare(world, &call.target, subject, &call.plugin) {
            Ok(one) => prepared.push(one),
            Err(fault) => return (Err(fault), Vec::new()),
        }
    }
    let Some(first) = prepared.first() else {
        return (Err(fault(FaultClass::Internal, "a verb without a generation")), Vec::new());
    };
    let options = first.options(world, call.fence, &call.deploy_id, call.resume.clone());
    let plugin = &first.plugin;
    let report = match &call.verb {
        Verb::Launch { size, .. } => plugin.launch(&options, &first.generation, *size).await,
        Verb::Scale { size, .. } => plugin.scale(&options, &first.generation, *size).await,
        Verb::Retire { last, .. } => plugin.retire(&options, &first.generation, *last).await,
        Verb::Run { job, .. } => {
            let message = format!("job {job}: this plugin runs no jobs");
            return (Err(fault(FaultClass::Invalid, message)), Vec::new());
        }
        Verb::Route { shares, lead } => {
            let entries: Vec<RouteEntry> = prepared
                .iter()
                .zip(shares)
                .map(|(one, share)| RouteEntry {
                    generation: one.generation.clone(),
                    live: share.live,
                    lead: share.number == *lead,
                })
                .collect();
            plugin.route(&options, &entries).await
        }
    };
    (report.answer.map_err(|failure| failure.into_fault()), report.sent)
}

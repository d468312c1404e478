//! Between the WIT's records and the core's plain values. Nothing is decided here.

use crate::bindings::exports::holdfast::target::target as exports;
use crate::bindings::holdfast::target::types as wit;
use holdfast_core::target as core;

pub(crate) fn context(ctx: &core::CallContext) -> wit::Context {
    wit::Context {
        owner: ctx.owner.clone(),
        target: ctx.target.clone(),
        config: ctx.config.clone(),
        fence: ctx.fence,
        deploy_id: ctx.deploy_id.clone(),
        resume: ctx.resume.clone(),
    }
}

pub(crate) fn generation(generation: &core::Generation) -> wit::Generation {
    let blob = |blob: &core::BlobRef| wit::Blob {
        digest: blob.digest.clone(),
        media_type: blob.media_type.clone(),
        size_kib: u32::try_from(blob.size_bytes.div_ceil(1024)).unwrap_or(u32::MAX),
    };
    let image = |image: &core::PlatformImage| wit::PlatformImage {
        platform: image.platform.clone(),
        manifest: image.manifest.clone(),
        config: image.config.clone(),
        blobs: image.blobs.iter().map(blob).collect(),
    };
    let artifact = |artifact: &core::Artifact| wit::Artifact {
        name: artifact.name.clone(),
        uri: artifact.uri.clone(),
        digest: artifact.digest.clone(),
        images: artifact.images.iter().map(image).collect(),
        payload: artifact.payload.clone(),
    };
    wit::Generation {
        workload: generation.workload.clone(),
        key: generation.key.clone(),
        name: generation.name.clone(),
        number: generation.number,
        release_id: generation.release_id.clone(),
        artifacts: generation.artifacts.iter().map(artifact).collect(),
        template: generation.template.clone(),
        files: generation
            .files
            .iter()
            .map(|file| wit::File {
                path: file.path.clone(),
                body: file.body.clone(),
            })
            .collect(),
        secrets: generation
            .secrets
            .iter()
            .map(|secret| wit::Secret {
                name: secret.name.clone(),
                version: secret.version.clone(),
                marker: secret.marker.clone(),
                marker_base64: secret.marker_base64.clone(),
            })
            .collect(),
        stamps: generation
            .stamps
            .iter()
            .map(|stamp| wit::Stamp {
                name: stamp.name.clone(),
                value: stamp.value.clone(),
            })
            .collect(),
        drain_ms: generation.drain_ms,
    }
}

pub(crate) fn route_entry(entry: &core::RouteEntry) -> exports::RouteEntry {
    exports::RouteEntry {
        generation: generation(&entry.generation),
        live: entry.live,
        lead: entry.lead,
    }
}

/// It is kept in memory and given back with every further call of the step.
const RESUME_MAX_BYTES: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
#[error("its resume has {0} bytes; the limit is {RESUME_MAX_BYTES}")]
pub(crate) struct ResumeTooLarge(usize);

pub(crate) fn progress(progress: wit::Progress) -> wasmtime::Result<core::Progress> {
    match progress {
        wit::Progress::Done => Ok(core::Progress::Done),
        wit::Progress::Pending(wait) if wait.resume.len() > RESUME_MAX_BYTES => {
            Err(wasmtime::Error::new(ResumeTooLarge(wait.resume.len())))
        }
        wit::Progress::Pending(wait) => Ok(core::Progress::Pending {
            resume: wait.resume,
            after_ms: wait.after_ms,
            message: wait.message,
        }),
    }
}

pub(crate) fn fault(fault: wit::Fault) -> core::Fault {
    use core::FaultClass as Class;
    let (class, message, fence) = match fault {
        wit::Fault::Invalid(message) => (Class::Invalid, message, None),
        wit::Fault::Failed(message) => (Class::Failed, message, None),
        wit::Fault::Conflict(message) => (Class::Conflict, message, None),
        wit::Fault::Fenced(fence) => (Class::Fenced, format!("the target has seen fence {fence}"), Some(fence)),
        wit::Fault::Denied(message) => (Class::Denied, message, None),
        wit::Fault::Exhausted(message) => (Class::Exhausted, message, None),
        wit::Fault::Absent(message) => (Class::Absent, message, None),
        wit::Fault::Unavailable(message) => (Class::Unavailable, message, None),
        wit::Fault::Internal(message) => (Class::Internal, message, None),
    };
    core::Fault { class, message, fence }
}

pub(crate) fn problem(problem: wit::Problem) -> core::CheckProblem {
    core::CheckProblem {
        at: problem.at,
        message: problem.message,
        hint: problem.hint,
    }
}

pub(crate) fn report(report: wit::Report) -> core::Report {
    let abilities = report.abilities;
    core::Report {
        problems: report.problems.into_iter().map(problem).collect(),
        abilities: core::Abilities {
            routing: match abilities.routing {
                wit::Routing::Fixed => core::Routing::Fixed,
                wit::Routing::Single => core::Routing::Single,
                wit::Routing::Pooled => core::Routing::Pooled,
                wit::Routing::Weighted => core::Routing::Weighted,
            },
            most_live: abilities.most_live,
            finest_share: abilities.finest_share,
            sizing: match abilities.sizing {
                wit::Sizing::Unsized => core::Sizing::Unsized,
                wit::Sizing::Planned => core::Sizing::Planned,
                wit::Sizing::Automatic => core::Sizing::Automatic,
            },
            overlap: abilities.overlap,
            staged: abilities.staged,
            seamless: abilities.seamless,
            guarded: abilities.guarded,
            probed: abilities.probed,
        },
    }
}

pub(crate) fn page(page: wit::Page) -> core::Page {
    core::Page {
        owner: page.owner,
        high_fence: page.high_fence,
        generations: page.generations.into_iter().map(generation_state).collect(),
        routes: page.routes.into_iter().map(route_state).collect(),
        strangers: page.strangers,
        more: page.more,
    }
}

fn generation_state(state: wit::GenerationState) -> core::GenerationState {
    let proof = |proof: wit::Proof| core::Proof {
        artifact: proof.artifact,
        digest: proof.digest,
        by: match proof.by {
            wit::Evidence::Measured => core::EvidenceBy::Measured,
            wit::Evidence::Reported => core::EvidenceBy::Reported,
            wit::Evidence::Assumed => core::EvidenceBy::Assumed,
        },
        count: proof.count,
    };
    let instance = |instance: wit::Instance| core::Instance {
        name: instance.name,
        ready: instance.ready,
        restarts: instance.restarts,
        address: instance.address,
        message: instance.message,
    };
    core::GenerationState {
        workload: state.workload,
        number: state.number,
        release_id: state.release_id,
        fence: state.fence,
        phase: match state.phase {
            wit::Phase::Partial => core::GenPhase::Partial,
            wit::Phase::Starting => core::GenPhase::Starting,
            wit::Phase::Ready => core::GenPhase::Ready,
            wit::Phase::Failing => core::GenPhase::Failing,
            wit::Phase::Stuck => core::GenPhase::Stuck,
            wit::Phase::Parked => core::GenPhase::Parked,
            wit::Phase::Leaving => core::GenPhase::Leaving,
        },
        reason: state.reason,
        message: state.message,
        wanted: state.wanted,
        ready: state.ready,
        restarts: state.restarts,
        proofs: state.proofs.into_iter().map(proof).collect(),
        fingerprint: state.fingerprint,
        objects: state.objects,
        instances: state.instances.into_iter().map(instance).collect(),
    }
}

fn route_state(route: wit::RouteState) -> core::RouteState {
    core::RouteState {
        workload: route.workload,
        fence: route.fence,
        shares: route
            .shares
            .into_iter()
            .map(|share| core::Share {
                number: share.number,
                live: share.live,
            })
            .collect(),
        settled: route.settled,
        fingerprint: route.fingerprint,
    }
}

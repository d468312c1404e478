//! What the site's API says, and what its refusals mean to Holdfast.

use holdfast_plugin::{Answer, Fault, Phase, Progress, Wait, expect_success};
use serde::Deserialize;
use std::collections::BTreeMap;

const ASK_AGAIN_MS: u32 = 100;

#[derive(Deserialize)]
pub struct SiteView {
    pub owner: Option<String>,
    pub high_fence: u64,
    pub workloads: Vec<WorkloadView>,
}

#[derive(Deserialize)]
pub struct WorkloadView {
    pub key: String,
    pub workload: String,
    pub route_fence: u64,
    pub shares: BTreeMap<u32, u32>,
    pub generations: Vec<GenerationView>,
}

#[derive(Deserialize)]
pub struct GenerationView {
    pub number: u32,
    pub name: String,
    pub release_id: String,
    pub fence: u64,
    pub artifact: String,
    pub digest: String,
    pub digests: Vec<String>,
    pub phase: String,
    pub reason: String,
    pub message: String,
    pub address: Option<String>,
    pub fingerprint: String,
    pub template: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
pub struct Diagnosis {
    pub reason: String,
    pub message: String,
    pub output: String,
    pub jobs: Vec<JobView>,
}

#[derive(Deserialize)]
pub struct JobView {
    pub name: String,
    pub state: String,
    pub message: String,
    pub output: String,
}

#[derive(Deserialize)]
pub struct RoomView {
    pub instances: Option<u32>,
}

#[derive(Deserialize)]
struct Refusal {
    error: RefusalBody,
}

#[derive(Deserialize)]
struct RefusalBody {
    class: String,
    message: String,
    fence: Option<u64>,
}

pub fn phase(text: &str) -> Phase {
    match text {
        "ready" => Phase::Ready,
        "starting" => Phase::Starting,
        "failing" => Phase::Failing,
        "stuck" => Phase::Stuck,
        "parked" => Phase::Parked,
        "leaving" => Phase::Leaving,
        _ => Phase::Partial,
    }
}

pub fn is_reading_ok(text: &str) -> bool {
    !text.trim().is_empty()
}

/// Done, pending, or the fault that the site's error class stands for.
pub fn done(answer: Answer) -> Result<Progress, Fault> {
    match answer.status {
        202 => Ok(Progress::Pending(Wait {
            resume: String::new(),
            after_ms: ASK_AGAIN_MS,
            message: "the site is at it".into(),
        })),
        200..=299 => Ok(Progress::Done),
        _ => {
            let Ok(refusal) = serde_json::from_slice::<Refusal>(&answer.body) else {
                // Not the site's own words: something on the way to it.
                return expect_success(answer).map(|_| Progress::Done);
            };
            let RefusalBody { class, message, fence } = refusal.error;
            Err(match class.as_str() {
                "fenced" => Fault::Fenced(fence.unwrap_or(0)),
                "conflict" => Fault::Conflict(message),
                "absent" => Fault::Absent(message),
                "invalid" => Fault::Invalid(message),
                "exhausted" => Fault::Exhausted(message),
                "failed" => Fault::Failed(message),
                "denied" => Fault::Denied(message),
                _ => Fault::Unavailable(message),
            })
        }
    }
}

//! What a generation's Deployment and pods say about it: is it ready, and if not, whose fault is it?

use crate::stamp::{ARTIFACTS, PROBE_PORT, Stamped};
use holdfast_plugin::{Evidence, Instance, Phase, Proof};
use serde_json::Value;
use std::collections::BTreeMap;

/// Of one generation, in the answer to `observe`.
const INSTANCES_MAX: usize = 50;

pub struct Health {
    pub phase: Phase,
    pub reason: String,
    pub message: String,
    pub ready: u32,
    pub restarts: u32,
    pub proofs: Vec<Proof>,
    pub instances: Vec<Instance>,
}

/// Worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Blame {
    /// Nobody: it takes its time.
    Nobody,
    /// The cluster, or what it needs.
    Others,
    /// The release.
    Release,
}

struct Trouble {
    blame: Blame,
    reason: String,
    message: String,
}

impl Trouble {
    fn new(blame: Blame, reason: &str, message: impl Into<String>) -> Self {
        Self {
            blame,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

pub fn judge(deployment: &Value, pods: &[&Value]) -> Health {
    let containers = expected(deployment);
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1) as u32;
    let is_leaving = |pod: &&&Value| !pod["metadata"]["deletionTimestamp"].is_null();
    let staying: Vec<&&Value> = pods.iter().filter(|pod| !is_leaving(pod)).collect();
    let ready = staying.iter().filter(|pod| is_ready(pod)).count() as u32;
    let restarts = staying.iter().map(|pod| restarts(pod, &containers)).sum();
    let mut instances: Vec<Instance> = staying.iter().map(|pod| instance(pod, deployment, &containers)).collect();
    instances.sort_by_key(|instance| (instance.ready, std::cmp::Reverse(instance.restarts)));
    instances.truncate(INSTANCES_MAX);
    let mut health = Health {
        phase: Phase::Starting,
        reason: String::new(),
        message: String::new(),
        ready,
        restarts,
        proofs: proofs(&staying, &containers),
        instances,
    };
    if !deployment["metadata"]["deletionTimestamp"].is_null() {
        health.phase = Phase::Leaving;
        return health;
    }
    if wanted == 0 {
        // Room and ports are free when the last one is gone, not when it is told to go.
        (health.phase, health.ready) = (Phase::Parked, pods.len() as u32);
        return health;
    }
    let is_seen = deployment["status"]["observedGeneration"].as_u64() >= deployment["metadata"]["generation"].as_u64();
    if is_seen && ready >= wanted {
        health.phase = Phase::Ready;
        return health;
    }
    let of_pods = staying.iter().filter_map(|pod| trouble(pod, &containers));
    let worst = of_pods.chain(refused(deployment)).max_by_key(|trouble| trouble.blame);
    if let Some(worst) = worst {
        health.phase = match worst.blame {
            Blame::Nobody => Phase::Starting,
            Blame::Others => Phase::Stuck,
            Blame::Release => Phase::Failing,
        };
        // People look for the cluster's word; what says it anyway need not say it twice.
        health.message = match worst.message.contains(&worst.reason) {
            true => worst.message,
            false => format!("{}: {}", worst.reason, worst.message),
        };
        health.reason = worst.reason;
    }
    health
}

/// The containers of the template and the artifact of each: what a webhook puts beside them is not ours to judge.
fn expected(deployment: &Value) -> BTreeMap<String, String> {
    let artifacts: BTreeMap<String, String> = serde_json::from_str(Stamped(deployment).annotation(ARTIFACTS)).unwrap_or_default();
    let spec = &deployment["spec"]["template"]["spec"];
    let containers = ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| spec[list].as_array().into_iter().flatten());
    containers
        .filter_map(|container| {
            let image = container["image"].as_str()?;
            let artifact = artifacts.iter().find(|(_, uri)| *uri == image);
            // An image that is no artifact was put there by hand: its digest is told of the main one, and will not match.
            let name = artifact.map_or("main", |(name, _)| name.as_str());
            Some((container["name"].as_str()?.to_owned(), name.to_owned()))
        })
        .collect()
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True")
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)
}

fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .flat_map(|list| pod["status"][list].as_array().into_iter().flatten())
}

fn own<'a>(pod: &'a Value, containers: &'a BTreeMap<String, String>) -> impl Iterator<Item = (&'a Value, &'a str)> {
    statuses(pod).filter_map(|status| Some((status, containers.get(status["name"].as_str()?)?.as_str())))
}

fn restarts(pod: &Value, containers: &BTreeMap<String, String>) -> u32 {
    own(pod, containers)
        .map(|(status, _)| status["restartCount"].as_u64().unwrap_or(0) as u32)
        .sum()
}

/// Digests that the kubelets report, and in how many pods each runs.
fn proofs(pods: &[&&Value], containers: &BTreeMap<String, String>) -> Vec<Proof> {
    let mut counts: BTreeMap<(String, String), u32> = BTreeMap::new();
    for pod in pods {
        for (status, artifact) in own(pod, containers) {
            let image = status["imageID"].as_str().unwrap_or_default();
            let digest = image.rsplit('@').next().unwrap_or_default();
            if digest.starts_with("sha256:") {
                *counts.entry((artifact.to_owned(), digest.to_owned())).or_default() += 1;
            }
        }
    }
    counts
        .into_iter()
        .map(|((artifact, digest), count)| Proof {
            artifact,
            digest,
            by: Evidence::Reported,
            count,
        })
        .collect()
}

fn instance(pod: &Value, deployment: &Value, containers: &BTreeMap<String, String>) -> Instance {
    let port = Stamped(deployment).annotation(PROBE_PORT);
    let address = match pod["status"]["podIP"].as_str() {
        Some(ip) if !port.is_empty() && ip.contains(':') => format!("[{ip}]:{port}"),
        Some(ip) if !port.is_empty() => format!("{ip}:{port}"),
        _ => String::new(),
    };
    let ready = is_ready(pod);
    let message = match trouble(pod, containers) {
        Some(trouble) if !ready => format!("{}: {}", trouble.reason, trouble.message),
        _ => String::new(),
    };
    Instance {
        name: pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        ready,
        restarts: restarts(pod, containers),
        address,
        message,
    }
}

/// What the controller could not even make: quota, a policy, a missing service account.
fn refused(deployment: &Value) -> Option<Trouble> {
    let failure = condition(deployment, "ReplicaFailure").filter(|condition| condition["status"] == "True")?;
    let message = failure["message"].as_str().unwrap_or_default();
    let reason = match message {
        _ if message.contains("exceeded quota") => "QuotaExceeded",
        _ if message.contains("denied") => "AdmissionDenied",
        _ => failure["reason"].as_str().unwrap_or("FailedCreate"),
    };
    Some(Trouble::new(Blame::Others, reason, message))
}

fn trouble(pod: &Value, containers: &BTreeMap<String, String>) -> Option<Trouble> {
    let of_containers = own(pod, containers).filter_map(|(status, _)| of_container(status));
    if let Some(worst) = of_containers.max_by_key(|trouble| trouble.blame) {
        return Some(worst);
    }
    if pod["status"]["phase"] == "Failed" {
        let reason = pod["status"]["reason"].as_str().unwrap_or("Failed");
        return Some(Trouble::new(Blame::Others, reason, text(&pod["status"]["message"])));
    }
    if let Some(unscheduled) = condition(pod, "PodScheduled").filter(|condition| condition["status"] == "False") {
        let reason = unscheduled["reason"].as_str().unwrap_or("Unschedulable");
        return Some(Trouble::new(Blame::Others, reason, text(&unscheduled["message"])));
    }
    let unready = condition(pod, "Ready").filter(|condition| condition["status"] == "False")?;
    let reason = unready["reason"].as_str().unwrap_or("NotReady");
    let message = match text(&unready["message"]) {
        message if message.is_empty() => "its readiness probe has not passed".to_owned(),
        message => message,
    };
    Some(Trouble::new(Blame::Nobody, reason, message))
}

/// One container. The words are the kubelet's: <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>
fn of_container(status: &Value) -> Option<Trouble> {
    let name = status["name"].as_str().unwrap_or_default();
    let last = &status["lastState"]["terminated"];
    let ended = |terminated: &Value| {
        let code = terminated["exitCode"].as_i64().unwrap_or(0);
        let because = terminated["reason"].as_str().unwrap_or("Error");
        let said = text(&terminated["message"]);
        let said = if said.is_empty() { said } else { format!(": {said}") };
        format!("container {name} ended with exit code {code} ({because}){said}")
    };
    let waiting = &status["state"]["waiting"];
    if let Some(reason) = waiting["reason"].as_str() {
        let message = text(&waiting["message"]);
        return match reason {
            "PodInitializing" | "ContainerCreating" => None,
            "CrashLoopBackOff" if last["reason"] == "OOMKilled" => Some(Trouble::new(
                Blame::Release,
                "OOMKilled",
                format!("{}; it used more memory than its limit", ended(last)),
            )),
            "CrashLoopBackOff" => Some(Trouble::new(
                Blame::Release,
                reason,
                if last.is_null() { message } else { ended(last) },
            )),
            "RunContainerError" | "PostStartHookError" => Some(Trouble::new(Blame::Release, reason, message)),
            // Both words come by turns for one thing.
            "ErrImagePull" => Some(Trouble::new(Blame::Others, "ImagePullBackOff", message)),
            _ => Some(Trouble::new(Blame::Others, reason, message)),
        };
    }
    let terminated = &status["state"]["terminated"];
    if terminated["exitCode"].as_i64().is_some_and(|code| code != 0) {
        return Some(Trouble::new(Blame::Nobody, "Restarting", ended(terminated)));
    }
    None
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().chars().take(500).collect()
}

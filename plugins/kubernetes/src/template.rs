//! What a manifest may say to this plugin: the target's config, and a workload's template. Problems have a place.

use crate::shared;
use holdfast_plugin::{Abilities, Generation, Problem, Routing, Sizing, checked_config, template};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What keeps a label of ours apart from everybody else's.
pub const PREFIX: &str = "holdfast.dev/";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    pub namespace: String,
    /// The cluster has the Gateway API and a controller for it.
    #[serde(default)]
    pub gateway: bool,
    /// Kinds that `shared` may hold.
    #[serde(default)]
    pub shared_kinds: BTreeSet<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Template {
    /// A PodSpec; images are artifacts.
    pub pod: Map<String, Value>,
    /// Of the pods, beside ours.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub service: Option<Service>,
    #[serde(default)]
    pub gateway: Option<Gateway>,
    /// Port of a pod that the daemon may probe; by default the service's first target.
    #[serde(default)]
    pub probe_port: Option<u16>,
    /// Directory of every container in which the release's config files lie.
    #[serde(default)]
    pub files_at: Option<String>,
    #[serde(default)]
    pub secrets: Secrets,
    /// Objects beside the workload, applied with the lead and pruned when gone.
    #[serde(default)]
    pub shared: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    pub ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    #[serde(default)]
    pub name: Option<String>,
    pub port: u16,
    /// A number, or the name of a container's port; by default `port`.
    #[serde(default)]
    pub target_port: Option<Value>,
    #[serde(default)]
    pub app_protocol: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    /// As in an HTTPRoute: the gateways that it hangs off.
    pub parent_refs: Vec<Value>,
    #[serde(default)]
    pub hostnames: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Secrets {
    /// Environment variable of every container to the secret's name.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Directory of every container with a file for each secret.
    #[serde(default)]
    pub at: Option<String>,
}

/// The template of a job: a PodSpec that runs to its end.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobTemplate {
    pub pod: Map<String, Value>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub files_at: Option<String>,
    #[serde(default)]
    pub secrets: Secrets,
}

impl Template {
    pub fn routing(&self) -> Routing {
        match (&self.gateway, &self.service) {
            (Some(_), _) => Routing::Weighted,
            (None, Some(_)) => Routing::Single,
            (None, None) => Routing::Fixed,
        }
    }

    pub fn probe_port(&self) -> Option<u16> {
        self.probe_port.or_else(|| {
            let first = self.service.as_ref()?.ports.first()?;
            match &first.target_port {
                Some(target) => target.as_u64().and_then(|port| u16::try_from(port).ok()),
                None => Some(first.port),
            }
        })
    }

    pub fn abilities(&self) -> Abilities {
        let routing = self.routing();
        Abilities {
            routing,
            most_live: match routing {
                Routing::Single => 1,
                // References in one rule of an HTTPRoute.
                _ => 16,
            },
            finest_share: 1,
            sizing: Sizing::Planned,
            overlap: !holds_what_is_single(&self.pod),
            staged: true,
            seamless: true,
            guarded: true,
            probed: self.probe_port().is_some(),
        }
    }
}

/// A host's port or a volume that one pod at a time may have: two generations cannot run side by side.
fn holds_what_is_single(pod: &Map<String, Value>) -> bool {
    let ports = each(pod, "containers").flat_map(|(_, container)| each_of(&container["ports"]));
    let volumes = each(pod, "volumes");
    pod.get("hostNetwork") == Some(&Value::Bool(true))
        || ports.into_iter().any(|port| !port["hostPort"].is_null())
        || volumes
            .into_iter()
            .any(|(_, volume)| !volume["persistentVolumeClaim"].is_null())
}

fn each<'a>(pod: &'a Map<String, Value>, list: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    pod.get(list).into_iter().flat_map(each_of).enumerate()
}

fn each_of(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

pub fn problem(at: impl Into<String>, message: impl Into<String>, hint: &str) -> Problem {
    Problem {
        at: at.into(),
        message: message.into(),
        hint: hint.into(),
    }
}

/// What is wrong, and the abilities as far as the template could be read.
pub fn check(config: &str, subject: &Generation) -> (Vec<Problem>, Option<Template>) {
    let mut problems = Vec::new();
    let config = checked_config::<Config>(config)
        .map_err(|problem| problems.push(problem))
        .ok();
    let template = template::<Template>(&subject.template)
        .map_err(|problem| problems.push(problem))
        .ok();
    if let Some(config) = &config
        && !is_label(&config.namespace)
    {
        let message = format!("{:?} cannot be a namespace", config.namespace);
        problems.push(problem("/config/namespace", message, "a-z, 0-9 and -, at most 63"));
    }
    if let Some(template) = &template {
        problems.extend(of_pod(&template.pod, subject));
        problems.extend(of_contents(&template.files_at, &template.secrets, subject));
        problems.extend(of_metadata(template));
        problems.extend(of_traffic(template, config.as_ref()));
        problems.extend(shared::problems(&template.shared, config.as_ref(), &subject.key));
    }
    (problems, template)
}

pub fn check_job(text: &str, subject: &Generation) -> Vec<Problem> {
    match template::<JobTemplate>(text) {
        Err(problem) => vec![problem],
        Ok(job) => {
            let mut problems = of_pod(&job.pod, subject);
            problems.extend(of_contents(&job.files_at, &job.secrets, subject));
            if job.pod.get("restartPolicy").is_some_and(|policy| policy != "Never") {
                let hint = "leave it out: a job runs once, and its release says whether again";
                problems.push(problem("/template/pod/restartPolicy", "only Never", hint));
            }
            problems
        }
    }
}

/// Every image is one of the release's: what is not pinned cannot run.
fn of_pod(pod: &Map<String, Value>, subject: &Generation) -> Vec<Problem> {
    let mut problems = Vec::new();
    if each(pod, "containers").next().is_none() {
        problems.push(problem("/template/pod/containers", "a pod needs a container", ""));
    }
    if pod.contains_key("ephemeralContainers") {
        problems.push(problem(
            "/template/pod/ephemeralContainers",
            "nothing that runs is patched",
            "leave it out",
        ));
    }
    let images = ["initContainers", "containers"].into_iter().flat_map(|list| {
        each(pod, list).map(move |(at, container)| (format!("/template/pod/{list}/{at}/image"), &container["image"]))
    });
    let volumes = each(pod, "volumes")
        .filter(|(_, volume)| !volume["image"].is_null())
        .map(|(at, volume)| {
            (
                format!("/template/pod/volumes/{at}/image/reference"),
                &volume["image"]["reference"],
            )
        });
    let names: Vec<String> = subject
        .artifacts
        .iter()
        .map(|one| format!("${{artifacts.{}}}", one.name))
        .collect();
    for (at, image) in images.chain(volumes) {
        let is_ours = subject.artifacts.iter().any(|one| image.as_str() == Some(one.uri.as_str()));
        if !is_ours {
            let message = match image.as_str() {
                Some(image) => format!("{image:?} is not an artifact of this workload"),
                None => "an image is missing".to_owned(),
            };
            problems.push(problem(at, message, &format!("use {}", names.join(" or "))));
        }
    }
    problems
}

fn of_contents(files_at: &Option<String>, secrets: &Secrets, subject: &Generation) -> Vec<Problem> {
    let mut problems = Vec::new();
    match files_at {
        Some(at) if !at.starts_with('/') => {
            problems.push(problem("/template/filesAt", format!("{at:?} is no absolute path"), ""));
        }
        Some(_) if subject.files.is_empty() => {
            problems.push(problem(
                "/template/filesAt",
                "there are no config files",
                "name some in config.files",
            ));
        }
        None if !subject.files.is_empty() => {
            problems.push(problem("/template", "the config files have no place", "say where: filesAt"));
        }
        _ => {}
    }
    for (variable, name) in &secrets.env {
        if !subject.secrets.iter().any(|secret| secret.name == *name) {
            let message = format!("{name:?} is not a secret of this workload");
            problems.push(problem(
                format!("/template/secrets/env/{variable}"),
                message,
                "name it in secrets",
            ));
        }
    }
    let used = |name: &String| secrets.at.is_some() || secrets.env.values().any(|used| used == name);
    for secret in subject.secrets.iter().filter(|secret| !used(&secret.name)) {
        let message = format!("secret {:?} is used nowhere", secret.name);
        problems.push(problem("/template/secrets", message, "say where: env or at"));
    }
    problems
}

fn of_metadata(template: &Template) -> Vec<Problem> {
    let ours = |map: &BTreeMap<String, String>, name: &str| -> Vec<Problem> {
        let reserved = map
            .keys()
            .filter(|key| key.starts_with(PREFIX) || key.starts_with("app.kubernetes.io/"));
        reserved
            .map(|key| {
                let at = format!("/template/{name}/{}", key.replace('~', "~0").replace('/', "~1"));
                problem(at, "set by Holdfast itself", "leave it out")
            })
            .collect()
    };
    let mut problems = ours(&template.labels, "labels");
    problems.extend(ours(&template.annotations, "annotations"));
    problems
}

fn of_traffic(template: &Template, config: Option<&Config>) -> Vec<Problem> {
    let mut problems = Vec::new();
    match &template.service {
        Some(service) if service.ports.is_empty() => {
            problems.push(problem("/template/service/ports", "a service needs a port", ""));
        }
        Some(service) if service.ports.len() > 1 && service.ports.iter().any(|port| port.name.is_none()) => {
            problems.push(problem(
                "/template/service/ports",
                "with more than one port each needs a name",
                "",
            ));
        }
        None if template.gateway.is_some() => {
            problems.push(problem(
                "/template/gateway",
                "a gateway needs a service to send to",
                "add service",
            ));
        }
        _ => {}
    }
    if template.gateway.is_some() && config.is_some_and(|config| !config.gateway) {
        let hint = "set gateway: true in the target's config where the cluster has the Gateway API";
        problems.push(problem("/template/gateway", "this target has no gateway", hint));
    }
    problems
}

fn is_label(name: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
}

//! A generation's objects as they are written: its Deployment, its Service, and what its pods read.

use crate::stamp::{self, ARTIFACTS, KEY, NAME, NUMBER, OWNER, PROBE_PORT};
use crate::template::{JobTemplate, Secrets, Service, Template};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use holdfast_plugin::{Context, Generation};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// The Deployment's pod template is never changed after this.
pub fn deployment(ctx: &Context, subject: &Generation, template: &Template, replicas: u32) -> Value {
    let labels = stamp::labels(ctx, subject);
    let mut annotations = stamp::annotations(ctx, subject);
    annotations[ARTIFACTS] = artifacts(subject).into();
    if let Some(port) = template.probe_port() {
        annotations[PROBE_PORT] = port.to_string().into();
    }
    let mut of_pods = labels.clone();
    extend(&mut of_pods, &template.labels);
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": subject.name, "labels": labels, "annotations": annotations },
        "spec": {
            "replicas": replicas,
            // The ledger keeps history; here is one template for ever.
            "revisionHistoryLimit": 0,
            "selector": { "matchLabels": selector(ctx, subject) },
            "template": {
                "metadata": { "labels": of_pods, "annotations": pod_annotations(ctx, subject, &template.annotations) },
                "spec": pod(subject, &template.pod, &template.files_at, &template.secrets),
            },
        },
    })
}

/// Runs once; made suspended, so that it is there before it has begun.
pub fn job(ctx: &Context, subject: &Generation, name: &str, template: &JobTemplate) -> Value {
    let labels = stamp::labels(ctx, subject);
    let mut pod = pod(subject, &template.pod, &template.files_at, &template.secrets);
    pod["restartPolicy"] = "Never".into();
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": name, "labels": labels, "annotations": stamp::annotations(ctx, subject) },
        "spec": {
            "suspend": true,
            "backoffLimit": 0,
            "template": {
                "metadata": { "labels": labels, "annotations": pod_annotations(ctx, subject, &template.annotations) },
                "spec": pod,
            },
        },
    })
}

/// What tells a generation's pods from all others.
fn selector(ctx: &Context, subject: &Generation) -> Value {
    json!({ OWNER: ctx.owner, NAME: subject.name })
}

fn pod_annotations(ctx: &Context, subject: &Generation, more: &BTreeMap<String, String>) -> Value {
    let mut annotations = stamp::annotations(ctx, subject);
    // A fence is of an object that is written again; a pod is not.
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.remove(stamp::FENCE);
    }
    extend(&mut annotations, more);
    annotations
}

fn extend(value: &mut Value, more: &BTreeMap<String, String>) {
    for (name, text) in more {
        value[name] = text.clone().into();
    }
}

fn artifacts(subject: &Generation) -> String {
    let by_name: BTreeMap<&str, &str> = subject
        .artifacts
        .iter()
        .map(|one| (one.name.as_str(), one.uri.as_str()))
        .collect();
    json!(by_name).to_string()
}

/// The manifest's PodSpec, with the defaults of a careful platform where it says nothing, and the places of what it reads.
fn pod(subject: &Generation, spec: &Map<String, Value>, files_at: &Option<String>, secrets: &Secrets) -> Value {
    let mut pod = Value::Object(spec.clone());
    default(&mut pod, "automountServiceAccountToken", json!(false));
    default(
        &mut pod,
        "terminationGracePeriodSeconds",
        json!(u64::from(subject.drain_ms).div_ceil(1000).max(1)),
    );
    default(&mut pod, "securityContext", json!({}));
    default(&mut pod["securityContext"], "runAsNonRoot", json!(true));
    default(
        &mut pod["securityContext"],
        "seccompProfile",
        json!({ "type": "RuntimeDefault" }),
    );
    let mut volumes = Vec::new();
    let mut mounts = Vec::new();
    if let Some(at) = files_at {
        let items: Vec<Value> = subject
            .files
            .iter()
            .enumerate()
            .map(|(at, file)| json!({ "key": format!("f{at}"), "path": file.path.trim_start_matches('/') }))
            .collect();
        volumes.push(json!({ "name": "holdfast-files", "configMap": { "name": files_name(subject), "items": items } }));
        mounts.push(json!({ "name": "holdfast-files", "mountPath": at, "readOnly": true }));
    }
    if let Some(at) = &secrets.at {
        let sources: Vec<Value> = subject
            .secrets
            .iter()
            .map(|secret| {
                let items = [json!({ "key": "value", "path": secret.name })];
                json!({ "secret": { "name": secret_name(subject, &secret.name, &secret.version), "items": items } })
            })
            .collect();
        volumes.push(json!({ "name": "holdfast-secrets", "projected": { "sources": sources } }));
        mounts.push(json!({ "name": "holdfast-secrets", "mountPath": at, "readOnly": true }));
    }
    let env: Vec<Value> = secrets
        .env
        .iter()
        .filter_map(|(variable, name)| {
            let secret = subject.secrets.iter().find(|secret| secret.name == *name)?;
            let reference = json!({ "name": secret_name(subject, name, &secret.version), "key": "value" });
            Some(json!({ "name": variable, "valueFrom": { "secretKeyRef": reference } }))
        })
        .collect();
    append(&mut pod, "volumes", volumes);
    for list in ["initContainers", "containers"] {
        for container in pod[list].as_array_mut().into_iter().flatten() {
            append(container, "volumeMounts", mounts.clone());
            append(container, "env", env.clone());
            harden(container);
        }
        if pod[list].is_null()
            && let Some(pod) = pod.as_object_mut()
        {
            pod.remove(list);
        }
    }
    pod
}

/// Where the manifest says nothing: <https://kubernetes.io/docs/concepts/security/pod-security-standards/>, restricted.
fn harden(container: &mut Value) {
    default(container, "securityContext", json!({}));
    let context = &mut container["securityContext"];
    default(context, "readOnlyRootFilesystem", json!(true));
    if context["privileged"] != json!(true) {
        default(context, "allowPrivilegeEscalation", json!(false));
        default(context, "capabilities", json!({ "drop": ["ALL"] }));
    }
}

fn default(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}

fn append(object: &mut Value, field: &str, mut more: Vec<Value>) {
    if more.is_empty() {
        return;
    }
    match object[field].as_array_mut() {
        Some(list) => list.append(&mut more),
        None => object[field] = more.into(),
    }
}

/// A Service of the generation's own: what a gateway sends to, and what tests may call before traffic comes.
pub fn own_service(ctx: &Context, subject: &Generation, service: &Service) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": subject.name, "labels": stamp::labels(ctx, subject), "annotations": stamp::annotations(ctx, subject),
        },
        "spec": { "selector": selector(ctx, subject), "ports": ports(service) },
    })
}

pub fn ports(service: &Service) -> Vec<Value> {
    let port = |port: &crate::template::Port| {
        let mut value = json!({ "port": port.port, "targetPort": port.target_port.clone().unwrap_or(port.port.into()) });
        for (field, text) in [("name", &port.name), ("appProtocol", &port.app_protocol)] {
            if let Some(text) = text {
                value[field] = text.clone().into();
            }
        }
        value
    };
    service.ports.iter().map(port).collect()
}

/// What the workload's own Service sends to: one generation, or none.
pub fn live_selector(ctx: &Context, key: &str, number: Option<u32>) -> Value {
    json!({ OWNER: ctx.owner, KEY: key, NUMBER: number.map_or("none".to_owned(), |number| number.to_string()) })
}

/// The config files, immutable and named by their content.
pub fn files(subject: &Generation) -> Option<Value> {
    if subject.files.is_empty() {
        return None;
    }
    let data: Map<String, Value> = subject
        .files
        .iter()
        .enumerate()
        .map(|(at, file)| (format!("f{at}"), BASE64.encode(&file.body).into()))
        .collect();
    Some(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": files_name(subject) },
        "immutable": true, "binaryData": data,
    }))
}

/// The secrets, each by name and version; the host puts the values in.
pub fn secrets(subject: &Generation) -> Vec<Value> {
    let object = |secret: &holdfast_plugin::Secret| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
            "metadata": { "name": secret_name(subject, &secret.name, &secret.version) },
            "data": { "value": secret.marker_base64 },
        })
    };
    subject.secrets.iter().map(object).collect()
}

fn files_name(subject: &Generation) -> String {
    let mut content = Sha256::new();
    for file in &subject.files {
        for part in [file.path.as_bytes(), &file.body] {
            content.update((part.len() as u64).to_le_bytes());
            content.update(part);
        }
    }
    format!("{}-f-{}", subject.key, short(content))
}

fn secret_name(subject: &Generation, name: &str, version: &str) -> String {
    let mut text = Sha256::new();
    text.update(format!("{name}\0{version}"));
    format!("{}-s-{}", subject.key, short(text))
}

fn short(hash: Sha256) -> String {
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Of what nobody may edit: it changes with the content, not with size, status or what the server fills in of itself.
pub fn fingerprint(deployment: &Value) -> String {
    let mut hash = Sha256::new();
    hash.update(deployment["spec"]["template"].to_string());
    hash.update(deployment["spec"]["selector"].to_string());
    short(hash)
}

//! Generations as plugins are given them: whole, from the ledger's blobs alone, with secrets as markers.

use super::artifacts::Artifacts;
use super::{World, context, fault};
use crate::shell::answer::Blobs;
use crate::shell::wall_ms;
use holdfast_core::engine::Call;
use holdfast_core::engine::subject::{Subject, generation_name, workload_key};
use holdfast_core::ids::{Digest, ReleaseId, WorkloadId};
use holdfast_core::manifest::fill::fill;
use holdfast_core::release::Release;
use holdfast_core::spec::Job;
use holdfast_core::target::*;
use holdfast_host::{CallOptions, SecretValue};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whether a call cannot do without the values of the release's secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SecretsNeed {
    /// What starts or compares content: a value that is missing ends the call before anything is sent.
    Required,
    /// What only reads, routes, parks or retires: an old generation must be able to go after its secrets went.
    Spared,
}

/// A generation with the plugin that drives it.
pub(super) struct Prepared {
    pub plugin: Arc<holdfast_host::Plugin>,
    pub generation: Generation,
    binding: Arc<holdfast_host::Binding>,
    context: CallContext,
    secrets: Vec<SecretValue>,
    release: Release,
    values: BTreeMap<String, String>,
}

impl Prepared {
    /// Puts a mutating call under its intent's fence.
    pub fn fenced(&mut self, call: &Call) {
        self.context.fence = call.fence;
        self.context.deploy_id.clone_from(&call.deploy_id);
        self.context.resume.clone_from(&call.resume);
    }

    pub fn options(&self, world: &World) -> CallOptions<'_> {
        CallOptions {
            binding: Some(self.binding.clone()),
            context: &self.context,
            deadline: world.call_deadline,
            now_ms: wall_ms(),
            secrets: &self.secrets,
            artifacts: Some(Arc::new(Artifacts {
                registries: world.registries.clone(),
                blobs: world.blobs.clone(),
            })),
        }
    }

    /// Adds the secrets of another generation of the same call.
    pub fn take_secrets(&mut self, others: &[Prepared]) {
        for other in others {
            self.secrets.extend(other.secrets.iter().cloned());
        }
    }

    pub fn job_template(&self, hook: Hook, job: &str) -> Result<String, Fault> {
        job_template(&self.release, hook, job, &self.values, &self.generation.artifacts)
            .map_err(|message| fault(FaultClass::Invalid, message))
    }
}

pub(super) fn prepare(
    world: &World,
    target: &str,
    subject: &Subject,
    plugin: &PluginRef,
    need: SecretsNeed,
) -> Result<Prepared, Fault> {
    let invalid = |message: String| fault(FaultClass::Invalid, message);
    let (name, digest) = (&plugin.name, &plugin.digest);
    let (plugin, binding) = world.plugins.find(target, plugin).ok_or_else(|| {
        invalid(format!(
            "plugin {name} with digest {digest} is not loaded, or not bound to {target}"
        ))
    })?;
    let (release, captured) = content(&world.blobs, subject).map_err(invalid)?;
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
    let issued = world.secrets.issue(&release.secrets, &subject.workload, target)?;
    if let (SecretsNeed::Required, Some(missing)) = (need, issued.missing) {
        return Err(missing);
    }
    let generation = generation(
        &identity,
        &release,
        &subject.sources,
        &subject.images,
        &values,
        issued.markers,
        &world.blobs,
    )
    .map_err(invalid)?;
    let context = CallContext {
        deploy_id: subject.deploy_id.clone(),
        ..context(world, target, &captured["config"])
    };
    Ok(Prepared {
        plugin,
        generation,
        binding,
        context,
        secrets: issued.values,
        release,
        values,
    })
}

/// The release, and what the target's manifest said when the attempt began: neither Git nor registry is needed.
/// A release as the ledger holds it.
pub(super) fn release(blobs: &Blobs, id: &ReleaseId) -> Result<Release, String> {
    let bytes = blobs.get(&id.blob()).map_err(|error| error.to_string())?;
    Release::parse(&bytes).map_err(|error| error.to_string())
}

fn content(blobs: &Blobs, subject: &Subject) -> Result<(Release, Value), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let release = release(blobs, &subject.release)?;
    let captured = blobs.get(&subject.captured).map_err(|error| text(&error))?;
    Ok((release, serde_json::from_slice(&captured).map_err(|error| text(&error))?))
}

/// Who a generation is, apart from its content.
pub(super) struct Identity<'a> {
    pub workload: &'a WorkloadId,
    pub target: &'a str,
    pub number: u32,
    pub release_id: String,
    pub deploy_id: String,
    pub commit: String,
    pub drain_ms: u32,
    pub owner: &'a str,
}

pub(super) fn generation(
    identity: &Identity<'_>,
    release: &Release,
    sources: &BTreeMap<String, String>,
    images: &BTreeMap<String, Digest>,
    values: &BTreeMap<String, String>,
    secrets: Vec<Secret>,
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
    let template = filled(&release.template, values, &artifacts)?;
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
        template,
        files: files.collect::<Result<_, String>>()?,
        secrets,
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

/// JSON text of a template with its placeholders filled in.
fn filled(template: &Value, values: &BTreeMap<String, String>, artifacts: &[Artifact]) -> Result<String, String> {
    let uris = artifacts
        .iter()
        .map(|artifact| (artifact.name.clone(), artifact.uri.clone()))
        .collect();
    let template = fill(template, values, &uris).map_err(|error| error.to_string())?;
    Ok(template.to_string())
}

pub(super) fn jobs_of(release: &Release, hook: Hook) -> &[Job] {
    match hook {
        Hook::Before => &release.before,
        Hook::After => &release.after,
    }
}

pub(super) fn job_template(
    release: &Release,
    hook: Hook,
    job: &str,
    values: &BTreeMap<String, String>,
    artifacts: &[Artifact],
) -> Result<String, String> {
    let found = jobs_of(release, hook).iter().find(|one| one.name == job);
    let found = found.ok_or_else(|| format!("the release has no job {job:?} under `{}`", hook.as_str()))?;
    filled(&found.template, values, artifacts).map_err(|message| format!("job {job}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::spec::JobScope;
    use serde_json::json;

    #[test]
    fn a_job_is_found_by_hook_and_name_and_filled_in_like_the_template() {
        let job = |name: &str, template: Value| Job {
            name: name.into(),
            template,
            scope: JobScope::Target,
            repeatable: false,
        };
        let release = Release {
            format: 1,
            artifacts: BTreeMap::new(),
            template: json!({}),
            files: BTreeMap::new(),
            secrets: Vec::new(),
            before: vec![job(
                "migrate",
                json!({ "image": "${artifacts.main}", "host": "${values.host}" }),
            )],
            after: vec![job("migrate", json!({ "x": 1 })), job("bad", json!("${values.none}"))],
        };
        let values = [("host".to_owned(), "db.example.com".to_owned())].into();
        let artifacts = [Artifact {
            name: "main".into(),
            uri: "r.example.com/a@sha256:1".into(),
            digest: "sha256:1".into(),
            images: Vec::new(),
            payload: Vec::new(),
        }];
        let find = |hook, name| job_template(&release, hook, name, &values, &artifacts);
        assert_eq!(
            find(Hook::Before, "migrate").unwrap(),
            r#"{"host":"db.example.com","image":"r.example.com/a@sha256:1"}"#
        );
        assert_eq!(find(Hook::After, "migrate").unwrap(), r#"{"x":1}"#);
        assert_eq!(
            find(Hook::Before, "bad").unwrap_err(),
            r#"the release has no job "bad" under `before`"#
        );
        assert_eq!(
            find(Hook::After, "bad").unwrap_err(),
            r#"job bad: the target has no value "none""#
        );
    }
}

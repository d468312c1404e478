//! Making a generation, giving it its size, and taking it away. Each verb begins with what is there, so that it goes on from
//! wherever an earlier try stopped.

use crate::api::{Api, Kind, name_of};
use crate::job;
use crate::objects;
use crate::observe::CLAIM;
use crate::shared;
use crate::stamp::{self, FENCE, NAME, OWNER, RELEASE, Stamped};
use crate::template::{Config, Template};
use crate::traffic;
use holdfast_plugin::{Context, Fault, Generation, Progress, Wait};
use serde_json::{Value, json};

/// Until it is worth looking again.
const LOOK_AGAIN_MS: u32 = 1_000;

pub fn pending(message: impl Into<String>) -> Progress {
    Progress::Pending(Wait {
        resume: String::new(),
        after_ms: LOOK_AGAIN_MS,
        message: message.into(),
    })
}

/// The namespace is whose object of this name was there first.
pub fn claim(api: &Api, ctx: &Context) -> Result<(), Fault> {
    let claim = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": CLAIM, "labels": { OWNER: ctx.owner, "app.kubernetes.io/managed-by": "holdfast" } },
    });
    let found = match api.get(Kind::CONFIG_MAP, CLAIM)? {
        Some(found) => Some(found),
        None => match api.create(Kind::CONFIG_MAP, &claim)? {
            Some(_) => return Ok(()),
            None => api.get(Kind::CONFIG_MAP, CLAIM)?,
        },
    };
    let owner = found.as_ref().map(|found| Stamped(found).label(OWNER));
    if owner == Some(&ctx.owner) {
        Ok(())
    } else {
        Err(Fault::Conflict(format!(
            "this namespace belongs to {}",
            owner.unwrap_or("somebody else")
        )))
    }
}

/// The workload's Deployments, if nobody who knows more has written any of them.
fn admitted(api: &Api, ctx: &Context, key: &str) -> Result<Vec<Value>, Fault> {
    let deployments = api.list(Kind::DEPLOYMENT, &stamp::selector(ctx, key))?;
    stamp::admit(ctx, &deployments)?;
    Ok(deployments)
}

pub fn launch(api: &Api, ctx: &Context, subject: &Generation, template: &Template, size: u32) -> Result<Progress, Fault> {
    claim(api, ctx)?;
    admitted(api, ctx, &subject.key)?;
    let deployment = match api.get(Kind::DEPLOYMENT, &subject.name)? {
        Some(found) => found,
        None => match api.create(Kind::DEPLOYMENT, &objects::deployment(ctx, subject, template, size))? {
            Some(made) => made,
            None => return Ok(pending("somebody makes the same Deployment")),
        },
    };
    is_this_release(ctx, subject, &deployment)?;
    if !deployment["metadata"]["deletionTimestamp"].is_null() {
        return Ok(pending("a Deployment of this name is going"));
    }
    for object in objects::files(subject).into_iter() {
        belong(api, ctx, subject, &deployment, Kind::CONFIG_MAP, object)?;
    }
    for object in objects::secrets(subject) {
        belong(api, ctx, subject, &deployment, Kind::SECRET, object)?;
    }
    if let Some(service) = &template.service {
        let mut service = objects::own_service(ctx, subject, service);
        service["metadata"]["ownerReferences"] = json!([owner_reference(&deployment)]);
        if api.get(Kind::SERVICE, &subject.name)?.is_none() {
            api.create(Kind::SERVICE, &service)?;
        }
    }
    traffic::attach(api, ctx, subject, template)?;
    let wanted = u64::from(size);
    if deployment["spec"]["replicas"].as_u64() != Some(wanted) || Stamped(&deployment).fence() != ctx.fence {
        return resize(api, ctx, subject, size);
    }
    Ok(Progress::Done)
}

/// The number belongs to this release, and to us.
fn is_this_release(ctx: &Context, subject: &Generation, deployment: &Value) -> Result<(), Fault> {
    let stamped = Stamped(deployment);
    stamped.admits(ctx, &subject.key, &format!("Deployment {}", subject.name))?;
    match stamped.annotation(RELEASE) {
        release if release == subject.release_id => Ok(()),
        other => Err(Fault::Conflict(format!("Deployment {} is of release {other}", subject.name))),
    }
}

fn owner_reference(deployment: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "name": name_of(deployment), "uid": deployment["metadata"]["uid"],
    })
}

/// Immutable content that several generations may read: it goes when the last of them does.
fn belong(
    api: &Api,
    ctx: &Context,
    subject: &Generation,
    deployment: &Value,
    kind: Kind,
    mut object: Value,
) -> Result<(), Fault> {
    let reference = owner_reference(deployment);
    stamp::write(&mut object, ctx, subject);
    object["metadata"]["ownerReferences"] = json!([reference]);
    let name = name_of(&object).to_owned();
    if api.get(kind, &name)?.is_none() && api.create(kind, &object)?.is_some() {
        return Ok(());
    }
    api.swap(kind, &name, |found| {
        if !Stamped(found).is_of(ctx, &subject.key) {
            return Err(Fault::Conflict(format!(
                "{} {name} is there, and not this workload's",
                kind.plural
            )));
        }
        let mut owners = found["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        if owners.iter().any(|owner| owner["uid"] == reference["uid"]) {
            return Ok(None);
        }
        owners.push(reference.clone());
        Ok(Some(json!({ "metadata": { "ownerReferences": owners } })))
    })?;
    Ok(())
}

pub fn scale(api: &Api, ctx: &Context, subject: &Generation, size: u32) -> Result<Progress, Fault> {
    let deployments = admitted(api, ctx, &subject.key)?;
    let Some(found) = deployments.iter().find(|one| name_of(one) == subject.name) else {
        return Err(Fault::Absent(format!("Deployment {} is not there", subject.name)));
    };
    is_this_release(ctx, subject, found)?;
    resize(api, ctx, subject, size)
}

/// First the fence, by compare-and-swap, then the size on exactly what was fenced.
fn resize(api: &Api, ctx: &Context, subject: &Generation, size: u32) -> Result<Progress, Fault> {
    let fenced = api.swap(Kind::DEPLOYMENT, &subject.name, |found| {
        is_this_release(ctx, subject, found)?;
        let is_fenced = Stamped(found).fence() == ctx.fence;
        let patch = json!({ "metadata": { "annotations": { FENCE: ctx.fence.to_string() } } });
        Ok((!is_fenced).then_some(patch))
    })?;
    let size_now = fenced["spec"]["replicas"].as_u64().unwrap_or(1);
    if size_now == u64::from(size) {
        return Ok(Progress::Done);
    }
    match api.set_replicas(Kind::DEPLOYMENT, &fenced, size) {
        Ok(()) => Ok(Progress::Done),
        // Somebody wrote in between: the next call reads again.
        Err(Fault::Conflict(_)) => Ok(pending("somebody else has just written the Deployment")),
        Err(fault) => Err(fault),
    }
}

pub fn retire(api: &Api, ctx: &Context, config: &Config, subject: &Generation, last: bool) -> Result<Progress, Fault> {
    let deployments = admitted(api, ctx, &subject.key)?;
    if last && deployments.iter().any(|one| name_of(one) != subject.name) {
        return Err(Fault::Conflict("other generations hang off the shared objects".into()));
    }
    if !last && traffic::has_share(api, config, subject)? {
        return Err(Fault::Conflict(format!("generation {} still has traffic", subject.number)));
    }
    if last {
        // Traffic first, so that nothing is sent to what goes.
        traffic::remove(api, ctx, config, &subject.key)?;
        shared::remove_all(api, ctx, &subject.key)?;
    }
    if let Some(found) = deployments.iter().find(|one| name_of(one) == subject.name)
        && found["metadata"]["deletionTimestamp"].is_null()
    {
        api.delete(Kind::DEPLOYMENT, found)?;
    }
    job::remove(api, ctx, subject)?;
    if api.get(Kind::DEPLOYMENT, &subject.name)?.is_some() {
        return Ok(pending("its Deployment is going"));
    }
    let pods = api.page(Kind::POD, &format!("{OWNER}={},{NAME}={}", ctx.owner, subject.name), 10, None)?;
    match pods.items.len() {
        0 => Ok(Progress::Done),
        left => Ok(pending(format!("{left} of its pods still end"))),
    }
}

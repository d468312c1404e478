//! Jobs that run once. The Job is made suspended, its name is written down, and only then it is let go: what was let go and
//! is gone is told from what never began.

use crate::api::{Api, Kind, name_of};
use crate::objects;
use crate::stamp::{self, FENCE, NAME, OWNER, Stamped};
use crate::template::JobTemplate;
use crate::verbs::{claim, pending};
use holdfast_plugin::{Context, Fault, Generation, Progress};
use serde_json::{Value, json};

fn job_name(subject: &Generation, name: &str) -> String {
    format!("{}-{name}", subject.name)
}

/// Where the names are written down.
fn tombstones_name(subject: &Generation) -> String {
    format!("{}-jobs", subject.name)
}

pub fn run(api: &Api, ctx: &Context, subject: &Generation, name: &str, text: &str) -> Result<Progress, Fault> {
    let template: JobTemplate =
        holdfast_plugin::template(text).map_err(|problem| Fault::Invalid(format!("{}: {}", problem.at, problem.message)))?;
    claim(api, ctx)?;
    stamp::admit(ctx, &api.list(Kind::DEPLOYMENT, &stamp::selector(ctx, &subject.key))?)?;
    let name = job_name(subject, name);
    let begun = is_begun(api, subject, &name)?;
    let job = match api.get(Kind::JOB, &name)? {
        Some(job) => job,
        None if begun => return Err(Fault::Absent(format!("Job {name} was begun, and is gone"))),
        None => {
            for object in objects::files(subject).into_iter() {
                keep(api, ctx, subject, Kind::CONFIG_MAP, object)?;
            }
            for object in objects::secrets(subject) {
                keep(api, ctx, subject, Kind::SECRET, object)?;
            }
            match api.create(Kind::JOB, &objects::job(ctx, subject, &name, &template))? {
                Some(job) => job,
                None => return Ok(pending("somebody makes the same Job")),
            }
        }
    };
    Stamped(&job).admits(ctx, &subject.key, &format!("Job {name}"))?;
    if !begun {
        write_down(api, ctx, subject, &name)?;
    }
    if job["spec"]["suspend"] == true {
        api.swap(Kind::JOB, &name, |found| {
            let patch = json!({
                "metadata": { "annotations": { FENCE: ctx.fence.to_string() } }, "spec": { "suspend": false },
            });
            Ok((found["spec"]["suspend"] == true).then_some(patch))
        })?;
        return Ok(pending("the job begins"));
    }
    outcome(api, ctx, &job)
}

fn outcome(api: &Api, ctx: &Context, job: &Value) -> Result<Progress, Fault> {
    let conditions = job["status"]["conditions"].as_array();
    let has = |kind: &str| {
        conditions
            .into_iter()
            .flatten()
            .find(|one| one["type"] == kind && one["status"] == "True")
    };
    if has("Complete").is_some() {
        return Ok(Progress::Done);
    }
    let name = name_of(job);
    let Some(failed) = has("Failed") else {
        return Ok(pending(format!("Job {name} runs")));
    };
    let why = failed["message"].as_str().unwrap_or("it failed");
    let pods = api.page(Kind::POD, &format!("{OWNER}={},job-name={name}", ctx.owner), 5, None)?;
    let mut said = format!("Job {name}: {why}");
    for pod in &pods.items {
        for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
            let code = status["state"]["terminated"]["exitCode"].as_i64();
            if let (Some(code), Some(container)) = (code.filter(|code| *code != 0), status["name"].as_str()) {
                let log = api.log(name_of(pod), container, false).unwrap_or_default();
                said = format!("{said}\n{container} ended with exit code {code}\n{log}");
            }
        }
    }
    Err(Fault::Failed(said))
}

/// What a job reads may be there before any Deployment that could own it.
fn keep(api: &Api, ctx: &Context, subject: &Generation, kind: Kind, mut object: Value) -> Result<(), Fault> {
    stamp::write(&mut object, ctx, subject);
    match api.get(kind, name_of(&object))? {
        Some(_) => Ok(()),
        None => api.create(kind, &object).map(drop),
    }
}

fn is_begun(api: &Api, subject: &Generation, job: &str) -> Result<bool, Fault> {
    let tombstones = api.get(Kind::CONFIG_MAP, &tombstones_name(subject))?;
    Ok(tombstones.is_some_and(|tombstones| tombstones["data"][job].is_string()))
}

fn write_down(api: &Api, ctx: &Context, subject: &Generation, job: &str) -> Result<(), Fault> {
    let name = tombstones_name(subject);
    let mut tombstones = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "labels": stamp::labels(ctx, subject), "annotations": stamp::annotations(ctx, subject) },
        "data": {},
    });
    tombstones["data"][job] = ctx.deploy_id.clone().into();
    if api.get(Kind::CONFIG_MAP, &name)?.is_none() && api.create(Kind::CONFIG_MAP, &tombstones)?.is_some() {
        return Ok(());
    }
    let data = tombstones["data"].take();
    api.swap(Kind::CONFIG_MAP, &name, |found| {
        Stamped(found).admits(ctx, &subject.key, &format!("ConfigMap {name}"))?;
        Ok(found["data"][job].is_null().then(|| json!({ "data": data })))
    })?;
    Ok(())
}

/// With the generation, its jobs go and what is known of them.
pub fn remove(api: &Api, ctx: &Context, subject: &Generation) -> Result<(), Fault> {
    let selector = format!("{OWNER}={},{NAME}={}", ctx.owner, subject.name);
    for job in api.list(Kind::JOB, &selector)? {
        api.delete(Kind::JOB, &job)?;
    }
    // What was made for a job alone has no Deployment to go with.
    let contents = objects::files(subject).into_iter().map(|object| (Kind::CONFIG_MAP, object));
    let secrets = objects::secrets(subject).into_iter().map(|object| (Kind::SECRET, object));
    for (kind, object) in contents.chain(secrets) {
        let found = api.get(kind, name_of(&object))?;
        if let Some(found) = found.filter(|found| found["metadata"]["ownerReferences"].is_null()) {
            api.delete(kind, &found)?;
        }
    }
    match api.get(Kind::CONFIG_MAP, &tombstones_name(subject))? {
        Some(found) if Stamped(&found).is_of(ctx, &subject.key) => api.delete(Kind::CONFIG_MAP, &found),
        _ => Ok(()),
    }
}

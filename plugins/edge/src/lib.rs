//! The target plugin for edge sites: every verb is one request to the site's own API (`plugins/edge-node/API.md`).
//!
//! A site is weighted, unsized (a bundle has no instances to count) and guarded: it refuses stale fences itself.

mod diff;
mod site;
mod template;

use holdfast_plugin::{
    Abilities, Capacity, Change, Context, Diagnosis, Endpoint, Evidence, Excerpt, Fault, Generation, GenerationState, Instance,
    Jobs, Page, Preview, Problem, Progress, Proof, Query, Report, RouteEntry, RouteState, Routing, Sample, Share, Sizing, Target,
    Telemetry, checked_config, export_target,
};
use serde::Deserialize;
use serde_json::json;
use site::{RoomView, SiteView, done, is_reading_ok, phase};

const SITE: Endpoint = Endpoint::new("site");

/// A site has nothing to configure: what it is, its endpoint says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {}

struct Edge;
export_target!("plugin.json", Edge: jobs, preview, capacity, telemetry, diagnosis);

fn problem(at: &str, message: String) -> Problem {
    Problem {
        at: at.into(),
        message,
        hint: String::new(),
    }
}

fn generation_path(subject: &Generation) -> String {
    format!("/v1/workloads/{}/generations/{}", subject.key, subject.number)
}

/// Who asks, for what, and where the site gets it.
fn bundle(ctx: &Context, subject: &Generation) -> Result<serde_json::Value, Fault> {
    let Some(artifact) = subject.artifacts.first() else {
        return Err(Fault::Invalid("an edge workload has one artifact".into()));
    };
    let Some((source, digest)) = artifact.uri.split_once('@') else {
        return Err(Fault::Invalid(format!("artifact {} has no digest in its uri", artifact.name)));
    };
    let template: serde_json::Value =
        serde_json::from_str(&subject.template).map_err(|error| Fault::Invalid(error.to_string()))?;
    Ok(json!({
        "owner": ctx.owner, "fence": ctx.fence, "deploy_id": ctx.deploy_id,
        "workload": subject.workload, "name": subject.name, "release_id": subject.release_id,
        "artifact": artifact.name, "source": source, "digest": digest, "template": template,
    }))
}

impl Target for Edge {
    fn check(ctx: Context, subject: Generation) -> Result<Report, Fault> {
        let mut problems = template::bundle_problems(&subject.template);
        problems.extend(checked_config::<Config>(&ctx.config).err());
        if subject.artifacts.len() != 1 {
            problems.push(problem(
                "/template",
                format!("an edge workload has one artifact, this one has {}", subject.artifacts.len()),
            ));
        }
        if !subject.files.is_empty() {
            problems.push(problem(
                "/files",
                "an edge bundle carries its own files; config.files has no place here".into(),
            ));
        }
        if !subject.secrets.is_empty() {
            problems.push(problem(
                "/secrets",
                "an edge bundle has no way to a secret: it is given neither environment nor files".into(),
            ));
        }
        let abilities = Abilities {
            routing: Routing::Weighted,
            most_live: 16,
            finest_share: 1,
            sizing: Sizing::Unsized,
            overlap: true,
            staged: true,
            seamless: true,
            guarded: true,
            probed: true,
        };
        Ok(Report { problems, abilities })
    }

    fn observe(ctx: Context, query: Query) -> Result<Page, Fault> {
        let site: SiteView = SITE.get("/v1/site")?;
        let mut page = Page {
            owner: site.owner,
            high_fence: site.high_fence,
            generations: vec![],
            routes: vec![],
            strangers: vec![],
            more: None,
        };
        // Nothing on it is ours then, and nothing is touched.
        if page.owner.as_ref().is_some_and(|owner| *owner != ctx.owner) {
            return Ok(page);
        }
        for workload in site.workloads {
            if query.workload.as_ref().is_some_and(|wanted| *wanted != workload.workload) {
                continue;
            }
            let shares = workload
                .shares
                .iter()
                .map(|(number, live)| Share {
                    number: *number,
                    live: *live,
                })
                .collect();
            if workload.generations.is_empty() && workload.shares.is_empty() {
                // Only jobs are left, or not begun: nothing that could be live.
                continue;
            }
            page.routes.push(RouteState {
                workload: workload.workload.clone(),
                fence: workload.route_fence,
                shares,
                settled: true,
                fingerprint: String::new(),
            });
            for generation in workload.generations {
                let ready = generation.phase == "ready";
                let instance = Instance {
                    name: generation.name.clone(),
                    ready,
                    restarts: 0,
                    address: generation.address.clone().unwrap_or_default(),
                    message: generation.message.clone(),
                };
                let proofs = generation.digests.iter().map(|digest| Proof {
                    artifact: generation.artifact.clone(),
                    digest: digest.clone(),
                    // What runs was hashed when it was loaded; what is parked is only known to be there.
                    by: if ready { Evidence::Measured } else { Evidence::Reported },
                    count: u32::from(ready),
                });
                page.generations.push(GenerationState {
                    workload: workload.workload.clone(),
                    number: generation.number,
                    release_id: generation.release_id,
                    fence: generation.fence,
                    phase: phase(&generation.phase),
                    reason: generation.reason,
                    message: generation.message,
                    wanted: None,
                    ready: u32::from(ready),
                    restarts: 0,
                    proofs: proofs.collect(),
                    fingerprint: generation.fingerprint,
                    objects: vec![generation.name],
                    // Where a bundle is not loaded nothing can answer, so there is no instance to probe.
                    instances: if ready { vec![instance] } else { vec![] },
                });
            }
        }
        Ok(page)
    }

    fn launch(ctx: Context, subject: Generation, size: u32) -> Result<Progress, Fault> {
        let mut body = bundle(&ctx, &subject)?;
        let stamps: std::collections::BTreeMap<_, _> = subject.stamps.iter().map(|stamp| (&stamp.name, &stamp.value)).collect();
        body["stamps"] = json!(stamps);
        body["drain_ms"] = subject.drain_ms.into();
        body["size"] = size.min(1).into();
        done(SITE.put(&generation_path(&subject), &body)?)
    }

    fn scale(ctx: Context, subject: Generation, size: u32) -> Result<Progress, Fault> {
        let body = json!({ "owner": ctx.owner, "fence": ctx.fence, "deploy_id": ctx.deploy_id, "size": size.min(1) });
        done(SITE.put(&format!("{}/size", generation_path(&subject)), &body)?)
    }

    fn route(ctx: Context, entries: Vec<RouteEntry>) -> Result<Progress, Fault> {
        let Some(first) = entries.first() else {
            return Err(Fault::Invalid("a route needs generations".into()));
        };
        let shares: std::collections::BTreeMap<u32, u32> =
            entries.iter().map(|entry| (entry.generation.number, entry.live)).collect();
        let body = json!({ "owner": ctx.owner, "fence": ctx.fence, "deploy_id": ctx.deploy_id, "shares": shares });
        done(SITE.put(&format!("/v1/workloads/{}/route", first.generation.key), &body)?)
    }

    fn retire(ctx: Context, subject: Generation, last: bool) -> Result<Progress, Fault> {
        let body = json!({ "owner": ctx.owner, "fence": ctx.fence, "deploy_id": ctx.deploy_id, "last": last });
        done(SITE.delete(&generation_path(&subject), &body)?)
    }
}

impl Jobs for Edge {
    fn check_job(_: Context, _: Generation, job: String, template: String) -> Result<Vec<Problem>, Fault> {
        let mut problems = template::job_request(&template).err().unwrap_or_default();
        if !job.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            problems.push(problem("/template", format!("a job is named by a-z, 0-9 and -, not {job:?}")));
        }
        Ok(problems)
    }

    fn run(ctx: Context, subject: Generation, job: String, template: String) -> Result<Progress, Fault> {
        let request = template::job_request(&template).map_err(|problems| {
            let all: Vec<String> = problems
                .into_iter()
                .map(|problem| format!("{}: {}", problem.at, problem.message))
                .collect();
            Fault::Invalid(format!("job {job}: {}", all.join("; ")))
        })?;
        let mut body = bundle(&ctx, &subject)?;
        body["job"] = request;
        done(SITE.put(&format!("{}/jobs/{job}", generation_path(&subject)), &body)?)
    }
}

impl Preview for Edge {
    fn diff(_: Context, current: Option<Generation>, wanted: Generation) -> Result<Vec<Change>, Fault> {
        diff::changes(&SITE.get("/v1/site")?, current.as_ref(), &wanted)
    }
}

impl Capacity for Edge {
    fn room(_: Context, _: Generation) -> Result<Option<u32>, Fault> {
        let room: RoomView = SITE.get("/v1/room")?;
        Ok(room.instances)
    }
}

impl Telemetry for Edge {
    fn read(_: Context, subject: Generation) -> Result<Vec<Sample>, Fault> {
        let samples: std::collections::BTreeMap<String, f64> = SITE.get(&format!("{}/telemetry", generation_path(&subject)))?;
        Ok(samples.into_iter().map(|(name, value)| Sample { name, value }).collect())
    }
}

impl Diagnosis for Edge {
    fn explain(_: Context, subject: Generation) -> Result<Vec<Excerpt>, Fault> {
        let diagnosis: site::Diagnosis = SITE.get(&format!("{}/diagnosis", generation_path(&subject)))?;
        let excerpt = |source: &str, text: String| Excerpt {
            instance: subject.name.clone(),
            source: source.into(),
            text,
        };
        let mut excerpts = vec![];
        for job in diagnosis.jobs {
            let text = format!("{}\n{}\n{}", job.state, job.message, job.output);
            excerpts.push(excerpt(&format!("job {}", job.name), text));
        }
        if is_reading_ok(&diagnosis.message) {
            excerpts.push(excerpt("status", format!("{}: {}", diagnosis.reason, diagnosis.message)));
        }
        if is_reading_ok(&diagnosis.output) {
            excerpts.push(excerpt("output", diagnosis.output));
        }
        Ok(excerpts)
    }
}

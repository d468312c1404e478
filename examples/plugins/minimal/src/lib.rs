//! The smallest useful target plugin: a service that runs whatever one JSON document says, behind `GET` and `PUT
//! /document`. Nothing can be started beside, so only `route` and `retire` change anything.

use holdfast_plugin::{
    Abilities, Context, Endpoint, Evidence, Fault, Generation, GenerationState, Page, Phase, Progress, Proof, Query, Report,
    RouteEntry, RouteState, Routing, Share, Sizing, Target, export_target,
};
use serde::{Deserialize, Serialize};

const SERVICE: Endpoint = Endpoint::new("service");
const FULL: u32 = 10_000;

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Document {
    owner: Option<String>,
    workload: String,
    fence: u64,
    /// 0: nothing runs.
    generation: u32,
    release: String,
    artifact: String,
    digest: String,
}

struct Minimal;
export_target!(Minimal);

impl Target for Minimal {
    fn check(_: Context, _: Generation) -> Result<Report, Fault> {
        let abilities = Abilities {
            routing: Routing::Single,
            most_live: 1,
            finest_share: FULL,
            sizing: Sizing::Unsized,
            overlap: false,
            staged: false,
            seamless: true,
            guarded: false,
            probed: false,
        };
        Ok(Report {
            problems: vec![],
            abilities,
        })
    }

    fn observe(_: Context, _: Query) -> Result<Page, Fault> {
        let document: Document = SERVICE.get("/document")?;
        let mut page = Page {
            owner: document.owner,
            high_fence: document.fence,
            generations: vec![],
            routes: vec![],
            strangers: vec![],
            more: None,
        };
        if document.generation > 0 {
            page.generations.push(GenerationState {
                workload: document.workload.clone(),
                number: document.generation,
                release_id: document.release,
                fence: document.fence,
                phase: Phase::Ready,
                reason: String::new(),
                message: String::new(),
                wanted: None,
                ready: 1,
                restarts: 0,
                proofs: vec![Proof {
                    artifact: document.artifact,
                    digest: document.digest,
                    by: Evidence::Reported,
                    count: 1,
                }],
                fingerprint: String::new(),
                objects: vec!["document".into()],
                instances: vec![],
            });
            page.routes.push(RouteState {
                workload: document.workload,
                fence: document.fence,
                shares: vec![Share {
                    number: document.generation,
                    live: FULL,
                }],
                settled: true,
                fingerprint: String::new(),
            });
        }
        Ok(page)
    }

    fn launch(_: Context, _: Generation, _: u32) -> Result<Progress, Fault> {
        Ok(Progress::Done)
    }

    fn scale(_: Context, _: Generation, _: u32) -> Result<Progress, Fault> {
        Ok(Progress::Done)
    }

    fn route(ctx: Context, entries: Vec<RouteEntry>) -> Result<Progress, Fault> {
        let live = entries
            .into_iter()
            .find(|entry| entry.live == FULL)
            .map(|entry| entry.generation);
        write(&ctx, live)
    }

    fn retire(ctx: Context, _: Generation, last: bool) -> Result<Progress, Fault> {
        if last { write(&ctx, None) } else { Ok(Progress::Done) }
    }
}

/// Read first: another owner's document is not ours to write, and a higher fence means that somebody newer is at work.
fn write(ctx: &Context, live: Option<Generation>) -> Result<Progress, Fault> {
    let document: Document = SERVICE.get("/document")?;
    if document.owner.as_ref().is_some_and(|owner| *owner != ctx.owner) {
        return Err(Fault::Conflict("the document belongs to another installation".into()));
    }
    if document.fence > ctx.fence {
        return Err(Fault::Fenced(document.fence));
    }
    let mut next = Document {
        owner: Some(ctx.owner.clone()),
        fence: ctx.fence,
        ..Document::default()
    };
    if let Some(live) = live {
        let artifact = live
            .artifacts
            .into_iter()
            .next()
            .ok_or_else(|| Fault::Invalid("no artifact".into()))?;
        next = Document {
            workload: live.workload,
            generation: live.number,
            release: live.release_id,
            artifact: artifact.name,
            digest: artifact.digest,
            ..next
        };
    }
    holdfast_plugin::expect_success(SERVICE.put("/document", &next)?)?;
    Ok(Progress::Done)
}

//! What is there, in a few lists by label and never one per workload: Deployments page by page with the pods of each page,
//! then the Services and HTTPRoutes that say what is live.

use crate::api::{Api, Kind, name_of};
use crate::health::judge;
use crate::objects::fingerprint;
use crate::stamp::{KEY, NAME, NUMBER, OWNER, RELEASE, Stamped, WORKLOAD};
use crate::template::Config;
use holdfast_plugin::{Context, Fault, GenerationState, Page, Query, RouteState, Share};
use serde_json::Value;
use std::collections::BTreeMap;

/// Deployments of a page: with their pods an answer stays far below the memory of a guest.
const PAGE: u32 = 50;
const PODS_PAGE: u32 = 200;
const FULL_SHARE: u64 = 10_000;
/// Of the object that says whose this namespace is.
pub const CLAIM: &str = "holdfast-owner";

/// Where a page begins: what is listed, and the server's token.
enum Cursor<'a> {
    Deployments(Option<&'a str>),
    Services(Option<&'a str>),
    Routes(Option<&'a str>),
}

impl<'a> Cursor<'a> {
    fn read(cursor: Option<&'a str>) -> Result<Self, Fault> {
        let token = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        match cursor.map(|cursor| cursor.split_once(':')) {
            None => Ok(Self::Deployments(None)),
            Some(Some(("d", rest))) => Ok(Self::Deployments(token(rest))),
            Some(Some(("s", rest))) => Ok(Self::Services(token(rest))),
            Some(Some(("r", rest))) => Ok(Self::Routes(token(rest))),
            Some(_) => Err(Fault::Invalid("no cursor of this plugin".into())),
        }
    }
}

pub fn observe(ctx: &Context, config: &Config, query: &Query) -> Result<Page, Fault> {
    let api = Api::new(&config.namespace);
    let mut selector = format!("{OWNER}={}", ctx.owner);
    if let Some(workload) = &query.workload {
        selector = format!("{selector},{KEY}={}", key_of(&api, ctx, workload)?);
    }
    let mut page = Page {
        owner: None,
        high_fence: 0,
        generations: vec![],
        routes: vec![],
        strangers: vec![],
        more: None,
    };
    match Cursor::read(query.cursor.as_deref())? {
        Cursor::Deployments(token) => {
            if token.is_none() {
                let claim = api.get(Kind::CONFIG_MAP, CLAIM)?;
                page.owner = claim.as_ref().map(|claim| Stamped(claim).label(OWNER).to_owned());
            }
            let found = api.page(Kind::DEPLOYMENT, &selector, PAGE, token)?;
            page.generations = generations(&api, ctx, &found.items)?;
            page.more = Some(next("d", found.more, "s:"));
            page.high_fence = highest(&found.items);
        }
        Cursor::Services(token) => {
            // Those with a number are a generation's own.
            let found = api.page(Kind::SERVICE, &format!("{selector},!{NUMBER}"), 200, token)?;
            page.routes = found.items.iter().filter_map(of_service).collect();
            let after = if config.gateway { "r:" } else { "" };
            page.more = Some(next("s", found.more, after)).filter(|more| !more.is_empty());
            page.high_fence = highest(&found.items);
        }
        Cursor::Routes(token) => {
            let found = api.page(Kind::HTTP_ROUTE, &selector, 200, token)?;
            page.routes = found.items.iter().filter_map(of_http_route).collect();
            page.more = found.more.map(|token| format!("r:{token}"));
            page.high_fence = highest(&found.items);
        }
    }
    Ok(page)
}

fn next(kind: &str, more: Option<String>, after: &str) -> String {
    more.map_or(after.to_owned(), |token| format!("{kind}:{token}"))
}

fn highest(objects: &[Value]) -> u64 {
    objects.iter().map(|object| Stamped(object).fence()).max().unwrap_or(0)
}

/// A workload's key, which its objects carry; without any, there is nothing to find.
fn key_of(api: &Api, ctx: &Context, workload: &str) -> Result<String, Fault> {
    let label = workload.replace('/', ".");
    let selector = format!("{OWNER}={},holdfast.dev/workload={label}", ctx.owner);
    let found = api.page(Kind::DEPLOYMENT, &selector, 1, None)?;
    Ok(found
        .items
        .first()
        .map_or(String::new(), |one| Stamped(one).label(KEY).to_owned()))
}

fn generations(api: &Api, ctx: &Context, deployments: &[Value]) -> Result<Vec<GenerationState>, Fault> {
    let names: Vec<&str> = deployments.iter().map(name_of).collect();
    if names.is_empty() {
        return Ok(vec![]);
    }
    let selector = format!("{OWNER}={},{NAME}%20in%20({})", ctx.owner, names.join(","));
    let (mut pods, mut more): (Vec<Value>, Option<String>) = (Vec::new(), None);
    loop {
        let found = api.page(Kind::POD, &selector, PODS_PAGE, more.as_deref())?;
        // Thousands of pods at once would fill the guest's memory with what nobody reads.
        pods.extend(found.items.into_iter().filter(is_of_deployment).map(essence));
        match found.more {
            Some(token) => more = Some(token),
            None => break,
        }
    }
    let mut by_name: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for pod in &pods {
        by_name.entry(Stamped(pod).label(NAME)).or_default().push(pod);
    }
    let none = Vec::new();
    let states = deployments
        .iter()
        .filter_map(|one| state(one, by_name.get(name_of(one)).unwrap_or(&none)));
    Ok(states.collect())
}

/// A job's pods carry the same labels.
fn is_of_deployment(pod: &Value) -> bool {
    let owners = pod["metadata"]["ownerReferences"].as_array();
    owners.is_none_or(|owners| owners.iter().all(|owner| owner["kind"] != "Job"))
}

/// What is read of a pod.
fn essence(mut pod: Value) -> Value {
    if let Some(pod) = pod.as_object_mut() {
        pod.remove("spec");
    }
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        metadata.remove("annotations");
    }
    pod
}

fn state(deployment: &Value, pods: &[&Value]) -> Option<GenerationState> {
    let stamped = Stamped(deployment);
    let health = judge(deployment, pods);
    Some(GenerationState {
        workload: stamped.annotation(WORKLOAD).to_owned(),
        number: stamped.number()?,
        release_id: stamped.annotation(RELEASE).to_owned(),
        fence: stamped.fence(),
        phase: health.phase,
        reason: health.reason,
        message: health.message,
        wanted: Some(deployment["spec"]["replicas"].as_u64().unwrap_or(1) as u32),
        ready: health.ready,
        restarts: health.restarts,
        proofs: health.proofs,
        fingerprint: fingerprint(deployment),
        objects: vec![format!("deployment/{}", name_of(deployment))],
        instances: health.instances,
    })
}

fn route(object: &Value, shares: Vec<Share>, settled: bool) -> Option<RouteState> {
    let workload = Stamped(object).annotation(WORKLOAD);
    (!workload.is_empty()).then(|| RouteState {
        workload: workload.to_owned(),
        fence: Stamped(object).fence(),
        shares,
        settled,
        fingerprint: String::new(),
    })
}

/// The workload's own Service: what its selector names is live.
fn of_service(service: &Value) -> Option<RouteState> {
    // A gateway's workload has one for each generation, and none for itself; what is shared beside it has another name.
    if name_of(service) != Stamped(service).label(KEY) {
        return None;
    }
    let live = service["spec"]["selector"][NUMBER]
        .as_str()
        .and_then(|number| number.parse().ok());
    let shares = live.map(|number| Share {
        number,
        live: FULL_SHARE as u32,
    });
    route(service, shares.into_iter().collect(), true)
}

/// Weights as they are set, and whether every gateway says that it has them.
fn of_http_route(object: &Value) -> Option<RouteState> {
    let references = object["spec"]["rules"][0]["backendRefs"].as_array();
    let weighted: Vec<(u32, u64)> = references
        .into_iter()
        .flatten()
        .filter_map(|reference| {
            let number = reference["name"].as_str()?.rsplit_once("-g")?.1.parse().ok()?;
            Some((number, reference["weight"].as_u64().unwrap_or(1)))
        })
        .collect();
    let sum: u64 = weighted.iter().map(|(_, weight)| weight).sum();
    let shares = weighted.iter().map(|(number, weight)| Share {
        number: *number,
        live: (weight * FULL_SHARE).checked_div(sum).unwrap_or(0) as u32,
    });
    let generation = &object["metadata"]["generation"];
    let wanted = object["spec"]["parentRefs"].as_array().map_or(0, Vec::len);
    let parents = object["status"]["parents"].as_array();
    let has_it = |parent: &&Value| {
        let conditions = parent["conditions"].as_array();
        let accepted = conditions.into_iter().flatten().find(|one| one["type"] == "Accepted");
        accepted.is_some_and(|one| one["status"] == "True" && one["observedGeneration"] == *generation)
    };
    let settled = parents.is_some_and(|parents| parents.iter().filter(has_it).count() >= wanted.max(1));
    route(object, shares.collect(), settled)
}

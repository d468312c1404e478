//! What is live: the selector of the workload's Service, or the weights of its HTTPRoute. One object, one write.

use crate::api::{Api, Kind};
use crate::objects::{live_selector, ports};
use crate::shared;
use crate::stamp::{self, DEPLOY, FENCE, NUMBER, Stamped};
use crate::template::{Config, Gateway, Service, Template};
use crate::{config, template};
use holdfast_plugin::{Context, Fault, Generation, Progress, RouteEntry, Routing};
use serde_json::{Value, json};

/// What is missing of the shared objects, sending nothing anywhere; nothing that is there is changed.
pub fn attach(api: &Api, ctx: &Context, subject: &Generation, template: &Template) -> Result<(), Fault> {
    let (kind, mut object) = match (template.routing(), &template.service, &template.gateway) {
        (Routing::Single, Some(service), _) => (Kind::SERVICE, live_service(ctx, subject, service, None)),
        (Routing::Weighted, Some(service), Some(gateway)) => (
            Kind::HTTP_ROUTE,
            http_route(subject, service, gateway, &[(subject.name.clone(), 0)]),
        ),
        _ => return Ok(()),
    };
    if api.get(kind, &subject.key)?.is_none() {
        stamp::write(&mut object, ctx, subject);
        api.create(kind, &object)?;
    }
    Ok(())
}

fn live_service(ctx: &Context, lead: &Generation, service: &Service, live: Option<u32>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": lead.key },
        "spec": { "selector": live_selector(ctx, &lead.key, live), "ports": ports(service) },
    })
}

fn http_route(lead: &Generation, service: &Service, gateway: &Gateway, weights: &[(String, u32)]) -> Value {
    let port = service.ports.first().map_or(80, |port| port.port);
    let references: Vec<Value> = weights
        .iter()
        .map(|(name, weight)| json!({ "kind": "Service", "name": name, "port": port, "weight": weight }))
        .collect();
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": lead.key },
        "spec": {
            "parentRefs": gateway.parent_refs, "hostnames": gateway.hostnames, "rules": [{ "backendRefs": references }],
        },
    })
}

pub fn route(api: &Api, ctx: &Context, entries: &[RouteEntry]) -> Result<Progress, Fault> {
    let Some(lead) = entries.iter().find(|entry| entry.lead).map(|entry| &entry.generation) else {
        return Err(Fault::Invalid("a route needs a lead".into()));
    };
    let of_lead = template(lead)?;
    stamp::admit(ctx, &api.list(Kind::DEPLOYMENT, &stamp::selector(ctx, &lead.key))?)?;
    if config(ctx)?.shared_kinds.is_empty() && !of_lead.shared.is_empty() {
        return Err(Fault::Invalid("/template/shared: this target's sharedKinds is empty".into()));
    }
    shared::bring(api, ctx, lead, &of_lead.shared)?;
    let live: Vec<&RouteEntry> = entries.iter().filter(|entry| entry.live > 0).collect();
    match (of_lead.routing(), &of_lead.service, &of_lead.gateway) {
        (Routing::Single, Some(service), _) => {
            if live.len() > 1 {
                return Err(Fault::Invalid(
                    "a Service sends to one generation; weights need a gateway".into(),
                ));
            }
            let object = live_service(ctx, lead, service, live.first().map(|entry| entry.generation.number));
            set(api, ctx, lead, Kind::SERVICE, object)
        }
        (Routing::Weighted, Some(service), Some(gateway)) => {
            let weights: Vec<(String, u32)> = entries
                .iter()
                .map(|entry| (entry.generation.name.clone(), entry.live))
                .collect();
            set(api, ctx, lead, Kind::HTTP_ROUTE, http_route(lead, service, gateway, &weights))
        }
        _ => Ok(Progress::Done),
    }
}

/// By compare-and-swap, under the fence that the object carries.
fn set(api: &Api, ctx: &Context, lead: &Generation, kind: Kind, mut object: Value) -> Result<Progress, Fault> {
    let what = format!("{} {}", kind.plural, lead.key);
    if api.get(kind, &lead.key)?.is_none() {
        let mut made = object.clone();
        stamp::write(&mut made, ctx, lead);
        if api.create(kind, &made)?.is_some() {
            return Ok(Progress::Done);
        }
    }
    let spec = object["spec"].take();
    api.swap(kind, &lead.key, |found| {
        Stamped(found).admits(ctx, &lead.key, &what)?;
        let stamps = json!({ FENCE: ctx.fence.to_string(), DEPLOY: ctx.deploy_id });
        Ok(Some(json!({ "metadata": { "annotations": stamps }, "spec": spec })))
    })?;
    Ok(Progress::Done)
}

/// Whether anything sends to this generation.
pub fn has_share(api: &Api, config: &Config, subject: &Generation) -> Result<bool, Fault> {
    let number = subject.number.to_string();
    let service = api.get(Kind::SERVICE, &subject.key)?;
    if service.is_some_and(|service| service["spec"]["selector"][NUMBER].as_str() == Some(number.as_str())) {
        return Ok(true);
    }
    if !config.gateway {
        return Ok(false);
    }
    let route = api.get(Kind::HTTP_ROUTE, &subject.key)?;
    let references = route
        .iter()
        .flat_map(|route| route["spec"]["rules"].as_array().into_iter().flatten());
    let references = references.flat_map(|rule| rule["backendRefs"].as_array().into_iter().flatten());
    let names_it = |one: &Value| one["name"] == subject.name && one["weight"].as_u64() != Some(0);
    Ok(references.into_iter().any(names_it))
}

/// When the workload leaves.
pub fn remove(api: &Api, ctx: &Context, config: &Config, key: &str) -> Result<(), Fault> {
    let kinds = [Some(Kind::SERVICE), config.gateway.then_some(Kind::HTTP_ROUTE)];
    for kind in kinds.into_iter().flatten() {
        let Some(found) = api.get(kind, key)? else { continue };
        if Stamped(&found).is_of(ctx, key) {
            Stamped(&found).admits(ctx, key, &format!("{} {key}", kind.plural))?;
            api.delete(kind, &found)?;
        }
    }
    Ok(())
}

//! Objects beside the workload: applied with the lead, pruned when it names them no more. Only of kinds that the operator
//! lists, and of none that could grant anything.

use crate::api::{Api, Kind, name_of};
use crate::stamp::{self, Stamped};
use crate::template::{Config, problem};
use holdfast_plugin::{Context, Fault, Generation, Problem};
use serde_json::{Value, json};

/// What may be shared at all: nothing that widens what a pod or a person may do.
const KINDS: [(&str, Kind); 9] = [
    (
        "HorizontalPodAutoscaler",
        Kind::of("autoscaling/v2", "horizontalpodautoscalers"),
    ),
    ("Ingress", Kind::of("networking.k8s.io/v1", "ingresses")),
    ("NetworkPolicy", Kind::of("networking.k8s.io/v1", "networkpolicies")),
    ("PodDisruptionBudget", Kind::BUDGET),
    ("PodMonitor", Kind::of("monitoring.coreos.com/v1", "podmonitors")),
    ("PrometheusRule", Kind::of("monitoring.coreos.com/v1", "prometheusrules")),
    ("Service", Kind::SERVICE),
    ("ServiceAccount", Kind::of("v1", "serviceaccounts")),
    ("ServiceMonitor", Kind::of("monitoring.coreos.com/v1", "servicemonitors")),
];

fn kind(name: &str) -> Option<Kind> {
    KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

pub fn problems(shared: &[Value], config: Option<&Config>, key: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (at, object) in shared.iter().enumerate() {
        let at = format!("/template/shared/{at}");
        let name = object["kind"].as_str().unwrap_or_default();
        match kind(name) {
            None => {
                let known: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
                let message = format!("{name:?} cannot be shared");
                problems.push(problem(
                    format!("{at}/kind"),
                    message,
                    &format!("there are {}", known.join(", ")),
                ));
            }
            Some(known) if object["apiVersion"] != known.group => {
                problems.push(problem(
                    format!("{at}/apiVersion"),
                    format!("{name} is of {}", known.group),
                    "",
                ));
            }
            Some(_) if config.is_some_and(|config| !config.shared_kinds.contains(name)) => {
                let hint = "the target's sharedKinds must list it";
                problems.push(problem(format!("{at}/kind"), format!("{name} is not granted here"), hint));
            }
            Some(_) => {}
        }
        if name_of(object).is_empty() {
            problems.push(problem(format!("{at}/metadata/name"), "it needs a name", ""));
        } else if name_of(object) == key || !object["metadata"]["namespace"].is_null() {
            let message = format!("the name {key:?} and every namespace are Holdfast's to say");
            problems.push(problem(format!("{at}/metadata"), message, "another name, and no namespace"));
        }
    }
    problems
}

/// The name of the list of what was applied.
fn list_name(key: &str) -> String {
    format!("{key}-shared")
}

/// Brings the shared objects to what the lead says; what it names no more goes.
pub fn bring(api: &Api, ctx: &Context, lead: &Generation, wanted: &[Value]) -> Result<(), Fault> {
    let before = applied(api, &lead.key)?;
    let named: Vec<String> = wanted.iter().map(title).collect();
    if before.is_empty() && named.is_empty() {
        return Ok(());
    }
    // First the list, with both: what is cut in the middle is found again.
    let all: Vec<String> = before.iter().chain(&named).cloned().collect();
    write_list(api, ctx, lead, &all)?;
    for object in wanted {
        let Some(kind) = object["kind"].as_str().and_then(kind) else {
            continue;
        };
        let found = api.get(kind, name_of(object))?;
        if found.as_ref().is_some_and(|found| !Stamped(found).is_of(ctx, &lead.key)) {
            return Err(Fault::Conflict(format!(
                "{} is there, and not this workload's",
                title(object)
            )));
        }
        let mut object = object.clone();
        stamp::write(&mut object, ctx, lead);
        api.apply(kind, &object)?;
    }
    remove(api, ctx, &lead.key, before.iter().filter(|title| !named.contains(title)))?;
    write_list(api, ctx, lead, &named)
}

/// When the workload leaves.
pub fn remove_all(api: &Api, ctx: &Context, key: &str) -> Result<(), Fault> {
    remove(api, ctx, key, applied(api, key)?.iter())?;
    match api.get(Kind::CONFIG_MAP, &list_name(key))? {
        Some(list) => api.delete(Kind::CONFIG_MAP, &list),
        None => Ok(()),
    }
}

fn remove<'a>(api: &Api, ctx: &Context, key: &str, titles: impl Iterator<Item = &'a String>) -> Result<(), Fault> {
    for title in titles {
        let Some((kind, name)) = title.split_once('.').and_then(|(known, name)| Some((kind(known)?, name))) else {
            continue;
        };
        if let Some(found) = api.get(kind, name)?.filter(|found| Stamped(found).is_of(ctx, key)) {
            api.delete(kind, &found)?;
        }
    }
    Ok(())
}

/// As a key of a ConfigMap.
fn title(object: &Value) -> String {
    format!("{}.{}", object["kind"].as_str().unwrap_or_default(), name_of(object))
}

fn applied(api: &Api, key: &str) -> Result<Vec<String>, Fault> {
    let list = api.get(Kind::CONFIG_MAP, &list_name(key))?;
    let titles = list.as_ref().and_then(|list| list["data"].as_object());
    Ok(titles.into_iter().flatten().map(|(title, _)| title.clone()).collect())
}

fn write_list(api: &Api, ctx: &Context, lead: &Generation, titles: &[String]) -> Result<(), Fault> {
    let data: serde_json::Map<String, Value> = titles.iter().map(|title| (title.clone(), "".into())).collect();
    let mut list = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": list_name(&lead.key) }, "data": data,
    });
    stamp::write(&mut list, ctx, lead);
    api.apply(Kind::CONFIG_MAP, &list).map(drop)
}

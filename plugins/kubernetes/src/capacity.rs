//! How many more pods the namespace's quotas allow. What nodes have left only the scheduler knows: without a quota there is
//! no answer, and a pod that finds no node says so itself.

use crate::api::{Api, Kind};
use crate::template::Template;
use holdfast_plugin::Fault;
use serde_json::Value;

const QUOTA: Kind = Kind::of("v1", "resourcequotas");

pub fn room(api: &Api, template: &Template) -> Result<Option<u32>, Fault> {
    let quotas = match api.list(QUOTA, "") {
        Ok(quotas) => quotas,
        // A grant that leaves quotas out means that nothing is known of them.
        Err(Fault::Denied(_)) => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let mut least = None;
    for quota in &quotas {
        for (name, hard) in quota["status"]["hard"].as_object().into_iter().flatten() {
            let needed = needed(template, name);
            let used = quota["status"]["used"][name].as_str().and_then(milli).unwrap_or(0);
            let (Some(hard), Some(needed)) = (hard.as_str().and_then(milli), needed.filter(|needed| *needed > 0)) else {
                continue;
            };
            let more = u32::try_from(hard.saturating_sub(used) / needed).unwrap_or(u32::MAX);
            least = Some(least.map_or(more, |least: u32| least.min(more)));
        }
    }
    Ok(least)
}

/// What one pod takes of a quota's resource, in thousandths.
fn needed(template: &Template, resource: &str) -> Option<u128> {
    if matches!(resource, "pods" | "count/pods") {
        return Some(1_000);
    }
    let (of, resource) = match resource.split_once('.') {
        Some((of @ ("requests" | "limits"), resource)) => (of, resource),
        _ if matches!(resource, "cpu" | "memory") => ("requests", resource),
        _ => return None,
    };
    let containers = template.pod.get("containers")?.as_array()?;
    let quantity = |container: &Value| {
        let resources = &container["resources"];
        // A request that is left out is its limit.
        let value = [&resources[of][resource], &resources["limits"][resource]]
            .into_iter()
            .find(|value| !value.is_null())?;
        match value {
            Value::String(text) => milli(text),
            other => milli(&other.to_string()),
        }
    };
    Some(containers.iter().filter_map(quantity).sum())
}

/// A quantity in thousandths: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>
fn milli(text: &str) -> Option<u128> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: u128 = match unit {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        _ => return None,
    };
    match number.split_once('.') {
        None => number.parse::<u128>().ok()?.checked_mul(scale),
        Some((whole, part)) => {
            let places = u32::try_from(part.len()).ok().filter(|places| *places <= 9)?;
            let tenths = format!("{whole}{part}").parse::<u128>().ok()?;
            Some(tenths.checked_mul(scale)? / 10u128.pow(places))
        }
    }
}

//! What would change, field by field: the server itself says what it would make of the new Deployment, its defaults and
//! policies included.

use crate::api::{Api, Kind, name_of};
use crate::objects;
use crate::template;
use crate::template::PREFIX;
use holdfast_plugin::{Change, Context, Fault, Generation};
use serde_json::Value;
use std::collections::BTreeSet;

const CHANGES_MAX: usize = 100;

pub fn changes(api: &Api, ctx: &Context, current: Option<&Generation>, wanted: &Generation) -> Result<Vec<Change>, Fault> {
    let new = objects::deployment(ctx, wanted, &template(wanted)?, 1);
    let (live, would_be) = match current {
        // Drift: what was written, against what is there.
        None => {
            let Some(live) = api.get(Kind::DEPLOYMENT, &wanted.name)? else {
                return Err(Fault::Absent(format!("Deployment {} is not there", wanted.name)));
            };
            let would_be = as_written(api, &new)?;
            (live, would_be)
        }
        Some(current) => {
            let Some(live) = api.get(Kind::DEPLOYMENT, &current.name)? else {
                return Err(Fault::Absent(format!("Deployment {} is not there", current.name)));
            };
            (live, api.dry_run(Kind::DEPLOYMENT, &new)?)
        }
    };
    let mut changes = Vec::new();
    let item = format!("deployment/{}", name_of(&new));
    compare(&item, "", &seen(&live), &seen(&would_be), &mut changes);
    changes.truncate(CHANGES_MAX);
    Ok(changes)
}

/// A fresh one under a name that is free, so that fields which somebody added do not stay.
fn as_written(api: &Api, new: &Value) -> Result<Value, Fault> {
    let mut fresh = new.clone();
    fresh["metadata"]["name"] = format!("{}-as-written", name_of(new)).into();
    api.dry_run(Kind::DEPLOYMENT, &fresh)
}

/// The pod template, without what says only who wrote it and when.
fn seen(deployment: &Value) -> Value {
    let mut template = deployment["spec"]["template"].clone();
    for field in ["labels", "annotations"] {
        if let Some(map) = template["metadata"][field].as_object_mut() {
            map.retain(|name, _| !name.starts_with(PREFIX) && !name.starts_with("app.kubernetes.io/"));
            if map.is_empty()
                && let Some(metadata) = template["metadata"].as_object_mut()
            {
                metadata.remove(field);
            }
        }
    }
    if let Some(metadata) = template["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
    }
    template
}

/// Leaves that differ; lists of named things by name, so that an added container is one change.
fn compare(item: &str, path: &str, have: &Value, want: &Value, changes: &mut Vec<Change>) {
    if have == want || changes.len() > CHANGES_MAX {
        return;
    }
    match (have, want) {
        (Value::Object(a), Value::Object(b)) => {
            let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                compare(item, &format!("{path}.{name}"), &have[name], &want[name], changes);
            }
        }
        (Value::Array(a), Value::Array(b)) if is_named(a) && is_named(b) => {
            let names: BTreeSet<&str> = a.iter().chain(b).filter_map(|one| one["name"].as_str()).collect();
            let find = |list: &[Value], name: &str| list.iter().find(|one| one["name"] == name).cloned().unwrap_or_default();
            for name in names {
                compare(item, &format!("{path}[{name}]"), &find(a, name), &find(b, name), changes);
            }
        }
        _ => changes.push(Change {
            item: item.to_owned(),
            path: path.trim_start_matches('.').to_owned(),
            have: text(have),
            want: text(want),
        }),
    }
}

fn is_named(list: &[Value]) -> bool {
    list.iter().all(|one| one["name"].is_string())
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.chars().take(300).collect(),
        other => other.to_string().chars().take(300).collect(),
    }
}

//! Why is it not ready: events of the Deployment and its worst pods, and the last lines of their logs, of the run before too.

use crate::api::{Api, Kind, name_of};
use crate::stamp::{NAME, OWNER};
use holdfast_plugin::{Context, Excerpt, Fault, Generation};
use serde_json::Value;

const PODS_MAX: usize = 3;
const TEXT_MAX: usize = 8 << 10;

pub fn explain(api: &Api, ctx: &Context, subject: &Generation) -> Result<Vec<Excerpt>, Fault> {
    let mut excerpts = Vec::new();
    let mut add = |instance: &str, source: String, text: String| {
        if !text.trim().is_empty() {
            excerpts.push(Excerpt {
                instance: instance.to_owned(),
                source,
                text: text.chars().take(TEXT_MAX).collect(),
            });
        }
    };
    add(&subject.name, "events".into(), events(api, &subject.name));
    let selector = format!("{OWNER}={},{NAME}={}", ctx.owner, subject.name);
    let pods = api.page(Kind::POD, &selector, 50, None)?;
    let is_ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .any(|one| one["type"] == "Ready" && one["status"] == "True")
    };
    for pod in pods.items.iter().filter(|pod| !is_ready(pod)).take(PODS_MAX) {
        let name = name_of(pod);
        add(name, "events".into(), events(api, name));
        for list in ["initContainerStatuses", "containerStatuses"] {
            for status in pod["status"][list].as_array().into_iter().flatten() {
                let container = status["name"].as_str().unwrap_or_default();
                if status["restartCount"].as_u64().is_some_and(|count| count > 0) {
                    add(
                        name,
                        format!("log of {container}, the run before"),
                        api.log(name, container, true).unwrap_or_default(),
                    );
                }
                add(
                    name,
                    format!("log of {container}"),
                    api.log(name, container, false).unwrap_or_default(),
                );
            }
        }
    }
    Ok(excerpts)
}

/// Without the right to read events there are none; the rest is worth saying all the same.
fn events(api: &Api, name: &str) -> String {
    let lines: Vec<String> = api
        .events(name)
        .unwrap_or_default()
        .iter()
        .map(|event| {
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            let count = event["count"].as_u64().filter(|count| *count > 1);
            let times = count.map_or(String::new(), |count| format!(" ({count} times)"));
            format!("{} {}: {}{times}", text("type"), text("reason"), text("message"))
        })
        .collect();
    lines.join("\n")
}

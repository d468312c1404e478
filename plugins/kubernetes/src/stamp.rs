//! What every object of ours carries: whose it is, of which workload and generation, and under which fence it was written.

use crate::template::PREFIX;
use holdfast_plugin::{Context, Fault, Generation};
use serde_json::{Value, json};

pub const OWNER: &str = "holdfast.dev/owner";
pub const KEY: &str = "holdfast.dev/key";
/// The generation's name: what its pods are selected by.
pub const NAME: &str = "holdfast.dev/name";
pub const NUMBER: &str = "holdfast.dev/generation";
pub const WORKLOAD: &str = "holdfast.dev/workload-id";
pub const RELEASE: &str = "holdfast.dev/release-id";
pub const DEPLOY: &str = "holdfast.dev/deploy-id";
pub const FENCE: &str = "holdfast.dev/fence";
/// Which image is which artifact, as JSON.
pub const ARTIFACTS: &str = "holdfast.dev/artifacts";
pub const PROBE_PORT: &str = "holdfast.dev/probe-port";

/// The labels of a generation's objects and pods.
pub fn labels(ctx: &Context, subject: &Generation) -> Value {
    let mut labels = json!({
        OWNER: ctx.owner, KEY: subject.key, NAME: subject.name, NUMBER: subject.number.to_string(),
        "app.kubernetes.io/managed-by": "holdfast", "app.kubernetes.io/name": subject.key,
        "app.kubernetes.io/instance": subject.name,
    });
    for stamp in &subject.stamps {
        let name = format!("{PREFIX}{}", stamp.name);
        if labels[&name].is_null() && is_label_value(&stamp.value) {
            labels[&name] = stamp.value.clone().into();
        }
        if stamp.name == "release" && is_label_value(&stamp.value) {
            labels["app.kubernetes.io/version"] = stamp.value.clone().into();
        }
    }
    labels
}

/// What is longer than a label may be, or would not change with a relabelling.
pub fn annotations(ctx: &Context, subject: &Generation) -> Value {
    json!({
        WORKLOAD: subject.workload, RELEASE: subject.release_id, DEPLOY: ctx.deploy_id, FENCE: ctx.fence.to_string(),
    })
}

/// On an object that no generation has for itself.
pub fn write(object: &mut Value, ctx: &Context, lead: &Generation) {
    let labels = &mut object["metadata"]["labels"];
    if !labels.is_object() {
        *labels = json!({});
    }
    labels[OWNER] = ctx.owner.clone().into();
    labels[KEY] = lead.key.clone().into();
    labels["app.kubernetes.io/managed-by"] = "holdfast".into();
    let annotations = &mut object["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[WORKLOAD] = lead.workload.clone().into();
    annotations[FENCE] = ctx.fence.to_string().into();
    annotations[DEPLOY] = ctx.deploy_id.clone().into();
}

fn is_label_value(value: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_alphanumeric();
    let bytes = value.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| alphanumeric(byte) || b"-_.".contains(byte))
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
}

/// An object as it was read.
#[derive(Clone, Copy)]
pub struct Stamped<'a>(pub &'a Value);

impl<'a> Stamped<'a> {
    pub fn label(self, name: &str) -> &'a str {
        self.0["metadata"]["labels"][name].as_str().unwrap_or_default()
    }

    pub fn annotation(self, name: &str) -> &'a str {
        self.0["metadata"]["annotations"][name].as_str().unwrap_or_default()
    }

    pub fn fence(self) -> u64 {
        self.annotation(FENCE).parse().unwrap_or(0)
    }

    pub fn number(self) -> Option<u32> {
        self.label(NUMBER).parse().ok()
    }

    pub fn is_of(self, ctx: &Context, key: &str) -> bool {
        self.label(OWNER) == ctx.owner && self.label(KEY) == key
    }

    /// Ours, of this workload, and not written since by somebody who knows more.
    pub fn admits(self, ctx: &Context, key: &str, what: &str) -> Result<(), Fault> {
        if !self.is_of(ctx, key) {
            return Err(Fault::Conflict(format!("{what} is there, and not this workload's")));
        }
        match self.fence() {
            fence if fence > ctx.fence => Err(Fault::Fenced(fence)),
            _ => Ok(()),
        }
    }
}

/// Everything of one workload.
pub fn selector(ctx: &Context, key: &str) -> String {
    format!("{OWNER}={},{KEY}={key}", ctx.owner)
}

/// Refuses what somebody who knows more has seen on any of the workload's objects.
pub fn admit(ctx: &Context, objects: &[Value]) -> Result<(), Fault> {
    match objects.iter().map(|object| Stamped(object).fence()).max() {
        Some(fence) if fence > ctx.fence => Err(Fault::Fenced(fence)),
        _ => Ok(()),
    }
}

//! The host of a plain `cargo test`: what a plugin sends on this thread is answered by a simulated target.

use crate::Fault;
use crate::bindings::holdfast::target::endpoint::{Content, Fail, Header, Request, Response};
use crate::plugin::TargetPlugin;
pub use holdfast_simulation::{Description, Simulation};
use std::cell::RefCell;
use std::rc::Rc;

thread_local! {
    static TARGET: RefCell<Option<(String, Rc<Simulation>)>> = const { RefCell::new(None) };
}

/// Runs `test` with a simulated target behind the description's alias.
///
/// # Panics
/// When `description` is not the JSON of a [`Description`].
pub fn with_target<T>(description: &str, test: impl FnOnce(&Simulation) -> T) -> T {
    #[allow(clippy::expect_used, reason = "it is for tests, where this is how they fail")]
    let description: Description = serde_json::from_str(description).expect("a description of a simulated target");
    let (alias, simulation) = (description.alias.clone(), Rc::new(Simulation::new(description)));
    TARGET.set(Some((alias, simulation.clone())));
    let outcome = test(&simulation);
    TARGET.set(None);
    outcome
}

pub(crate) fn send(alias: &str, request: &Request) -> Result<Response, Fail> {
    let target = TARGET.with_borrow(Clone::clone);
    let Some((_, simulation)) = target.filter(|(known, _)| known == alias) else {
        return Err(Fail::Denied(format!("the operator grants no endpoint named {alias:?}")));
    };
    let headers: Vec<(String, String)> = request
        .headers
        .iter()
        .map(|header| (header.name.clone(), header.value.clone()))
        .collect();
    let body = match &request.body {
        Content::Bytes(bytes) => bytes.as_slice(),
        _ => &[],
    };
    let answer = simulation.handle(&request.method, &request.path, &headers, body);
    let header = |(name, value)| Header { name, value };
    Ok(Response {
        status: answer.status.into(),
        headers: answer.headers.into_iter().map(header).collect(),
        body: answer.body,
    })
}

/// That `plugin.json` has the schema of the plugin's `Config`: call it in a test.
///
/// # Panics
/// When it has another one; the message says which it must be.
pub fn assert_schema<P: TargetPlugin>(plugin_json: &str) {
    let metadata: serde_json::Value = serde_json::from_str(plugin_json).unwrap_or_default();
    let schema = schemars::schema_for!(P::Config).to_value();
    assert!(
        metadata["config"] == schema,
        "plugin.json has to say \"config\": {}",
        serde_json::to_string_pretty(&schema).unwrap_or_default()
    );
}

/// What a test asks of a fault: its class, as the contract names it.
pub fn class(fault: &Fault) -> &'static str {
    match fault {
        Fault::Invalid(_) => "invalid",
        Fault::Failed(_) => "failed",
        Fault::Conflict(_) => "conflict",
        Fault::Fenced(_) => "fenced",
        Fault::Denied(_) => "denied",
        Fault::Exhausted(_) => "exhausted",
        Fault::Absent(_) => "absent",
        Fault::Unavailable(_) => "unavailable",
        Fault::Internal(_) => "internal",
    }
}

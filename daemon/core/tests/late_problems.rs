//! What a registry or a plugin finds wrong is said with the place in the manifest, like what the parser finds.

mod written;

use holdfast_core::engine::{Engine, Input, Now, Output, PinFailure, Resolved};
use holdfast_core::entry::Body;
use holdfast_core::ids::{Digest, WorkloadId};
use holdfast_core::plan::Ask;
use holdfast_core::state::State;
use holdfast_core::target::{Abilities, CheckProblem, Report};
use std::collections::BTreeSet;

const MANIFESTS: &str = "\
apiVersion: holdfast.dev/v1alpha1
kind: Target
metadata: { name: site-a, labels: { env: prod } }
spec:
  plugin: edge
  config:
    zone: north
---
apiVersion: holdfast.dev/v1alpha1
kind: Workload
metadata: { name: shop }
spec:
  artifacts:
    main: r.example.com/shop:9
  placement: { targets: { names: [ site-a ] } }
  template:
    host: shop.example.com
";

/// Everything that the engine writes and waits for, with these answers.
fn run(pin: Result<Resolved, PinFailure>, problem_at: &str) -> Vec<String> {
    let desired = written::desired("apps/shop.yaml", MANIFESTS);
    assert!(desired.problems.is_empty(), "{:?}", desired.problems);
    let mut engine = Engine::new(written::config(), State::default());
    let mut inputs = vec![Input::Revision(Box::new(written::revision("c1", desired)))];
    let mut said = Vec::new();
    let id = WorkloadId::new("main", "shop").unwrap();
    while let Some(input) = inputs.pop() {
        for output in engine.handle(Now { t: 1, wall_ms: 1 }, input) {
            match output {
                Output::Append { entries, .. } => {
                    said.extend(entries.into_iter().filter_map(|entry| match entry.body {
                        Body::Rollout(change) => Some(change.message),
                        _ => None,
                    }));
                    let size = engine.state().size;
                    inputs.push(Input::Durable { size });
                }
                Output::Ask(Ask::Pin { workload, reference }) => inputs.push(Input::Pinned {
                    workload,
                    reference,
                    outcome: pin.clone(),
                }),
                Output::Ask(Ask::Check {
                    workload, target, key, ..
                }) => inputs.push(Input::Checked {
                    workload,
                    target,
                    key,
                    outcome: Ok(Report {
                        problems: vec![CheckProblem {
                            at: problem_at.into(),
                            message: "is not known".into(),
                            hint: String::new(),
                        }],
                        abilities: Abilities::default(),
                    }),
                }),
                _ => {}
            }
        }
        said.extend(engine.waiting(&id, None).map(|waiting| waiting.message.clone()));
    }
    said
}

#[test]
fn late_problems_name_their_place() {
    let missing = Err(PinFailure {
        message: "there is no tag 9".into(),
        retry_after_ms: None,
    });
    let found = Ok(Resolved {
        digest: Digest::of(b"9"),
        source: "r.example.com/shop".into(),
        images: b"[]".to_vec(),
        accepted: BTreeSet::new(),
        blobs: Vec::new(),
        evidence: serde_json::json!({}),
    });
    for (pin, at, expected) in [
        (
            missing,
            "",
            "r.example.com/shop:9 cannot be resolved: there is no tag 9 (apps/shop.yaml:14:5)",
        ),
        (
            found.clone(),
            "/template/host",
            "site-a: /template/host: is not known (apps/shop.yaml:17:5)",
        ),
        (
            found.clone(),
            "/template/port",
            "site-a: /template/port: is not known (apps/shop.yaml:16:3)",
        ),
        (
            found,
            "/config/zone",
            "site-a: /config/zone: is not known (apps/shop.yaml:7:5)",
        ),
    ] {
        let said = run(pin, at);
        assert!(said.iter().any(|message| message == expected), "{expected}: {said:#?}");
    }
}

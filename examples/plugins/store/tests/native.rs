//! The plugin as plain Rust, against the fake host: no WebAssembly.

#![allow(clippy::unwrap_used, reason = "a test")]

use holdfast_example_plugin_store::Store;
use holdfast_plugin::fake::{assert_schema, class, with_target};
use holdfast_plugin::*;

const SIMULATION: &str = r#"{ "alias": "api", "collections": { "/units": {}, "/workloads": {} },
    "effects": [{ "below": "/units", "copy": "/record/digest", "to": "/running" }] }"#;

fn context(owner: &str, fence: u64) -> Context {
    Context {
        owner: owner.into(),
        target: "a".into(),
        config: "{}".into(),
        fence,
        deploy_id: "d1".into(),
        resume: None,
    }
}

fn generation(number: u32) -> Generation {
    Generation {
        workload: "main/shop".into(),
        key: "shop".into(),
        name: format!("shop-g{number}"),
        number,
        release_id: format!("r{number}"),
        artifacts: vec![Artifact {
            name: "main".into(),
            uri: "registry.example.com/shop@sha256:1".into(),
            digest: "sha256:1".into(),
            images: vec![],
            payload: vec![],
        }],
        template: "{}".into(),
        files: vec![],
        secrets: vec![],
        stamps: vec![],
        drain_ms: 0,
    }
}

#[test]
fn a_launch_is_seen_and_a_stale_one_refused() {
    with_target(SIMULATION, |simulation| {
        <Store as Target>::launch(context("me", 7), generation(1), 2).unwrap();
        let query = Query {
            workload: None,
            cursor: None,
        };
        let page = <Store as Target>::observe(context("me", 0), query).unwrap();
        assert_eq!(
            (page.high_fence, page.generations[0].phase, page.generations[0].ready),
            (7, Phase::Ready, 2)
        );
        let stale = <Store as Target>::launch(context("me", 6), generation(2), 1).unwrap_err();
        assert!(matches!(stale, Fault::Fenced(7)), "{stale:?}");
        let foreign = <Store as Target>::scale(context("you", 9), generation(1), 0).unwrap_err();
        assert_eq!(class(&foreign), "conflict");
        assert_eq!(simulation.documents().len(), 2);
    });
}

#[test]
fn the_metadata_has_the_schema_of_the_config() {
    assert_schema::<Store>(include_str!("../plugin.json"));
}

#[test]
fn problems_are_at_their_place() {
    let mut wrong = generation(1);
    wrong.template = r#"{"sise":1}"#.into();
    let config = Context {
        config: r#"{"urll":1}"#.into(),
        ..context("me", 0)
    };
    let report = <Store as Target>::check(config, wrong).unwrap();
    let places: Vec<&str> = report.problems.iter().map(|problem| problem.at.as_str()).collect();
    assert_eq!(places, ["/config/urll", "/template/sise"]);
}

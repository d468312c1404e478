//! The kit over the example plugins, which keep every promise, and over faulty ones, each of which breaks one.

use holdfast_host::{Limits, Plugin, PluginHost};
use holdfast_testkit::{Outcome, Report, Scenario, SimulatedLab, run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Compiles the guests for wasm32-wasip2, in a target directory of their own.
fn component(package: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(ROOT).args([
            "build",
            "--locked",
            "--profile",
            "guest",
            "--target",
            "wasm32-wasip2",
            "--target-dir",
        ]);
        cargo.arg(&dir);
        for package in [
            "holdfast-faulty-plugin",
            "holdfast-example-plugin-minimal",
            "holdfast-example-plugin-store",
        ] {
            cargo.args(["-p", package]);
        }
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
        ] {
            cargo.env_remove(name);
        }
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        dir.join("wasm32-wasip2/guest")
    });
    std::fs::read(dir.join(format!("{}.wasm", package.replace('-', "_")))).unwrap()
}

fn load(package: &str) -> Plugin {
    static HOST: OnceLock<PluginHost> = OnceLock::new();
    let host = HOST.get_or_init(|| PluginHost::new(Limits::default(), None).unwrap());
    host.load(package, &component(package)).unwrap()
}

fn scenario(plugin: &str) -> Scenario {
    Scenario::parse(&std::fs::read(format!("{ROOT}/examples/plugins/{plugin}/simulation.json")).unwrap()).unwrap()
}

async fn tried(plugin: &Plugin, scenario: Scenario) -> Report {
    run(plugin, &SimulatedLab::new(scenario), &[]).await
}

#[tokio::test]
async fn the_examples_keep_every_promise() {
    for (name, left_out) in [("store", vec![]), ("minimal", vec!["guarded", "weights", "retire"])] {
        let report = tried(&load(&format!("holdfast-example-plugin-{name}")), scenario(name)).await;
        assert!(report.is_good(), "{}", report.text());
        let skipped = report
            .results
            .iter()
            .filter(|result| matches!(result.outcome, Outcome::Skipped(_)));
        assert_eq!(
            skipped.map(|result| result.name).collect::<Vec<_>>(),
            left_out,
            "{}",
            report.text()
        );
    }
}

/// Each fails the check that is meant for it, and no other.
#[tokio::test]
async fn each_broken_promise_has_its_check() {
    let plugin = load("holdfast-faulty-plugin");
    for broken in [
        "problems",
        "claims",
        "idempotence",
        "fence",
        "resume",
        "guarded",
        "digest",
        "weights",
        "retire",
        "neighbours",
        "foreign",
        "classes",
        "faults",
        "bounded",
        "crowd",
    ] {
        let mut scenario = scenario("store");
        scenario.config = serde_json::json!({ "broken": broken });
        let report = tried(&plugin, scenario).await;
        let expected = if broken == "crowd" { "bounded" } else { broken };
        assert_eq!(report.failed(), [expected], "{broken}:\n{}", report.text());
        let reached = report
            .results
            .iter()
            .all(|result| !matches!(result.outcome, Outcome::NotReached(_)));
        assert!(reached, "{broken}:\n{}", report.text());
    }
    let mut whole = scenario("store");
    whole.config = serde_json::json!({});
    let report = tried(&plugin, whole).await;
    assert!(report.is_good(), "{}", report.text());
}

//! The kit over the example plugins, which keep every promise, and over faulty ones, each of which breaks one.

use holdfast_core::target::{CallContext, FaultClass, RouteEntry};
use holdfast_host::{
    Binding, BindingConfig, CallFailure, CallOptions, EndpointConfig, Exchange, Limits, Plugin, PluginHost, Sending, Wire,
    WireRequest, with_metadata,
};
use holdfast_testkit::{Outcome, Report, Scenario, SimulatedLab, run, sample_generation};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

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

fn host() -> &'static PluginHost {
    static HOST: OnceLock<PluginHost> = OnceLock::new();
    HOST.get_or_init(|| PluginHost::new(Limits::default(), None).unwrap())
}

fn load(package: &str) -> Plugin {
    host().load(package, &component(package)).unwrap()
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

/// What reached the target, of a plugin that reads and then writes one document.
#[derive(Default)]
struct Reached(Mutex<Vec<String>>);

impl Wire for Reached {
    fn send<'a>(&'a self, request: &'a WireRequest) -> Sending<'a> {
        self.0.lock().unwrap().push(format!("{} {}", request.method, request.path));
        let status = if request.method == "GET" { 404 } else { 201 };
        Box::pin(async move {
            Ok(Exchange {
                status,
                headers: Vec::new(),
                body: Vec::new(),
            })
        })
    }
}

/// A plugin gets what it wants and the operator grants: never more than either.
#[tokio::test]
async fn grants_are_what_both_say() {
    let rule = |methods: &str, path: &str| serde_json::json!({ "effect": "read", "methods": methods.split(' ').collect::<Vec<_>>(), "path": path });
    let (all, read) = (rule("GET PUT", "/**"), rule("GET", "/document"));
    for (wanted, granted, reached) in [
        (&all, &all, vec!["GET /document", "PUT /document"]),
        (&read, &all, vec!["GET /document"]),
        (&all, &read, vec!["GET /document"]),
        (&rule("GET", "/other"), &all, vec![]),
    ] {
        let metadata = serde_json::json!({ "id": "x", "version": "1", "licence": "MIT",
            "wants": [{ "alias": "service", "why": "to see", "rules": [wanted] }] });
        let component = with_metadata(&component("holdfast-example-plugin-minimal"), metadata.to_string().as_bytes()).unwrap();
        let plugin = host().load("x", &component).unwrap();
        let mut endpoint = EndpointConfig::new("http://127.0.0.1:9");
        endpoint.rules = vec![serde_json::from_value(granted.clone()).unwrap()];
        let config = BindingConfig {
            endpoints: [("service".to_owned(), endpoint)].into(),
            probe_networks: Vec::new(),
        };
        let wire = Arc::new(Reached::default());
        let context = CallContext {
            owner: "me".into(),
            target: "a".into(),
            config: "{}".into(),
            fence: 1,
            deploy_id: "d".into(),
            resume: None,
        };
        let options = CallOptions {
            binding: Some(Arc::new(Binding::over(&config, wire.clone()).unwrap())),
            context: &context,
            deadline: Duration::from_secs(10),
            now_ms: 0,
            secrets: &[],
            artifacts: None,
        };
        let entry = RouteEntry {
            generation: sample_generation("shop", 1, "r.example.com/shop@sha256:a", "{}"),
            live: 10_000,
            lead: true,
        };
        let answer = plugin.route(&options, &[entry]).await.answer;
        assert_eq!(*wire.0.lock().unwrap(), reached, "{wanted} {granted}");
        match answer {
            Ok(_) => assert_eq!(reached.len(), 2),
            Err(CallFailure::Fault(fault)) => assert_eq!((fault.class, reached.len() < 2), (FaultClass::Denied, true)),
            Err(failure) => panic!("{failure:?}"),
        }
    }
}

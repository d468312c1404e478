//! What a plugin call costs: `cargo bench -p holdfast --bench plugin_call`. Each is a fresh instance of the built-in edge
//! plugin; `observe` also asks a real site over loopback TCP, `check` asks nobody.

#[path = "../tests/edge_node/site.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod site;

use holdfast::{builtin, operator};
use holdfast_core::target::{Artifact, CallContext, Generation};
use holdfast_host::{CallOptions, Limits, PluginHost};
use site::{HOST, Site};
use std::time::{Duration, Instant};

const CALLS: usize = 5_000;

fn report(what: &str, mut took_us: Vec<f64>) {
    took_us.sort_by(f64::total_cmp);
    let at = |share: f64| took_us[((took_us.len() - 1) as f64 * share) as usize];
    println!(
        "{what}: {CALLS} calls, p50 {:.0} us, p99 {:.0} us, longest {:.0} us",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

#[allow(clippy::disallowed_methods, reason = "measures real time")]
fn main() {
    let site = Site::start();
    site.launch(1, 10, "r1", "1.0.0");
    site.reaches(1, "ready");
    let file = site.dir.path().join("holdfast.yaml");
    let yaml = format!(
        "repository: {{ url: x }}\ndata: data\nbindings:\n- target: site-a\n  plugin: edge\n  endpoints:\n    site: \
         {{ url: \"http://{}\", auth: {{ bearer_token_file: token }} }}\n",
        site.addresses.api
    );
    std::fs::write(&file, yaml).unwrap();
    let bindings = operator::load(&file).unwrap().bindings().unwrap();
    let host = PluginHost::new(Limits::default(), None).unwrap();
    let (_, bytes) = builtin::plugins().into_iter().find(|(name, _)| *name == "edge").unwrap();
    let begun = Instant::now();
    let plugin = host.load("edge", bytes).unwrap();
    println!("load (compile): {} ms", begun.elapsed().as_millis());
    let context = CallContext {
        owner: "me".into(),
        target: "site-a".into(),
        config: "{}".into(),
        fence: 0,
        deploy_id: "d1-1".into(),
        resume: None,
    };
    let options = CallOptions {
        binding: Some(bindings[0].1.clone()),
        context: &context,
        deadline: Duration::from_secs(20),
        now_ms: 0,
        secrets: &[],
    };
    let digest = site.digests["1.0.0"].clone();
    let subject = Generation {
        workload: "main/shop".into(),
        key: "shop".into(),
        name: "shop-g1".into(),
        number: 1,
        release_id: "r1".into(),
        artifacts: vec![Artifact {
            name: "main".into(),
            uri: format!("{HOST}/shop@{digest}"),
            digest,
            images: Vec::new(),
            payload: Vec::new(),
        }],
        template: "{}".into(),
        files: Vec::new(),
        secrets: Vec::new(),
        stamps: Vec::new(),
        drain_ms: 0,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut checks, mut observes) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        for _ in 0..CALLS {
            let begun = Instant::now();
            plugin.check(&options, &subject).await.answer.unwrap();
            checks.push(begun.elapsed().as_secs_f64() * 1e6);
            let begun = Instant::now();
            plugin.observe(&options, None).await.answer.unwrap();
            observes.push(begun.elapsed().as_secs_f64() * 1e6);
        }
    });
    report("check", checks);
    report("observe, with its HTTP request", observes);
}

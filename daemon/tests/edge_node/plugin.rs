//! The built-in edge plugin against a real site, under the rules that a binding of it gets by itself.

use crate::site::{HOST, Site, until};
use holdfast::{builtin, operator};
use holdfast_core::target::{Artifact, CallContext, FaultClass, FileBody, Generation, Progress, RouteEntry, Secret};
use holdfast_host::{Binding, CallFailure, CallOptions, CallReport, Limits, Plugin, PluginHost};
use std::sync::Arc;
use std::time::Duration;

struct Driver {
    site: Site,
    plugin: Plugin,
    binding: Arc<Binding>,
    runtime: tokio::runtime::Runtime,
}

fn generation(site: &Site, number: u32, bundle: &str, template: &str) -> Generation {
    let digest = site.digests[bundle].clone();
    Generation {
        workload: "main/shop".into(),
        key: "shop".into(),
        name: format!("shop-g{number}"),
        number,
        release_id: format!("r{number}"),
        artifacts: vec![Artifact {
            name: "main".into(),
            uri: format!("{HOST}/shop@{digest}"),
            digest,
            images: Vec::new(),
            payload: Vec::new(),
        }],
        template: template.into(),
        files: Vec::new(),
        secrets: Vec::new(),
        stamps: Vec::new(),
        drain_ms: 100,
    }
}

impl Driver {
    fn new() -> Self {
        let site = Site::start_with(&["--max-instances", "3"]);
        let yaml = format!(
            "repository: {{ url: x, branch: main }}\ndata: data\nbindings:\n- target: site-a\n  plugin: edge\n  endpoints:\n    site: \
             {{ url: \"http://{}\", auth: {{ bearer_token_file: token }} }}\n",
            site.addresses.api
        );
        let file = site.dir.path().join("holdfast.yaml");
        std::fs::write(&file, yaml).unwrap();
        let bindings = operator::load(&file).unwrap().bindings().unwrap();
        let host = PluginHost::new(Limits::default(), None).unwrap();
        let (_, bytes) = builtin::plugins().into_iter().find(|(name, _)| *name == "edge").unwrap();
        Self {
            site,
            plugin: host.load("edge", bytes).unwrap(),
            binding: bindings[0].1.clone(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
        }
    }

    /// One call under a fence.
    fn call<T>(&self, fence: u64, call: impl AsyncFnOnce(&Plugin, &CallOptions<'_>) -> CallReport<T>) -> Result<T, CallFailure> {
        let context = CallContext {
            owner: "me".into(),
            target: "site-a".into(),
            config: "{}".into(),
            fence,
            deploy_id: format!("d{fence}"),
            resume: None,
        };
        let options = CallOptions {
            binding: Some(self.binding.clone()),
            context: &context,
            deadline: Duration::from_secs(20),
            now_ms: 0,
            secrets: &[],
        };
        self.runtime.block_on(call(&self.plugin, &options)).answer
    }

    /// Until it is no longer pending.
    fn run(&self, fence: u64, subject: &Generation, job: &str, template: &str) -> Result<Progress, CallFailure> {
        until("the job", || {
            let answer = self.call(fence, async |plugin, options| {
                plugin.run(options, subject, job, template).await
            });
            (!matches!(answer, Ok(Progress::Pending { .. }))).then_some(answer)
        })
    }
}

#[test]
fn jobs_room_diff_and_parking_through_the_plugin() {
    let driver = Driver::new();
    let subject = generation(&driver.site, 1, "hostile", r#"{"concurrency":4}"#);
    let problems = driver.call(0, async |plugin, options| {
        plugin
            .check_job(options, &subject, "m", r#"{"path":"x","timeout":"soon"}"#)
            .await
    });
    let places: Vec<String> = problems.unwrap().into_iter().map(|problem| problem.at).collect();
    assert_eq!(places, ["/template/path", "/template/timeout"]);
    let wanting = Generation {
        files: vec![FileBody {
            path: "app.toml".into(),
            body: Vec::new(),
        }],
        secrets: vec![Secret {
            name: "db".into(),
            version: "7".into(),
            marker: "m".into(),
            marker_base64: "b".into(),
        }],
        ..subject.clone()
    };
    let report = driver.call(0, async |plugin, options| plugin.check(options, &wanting).await);
    let places: Vec<String> = report.unwrap().problems.into_iter().map(|problem| problem.at).collect();
    assert_eq!(places, ["/files", "/secrets"], "nothing is left out in silence");

    assert_eq!(
        driver
            .run(10, &subject, "migrate", r#"{"path":"/migrate","timeout":"20s"}"#)
            .unwrap(),
        Progress::Done
    );
    let CallFailure::Fault(fault) = driver.run(11, &subject, "broken", r#"{"path":"/status/500"}"#).unwrap_err() else {
        panic!("no fault");
    };
    assert_eq!(fault.class, FaultClass::Failed);
    assert!(fault.message.contains("it answered 500"), "{}", fault.message);
    let CallFailure::Fault(fault) = driver.run(11, &subject, "wrong", r#"{"path":"x"}"#).unwrap_err() else {
        panic!("no fault");
    };
    assert_eq!(fault.class, FaultClass::Invalid);
    let stale = driver.call(3, async |plugin, options| {
        plugin.run(options, &subject, "m", r#"{"path":"/m"}"#).await
    });
    assert!(matches!(stale, Err(CallFailure::Fault(fault)) if fault.class == FaultClass::Fenced && fault.fence == Some(11)));

    let page = driver
        .call(0, async |plugin, options| plugin.observe(options, None).await)
        .unwrap();
    assert!(
        page.generations.is_empty() && page.routes.is_empty(),
        "jobs alone are nothing to route: {page:?}"
    );
    assert_eq!(page.high_fence, 11);
    let excerpts = driver
        .call(0, async |plugin, options| plugin.explain(options, &subject).await)
        .unwrap();
    let migrate = excerpts
        .iter()
        .find(|excerpt| excerpt.source == "job shop-g1-migrate")
        .unwrap();
    assert!(
        migrate.text.starts_with("done\n") && migrate.text.contains("/migrate done"),
        "{}",
        migrate.text
    );

    let room = |expected: u32| {
        let room = driver
            .call(0, async |plugin, options| plugin.room(options, &subject).await)
            .unwrap();
        assert_eq!(room, Some(expected));
    };
    let diff = |current: Option<&Generation>, wanted: &Generation| -> Vec<String> {
        let changes = driver
            .call(0, async |plugin, options| plugin.diff(options, current, wanted).await)
            .unwrap();
        changes.into_iter().map(|change| change.path).collect()
    };
    room(3);
    assert_eq!(diff(None, &subject), ["/digest", "/template/concurrency", "/size"]);
    until("the launch", || {
        let answer = driver
            .call(12, async |plugin, options| plugin.launch(options, &subject, 1).await)
            .unwrap();
        (answer == Progress::Done).then_some(())
    });
    driver.site.reaches(1, "ready");
    room(2);
    assert_eq!(diff(None, &subject), Vec::<String>::new());
    let next = generation(&driver.site, 2, "1.0.0", r#"{"concurrency":8}"#);
    assert_eq!(diff(Some(&subject), &next), ["/digest", "/template/concurrency"]);
    assert_eq!(
        diff(None, &generation(&driver.site, 1, "hostile", r#"{"concurrency":5}"#)),
        ["/template/concurrency"]
    );

    let parked = driver.call(13, async |plugin, options| plugin.scale(options, &subject, 0).await);
    assert_eq!(parked.unwrap(), Progress::Done);
    room(3);
    let page = driver
        .call(0, async |plugin, options| plugin.observe(options, None).await)
        .unwrap();
    let state = &page.generations[0];
    assert_eq!(
        (state.phase, state.proofs.len(), state.proofs[0].count),
        (holdfast_core::target::GenPhase::Parked, 2, 0)
    );
    assert!(state.instances.is_empty());
    let entries = [RouteEntry {
        generation: subject.clone(),
        live: 10_000,
        lead: true,
    }];
    let routed = driver.call(14, async |plugin, options| plugin.route(options, &entries).await);
    assert!(matches!(routed, Err(CallFailure::Fault(fault)) if fault.class == FaultClass::Conflict));
    let gone = driver.call(15, async |plugin, options| plugin.retire(options, &subject, true).await);
    assert_eq!(gone.unwrap(), Progress::Done);
    let page = driver
        .call(0, async |plugin, options| plugin.observe(options, None).await)
        .unwrap();
    assert!(page.generations.is_empty());
}

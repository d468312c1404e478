//! The built-in edge plugin over a site, under the rules that a binding of it gets by itself.

use crate::site::{HOST, Site, until};
use holdfast::{builtin, operator};
use holdfast_core::target::{Artifact, CallContext, Generation, Progress};
use holdfast_host::{Binding, CallFailure, CallOptions, CallReport, Limits, Plugin, PluginHost};
use std::sync::Arc;
use std::time::Duration;

pub struct Driver {
    pub site: Site,
    plugin: Plugin,
    binding: Arc<Binding>,
    runtime: tokio::runtime::Runtime,
}

pub fn generation(site: &Site, number: u32, bundle: &str, template: &str) -> Generation {
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
    pub fn new() -> Self {
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
    pub fn call<T>(
        &self,
        fence: u64,
        call: impl AsyncFnOnce(&Plugin, &CallOptions<'_>) -> CallReport<T>,
    ) -> Result<T, CallFailure> {
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
            artifacts: None,
        };
        self.runtime.block_on(call(&self.plugin, &options)).answer
    }

    /// Until it is no longer pending.
    pub fn run(&self, fence: u64, subject: &Generation, job: &str, template: &str) -> Result<Progress, CallFailure> {
        until("the job", || {
            let answer = self.call(fence, async |plugin, options| {
                plugin.run(options, subject, job, template).await
            });
            (!matches!(answer, Ok(Progress::Pending { .. }))).then_some(answer)
        })
    }
}

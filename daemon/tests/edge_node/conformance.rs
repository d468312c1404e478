//! The conformance kit over the built-in edge plugin, on real sites.

use crate::site::{HOST, Site};
use holdfast::builtin;
use holdfast_core::target::Artifact;
use holdfast_host::{AuthConfig, Binding, BindingConfig, EndpointConfig, Limits, PluginHost, Sending, Wire, WireRequest};
use holdfast_testkit::{Lab, Observed, Subjects, run};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Two sites that take turns: the kit compares at most two targets at a time. A new target is one of them, emptied.
struct Sites {
    sites: Mutex<(usize, [Site; 2])>,
    subjects: Subjects,
}

impl Sites {
    fn new() -> Self {
        let sites = [Site::start(), Site::start()];
        let artifact = |version: &str| {
            let digest = sites[0].digests[version].clone();
            Artifact {
                name: "main".into(),
                uri: format!("{HOST}/shop@{digest}"),
                digest,
                images: Vec::new(),
                payload: Vec::new(),
            }
        };
        let observed = Observed {
            digest: vec!["digests".into()],
            shares: vec!["shares".into()],
        };
        let subjects = Subjects {
            config: "{}".into(),
            template: "{}".into(),
            artifacts: [artifact("1.0.0"), artifact("1.1.0")],
            observed,
        };
        Self {
            sites: Mutex::new((0, sites)),
            subjects,
        }
    }
}

impl Lab for Sites {
    fn fresh(&self) -> Arc<dyn Wire> {
        let mut sites = self.sites.lock().unwrap();
        let (turn, sites) = &mut *sites;
        *turn += 1;
        let site = &mut sites[*turn % 2];
        site.kill();
        std::fs::remove_dir_all(site.dir.path().join("site")).unwrap();
        site.run();
        let mut endpoint = EndpointConfig::new(&format!("http://{}", site.addresses.api));
        endpoint.auth = Some(AuthConfig {
            bearer_token_file: Some(site.dir.path().join("token")),
            basic: None,
        });
        let config = BindingConfig {
            endpoints: [("site".to_owned(), endpoint)].into(),
            probe_networks: Vec::new(),
        };
        Arc::new(Real(Binding::new(&config).unwrap()))
    }

    fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    fn crowd(&self) -> u32 {
        8
    }
}

struct Real(Binding);

impl Wire for Real {
    fn send<'a>(&'a self, request: &'a WireRequest) -> Sending<'a> {
        Box::pin(self.0.exchange(request, Duration::from_secs(10)))
    }
}

#[test]
fn the_edge_plugin_keeps_every_promise() {
    let sites = Sites::new();
    let host = PluginHost::new(Limits::default(), None).unwrap();
    let (_, bytes) = builtin::plugins().into_iter().find(|(name, _)| *name == "edge").unwrap();
    let plugin = host.load("edge", bytes).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(run(&plugin, &sites, &[]));
    assert!(report.is_good(), "{}", report.text());
    assert!(report.text().contains("15 passed"), "nothing is left out: {}", report.text());
}

//! A site in a directory of its own, and the requests that drive it.

use holdfast::builtin;
use holdfast_edge_node::{Addresses, JournalLine};
use holdfast_registry::layout::Writer;
use reqwest::Method;
use reqwest::blocking::Client;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const HOST: &str = "bundles.example.com";

pub struct Site {
    pub dir: tempfile::TempDir,
    child: Option<Child>,
    pub addresses: Addresses,
    pub client: Client,
    pub digests: BTreeMap<&'static str, String>,
    /// Arguments beyond those that every site has.
    more: Vec<String>,
    pub scheme: &'static str,
}

/// Polls until something is there; a test that waits in vain fails.
#[allow(clippy::disallowed_methods, reason = "waits in real time")]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Site {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments.
    pub fn start_with(more: &[&str]) -> Self {
        let mut site = Self::prepare();
        site.run_with(more.iter().copied());
        site
    }

    /// `--no-token` leaves out the token file.
    pub fn run_with<'a>(&mut self, more: impl IntoIterator<Item = &'a str>) {
        self.more = more.into_iter().map(str::to_owned).collect();
        self.run();
    }

    pub fn prepare() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let layout = Writer::create(&dir.path().join("bundles/shop")).unwrap();
        let mut digests: BTreeMap<&'static str, String> = builtin::bundles()
            .into_iter()
            .map(|(version, bytes)| (version, layout.component(bytes).unwrap()))
            .collect();
        digests.insert("no component", layout.component(b"not wasm").unwrap());
        let hostile = std::fs::read(env!("HOLDFAST_GUEST_HOSTILE_BUNDLE")).unwrap();
        digests.insert("hostile", layout.component(&hostile).unwrap());
        digests.insert("missing", format!("sha256:{}", "0".repeat(64)));
        std::fs::write(dir.path().join("token"), "secret-token").unwrap();
        let registries = format!("- {{ host: {HOST}, layout: {} }}\n", dir.path().join("bundles").display());
        std::fs::write(dir.path().join("registries.yaml"), registries).unwrap();
        let nowhere = "127.0.0.1:1".parse().unwrap();
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        Self {
            dir,
            child: None,
            addresses: Addresses {
                api: nowhere,
                listen: nowhere,
            },
            client,
            digests,
            more: Vec::new(),
            scheme: "http",
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("site").join(name)
    }

    pub fn run(&mut self) {
        let _ = std::fs::remove_file(self.path("addresses.json"));
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let mut args = vec![
            "edge-node",
            "--dir",
            "site",
            "--api",
            "127.0.0.1:0",
            "--listen",
            "127.0.0.1:0",
            "--registries",
            "registries.yaml",
        ];
        if !self.more.iter().any(|argument| argument == "--no-token") {
            args.extend(["--token-file", "token"]);
        }
        let more = self.more.iter().filter(|argument| *argument != "--no-token");
        let child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(args)
            .args(more)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
        let file = self.path("addresses.json");
        self.addresses = until("a site that listens", || {
            serde_json::from_slice(&std::fs::read(&file).ok()?).ok()
        });
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn send(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let url = format!("{}://{}{path}", self.scheme, self.addresses.api);
        let response = self
            .client
            .request(method, url)
            .bearer_auth("secret-token")
            .body(body.to_string())
            .send()
            .unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().unwrap()).unwrap_or_default())
    }

    pub fn launch(&self, number: u32, fence: u64, release: &str, bundle: &str) -> (u16, Value) {
        let body = json!({
            "owner": "me", "fence": fence, "deploy_id": format!("d1-{fence}"), "workload": "main/shop", "name": format!("shop-g{number}"),
            "release_id": release, "artifact": "main", "source": format!("{HOST}/shop"), "digest": self.digests[bundle],
            "template": { "timeout_ms": 1000, "concurrency": 4 }, "drain_ms": 100, "size": 1,
        });
        self.send(Method::PUT, &format!("/v1/workloads/shop/generations/{number}"), body)
    }

    /// A job of a generation, of release `r` and its number.
    pub fn job(&self, number: u32, fence: u64, bundle: &str, job: &str, request: Value) -> (u16, Value) {
        let body = json!({
            "owner": "me", "fence": fence, "deploy_id": format!("d1-{fence}"), "workload": "main/shop", "name": format!("shop-g{number}"),
            "release_id": format!("r{number}"), "artifact": "main", "source": format!("{HOST}/shop"), "digest": self.digests[bundle],
            "template": { "memory_mib": 32 }, "job": request,
        });
        self.send(
            Method::PUT,
            &format!("/v1/workloads/shop/generations/{number}/jobs/{job}"),
            body,
        )
    }

    pub fn size(&self, number: u32, fence: u64, size: u32) -> (u16, Value) {
        let body = json!({ "owner": "me", "fence": fence, "deploy_id": "d1-1", "size": size });
        self.send(Method::PUT, &format!("/v1/workloads/shop/generations/{number}/size"), body)
    }

    pub fn route(&self, fence: u64, shares: Value) -> (u16, Value) {
        self.send(
            Method::PUT,
            "/v1/workloads/shop/route",
            json!({ "owner": "me", "fence": fence, "deploy_id": "d1-1", "shares": shares }),
        )
    }

    pub fn retire(&self, number: u32, fence: u64, last: bool) -> (u16, Value) {
        let body = json!({ "owner": "me", "fence": fence, "deploy_id": "d1-1", "last": last });
        self.send(Method::DELETE, &format!("/v1/workloads/shop/generations/{number}"), body)
    }

    pub fn generation(&self, number: u32) -> Option<Value> {
        let (_, site) = self.send(Method::GET, "/v1/site", Value::Null);
        let generations = site["workloads"][0]["generations"].as_array()?.clone();
        generations.into_iter().find(|one| one["number"] == number)
    }

    pub fn reaches(&self, number: u32, phase: &str) -> Value {
        until(&format!("generation {number} {phase}"), || {
            self.generation(number).filter(|one| one["phase"] == phase)
        })
    }

    /// Status and generation of one answer.
    pub fn get(&self) -> (u16, u32) {
        let response = self.client.get(format!("http://{}/", self.addresses.listen)).send().unwrap();
        let generation = response
            .headers()
            .get("x-holdfast-generation")
            .map_or(0, |value| value.to_str().unwrap().parse().unwrap());
        (response.status().as_u16(), generation)
    }

    pub fn journal(&self) -> Vec<JournalLine> {
        let text = std::fs::read_to_string(self.path("journal.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
    }
}

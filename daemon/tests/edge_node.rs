//! An edge site as a process of its own, over real HTTP: weights, fences, owners, idempotence, bad bundles, and SIGKILL.

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

const HOST: &str = "bundles.example.com";

struct Site {
    dir: tempfile::TempDir,
    child: Option<Child>,
    addresses: Addresses,
    client: Client,
    digests: BTreeMap<&'static str, String>,
}

/// Polls until something is there; a test that waits in vain fails.
#[allow(clippy::disallowed_methods, reason = "waits in real time")]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
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
    fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let layout = Writer::create(&dir.path().join("bundles/shop")).unwrap();
        let mut digests: BTreeMap<&'static str, String> = builtin::bundles()
            .into_iter()
            .map(|(version, bytes)| (version, layout.component(bytes).unwrap()))
            .collect();
        digests.insert("no component", layout.component(b"not wasm").unwrap());
        digests.insert("missing", format!("sha256:{}", "0".repeat(64)));
        std::fs::write(dir.path().join("token"), "secret-token").unwrap();
        let registries = format!("- {{ host: {HOST}, layout: {} }}\n", dir.path().join("bundles").display());
        std::fs::write(dir.path().join("registries.yaml"), registries).unwrap();
        let nowhere = "127.0.0.1:1".parse().unwrap();
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        let mut site = Self {
            dir,
            child: None,
            addresses: Addresses {
                api: nowhere,
                listen: nowhere,
            },
            client,
            digests,
        };
        site.run();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("site").join(name)
    }

    fn run(&mut self) {
        let _ = std::fs::remove_file(self.path("addresses.json"));
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let args = [
            "edge-node",
            "--dir",
            "site",
            "--token-file",
            "token",
            "--api",
            "127.0.0.1:0",
            "--listen",
            "127.0.0.1:0",
            "--registries",
            "registries.yaml",
        ];
        let child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(args)
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
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn send(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let url = format!("http://{}{path}", self.addresses.api);
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

    fn launch(&self, number: u32, fence: u64, release: &str, bundle: &str) -> (u16, Value) {
        let body = json!({
            "owner": "me", "fence": fence, "deploy_id": format!("d1-{fence}"), "workload": "main/shop", "name": format!("shop-g{number}"),
            "release_id": release, "artifact": "main", "source": format!("{HOST}/shop"), "digest": self.digests[bundle],
            "template": { "timeout_ms": 1000, "concurrency": 4 }, "drain_ms": 100, "size": 1,
        });
        self.send(Method::PUT, &format!("/v1/workloads/shop/generations/{number}"), body)
    }

    fn route(&self, fence: u64, shares: Value) -> (u16, Value) {
        self.send(
            Method::PUT,
            "/v1/workloads/shop/route",
            json!({ "owner": "me", "fence": fence, "deploy_id": "d1-1", "shares": shares }),
        )
    }

    fn retire(&self, number: u32, fence: u64, last: bool) -> (u16, Value) {
        let body = json!({ "owner": "me", "fence": fence, "deploy_id": "d1-1", "last": last });
        self.send(Method::DELETE, &format!("/v1/workloads/shop/generations/{number}"), body)
    }

    fn generation(&self, number: u32) -> Option<Value> {
        let (_, site) = self.send(Method::GET, "/v1/site", Value::Null);
        let generations = site["workloads"][0]["generations"].as_array()?.clone();
        generations.into_iter().find(|one| one["number"] == number)
    }

    fn reaches(&self, number: u32, phase: &str) -> Value {
        until(&format!("generation {number} {phase}"), || {
            self.generation(number).filter(|one| one["phase"] == phase)
        })
    }

    /// Status and generation of one answer.
    fn get(&self) -> (u16, u32) {
        let response = self.client.get(format!("http://{}/", self.addresses.listen)).send().unwrap();
        let generation = response
            .headers()
            .get("x-holdfast-generation")
            .map_or(0, |value| value.to_str().unwrap().parse().unwrap());
        (response.status().as_u16(), generation)
    }

    fn journal(&self) -> Vec<JournalLine> {
        let text = std::fs::read_to_string(self.path("journal.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn traffic_follows_the_weights() {
    let site = Site::start();
    site.launch(1, 10, "r1", "1.0.0");
    site.launch(2, 11, "r2", "1.1.0");
    let ready = site.reaches(1, "ready");
    assert_eq!(ready["digests"][0], site.digests["1.0.0"].as_str());
    site.reaches(2, "ready");
    assert_eq!(site.get().0, 503, "nothing is live yet");
    assert_eq!(site.route(12, json!({ "1": 9_000, "2": 1_000 })).0, 200);
    let answers: Vec<(u16, u32)> = (0..1_000).map(|_| site.get()).collect();
    assert!(answers.iter().all(|(status, _)| *status == 200));
    assert_eq!(answers.iter().filter(|(_, generation)| *generation == 2).count(), 100);
    let (_, telemetry) = site.send(Method::GET, "/v1/workloads/shop/generations/2/telemetry", Value::Null);
    assert_eq!(
        (&telemetry["requests_total"], &telemetry["errors_total"]),
        (&100.into(), &0.into())
    );
    // Its own address answers beside, and is not counted.
    let address = site.reaches(2, "ready")["address"].as_str().unwrap().to_owned();
    assert_eq!(
        site.client
            .get(format!("http://{address}/healthz"))
            .send()
            .unwrap()
            .status()
            .as_u16(),
        200
    );
    let (_, after) = site.send(Method::GET, "/v1/workloads/shop/generations/2/telemetry", Value::Null);
    assert_eq!(after["requests_total"], 100);
}

#[test]
fn refusals_have_a_class() {
    let site = Site::start();
    site.launch(1, 10, "r1", "1.0.0");
    site.reaches(1, "ready");
    site.route(11, json!({ "1": 10_000 }));
    let foreign = json!({ "owner": "other", "fence": 99, "deploy_id": "x", "shares": {} });
    for (what, (status, answer), expected, class) in [
        ("stale fence", site.route(10, json!({ "1": 10_000 })), 409, "fenced"),
        (
            "foreign owner",
            site.send(Method::PUT, "/v1/workloads/shop/route", foreign),
            409,
            "conflict",
        ),
        ("other release", site.launch(1, 12, "r9", "1.0.0"), 409, "conflict"),
        ("sum", site.route(12, json!({ "1": 5_000 })), 400, "invalid"),
        ("unknown generation", site.route(12, json!({ "7": 10_000 })), 404, "absent"),
        ("retire what is live", site.retire(1, 12, false), 409, "conflict"),
        (
            "malformed",
            site.send(Method::PUT, "/v1/workloads/shop/route", json!("x")),
            400,
            "invalid",
        ),
        ("unknown path", site.send(Method::GET, "/v1/nope", Value::Null), 404, "absent"),
    ] {
        assert_eq!(
            (status, answer["error"]["class"].as_str()),
            (expected, Some(class)),
            "{what}: {answer}"
        );
    }
    assert_eq!(site.route(10, json!({})).1["error"]["fence"], 11, "the higher fence is named");
    let url = format!("http://{}/v1/site", site.addresses.api);
    assert_eq!(site.client.get(&url).send().unwrap().status().as_u16(), 401);
    assert_eq!(
        site.client
            .get(&url)
            .bearer_auth("wrong-token")
            .send()
            .unwrap()
            .status()
            .as_u16(),
        401
    );
    assert_eq!(site.get(), (200, 1), "none of it touched what runs");
}

#[test]
fn bad_bundles_are_told_apart() {
    let site = Site::start();
    site.launch(1, 10, "r1", "no component");
    site.launch(2, 11, "r2", "missing");
    // The release is to blame for one, and not for the other.
    assert_eq!(site.reaches(1, "failing")["reason"], "bundle-invalid");
    assert_eq!(site.reaches(2, "stuck")["reason"], "pull-failed");
    let (_, diagnosis) = site.send(Method::GET, "/v1/workloads/shop/generations/2/diagnosis", Value::Null);
    assert!(
        diagnosis["message"].as_str().unwrap().contains("is not in the layout"),
        "{diagnosis}"
    );
    assert_eq!(site.retire(1, 12, false).0, 200);
    assert_eq!(site.retire(2, 13, true).0, 200);
    assert!(site.generation(1).is_none() && site.generation(2).is_none());
    assert_eq!(site.retire(2, 13, true).0, 200, "what is gone is gone");
}

#[test]
fn repeats_are_one_effect_and_kills_forget_nothing() {
    let mut site = Site::start();
    let mut fence = 10;
    for round in 0..6u32 {
        let number = round + 1;
        for _ in 0..2 {
            let (status, answer) = site.launch(number, fence, &format!("r{number}"), "1.0.0");
            assert!(matches!(status, 200 | 202), "{answer}");
        }
        if round % 2 == 0 {
            // In the middle of the pull, or just after it.
            site.kill();
            site.run();
        }
        site.reaches(number, "ready");
        let shares = json!({ number.to_string(): 10_000 });
        assert_eq!(site.route(fence + 1, shares.clone()).0, 200);
        site.kill();
        site.run();
        assert_eq!(site.route(fence + 1, shares).0, 200, "the same fence repeats");
        until("an answer after the kill", || (site.get() == (200, number)).then_some(()));
        if round > 0 {
            assert_eq!(
                until("the drain", || Some(site.retire(number - 1, fence + 2, false).0)
                    .filter(|status| *status == 200)),
                200
            );
        }
        fence += 3;
    }
    let lines = site.journal();
    let mut fences: Vec<u64> = lines.iter().map(|line| line.fence).collect();
    let count = fences.len();
    fences.dedup();
    assert_eq!(fences.len(), count, "each fence has one effect: {lines:?}");
    assert_eq!(lines.iter().filter(|line| line.verb == "launch").count(), 6);
}

#[test]
fn a_damaged_state_is_said() {
    let mut site = Site::start();
    site.launch(1, 10, "r1", "1.0.0");
    site.kill();
    std::fs::write(site.path("state.json"), "{ not json").unwrap();
    let log = std::fs::File::create(site.dir.path().join("log")).unwrap();
    let args = [
        "edge-node",
        "--dir",
        "site",
        "--token-file",
        "token",
        "--api",
        "127.0.0.1:0",
        "--listen",
        "127.0.0.1:0",
        "--registries",
        "registries.yaml",
    ];
    let status = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(args)
        .current_dir(site.dir.path())
        .stderr(log)
        .status()
        .unwrap();
    let said = std::fs::read_to_string(site.dir.path().join("log")).unwrap();
    assert!(
        !status.success() && said.contains("state.json of the edge node is damaged"),
        "{said}"
    );
}

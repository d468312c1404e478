//! A small world of real processes: a Git repository, an image layout, an edge site, a daemon, and the command line.

use holdfast::builtin;
use holdfast_core::entry::Entry;
use holdfast_edge_node::{Addresses, JournalLine};
use holdfast_ledger::{Ledger, Options};
use holdfast_registry::layout::Writer;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use ssh_key::{HashAlg, LineEnding, PrivateKey};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub const HOST: &str = "bundles.example.com";
pub const SITE: &str = "site-a";
const PROBED: &str = "    probe_networks: [ 127.0.0.0/8 ]\n";

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

pub struct Lab {
    pub dir: tempfile::TempDir,
    pub digests: BTreeMap<&'static str, String>,
    site: Option<Child>,
    daemon: Option<Child>,
    listen: String,
}

/// Polls until something is there; a test that waits in vain fails.
#[allow(clippy::disallowed_methods, reason = "waits in real time")]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How a shop is rolled out.
pub struct Shop {
    pub tag: &'static str,
    pub timeout_ms: u32,
    /// Of the step at 10 %.
    pub hold: &'static str,
}

impl Shop {
    pub fn text(&self) -> String {
        let Shop { tag, timeout_ms, hold } = self;
        format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: shop }}\nspec:\n  artifacts: {{ main: \"{HOST}/shop:{tag}\" }}\n  placement: {{ targets: {{ names: [ {SITE} ] }} }}\n  template: {{ timeout_ms: {timeout_ms} }}\n  strategy:\n    canary: {{ steps: [ {{ weight: 10%, hold: {hold} }}, {{ weight: 100% }} ] }}\n  health: {{ timeout: 2s, interval: 100ms, stable: 300ms, http: {{ path: /healthz }} }}\n  drain: 100ms\n"
        )
    }
}

pub fn shop(tag: &'static str, hold: &'static str) -> Shop {
    Shop {
        tag,
        timeout_ms: 1_000,
        hold,
    }
}

impl Lab {
    /// Everything but the daemon.
    pub fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let layout = Writer::create(&dir.path().join("bundles/shop")).unwrap();
        let mut digests = BTreeMap::new();
        for (version, bytes) in builtin::bundles() {
            let digest = layout.component(bytes).unwrap();
            layout.tag(version, &digest).unwrap();
            digests.insert(version, digest);
        }
        let mut options = git2::RepositoryInitOptions::new();
        options.initial_head("main");
        git2::Repository::init_opts(dir.path().join("repo"), &options).unwrap();
        std::fs::write(dir.path().join("token"), "secret-token").unwrap();
        let registries = format!("- {{ host: {HOST}, layout: {} }}\n", dir.path().join("bundles").display());
        std::fs::write(dir.path().join("registries.yaml"), registries).unwrap();
        let mut lab = Self {
            dir,
            digests,
            site: None,
            daemon: None,
            listen: String::new(),
        };
        lab.start_site();
        lab
    }

    /// With a daemon, and 1.0.0 live.
    pub fn serving() -> (Self, String) {
        let mut lab = Self::new();
        lab.run(&[]);
        let commit = lab.commit(&[("shop.yaml", &shop("1.0.0", "100ms").text())]);
        let waited = lab.cli(&["status", "--wait", &commit]);
        assert_eq!(waited.code, 0, "{}{}", waited.out, waited.err);
        assert_eq!(lab.answer(), "shop 1.0.0");
        (lab, commit)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spawn(&self, name: &str, args: &[&str], env: &[(&str, &str)]) -> Child {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(&format!("{name}.log")))
            .unwrap();
        Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(args)
            .current_dir(self.dir.path())
            .env_remove("NOTIFY_SOCKET")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn start_site(&mut self) {
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
            "--log-format",
            "json",
        ];
        self.site = Some(self.spawn("site", &args, &[]));
        let file = self.path("site/addresses.json");
        let addresses: Addresses = until("a site that listens", || {
            serde_json::from_slice(&std::fs::read(&file).ok()?).ok()
        });
        self.listen = addresses.listen.to_string();
        self.configure(addresses, PROBED);
    }

    fn configure(&self, addresses: Addresses, probed: &str) {
        let text = format!(
            "repository: {{ url: repo, branch: main, interval: 60s }}\ndata: data\ntag_poll: 60s\nregistries:\n  - {{ host: {HOST}, layout: bundles }}\nbindings:\n  - target: {SITE}\n    plugin: edge\n    endpoints: {{ site: {{ url: \"http://{}\", auth: {{ bearer_token_file: token }} }} }}\n{probed}",
            addresses.api
        );
        std::fs::write(self.path("holdfast.yaml"), text).unwrap();
    }

    /// The operator grants no network for health probes.
    pub fn grant_no_probes(&self) {
        let text = std::fs::read_to_string(self.path("holdfast.yaml")).unwrap();
        std::fs::write(self.path("holdfast.yaml"), text.replace(PROBED, "")).unwrap();
    }

    /// Starts the daemon and waits until it is ready.
    pub fn run(&mut self, env: &[(&str, &str)]) {
        self.start(env);
        until("a daemon that is ready", || {
            let ran = self.cli(&["status", "--json"]);
            (ran.code == 0 && ran.json()["state"] == "ready").then_some(())
        });
    }

    /// Starts the daemon.
    pub fn start(&mut self, env: &[(&str, &str)]) {
        let args = [
            "run",
            "--log-format",
            "json",
            "--log",
            "info,holdfast=debug,holdfast_host=debug",
        ];
        self.daemon = Some(self.spawn("daemon", &args, env));
    }

    /// SIGKILL.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    pub fn signal_daemon(&self, signal: Signal) {
        signal_to(self.daemon.as_ref().unwrap(), signal);
    }

    pub fn signal_site(&self, signal: Signal) {
        signal_to(self.site.as_ref().unwrap(), signal);
    }

    /// Waits until the daemon has ended by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().unwrap();
        until("a daemon that ends", || daemon.try_wait().unwrap())
    }

    pub fn cli(&self, args: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ran {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// A command that must be taken.
    pub fn command(&self, args: &[&str]) -> String {
        let ran = self.cli(args);
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
        ran.out
    }

    /// Only what this key signs is taken.
    pub fn require_signatures_of(&self, key: &PrivateKey) {
        let line = format!("test@localhost {}\n", key.public_key().to_openssh().unwrap());
        std::fs::write(self.path("allowed-signers"), line).unwrap();
        let text = std::fs::read_to_string(self.path("holdfast.yaml")).unwrap();
        let trust = "branch: main, trust: { require: signed, allowed_signers_file: allowed-signers }";
        std::fs::write(self.path("holdfast.yaml"), text.replace("branch: main", trust)).unwrap();
    }

    /// Commits files beside the target's manifest.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        self.commit_signed(files, None)
    }

    pub fn commit_signed(&self, files: &[(&str, &str)], key: Option<&PrivateKey>) -> String {
        let target =
            format!("apiVersion: holdfast.dev/v1alpha1\nkind: Target\nmetadata: {{ name: {SITE} }}\nspec: {{ plugin: edge }}\n");
        let root = self.path("repo");
        let repository = git2::Repository::open(&root).unwrap();
        let mut index = repository.index().unwrap();
        for (name, text) in files.iter().copied().chain([("target.yaml", target.as_str())]) {
            std::fs::write(root.join(name), text).unwrap();
            index.add_path(std::path::Path::new(name)).unwrap();
        }
        index.write().unwrap();
        let tree = repository.find_tree(index.write_tree().unwrap()).unwrap();
        let who = git2::Signature::now("test", "test@localhost").unwrap();
        let parent = repository.head().ok().and_then(|head| head.peel_to_commit().ok());
        let parents: Vec<_> = parent.iter().collect();
        let content = repository
            .commit_create_buffer(&who, &who, "a change", &tree, &parents)
            .unwrap();
        let commit = match key {
            Some(key) => {
                let signature = key.sign("git", HashAlg::Sha512, &content).unwrap();
                let (text, signature) = (content.as_str().unwrap(), signature.to_pem(LineEnding::LF).unwrap());
                repository.commit_signed(text, &signature, None).unwrap()
            }
            None => repository.odb().unwrap().write(git2::ObjectType::Commit, &content).unwrap(),
        };
        repository.reference("refs/heads/main", commit, true, "a change").unwrap();
        commit.to_string()
    }

    /// Commits a shop and waits until its candidate has its first weight.
    pub fn commit_and_reach_first_weight(&self, shop: &Shop) -> String {
        let commit = self.commit(&[("shop.yaml", &shop.text())]);
        until("the first weight", || {
            let view = self.status();
            let wanted = view["workloads"][0]["wanted"]["commit"] == *commit;
            (wanted && view["workloads"][0]["units"][0]["attempt"]["weight"] == 1_000).then_some(())
        });
        commit
    }

    pub fn status(&self) -> Value {
        let ran = self.cli(&["status", "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.json()
    }

    pub fn becomes(&self, state: &str) {
        until(&format!("a rollout that is {state}"), || {
            let view = self.status();
            let workload = &view["workloads"][0];
            (workload["wanted"]["state"] == state && workload["units"][0]["attempt"].is_null()).then_some(())
        });
    }

    pub fn quarantined(&self) -> Vec<Value> {
        let ran = self.cli(&["quarantine", "list", "--json"]);
        ran.json().as_array().unwrap().clone()
    }

    /// What the site answers, without retries: it always has something that serves.
    pub fn answer(&self) -> String {
        let client = reqwest::blocking::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(10))
            .build()
            .unwrap();
        let response = client.get(format!("http://{}/", self.listen)).send().unwrap();
        response.text().unwrap().trim().to_owned()
    }

    pub fn entries(&self) -> Vec<Entry> {
        let (ledger, _) = Ledger::open_read_only(&self.path("data/ledger"), Options::default()).unwrap();
        let reader = ledger.reader();
        reader.entries(0, reader.size()).unwrap()
    }

    pub fn journal(&self) -> Vec<JournalLine> {
        let text = std::fs::read_to_string(self.path("site/journal.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn signal_to(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

impl Drop for Lab {
    fn drop(&mut self) {
        for mut child in [self.daemon.take(), self.site.take()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for name in ["daemon.log", "site.log"] {
                let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().filter(|line| !line.contains("DEBUG")).collect();
                eprintln!("== {name}\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            }
        }
    }
}

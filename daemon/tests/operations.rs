//! A daemon as a process of its own, under its operator's hands: health, metrics, a changed configuration, a rewritten
//! branch, a restart.

use git2::build::TreeUpdateBuilder;
use git2::{FileMode, Oid, Repository, Signature};
use holdfast::api::{Ask, FindBy, LedgerQuestion, ask};
use holdfast_core::engine::Wish;
use holdfast_core::entry::Precondition;
use holdfast_core::ids::Digest;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Polls until something is there; a test that waits in vain fails.
#[allow(clippy::disallowed_methods, reason = "waits in real time")]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Daemon {
    dir: tempfile::TempDir,
    repository: Repository,
    listen: SocketAddr,
    child: Option<Child>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Daemon {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago.
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let repository = Repository::init_bare(dir.path().join("env.git")).unwrap();
        Self {
            dir,
            repository,
            listen,
            child: None,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, more: &str) {
        let text = format!(
            "repository: {{ url: env.git, interval: 1h }}\ndata: data\nlisten: {}\n{more}",
            self.listen
        );
        std::fs::write(self.path("holdfast.yaml"), text).unwrap();
    }

    /// A commit that is now the branch.
    fn push(&self, parent: Option<&str>, file: (&str, &str)) -> String {
        let git = &self.repository;
        let parent = parent.map(|parent| git.find_commit(Oid::from_str(parent).unwrap()).unwrap());
        let base = match &parent {
            Some(parent) => parent.tree().unwrap(),
            None => git.find_tree(git.treebuilder(None).unwrap().write().unwrap()).unwrap(),
        };
        let blob = git.blob(file.1.as_bytes()).unwrap();
        let tree = TreeUpdateBuilder::new()
            .upsert(file.0, blob, FileMode::Blob)
            .create_updated(git, &base)
            .unwrap();
        let who = Signature::now("Ada", "ada@example.com").unwrap();
        let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
        let tree = git.find_tree(tree).unwrap();
        let commit = git.commit(None, &who, &who, "change", &tree, &parents).unwrap();
        git.reference("refs/heads/main", commit, true, "test").unwrap();
        commit.to_string()
    }

    fn start(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["--config", "holdfast.yaml", "run"])
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
        until("readiness", || (self.get("GET", "/readyz")?.0 == 200).then_some(()));
    }

    fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = until("the end", || child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }

    /// Status and body, when somebody listens.
    fn get(&self, method: &str, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.listen).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    fn ask(&self, request: &Ask) -> Value {
        ask(&self.path("data/holdfast.sock"), request).unwrap()
    }

    /// Digests of the plugins that the ledger has.
    fn plugins(&self) -> Vec<String> {
        let found = self.ask(&Ask::Ledger(LedgerQuestion::Find {
            keys: vec![(FindBy::Kind, "plugin".into())],
            before: None,
            limit: 100,
        }));
        let entries = found["entries"].as_array().unwrap().iter();
        entries
            .map(|entry| {
                assert_eq!(entry["blobs"]["component"], entry["body"]["digest"]);
                entry["body"]["digest"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    fn source(&self) -> Value {
        self.ask(&Ask::Status)["source"].clone()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }
}

const TARGET: &str = "apiVersion: holdfast.dev/v1alpha1\nkind: Target\nmetadata: { name: site-a }\nspec: { plugin: edge }\n";

#[test]
fn a_daemon_in_its_operators_hands() {
    let mut daemon = Daemon::new();
    let first = daemon.push(None, ("t.yaml", TARGET));
    daemon.configure("");
    daemon.start();

    assert_eq!(daemon.get("GET", "/healthz").unwrap(), (200, "alive\n".into()));
    assert_eq!(daemon.get("GET", "/other").unwrap().0, 404);
    assert_eq!(daemon.get("POST", "/metrics").unwrap().0, 405);
    let metrics = || daemon.get("GET", "/metrics").unwrap().1;
    let has = |line: &'static str| move |text: &str| text.lines().any(|one| one.starts_with(line)).then_some(());
    until("the target", || has("holdfast_targets{state=\"unseen\"} 1")(&metrics()));
    for line in [
        "holdfast_build_info{version=\"",
        "holdfast_ledger_entries_total ",
        "holdfast_git_last_success_age_seconds ",
    ] {
        has(line)(&metrics()).unwrap_or_else(|| panic!("no {line}"));
    }

    // The built-in plugin is in the ledger, and so is one that a changed configuration names.
    let built_in = holdfast::builtin::plugins();
    let edge = built_in[0].1;
    let mine = [edge, &[0, 2, 1, b'x']].concat();
    let digest = Digest::of(&mine).to_string();
    let expected: BTreeSet<String> = built_in.iter().map(|(_, bytes)| Digest::of(bytes).to_string()).collect();
    until("the built-in plugins", || {
        (daemon.plugins().into_iter().collect::<BTreeSet<_>>() == expected).then_some(())
    });
    std::fs::write(daemon.path("mine.wasm"), &mine).unwrap();
    let plugins = format!("plugins: {{ edge: {{ file: mine.wasm, digest: \"{digest}\" }} }}\n");
    daemon.configure(&plugins);
    until("the new plugin", || {
        (daemon.plugins().len() == built_in.len() + 1).then_some(())
    });
    assert!(daemon.plugins().contains(&digest));
    assert!(daemon.log().contains("the changed configuration is taken"));

    // A wrong one is refused with its place, and the old one goes on.
    daemon.configure("bindigs: []\n");
    until("the refusal", || daemon.log().contains("the old one goes on").then_some(()));
    assert!(daemon.log().contains("holdfast.yaml:4:1"), "{}", daemon.log());
    assert_eq!(daemon.get("GET", "/readyz").unwrap().0, 200);

    // A rewritten branch waits for a command, which is all that it takes.
    let second = daemon.push(Some(&first), ("notes", "1"));
    until("the push", || (daemon.source()["commit"] == second).then_some(()));
    let rewritten = daemon.push(None, ("t.yaml", TARGET));
    until("the rewrite", || (daemon.source()["rewrite"] == rewritten).then_some(()));
    assert_eq!(daemon.source()["commit"], second);
    let accept = |commit: &str| Ask::Command {
        workload: None,
        target: None,
        only_if: Precondition::default(),
        wish: Wish::AcceptRewrite {
            commit: commit.to_owned(),
        },
        reason: "tidied up".into(),
        key: "k".into(),
    };
    daemon.ask(&accept(&rewritten));
    until("the accepted tip", || (daemon.source()["commit"] == rewritten).then_some(()));
    assert_eq!(daemon.source()["rewrite"], Value::Null);
    assert!(!Path::new(&daemon.path("data/accepted-rewrite")).exists());

    // Nothing of it is written twice.
    daemon.configure(&plugins);
    daemon.stop();
    daemon.start();
    until("the index", || (daemon.plugins().len() == built_in.len() + 1).then_some(()));
    assert_eq!(daemon.source()["commit"], rewritten);
    daemon.stop();
}

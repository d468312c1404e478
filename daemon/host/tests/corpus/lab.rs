//! What the corpus is run in: a host, a server that answers badly, credentials that nobody may see, and a neighbour.

use crate::entry::{End, Entry, Harm};
use crate::guests::{Call, component, generation};
use crate::server::{Seen, Server, answer};
use holdfast_core::target::{Artifact, RouteEntry, Secret};
use holdfast_host::{Binding, BindingConfig, CallFailure, CallReport, Limits, Plugin, PluginHost, SecretValue};
use serde_json::{Value, json};
use std::fmt::Debug;
use std::io::Write;
use std::sync::{Arc, Mutex};

/// Each holds this, and so does whatever shows one.
const CANARY: &str = "canary-7f3a";
const MARKER: &str = "@@holdfast-secret-marker@@";
pub const REQUIRED_VERBS: [&str; 6] = ["check", "observe", "launch", "scale", "route", "retire"];
pub const VERBS: [&str; 12] = [
    "check",
    "observe",
    "launch",
    "scale",
    "route",
    "retire",
    "check-job",
    "run",
    "diff",
    "room",
    "telemetry",
    "explain",
];

pub struct Lab {
    host: PluginHost,
    hostile: Plugin,
    good: Plugin,
    binding: Arc<Binding>,
    logs: Lines,
    _dir: tempfile::TempDir,
    _elsewhere: Server,
    _server: Server,
    _guard: tracing::subscriber::DefaultGuard,
}

/// How a call ended, and everything of it that anybody sees.
pub struct SeenEnd {
    class: Option<&'static str>,
    shown: String,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// By path.
fn misbehave(seen: &Seen, elsewhere: &str) -> Vec<u8> {
    let path = seen.head.split(' ').nth(1).unwrap_or_default();
    let head = |more: &str| format!("HTTP/1.1 200 OK\r\n{more}\r\n").into_bytes();
    match path.trim_start_matches("/s/") {
        "echo" => answer(200, "text/plain", format!("{}\n{}", seen.head, seen.body).as_bytes()),
        "redirect" => format!("HTTP/1.1 302 X\r\nlocation: http://{elsewhere}/s/echo\r\ncontent-length: 0\r\n\r\n").into_bytes(),
        "downgrade" => b"HTTP/1.1 307 X\r\nlocation: file:///etc/passwd\r\ncontent-length: 0\r\n\r\n".to_vec(),
        "cookie" => b"HTTP/1.1 200 X\r\nset-cookie: s=1\r\ncontent-length: 0\r\n\r\n".to_vec(),
        "silent" => Vec::new(),
        "endless" => [
            head("transfer-encoding: chunked\r\n"),
            format!("10000\r\n{}\r\n", "x".repeat(65_536)).repeat(80).into(),
        ]
        .concat(),
        "claims" => head("content-length: 99999999999\r\n"),
        "short" => [head("content-length: 9\r\n"), b"short".to_vec()].concat(),
        "headers" => head(&format!("x: {}\r\n", "x".repeat(200_000))),
        "many-headers" => head(&"x: y\r\n".repeat(1_000)),
        "not-http" => b"not HTTP at all\r\n\r\n".to_vec(),
        // One that claims to be compressed is passed on as it is: nothing unpacks it.
        "gzip" => [
            head("content-encoding: gzip\r\ncontent-length: 4\r\n"),
            b"\x1f\x8b\x08\x00".to_vec(),
        ]
        .concat(),
        "both-lengths" => [head("content-length: 3\r\ncontent-length: 5\r\n"), b"abcde".to_vec()].concat(),
        "continues" => b"HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000),
        _ => answer(404, "text/plain", b"no such trick"),
    }
}

impl Lab {
    pub async fn new() -> Self {
        let logs = Lines::default();
        let writer = logs.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        let elsewhere = Server::start(|_| answer(200, "text/plain", b"elsewhere")).await;
        let other = elsewhere.address.to_string();
        let server = Server::start(move |seen| misbehave(seen, &other)).await;
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("{CANARY}-{name}\n")).unwrap();
            path
        };
        let config: BindingConfig = serde_json::from_value(json!({ "endpoints": { "a": {
            "url": format!("http://{}", server.address),
            "auth": { "bearer_token_file": file("token") },
            "registry_auth": [{ "registry": "r.example.com", "username": "u", "password_file": file("password") }],
            "rules": [
                { "effect": "read", "methods": ["GET"], "path": "/s/*" },
                { "effect": "write", "methods": ["POST"], "path": "/s/echo" },
                { "effect": "write", "methods": ["POST"], "path": "/s/echo?**" },
                { "effect": "write", "methods": ["PUT"], "path": "/of/{name}" },
            ],
        } } }))
        .unwrap();
        let host = PluginHost::new(Limits::default(), None).unwrap();
        Self {
            hostile: host.load("hostile", &component("holdfast-hostile-plugin")).unwrap(),
            good: host.load("good", &component("holdfast-example-plugin-minimal")).unwrap(),
            binding: Arc::new(Binding::new(&config).unwrap()),
            host,
            logs,
            _dir: dir,
            _elsewhere: elsewhere,
            _server: server,
            _guard: guard,
        }
    }

    pub fn host(&self) -> &PluginHost {
        &self.host
    }

    pub fn hostile(&self) -> &Plugin {
        &self.hostile
    }

    /// A call of another plugin, which has done nothing wrong.
    pub async fn neighbour(&self) -> Result<(), String> {
        let call = Call::new(json!([]));
        let report = self.good.check(&call.options(), &generation(1)).await;
        report.answer.map(|_| ()).map_err(|failure| format!("{failure:?}"))
    }

    pub async fn call(&self, plugin: &Plugin, entry: &Entry, verb: &str) -> SeenEnd {
        let ops = match &entry.harm {
            Harm::Ops(ops) => ops.clone(),
            Harm::Bytes(_) | Harm::Component(_) | Harm::Probe(_) => Value::Null,
        };
        let mut call = Call::new(if ops.is_null() { json!([]) } else { ops });
        call.binding = Some(self.binding.clone());
        call.deadline = entry.deadline;
        call.secrets = vec![SecretValue {
            marker: MARKER.into(),
            marker_base64: format!("{MARKER}-base64"),
            value: format!("{CANARY}-secret").into(),
        }];
        let mut subject = generation(2);
        subject.secrets = vec![Secret {
            name: "db".into(),
            version: "1".into(),
            marker: MARKER.into(),
            marker_base64: format!("{MARKER}-base64"),
        }];
        let digest = format!("sha256:{}", "0a".repeat(32));
        subject.artifacts = vec![Artifact {
            name: "main".into(),
            uri: format!("r.example.com/shop@{digest}"),
            digest,
            images: Vec::new(),
            payload: Vec::new(),
        }];
        let entries = [RouteEntry {
            generation: subject.clone(),
            live: 10_000,
            lead: true,
        }];
        let options = call.options();
        match verb {
            "check" => SeenEnd::of(plugin.check(&options, &subject).await),
            "observe" => SeenEnd::of(plugin.observe(&options, None).await),
            "launch" => SeenEnd::of(plugin.launch(&options, &subject, 1).await),
            "scale" => SeenEnd::of(plugin.scale(&options, &subject, 1).await),
            "route" => SeenEnd::of(plugin.route(&options, &entries).await),
            "retire" => SeenEnd::of(plugin.retire(&options, &subject, true).await),
            "check-job" => SeenEnd::of(plugin.check_job(&options, &subject, "job", "{}").await),
            "run" => SeenEnd::of(plugin.run(&options, &subject, "job", "{}").await),
            "diff" => SeenEnd::of(plugin.diff(&options, None, &subject).await),
            "room" => SeenEnd::of(plugin.room(&options, &subject).await),
            "telemetry" => SeenEnd::of(plugin.telemetry(&options, &subject).await),
            "explain" => SeenEnd::of(plugin.explain(&options, &subject).await),
            other => panic!("{other:?} is no verb"),
        }
    }

    pub fn logs_hold_no_canary(&self) {
        let logs = String::from_utf8_lossy(&self.logs.0.lock().unwrap()).into_owned();
        assert!(logs.contains("plugin call ended"), "nothing was logged");
        assert!(!logs.contains(CANARY), "a credential is in the log");
    }
}

impl SeenEnd {
    fn of<T: Debug>(report: CallReport<T>) -> Self {
        let class = match &report.answer {
            Ok(_) => None,
            Err(CallFailure::Failed { class, .. }) => Some(class.as_str()),
            Err(CallFailure::Fault(_)) => Some("fault"),
        };
        Self {
            class,
            shown: format!("{report:?}"),
        }
    }

    pub fn compare(&self, end: &End) -> Result<(), String> {
        let short = self.shown.get(..self.shown.len().min(2_000)).unwrap_or("no text");
        if self.shown.contains(CANARY) {
            return Err(format!("a credential is in {short}"));
        }
        let right = match end {
            End::Fails(classes, saying) => {
                self.class.is_some_and(|class| classes.iter().any(|one| one == class)) && self.shown.contains(saying.as_str())
            }
            End::Faults(part) => self.class == Some("fault") && self.shown.contains(part.as_str()),
            End::Says(part) => self.class.is_none() && self.shown.contains(part.as_str()),
            End::Well => self.class.is_none(),
            End::Refused(_) => false,
        };
        if right {
            Ok(())
        } else {
            Err(format!("{:?} {short}", self.class))
        }
    }
}

/// From here on.
pub fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// The most memory that this process had since.
pub fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

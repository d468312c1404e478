//! A small ledger, entry by entry: workload `main/shop` with two artifacts' worth of history on targets a and b. No plugin
//! is configured, so the planners begin nothing of their own.

use holdfast_core::config::EngineConfig;
use holdfast_core::engine::{CommandReply, CommandRequest, Engine, Input, Now, Output, Person, Refusal, Wish};
use holdfast_core::entry::{Body, By, Entry, Precondition};
use holdfast_core::ids::{Digest, ReleaseId, WorkloadId};
use holdfast_core::spec::{Approval, ArtifactSpec, Targets, WorkloadSpec};
use holdfast_core::state::State;
use serde_json::{Value, json};

pub const REFERENCE: &str = "r.example.com/shop:1";
/// Hash of the e-mail of who wrote the change.
pub const AUTHOR: &str = "hash-of-the-author";

pub fn shop() -> WorkloadId {
    WorkloadId::new("main", "shop").unwrap()
}

pub fn release(text: &str) -> ReleaseId {
    ReleaseId::of(text.as_bytes())
}

pub fn spec(approval: Option<Approval>) -> WorkloadSpec {
    let artifacts = [("main".to_owned(), ArtifactSpec::Reference(REFERENCE.to_owned()))].into();
    WorkloadSpec {
        approval,
        ..WorkloadSpec::new(artifacts, Targets::Names(vec!["a".into(), "b".into()]).into())
    }
}

/// Two people before 25 % and before 100 %.
pub fn approval() -> Approval {
    Approval {
        before: vec![2_500, 10_000],
        count: 2,
        allow_author: false,
    }
}

#[derive(Default)]
pub struct Bench {
    pub state: State,
}

impl Bench {
    pub fn add(&mut self, on: Value, kind: &str, body: Value) -> u64 {
        let seq = self.state.size;
        let entry = json!({
            "v": 1, "seq": seq, "term": 0, "t": seq * 1_000, "wall": "2026-01-01T00:00:00.000Z",
            "by": { "kind": "user", "id": "ann", "auth": "peercred" }, "on": on, "kind": kind, "body": body,
        });
        let entry: Entry = serde_json::from_value(entry).unwrap();
        self.state.fold(&entry);
        seq
    }

    /// A commit by `AUTHOR` that says `spec`; the manifest's entry.
    pub fn commit(&mut self, commit: &str, spec: &WorkloadSpec) -> u64 {
        let source = json!({
            "repository": "main", "ref": "refs/heads/main", "new": commit, "fast_forward": true, "adopted": true,
            "signer": "unverified", "author": AUTHOR, "contributors": [AUTHOR], "summary": format!("say {commit}"),
            "committed_s": 0, "changed": ["main/shop"], "problems": [],
        });
        self.add(json!({}), "source", source);
        let on = json!({ "workload": "main/shop" });
        self.add(
            on,
            "spec",
            json!({ "commit": commit, "object": "workload", "presence": "present", "spec": spec }),
        )
    }

    pub fn rollout(&mut self, request: u64, to: &str, release: &ReleaseId, reason: &str) -> u64 {
        let on = json!({ "workload": "main/shop", "rollout": request });
        self.add(on, "rollout", json!({ "to": to, "release": release, "reason": reason }))
    }

    /// An attempt on a target that has reached `weight`.
    pub fn attempt(&mut self, target: &str, request: u64, release: &ReleaseId, weight: u32) -> u64 {
        let on = json!({ "workload": "main/shop", "target": target, "rollout": request });
        let digest = Digest::of(b"x");
        let plugin = json!({ "name": "edge", "digest": digest, "grants": digest });
        let generation = self.state.unit(&shop(), target).map_or(1, |unit| unit.next_generation);
        let old = self.state.unit(&shop(), target).and_then(|unit| unit.current);
        let began = json!({
            "change": "began", "release": release, "values": digest, "generation": generation, "old": old,
            "plugin": plugin, "request": request,
        });
        let attempt = self.add(on.clone(), "attempt", began);
        self.attempt_change(
            target,
            attempt,
            json!({ "change": "phase", "to": "shifting", "reason": "proven", "message": "" }),
        );
        self.attempt_change(target, attempt, json!({ "change": "reached", "weight": weight }));
        attempt
    }

    pub fn attempt_change(&mut self, target: &str, attempt: u64, change: Value) -> u64 {
        let on = json!({ "workload": "main/shop", "target": target, "attempt": attempt });
        self.add(on, "attempt", change)
    }

    pub fn end(&mut self, target: &str, attempt: u64, outcome: &str) -> u64 {
        let change = json!({ "change": "ended", "outcome": outcome, "reason": "why", "message": "because" });
        self.attempt_change(target, attempt, change)
    }

    /// Term, both targets, a first release that succeeded on both, and a second one that is rolling, at 10 % on a.
    pub fn rolling(approval: Option<Approval>) -> (Self, u64) {
        let mut bench = Self::default();
        let digest = Digest::of(b"x");
        let term = json!({
            "binary": "0", "planner": 1, "config": digest, "previous_size": 0, "previous_root": "", "clean": true,
            "epoch": 1, "owner": "owner123",
        });
        bench.add(json!({}), "term", term);
        for target in ["a", "b"] {
            let body =
                json!({ "commit": "c0", "object": "target", "presence": "present", "spec": { "plugin": "edge", "config": {} } });
            bench.add(json!({ "target": target }), "spec", body);
        }
        let first = bench.commit("c1", &spec(approval.clone()));
        let pin = json!({ "reference": REFERENCE, "digest": digest, "source": "r.example.com/shop", "evidence": null });
        bench.add(json!({ "workload": "main/shop" }), "pin", pin);
        bench.rollout(first, "rolling", &release("old"), "requested");
        for target in ["a", "b"] {
            let attempt = bench.attempt(target, first, &release("old"), 10_000);
            bench.end(target, attempt, "succeeded");
        }
        bench.rollout(first, "succeeded", &release("old"), "stable");
        let mut changed = spec(approval);
        changed.instances = 2;
        let second = bench.commit("c2", &changed);
        bench.rollout(second, "rolling", &release("new"), "requested");
        bench.attempt("a", second, &release("new"), 1_000);
        (bench, second)
    }

    pub fn engine(&self) -> Engine {
        Engine::new(EngineConfig::default(), self.state.clone())
    }
}

pub fn person(name: &str, email: &str) -> Option<Person> {
    Some(Person {
        name: name.into(),
        emails: [email.to_owned()].into(),
    })
}

pub fn command(wish: Wish) -> CommandRequest {
    CommandRequest {
        by: By {
            kind: "user".into(),
            id: "unix-ann".into(),
            auth: "peercred".into(),
        },
        person: person("ann", "hash-of-ann"),
        workload: Some(shop()),
        target: None,
        only_if: Precondition::default(),
        wish,
        reason: "because of a test".into(),
        key: String::new(),
    }
}

pub struct Said {
    pub reply: Result<CommandReply, Refusal>,
    /// What the ledger was told.
    pub entries: Vec<Body>,
}

impl Said {
    /// The reason of a refusal, or the message.
    pub fn word(&self) -> &str {
        match &self.reply {
            Ok(reply) => &reply.message,
            Err(refusal) => &refusal.reason,
        }
    }

    pub fn message(&self) -> &str {
        match &self.reply {
            Ok(reply) => &reply.message,
            Err(refusal) => &refusal.message,
        }
    }

    /// Commands that were written down.
    pub fn commands(&self) -> Vec<&holdfast_core::entry::Command> {
        self.entries
            .iter()
            .filter_map(|body| match body {
                Body::Command(command) => Some(command),
                _ => None,
            })
            .collect()
    }
}

/// Says it, and makes durable what was written.
pub fn say(engine: &mut Engine, mut request: CommandRequest) -> Said {
    if request.key.is_empty() {
        request.key = format!("key-{}", engine.state().size);
    }
    let now = Now {
        t: engine.state().t + 1,
        wall_ms: 0,
    };
    let mut outputs = engine.handle(now, Input::Command { token: 7, request });
    let size = engine.state().size;
    outputs.extend(engine.handle(now, Input::Durable { size }));
    let mut said = None;
    let mut written = Vec::new();
    for output in outputs {
        match output {
            Output::Append { entries, .. } => written.extend(entries.into_iter().map(|entry| entry.body)),
            Output::Reply { token: 7, reply } => said = Some(reply),
            _ => {}
        }
    }
    Said {
        reply: said.expect("a command is answered"),
        entries: written,
    }
}

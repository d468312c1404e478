//! Every command's outputs and exit code in one picture each, against a daemon of paper.

#[allow(dead_code, reason = "shared with the other tests of the command line")]
mod environment;

use environment::{CONFIG, Environment, until};
use holdfast_core::entry::{Entry, RolloutState};
use holdfast_core::ids::ReleaseId;
use holdfast_core::view::{StatusView, WantedView, WorkloadView};
use insta::assert_snapshot;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

const COMMIT: &str = "3f2a9c1d6b0e4c5a8f7e9d0b1a2c3d4e5f607182";

fn release() -> ReleaseId {
    ReleaseId::of(b"new")
}

/// One workload, whose request came with entry 3.
fn view(state: RolloutState) -> StatusView {
    let wanted = WantedView {
        request: 3,
        release: release().to_string(),
        commit: COMMIT.into(),
        cause: Default::default(),
        state,
        since: 60_000,
        began: 60_000,
        reason: String::new(),
        message: String::new(),
        paused: false,
    };
    StatusView {
        entries: 20,
        durable: 20,
        t: 120_000,
        epoch: 1,
        owner: "owner123".into(),
        workloads: vec![WorkloadView {
            name: "main/shop".into(),
            presence: "present".into(),
            spec: 3,
            taken_up: true,
            wanted: Some(wanted),
            settled: state == RolloutState::Succeeded,
            ..WorkloadView::default()
        }],
        ..StatusView::default()
    }
}

fn entry(seq: u64, because: &[u64], on: Value, kind: &str, body: Value) -> Entry {
    let entry = json!({
        "v": 1, "seq": seq, "term": 0, "t": seq, "wall": "", "by": { "kind": "user", "id": "ann", "auth": "peercred" },
        "on": on, "because": because, "kind": kind, "body": body,
    });
    serde_json::from_value(entry).unwrap()
}

fn source(seq: u64, commit: &str, changed: &[&str], problems: Value) -> Entry {
    let body = json!({
        "repository": "main", "ref": "refs/heads/main", "new": commit, "fast_forward": true, "adopted": true,
        "signer": "unverified", "author": "a", "summary": "Raise the time-out", "committed_s": 0, "changed": changed,
        "problems": problems,
    });
    entry(seq, &[], json!({}), "source", body)
}

fn spec(seq: u64, source: u64, commit: &str) -> Entry {
    let artifacts = [(
        "main".to_owned(),
        holdfast_core::spec::ArtifactSpec::Reference("r.example.com/shop:1".into()),
    )];
    let targets = holdfast_core::spec::Targets::Names(vec!["a".into()]);
    let spec = holdfast_core::spec::WorkloadSpec::new(artifacts.into(), targets.into());
    let body = json!({ "commit": commit, "object": "workload", "presence": "present", "spec": spec });
    entry(seq, &[source], json!({ "workload": "main/shop" }), "spec", body)
}

fn rollout(seq: u64, to: &str, message: &str) -> Entry {
    let body = json!({ "to": to, "release": release(), "reason": "r", "message": message });
    entry(seq, &[], json!({ "workload": "main/shop", "rollout": 3 }), "rollout", body)
}

/// Answers as a daemon with this status and these entries.
fn ledger(view: StatusView, entries: Vec<Entry>) -> impl FnMut(Value) -> Result<Value, String> + Send + 'static {
    move |ask| match ask["ask"].as_str().unwrap() {
        "status" => Ok(serde_json::to_value(&view).unwrap()),
        "sync" => Ok(json!({ "message": "looking at Git now" })),
        "find" => {
            let matches = |entry: &&Entry| {
                let key = ask["key"].as_str().unwrap();
                let body = serde_json::to_value(&entry.body).unwrap();
                let has = match ask["by"].as_str().unwrap() {
                    "kind" => body["kind"] == key,
                    "commit" => body["body"]["new"] == key || body["body"]["commit"] == key,
                    _ => entry.on.workload.as_ref().is_some_and(|id| id.as_str() == key),
                };
                has && ask["before"].as_u64().is_none_or(|before| entry.seq < before)
            };
            let found: Vec<&Entry> = entries.iter().rev().filter(matches).collect();
            Ok(json!({ "as_of": entries.len(), "entries": found }))
        }
        other => panic!("{other} was not expected"),
    }
}

fn configured() -> Environment {
    Environment::new(&[("holdfast.yaml", CONFIG)])
}

#[test]
fn help() {
    let env = Environment::new(&[]);
    assert_snapshot!(env.run(&["--help"]), @"");
    assert_snapshot!(env.run(&["approve", "--help"]), @"");
    assert_snapshot!(env.run(&["status", "--help"]), @"");
    assert_snapshot!(env.run(&["--version"]), @"");
}

#[test]
fn what_is_wrong_with_what_was_given() {
    let env = configured();
    for args in [&["deploy", "shop"] as &[&str], &["freeze"], &["freeze", "shop", "--target", "a"]] {
        assert_eq!(env.command(args).output().unwrap().status.code(), Some(2), "{args:?}");
    }
    assert_snapshot!(env.run(&["approve", "shop", "--step", "5"]), @"");
    assert_snapshot!(env.run(&["status", "--wait", ""]), @"");
    assert_snapshot!(env.run(&["status", "--wait", "HEAD"]), @"");
    assert_snapshot!(env.run(&["status", "--wait", "HEAD", "--watch"]), @"");
    assert_snapshot!(env.run(&["status"]), @"");
    assert_snapshot!(env.run(&["--config", "none.yaml", "approve", "shop"]), @"");
}

#[test]
fn what_a_command_asks() {
    let env = configured();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    env.daemon(move |mut ask| {
        let key = ask["key"].take();
        assert!(key.as_str().is_some_and(|key| !key.is_empty()));
        heard.lock().unwrap().push(ask);
        Ok(json!({ "seq": 7, "message": "done" }))
    });
    for args in [
        &["approve", "shop", "--step", "12.5%", "--if-release", "4be1c09d"] as &[&str],
        &["approve", "other/shop", "--reason", "looks good", "--key", "k1"],
        &["retry", "shop", "--if-rollout", "12"],
        &["deploy", "shop", "--now"],
        &["freeze", "shop"],
        &["thaw", "--target", "site-a"],
        &["repin", "shop", "r.example.com/shop:1"],
        &["allow-heals"],
        &["rollback", "shop", "--to", "4be1c09d"],
        &["advance", "shop", "--if-step", "25%"],
        &["quarantine", "lift", "shop", "4be1c09d"],
    ] {
        assert_eq!(env.run(args), format!("$ holdfast {}\nexit 0\n--- stdout\ndone\n", args.join(" ")));
    }
    let asked: Vec<String> = asked.lock().unwrap().iter().map(Value::to_string).collect();
    assert_snapshot!(asked.join("\n"), @"");
}

#[test]
fn a_refusal_is_a_no() {
    let env = configured();
    env.daemon(|_| Err("no step of main/shop waits for an approval".into()));
    assert_snapshot!(env.run(&["approve", "shop"]), @"");
}

#[test]
fn text_from_outside_controls_nothing() {
    let env = configured();
    let evil = "a\x1b]0;title\x07\x1b[31mred\u{9b}2J\nerror: forged";
    env.daemon(move |ask| match ask["wish"]["command"].as_str() {
        Some("pause") => Ok(json!({ "message": evil })),
        _ => Err(evil.into()),
    });
    for args in [&["pause", "shop"] as &[&str], &["resume", "shop"], &["pause", "shop", "--json"]] {
        let told = env.run(args);
        let shown = told.replace('\n', "");
        assert!(!shown.contains(|c: char| c.is_control()), "{told:?}");
        assert!(!told.contains("\nerror: forged"), "{told}");
    }
}

#[test]
fn status_of_nothing_and_of_one() {
    let env = configured();
    env.daemon(ledger(StatusView::default(), Vec::new()));
    assert_snapshot!(env.run(&["status"]), @"");
    assert_snapshot!(env.run(&["status", "shop"]), @"");
    assert_snapshot!(env.run(&["quarantine", "list"]), @"");
    let env = configured();
    env.daemon(ledger(view(RolloutState::Succeeded), Vec::new()));
    assert_snapshot!(env.run(&["status", "shop"]), @"");
    assert_snapshot!(env.run(&["status", "--json"]), @"");
}

#[test]
fn waiting_for_a_commit() {
    let begun = || vec![source(2, COMMIT, &["main/shop"], json!([])), spec(3, 2, COMMIT), rollout(4, "rolling", "")];
    let with = |last: Entry| {
        let mut entries = begun();
        entries.push(last);
        entries
    };
    let told = |entries: Vec<Entry>, args: &[&str]| {
        let env = configured();
        env.daemon(ledger(view(RolloutState::Rolling), entries));
        env.run(&[&["status", "--wait", COMMIT], args].concat())
    };
    assert_snapshot!(told(with(rollout(5, "succeeded", "")), &[]), @"");
    assert_snapshot!(told(with(rollout(5, "refused", "a: no weights here")), &[]), @"");
    assert_snapshot!(told(with(rollout(5, "refused", "a: no weights here")), &["--json"]), @"");
    assert_snapshot!(told(begun(), &["--timeout-s", "0"]), @"");
    assert_snapshot!(told(Vec::new(), &["--timeout-s", "0"]), @"");
    assert_snapshot!(told(with(rollout(5, "refused", "")), &["other"]), @"");
    let problem = json!([{ "code": "missing", "file": "shop.yaml", "line": 3, "column": 1, "message": "template is missing" }]);
    assert_snapshot!(told(vec![source(2, COMMIT, &[], problem)], &[]), @"");
    assert_snapshot!(told(vec![source(2, COMMIT, &[], json!([]))], &[]), @"");
}

#[test]
fn watching_in_a_pipe_tells_changes_until_it_is_interrupted() {
    let env = configured();
    let mut looks = 0;
    env.daemon(move |_| {
        looks += 1;
        let state = if looks < 3 { RolloutState::Rolling } else { RolloutState::Succeeded };
        Ok(serde_json::to_value(view(state)).unwrap())
    });
    let mut child = env.command(&["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let short = release().short().to_owned();
    assert_eq!(lines.next().unwrap(), format!("main/shop: release {short} is rolling"));
    assert_eq!(lines.next().unwrap(), format!("main/shop: release {short} is succeeded"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = until("the end of the watch", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn completions_and_manual() {
    let env = Environment::new(&[]);
    for (shell, text) in [
        ("bash", "complete -F _holdfast"),
        ("zsh", "#compdef holdfast"),
        ("fish", "complete -c holdfast"),
    ] {
        let told = env.run(&["completions", shell]);
        assert!(told.contains("exit 0") && told.contains(text) && told.contains("allow-heals"), "{shell}");
    }
    let told = env.run(&["man"]);
    assert!(told.contains(".TH holdfast 1") && told.contains("Exit codes:"), "{told}");
    assert_eq!(env.run(&["man", "--dir", "man1"]), "$ holdfast man --dir man1\nexit 0\n");
    assert!(env.path().join("man1/holdfast-status.1").is_file());
}

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
        "ledger" => {
            let matches = |entry: &&Entry| {
                let (by, key) = (ask["keys"][0][0].as_str().unwrap(), ask["keys"][0][1].as_str().unwrap());
                let body = serde_json::to_value(&entry.body).unwrap();
                let has = match by {
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
    assert_snapshot!(env.run(&["--help"]), @"
    $ holdfast --help
    exit 0
    --- stdout
    Immutable deployment from Git: a commit goes live as a new generation, a bad one comes back by
    itself, and a tamper-evident ledger says why

    Usage: holdfast [OPTIONS] <COMMAND>

    Commands:
      init            Write a commented holdfast.yaml for a repository
      bundle          Make bundles: what an edge site runs
      plugin          Write, test, publish and inspect target plugins
      run             Run the daemon
      witness         Cosign other teams' ledgers, after checking that each only grew
      demo            Show the main job on embedded defaults: sites, daemon, commits, a bad release, a
                      crash
      validate        Check manifests, or a holdfast.yaml: every problem at its place
      plan            Say what a commit or directory would do now, against what the ledger knows
      status          Show what is wanted, what runs, and what waits on what
      sync            Look at Git now
      rollback        Bring back a release that was proven before, and keep the present one out
      approve         Agree to a step of a rollout, as somebody whom holdfast.yaml names under `users`
      pause           Stop a rollout where it is; what has traffic is still watched
      resume          Go on after a pause or a halt
      abort           Give a rollout up: undo it everywhere and keep its release out
      advance         End the present hold or analysis, never health
      retry           Try again what could not be tried, was lost or is stalled; never what is
                      quarantined
      deploy          Drop what is at an older release, and turn to the newest one at once
      freeze          Let nothing new begin on a workload or a target; what is under way ends
      thaw            Take a freeze back
      repin           Resolve a tag anew: if it points elsewhere, that is a new release
      allow-heals     Let drift be healed beyond the limit of the hour
      allow-removals  Let removals go ahead that were more than one revision may make
      accept-rewrite  Take the tip of a branch that was rewritten
      quarantine      Releases that are kept out
      ledger          Read and verify the ledger
      audit           Ask what ran where, when, and why
      incident        Write down that a deploy that had passed hurt its users, and when that was over
      schema          Print the JSON Schema of manifests, for editors
      explain         Say what a field of a manifest is: its type, default, meaning, and an example
      completions     Print a shell's completions
      man             Print the manual page, or write one for each command
      edge-node       Run an edge site
      help            Print this message or the help of the given subcommand(s)

    Options:
      -c, --config <CONFIG>  Operator's configuration [env: HOLDFAST_CONFIG] [default: holdfast.yaml]
          --json             Print data as JSON
      -h, --help             Print help
      -V, --version          Print version

    Exit codes:
      0  done; with `status --wait`: the commit is live
      1  it ran, and the answer is no: problems found, verification failed, refused, not live
      2  something is wrong with what was given
      3  something outside failed: no daemon, a file, the network
      4  `status --wait`: not decided in time
    ");
    assert_snapshot!(env.run(&["approve", "--help"]), @"
    $ holdfast approve --help
    exit 0
    --- stdout
    Agree to a step of a rollout, as somebody whom holdfast.yaml names under `users`

    Usage: holdfast approve [OPTIONS] <WORKLOAD>

    Arguments:
      <WORKLOAD>  Workload, as in shop or main/shop

    Options:
      -c, --config <CONFIG>  Operator's configuration [env: HOLDFAST_CONFIG] [default: holdfast.yaml]
          --json             Print data as JSON
      -h, --help             Print help

    For every command:
          --reason <REASON>      Why, for the ledger
          --key <KEY>            Repeating a command with the same key does nothing; default: a new one
          --if-rollout <SEQ>     Only if the workload is at this rollout, as in `status --json`
          --if-release <PREFIX>  Only if the workload is at this release
          --if-step <PERCENT>    Only if every unit in progress is at this weight, as in 25%
          --step <PERCENT>       The step to agree to, as in 100%; default: the one that is being waited
                                 for

    Examples:
      holdfast approve shop
      holdfast approve shop --step 100% --if-release 4be1c09d77aa
    ");
    assert_snapshot!(env.run(&["status", "--help"]), @"
    $ holdfast status --help
    exit 0
    --- stdout
    Show what is wanted, what runs, and what waits on what

    Usage: holdfast status [OPTIONS] [WORKLOAD]

    Arguments:
      [WORKLOAD]  Only this workload, as in shop or main/shop

    Options:
      -c, --config <CONFIG>      Operator's configuration [env: HOLDFAST_CONFIG] [default:
                                 holdfast.yaml]
          --wait <COMMIT>        Wait until this commit is decided: live, or why not, with the last log
                                 lines of what failed
          --json                 Print data as JSON
          --watch                Show what happens, as it happens, until Ctrl-C; in a pipe, one line for
                                 each change
          --timeout-s <SECONDS>  With --wait: give up after so many seconds [default: 3600]
      -h, --help                 Print help

    Examples:
      holdfast status
      holdfast status shop --json
      holdfast status --watch
      holdfast status --wait HEAD          # 0: live, 1: not live, 4: not decided in time
      holdfast status shop --wait 3f2a9c1 --timeout-s 600
    ");
    assert_snapshot!(env.run(&["--version"]), @"
    $ holdfast --version
    exit 0
    --- stdout
    holdfast $VERSION
    ");
}

#[test]
fn what_is_wrong_with_what_was_given() {
    let env = configured();
    for args in [
        &["deploy", "shop"] as &[&str],
        &["freeze"],
        &["freeze", "shop", "--target", "a"],
    ] {
        assert_eq!(env.command(args).output().unwrap().status.code(), Some(2), "{args:?}");
    }
    assert_snapshot!(env.run(&["approve", "shop", "--step", "5"]), @"
    $ holdfast approve shop --step 5
    exit 2
    --- stderr
    error: invalid value '5' for '--step <PERCENT>': a percentage, as in 25% or 12.5%

    For more information, try '--help'.
    ");
    assert_snapshot!(env.run(&["status", "--wait", ""]), @r#"
    $ holdfast status --wait 
    exit 2
    --- stderr
    error: "" names no commit
    hint: here is no repository: give at least 7 digits of the commit, or run this inside one
    "#);
    assert_snapshot!(env.run(&["status", "--wait", "HEAD"]), @r#"
    $ holdfast status --wait HEAD
    exit 2
    --- stderr
    error: "HEAD" names no commit
    hint: here is no repository: give at least 7 digits of the commit, or run this inside one
    "#);
    assert_snapshot!(env.run(&["status", "--wait", "HEAD", "--watch"]), @"
    $ holdfast status --wait HEAD --watch
    exit 2
    --- stderr
    error: the argument '--wait <COMMIT>' cannot be used with '--watch'

    Usage: holdfast status --wait <COMMIT> [WORKLOAD]

    For more information, try '--help'.
    ");
    assert_snapshot!(env.run(&["status"]), @"
    $ holdfast status
    exit 3
    --- stderr
    error: no daemon answers at $DIR/data/holdfast.sock
    caused by: No such file or directory (os error 2)
    hint: `holdfast run` starts the daemon; --config says which one is meant
    ");
    assert_snapshot!(env.run(&["--config", "none.yaml", "approve", "shop"]), @"
    $ holdfast --config none.yaml approve shop
    exit 2
    --- stderr
    error: none.yaml cannot be read
    caused by: No such file or directory (os error 2)
    hint: `holdfast init REPOSITORY` writes one; --config names another
    ");
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
        assert_eq!(
            env.run(args),
            format!("$ holdfast {}\nexit 0\n--- stdout\ndone\n", args.join(" "))
        );
    }
    let asked: Vec<String> = asked.lock().unwrap().iter().map(Value::to_string).collect();
    assert_snapshot!(asked.join("\n"), @r#"
    {"ask":"command","key":null,"only_if":{"release":"4be1c09d"},"reason":"","target":null,"wish":{"command":"approve","step":1250},"workload":"main/shop"}
    {"ask":"command","key":null,"only_if":{},"reason":"looks good","target":null,"wish":{"command":"approve","step":null},"workload":"other/shop"}
    {"ask":"command","key":null,"only_if":{"rollout":12},"reason":"","target":null,"wish":{"command":"retry"},"workload":"main/shop"}
    {"ask":"command","key":null,"only_if":{},"reason":"","target":null,"wish":{"command":"deploy-now"},"workload":"main/shop"}
    {"ask":"command","key":null,"only_if":{},"reason":"","target":null,"wish":{"command":"freeze"},"workload":"main/shop"}
    {"ask":"command","key":null,"only_if":{},"reason":"","target":"site-a","wish":{"command":"thaw"},"workload":null}
    {"ask":"command","key":null,"only_if":{},"reason":"","target":null,"wish":{"command":"repin","reference":"r.example.com/shop:1"},"workload":"main/shop"}
    {"ask":"command","key":null,"only_if":{},"reason":"","target":null,"wish":{"command":"allow-heals"},"workload":null}
    {"ask":"command","key":null,"only_if":{},"reason":"","target":null,"wish":{"command":"rollback","to":"4be1c09d"},"workload":"main/shop"}
    {"ask":"command","key":null,"only_if":{"step":2500},"reason":"","target":null,"wish":{"command":"advance"},"workload":"main/shop"}
    {"ask":"command","key":null,"only_if":{},"reason":"","target":null,"wish":{"command":"lift","release":"4be1c09d"},"workload":"main/shop"}
    "#);
}

#[test]
fn a_refusal_is_a_no() {
    let env = configured();
    env.daemon(|_| Err("no step of main/shop waits for an approval".into()));
    assert_snapshot!(env.run(&["approve", "shop"]), @"
    $ holdfast approve shop
    exit 1
    --- stderr
    error: no step of main/shop waits for an approval
    ");
}

#[test]
fn text_from_outside_controls_nothing() {
    let env = configured();
    let evil = "a\x1b]0;title\x07\x1b[31mred\u{9b}2J\nerror: forged";
    env.daemon(move |ask| match ask["wish"]["command"].as_str() {
        Some("pause") => Ok(json!({ "message": evil })),
        _ => Err(evil.into()),
    });
    for args in [
        &["pause", "shop"] as &[&str],
        &["resume", "shop"],
        &["pause", "shop", "--json"],
    ] {
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
    assert_snapshot!(env.run(&["status"]), @"
    $ holdfast status
    exit 0
    --- stdout
    Git     no revision yet
    Ledger  0 entries, 0 durable

    no workloads yet: commit a manifest, or see examples/
    ");
    assert_snapshot!(env.run(&["status", "shop"]), @"
    $ holdfast status shop
    exit 2
    --- stderr
    error: there is no workload main/shop
    hint: `holdfast status` lists them
    ");
    assert_snapshot!(env.run(&["quarantine", "list"]), @"
    $ holdfast quarantine list
    exit 0
    --- stdout
    nothing is quarantined
    ");
    let env = configured();
    env.daemon(ledger(view(RolloutState::Succeeded), Vec::new()));
    assert_snapshot!(env.run(&["status", "shop"]), @"
    $ holdfast status shop
    exit 0
    --- stdout
    Git     no revision yet
    Ledger  20 entries, 20 durable

    main/shop
      Wanted   release 11507a0e2f5e of commit 3f2a9c1d6b0e: succeeded, for 1m
      Running  nothing yet
    ");
    assert_snapshot!(env.run(&["status", "--json"]), @r#"
    $ holdfast status --json
    exit 0
    --- stdout
    {
      "durable": 20,
      "entries": 20,
      "epoch": 1,
      "exits": [],
      "owner": "owner123",
      "source": null,
      "t": 120000,
      "targets": [],
      "workloads": [
        {
          "approvals": [],
          "exits": [],
          "frozen": null,
          "jobs": [],
          "moved_tags": [],
          "name": "main/shop",
          "presence": "present",
          "quarantine": [],
          "settled": true,
          "spec": 3,
          "suspended": false,
          "taken_up": true,
          "units": [],
          "waiting": null,
          "wanted": {
            "began": 60000,
            "cause": {
              "kind": "",
              "text": ""
            },
            "commit": "3f2a9c1d6b0e4c5a8f7e9d0b1a2c3d4e5f607182",
            "message": "",
            "paused": false,
            "reason": "",
            "release": "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437",
            "request": 3,
            "since": 60000,
            "state": "succeeded"
          },
          "wave": null
        }
      ]
    }
    "#);
}

#[test]
fn waiting_for_a_commit() {
    let begun = || {
        vec![
            source(2, COMMIT, &["main/shop"], json!([])),
            spec(3, 2, COMMIT),
            rollout(4, "rolling", ""),
        ]
    };
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
    assert_snapshot!(told(with(rollout(5, "succeeded", "")), &[]), @"
    $ holdfast status --wait 3f2a9c1d6b0e4c5a8f7e9d0b1a2c3d4e5f607182
    exit 0
    --- stdout
    commit 3f2a9c1d6b0e is live
      main/shop: release 11507a0e2f5e is live
    ");
    assert_snapshot!(told(with(rollout(5, "refused", "a: no weights here")), &[]), @"
    $ holdfast status --wait 3f2a9c1d6b0e4c5a8f7e9d0b1a2c3d4e5f607182
    exit 1
    --- stdout
    commit 3f2a9c1d6b0e is not live
      main/shop: release 11507a0e2f5e was refused: a: no weights here
    ");
    assert_snapshot!(told(with(rollout(5, "refused", "a: no weights here")), &["--json"]), @r#"
    $ holdfast status --wait 3f2a9c1d6b0e4c5a8f7e9d0b1a2c3d4e5f607182 --json
    exit 1
    --- stdout
    {
      "commit": "3f2a9c1d6b0e4c5a8f7e9d0b1a2c3d4e5f607182",
      "notes": [],
      "verdict": "not-live",
      "workloads": [
        {
          "decision": {
            "message": "a: no weights here",
            "outcome": "refused",
            "release": "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"
          },
          "workload": "main/shop"
        }
      ]
    }
    "#);
    assert_snapshot!(told(begun(), &["--timeout-s", "0"]), @"
    $ holdfast status --wait 3f2a9c1d6b0e4c5a8f7e9d0b1a2c3d4e5f607182 --timeout-s 0
    exit 4
    --- stdout
    commit 3f2a9c1d6b0e is not decided
      it is not decided after 0 s
      main/shop: under way
    ");
    assert_snapshot!(told(Vec::new(), &["--timeout-s", "0"]), @"
    $ holdfast status --wait 3f2a9c1d6b0e4c5a8f7e9d0b1a2c3d4e5f607182 --timeout-s 0
    exit 4
    --- stdout
    commit 3f2a9c1d6b0e is not decided
      the daemon has not seen it within 0 s
    ");
    assert_snapshot!(told(with(rollout(5, "refused", "")), &["other"]), @"
    $ holdfast status --wait 3f2a9c1d6b0e4c5a8f7e9d0b1a2c3d4e5f607182 other
    exit 2
    --- stderr
    error: there is no workload main/other
    hint: `holdfast status` lists them
    ");
    let problem = json!([{ "code": "missing", "file": "shop.yaml", "line": 3, "column": 1, "message": "template is missing" }]);
    assert_snapshot!(told(vec![source(2, COMMIT, &[], problem)], &[]), @"
    $ holdfast status --wait 3f2a9c1d6b0e4c5a8f7e9d0b1a2c3d4e5f607182
    exit 1
    --- stdout
    commit 3f2a9c1d6b0e is not live
      shop.yaml:3:1: template is missing
    ");
    assert_snapshot!(told(vec![source(2, COMMIT, &[], json!([]))], &[]), @"
    $ holdfast status --wait 3f2a9c1d6b0e4c5a8f7e9d0b1a2c3d4e5f607182
    exit 0
    --- stdout
    commit 3f2a9c1d6b0e is live
      it changes no workload
    ");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how long it waits is what counts")]
fn a_daemon_that_may_be_starting_is_waited_for() {
    let env = configured();
    let begun = std::time::Instant::now();
    let told = env.run(&["status", "--wait", COMMIT, "--timeout-s", "1"]);
    assert!(told.contains("exit 3") && told.contains("no daemon answers"), "{told}");
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
}

#[test]
fn watching_in_a_pipe_tells_changes_until_it_is_interrupted() {
    let env = configured();
    let mut looks = 0;
    env.daemon(move |_| {
        looks += 1;
        let state = if looks < 3 {
            RolloutState::Rolling
        } else {
            RolloutState::Succeeded
        };
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
        assert!(
            told.contains("exit 0") && told.contains(text) && told.contains("allow-heals"),
            "{shell}"
        );
    }
    let told = env.run(&["man"]);
    assert!(told.contains(".TH holdfast 1") && told.contains("Exit codes:"), "{told}");
    assert_eq!(env.run(&["man", "--dir", "man1"]), "$ holdfast man --dir man1\nexit 0\n");
    assert!(env.path().join("man1/holdfast-status.1").is_file());
}

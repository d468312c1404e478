//! A real daemon over real HTTP with a real edge site: what people do with it, and what happens when it is stopped or killed.

mod lab;

use holdfast_core::entry::{Body, QuarantineAction};
use holdfast_core::ids::deploy_id;
use lab::{Lab, SITE, Shop, shop, until};
use rustix::process::Signal;
use serde_json::Value;
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, PrivateKey};
use std::collections::{BTreeMap, BTreeSet};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

#[test]
fn an_unsigned_commit_is_not_taken_and_a_signed_one_later_is() {
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&[1; 32]));
    let mut lab = Lab::new();
    lab.require_signatures_of(&key);
    lab.run(&[]);
    let shop = |tag| shop(tag, "100ms").text();
    let signed = lab.commit_signed(&[("shop.yaml", &shop("1.0.0"))], Some(&key));
    lab.command(&["status", "--wait", &signed]);

    let unsigned = lab.commit(&[("shop.yaml", &shop("1.1.0"))]);
    let waited = lab.cli(&["status", "--wait", &unsigned]);
    assert_eq!(waited.code, 1, "{}{}", waited.out, waited.err);
    let why = format!("commit {} is not taken", &unsigned[..12]);
    assert!(
        waited.out.contains(&why) && waited.out.contains("\"unsigned\""),
        "{}",
        waited.out
    );
    let view = lab.status();
    assert_eq!(view["source"]["commit"], *signed);
    assert_eq!(view["untrusted"]["commit"], *unsigned);
    assert!(lab.cli(&["status"]).out.contains(&why));
    let refused = lab.cli(&["accept-rewrite", &unsigned]);
    assert!(
        refused.code != 0 && refused.err.contains("no rewritten tip"),
        "{}",
        refused.err
    );
    assert_eq!(lab.answer(), "shop 1.0.0");

    let later = lab.commit_signed(&[("shop.yaml", &shop("1.2.0"))], Some(&key));
    lab.command(&["status", "--wait", &later]);
    assert_eq!(lab.answer(), "shop 1.2.0");
    // It came with the signed one on top.
    assert_eq!(lab.cli(&["status", "--wait", &unsigned]).code, 0);
    let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
    let sources: Vec<(bool, bool, String)> = lab
        .entries()
        .iter()
        .filter_map(|entry| match &entry.body {
            Body::Source(source) => Some((source.adopted, source.untrusted, source.signer.clone())),
            _ => None,
        })
        .collect();
    for (source, taken) in sources.iter().zip([true, false, true]) {
        assert_eq!((source.0, source.1), (taken, !taken), "{sources:?}");
        let is_verified = source.2.starts_with("verified: ") && source.2.ends_with(&fingerprint);
        assert!(is_verified == taken && !source.2.contains('@'), "{sources:?}");
    }
    assert_eq!(sources.len(), 3, "{sources:?}");
    let audited = lab.cli(&["audit", "unsigned", "--json"]).json();
    assert_eq!(audited["deploys"].as_array().map(Vec::len), Some(0), "{audited}");
}

#[test]
fn a_bad_release_comes_back_and_stays_out_until_it_is_let_in() {
    let (lab, _) = Lab::serving();
    let good = lab.commit(&[("shop.yaml", &shop("1.1.0", "100ms").text())]);
    lab.command(&["status", "--wait", &good]);
    assert_eq!(lab.answer(), "shop 1.1.0");

    let bad = lab.commit(&[("shop.yaml", &shop("1.3.0", "100ms").text())]);
    assert_eq!(lab.cli(&["status", "--wait", &bad]).code, 1, "rolled back");
    assert_eq!(lab.answer(), "shop 1.1.0");
    let kept_out = lab.quarantined();
    assert_eq!(kept_out.len(), 1, "{kept_out:?}");
    let release = kept_out[0]["quarantine"]["release"].as_str().unwrap()[..12].to_owned();

    lab.command(&["quarantine", "lift", "shop", &release, "--reason", "once more"]);
    until("the release tried again, and out again", || {
        let actions: Vec<QuarantineAction> = lab
            .entries()
            .iter()
            .filter_map(|entry| match &entry.body {
                Body::Quarantine(quarantine) => Some(quarantine.action),
                _ => None,
            })
            .collect();
        let expected = [QuarantineAction::Set, QuarantineAction::Lift, QuarantineAction::Set];
        (actions == expected).then_some(())
    });

    lab.command(&["rollback", "shop"]);
    lab.becomes("succeeded");
    assert_eq!(lab.answer(), "shop 1.1.0");
    let (digest, commits) = (&lab.digests["1.1.0"], |audit: Value| -> Vec<String> {
        let deploys = audit["deploys"].as_array().unwrap().clone();
        deploys
            .iter()
            .map(|deploy| deploy["commit"].as_str().unwrap().to_owned())
            .collect()
    });
    let of_digest = commits(lab.cli(&["audit", "digest", digest, "--json"]).json());
    assert!(
        !of_digest.is_empty() && of_digest.iter().all(|commit| *commit == good),
        "{of_digest:?}"
    );
}

#[test]
fn people_hold_end_and_give_up_a_rollout() {
    let (lab, _) = Lab::serving();
    lab.commit_and_reach_first_weight(&shop("1.1.0", "1h"));
    lab.command(&["pause", "shop", "--reason", "lunch"]);
    assert_eq!(lab.status()["workloads"][0]["wanted"]["paused"], true);
    lab.command(&["resume", "shop"]);
    lab.command(&["advance", "shop"]);
    lab.becomes("succeeded");
    assert_eq!(lab.answer(), "shop 1.1.0");

    lab.commit_and_reach_first_weight(&shop("1.2.0", "1h"));
    lab.command(&["abort", "shop", "--reason", "changed our minds"]);
    until("1.1.0 alone again", || {
        let unit = &lab.status()["workloads"][0]["units"][0];
        (unit["attempt"].is_null() && (0..20).all(|_| lab.answer() == "shop 1.1.0")).then_some(())
    });
    assert_eq!(lab.quarantined().len(), 1);
    assert!(lab.command(&["sync"]).contains("looking at Git"));
    for (args, message) in [
        (&["pause", "nothing"] as &[&str], "no workload main/nothing"),
        (&["advance", "shop"], "no rollout of main/shop is open"),
    ] {
        let refused = lab.cli(args);
        assert!(
            refused.code == 1 && refused.err.contains(message),
            "{args:?}: {}",
            refused.err
        );
    }
}

/// The candidate is healthy and has traffic; that nobody probed it while the daemon was down says nothing about it.
#[test]
fn a_pause_and_a_crash_blame_no_healthy_release() {
    let (mut lab, _) = Lab::serving();
    lab.commit_and_reach_first_weight(&shop("1.1.0", "1h"));
    lab.command(&["pause", "shop"]);
    lab.kill_daemon();
    lab.run(&[]);
    let begun = lab.status()["t"].as_u64().unwrap();
    // Longer than the health time-out and the stable time together.
    until("ledger time that goes on", || {
        (lab.status()["t"].as_u64().unwrap() > begun + 4_000).then_some(())
    });
    assert_eq!(lab.quarantined(), Vec::<Value>::new());
    lab.command(&["resume", "shop"]);
    lab.command(&["advance", "shop"]);
    lab.becomes("succeeded");
    assert_eq!(lab.answer(), "shop 1.1.0");
}

/// What the operator did not grant is no fault of the release.
#[test]
fn a_network_that_may_not_be_probed_blames_no_release() {
    let mut lab = Lab::new();
    lab.grant_no_probes();
    lab.run(&[]);
    lab.commit(&[("shop.yaml", &shop("1.0.0", "100ms").text())]);
    let begun = until("a request or a wait", || {
        let view = lab.status();
        (!view["workloads"][0]["wanted"].is_null()).then(|| view["t"].as_u64().unwrap())
    });
    until("a refusal, or the health time-out", || {
        let view = lab.status();
        let refused = view["workloads"][0]["wanted"]["state"] == "refused";
        (refused || view["t"].as_u64().unwrap() > begun + 4_000).then_some(())
    });
    assert_eq!(lab.quarantined(), Vec::<Value>::new());
}

/// Where systemd would listen.
fn notify_socket(name: &str, lab: &Lab) -> (UnixDatagram, String) {
    let (socket, place) = match name.strip_prefix('@') {
        Some(name) => {
            let name = format!("{name}-{}", std::process::id());
            let address = SocketAddr::from_abstract_name(&name).unwrap();
            (UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}"))
        }
        None => {
            let path = lab.path(name);
            (UnixDatagram::bind(&path).unwrap(), path.display().to_string())
        }
    };
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    (socket, place)
}

fn told(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 64];
    let read = socket.recv(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

#[test]
fn a_stop_in_mid_rollout_loses_nothing() {
    let (mut lab, _) = Lab::serving();
    lab.signal_daemon(Signal::TERM);
    assert!(lab.ended().success());
    // What was proven before would skip the hold, so the second one is a release of its own.
    let (first, second) = (
        shop("1.1.0", "1h"),
        Shop {
            timeout_ms: 900,
            ..shop("1.0.0", "1h")
        },
    );
    for (name, shop) in [("@holdfast-test", first), ("notify", second)] {
        let (socket, place) = notify_socket(name, &lab);
        lab.run(&[("NOTIFY_SOCKET", &place)]);
        assert_eq!(told(&socket), "READY=1", "{name}");
        lab.commit_and_reach_first_weight(&shop);
        lab.signal_daemon(Signal::TERM);
        assert_eq!(told(&socket), "STOPPING=1", "{name}");
        assert!(lab.ended().success());
        let entries = lab.entries();
        let stopped_at = log_lines(&lab, "daemon.log")
            .iter()
            .rev()
            .find(|line| line["message"].as_str().unwrap().starts_with("stopping"))
            .and_then(|line| line["entries"].as_u64())
            .unwrap();
        let after: Vec<&str> = entries[stopped_at as usize..].iter().map(|entry| entry.body.kind()).collect();
        let ends = |kind: &&str| ["result", "observation-root"].contains(kind);
        assert!(after.iter().all(ends), "{after:?}");
        let snapshots = std::fs::read_dir(lab.path("data/ledger/snapshots")).unwrap();
        assert!(
            snapshots
                .flatten()
                .any(|file| file.file_name().to_string_lossy().contains(&entries.len().to_string())),
            "a snapshot of {} entries",
            entries.len()
        );
        lab.run(&[]);
        lab.command(&["advance", "shop"]);
        lab.becomes("succeeded");
        assert_eq!(lab.answer(), format!("shop {}", shop.tag));
        lab.signal_daemon(Signal::INT);
        assert!(lab.ended().success());
    }
}

#[test]
fn a_stopping_daemon_takes_no_commands_and_a_second_signal_ends_it() {
    let (mut lab, _) = Lab::serving();
    // The site answers nothing, so the call in flight does not end.
    lab.signal_site(Signal::STOP);
    lab.commit(&[("shop.yaml", &shop("1.1.0", "100ms").text())]);
    until("a call in flight", || {
        let last = lab.entries().pop()?;
        let begun = |line: &str| line.contains("\"call begins\"") && line.contains(&format!("\"intent\":{}", last.seq));
        let log = std::fs::read_to_string(lab.path("daemon.log")).ok()?;
        log.lines().any(begun).then_some(())
    });
    lab.signal_daemon(Signal::TERM);
    until("a daemon that says it is stopping", || {
        (lab.status()["state"] == "stopping").then_some(())
    });
    for args in [&["pause", "shop"] as &[&str], &["sync"]] {
        let refused = lab.cli(args);
        assert!(
            refused.code == 1 && refused.err.contains("the daemon is stopping"),
            "{args:?}: {}",
            refused.err
        );
    }
    let intents = |lab: &Lab| {
        lab.entries()
            .iter()
            .filter(|entry| matches!(entry.body, Body::Intent(_)))
            .count()
    };
    let before = intents(&lab);
    lab.signal_daemon(Signal::TERM);
    assert_eq!(lab.ended().code(), Some(143));
    assert_eq!(intents(&lab), before);
    lab.command(&["ledger", "verify"]);
    lab.signal_site(Signal::CONT);
    lab.run(&[]);
    lab.becomes("succeeded");
    assert_eq!(lab.answer(), "shop 1.1.0");
    let launches: Vec<_> = lab.journal().into_iter().filter(|line| line.verb == "launch").collect();
    assert_eq!(launches.len(), 2, "each release once: {launches:?}");
}

#[test]
fn plan_and_audit_say_the_same_with_and_without_the_daemon() {
    let (mut lab, first) = Lab::serving();
    // The pin is inherited; the deploy is this commit's.
    let second = lab.commit(&[(
        "shop.yaml",
        &Shop {
            timeout_ms: 900,
            ..shop("1.0.0", "100ms")
        }
        .text(),
    )]);
    lab.command(&["status", "--wait", &second]);
    std::fs::create_dir(lab.path("next")).unwrap();
    for name in ["target.yaml", "shop.yaml"] {
        std::fs::copy(lab.path("repo").join(name), lab.path("next").join(name)).unwrap();
    }
    std::fs::write(lab.path("next/shop.yaml"), shop("1.1.0", "100ms").text()).unwrap();
    let entries = lab.entries().len() as u64;
    until("an index that is up to date", || {
        (lab.cli(&["audit", "target", SITE, "--json"]).json()["as_of"] == entries).then_some(())
    });
    let ask = |lab: &Lab| {
        let why = format!("shop@{SITE}");
        let asks: [&[&str]; 4] = [
            &["audit", "target", SITE, "--json", "--as-of", &entries.to_string()],
            &["audit", "why", &why, "--json", "--as-of", &entries.to_string()],
            &["plan", "--json"],
            &["plan", "next", "--json"],
        ];
        asks.map(|args| lab.cli(args).json())
    };
    let live = ask(&lab);
    let text = lab.command(&["audit", "target", SITE]);
    assert!(text.contains("as of entry") && text.contains("the daemon's index"), "{text}");
    lab.signal_daemon(Signal::TERM);
    lab.ended();
    let offline = ask(&lab);
    let commits: Vec<&str> = live[0]["deploys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|deploy| deploy["commit"].as_str().unwrap())
        .collect();
    assert_eq!(commits, [&first, &second]);
    assert_eq!(live[1]["deploy"]["commit"], *second);
    assert_eq!(live[..2], offline[..2]);
    assert_eq!(live[2]["steps"], Value::Array(Vec::new()), "nothing to do");
    let actions = |plan: &Value| -> Vec<String> {
        let steps = plan["steps"].as_array().unwrap().clone();
        steps.iter().map(|step| step["action"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(actions(&live[3]), ["pin", "request", "replace"]);
    for (live, offline) in live[2..].iter().zip(&offline[2..]) {
        assert_eq!(live["steps"], offline["steps"]);
    }
    assert!(offline[3]["from"].as_str().unwrap().contains("no daemon runs"));
}

/// JSON in which no object has a key twice.
struct Strict(Value);

impl<'de> serde::Deserialize<'de> for Strict {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> serde::de::Visitor<'de> for Any {
            type Value = Strict;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("JSON without duplicate keys")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
                Ok(Strict(value.into()))
            }
            fn visit_unit<E>(self) -> Result<Strict, E> {
                Ok(Strict(Value::Null))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Strict, A::Error> {
                let mut all = Vec::new();
                while let Some(Strict(value)) = seq.next_element()? {
                    all.push(value);
                }
                Ok(Strict(all.into()))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
                let mut all = serde_json::Map::new();
                while let Some((key, Strict(value))) = map.next_entry::<String, Strict>()? {
                    if all.insert(key.clone(), value).is_some() {
                        return Err(serde::de::Error::custom(format!("key {key:?} twice")));
                    }
                }
                Ok(Strict(all.into()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

fn log_lines(lab: &Lab, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(lab.path(name)).unwrap();
    let line = |line: &str| match serde_json::from_str::<Strict>(line) {
        Ok(Strict(value)) => value,
        Err(error) => panic!("{name}: {error}: {line}"),
    };
    text.lines().map(line).collect()
}

#[test]
fn the_log_is_data() {
    let (mut lab, _) = Lab::serving();
    lab.signal_daemon(Signal::TERM);
    lab.ended();
    let lines = log_lines(&lab, "daemon.log");
    let deploy = lab
        .entries()
        .iter()
        .find(|entry| entry.body.kind() == "attempt")
        .map(|entry| deploy_id(1, entry.on.attempt.unwrap_or(entry.seq)))
        .unwrap();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut messages = BTreeSet::new();
    for line in &lines {
        let message = line["message"].as_str().unwrap();
        messages.insert(message.to_owned());
        if ["attempt", "intent", "result"].contains(&message) {
            assert_eq!(line["deploy"], *deploy, "{line}");
            *counts.entry(message).or_default() += 1;
        }
        if message == "rollout" {
            assert!(line["rollout"].is_u64() && line["workload"] == "main/shop", "{line}");
        }
    }
    assert_eq!(counts.len(), 3, "{counts:?}");
    assert!(
        messages
            .iter()
            .all(|message| !message.contains(&deploy) && !message.contains("main/shop")),
        "values are fields: {messages:?}"
    );
    let spans: BTreeSet<Vec<&str>> = lines
        .iter()
        .filter_map(|line| {
            let spans = line["spans"].as_array()?;
            spans.iter().map(|span| span["name"].as_str()).collect()
        })
        .collect();
    assert!(spans.contains(&vec!["target", "unit", "step", "plugin_call"]), "{spans:?}");
    let launch = lines.iter().find(|line| {
        let spans = line["spans"].as_array();
        line["message"] == "plugin call ended"
            && spans.is_some_and(|spans| spans.iter().any(|span| span["verb"] == "launch" && span["deploy"] == *deploy))
    });
    assert!(launch.is_some(), "a plugin call that names its deploy");
    let effects = log_lines(&lab, "site.log");
    let effect = effects.iter().find(|line| line["message"] == "effect").unwrap();
    assert_eq!(effect["deploy"], *deploy, "the site names the deploy too");
}

#[test]
fn what_auditors_ask() {
    let (mut lab, first) = Lab::serving();
    let good = lab.commit(&[("shop.yaml", &shop("1.1.0", "100ms").text())]);
    lab.command(&["status", "--wait", &good]);
    let bad = lab.commit(&[("shop.yaml", &shop("1.3.0", "100ms").text())]);
    assert_eq!(lab.cli(&["status", "--wait", &bad]).code, 1);
    let deploys = lab.cli(&["audit", "workload", "shop", "--json"]).json()["deploys"].clone();
    let (outcomes, ids): (Vec<_>, Vec<_>) = deploys
        .as_array()
        .unwrap()
        .iter()
        .map(|deploy| (deploy["outcome"].as_str().unwrap(), deploy["deploy"].as_str().unwrap()))
        .unzip();
    assert_eq!(outcomes, ["succeeded", "succeeded", "bad"]);
    lab.command(&["incident", "open", "--deploy", ids[1], "--reason", "slow"]);
    lab.command(&["incident", "close", "--deploy", ids[1]]);
    let before_the_last = lab.entries().into_iter().find(|entry| match &entry.body {
        Body::Source(source) => source.new == bad,
        _ => false,
    });
    let before_the_last = before_the_last.unwrap().seq.to_string();
    let reference = deploys[0]["references"].as_object().unwrap().keys().next().unwrap().clone();
    lab.signal_daemon(Signal::TERM);
    lab.ended();

    // The same from the directory, with nobody there.
    for id in &ids {
        let why = lab.cli(&["audit", "why", id, "--json"]);
        let replay = why.json()["replay"].as_array().unwrap().clone();
        assert!(why.code == 0 && replay.len() >= 2, "{id}: {replay:?}");
        assert!(replay.iter().all(|one| one["same"] == true), "{id}: {replay:?}");
    }
    let then = lab
        .cli(&["audit", "workload", "shop", "--json", "--as-of", &before_the_last])
        .json();
    assert_eq!(then["deploys"].as_array().unwrap().len(), 2);
    let tags = lab.cli(&["audit", "tags", &reference, "--json"]);
    let seen = tags.json();
    assert_eq!((tags.code, &seen["still"]), (0, &Value::Bool(true)), "{seen}");
    assert!(seen["polls"].as_u64().unwrap() >= 1, "{seen}");
    let dora = &lab.cli(&["audit", "dora", "--json"]).json()["figures"]["all"];
    for (figure, expected) in [("succeeded", 2.0), ("bad", 1.0), ("incidents", 1.0), ("incident_rate", 0.5)] {
        assert_eq!(dora[figure].as_f64(), Some(expected), "{dora}");
    }
    assert!(dora["median_lead_time_s"].as_f64().unwrap() < 60.0, "{dora}");
    for (args, code, says) in [
        (["audit", "drift", "--json"], 0, "\"drift\": []"),
        (["audit", "unsigned", "--json"], 1, first.as_str()),
        (["audit", "retention", "--json"], 0, "\"ok\": true"),
    ] {
        let ran = lab.cli(&args);
        assert!(
            ran.code == code && ran.out.contains(says),
            "{args:?}: {} {}",
            ran.code,
            ran.out
        );
    }
    // A layout that lost what a way back needs.
    std::fs::remove_dir_all(lab.path("bundles")).unwrap();
    assert_eq!(lab.cli(&["audit", "retention"]).code, 1);
}

//! What an operator does to a ledger over the years: another key for the log, damage and a new epoch, with processes and files as
//! they are.

#[allow(dead_code, reason = "shared with the other tests of the daemon")]
mod lab;

use holdfast_core::entry::{Body, CommandVerb};
use lab::{Lab, shop, until};
use rustix::process::Signal;

const NAME: &str = "holdfast.example.com/lab";

/// A lab whose ledger is signed, and the verifier key.
fn signed() -> (Lab, String) {
    let mut lab = Lab::new();
    let key = lab.command(&["ledger", "key", "new", "log.key", "--name", NAME]);
    configure(&lab, "ledger: { key_file: log.key }\n");
    lab.run(&[]);
    (lab, key.trim().to_owned())
}

/// The configuration with `more` in the place of what an earlier call added.
fn configure(lab: &Lab, more: &str) {
    let text = std::fs::read_to_string(lab.path("holdfast.yaml")).unwrap();
    let kept = text.split("ledger:").next().unwrap();
    std::fs::write(lab.path("holdfast.yaml"), format!("{kept}{more}")).unwrap();
}

/// Waits until everything so far is below a checkpoint of `key`, and gives the report of who verifies by `trusted`.
fn published_by(lab: &Lab, key: &str, trusted: &str) -> serde_json::Value {
    let size = lab.entries().len() as u64;
    until("a checkpoint by the key", || {
        let report = lab.cli(&["ledger", "verify", "--json", "--key", trusted]).json();
        let checkpoint = &report["checkpoint"];
        (checkpoint["signed_by"] == key && checkpoint["size"].as_u64()? >= size).then_some(report)
    })
}

#[test]
fn the_log_changes_its_key_while_it_is_written() {
    let (mut lab, old) = signed();
    let commit = lab.commit(&[("shop.yaml", &shop("1.0.0", "100ms").text())]);
    lab.command(&["status", "--wait", &commit]);
    published_by(&lab, &old, &old);
    std::fs::copy(lab.path("data/ledger/tlog/checkpoint"), lab.path("earlier")).unwrap();
    lab.command(&["ledger", "prove", "2", "--into", "evidence"]);

    let inside = lab.cli(&["ledger", "key", "rotate", "data/next.key"]);
    assert!(inside.code != 0 && !lab.path("data/next.key").exists(), "{}", inside.err);
    let said = lab.command(&["ledger", "key", "rotate", "next.key", "--reason", "every year"]);
    let new = lab.command(&["ledger", "key", "show", "next.key"]).trim().to_owned();
    assert!(new != old && said.contains(&new) && said.contains("next.key"), "{said}");
    let entries = lab.entries();
    let at = entries
        .iter()
        .position(|entry| matches!(entry.body, Body::LogKey(_)))
        .unwrap();
    let command = &entries[at - 1];
    assert!(
        matches!(&command.body, Body::Command(command) if command.verb == CommandVerb::RotateLogKey && command.reason == "every year"),
        "{command:?}"
    );
    assert_eq!((command.by.kind.as_str(), &entries[at].because), ("user", &vec![command.seq]));
    let report = published_by(&lab, &new, &old);
    assert_eq!(report["ok"], true, "{report}");
    let again = lab.cli(&["ledger", "key", "rotate", "next.key"]);
    assert!(
        again.code != 0 && again.err.contains("is the log's key already"),
        "{}",
        again.err
    );

    // The daemon goes on while its configuration names the old file, and takes one that names the new.
    configure(&lab, "ledger: { key_file: next.key }\nlimits: { heals_per_hour: 7 }\n");
    until("the configuration taken", || {
        let log = std::fs::read_to_string(lab.path("daemon.log")).unwrap();
        log.contains("the changed configuration is taken").then_some(())
    });
    // What the old key signed is still proven.
    let verify = ["ledger", "verify", "--from", "earlier"];
    assert!(lab.command(&verify).contains("is contained"));
    lab.command(&["ledger", "check", "evidence/2.json"]);

    lab.kill_daemon();
    configure(&lab, "ledger: { key_file: log.key }\n");
    lab.start(&[]);
    assert!(!lab.ended().success());
    let log = std::fs::read_to_string(lab.path("daemon.log")).unwrap();
    assert!(
        log.contains("is not the one that the log names") && log.contains(&format!("the log's key is {new} since entry {at}")),
        "{log}"
    );
    configure(&lab, "ledger: { key_file: next.key }\n");
    lab.run(&[]);
    let commit = lab.commit(&[("shop.yaml", &shop("1.1.0", "100ms").text())]);
    lab.command(&["status", "--wait", &commit]);
    let report = published_by(&lab, &new, &new);
    assert_eq!(report["ok"], true, "{report}");
}

/// Flips a bit in the middle of where `needle` is in the file.
fn damage(path: &std::path::Path, needle: &[u8]) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at + needle.len() / 2] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn log_of(lab: &Lab) -> String {
    std::fs::read_to_string(lab.path("daemon.log")).unwrap()
}

#[test]
fn damage_is_found_beside_the_work_and_given_up_by_a_person() {
    let (mut lab, key) = signed();
    let commit = lab.commit(&[("shop.yaml", &shop("1.0.0", "100ms").text())]);
    lab.command(&["status", "--wait", &commit]);
    let kept = lab.entries().len() as u64;
    lab.command(&["freeze", "shop"]);
    lab.signal_daemon(Signal::TERM);
    assert!(lab.ended().success());
    let entries = lab.entries();

    // A blob that only a replay would read: the daemon goes on, says so, and repairs nothing.
    let inputs = entries.iter().find_map(|entry| entry.blobs.get("inputs")).unwrap();
    let blob = lab.path(&format!("data/ledger/blobs/sha256/{}/{}", &inputs.hex()[..2], inputs.hex()));
    let whole = std::fs::read(&blob).unwrap();
    damage(&blob, &whole);
    lab.run(&[]);
    let alarm = until("an alarm", || {
        let status = lab.status();
        Some(status["ledger_alarms"][0].as_str()?.to_owned())
    });
    assert!(alarm.contains("blob-damaged") && alarm.contains(inputs.hex()), "{alarm}");
    assert!(lab.command(&["status"]).contains("blob-damaged"));
    assert_ne!(std::fs::read(&blob).unwrap(), whole);
    lab.signal_daemon(Signal::TERM);
    assert!(lab.ended().success());
    std::fs::write(&blob, whole).unwrap();

    // An entry below a mark: the boot does not see it, the scrub does, and from then on every boot.
    let bytes = entries[kept as usize].to_bytes().unwrap();
    damage(&lab.path("data/ledger/log/00000000000000000000.log"), &bytes);
    lab.start(&[]);
    assert!(!lab.ended().success());
    let log = log_of(&lab);
    assert!(log.contains("the ledger stopped: LEDGER_LOSS"), "{log}");
    lab.start(&[]);
    assert!(!lab.ended().success());
    let refused = log_of(&lab);
    let advice = format!("new-epoch --from {kept}");
    assert!(refused[log.len()..].contains(&advice), "{}", &refused[log.len()..]);

    let wrong = lab.cli(&["ledger", "new-epoch", "--from", "3", "--reason", "a try"]);
    assert!(wrong.code != 0 && !lab.path("data/ledger/lost").exists(), "{}", wrong.err);
    let said = lab.command(&[
        "ledger",
        "new-epoch",
        "--from",
        &kept.to_string(),
        "--reason",
        "the disk failed",
    ]);
    assert!(said.contains("epoch 2 begins"), "{said}");
    assert!(lab.path("data/ledger/lost/1/log/00000000000000000000.log").exists());
    lab.run(&[]);
    // Nobody remembers the freeze.
    let commit = lab.commit(&[("shop.yaml", &shop("1.1.0", "100ms").text())]);
    lab.command(&["status", "--wait", &commit, "--timeout-s", "60"]);
    assert_eq!(lab.answer(), "shop 1.1.0");
    assert_eq!(lab.status()["epoch"], 2);
    let given_up = &lab.entries()[kept as usize];
    assert!(
        matches!(&given_up.body, Body::Command(command) if command.reason == "the disk failed" && matches!(command.verb, CommandVerb::NewEpoch { epoch: 2, .. })),
        "{given_up:?}"
    );
    let named = key.replacen(NAME, &format!("{NAME}/2"), 1);
    let report = until("a checkpoint of the new epoch", || {
        let report = lab.cli(&["ledger", "verify", "--json", "--key", &key]).json();
        (report["checkpoint"]["size"].as_u64()? > kept).then_some(report)
    });
    assert_eq!(
        (&report["ok"], &report["checkpoint"]["origin"]),
        (&true.into(), &format!("{NAME}/2").into()),
        "{report}"
    );
    assert_ne!(report["checkpoint"]["signed_by"], named, "the name is part of the key's id");
    lab.command(&["ledger", "prove", &kept.to_string(), "--into", "evidence"]);
    lab.command(&["ledger", "check", &format!("evidence/{kept}.json"), "--key", &key]);
}

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

#[test]
fn an_old_copy_is_found_out_by_the_checkpoint_pinned_in_git() {
    let mut lab = Lab::new();
    lab.command(&["ledger", "key", "new", "log.key", "--name", NAME]);
    let pins = git2::Repository::init_bare(lab.path("pins.git")).unwrap();
    configure(&lab, "ledger: { key_file: log.key, pin: { url: pins.git, interval: 1s } }\n");
    lab.run(&[]);
    let pinned = |more_than: u64| {
        until("a pinned checkpoint", || {
            let tree = pins.find_reference("refs/holdfast/checkpoint").ok()?.peel_to_tree().unwrap();
            let blob = pins.find_blob(tree.get_name("checkpoint").unwrap().id()).unwrap();
            let text = String::from_utf8(blob.content().to_vec()).unwrap();
            let size: u64 = text.lines().nth(1).unwrap().parse().unwrap();
            (size > more_than).then_some(size)
        })
    };
    let commit = lab.commit(&[("shop.yaml", &shop("1.0.0", "100ms").text())]);
    lab.command(&["status", "--wait", &commit, "--timeout-s", "60"]);
    pinned(0);
    lab.signal_daemon(Signal::TERM);
    assert!(lab.ended().success());
    let old = lab.entries().len() as u64;
    copy(&lab.path("data/ledger"), &lab.path("old"));
    lab.run(&[]);
    lab.command(&["freeze", "shop"]);
    let size = pinned(old);
    // Commits on one another, and nothing was forced.
    let tip = pins
        .find_reference("refs/holdfast/checkpoint")
        .unwrap()
        .peel_to_commit()
        .unwrap();
    assert_eq!((tip.parent_count(), tip.author().name().unwrap()), (1, "holdfast"));
    lab.signal_daemon(Signal::TERM);
    assert!(lab.ended().success());

    std::fs::rename(lab.path("data/ledger"), lab.path("whole")).unwrap();
    std::fs::rename(lab.path("old"), lab.path("data/ledger")).unwrap();
    let before = log_of(&lab).len();
    lab.start(&[]);
    assert!(!lab.ended().success());
    let said = format!("{size} entries of this log are pinned, and {old} are here: this is an old copy of the ledger");
    assert!(log_of(&lab)[before..].contains(&said), "{}", &log_of(&lab)[before..]);
    assert_eq!(lab.entries().len() as u64, old, "nothing was written to the old copy");

    // The whole one goes on; a repository that is away is an alarm and no more.
    std::fs::remove_dir_all(lab.path("data/ledger")).unwrap();
    std::fs::rename(lab.path("whole"), lab.path("data/ledger")).unwrap();
    std::fs::rename(lab.path("pins.git"), lab.path("away.git")).unwrap();
    lab.run(&[]);
    until("an alarm", || {
        let alarm = lab.status()["ledger_alarms"][0].as_str()?.to_owned();
        alarm.contains("`ledger.pin` cannot be had").then_some(())
    });
    std::fs::rename(lab.path("away.git"), lab.path("pins.git")).unwrap();
    lab.command(&["thaw", "shop"]);
    pinned(size);
    until("the alarm's end", || lab.status()["ledger_alarms"].is_null().then_some(()));
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

#[test]
fn bundles_that_are_exported_may_go_and_addresses_be_forgotten() {
    let (mut lab, key) = signed();
    let commit = lab.commit(&[("shop.yaml", &shop("1.0.0", "100ms").text())]);
    lab.command(&["status", "--wait", &commit, "--timeout-s", "60"]);
    // Enough of them for a full bundle.
    for n in 0..130 {
        let verb = if n % 2 == 0 { "freeze" } else { "thaw" };
        lab.command(&[verb, "shop", "--reason", &n.to_string()]);
        lab.command(&[verb, "--target", lab::SITE, "--reason", &n.to_string()]);
    }
    published_by(&lab, &key, &key);
    let bundle = lab.path("data/ledger/tlog/tile/entries/000");
    assert!(bundle.exists());
    let export = lab.command(&["ledger", "export", "--proof", "--to", "270"]);
    let short: String = export.lines().take(200).map(|line| format!("{line}\n")).collect();
    std::fs::write(lab.path("short.jsonl"), short).unwrap();
    let refused = lab.cli(&["ledger", "prune", "--below", "256", "--export", "short.jsonl"]);
    assert!(
        refused.code != 0 && refused.err.contains("has no entry 200"),
        "{}",
        refused.err
    );
    std::fs::write(lab.path("export.jsonl"), &export).unwrap();
    lab.command(&[
        "ledger",
        "prune",
        "--below",
        "260",
        "--export",
        "export.jsonl",
        "--reason",
        "a year is over",
    ]);
    until("the bundle gone", || (!bundle.exists()).then_some(()));
    let report = published_by(&lab, &key, &key);
    assert_eq!(report["ok"], true, "{report}");
    let entries = lab.entries();
    let said = entries.iter().find_map(|entry| match &entry.body {
        Body::Retention(retention) => Some((retention.clone(), &entry.because)),
        _ => None,
    });
    let (retention, because) = said.unwrap();
    assert_eq!(retention.bundles_from, 256);
    assert_eq!(retention.export, holdfast_core::ids::Digest::of(export.as_bytes()));
    assert_eq!(entries[because[0] as usize].by.kind, "user");

    let author = |entries: &[holdfast_core::entry::Entry]| {
        let mut authors = entries.iter().filter_map(|entry| match &entry.body {
            Body::Source(source) => Some(source.author.clone()),
            _ => None,
        });
        authors.next_back().unwrap()
    };
    let before = author(&entries);
    let stranger = lab.cli(&["ledger", "forget", "nobody@localhost"]);
    assert!(
        stranger.code != 0 && stranger.err.contains("no hash of this address"),
        "{}",
        stranger.err
    );
    lab.command(&["ledger", "forget", "Test@localhost", "--reason", "asked for"]);
    let entries = lab.entries();
    let forgotten = entries.last().unwrap();
    let hash = before.clone();
    assert!(
        matches!(&forgotten.body, Body::Command(command) if command.verb == CommandVerb::ForgetAddress { hash }),
        "{forgotten:?}"
    );
    let again = lab.cli(&["ledger", "forget", "test@localhost"]);
    assert!(again.code != 0, "it is forgotten already");
    // The entries are as they were, and the next commit is somebody else's.
    let commit = lab.commit(&[("shop.yaml", &shop("1.1.0", "100ms").text())]);
    lab.command(&["status", "--wait", &commit, "--timeout-s", "60"]);
    assert_ne!(author(&lab.entries()), before);
    let report = published_by(&lab, &key, &key);
    assert_eq!(report["ok"], true, "{report}");
    lab.signal_daemon(Signal::TERM);
    assert!(lab.ended().success());
}

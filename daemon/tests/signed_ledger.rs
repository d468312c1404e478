//! The ledger as others see it: signed, cosigned by a witness that is a process of its own, proven entry by entry, copied,
//! restored, and found out when it is an old copy.

#[allow(dead_code, reason = "shared with the other tests of the daemon")]
mod lab;

use lab::{Lab, shop, until};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

struct Witness(Child, String);

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Listens on a port of its own, and cosigns what `log` signs.
fn witness(lab: &Lab, log: &str) -> Witness {
    let file = lab.path("witness.log");
    let child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args([
            "witness",
            "--dir",
            "witness",
            "--key",
            "witness.key",
            "--listen",
            "127.0.0.1:0",
        ])
        .args(["--log-format", "json", "--log-key", log])
        .current_dir(lab.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&file).unwrap())
        .spawn()
        .unwrap();
    let address = until("a witness that listens", || {
        let text = std::fs::read_to_string(&file).ok()?;
        let (_, rest) = text.split_once("\"address\":\"")?;
        Some(rest.split('"').next()?.to_owned())
    });
    Witness(child, address)
}

/// The published files over HTTP, as any web server would give them.
struct Published(String);

impl Published {
    fn serve(dir: &Path) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let dir = dir.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut line = String::new();
                let mut reader = BufReader::new(&stream);
                reader.read_line(&mut line).unwrap();
                let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                let mut header = String::new();
                while reader.read_line(&mut header).unwrap() > 2 {
                    header.clear();
                }
                let (status, body) = match std::fs::read(dir.join(path.trim_start_matches('/'))) {
                    Ok(body) => ("200 OK", body),
                    Err(_) => ("404 Not Found", Vec::new()),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(&[head.into_bytes(), body].concat()).unwrap();
            }
        });
        Self(format!("http://{address}"))
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn others_verify_the_ledger_and_an_old_copy_is_found_out() {
    let mut lab = Lab::new();
    let key = lab
        .command(&["ledger", "key", "new", "log.key", "--name", "holdfast.example.com/lab"])
        .trim()
        .to_owned();
    let witness_key = lab.command(&[
        "ledger",
        "key",
        "new",
        "witness.key",
        "--name",
        "witness.example.org",
        "--witness",
    ]);
    let witness_key = witness_key.trim().to_owned();
    let inside = lab.cli(&["ledger", "key", "new", "data/log.key", "--name", "holdfast.example.com/lab"]);
    assert!(inside.code != 0 && !lab.path("data/log.key").exists(), "{}", inside.err);
    let witness = witness(&lab, &key);
    let configured = std::fs::read_to_string(lab.path("holdfast.yaml")).unwrap();
    let more = format!(
        "ledger:\n  key_file: log.key\n  witnesses: {{ needed: 1, known: [ {{ url: \"http://{}\", key: \"{witness_key}\" }} ] }}\n",
        witness.1
    );
    std::fs::write(lab.path("holdfast.yaml"), configured + &more).unwrap();
    lab.run(&[]);
    let commit = lab.commit(&[("shop.yaml", &shop("1.0.0", "100ms").text())]);
    lab.command(&["status", "--wait", &commit]);
    let verify = ["ledger", "verify", "--json", "--key", &key, "--witness", &witness_key];
    let report = until("a checkpoint that is cosigned", || {
        let report = lab.cli(&verify).json();
        (report["checkpoint"]["cosigned"].as_array()?.len() == 1).then_some(report)
    });
    assert_eq!(report["ok"], true, "{report}");
    std::fs::copy(lab.path("data/ledger/tlog/checkpoint"), lab.path("earlier")).unwrap();

    // One entry, checked with nothing but the key.
    lab.command(&["ledger", "prove", "0", "3", "--into", "evidence"]);
    let check = ["ledger", "check", "evidence/3.json", "--key", &key, "--witness", &witness_key];
    assert!(lab.command(&check).contains("entry 3 of holdfast.example.com/lab"));
    let bytes = std::fs::read(lab.path("evidence/3.json")).unwrap();
    let mut changed = bytes.clone();
    changed[10] ^= 1;
    std::fs::write(lab.path("evidence/3.json"), changed).unwrap();
    assert_eq!(lab.cli(&check).code, 1);
    std::fs::write(lab.path("evidence/3.json"), bytes).unwrap();
    let other = ["ledger", "check", "evidence/3.json", "--key", &witness_key];
    assert_ne!(lab.cli(&other).code, 0, "another key proves nothing");

    lab.command(&["audit", "workload", "shop", "--proof", "answer"]);
    let proofs = std::fs::read_dir(lab.path("answer")).unwrap().count();
    assert!(proofs >= 20, "{proofs}");
    let began = std::fs::read_dir(lab.path("answer"))
        .unwrap()
        .map(|file| file.unwrap().path());
    for entry in began.filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        lab.command(&["ledger", "check", entry.to_str().unwrap(), "--key", &key]);
    }

    let envelope = lab.cli(&["audit", "attest", "shop@site-a"]).json();
    assert_eq!(envelope["signatures"][0]["keyid"], key);

    let published = Published::serve(&lab.path("data/ledger/tlog"));
    let report = lab.cli(&["ledger", "verify", &published.0, "--json", "--key", &key]).json();
    assert_eq!(
        (&report["ok"], report["entries"].as_u64() > Some(3)),
        (&true.into(), true),
        "{report}"
    );

    // A backup at work, then more happens, then the machine is lost.
    lab.command(&["ledger", "backup", "backup"]);
    let commit = lab.commit(&[("shop.yaml", &shop("1.1.0", "100ms").text())]);
    lab.command(&["status", "--wait", &commit]);
    let deployed = lab.entries().len();
    until("the witness has seen it", || {
        let checkpoint = &lab.cli(&verify).json()["checkpoint"];
        let seen = checkpoint["cosigned"].as_array()?.len() == 1 && checkpoint["size"].as_u64()? >= deployed as u64;
        seen.then_some(())
    });
    lab.signal_daemon(Signal::TERM);
    assert!(lab.ended().success());
    let size = lab.entries().len();
    until("the last entries published", || {
        let report = lab
            .cli(&["ledger", "verify", "--json", "--key", &key, "--from", "earlier"])
            .json();
        assert_eq!(report["ok"], true, "{report}");
        assert!(report["consistent_from"].as_u64() > Some(3), "{report}");
        (report["checkpoint"]["size"] == size).then_some(())
    });
    let csv = lab.command(&["ledger", "export", "--format", "csv"]);
    assert_eq!(csv.lines().count(), size + 1);
    std::fs::copy(lab.path("data/ledger/tlog/checkpoint"), lab.path("newest")).unwrap();
    copy(&lab.path("data"), &lab.path("data.whole"));
    std::fs::remove_dir_all(lab.path("data/ledger")).unwrap();
    let refused = lab.cli(&["ledger", "restore", "backup", "--from", "newest"]);
    assert!(refused.code != 0 && !lab.path("data/ledger/log").exists(), "{}", refused.err);
    // Whoever kept no checkpoint does not know; the witness does.
    lab.command(&["ledger", "restore", "backup"]);
    lab.start(&[]);
    assert!(!lab.ended().success());
    let log = std::fs::read_to_string(lab.path("daemon.log")).unwrap();
    assert!(
        log.contains("witness witness.example.org has cosigned") && log.contains("old copy"),
        "{log}"
    );
    std::fs::remove_dir_all(lab.path("data")).unwrap();
    std::fs::rename(lab.path("data.whole"), lab.path("data")).unwrap();
    lab.run(&[]);
    assert_eq!(lab.answer(), "shop 1.1.0");
}

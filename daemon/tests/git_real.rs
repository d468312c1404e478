//! The Git source against sshd and Apache. Run by `tests/run git`, which starts them.

use holdfast::adapters::git::{Class, GitConfig, GitSource};
use serde_json::{Value, json};
use std::path::PathBuf;

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run this by `tests/run git`"))
}

fn file(name: &str) -> String {
    PathBuf::from(env("HOLDFAST_GIT_DIR")).join(name).display().to_string()
}

/// The class of what went wrong, or the commit.
fn fetch(config: Value) -> Result<String, Class> {
    let config: GitConfig = serde_json::from_value(config).unwrap();
    let mirror = tempfile::tempdir().unwrap();
    let source = GitSource::open(&config, mirror.path()).unwrap();
    let head = source.fetch(None).map_err(|error| {
        eprintln!("{}: {error}", error.reason());
        error.class
    })?;
    let tree = source.tree(&head.commit).unwrap();
    assert_eq!(
        tree.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
        ["a.yaml"]
    );
    assert_eq!(
        source.read(&tree.files[0].blob).unwrap(),
        b"apiVersion: holdfast.dev/v1alpha1\n"
    );
    Ok(head.commit)
}

fn ssh(key: &str, known_hosts: &str) -> Value {
    json!({ "url": env("HOLDFAST_GIT_SSH"), "auth": { "ssh": { "key_file": file(key), "known_hosts_file": file(known_hosts) } }, "timeout": "20s" })
}

fn http(url: &str, password: &str, ca: Option<&str>) -> Value {
    json!({ "url": env(url), "auth": { "basic": { "username": "ci", "password_file": file(password) } }, "ca_file": ca.map(file), "timeout": "20s" })
}

#[test]
fn every_way_gives_the_same_commit() {
    let local = fetch(json!({ "url": file("repos/env.git") })).unwrap();
    assert_eq!(
        fetch(json!({ "url": format!("file://{}", file("repos/env.git")) })).unwrap(),
        local
    );
    assert_eq!(fetch(ssh("id", "known_hosts")).unwrap(), local);
    assert_eq!(fetch(http("HOLDFAST_GIT_HTTP", "password", None)).unwrap(), local);
    assert_eq!(fetch(http("HOLDFAST_GIT_HTTPS", "password", Some("ca.crt"))).unwrap(), local);
}

#[test]
fn strangers_are_refused() {
    for (what, config, class) in [
        ("wrong key", ssh("other", "known_hosts"), Class::Denied),
        ("wrong host key", ssh("id", "wrong_known_hosts"), Class::HostKey),
        ("no host key", ssh("id", "authorized_keys"), Class::HostKey),
        ("missing key file", ssh("none", "known_hosts"), Class::Denied),
        (
            "wrong password",
            http("HOLDFAST_GIT_HTTP", "wrong-password", None),
            Class::Denied,
        ),
        (
            "unknown authority",
            http("HOLDFAST_GIT_HTTPS", "password", None),
            Class::Unreachable,
        ),
        ("no credentials", json!({ "url": env("HOLDFAST_GIT_HTTP") }), Class::Denied),
        (
            "no such repository",
            json!({ "url": env("HOLDFAST_GIT_HTTP").replace("env.git", "none.git"), "auth": { "basic": { "username": "ci", "password_file": file("password") } } }),
            Class::NotFound,
        ),
        (
            "no such branch",
            json!({ "url": file("repos/env.git"), "branch": "nope" }),
            Class::NotFound,
        ),
        (
            "plain http elsewhere",
            json!({ "url": "http://git.example.com/x.git" }),
            Class::Invalid,
        ),
        (
            "password in the URL",
            json!({ "url": "https://ci:secret@127.0.0.1/x.git" }),
            Class::Invalid,
        ),
        ("unknown scheme", json!({ "url": "ftp://127.0.0.1/x.git" }), Class::Invalid),
    ] {
        assert_eq!(fetch(config), Err(class), "{what}");
    }
}

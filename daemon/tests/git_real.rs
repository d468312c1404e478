//! The Git source against sshd and Apache. Run by `tests/run git`, which starts them.

use holdfast::adapters::git::{AllowedSigners, Class, GitConfig, GitSource};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

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

fn run(dir: &Path, program: &str, args: &[&str]) -> String {
    let done = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// The same file of allowed signers, and the same verdict as git's own: G good, U good but unknown to the file.
#[test]
fn what_git_and_ssh_keygen_sign_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let git = |args: &[&str]| run(dir, "git", args);
    git(&["init", "--quiet", "--initial-branch", "main"]);
    for (name, value) in [
        ("user.name", "Ada"),
        ("user.email", "ada@example.com"),
        ("gpg.format", "ssh"),
        ("gpg.ssh.allowedSignersFile", "allowed"),
    ] {
        git(&["config", name, value]);
    }
    let mut allowed = String::from("# for git\n");
    for (kind, bits) in [("ed25519", "256"), ("ecdsa", "256"), ("rsa", "3072"), ("stranger", "256")] {
        let kind_of_key = if kind == "stranger" { "ed25519" } else { kind };
        run(
            dir,
            "ssh-keygen",
            &["-q", "-t", kind_of_key, "-b", bits, "-N", "", "-C", "a comment", "-f", kind],
        );
        if kind != "stranger" {
            let key = std::fs::read_to_string(dir.join(format!("{kind}.pub"))).unwrap();
            allowed += &format!("*@example.com namespaces=\"git\",valid-after=\"20200101Z\" {key}");
        }
    }
    std::fs::write(dir.join("allowed"), &allowed).unwrap();
    let signers = AllowedSigners::parse(&dir.join("allowed"), allowed.as_bytes()).unwrap();
    let source = GitSource::open(&GitConfig::new(&dir.display().to_string()), &dir.join(".git")).unwrap();
    let verdict = |text: String| source.verdict(&text, Some(&signers)).unwrap().text(|email| email.to_owned());
    for (kind, by_git, expected) in [
        ("ed25519", "G", "verified: ada@example.com "),
        ("ecdsa", "G", "verified: ada@example.com "),
        ("rsa", "G", "verified: ada@example.com "),
        ("stranger", "U", "unknown key "),
    ] {
        let key = format!("user.signingkey={kind}.pub");
        git(&[
            "-c",
            &key,
            "commit",
            "--quiet",
            "--allow-empty",
            "-S",
            "-m",
            "one line\n\nand more",
        ]);
        assert_eq!(git(&["log", "-1", "--format=%G?"]), by_git, "{kind}");
        let fingerprint = run(dir, "ssh-keygen", &["-l", "-f", &format!("{kind}.pub")]);
        let fingerprint = fingerprint.split(' ').nth(1).unwrap();
        assert_eq!(
            verdict(git(&["rev-parse", "HEAD"])),
            format!("{expected}{fingerprint}"),
            "{kind}"
        );
    }
    // A merge that nobody signed, of two sides that are signed.
    git(&["checkout", "--quiet", "-b", "side", "HEAD~1"]);
    git(&[
        "-c",
        "user.signingkey=rsa.pub",
        "commit",
        "--quiet",
        "--allow-empty",
        "-S",
        "-m",
        "side",
    ]);
    git(&["merge", "--quiet", "--no-ff", "-m", "merge", "main"]);
    assert_eq!(verdict(git(&["rev-parse", "HEAD"])), "unsigned");
    git(&[
        "-c",
        "user.signingkey=rsa.pub",
        "commit",
        "--quiet",
        "--amend",
        "--no-edit",
        "-S",
    ]);
    assert!(verdict(git(&["rev-parse", "HEAD"])).starts_with("verified: "));
}

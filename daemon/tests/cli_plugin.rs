//! The command line on plugins: what a component is, what an upgrade wants, who signed it, and one call of it.

use holdfast::builtin;
use holdfast_host::with_metadata;
use holdfast_ledger::tlog::key;
use holdfast_ledger::tlog::note::KeyKind;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

fn holdfast(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["plugin"].iter().chain(args))
        .current_dir(dir)
        .env_clear()
        .env("COLUMNS", "160")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json_of(dir: &Path, args: &[&str]) -> (i32, Value) {
    let (code, out, err) = holdfast(dir, &[args, &["--json"]].concat());
    (
        code,
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}{err}")),
    )
}

/// A directory with the edge plugin in it.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let [(_, edge), _] = builtin::plugins();
    std::fs::write(dir.path().join("edge.wasm"), edge).unwrap();
    std::fs::write(
        dir.path().join("registries.yaml"),
        "- { host: plugins.example.com, layout: store }\n",
    )
    .unwrap();
    dir
}

#[test]
fn a_component_says_what_it_is() {
    let dir = place();
    let (code, edge) = json_of(dir.path(), &["inspect", "edge.wasm"]);
    assert_eq!(
        (code, &edge["metadata"]["id"], &edge["supported"]),
        (0, &json!("holdfast/edge"), &json!(true))
    );
    assert_eq!(edge["metadata"]["wants"][0]["rules"].as_array().unwrap().len(), 8);
    assert!(
        edge["imports"]
            .as_array()
            .unwrap()
            .contains(&json!("holdfast:target/endpoint@0.1.0"))
    );
    let text = holdfast(dir.path(), &["inspect", "edge.wasm"]).1;
    assert!(text.contains("PUT,DELETE") && text.contains("jobs"), "{text}");
    for (name, bytes, part) in [
        ("text.wasm", b"not wasm".to_vec(), "is not WebAssembly"),
        ("module.wasm", b"\0asm\x01\0\0\0".to_vec(), "a core module, not a component"),
        (
            "wrong.wasm",
            with_metadata(
                builtin::plugins()[0].1,
                br#"{"id":"x","version":"1","licence":"MIT","wants":[{"alias":"a","why":"","rules":[]}]}"#,
            )
            .unwrap(),
            "/wants/0/why",
        ),
    ] {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        let (code, _, err) = holdfast(dir.path(), &["inspect", name]);
        assert!(code == 2 && err.contains(part), "{name}: {code} {err}");
    }
    let (code, _, err) = holdfast(dir.path(), &["inspect", "nothing.wasm"]);
    assert!(code == 2 && err.contains("neither a file nor a reference"), "{err}");
}

#[test]
fn an_upgrade_says_what_it_newly_wants() {
    let dir = place();
    let [(_, edge), _] = builtin::plugins();
    let mut metadata = serde_json::to_value(builtin::metadata("edge").unwrap()).unwrap();
    let rules = metadata["wants"][0]["rules"].as_array_mut().unwrap();
    rules.push(json!({ "effect": "write", "methods": ["DELETE"], "path": "/v1/site" }));
    let more = with_metadata(edge, metadata.to_string().as_bytes()).unwrap();
    std::fs::write(dir.path().join("more.wasm"), more).unwrap();
    let (code, diff) = json_of(dir.path(), &["diff", "edge.wasm", "more.wasm"]);
    assert_eq!((code, diff["wants"].as_array().unwrap().len()), (1, 1));
    assert_eq!(
        (&diff["wants"][0]["method"], &diff["wants"][0]["path"]),
        (&json!("DELETE"), &json!("/v1/site"))
    );
    let (code, out, _) = holdfast(dir.path(), &["diff", "more.wasm", "edge.wasm"]);
    assert!(code == 0 && out.contains("wants nothing"), "{out}");
}

#[test]
fn what_is_pushed_is_pulled_and_vouched_for() {
    let dir = place();
    let signer = key::create(&dir.path().join("plugin.key"), None, "plugins.example.com", KeyKind::Log).unwrap();
    let other = key::create(&dir.path().join("other.key"), None, "other.example.com", KeyKind::Log).unwrap();
    let (ours, theirs) = (signer.verifier().to_string(), other.verifier().to_string());
    let reference = "plugins.example.com/team/edge:1.0";
    let more = ["--registries", "registries.yaml"];
    let run = |args: &[&str]| json_of(dir.path(), &[args, &more].concat());
    let (code, pushed) = run(&["push", "edge.wasm", reference, "--sign", "plugin.key"]);
    assert_eq!((code, &pushed["signed"]), (0, &json!(true)));
    assert!(dir.path().join("store/team/edge/index.json").exists());

    let (code, pulled) = run(&["pull", reference, "--into", "mine.wasm", "--key", &ours]);
    assert_eq!((code, &pulled["signed_by"]), (0, &json!(["plugins.example.com"])));
    let digest = pulled["digest"].as_str().unwrap();
    assert_eq!(
        pulled["pin"],
        format!("plugins: {{ mine: {{ file: mine.wasm, digest: \"{digest}\" }} }}")
    );
    assert_eq!(std::fs::read(dir.path().join("mine.wasm")).unwrap(), builtin::plugins()[0].1);
    let (code, _, err) = holdfast(
        dir.path(),
        &[&["pull", reference, "--into", "not.wasm", "--key", &theirs], &more[..]].concat(),
    );
    assert!(code == 1 && err.contains("none of the keys"), "{err}");
    assert!(!dir.path().join("not.wasm").exists());

    for (what, expected) in [("mine.wasm", 0), (reference, 0), ("edge.wasm", 1)] {
        assert_eq!(run(&["verify", what, "--key", &ours]).0, expected, "{what}");
        assert_eq!(run(&["verify", what, "--key", &theirs]).0, 1, "{what}");
    }
    // One section more: another component.
    let mut changed = std::fs::read(dir.path().join("mine.wasm")).unwrap();
    changed.extend([0, 2, 1, b'x']);
    std::fs::write(dir.path().join("mine.wasm"), changed).unwrap();
    assert_eq!(run(&["verify", "mine.wasm", "--key", &ours]).0, 1);
}

#[test]
fn a_call_is_replayed_from_its_recording() {
    let dir = place();
    let site = json!({ "owner": "tryout00", "high_fence": 3, "workloads": [] }).to_string();
    let recording = |path: &str| {
        let answer = json!({ "response": { "status": 200, "body": site } });
        json!({ "exchanges": [{ "alias": "site", "method": "GET", "path": path, "answer": answer }] }).to_string()
    };
    std::fs::write(dir.path().join("good.json"), recording("/v1/site")).unwrap();
    std::fs::write(dir.path().join("other.json"), recording("/v1/room")).unwrap();
    let (code, seen) = json_of(dir.path(), &["run", "observe", "edge.wasm", "--replay", "good.json"]);
    assert_eq!(
        (code, &seen["answer"]["high_fence"], &seen["sent"][0]["path"]),
        (0, &json!(3), &json!("/v1/site"))
    );
    let (code, _, err) = holdfast(dir.path(), &["run", "observe", "edge.wasm", "--replay", "other.json"]);
    assert!(code == 1 && err.contains("did not ask for what was recorded"), "{err}");
    let (code, checked) = json_of(
        dir.path(),
        &["run", "check", "edge.wasm", "--template", r#"{"memory_mib":0}"#],
    );
    assert_eq!(
        (code, &checked["answer"]["problems"][0]["at"]),
        (0, &json!("/template/memory_mib"))
    );
    let (code, faulted) = json_of(dir.path(), &["run", "observe", "edge.wasm"]);
    assert_eq!(
        (code, &faulted["answer"]["fault"]["class"]),
        (1, &json!("denied")),
        "nothing is bound"
    );
}

#[test]
fn a_new_plugin_lies_in_a_directory_of_its_own() {
    let dir = place();
    for (lang, file) in [("rust", "src/lib.rs"), ("python", "plugin.py"), ("js", "plugin.js")] {
        let name = format!("mine-{lang}");
        let (code, made) = json_of(dir.path(), &["new", &name, "--lang", lang]);
        assert_eq!(code, 0, "{made}");
        for file in [file, "plugin.json", "simulation.json"] {
            assert!(dir.path().join(&name).join(file).is_file(), "{lang}: {file}");
        }
        let metadata = std::fs::read_to_string(dir.path().join(&name).join("plugin.json")).unwrap();
        assert!(metadata.contains(&format!("\"example/{name}\"")), "{metadata}");
        let (code, _, err) = holdfast(dir.path(), &["new", &name, "--lang", lang]);
        assert!(code == 2 && err.contains("is not empty"), "{err}");
    }
    let (code, _, err) = holdfast(dir.path(), &["new", "Mine", "--lang", "rust"]);
    assert!(code == 2 && err.contains("cannot be a plugin's name"), "{err}");
    let (code, _, err) = holdfast(dir.path(), &["build", "store"]);
    assert!(code == 3 && err.contains("store"), "{err}");
}

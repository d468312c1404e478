//! The command line, without a daemon: output, exit codes, and that pipes get no colours.

use std::path::{Path, PathBuf};
use std::process::Command;

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn holdfast(dir: &Path, args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("COLUMNS", "120")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&dir.display().to_string(), "$DIR");
    let ran = Ran {
        code: output.status.code().unwrap(),
        out: text(output.stdout),
        err: text(output.stderr),
    };
    assert!(!ran.out.contains('\x1b') && !ran.err.contains('\x1b'), "colours in a pipe");
    ran
}

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

const CONFIG: &str = "repository: { url: repo }\ndata: data\n";
const TARGET: &str = "apiVersion: holdfast.dev/v1alpha1\nkind: Target\nmetadata: { name: a }\nspec: { plugin: edge }\n";
const WORKLOAD: &str = "apiVersion: holdfast.dev/v1alpha1\nkind: Workload\nmetadata: { name: shop }\nspec:\n  artifacts: { main: r.example.com/shop:1 }\n  placement: { targets: { names: [ a ] } }\n  template: {}\n";

#[test]
fn init_writes_what_validate_accepts() {
    let dir = directory(&[]);
    assert_eq!(holdfast(dir.path(), &["init", "/srv/deploy.git"]).code, 0);
    let validated = holdfast(dir.path(), &["validate", "holdfast.yaml"]);
    assert_eq!((validated.code, validated.out.as_str()), (0, "ok: 1 configuration\n"));
    let again = holdfast(dir.path(), &["init", "/srv/deploy.git"]);
    assert_eq!(
        (again.code, again.err.as_str()),
        (
            2,
            "error: holdfast.yaml is there already\nhint: --config names another file\n"
        )
    );
}

#[test]
fn validate_shows_the_place() {
    let dir = directory(&[("t.yaml", TARGET), ("w.yaml", &WORKLOAD.replace("template", "templat"))]);
    let ran = holdfast(dir.path(), &["validate", "."]);
    let expected = "error[missing]: template is missing\n  --> w.yaml:5:3\n  |\n5 |   artifacts: { main: r.example.com/shop:1 }\n  |   ^\n  hint: as in template: { memory_mib: 64 }\n\
error[unknown-field]: unknown field \"templat\"\n  --> w.yaml:7:3\n  |\n7 |   templat: {}\n  |   ^^^^^^^\n  hint: did you mean \"template\"?\n\
2 errors, 0 warnings; 1 targets, 0 workloads can be used\n";
    assert_eq!((ran.code, ran.out.as_str()), (1, expected));
    let json: serde_json::Value = serde_json::from_str(&holdfast(dir.path(), &["validate", ".", "--json"]).out).unwrap();
    assert_eq!((&json["ok"], json["problems"].as_array().unwrap().len()), (&false.into(), 2));
}

#[test]
fn the_examples_are_valid() {
    let ran = holdfast(&root(), &["validate", "examples/edge"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "ok: 3 targets, 1 workloads\n"));
}

#[test]
fn init_with_an_edge_site_leaves_nothing_to_fill_in() {
    use std::os::unix::fs::PermissionsExt;
    let dir = directory(&[]);
    let ran = holdfast(dir.path(), &["init", "repo", "--edge", "site-a"]);
    let said = "wrote holdfast.yaml, site-a.token and registries.yaml; next:\n  holdfast edge-node --dir site-a --token-file site-a.token --registries registries.yaml &\n  holdfast run &\n";
    assert_eq!((ran.code, ran.err.as_str()), (0, said));
    assert_eq!(holdfast(dir.path(), &["validate", "holdfast.yaml"]).code, 0);
    let token = std::fs::metadata(dir.path().join("site-a.token")).unwrap();
    assert_eq!(token.permissions().mode() & 0o777, 0o600);
    let again = holdfast(dir.path(), &["init", "repo", "--edge", "site-a"]);
    assert_eq!(
        (again.code, again.err.as_str()),
        (
            2,
            "error: holdfast.yaml is there already\nhint: --config names another file\n"
        )
    );
    let odd = holdfast(dir.path(), &["init", "repo", "--edge", "Site A"]);
    assert!(odd.code == 2 && odd.err.contains("cannot name a target"), "{}", odd.err);
}

#[test]
fn the_same_files_are_the_same_bundle() {
    let dir = directory(&[("core.wasm", "\0asm\u{1}\0\0\0")]);
    std::fs::create_dir_all(dir.path().join("www/sub")).unwrap();
    std::fs::create_dir_all(dir.path().join("empty")).unwrap();
    std::fs::write(dir.path().join("www/index.html"), "hello").unwrap();
    std::fs::write(dir.path().join("www/sub/a.css"), "a").unwrap();
    let pack = |path: &str, layout: &str, tag: &str| {
        holdfast(
            dir.path(),
            &["bundle", "pack", path, "--layout", layout, "--tag", tag, "--json"],
        )
    };
    let digest = |ran: Ran| {
        let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        json["digest"].as_str().unwrap().to_owned()
    };
    let first = digest(pack("www", "one/hello", "1.0.0"));
    assert_eq!(digest(pack("www", "two/hello", "2")), first);
    std::fs::write(dir.path().join("www/index.html"), "hello!").unwrap();
    assert_ne!(digest(pack("www", "one/hello", "1.1.0")), first);
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("empty/link")).unwrap();
    for (path, tag, message) in [
        ("www", ".x", "cannot be a tag"),
        ("core.wasm", "1", "neither a directory nor a component"),
        ("empty", "1", "neither a file nor a directory"),
        ("nowhere", "1", "nowhere cannot be read"),
    ] {
        let ran = pack(path, "one/hello", tag);
        assert!(ran.code != 0 && ran.err.contains(message), "{path} {tag}: {}", ran.err);
    }
}

#[test]
fn plan_says_what_would_happen() {
    let bound = format!(
        "{CONFIG}bindings: [ {{ target: a, plugin: edge, endpoints: {{ site: {{ url: \"http://127.0.0.1:1\" }} }} }} ]\n"
    );
    let launch = "ACTION   WORKLOAD   TARGET  DETAIL\n\
pin      main/shop          r.example.com/shop:1 is resolved to a digest once, and written down\n\
request  main/shop          a new release: requested\n\
launch   main/shop  a       a new release, generation 1, the first to serve\n\
if r.example.com/shop:1 can be resolved\n\
if the plugin of a accepts main/shop\n\
as of an empty ledger, by no ledger yet\n";
    let refuse = "ACTION  WORKLOAD   TARGET  DETAIL\n\
pin     main/shop          r.example.com/shop:1 is resolved to a digest once, and written down\n\
refuse  main/shop          a new release: a: the operator's configuration binds no target \"a\" to plugin \"edge\"\n\
if r.example.com/shop:1 can be resolved\n\
as of an empty ledger, by no ledger yet\n";
    for (config, expected) in [(bound.as_str(), launch), (CONFIG, refuse)] {
        let dir = directory(&[("holdfast.yaml", config)]);
        std::fs::create_dir(dir.path().join("m")).unwrap();
        std::fs::write(dir.path().join("m/t.yaml"), TARGET).unwrap();
        std::fs::write(dir.path().join("m/w.yaml"), WORKLOAD).unwrap();
        let ran = holdfast(dir.path(), &["plan", "m"]);
        assert_eq!((ran.code, ran.out.as_str()), (0, expected));
    }
}

#[test]
fn plan_takes_a_tip_as_the_daemon_would() {
    let dir = directory(&[
        (
            "holdfast.yaml",
            "repository: { url: repo, trust: { require: signed, allowed_signers_file: signers } }\ndata: d\n",
        ),
        ("signers", ""),
    ]);
    let git = git2::Repository::init(dir.path().join("repo")).unwrap();
    let author = git2::Signature::now("reader", "reader@localhost").unwrap();
    let tree = git.find_tree(git.treebuilder(None).unwrap().write().unwrap()).unwrap();
    let commit = git
        .commit(Some("refs/heads/main"), &author, &author, "unsigned", &tree, &[])
        .unwrap();
    let ran = holdfast(dir.path(), &["plan"]);
    let held = format!("commit {} is not taken", &commit.to_string()[..12]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.out.contains("hold") && ran.out.contains(&held) && ran.out.contains("unsigned"),
        "{}",
        ran.out
    );

    std::fs::write(dir.path().join("holdfast.yaml"), "repository: { url: repo }\ndata: d\n").unwrap();
    let ran = holdfast(dir.path(), &["plan"]);
    assert!(ran.out.contains("nothing to do"), "{}", ran.out);
}

#[test]
fn errors_say_what_to_do() {
    let dir = directory(&[
        ("holdfast.yaml", CONFIG),
        ("bad.yaml", "repository: { url: x }\ndata: d\nbindigs: []\n"),
    ]);
    for (args, code, err) in [
        (
            &["--config", "none.yaml", "status"] as &[&str],
            2,
            "hint: `holdfast init REPOSITORY` writes one",
        ),
        (&["status"], 3, "hint: `holdfast run` starts the daemon"),
        (&["--config", "bad.yaml", "status"], 2, "hint: did you mean \"bindings\"?"),
        (&["sync"], 3, "error: no daemon answers at $DIR/data/holdfast.sock"),
        (&["rollback", "shop"], 3, "error: no daemon answers"),
        (&["ledger", "verify", "nowhere"], 2, "error: nowhere is no directory"),
        (
            &["ledger", "log", "--kind", "nope", "--dir", "."],
            2,
            "hint: there are term, source",
        ),
        (&["ledger", "verify", "."], 3, "error: "),
        (&["audit", "digest", "abc", "--dir", "."], 2, "give at least 6 hex digits"),
        (&["audit", "why", "d1-7", "--dir", "."], 2, "there is no deploy \"d1-7\""),
        (&["validate", "nowhere"], 3, "error: nowhere cannot be read"),
        (&["frobnicate"], 2, "unrecognized subcommand"),
    ] {
        let ran = holdfast(dir.path(), args);
        assert!(
            ran.code == code && ran.err.contains(err),
            "{args:?}: {} {}",
            ran.code,
            ran.err
        );
    }
}

#[test]
fn the_schema_is_one() {
    let ran = holdfast(&root(), &["schema"]);
    let schema: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(schema["oneOf"].as_array().unwrap().len(), 2);
}

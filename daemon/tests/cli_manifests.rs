//! The command line on manifests: `validate` of one file and of odd ones, `explain`, `schema`.

use std::path::Path;
use std::process::Command;

fn holdfast(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("COLUMNS", "160")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const TARGET: &str = "apiVersion: holdfast.dev/v1alpha1\nkind: Target\nmetadata: { name: a }\nspec: { plugin: edge }\n";
const WORKLOAD: &str = "apiVersion: holdfast.dev/v1alpha1\nkind: Workload\nmetadata: { name: shop }\nspec:\n  artifacts: { main: r.example.com/shop:1 }\n  placement: { targets: { names: [ a ] } }\n  template: {}\n  config: { files: { app.toml: conf/app.toml } }\n";

fn repository() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("apps/conf")).unwrap();
    for (name, text) in [
        ("targets.yaml", TARGET),
        ("apps/shop.yaml", WORKLOAD),
        ("apps/conf/app.toml", "x = 1\n"),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

#[test]
fn a_file_is_read_as_a_part_of_its_repository() {
    let dir = repository();
    assert_eq!(holdfast(dir.path(), &["validate", "."]).1, "ok: 1 targets, 1 workloads\n");
    // The target is in another file; the config file is beside this one.
    let expected = "warning[unknown-target]: there is no target \"a\" in the files that could be read\n  --> apps/shop.yaml:6:36\n  |\n6 |   placement: { targets: { names: [ a ] } }\n  |                                    ^\n  hint: a Target with this name is missing\nok, with 1 warnings: 0 targets, 1 workloads\n";
    let (code, out, _) = holdfast(dir.path(), &["validate", "apps/shop.yaml"]);
    assert_eq!((code, out.as_str()), (0, expected));
    // A path that leads out of the manifest's directory, but not of the repository.
    std::fs::create_dir(dir.path().join(".git")).unwrap();
    std::fs::rename(dir.path().join("apps/conf"), dir.path().join("conf")).unwrap();
    std::fs::write(
        dir.path().join("apps/shop.yaml"),
        WORKLOAD.replace("conf/app.toml", "../conf/app.toml"),
    )
    .unwrap();
    for from in [dir.path().to_owned(), dir.path().join("apps")] {
        let file = if from.ends_with("apps") {
            "shop.yaml"
        } else {
            "apps/shop.yaml"
        };
        let (code, out, _) = holdfast(&from, &["validate", file]);
        assert_eq!(code, 0, "{out}");
    }
}

#[test]
fn what_git_would_not_give_is_refused() {
    let dir = repository();
    let at = |name: &str| dir.path().join(name);
    std::fs::rename(at("apps/conf"), at("apps/real")).unwrap();
    std::os::unix::fs::symlink("real", at("apps/conf")).unwrap();
    for path in [".", "apps/shop.yaml"] {
        let (code, out, _) = holdfast(dir.path(), &["validate", path]);
        assert!(
            code == 1 && out.contains("apps/conf is a symbolic link; commit the file itself")
                || out.contains("\"conf/app.toml\": conf is a symbolic link"),
            "{path}: {out}"
        );
    }
    std::fs::remove_file(at("apps/conf")).unwrap();
    std::fs::create_dir(at("apps/conf")).unwrap();
    let huge = std::fs::File::create(at("apps/conf/app.toml")).unwrap();
    // Sparse: to read it whole would fail, or take minutes.
    huge.set_len(1 << 40).unwrap();
    let (code, out, _) = holdfast(dir.path(), &["validate", "."]);
    assert!(
        code == 1 && out.contains("the file has 1099511627776 bytes; the limit is 1048576"),
        "{out}"
    );
    std::fs::File::create(at("big.yaml")).unwrap().set_len(1 << 40).unwrap();
    for path in [".", "big.yaml"] {
        let (code, out, _) = holdfast(dir.path(), &["validate", path]);
        assert!(
            code == 1 && out.contains("error[file-too-large]") && out.contains("hint: split it"),
            "{path}: {out}"
        );
    }
    std::fs::remove_file(at("big.yaml")).unwrap();
    std::os::unix::fs::symlink("targets.yaml", at("link.yaml")).unwrap();
    let (code, out, _) = holdfast(dir.path(), &["validate", "."]);
    assert!(
        code == 1 && out.contains("error[symlink]") && out.contains("hint: replace the link"),
        "{out}"
    );
    std::fs::remove_file(at("link.yaml")).unwrap();
    std::os::unix::fs::symlink("/etc", at("vendor")).unwrap();
    git2::Repository::init(at("modules/other")).unwrap();
    let (code, out, _) = holdfast(dir.path(), &["validate", "."]);
    assert!(
        code == 1 && out.contains("--> vendor:1:1") && out.contains("error[submodule]") && out.contains("--> modules/other:1:1"),
        "{out}"
    );
    std::fs::write(at(".gitignore"), "vendor\nmodules/\n").unwrap();
    git2::Repository::init(dir.path()).unwrap();
    std::fs::remove_dir_all(at("apps")).unwrap();
    let (code, out, _) = holdfast(dir.path(), &["validate", "."]);
    assert!(code == 0, "what Git ignores is in no commit: {out}");
}

#[test]
fn an_operators_file_is_known_by_its_content() {
    let dir = repository();
    std::fs::write(
        dir.path().join("prod.yaml"),
        "repository: { url: repo }\ndata: data\n# apiVersion: is for manifests\n",
    )
    .unwrap();
    assert_eq!(holdfast(dir.path(), &["validate", "prod.yaml"]).1, "ok: 1 configuration\n");
}

#[test]
fn fields_are_explained() {
    let dir = repository();
    for (arguments, title) in [
        (vec!["schema"], "Holdfast manifest"),
        (vec!["schema", "--operator"], "Holdfast operator configuration"),
    ] {
        let json: serde_json::Value = serde_json::from_str(&holdfast(dir.path(), &arguments).1).unwrap();
        assert_eq!(json["title"], title);
    }
    let (code, out, _) = holdfast(dir.path(), &["explain", "Workload.placement.waves"]);
    let expected = "Workload.placement.waves\n  How many targets, in name order, each wave has reached when it is over; none: all at once\n\ntype:     list of wave\ndefault:  none\nexample:\n  waves: [ { targets: 1, hold: 10m }, { targets: 100% } ]\n\n\
FIELD    TYPE                  DEFAULT   MEANING\n\
targets  number or percentage  required  A number or a percentage, rising from wave to wave\n\
hold     duration              0s        Stay here so long before the next wave\n";
    assert_eq!((code, out.as_str()), (0, expected));
    let (_, out, _) = holdfast(dir.path(), &["explain", "Workload.strategy", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["default"], "{ blueGreen: { bake: 0s } }");
    assert_eq!(json["oneOf"].as_array().unwrap().len(), 4);
    let (code, out, err) = holdfast(dir.path(), &["explain", "Workload.placement.wavs"]);
    let expected = "error: there is no Workload.placement.wavs\nhint: did you mean Workload.placement.waves?\n";
    assert_eq!((code, out.as_str(), err.as_str()), (2, "", expected));
}

#[test]
fn the_strategies_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (code, out, _) = holdfast(&root, &["validate", "examples/strategies"]);
    assert_eq!((code, out.as_str()), (0, "ok: 4 targets, 10 workloads\n"));
}

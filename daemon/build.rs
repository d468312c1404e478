//! Compiles the guests that the binary carries: the built-in plugins, and the demo's bundles. In a target directory of
//! their own, so that the inner cargo never waits for the outer one's lock.

use std::env;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const TARGET: &str = "wasm32-wasip2";
/// Package, and the variable that tells the crate where its component is.
const GUESTS: [(&str, &str); 7] = [
    ("holdfast-plugin-edge", "HOLDFAST_GUEST_PLUGIN_EDGE"),
    ("holdfast-plugin-kubernetes", "HOLDFAST_GUEST_PLUGIN_KUBERNETES"),
    ("holdfast-bundle-shop-1-0", "HOLDFAST_GUEST_SHOP_1_0"),
    ("holdfast-bundle-shop-1-1", "HOLDFAST_GUEST_SHOP_1_1"),
    ("holdfast-bundle-shop-1-2", "HOLDFAST_GUEST_SHOP_1_2"),
    ("holdfast-bundle-shop-1-3", "HOLDFAST_GUEST_SHOP_1_3"),
    // For tests; not in the binary.
    ("holdfast-hostile-bundle", "HOLDFAST_GUEST_HOSTILE_BUNDLE"),
];
/// What decides what the guests are: their code, and the versions and profile they are built with.
const SOURCES: [&str; 9] = [
    "plugins/edge",
    "plugins/kubernetes",
    "sdk/rust",
    "sdk/simulation",
    "sdk/wit",
    "examples/bundles",
    "tests/hostile/bundle",
    "Cargo.toml",
    "Cargo.lock",
];

/// What `plugin new` writes, all of it carried in the binary: an author needs nothing of ours but the program.
const AUTHORS_FILES: [&str; 7] = [
    "sdk/rust/Cargo.toml",
    "sdk/rust/src",
    "sdk/simulation",
    "sdk/wit",
    "sdk/python",
    "sdk/javascript",
    "examples/plugins/store",
];

fn main() {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("..");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    embed_authors_files(&root);
    let rustc = variable("RUSTC");
    if !has_target(&rustc) {
        add_target(&rustc);
    }
    let target_dir = PathBuf::from(variable("OUT_DIR")).join("guests");
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .current_dir(&root)
        .args(["build", "--locked", "--profile", "guest", "--target", TARGET, "--target-dir"])
        .arg(&target_dir);
    for (package, _) in GUESTS {
        cargo.args(["--package", package]);
    }
    // What the outer build was told about the host's compiler is wrong for the guests.
    for (name, _) in env::vars_os() {
        // A name that is not text is none of cargo's.
        let Some(name) = name.to_str() else { continue };
        let outer = name.starts_with("CARGO_PROFILE") || name.starts_with("CARGO_ENCODED") || name.starts_with("CARGO_FEATURE_");
        let named = [
            "RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_INCREMENTAL",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
            "CARGO_MAKEFLAGS",
            "MAKEFLAGS",
            "MFLAGS",
        ];
        if outer || named.contains(&name) {
            cargo.env_remove(name);
        }
    }
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("compiling the guests ended with {status}; its messages are above")),
        Err(error) => fail(&format!("cargo cannot be run: {error}")),
    }
    for (package, variable) in GUESTS {
        let file = target_dir
            .join(TARGET)
            .join("guest")
            .join(format!("{}.wasm", package.replace('-', "_")));
        println!("cargo:rustc-env={variable}={}", file.display());
    }
}

/// Writes a table of path and content, for `include!`.
fn embed_authors_files(root: &Path) {
    let mut files = Vec::new();
    for place in AUTHORS_FILES {
        println!("cargo:rerun-if-changed={}", root.join(place).display());
        let mut open = vec![root.join(place)];
        while let Some(path) = open.pop() {
            if path.is_dir() {
                let entries = std::fs::read_dir(&path).unwrap_or_else(|error| fail(&format!("{}: {error}", path.display())));
                open.extend(entries.flatten().map(|entry| entry.path()));
            } else if path.extension().is_none_or(|extension| extension != "pyc") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut table = String::from("&[\n");
    for path in files {
        let name = path.strip_prefix(root).unwrap_or(&path);
        let _ = writeln!(table, "    ({:?}, include_bytes!({:?})),", name, path);
    }
    table.push(']');
    let out = PathBuf::from(variable("OUT_DIR")).join("authors_files.rs");
    std::fs::write(&out, table).unwrap_or_else(|error| fail(&format!("{}: {error}", out.display())));
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| fail(&format!("cargo did not set {name}")))
}

fn has_target(rustc: &str) -> bool {
    let output = Command::new(rustc).args(["--print", "sysroot"]).output();
    output.is_ok_and(|output| {
        Path::new(String::from_utf8_lossy(&output.stdout).trim())
            .join("lib/rustlib")
            .join(TARGET)
            .is_dir()
    })
}

/// On some machines rustup does not look at `targets` in rust-toolchain.toml.
fn add_target(rustc: &str) {
    println!("cargo:warning=adding the compile target {TARGET} by rustup");
    let mut arguments = vec!["target".to_owned(), "add".to_owned()];
    if let Ok(toolchain) = env::var("RUSTUP_TOOLCHAIN") {
        arguments.extend(["--toolchain".to_owned(), toolchain]);
    }
    arguments.push(TARGET.to_owned());
    let added = Command::new("rustup").args(&arguments).status();
    if !added.is_ok_and(|status| status.success()) || !has_target(rustc) {
        fail(&format!(
            "the compile target {TARGET} is missing and rustup could not add it; run `rustup {}` and build again",
            arguments.join(" ")
        ));
    }
}

fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    println!("cargo:warning={message}");
    exit(1)
}

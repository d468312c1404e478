//! `plugin new` and `plugin build`: from an empty directory to a component. The SDK is written into the project, so that it is
//! whole, and can be read where it is used.

use super::{cannot, unusable};
use crate::builtin::AUTHORS_FILES;
use crate::cli::error::CliError;
use crate::cli::show::Out;
use holdfast_host::{METADATA_SECTION, Metadata, with_metadata};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const EXAMPLE: &str = "examples/plugins/store/";

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    Rust,
    Python,
    #[value(alias = "javascript")]
    Js,
}

#[derive(clap::Args)]
pub struct NewArgs {
    /// Directory to make; its last part is the plugin's name
    path: PathBuf,
    /// Language to write it in
    #[arg(long, value_enum)]
    lang: Language,
}

#[derive(clap::Args)]
pub struct BuildArgs {
    /// Directory of the plugin
    #[arg(default_value = ".")]
    path: PathBuf,
    /// File to write; default: plugin.wasm in the directory
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Where a file of ours goes in an author's project; none: it is not for this language.
fn place_of(file: &str, lang: Language) -> Option<String> {
    let wit = match file {
        "sdk/wit/plugin/world.wit" => Some("sdk/wit/world.wit"),
        "sdk/wit/since-0.1/target.wit" => Some("sdk/wit/deps/target/target.wit"),
        _ => None,
    };
    let shared = match file.strip_prefix(EXAMPLE) {
        Some(name @ ("plugin.json" | "simulation.json")) => Some(name.to_owned()),
        _ => None,
    };
    if shared.is_some() {
        return shared;
    }
    match lang {
        Language::Rust => match file.strip_prefix(EXAMPLE) {
            Some("Cargo.toml") => None,
            Some(name) => Some(name.to_owned()),
            None if file.starts_with("sdk/rust/")
                || file.starts_with("sdk/simulation/")
                || file.starts_with("sdk/wit/since-") =>
            {
                Some(file.to_owned())
            }
            None => None,
        },
        Language::Python => template_file(file, "sdk/python/").or(wit.map(str::to_owned)),
        Language::Js => template_file(file, "sdk/javascript/").or(wit.map(str::to_owned)),
    }
}

/// A template's files lie in the project itself, the SDK's in `sdk`.
fn template_file(file: &str, sdk: &str) -> Option<String> {
    let name = file.strip_prefix(sdk)?;
    Some(
        name.strip_prefix("template/")
            .map_or_else(|| format!("sdk/{name}"), str::to_owned),
    )
}

pub fn new(args: &NewArgs, out: &Out) -> Result<ExitCode, CliError> {
    let dir = &args.path;
    let name = dir
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let good = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.len() <= 64;
    if !good {
        return Err(CliError::usage(
            format!("{name:?} cannot be a plugin's name"),
            "a-z, 0-9 and -, a letter first",
        ));
    }
    let is_free = !dir.exists() || std::fs::read_dir(dir).map_err(cannot(dir, "read"))?.next().is_none();
    if !is_free {
        return Err(CliError::usage(
            format!("{} is not empty", dir.display()),
            "name a directory that is not there yet",
        ));
    }
    let mut files: Vec<(String, Vec<u8>)> = AUTHORS_FILES
        .iter()
        .filter_map(|(file, content)| Some((place_of(file, args.lang)?, content.to_vec())))
        .collect();
    for (place, content) in &mut files {
        let text = String::from_utf8_lossy(content);
        let changed = match place.as_str() {
            "plugin.json" => {
                let named = text.replace("example/store", &format!("example/{name}"));
                // An interpreter takes more than the plugin does.
                match args.lang {
                    Language::Rust => named,
                    Language::Python | Language::Js => named.replace("\"memory_mib\": 16", "\"memory_mib\": 64"),
                }
            }
            "tests/native.rs" => text.replace("holdfast_example_plugin_store", &name.replace('-', "_")),
            _ => continue,
        };
        *content = changed.into_bytes();
    }
    if args.lang == Language::Rust {
        files.push(("Cargo.toml".into(), cargo_toml(&name).into_bytes()));
    }
    let ignored = "plugin.wasm\ntarget/\nbuild/\nnode_modules/\n.venv/\n__pycache__/\n";
    files.push((".gitignore".into(), ignored.into()));
    for (place, content) in &files {
        let file = dir.join(place);
        let parent = file.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent).map_err(cannot(parent, "made"))?;
        std::fs::write(&file, content).map_err(cannot(&file, "written"))?;
    }
    let next = match args.lang {
        Language::Rust => "rustup target add wasm32-wasip2",
        Language::Python => "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
        Language::Js => "npm install",
    };
    if out.is_json {
        let places: Vec<&String> = files.iter().map(|(place, _)| place).collect();
        out.json(&json!({ "directory": dir, "files": places, "toolchain": next }));
    } else {
        out.line(&format!(
            "{} is a plugin that passes `holdfast plugin test`. In it:",
            dir.display()
        ));
        out.lines(&format!("  {next}\n  holdfast plugin build\n  holdfast plugin test"));
    }
    Ok(ExitCode::SUCCESS)
}

fn cargo_toml(name: &str) -> String {
    let of = |package: &str| format!("{package}.workspace = true");
    format!(
        r#"[package]
name = "{name}"
version = "0.1.0"
edition = "2024"
publish = false

[lib]
crate-type = ["cdylib", "rlib"]

[dependencies]
{}
{}
{}

[profile.release]
opt-level = "s"
lto = true
codegen-units = 1
strip = true
panic = "abort"

# The SDK lies in sdk/ as it is; what follows is what its manifests refer to.
[workspace]
members = ["sdk/rust", "sdk/simulation"]

[workspace.package]
version = "{version}"
edition = "2024"
rust-version = "1.95"
license = "Apache-2.0"
publish = false

[workspace.lints]

[workspace.dependencies]
holdfast-plugin = {{ path = "sdk/rust" }}
holdfast-simulation = {{ path = "sdk/simulation" }}
schemars = {{ version = "1", default-features = false, features = ["derive", "std"] }}
serde = {{ version = "1", features = ["derive"] }}
serde_json = "1"
serde_path_to_error = "0.1"
wit-bindgen = {{ version = "0.61", default-features = false, features = ["macros", "realloc"] }}
"#,
        of("holdfast-plugin"),
        of("serde"),
        of("serde_json"),
        version = env!("CARGO_PKG_VERSION"),
    )
}

pub fn build(args: &BuildArgs, out: &Out) -> Result<ExitCode, CliError> {
    let dir = args.path.canonicalize().map_err(cannot(&args.path, "read"))?;
    let metadata_file = dir.join("plugin.json");
    let metadata_text = std::fs::read(&metadata_file).map_err(cannot(&metadata_file, "read"))?;
    let metadata = Metadata::parse(&metadata_text).map_err(|problem| {
        CliError::usage(
            format!("{}: {problem}", metadata_file.display()),
            format!("it becomes the section {METADATA_SECTION}"),
        )
    })?;
    let work = dir.join("build");
    std::fs::create_dir_all(&work).map_err(cannot(&work, "made"))?;
    let raw = if dir.join("Cargo.toml").exists() {
        build_rust(&dir)?
    } else if dir.join("plugin.py").exists() {
        build_python(&dir, &work)?
    } else if dir.join("plugin.js").exists() {
        build_javascript(&dir, &work)?
    } else {
        return Err(CliError::usage(
            format!("{} holds no Cargo.toml, plugin.py or plugin.js", dir.display()),
            "`holdfast plugin new NAME --lang rust|python|js` begins a plugin",
        ));
    };
    let component = std::fs::read(&raw).map_err(cannot(&raw, "read"))?;
    let component = with_metadata(&component, &metadata_text).map_err(unusable)?;
    let file = args.out.clone().unwrap_or_else(|| args.path.join("plugin.wasm"));
    std::fs::write(&file, &component).map_err(cannot(&file, "written"))?;
    let inspection = holdfast_host::inspect(&component).map_err(unusable)?;
    if out.is_json {
        out.json(&json!({ "file": file, "digest": inspection.digest, "size_bytes": component.len(), "id": metadata.id }));
    } else {
        let (id, version, bytes) = (&metadata.id, &metadata.version, component.len());
        out.line(&format!(
            "{}: {id} {version}, {bytes} bytes, {}",
            file.display(),
            inspection.digest
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// A build tool's own output goes to standard error: it is no data.
fn tool(command: &mut Command, hint: &str) -> Result<(), CliError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.stdout(std::io::stderr()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(CliError::usage(
            format!("{name} ended with {status}; its messages are above"),
            hint,
        )),
        Err(error) => Err(CliError::usage(format!("{name} cannot be run: {error}"), hint)),
    }
}

fn build_rust(dir: &Path) -> Result<PathBuf, CliError> {
    let hint = "the toolchain needs `rustup target add wasm32-wasip2`";
    let target = dir.join("target");
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(dir)
        .args(["build", "--release", "--target", "wasm32-wasip2", "--target-dir"])
        .arg(&target);
    tool(&mut cargo, hint)?;
    let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).map_err(cannot(&dir.join("Cargo.toml"), "read"))?;
    let name = manifest
        .lines()
        .skip_while(|line| line.trim() != "[package]")
        .find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == "name").then(|| value.trim().trim_matches('"').replace('-', "_"))
        });
    let name = name.ok_or_else(|| CliError::usage("Cargo.toml names no package", ""))?;
    Ok(target.join("wasm32-wasip2/release").join(format!("{name}.wasm")))
}

fn build_python(dir: &Path, work: &Path) -> Result<PathBuf, CliError> {
    let own = dir.join(".venv/bin/componentize-py");
    let program = if own.exists() { own } else { "componentize-py".into() };
    let raw = work.join("plugin.wasm");
    let mut command = Command::new(program);
    command.current_dir(dir).args([
        "-d",
        "sdk/wit",
        "-w",
        "plugin",
        "componentize",
        "--stub-wasi",
        "plugin",
        "-p",
        ".",
        "-p",
        "sdk",
        "-o",
    ]);
    tool(
        command.arg(&raw),
        "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
    )?;
    Ok(raw)
}

fn build_javascript(dir: &Path, work: &Path) -> Result<PathBuf, CliError> {
    let raw = work.join("plugin.wasm");
    let mut command = Command::new("node");
    tool(
        command.current_dir(dir).arg("sdk/build.mjs").arg(&raw),
        "Node.js 20 or newer, and `npm install` in the directory",
    )?;
    Ok(raw)
}

//! `bundle pack`: what an edge site runs, from a component or a directory of files, as an OCI image layout. The same input
//! gives the same digest.

use super::error::CliError;
use super::show::Out;
use flate2::{Compression, GzBuilder};
use holdfast_registry::Reference;
use holdfast_registry::layout::Writer;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const BUNDLE_MAX_BYTES: u64 = 256 << 20;
const FILES_MAX: usize = 5_000;

#[derive(clap::Subcommand)]
pub enum BundleCommand {
    /// Write a bundle into an OCI image layout, and point a tag at it
    Pack {
        /// A component (.wasm) that answers requests, or a directory of static files
        path: PathBuf,
        /// Directory of the layout, made if it is not there; its place below the registry's directory is the repository's name
        #[arg(long)]
        layout: PathBuf,
        /// Name for this version
        #[arg(long)]
        tag: String,
    },
}

pub fn run(command: &BundleCommand, out: &Out) -> Result<ExitCode, CliError> {
    let BundleCommand::Pack { path, layout, tag } = command;
    pack(path, layout, tag, out)
}

fn pack(path: &Path, layout: &Path, tag: &str, out: &Out) -> Result<ExitCode, CliError> {
    if Reference::parse(&format!("bundles.local/a:{tag}")).is_err() {
        return Err(CliError::usage(
            format!("{tag:?} cannot be a tag"),
            "up to 128 of A-Za-z0-9._-, not beginning with . or -",
        ));
    }
    let cannot = |path: &Path, what: &str| {
        let what = format!("{} cannot be {what}", path.display());
        move |source| CliError::io(what, source)
    };
    let meta = std::fs::metadata(path).map_err(cannot(path, "read"))?;
    let writer = || Writer::create(layout).map_err(cannot(layout, "made"));
    let digest = if meta.is_dir() {
        let archive = archive(path)?;
        writer()?.directory(&archive).map_err(cannot(layout, "written"))?
    } else {
        if meta.len() > BUNDLE_MAX_BYTES {
            return Err(CliError::usage(
                format!("{} has more than {BUNDLE_MAX_BYTES} bytes", path.display()),
                "an edge site takes no larger bundle",
            ));
        }
        let bytes = std::fs::read(path).map_err(cannot(path, "read"))?;
        // The binary format's magic number and the layer of components; a core module has another layer.
        if bytes.get(..8) != Some(b"\0asm\x0d\0\x01\0") {
            return Err(CliError::usage(
                format!("{} is neither a directory nor a component", path.display()),
                "build it for wasm32-wasip2, as examples/bundles are",
            ));
        }
        writer()?.component(&bytes).map_err(cannot(layout, "written"))?
    };
    writer()?.tag(tag, &digest).map_err(cannot(layout, "written"))?;
    match out.is_json {
        true => out.json(&json!({ "layout": layout, "tag": tag, "digest": digest })),
        false => out.line(&format!("{} {tag} is {digest}", layout.display())),
    }
    Ok(ExitCode::SUCCESS)
}

/// Every regular file below a directory, in name order, without owners and times.
fn archive(root: &Path) -> Result<Vec<u8>, CliError> {
    let fail = |path: &Path| {
        let what = format!("{} cannot be packed", path.display());
        move |source| CliError::io(what, source)
    };
    let mut files = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).map_err(fail(&dir))? {
            let entry = entry.map_err(fail(&dir))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(fail(&entry.path()))?);
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                files.push(path);
            } else {
                return Err(CliError::usage(
                    format!("{} is neither a file nor a directory", path.display()),
                    "links are not allowed in a bundle; put the file itself there",
                ));
            }
        }
        if files.len() > FILES_MAX {
            return Err(CliError::usage(
                format!("{} has more than {FILES_MAX} files", root.display()),
                "an edge site takes no more",
            ));
        }
    }
    if files.is_empty() {
        return Err(CliError::usage(
            format!("{} holds no files", root.display()),
            "a bundle has at least one",
        ));
    }
    files.sort();
    let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    let mut tar = tar::Builder::new(gzip);
    for path in files {
        let bytes = std::fs::read(&path).map_err(fail(&path))?;
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        let name = path.strip_prefix(root).unwrap_or(&path);
        tar.append_data(&mut header, name, bytes.as_slice()).map_err(fail(&path))?;
    }
    tar.into_inner()
        .and_then(flate2::write::GzEncoder::finish)
        .map_err(fail(root))
}

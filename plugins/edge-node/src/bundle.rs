//! From a digest to something that answers requests: pull, verify, keep, load.

use crate::component;
use crate::files::Files;
use crate::output::Output;
use crate::record::{Generation, write_whole};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::{Request, Response};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where bundles come from. The node verifies what comes, whoever implements this.
pub trait ArtifactSource: Send + Sync {
    fn manifest<'a>(&'a self, source: &'a str, digest: &'a str) -> BoxFuture<'a, Result<Vec<u8>, FetchError>>;
    fn blob<'a>(&'a self, source: &'a str, digest: &'a str, max_bytes: u64) -> BoxFuture<'a, Result<Vec<u8>, FetchError>>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

impl ArtifactSource for holdfast_registry::Registries {
    fn manifest<'a>(&'a self, source: &'a str, digest: &'a str) -> BoxFuture<'a, Result<Vec<u8>, FetchError>> {
        Box::pin(async move {
            self.fetch_manifest(source, digest)
                .await
                .map_err(|error| FetchError(error.to_string()))
        })
    }
    fn blob<'a>(&'a self, source: &'a str, digest: &'a str, max_bytes: u64) -> BoxFuture<'a, Result<Vec<u8>, FetchError>> {
        Box::pin(async move {
            self.fetch_blob(source, digest, max_bytes)
                .await
                .map_err(|error| FetchError(error.to_string()))
        })
    }
}

/// Why a generation does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The bundle could not be had: not its fault.
    Pull(String),
    /// The bundle is no bundle, or does not compile or link.
    Bundle(String),
}

pub enum Running {
    Component(Arc<component::Bundle>),
    Files(Files),
}

/// A bundle in memory, with the digests of the bytes that were really loaded.
pub struct Loaded {
    pub running: Running,
    /// Index (if any), manifest and layer.
    pub digests: Vec<String>,
}

impl Loaded {
    pub async fn handle(&self, request: Request<Bytes>) -> Result<Response<Full<Bytes>>, String> {
        match &self.running {
            Running::Component(bundle) => bundle.clone().handle(request).await,
            Running::Files(files) => Ok(files.handle(&request)),
        }
    }
}

/// Bundles on the site's disk, by digest.
pub struct Store {
    dir: PathBuf,
    source: Arc<dyn ArtifactSource>,
    engine: wasmtime::Engine,
    max_bytes: u64,
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::from("sha256:"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Store {
    pub fn new(dir: &Path, source: Arc<dyn ArtifactSource>, engine: wasmtime::Engine, max_bytes: u64) -> Self {
        Self {
            dir: dir.join("blobs"),
            source,
            engine,
            max_bytes,
        }
    }

    pub async fn load(&self, generation: &Generation, output: Output) -> Result<Loaded, Trouble> {
        let mut digests = vec![generation.digest.clone()];
        let mut manifest = self.manifest(generation, &generation.digest).await?;
        if manifest["manifests"].is_array() {
            let digest = choose_child(&manifest)
                .ok_or_else(|| Trouble::Bundle("its index lists no image for an edge site (wasm, or a single one)".into()))?;
            manifest = self.manifest(generation, &digest).await?;
            digests.push(digest);
        }
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        let [layer] = layers.as_slice() else {
            return Err(Trouble::Bundle(format!(
                "a bundle has one layer, this artifact has {}",
                layers.len()
            )));
        };
        let media_type = layer["mediaType"].as_str().unwrap_or_default().to_owned();
        let digest = layer["digest"].as_str().unwrap_or_default().to_owned();
        let bytes = self.bytes(generation, &digest, false).await?;
        digests.push(digest);
        let (engine, template) = (self.engine.clone(), generation.template.clone());
        // Compiling takes a core for a while; the node goes on serving.
        let running = tokio::task::spawn_blocking(move || match media_type.as_str() {
            holdfast_registry::WASM_LAYER_TYPE => {
                component::Bundle::load(&engine, &bytes, template, output).map(|bundle| Running::Component(Arc::new(bundle)))
            }
            holdfast_registry::TAR_GZIP_LAYER_TYPE => Files::unpack(&bytes).map(Running::Files),
            other => Err(format!(
                "layer type {other:?} is neither {} nor {}",
                holdfast_registry::WASM_LAYER_TYPE,
                holdfast_registry::TAR_GZIP_LAYER_TYPE
            )),
        });
        let running = running.await.map_err(|_| Trouble::Bundle("loading it crashed".into()))?;
        Ok(Loaded {
            running: running.map_err(Trouble::Bundle)?,
            digests,
        })
    }

    async fn manifest(&self, generation: &Generation, digest: &str) -> Result<Value, Trouble> {
        let bytes = self.bytes(generation, digest, true).await?;
        serde_json::from_slice(&bytes).map_err(|error| Trouble::Bundle(format!("its manifest is not JSON: {error}")))
    }

    /// From the site's disk if it is there and whole, else from the registry; verified either way.
    async fn bytes(&self, generation: &Generation, digest: &str, manifest: bool) -> Result<Vec<u8>, Trouble> {
        let hex = digest
            .strip_prefix("sha256:")
            .filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let hex = hex.ok_or_else(|| Trouble::Bundle(format!("{digest:?} is not a sha256 digest")))?;
        let path = self.dir.join(hex);
        if let Ok(bytes) = tokio::fs::read(&path).await
            && sha256(&bytes) == digest
        {
            return Ok(bytes);
        }
        let fetched = match manifest {
            true => self.source.manifest(&generation.source, digest).await,
            false => self.source.blob(&generation.source, digest, self.max_bytes).await,
        };
        let bytes = fetched.map_err(|error| Trouble::Pull(error.0))?;
        let actual = sha256(&bytes);
        if actual != digest {
            return Err(Trouble::Pull(format!("asked for {digest}, got {actual}")));
        }
        std::fs::create_dir_all(&self.dir).map_err(|error| Trouble::Pull(format!("the site's disk: {error}")))?;
        write_whole(&path, &bytes).map_err(|error| Trouble::Pull(format!("the site's disk: {error}")))?;
        Ok(bytes)
    }

    /// Whether all of it is on the site's disk; it is verified when it is loaded.
    pub fn holds(&self, digests: &[String]) -> bool {
        let there = |digest: &String| digest.strip_prefix("sha256:").is_some_and(|hex| self.dir.join(hex).is_file());
        !digests.is_empty() && digests.iter().all(there)
    }

    /// Removes what no generation needs.
    pub fn keep_only(&self, digests: &std::collections::BTreeSet<String>) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let needed = name.to_str().is_some_and(|name| digests.contains(&format!("sha256:{name}")));
            if !needed && let Err(error) = std::fs::remove_file(entry.path()) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a bundle that nothing needs could not be removed"
                );
            }
        }
    }
}

/// The wasm child of an index, or its only one.
fn choose_child(index: &Value) -> Option<String> {
    let children = index["manifests"].as_array()?;
    let wasm = children.iter().find(|child| child["platform"]["architecture"] == "wasm");
    let only = (children.len() == 1).then(|| &children[0]);
    Some(wasm.or(only)?["digest"].as_str()?.to_owned())
}

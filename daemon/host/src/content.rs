//! Blobs and archives of a release, as request bodies: streamed from where they are kept, and verified here. No more than a
//! few chunks are ever in memory, and the last one goes out only when everything before it was right, so that what is wrong
//! never arrives whole.

use crate::endpoint::{Payload, RequestBody};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use holdfast_core::target::Artifact;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Of one request.
pub(crate) const CONTENT_MAX_BYTES: u64 = 32 << 30;
const MANIFESTS_MAX: usize = 64;
const BLOBS_MAX: usize = 1_000;
/// Without a byte from where it is kept, for so long.
const STALLED: Duration = Duration::from_secs(60);
const CHUNKS_AHEAD: usize = 2;
const TAR_BLOCK: u64 = 512;
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// The bytes of a blob as they come.
pub type BlobBytes = BoxStream<'static, Result<Bytes, String>>;

/// Where the artifacts of releases are kept. What it gives is verified by the host. `source` is `registry/repository`.
pub trait ArtifactSource: Send + Sync {
    /// An index or a manifest, whole.
    fn manifest(&self, source: &str, digest: &str) -> BoxFuture<'static, Result<Vec<u8>, String>>;
    fn blob(&self, source: &str, digest: &str) -> BoxFuture<'static, Result<BlobBytes, String>>;
}

/// Why a body ended before its end.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BodyFailed(pub String);

/// What a call may send of its release.
#[derive(Clone, Default)]
pub(crate) struct Contents {
    pub artifacts: Arc<[Artifact]>,
    pub source: Option<Arc<dyn ArtifactSource>>,
}

/// What a guest asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    Blob(String),
    Archive(String),
}

/// Parts of a body, in order, of known size.
pub(crate) struct Content {
    parts: Vec<Part>,
    pub size_bytes: u64,
    source: Arc<dyn ArtifactSource>,
}

enum Part {
    Bytes(Vec<u8>),
    Blob {
        source: String,
        digest: String,
        size_bytes: u64,
    },
}

impl Part {
    fn size_bytes(&self) -> u64 {
        match self {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::Blob { size_bytes, .. } => *size_bytes,
        }
    }
}

/// An index or a manifest that was fetched and is what its digest says.
struct Manifest {
    digest: String,
    bytes: Vec<u8>,
    json: Value,
}

impl Contents {
    /// Looks up what is asked for and how large it is; nothing of its blobs is read yet.
    pub async fn find(&self, wanted: &Wanted) -> Result<Content, String> {
        let source = self.source.clone();
        let source = source.ok_or("artifacts can only be sent by verbs that change something")?;
        let parts = match wanted {
            Wanted::Blob(digest) => self.blob(&source, digest).await?,
            Wanted::Archive(digest) => self.archive(&source, digest).await?,
        };
        let size_bytes = parts.iter().map(Part::size_bytes).fold(0, u64::saturating_add);
        if size_bytes > CONTENT_MAX_BYTES {
            return Err(format!("it has {size_bytes} bytes; the limit is {CONTENT_MAX_BYTES}"));
        }
        Ok(Content {
            parts,
            size_bytes,
            source,
        })
    }

    async fn blob(&self, from: &Arc<dyn ArtifactSource>, digest: &str) -> Result<Vec<Part>, String> {
        for artifact in self.artifacts.iter() {
            let source = repository(artifact)?;
            if artifact.digest == digest {
                return Ok(vec![Part::Bytes(fetch(from, source, digest).await?.bytes)]);
            }
            for image in &artifact.images {
                if image.manifest == digest {
                    return Ok(vec![Part::Bytes(fetch(from, source, digest).await?.bytes)]);
                }
                let listed = image.blobs.iter().find(|blob| blob.digest == digest);
                let size_bytes = match listed {
                    Some(blob) => blob.size_bytes,
                    None if image.config == digest => {
                        let manifest = fetch(from, source, &image.manifest).await?;
                        described(&manifest.json["config"])?.1
                    }
                    None => continue,
                };
                return Ok(vec![Part::Blob {
                    source: source.to_owned(),
                    digest: digest.to_owned(),
                    size_bytes,
                }]);
            }
        }
        Err(format!("{digest:?} is no blob of this release"))
    }

    async fn archive(&self, from: &Arc<dyn ArtifactSource>, digest: &str) -> Result<Vec<Part>, String> {
        let named =
            |artifact: &&Artifact| artifact.digest == digest || artifact.images.iter().any(|image| image.manifest == digest);
        let artifact = self.artifacts.iter().find(named);
        let artifact = artifact.ok_or_else(|| format!("{digest:?} is no artifact of this release"))?;
        let source = repository(artifact)?;
        let top = fetch(from, source, digest).await?;
        let mut manifests = Vec::new();
        if let Some(listed) = top.json["manifests"].as_array() {
            if listed.len() > MANIFESTS_MAX {
                return Err(format!("its index lists more than {MANIFESTS_MAX} manifests"));
            }
            for child in listed {
                manifests.push(fetch(from, source, described(child)?.0).await?);
            }
        }
        let mut blobs = BTreeMap::new();
        for manifest in manifests.iter().chain(std::iter::once(&top)) {
            let layers = manifest.json["layers"].as_array().into_iter().flatten();
            let config = Some(&manifest.json["config"]).filter(|config| config.is_object());
            for descriptor in layers.chain(config) {
                let (digest, size_bytes) = described(descriptor)?;
                blobs.insert(digest.to_owned(), size_bytes);
            }
        }
        if blobs.len() > BLOBS_MAX {
            return Err(format!("it has more than {BLOBS_MAX} blobs"));
        }
        Ok(layout(source, &top, manifests, blobs))
    }
}

/// An OCI image layout as a tar: always the same bytes for the same digest.
fn layout(source: &str, top: &Manifest, manifests: Vec<Manifest>, blobs: BTreeMap<String, u64>) -> Vec<Part> {
    let default_type = if top.json["manifests"].is_array() {
        INDEX_TYPE
    } else {
        MANIFEST_TYPE
    };
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": [{
            "mediaType": top.json["mediaType"].as_str().unwrap_or(default_type),
            "digest": top.digest,
            "size": top.bytes.len(),
        }],
    });
    let mut whole: BTreeMap<String, Vec<u8>> = manifests.into_iter().map(|one| (one.digest, one.bytes)).collect();
    whole.insert(top.digest.clone(), top.bytes.clone());
    let mut parts = Vec::new();
    let mut add = |path: &str, content: Part| {
        let size = content.size_bytes();
        parts.push(Part::Bytes(tar_head(path, size)));
        parts.push(content);
        let rest = (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
        parts.push(Part::Bytes(vec![0; rest as usize]));
    };
    add("oci-layout", Part::Bytes(br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    add("index.json", Part::Bytes(index.to_string().into_bytes()));
    let path = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
    for (digest, bytes) in &whole {
        add(&path(digest), Part::Bytes(bytes.clone()));
    }
    for (digest, size_bytes) in blobs.into_iter().filter(|(digest, _)| !whole.contains_key(digest)) {
        let source = source.to_owned();
        add(
            &path(&digest.clone()),
            Part::Blob {
                source,
                digest,
                size_bytes,
            },
        );
    }
    parts.push(Part::Bytes(vec![0; 2 * TAR_BLOCK as usize]));
    parts
}

fn tar_head(path: &str, size_bytes: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    // Every path here is ASCII and shorter than a header has room for.
    debug_assert!(path.len() < 100);
    let _ = header.set_path(path);
    header.set_size(size_bytes);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// `registry/repository` of an artifact.
fn repository(artifact: &Artifact) -> Result<&str, String> {
    let source = artifact.uri.split_once('@').map(|(source, _)| source);
    source.ok_or_else(|| format!("artifact {} has no digest in its uri", artifact.name))
}

/// Digest and size of a descriptor.
fn described(descriptor: &Value) -> Result<(&str, u64), String> {
    let digest = descriptor["digest"].as_str().filter(|digest| is_sha256(digest));
    let described = digest.and_then(|digest| Some((digest, descriptor["size"].as_u64()?)));
    described.ok_or_else(|| "its manifest names something without a sha256 digest and a size".to_owned())
}

fn is_sha256(digest: &str) -> bool {
    let hex = digest.strip_prefix("sha256:");
    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

async fn fetch(from: &Arc<dyn ArtifactSource>, source: &str, digest: &str) -> Result<Manifest, String> {
    let bytes = from.manifest(source, digest).await?;
    let actual = holdfast_core::ids::Digest::of(&bytes);
    if actual.as_str() != digest {
        return Err(format!("the manifest {digest} came as {actual}"));
    }
    let json = serde_json::from_slice(&bytes).map_err(|_| format!("the manifest {digest} is not JSON"))?;
    let digest = digest.to_owned();
    Ok(Manifest { digest, bytes, json })
}

impl Content {
    /// As a body; what has gone out is counted in `moved_bytes`.
    pub fn into_payload(self, moved_bytes: Arc<AtomicU64>) -> Payload {
        let size_bytes = self.size_bytes;
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(async move {
            if let Err(failed) = self.pour(&sender).await {
                // Nobody listens any more: then there is nobody to tell.
                let _ = sender.send(Err(failed)).await;
            }
        });
        let frames = stream::unfold(chunks, move |mut chunks: mpsc::Receiver<Result<Bytes, BodyFailed>>| {
            let moved_bytes = moved_bytes.clone();
            async move {
                let chunk = chunks.recv().await?;
                if let Ok(bytes) = &chunk {
                    moved_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
                Some((chunk.map(Frame::data), chunks))
            }
        });
        let body: RequestBody = StreamBody::new(frames).boxed_unsync();
        Payload::Stream { size_bytes, body }
    }

    async fn pour(self, to: &mpsc::Sender<Result<Bytes, BodyFailed>>) -> Result<(), BodyFailed> {
        let gone = |_| BodyFailed("nobody takes it any more".into());
        for part in self.parts {
            match part {
                Part::Bytes(bytes) if bytes.is_empty() => {}
                Part::Bytes(bytes) => to.send(Ok(bytes.into())).await.map_err(gone)?,
                Part::Blob {
                    source,
                    digest,
                    size_bytes,
                } => pour_blob(&self.source, &source, &digest, size_bytes, to).await?,
            }
        }
        Ok(())
    }
}

async fn pour_blob(
    from: &Arc<dyn ArtifactSource>,
    source: &str,
    digest: &str,
    size_bytes: u64,
    to: &mpsc::Sender<Result<Bytes, BodyFailed>>,
) -> Result<(), BodyFailed> {
    let wrong = |message: String| BodyFailed(format!("blob {digest}: {message}"));
    let stalled = || wrong(format!("no byte for {} s", STALLED.as_secs()));
    let opened = tokio::time::timeout(STALLED, from.blob(source, digest)).await;
    let mut chunks = opened.map_err(|_| stalled())?.map_err(wrong)?;
    let (mut hash, mut seen_bytes, mut held) = (Sha256::new(), 0u64, None);
    while let Some(chunk) = tokio::time::timeout(STALLED, chunks.next()).await.map_err(|_| stalled())? {
        let chunk = chunk.map_err(wrong)?;
        seen_bytes += chunk.len() as u64;
        if seen_bytes > size_bytes {
            return Err(wrong(format!("it has more than its {size_bytes} bytes")));
        }
        hash.update(&chunk);
        if !chunk.is_empty()
            && let Some(before) = held.replace(chunk)
        {
            to.send(Ok(before))
                .await
                .map_err(|_| wrong("nobody takes it any more".into()))?;
        }
    }
    if seen_bytes < size_bytes {
        return Err(wrong(format!("it ended after {seen_bytes} of {size_bytes} bytes")));
    }
    let actual = format!("sha256:{}", holdfast_core::ids::hex(&hash.finalize()));
    if actual != digest {
        return Err(wrong(format!("what came has the hash {actual}")));
    }
    match held {
        Some(last) => to.send(Ok(last)).await.map_err(|_| wrong("nobody takes it any more".into())),
        None => Ok(()),
    }
}

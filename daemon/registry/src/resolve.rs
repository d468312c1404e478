//! Tag to digest, and bytes by digest. What comes back is hashed here, whoever sent it.

use crate::config::RegistryConfig;
use crate::http_registry::{HttpRegistry, Patience, RawManifest};
use crate::reference::{Reference, Version, is_digest, is_host, is_tag};
use crate::{
    Class, ConfigError, DOCKER_LIST_TYPE, INDEX_CHILDREN_MAX, INDEX_TYPE, LAYERS_MAX, MANIFEST_MAX_BYTES, RegistryError, layout,
    sha256,
};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    pub digest: String,
    pub media_type: String,
    pub size_bytes: u64,
}

/// One platform's manifest. `platform` is empty when there is no index to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformImage {
    pub platform: String,
    pub manifest: String,
    pub config: String,
    pub blobs: Vec<Blob>,
}

/// What the registry said, for the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub source: String,
    pub media_type: String,
    /// HTTP status of the GET, or 0 for a layout.
    pub status: u16,
    pub headers: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// Of the index, or of the manifest where there is none.
    pub digest: String,
    pub source: String,
    pub images: Vec<PlatformImage>,
    /// Raw bytes of the index and of every manifest, by digest.
    pub manifests: Vec<(String, Vec<u8>)>,
    pub evidence: Evidence,
}

/// Something that a registry should have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    Manifest { digest: String },
    Blob { digest: String, size_bytes: Option<u64> },
}

impl Wanted {
    pub fn digest(&self) -> &str {
        match self {
            Wanted::Manifest { digest } | Wanted::Blob { digest, .. } => digest,
        }
    }
}

/// The bytes of a blob as they come.
pub type BlobStream = BoxStream<'static, Result<Bytes, RegistryError>>;

pub(crate) enum Backend {
    Http {
        registry: Box<HttpRegistry>,
        /// For what is too large to have a time by which it must be there.
        transfers: Box<HttpRegistry>,
    },
    Layout(PathBuf),
}

/// Every registry that the operator configured.
pub struct Registries {
    backends: BTreeMap<String, Backend>,
}

impl Registries {
    pub fn new(configs: &[RegistryConfig]) -> Result<Self, ConfigError> {
        let mut backends = BTreeMap::new();
        for config in configs {
            if !is_host(&config.host) {
                return Err(ConfigError::Host {
                    host: config.host.clone(),
                });
            }
            let backend = match &config.layout {
                Some(root) => Backend::Layout(root.clone()),
                None => Backend::Http {
                    registry: Box::new(HttpRegistry::new(config.clone(), Patience::Answer)?),
                    transfers: Box::new(HttpRegistry::new(config.clone(), Patience::Bytes)?),
                },
            };
            backends.insert(config.host.clone(), backend);
        }
        Ok(Self { backends })
    }

    pub(crate) fn backend(&self, reference: &Reference) -> Result<&Backend, RegistryError> {
        self.backends.get(&reference.host).ok_or_else(|| {
            let message = format!(
                "registry {} is not in the operator's configuration; add it under `registries`",
                reference.host
            );
            RegistryError::new(Class::NotConfigured, reference.to_string(), message)
        })
    }

    /// Resolves a reference. `known`: the digest it had last; when it still has it, the answer is None.
    pub async fn resolve(&self, reference: &Reference, known: Option<&str>) -> Result<Option<Resolution>, RegistryError> {
        let found = match (self.backend(reference)?, &reference.version) {
            (_, Version::Digest(digest, _)) if known == Some(digest) => None,
            (Backend::Http { registry, .. }, Version::Tag(_)) => tagged(registry, reference, known).await?,
            _ => Some(self.manifest(reference).await?),
        };
        let Some(top) = found else { return Ok(None) };
        let digest = verified(reference, &top)?;
        if known == Some(digest.as_str()) {
            return Ok(None);
        }
        let parsed = parse(reference, &top.bytes)?;
        let media_type = media_type(&parsed, &top.media_type);
        let mut manifests = vec![(digest.clone(), top.bytes)];
        let images = if media_type == INDEX_TYPE || media_type == DOCKER_LIST_TYPE {
            self.children(reference, &parsed, &mut manifests).await?
        } else {
            vec![image(reference, String::new(), &digest, &parsed)?]
        };
        let evidence = Evidence {
            source: reference.source(),
            media_type,
            status: top.status,
            headers: top.headers,
        };
        Ok(Some(Resolution {
            digest,
            source: reference.source(),
            images,
            manifests,
            evidence,
        }))
    }

    async fn children(
        &self,
        reference: &Reference,
        index: &Value,
        manifests: &mut Vec<(String, Vec<u8>)>,
    ) -> Result<Vec<PlatformImage>, RegistryError> {
        let what = reference.to_string();
        let listed = index["manifests"].as_array().cloned().unwrap_or_default();
        if listed.len() > INDEX_CHILDREN_MAX {
            return Err(RegistryError::new(
                Class::TooLarge,
                what,
                format!(
                    "its index lists {} manifests; the limit is {INDEX_CHILDREN_MAX}",
                    listed.len()
                ),
            ));
        }
        let mut images = Vec::new();
        for child in &listed {
            let platform = &child["platform"];
            let text = |key: &str| platform[key].as_str().unwrap_or_default().to_owned();
            // Attestations hang in the index as manifests of no platform.
            if text("os") == "unknown" {
                continue;
            }
            let digest = child["digest"].as_str().filter(|digest| is_digest(digest));
            let digest = digest
                .ok_or_else(|| RegistryError::new(Class::Invalid, &what, "its index lists a manifest without a sha256 digest"))?;
            let child_reference = reference.with_digest(digest);
            let raw = self.manifest(&child_reference).await?;
            verified(&child_reference, &raw)?;
            let parsed = parse(&child_reference, &raw.bytes)?;
            let variant = text("variant");
            let name = [text("os"), text("architecture"), variant]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join("/");
            images.push(image(&child_reference, name, digest, &parsed)?);
            manifests.push((digest.to_owned(), raw.bytes));
        }
        if images.is_empty() {
            return Err(RegistryError::new(Class::Invalid, what, "its index lists no image"));
        }
        Ok(images)
    }

    async fn manifest(&self, reference: &Reference) -> Result<RawManifest, RegistryError> {
        match self.backend(reference)? {
            Backend::Http { registry, .. } => registry.manifest(reference).await,
            Backend::Layout(root) => {
                let dir = layout::directory(root, &reference.repository);
                let digest = layout::digest_of(&dir, reference)?;
                let bytes = layout::blob(&dir, &digest, MANIFEST_MAX_BYTES, &reference.to_string())?;
                let actual = sha256(&bytes);
                if actual != digest {
                    let message = format!("the layout's blob {digest} has the hash {actual}");
                    return Err(RegistryError::new(Class::DigestMismatch, reference.to_string(), message));
                }
                Ok(RawManifest {
                    bytes,
                    claimed: None,
                    media_type: String::new(),
                    status: 0,
                    headers: BTreeMap::new(),
                })
            }
        }
    }

    /// Every tag of a repository, in order of text. `source` is `registry/repository`.
    pub async fn tags(&self, source: &str) -> Result<Vec<String>, RegistryError> {
        let repository = repository(source)?;
        let tags = match self.backend(&repository)? {
            Backend::Http { registry, .. } => registry.tags(&repository.repository).await?,
            Backend::Layout(root) => layout::tags(&layout::directory(root, &repository.repository), source)?,
        };
        // What is no tag can be in no reference.
        Ok(tags.into_iter().filter(|tag| is_tag(tag)).collect())
    }

    /// Whether something could be fetched by digest; class `NotFound` when it is gone, another one when that cannot be known.
    pub async fn has(&self, source: &str, wanted: &Wanted) -> Result<(), RegistryError> {
        let reference = by_digest(source, wanted.digest())?;
        match self.backend(&reference)? {
            Backend::Http { registry, .. } => registry.has(&reference.repository, wanted).await,
            Backend::Layout(root) => layout::has(
                &layout::directory(root, &reference.repository),
                wanted,
                &reference.to_string(),
            ),
        }
    }

    /// The platforms of an artifact by digest.
    pub async fn fetch_images(&self, source: &str, digest: &str) -> Result<Vec<PlatformImage>, RegistryError> {
        let resolution = self.resolve(&by_digest(source, digest)?, None).await?;
        Ok(resolution.map(|resolution| resolution.images).unwrap_or_default())
    }

    /// A manifest by digest, verified. `source` is `registry/repository`.
    pub async fn fetch_manifest(&self, source: &str, digest: &str) -> Result<Vec<u8>, RegistryError> {
        let reference = by_digest(source, digest)?;
        let raw = self.manifest(&reference).await?;
        verified(&reference, &raw)?;
        Ok(raw.bytes)
    }

    /// A blob by digest as it comes, for blobs of any size. NOT verified: whoever reads it to its end has to.
    pub async fn open_blob(&self, source: &str, digest: &str) -> Result<BlobStream, RegistryError> {
        let reference = by_digest(source, digest)?;
        match self.backend(&reference)? {
            Backend::Http { transfers, .. } => transfers.open_blob(&reference.repository, digest).await,
            Backend::Layout(root) => {
                let dir = layout::directory(root, &reference.repository);
                layout::open_blob(&dir, digest, &reference.to_string())
            }
        }
    }

    /// A blob by digest, verified.
    pub async fn fetch_blob(&self, source: &str, digest: &str, max_bytes: u64) -> Result<Vec<u8>, RegistryError> {
        let reference = by_digest(source, digest)?;
        let bytes = match self.backend(&reference)? {
            Backend::Http { registry, .. } => registry.blob(&reference.repository, digest, max_bytes).await?,
            Backend::Layout(root) => layout::blob(
                &layout::directory(root, &reference.repository),
                digest,
                max_bytes,
                &reference.to_string(),
            )?,
        };
        let actual = sha256(&bytes);
        if actual != digest {
            return Err(RegistryError::new(
                Class::DigestMismatch,
                reference.to_string(),
                format!("what came has the hash {actual}"),
            ));
        }
        Ok(bytes)
    }
}

/// A source as a reference that is only good for its place.
fn repository(source: &str) -> Result<Reference, RegistryError> {
    by_digest(source, &sha256(b""))
}

fn by_digest(source: &str, digest: &str) -> Result<Reference, RegistryError> {
    let text = format!("{source}@{digest}");
    Reference::parse(&text).map_err(|error| RegistryError::new(Class::Invalid, text, error.to_string()))
}

/// The hash of the bytes, which must be what the reference and the registry's own header say.
fn verified(reference: &Reference, raw: &RawManifest) -> Result<String, RegistryError> {
    let actual = sha256(&raw.bytes);
    let mismatch = |expected: &str, who: &str| {
        let message = format!("{who} says {expected}, but what came has the hash {actual}");
        RegistryError::new(Class::DigestMismatch, reference.to_string(), message)
    };
    if let Version::Digest(expected, _) = &reference.version
        && *expected != actual
    {
        return Err(mismatch(expected, "the reference"));
    }
    match &raw.claimed {
        Some(claimed) if *claimed != actual => Err(mismatch(claimed, "Docker-Content-Digest")),
        _ => Ok(actual),
    }
}

/// HEAD says what the tag has, GET brings it. None: it is as it was `known`.
async fn tagged(
    registry: &HttpRegistry,
    reference: &Reference,
    known: Option<&str>,
) -> Result<Option<RawManifest>, RegistryError> {
    let mut tries_left = 2;
    loop {
        let head = registry.head(reference, known).await?;
        if head.is_some() && head.as_deref() == known {
            return Ok(None);
        }
        let raw = registry.manifest(reference).await?;
        let actual = sha256(&raw.bytes);
        match head {
            // GET makes no claim of its own, so HEAD's stands; unless the tag moved between the two.
            Some(head) if raw.claimed.is_none() && head != actual => {
                tries_left -= 1;
                if tries_left == 0 {
                    let message = format!("HEAD says {head}, but what GET brings has the hash {actual}");
                    return Err(RegistryError::new(Class::DigestMismatch, reference.to_string(), message));
                }
            }
            _ => return Ok(Some(raw)),
        }
    }
}

fn parse(reference: &Reference, bytes: &[u8]) -> Result<Value, RegistryError> {
    serde_json::from_slice(bytes).map_err(|error| {
        RegistryError::new(
            Class::Invalid,
            reference.to_string(),
            format!("its manifest is not JSON: {error}"),
        )
    })
}

fn media_type(manifest: &Value, header: &str) -> String {
    match manifest["mediaType"].as_str() {
        Some(own) => own.to_owned(),
        None if manifest["manifests"].is_array() => INDEX_TYPE.to_owned(),
        None => header.to_owned(),
    }
}

fn image(reference: &Reference, platform: String, digest: &str, manifest: &Value) -> Result<PlatformImage, RegistryError> {
    let invalid = |message: &str| RegistryError::new(Class::Invalid, reference.to_string(), message);
    let config = manifest["config"]["digest"]
        .as_str()
        .filter(|digest| is_digest(digest))
        .ok_or_else(|| invalid("its manifest names no config by sha256 digest"))?;
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    if layers.len() > LAYERS_MAX {
        return Err(invalid("its manifest lists too many layers"));
    }
    let blobs = layers
        .iter()
        .map(|layer| {
            let digest = layer["digest"].as_str().filter(|digest| is_digest(digest))?;
            let media_type = layer["mediaType"].as_str().unwrap_or_default().to_owned();
            Some(Blob {
                digest: digest.to_owned(),
                media_type,
                size_bytes: layer["size"].as_u64()?,
            })
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| invalid("its manifest lists a layer without digest or size"))?;
    Ok(PlatformImage {
        platform,
        manifest: digest.to_owned(),
        config: config.to_owned(),
        blobs,
    })
}

//! Pushing one component as a Wasm OCI artifact, to a server or into a layout. Only plugins' authors push; the daemon never
//! does.

use crate::http_registry::HttpRegistry;
use crate::layout::{self, Writer};
use crate::reference::{Reference, Version};
use crate::resolve::{Backend, Registries};
use crate::{Class, MANIFEST_TYPE, RegistryError, WASM_CONFIG_TYPE, WASM_LAYER_TYPE, sha256};
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What goes to a registry: bytes, and what they are.
pub(crate) struct Artifact {
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

/// The same component and annotations give the same digests.
pub(crate) fn component_artifact(component: &[u8], annotations: &BTreeMap<String, String>) -> Artifact {
    let layer = sha256(component);
    let config = json!({ "architecture": "wasm", "os": "wasip2", "layerDigests": [layer] });
    let config = config.to_string().into_bytes();
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": { "mediaType": WASM_CONFIG_TYPE, "digest": sha256(&config), "size": config.len() },
        "layers": [{ "mediaType": WASM_LAYER_TYPE, "digest": layer, "size": component.len() }],
    });
    if !annotations.is_empty() {
        manifest["annotations"] = json!(annotations);
    }
    Artifact {
        config,
        manifest: manifest.to_string().into_bytes(),
    }
}

/// What a pull brings: the component, verified by the digests on the way to it, and the manifest's annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledComponent {
    pub manifest_digest: String,
    pub component_digest: String,
    pub component: Vec<u8>,
    pub annotations: BTreeMap<String, String>,
}

impl Registries {
    /// Pushes under the reference's tag; the answer is the manifest's digest. What is there already is not sent again.
    pub async fn push_component(
        &self,
        reference: &Reference,
        component: &[u8],
        annotations: &BTreeMap<String, String>,
    ) -> Result<String, RegistryError> {
        let what = reference.to_string();
        let Version::Tag(tag) = &reference.version else {
            return Err(RegistryError::new(
                Class::Invalid,
                what,
                "a push goes to a tag; the digest follows from the bytes",
            ));
        };
        let artifact = component_artifact(component, annotations);
        match self.backend(reference)? {
            Backend::Http { registry, .. } => {
                registry.push_blob(&reference.repository, &artifact.config).await?;
                registry.push_blob(&reference.repository, component).await?;
                registry.push_manifest(reference, &artifact.manifest).await?;
            }
            Backend::Layout(root) => {
                let dir = layout::directory(root, &reference.repository);
                let write = || {
                    let writer = Writer::create(&dir)?;
                    writer.blob(&artifact.config)?;
                    writer.blob(component)?;
                    let digest = writer.blob(&artifact.manifest)?;
                    writer.tag(tag, &digest)
                };
                write().map_err(|source| RegistryError::new(Class::Unreachable, &what, source.to_string()))?;
            }
        }
        Ok(sha256(&artifact.manifest))
    }

    /// The one component of a Wasm OCI artifact, of at most `max_bytes`.
    pub async fn pull_component(&self, reference: &Reference, max_bytes: u64) -> Result<PulledComponent, RegistryError> {
        let what = reference.to_string();
        let invalid = |message: &str| RegistryError::new(Class::Invalid, &what, message);
        let resolved = self.resolve(reference, None).await?;
        let resolved = resolved.ok_or_else(|| invalid("it did not resolve"))?;
        let (digest, bytes) = resolved.manifests.first().ok_or_else(|| invalid("it has no manifest"))?;
        let manifest: Value = serde_json::from_slice(bytes).map_err(|_| invalid("its manifest is not JSON"))?;
        let layers = manifest["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let [layer] = layers else {
            return Err(invalid("a Wasm artifact has one layer"));
        };
        if layer["mediaType"] != WASM_LAYER_TYPE {
            return Err(invalid("its layer is not application/wasm: it is no WebAssembly component"));
        }
        let component_digest = layer["digest"].as_str().unwrap_or_default().to_owned();
        let component = self.fetch_blob(&reference.source(), &component_digest, max_bytes).await?;
        let annotations = serde_json::from_value(manifest["annotations"].clone()).unwrap_or_default();
        Ok(PulledComponent {
            manifest_digest: digest.clone(),
            component_digest,
            component,
            annotations,
        })
    }
}

impl HttpRegistry {
    async fn push_blob(&self, repository: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let digest = sha256(bytes);
        let wanted = crate::Wanted::Blob {
            digest: digest.clone(),
            size_bytes: Some(bytes.len() as u64),
        };
        if self.has(repository, &wanted).await.is_ok() {
            return Ok(());
        }
        let what = format!("{repository}@{digest}");
        let begin = self.url(repository, "blobs/uploads/")?;
        let begun = self
            .send_body(Method::POST, begin.clone(), HeaderMap::new(), Vec::new(), repository)
            .await?;
        if !begun.status().is_success() {
            return Err(crate::http_registry::failure(&what, begun).await);
        }
        let location = begun.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        // Credentials go with it, so it has to be the same place.
        let upload = location
            .and_then(|location| begin.join(location).ok())
            .filter(|upload| upload.origin() == begin.origin());
        let Some(mut upload) = upload else {
            return Err(RegistryError::new(
                Class::Invalid,
                &what,
                "the registry names no place of its own for the upload",
            ));
        };
        upload.query_pairs_mut().append_pair("digest", &digest);
        let headers = content_type("application/octet-stream");
        let done = self
            .send_body(Method::PUT, upload, headers, bytes.to_vec(), repository)
            .await?;
        match done.status().is_success() {
            true => Ok(()),
            false => Err(crate::http_registry::failure(&what, done).await),
        }
    }

    async fn push_manifest(&self, reference: &Reference, bytes: &[u8]) -> Result<(), RegistryError> {
        let url = self.url(&reference.repository, &format!("manifests/{}", reference.version_text()))?;
        let headers = content_type(MANIFEST_TYPE);
        let done = self
            .send_body(Method::PUT, url, headers, bytes.to_vec(), &reference.repository)
            .await?;
        match done.status().is_success() {
            true => Ok(()),
            false => Err(crate::http_registry::failure(&reference.to_string(), done).await),
        }
    }
}

fn content_type(media_type: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))])
}

//! Artifacts of a release for the plugin host, which verifies them: manifests from the ledger, where a pin left them, and
//! from the registry if they are not there; blobs from the registry alone.

use crate::shell::answer::Blobs;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use holdfast_host::{ArtifactSource, BlobBytes};
use holdfast_registry::{Registries, RegistryError};
use std::sync::Arc;

pub(super) struct Artifacts {
    pub registries: Arc<Registries>,
    pub blobs: Blobs,
}

impl ArtifactSource for Artifacts {
    fn manifest(&self, source: &str, digest: &str) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let (registries, blobs) = (self.registries.clone(), self.blobs.clone());
        let (source, digest) = (source.to_owned(), digest.to_owned());
        async move {
            if let Some(bytes) = digest.parse().ok().and_then(|digest| blobs.get(&digest).ok()) {
                return Ok(bytes);
            }
            registries.fetch_manifest(&source, &digest).await.map_err(text)
        }
        .boxed()
    }

    fn blob(&self, source: &str, digest: &str) -> BoxFuture<'static, Result<BlobBytes, String>> {
        let registries = self.registries.clone();
        let (source, digest) = (source.to_owned(), digest.to_owned());
        async move {
            let chunks = registries.open_blob(&source, &digest).await.map_err(text)?;
            Ok(chunks.map(|chunk: Result<Bytes, RegistryError>| chunk.map_err(text)).boxed())
        }
        .boxed()
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: RegistryError) -> String {
    error.to_string()
}

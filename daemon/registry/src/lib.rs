//! OCI registries and image layouts: a tag becomes a digest here, and bytes come back by digest, verified.
//!
//! Only registries that the operator names are ever contacted: a manifest in Git cannot make the daemon talk to a host
//! of its choosing. A registry may be a directory of OCI image layouts, one per repository, under the same names.

mod auth;
mod config;
mod http_registry;
pub mod layout;
mod push;
mod reference;
mod resolve;

pub use config::{AuthConfig, RegistryConfig};
pub use push::PulledComponent;
pub use reference::{Reference, ReferenceError, Version};
pub use resolve::{Blob, BlobStream, Evidence, PlatformImage, Registries, Resolution, Wanted};

use std::path::PathBuf;

pub const MANIFEST_MAX_BYTES: u64 = 4 << 20;
pub const INDEX_CHILDREN_MAX: usize = 64;
pub const LAYERS_MAX: usize = 128;
pub const TAGS_MAX: usize = 10_000;
/// Of all pages of a list of tags together.
pub const TAGS_MAX_BYTES: u64 = 8 << 20;

pub const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_LIST_TYPE: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const WASM_CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
pub const WASM_LAYER_TYPE: &str = "application/wasm";
pub const TAR_GZIP_LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What kind of failure it is: who must act, and whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    NotFound,
    Denied,
    /// It answered, but not now: 429, 5xx.
    Unavailable,
    /// It could not be reached.
    Unreachable,
    /// What it said makes no sense.
    Invalid,
    DigestMismatch,
    TooLarge,
    /// The operator's configuration does not allow it.
    NotConfigured,
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Class::NotFound => "not-found",
            Class::Denied => "denied",
            Class::Unavailable => "unavailable",
            Class::Unreachable => "unreachable",
            Class::Invalid => "invalid",
            Class::DigestMismatch => "digest-mismatch",
            Class::TooLarge => "too-large",
            Class::NotConfigured => "not-configured",
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{what}: {message}")]
pub struct RegistryError {
    pub class: Class,
    /// The reference or URL, without credentials.
    pub what: String,
    pub message: String,
    pub retry_after_ms: Option<u64>,
}

impl RegistryError {
    pub(crate) fn new(class: Class, what: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            class,
            what: what.into(),
            message: message.into(),
            retry_after_ms: None,
        }
    }
    pub fn reason(&self) -> &'static str {
        self.class.as_str()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("registry {host:?} is not a host name with an optional port")]
    Host { host: String },
    #[error("registry {host}: {file} cannot be read")]
    File {
        host: String,
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("registry {host}: {file} holds no PEM certificate")]
    Certificates { host: String, file: PathBuf },
    #[error("registry {host}: the HTTP client cannot be built")]
    Client { host: String, source: reqwest::Error },
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    use std::fmt::Write;
    sha2::Sha256::digest(bytes)
        .iter()
        .fold(String::from("sha256:"), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

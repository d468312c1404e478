//! What the operator says of a registry. Secrets are named by file, read when they are used, and never printed.

use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// As in references, port included.
    pub host: String,
    /// A directory with one OCI image layout per repository, instead of a server.
    #[serde(default)]
    pub layout: Option<PathBuf>,
    /// HTTP without TLS.
    #[serde(default)]
    pub plain_http: bool,
    /// PEM file of a private authority.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(default)]
    pub auth: Option<AuthConfig>,
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

fn default_timeout_ms() -> u64 {
    30_000
}

/// Used for basic authentication, and for the token service that the registry names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    pub username: String,
    pub password_file: PathBuf,
    /// Host of the token service, when it is not the registry's own.
    #[serde(default)]
    pub token_host: Option<String>,
}

//! Endpoints: what an alias of one binding stands for. URL, authority, credentials and sockets stay here; the guest names
//! the alias and gets status, some headers and a capped body.

mod connections;
mod credentials;
mod exchange;
mod tls;

pub(crate) use connections::RequestBody;
pub use exchange::{Exchange, SendFail};
pub(crate) use exchange::{Outgoing, Payload};
pub use tls::TlsError;

use crate::policy::{Effect, Rule};
use crate::wire::Wire;
use connections::{Connections, Place};
use credentials::Credentials;
use holdfast_core::ids::Digest;
use hyper::Uri;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tls::{Tls, TlsFiles};

const CONNECTIONS_MAX: usize = 256;

/// What the operator lets one plugin reach for the targets that a binding names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindingConfig {
    #[serde(default)]
    pub endpoints: BTreeMap<String, EndpointConfig>,
    /// Networks in which the host may dial health probes, as in `127.0.0.0/8`.
    #[serde(default)]
    pub probe_networks: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// `http://host:port` or `https://host:port`, without a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A unix socket instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix: Option<PathBuf>,
    /// PEM file of a private authority; none: the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file of a client certificate, leaf first, with the intermediates that the server may lack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of its private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthConfig>,
    /// Credentials for registries from which the target pulls by itself: put in as `X-Registry-Auth` where a request names
    /// an artifact of the release there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registry_auth: Vec<RegistryAuthConfig>,
    /// Connections at once; a request that finds none free within its time is not sent.
    #[serde(default = "default_max_connections", skip_serializing_if = "is_default_max_connections")]
    pub max_connections: usize,
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    #[serde(default = "default_max_body_bytes")]
    pub max_body_bytes: usize,
    #[serde(default)]
    pub rules: Vec<RuleConfig>,
}

impl EndpointConfig {
    /// A server, and nothing granted yet.
    pub fn new(url: &str) -> Self {
        Self {
            url: Some(url.to_owned()),
            unix: None,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            auth: None,
            registry_auth: Vec::new(),
            max_connections: default_max_connections(),
            timeout_ms: default_timeout_ms(),
            max_body_bytes: default_max_body_bytes(),
            rules: Vec::new(),
        }
    }
}

fn default_timeout_ms() -> u64 {
    10_000
}

fn default_max_body_bytes() -> usize {
    4 << 20
}

fn default_max_connections() -> usize {
    8
}

/// Left out of what is hashed, so that grants recorded before there was such a limit stay the same.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_default_max_connections(max: &usize) -> bool {
    *max == default_max_connections()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    pub effect: Effect,
    pub methods: Vec<String>,
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_name_pointer: Option<String>,
}

impl RuleConfig {
    pub(crate) fn rule(&self) -> Rule {
        Rule {
            effect: self.effect,
            methods: self.methods.iter().cloned().collect(),
            path: self.path.clone(),
            body_name_pointer: self.body_name_pointer.clone(),
        }
    }
}

/// Secrets are named by file and read when they are used, so that a rotated one counts at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicConfig>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasicConfig {
    pub username: String,
    pub password_file: PathBuf,
}

/// What a container engine needs to pull from one registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryAuthConfig {
    /// As in references, port included.
    pub registry: String,
    pub username: String,
    pub password_file: PathBuf,
}

impl EndpointConfig {
    /// Every path in it, so that whoever read it can say relative to what they are.
    pub fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let own = [
            &mut self.unix,
            &mut self.ca_file,
            &mut self.client_cert_file,
            &mut self.client_key_file,
        ];
        let auth = self.auth.iter_mut().flat_map(AuthConfig::paths_mut);
        let registries = self.registry_auth.iter_mut().map(|one| &mut one.password_file);
        own.into_iter().flatten().chain(auth).chain(registries)
    }
}

impl AuthConfig {
    pub fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let password = self.basic.iter_mut().map(|basic| &mut basic.password_file);
        self.bearer_token_file.iter_mut().chain(password)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    #[error("endpoint {alias}: give either `url` or `unix`")]
    Place { alias: String },
    #[error("endpoint {alias}: {url:?} is not http://HOST[:PORT] or https://HOST[:PORT]")]
    Url { alias: String, url: String },
    #[error("endpoint {alias}: `client_cert_file` and `client_key_file` go together, with a `url` that is https")]
    ClientCertificate { alias: String },
    #[error("endpoint {alias}: `max_connections` is 1 to {CONNECTIONS_MAX}")]
    Connections { alias: String },
    #[error("endpoint {alias}: {source}")]
    Tls { alias: String, source: TlsError },
    #[error("{0:?} is not a network as in 10.0.0.0/8")]
    Network(String),
}

/// A binding, ready to be used.
pub struct Binding {
    pub(crate) aliases: BTreeMap<String, Arc<Alias>>,
    pub probe_networks: Vec<crate::probe::Network>,
    /// Hash of all that is granted; recorded in intents.
    pub grants: Digest,
    pub(crate) wire: Option<Arc<dyn Wire>>,
}

impl Binding {
    pub fn new(config: &BindingConfig) -> Result<Self, BindingError> {
        let grants = Digest::of(&serde_json::to_vec(config).unwrap_or_default());
        let aliases = config
            .endpoints
            .iter()
            .map(|(name, endpoint)| Ok((name.clone(), Arc::new(Alias::new(name, endpoint)?))))
            .collect::<Result<_, _>>()?;
        let network = |text: &String| crate::probe::Network::parse(text).ok_or_else(|| BindingError::Network(text.clone()));
        let probe_networks = config.probe_networks.iter().map(network).collect::<Result<_, _>>()?;
        Ok(Self {
            aliases,
            probe_networks,
            grants,
            wire: None,
        })
    }

    /// The same, with something in the place of the network.
    pub fn over(config: &BindingConfig, wire: Arc<dyn Wire>) -> Result<Self, BindingError> {
        Ok(Self {
            wire: Some(wire),
            ..Self::new(config)?
        })
    }
}

/// One endpoint, ready to be used.
pub(crate) struct Alias {
    pub rules: Vec<Rule>,
    pub timeout: Duration,
    pub max_body_bytes: usize,
    credentials: Credentials,
    connections: Connections,
    authority: String,
}

impl Alias {
    fn new(name: &str, config: &EndpointConfig) -> Result<Self, BindingError> {
        let alias = || name.to_owned();
        let client = match (&config.client_cert_file, &config.client_key_file) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => return Err(BindingError::ClientCertificate { alias: alias() }),
        };
        if !(1..=CONNECTIONS_MAX).contains(&config.max_connections) {
            return Err(BindingError::Connections { alias: alias() });
        }
        let has_client = client.is_some();
        let (place, authority) = match (&config.url, &config.unix) {
            (Some(url), None) => {
                let bad = || BindingError::Url {
                    alias: alias(),
                    url: url.clone(),
                };
                let uri: Uri = url.parse().map_err(|_| bad())?;
                let authority = uri
                    .authority()
                    .filter(|authority| !authority.as_str().contains('@'))
                    .filter(|_| matches!(uri.path(), "" | "/") && uri.query().is_none())
                    .ok_or_else(bad)?;
                let with_port = |port: u16| {
                    if authority.port().is_some() {
                        authority.to_string()
                    } else {
                        format!("{authority}:{port}")
                    }
                };
                let place = match uri.scheme_str() {
                    Some("http") if has_client => return Err(BindingError::ClientCertificate { alias: alias() }),
                    Some("http") => Place::Tcp(with_port(80)),
                    Some("https") => {
                        let host = authority.host().trim_matches(['[', ']']).to_owned();
                        let files = TlsFiles {
                            authority: config.ca_file.clone(),
                            client,
                        };
                        let tls = Tls::new(files).map_err(|source| BindingError::Tls { alias: alias(), source })?;
                        Place::Tls(with_port(443), ServerName::try_from(host).map_err(|_| bad())?, tls)
                    }
                    _ => return Err(bad()),
                };
                (place, authority.to_string())
            }
            (None, Some(_)) if has_client => return Err(BindingError::ClientCertificate { alias: alias() }),
            (None, Some(path)) => (Place::Unix(path.clone()), "localhost".to_owned()),
            _ => return Err(BindingError::Place { alias: alias() }),
        };
        Ok(Self {
            rules: config.rules.iter().map(RuleConfig::rule).collect(),
            timeout: Duration::from_millis(config.timeout_ms),
            max_body_bytes: config.max_body_bytes,
            credentials: Credentials::new(config),
            connections: Connections::new(place, config.max_connections),
            authority,
        })
    }
}

//! Endpoints: what an alias of one binding stands for, and one exchange with it. URL, authority, credentials and sockets
//! stay here; the guest names the alias and gets status, some headers and a capped body.

use crate::policy::{Effect, Rule, path_problem};
use crate::secrets::remove_credentials;
use crate::wire::Wire;
use base64::Engine as _;
use bytes::Bytes;
use holdfast_core::ids::Digest;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

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
    /// PEM files of a client certificate and its key. Known, so that it is not taken for a typing error; refused until they work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthConfig>,
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
            client_cert: None,
            client_key: None,
            auth: None,
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

#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    #[error("endpoint {alias}: give either `url` or `unix`")]
    Place { alias: String },
    #[error("endpoint {alias}: {url:?} is not http://HOST[:PORT] or https://HOST[:PORT]")]
    Url { alias: String, url: String },
    #[error("endpoint {alias}: {} cannot be read", file.display())]
    File {
        alias: String,
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("endpoint {alias}: {} holds no PEM certificate", file.display())]
    Certificates { alias: String, file: PathBuf },
    #[error("endpoint {alias}: TLS cannot be set up")]
    Tls { alias: String, source: rustls::Error },
    #[error("endpoint {alias}: client_cert and client_key: a client certificate comes in step 4")]
    ClientCertificate { alias: String },
    #[error("{0:?} is not a network as in 10.0.0.0/8")]
    Network(String),
}

/// A binding, ready to be used.
pub struct Binding {
    pub(crate) aliases: BTreeMap<String, Alias>,
    pub probe_networks: Vec<crate::probe::Network>,
    /// Hash of all that is granted; recorded in intents.
    pub grants: Digest,
    pub(crate) wire: Option<Arc<dyn Wire>>,
}

pub(crate) struct Alias {
    pub rules: Vec<Rule>,
    pub timeout: Duration,
    pub max_body_bytes: usize,
    place: Place,
    authority: String,
    auth: Option<AuthConfig>,
}

enum Place {
    Tcp(String),
    Tls(String, ServerName<'static>, Arc<rustls::ClientConfig>),
    Unix(PathBuf),
}

/// As in the WIT: what was sent, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SendFail {
    Denied(String),
    Unreachable(String),
    Lost(String),
    TooLarge(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Binding {
    pub fn new(config: &BindingConfig) -> Result<Self, BindingError> {
        let grants = Digest::of(&serde_json::to_vec(config).unwrap_or_default());
        let aliases = config
            .endpoints
            .iter()
            .map(|(name, endpoint)| Ok((name.clone(), Alias::new(name, endpoint)?)))
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

impl Alias {
    fn new(name: &str, config: &EndpointConfig) -> Result<Self, BindingError> {
        let alias = || name.to_owned();
        if config.client_cert.is_some() || config.client_key.is_some() {
            return Err(BindingError::ClientCertificate { alias: alias() });
        }
        let (place, authority) = match (&config.url, &config.unix) {
            (Some(url), None) => {
                let bad = || BindingError::Url {
                    alias: alias(),
                    url: url.clone(),
                };
                let uri: Uri = url.parse().map_err(|_| bad())?;
                let authority = uri
                    .authority()
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
                    Some("http") => Place::Tcp(with_port(80)),
                    Some("https") => {
                        let host = authority.host().trim_matches(['[', ']']).to_owned();
                        Place::Tls(
                            with_port(443),
                            ServerName::try_from(host).map_err(|_| bad())?,
                            tls(name, config)?,
                        )
                    }
                    _ => return Err(bad()),
                };
                (place, authority.to_string())
            }
            (None, Some(path)) => (Place::Unix(path.clone()), "localhost".to_owned()),
            _ => return Err(BindingError::Place { alias: alias() }),
        };
        Ok(Self {
            rules: config.rules.iter().map(RuleConfig::rule).collect(),
            timeout: Duration::from_millis(config.timeout_ms),
            max_body_bytes: config.max_body_bytes,
            place,
            authority,
            auth: config.auth.clone(),
        })
    }

    /// The Authorization header, and the texts that must never be seen in an answer.
    #[allow(clippy::type_complexity, reason = "two parts of one answer")]
    fn credentials(&self) -> Result<(Option<Zeroizing<String>>, Vec<Zeroizing<String>>), SendFail> {
        let read = |file: &PathBuf| {
            // The path is the operator's business, not the plugin's.
            let unreadable = || SendFail::Denied("the endpoint's credential cannot be read by the host".into());
            let text = Zeroizing::new(std::fs::read_to_string(file).map_err(|_| unreadable())?);
            match text.trim() {
                "" => Err(SendFail::Denied("the endpoint's credential is empty".into())),
                text => Ok(Zeroizing::new(text.to_owned())),
            }
        };
        let Some(auth) = &self.auth else {
            return Ok((None, Vec::new()));
        };
        if let Some(file) = &auth.bearer_token_file {
            let token = read(file)?;
            return Ok((Some(Zeroizing::new(format!("Bearer {}", *token))), vec![token]));
        }
        if let Some(basic) = &auth.basic {
            let password = read(&basic.password_file)?;
            let pair = Zeroizing::new(format!("{}:{}", basic.username, *password));
            let pair = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(&*pair));
            return Ok((Some(Zeroizing::new(format!("Basic {}", *pair))), vec![password, pair]));
        }
        Ok((None, Vec::new()))
    }

    /// One exchange on a connection of its own. Policy was checked by the caller.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: Vec<u8>,
        timeout: Duration,
        answer_max_bytes: usize,
    ) -> Result<Exchange, SendFail> {
        debug_assert!(path_problem(path).is_none());
        let (authorization, credentials) = self.credentials()?;
        let method =
            Method::from_bytes(method.as_bytes()).map_err(|_| SendFail::Denied(format!("{method:?} is no HTTP method")))?;
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.authority);
        for (name, value) in headers {
            let name =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| SendFail::Denied(format!("{name:?} is no header name")))?;
            let value =
                HeaderValue::from_str(value).map_err(|_| SendFail::Denied(format!("the value of header {name} is not valid")))?;
            request = request.header(name, value);
        }
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(&authorization)
                .map_err(|_| SendFail::Denied("the endpoint's credential is no header value".into()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| SendFail::Denied(error.to_string()))?;
        if request.uri().path_and_query().map(|sent| sent.as_str()) != Some(path) {
            return Err(SendFail::Denied("the path would not be sent byte for byte".into()));
        }
        let begun = tokio::time::timeout(timeout, self.exchange(request, answer_max_bytes)).await;
        match begun {
            Ok(Ok(exchange)) => remove_credentials(exchange, &credentials).map_err(SendFail::Lost),
            Ok(Err(fail)) => Err(fail),
            // Whether it had been sent is unknown, and then it must be assumed.
            Err(_) => Err(SendFail::Lost(format!("no whole answer within {} ms", timeout.as_millis()))),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, answer_max_bytes: usize) -> Result<Exchange, SendFail> {
        let unreachable = |error: std::io::Error| SendFail::Unreachable(error.to_string());
        match &self.place {
            Place::Tcp(address) => {
                self.over(
                    TcpStream::connect(address).await.map_err(unreachable)?,
                    request,
                    answer_max_bytes,
                )
                .await
            }
            Place::Unix(path) => {
                self.over(
                    UnixStream::connect(path).await.map_err(unreachable)?,
                    request,
                    answer_max_bytes,
                )
                .await
            }
            Place::Tls(address, name, config) => {
                let stream = TcpStream::connect(address).await.map_err(unreachable)?;
                let stream = TlsConnector::from(config.clone())
                    .connect(name.clone(), stream)
                    .await
                    .map_err(unreachable)?;
                self.over(stream, request, answer_max_bytes).await
            }
        }
    }

    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
        answer_max_bytes: usize,
    ) -> Result<Exchange, SendFail> {
        let handshake = hyper::client::conn::http1::Builder::new()
            .max_buf_size(64 << 10)
            .handshake(TokioIo::new(stream))
            .await;
        let (mut sender, connection) = handshake.map_err(|error| SendFail::Unreachable(error.to_string()))?;
        let connection = tokio::spawn(connection);
        let outcome = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| SendFail::Lost(error.to_string()))?;
            let (parts, body) = response.into_parts();
            let body = match Limited::new(body, answer_max_bytes).collect().await {
                Ok(body) => body.to_bytes().to_vec(),
                Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                    return Err(SendFail::TooLarge(format!(
                        "the answer has more than {answer_max_bytes} bytes"
                    )));
                }
                Err(error) => return Err(SendFail::Lost(error.to_string())),
            };
            let headers = parts
                .headers
                .iter()
                .filter(|(name, _)| crate::policy::response_header_allowed(name.as_str()));
            let headers = headers
                .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
                .collect();
            Ok(Exchange {
                status: parts.status.as_u16(),
                headers,
                body,
            })
        };
        let outcome = outcome.await;
        connection.abort();
        outcome
    }
}

fn tls(alias: &str, config: &EndpointConfig) -> Result<Arc<rustls::ClientConfig>, BindingError> {
    let mut roots = rustls::RootCertStore::empty();
    match &config.ca_file {
        Some(file) => {
            let pem = std::fs::read(file).map_err(|source| BindingError::File {
                alias: alias.into(),
                file: file.clone(),
                source,
            })?;
            let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
            if roots.add_parsable_certificates(certificates).0 == 0 {
                return Err(BindingError::Certificates {
                    alias: alias.into(),
                    file: file.clone(),
                });
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| BindingError::Tls {
            alias: alias.into(),
            source,
        })?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

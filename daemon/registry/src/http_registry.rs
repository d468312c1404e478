//! One registry server over HTTP: requests with authentication, caps and honest errors.

use crate::auth::{self, Challenge};
use crate::config::RegistryConfig;
use crate::reference::Reference;
use crate::{
    Class, ConfigError, DOCKER_LIST_TYPE, DOCKER_MANIFEST_TYPE, INDEX_TYPE, MANIFEST_MAX_BYTES, MANIFEST_TYPE, RegistryError,
};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, IF_NONE_MATCH, LOCATION, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use reqwest::{Client, Response, Url};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

const CONCURRENT_REQUESTS: usize = 8;
const REDIRECTS_MAX: usize = 5;
const TOKEN_MAX_BYTES: u64 = 256 << 10;
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

pub struct HttpRegistry {
    config: RegistryConfig,
    client: Client,
    /// Repository to the Authorization header that worked last.
    authorization: Mutex<BTreeMap<String, String>>,
    requests: Semaphore,
}

/// A manifest as it came: raw bytes are what digests are about.
pub struct RawManifest {
    pub bytes: Vec<u8>,
    pub media_type: String,
    pub status: u16,
    pub headers: BTreeMap<String, String>,
}

fn tls_config(config: &RegistryConfig) -> Result<rustls::ClientConfig, ConfigError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(file) = &config.ca_file {
        let host = || config.host.clone();
        let pem = std::fs::read(file).map_err(|source| ConfigError::File {
            host: host(),
            file: file.clone(),
            source,
        })?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(ConfigError::Certificates {
                host: host(),
                file: file.clone(),
            });
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ConfigError::Tls)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

impl HttpRegistry {
    pub fn new(config: RegistryConfig) -> Result<Self, ConfigError> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls_config(&config)?)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_millis(config.timeout_ms))
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| ConfigError::Client {
                host: config.host.clone(),
                source,
            })?;
        Ok(Self {
            config,
            client,
            authorization: Mutex::default(),
            requests: Semaphore::new(CONCURRENT_REQUESTS),
        })
    }

    fn url(&self, repository: &str, rest: &str) -> Result<Url, RegistryError> {
        let scheme = if self.config.plain_http { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/{repository}/{rest}", self.config.host);
        Url::parse(&text).map_err(|error| RegistryError::new(Class::Invalid, text, error.to_string()))
    }

    /// HEAD as a change detector: the digest that the registry says the tag has. None: it does not say, or knows no HEAD.
    pub async fn head(&self, reference: &Reference, known: Option<&str>) -> Result<Option<String>, RegistryError> {
        let url = self.url(&reference.repository, &format!("manifests/{}", reference.version_text()))?;
        let mut headers = accept();
        if let Some(value) = known.and_then(|known| format!("\"{known}\"").parse().ok()) {
            headers.insert(IF_NONE_MATCH, value);
        }
        let response = self.send(Method::HEAD, url, headers, &reference.repository).await?;
        match response.status() {
            StatusCode::NOT_MODIFIED => Ok(known.map(str::to_owned)),
            status if status.is_success() => Ok(header(response.headers(), "docker-content-digest")),
            // Some registries answer HEAD with 404 or 405 where GET works.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(None),
            _ => Err(failure(&reference.to_string(), response).await),
        }
    }

    pub async fn manifest(&self, reference: &Reference) -> Result<RawManifest, RegistryError> {
        let what = reference.to_string();
        let url = self.url(&reference.repository, &format!("manifests/{}", reference.version_text()))?;
        let response = self.send(Method::GET, url, accept(), &reference.repository).await?;
        if !response.status().is_success() {
            return Err(failure(&what, response).await);
        }
        let status = response.status().as_u16();
        let media_type = header(response.headers(), "content-type").unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        let kept = ["docker-content-digest", "etag", "date", "content-type"];
        let headers = kept
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), header(response.headers(), name)?)))
            .collect();
        let bytes = read(&what, response, MANIFEST_MAX_BYTES).await?;
        Ok(RawManifest {
            bytes,
            media_type,
            status,
            headers,
        })
    }

    /// A blob's bytes, following redirects to where a registry keeps them. Not verified here.
    pub async fn blob(&self, repository: &str, digest: &str, max_bytes: u64) -> Result<Vec<u8>, RegistryError> {
        let what = format!("{}/{repository}@{digest}", self.config.host);
        let mut url = self.url(repository, &format!("blobs/{digest}"))?;
        let mut response = self.send(Method::GET, url.clone(), HeaderMap::new(), repository).await?;
        for _ in 0..REDIRECTS_MAX {
            if !response.status().is_redirection() {
                break;
            }
            let location = header(response.headers(), LOCATION.as_str()).unwrap_or_default();
            let next = url
                .join(&location)
                .map_err(|_| RegistryError::new(Class::Invalid, &what, format!("redirected to {location:?}, which is no URL")))?;
            let downgrade = url.scheme() == "https" && next.scheme() != "https";
            if downgrade || !matches!(next.scheme(), "http" | "https") {
                return Err(RegistryError::new(
                    Class::Denied,
                    &what,
                    "redirected from https to something else",
                ));
            }
            // Never with credentials: where a blob lies is the registry's business, who we are is not that place's.
            response = self
                .client
                .get(next.clone())
                .send()
                .await
                .map_err(|error| unreachable(&what, &error))?;
            url = next;
        }
        if !response.status().is_success() {
            return Err(failure(&what, response).await);
        }
        read(&what, response, max_bytes).await
    }

    /// One request, once more after a 401 that says how.
    async fn send(&self, method: Method, url: Url, headers: HeaderMap, repository: &str) -> Result<Response, RegistryError> {
        let what = format!("{method} {url}");
        let _permit = self
            .requests
            .acquire()
            .await
            .map_err(|_| RegistryError::new(Class::Unavailable, &what, "shutting down"))?;
        let known = lock(&self.authorization).get(repository).cloned();
        let response = self.once(&method, &url, &headers, known.as_deref(), &what).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let Some(challenge) = auth::challenge(response.headers()) else {
            return Ok(response);
        };
        let authorization = match challenge {
            Challenge::Basic => auth::basic(&self.config)?,
            Challenge::Bearer { realm, service, scope } => {
                let scope = scope.unwrap_or_else(|| format!("repository:{repository}:pull"));
                Some(self.token(&realm, service.as_deref(), &scope).await?)
            }
        };
        let Some(authorization) = authorization else {
            return Ok(response);
        };
        let response = self.once(&method, &url, &headers, Some(&authorization), &what).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            lock(&self.authorization).insert(repository.to_owned(), authorization);
        }
        Ok(response)
    }

    async fn once(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&str>,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let mut request = self.client.request(method.clone(), url.clone()).headers(headers.clone());
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await.map_err(|error| unreachable(what, &error))
    }

    async fn token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<String, RegistryError> {
        let mut url = auth::realm_url(&self.config, realm)?;
        url.query_pairs_mut().append_pair("scope", scope);
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        let what = format!("token of {}", self.config.host);
        let credentials = auth::basic(&self.config)?;
        let response = self
            .once(&Method::GET, &url, &HeaderMap::new(), credentials.as_deref(), &what)
            .await?;
        if !response.status().is_success() {
            return Err(failure(&what, response).await);
        }
        let bytes = read(&what, response, TOKEN_MAX_BYTES).await?;
        let answer: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|_| RegistryError::new(Class::Invalid, &what, "the token service did not answer with JSON"))?;
        let token = answer
            .get("token")
            .or_else(|| answer.get("access_token"))
            .and_then(|token| token.as_str());
        let token =
            token.ok_or_else(|| RegistryError::new(Class::Invalid, &what, "the token service's answer holds no token"))?;
        Ok(format!("Bearer {token}"))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn accept() -> HeaderMap {
    debug_assert!(
        [INDEX_TYPE, MANIFEST_TYPE, DOCKER_LIST_TYPE, DOCKER_MANIFEST_TYPE]
            .iter()
            .all(|media| ACCEPTED.contains(media))
    );
    HeaderMap::from_iter([(ACCEPT, http::HeaderValue::from_static(ACCEPTED))])
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn unreachable(what: &str, error: &reqwest::Error) -> RegistryError {
    // The innermost cause says it in words; the outer ones repeat the URL.
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let message = if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        cause.to_string()
    };
    RegistryError::new(Class::Unreachable, what, message)
}

/// Reads a body up to a cap, whatever length it claims.
async fn read(what: &str, mut response: Response, max_bytes: u64) -> Result<Vec<u8>, RegistryError> {
    let too_large = || RegistryError::new(Class::TooLarge, what, format!("more than {max_bytes} bytes"));
    let claimed = response
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if claimed.is_some_and(|claimed| claimed > max_bytes) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(what, &error))? {
        if (bytes.len() + chunk.len()) as u64 > max_bytes {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// A status that is no success, with the registry's own words.
async fn failure(what: &str, response: Response) -> RegistryError {
    let status = response.status();
    let retry_after_ms = header(response.headers(), RETRY_AFTER.as_str()).and_then(|value| retry_after_ms(&value));
    let class = match status {
        StatusCode::NOT_FOUND => Class::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Class::Denied,
        StatusCode::TOO_MANY_REQUESTS => Class::Unavailable,
        status if status.is_server_error() => Class::Unavailable,
        _ => Class::Invalid,
    };
    let body = read(what, response, 16 << 10).await.unwrap_or_default();
    let answer: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let detail = answer.and_then(|answer| {
        Some(
            answer
                .get("errors")?
                .get(0)?
                .get("message")?
                .as_str()?
                .chars()
                .take(300)
                .collect::<String>(),
        )
    });
    let message = match detail {
        Some(detail) => format!("the registry answered {status}: {detail}"),
        None => format!("the registry answered {status}"),
    };
    RegistryError {
        retry_after_ms,
        ..RegistryError::new(class, what, message)
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "an HTTP date can only be compared with the wall clock"
)]
fn retry_after_ms(value: &str) -> Option<u64> {
    const LONGEST_MS: u64 = 3_600_000;
    let ms = match value.trim().parse::<u64>() {
        Ok(seconds) => seconds.saturating_mul(1000),
        Err(_) => {
            let at = httpdate::parse_http_date(value).ok()?;
            at.duration_since(std::time::SystemTime::now())
                .map_or(0, |wait| wait.as_millis() as u64)
        }
    };
    Some(ms.min(LONGEST_MS))
}

//! One registry server over HTTP: requests with authentication, redirects, caps and honest errors.

use crate::auth::{self, Challenge};
use crate::config::RegistryConfig;
use crate::reference::{Reference, is_digest};
use crate::resolve::{BlobStream, Wanted};
use crate::{
    Class, ConfigError, DOCKER_LIST_TYPE, DOCKER_MANIFEST_TYPE, INDEX_TYPE, MANIFEST_MAX_BYTES, MANIFEST_TYPE, RegistryError,
    TAGS_MAX, TAGS_MAX_BYTES,
};
use futures_util::StreamExt;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, IF_NONE_MATCH, LINK, LOCATION, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use reqwest::{Client, Response, Url};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

const CONCURRENT_REQUESTS: usize = 8;
const REDIRECTS_MAX: usize = 5;
const TOKEN_MAX_BYTES: u64 = 256 << 10;
const TAGS_PER_PAGE: usize = 1_000;
const TAG_PAGES_MAX: usize = 200;
const CONTENT_DIGEST: &str = "docker-content-digest";
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
    /// The digest that the answer's header gives.
    pub claimed: Option<String>,
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

/// What the configured timeout is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A whole answer.
    Answer,
    /// The next bytes: what is large may take long, as long as it comes.
    Bytes,
}

impl HttpRegistry {
    pub fn new(config: RegistryConfig, patience: Patience) -> Result<Self, ConfigError> {
        let timeout = Duration::from_millis(config.timeout_ms);
        let client = Client::builder()
            .tls_backend_preconfigured(tls_config(&config)?)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(timeout)
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")));
        let client = match patience {
            Patience::Answer => client.timeout(timeout),
            Patience::Bytes => client.read_timeout(timeout),
        };
        let client = client.build().map_err(|source| ConfigError::Client {
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

    pub(crate) fn url(&self, repository: &str, rest: &str) -> Result<Url, RegistryError> {
        let scheme = if self.config.plain_http { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/{repository}/{rest}", self.config.host);
        Url::parse(&text).map_err(|error| RegistryError::new(Class::Invalid, text, error.to_string()))
    }

    /// The digest that the registry says the tag has. None: it does not say, or knows no HEAD.
    pub async fn head(&self, reference: &Reference, known: Option<&str>) -> Result<Option<String>, RegistryError> {
        let what = reference.to_string();
        let url = self.url(&reference.repository, &format!("manifests/{}", reference.version_text()))?;
        let mut headers = accept();
        if let Some(value) = known.and_then(|known| format!("\"{known}\"").parse().ok()) {
            headers.insert(IF_NONE_MATCH, value);
        }
        let response = self.follow(Method::HEAD, url, headers, &reference.repository, &what).await?;
        match response.status() {
            StatusCode::NOT_MODIFIED => Ok(known.map(str::to_owned)),
            status if status.is_success() => claimed_digest(&what, response.headers()),
            // Some registries answer HEAD with 404 or 405 where GET works: GET decides.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(None),
            _ => Err(failure(&what, response).await),
        }
    }

    pub async fn manifest(&self, reference: &Reference) -> Result<RawManifest, RegistryError> {
        let what = reference.to_string();
        let url = self.url(&reference.repository, &format!("manifests/{}", reference.version_text()))?;
        let response = self.follow(Method::GET, url, accept(), &reference.repository, &what).await?;
        if !response.status().is_success() {
            return Err(failure(&what, response).await);
        }
        let claimed = claimed_digest(&what, response.headers())?;
        let status = response.status().as_u16();
        let media_type = header(response.headers(), "content-type").unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        let kept = [CONTENT_DIGEST, "etag", "date", "content-type"];
        let headers = kept
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), header(response.headers(), name)?)))
            .collect();
        let bytes = read(&what, response, MANIFEST_MAX_BYTES).await?;
        Ok(RawManifest {
            bytes,
            claimed,
            media_type,
            status,
            headers,
        })
    }

    /// A blob's bytes, from wherever the registry keeps them. Not verified here.
    pub async fn blob(&self, repository: &str, digest: &str, max_bytes: u64) -> Result<Vec<u8>, RegistryError> {
        let what = format!("{}/{repository}@{digest}", self.config.host);
        let url = self.url(repository, &format!("blobs/{digest}"))?;
        let response = self.follow(Method::GET, url, HeaderMap::new(), repository, &what).await?;
        if !response.status().is_success() {
            return Err(failure(&what, response).await);
        }
        read(&what, response, max_bytes).await
    }

    /// A blob's bytes as they come. Not verified here.
    pub async fn open_blob(&self, repository: &str, digest: &str) -> Result<BlobStream, RegistryError> {
        let what = format!("{}/{repository}@{digest}", self.config.host);
        let url = self.url(repository, &format!("blobs/{digest}"))?;
        let response = self.follow(Method::GET, url, HeaderMap::new(), repository, &what).await?;
        if !response.status().is_success() {
            return Err(failure(&what, response).await);
        }
        let chunks = response.bytes_stream();
        Ok(chunks
            .map(move |chunk| chunk.map_err(|error| unreachable(&what, &error)))
            .boxed())
    }

    /// Whether something is there, by HEAD. A redirect says so too: the registry knows where it keeps it.
    pub async fn has(&self, repository: &str, wanted: &Wanted) -> Result<(), RegistryError> {
        let (kind, headers) = match wanted {
            Wanted::Manifest { .. } => ("manifests", accept()),
            Wanted::Blob { .. } => ("blobs", HeaderMap::new()),
        };
        let digest = wanted.digest();
        let what = format!("{}/{repository}@{digest}", self.config.host);
        let url = self.url(repository, &format!("{kind}/{digest}"))?;
        let response = self.send(Method::HEAD, url, headers, repository).await?;
        if is_redirect(response.status()) {
            return Ok(());
        }
        if !response.status().is_success() {
            return Err(failure(&what, response).await);
        }
        let invalid = |message: String| Err(RegistryError::new(Class::DigestMismatch, &what, message));
        match claimed_digest(&what, response.headers())? {
            Some(claimed) if claimed != digest => return invalid(format!("the registry says that it is {claimed}")),
            _ => {}
        }
        let length = header(response.headers(), CONTENT_LENGTH.as_str()).and_then(|length| length.parse::<u64>().ok());
        match (wanted, length) {
            (
                Wanted::Blob {
                    size_bytes: Some(size), ..
                },
                Some(length),
            ) if *size != length => invalid(format!("it has {length} bytes instead of {size}")),
            _ => Ok(()),
        }
    }

    /// Every tag of a repository, page by page.
    pub async fn tags(&self, repository: &str) -> Result<BTreeSet<String>, RegistryError> {
        let what = format!("{}/{repository}", self.config.host);
        let first = self.url(repository, &format!("tags/list?n={TAGS_PER_PAGE}"))?;
        let mut tags = BTreeSet::new();
        let mut left_bytes = TAGS_MAX_BYTES;
        let mut url = first.clone();
        for _ in 0..TAG_PAGES_MAX {
            let response = self
                .follow(Method::GET, url.clone(), HeaderMap::new(), repository, &what)
                .await?;
            if !response.status().is_success() {
                return Err(failure(&what, response).await);
            }
            let next = next_page(response.headers());
            let bytes = read(&what, response, left_bytes).await?;
            left_bytes -= bytes.len() as u64;
            let page: TagPage = serde_json::from_slice(&bytes)
                .map_err(|_| RegistryError::new(Class::Invalid, &what, "its list of tags is not the JSON that it should be"))?;
            let page = page.tags.unwrap_or_default();
            let (known, last) = (tags.len(), page.last().cloned());
            let full = page.len() >= TAGS_PER_PAGE;
            tags.extend(page);
            if tags.len() > TAGS_MAX {
                let message = format!("it has more than {TAGS_MAX} tags");
                return Err(RegistryError::new(Class::TooLarge, what, message));
            }
            url = match (next, last) {
                // A page without news would come again and again.
                _ if tags.len() == known => return Ok(tags),
                (Some(next), _) => {
                    let next = url.join(&next).ok().filter(|next| next.origin() == first.origin());
                    next.ok_or_else(|| RegistryError::new(Class::Denied, &what, "its list of tags goes on at another host"))?
                }
                // Some leave the link out.
                (None, Some(last)) if full => {
                    let mut next = first.clone();
                    next.query_pairs_mut().append_pair("last", &last);
                    next
                }
                (None, _) => return Ok(tags),
            };
        }
        let message = format!("its list of tags does not end after {TAG_PAGES_MAX} pages");
        Err(RegistryError::new(Class::TooLarge, what, message))
    }

    /// A request that goes where the registry sends it: never with credentials to another origin, never from https to http.
    async fn follow(
        &self,
        method: Method,
        mut url: Url,
        headers: HeaderMap,
        repository: &str,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let origin = url.origin();
        let mut response = self.send(method.clone(), url.clone(), headers.clone(), repository).await?;
        for _ in 0..REDIRECTS_MAX {
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let location = header(response.headers(), LOCATION.as_str()).unwrap_or_default();
            let next = url
                .join(&location)
                .map_err(|_| RegistryError::new(Class::Invalid, what, format!("redirected to {location:?}, which is no URL")))?;
            if !may_redirect(&url, &next) {
                let message = format!("redirected from {} to {}, which is not followed", url.scheme(), next.scheme());
                return Err(RegistryError::new(Class::Denied, what, message));
            }
            response = if next.origin() == origin {
                self.send(method.clone(), next.clone(), headers.clone(), repository).await?
            } else {
                // Where bytes lie is the registry's business, who we are is not that place's.
                self.once(&method, &next, &headers, &bytes::Bytes::new(), None, what).await?
            };
            url = next;
        }
        let message = format!("redirected more than {REDIRECTS_MAX} times");
        Err(RegistryError::new(Class::Invalid, what, message))
    }

    async fn send(&self, method: Method, url: Url, headers: HeaderMap, repository: &str) -> Result<Response, RegistryError> {
        self.send_body(method, url, headers, Vec::new(), repository).await
    }

    /// One request, once more after a 401 that says how.
    pub(crate) async fn send_body(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Vec<u8>,
        repository: &str,
    ) -> Result<Response, RegistryError> {
        let body = bytes::Bytes::from(body);
        let what = format!("{method} {url}");
        let _permit = self
            .requests
            .acquire()
            .await
            .map_err(|_| RegistryError::new(Class::Unavailable, &what, "shutting down"))?;
        let known = lock(&self.authorization).get(repository).cloned();
        let response = self.once(&method, &url, &headers, &body, known.as_deref(), &what).await?;
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
        let response = self.once(&method, &url, &headers, &body, Some(&authorization), &what).await?;
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
        body: &bytes::Bytes,
        authorization: Option<&str>,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let mut request = self.client.request(method.clone(), url.clone()).headers(headers.clone());
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        // A server may want a length of zero where a body could be.
        if !body.is_empty() || *method == Method::POST {
            request = request.body(body.clone());
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
            .once(
                &Method::GET,
                &url,
                &HeaderMap::new(),
                &bytes::Bytes::new(),
                credentials.as_deref(),
                &what,
            )
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

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// From https only to https: what was asked for in private is not to be answered in public.
fn may_redirect(from: &Url, to: &Url) -> bool {
    match to.scheme() {
        "https" => true,
        "http" => from.scheme() == "http",
        _ => false,
    }
}

/// What `Docker-Content-Digest` says. One that is not what it should be is worse than none.
fn claimed_digest(what: &str, headers: &HeaderMap) -> Result<Option<String>, RegistryError> {
    let Some(value) = headers.get(CONTENT_DIGEST) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(digest) if is_digest(digest) => Ok(Some(digest.to_owned())),
        _ => {
            let message = format!("its Docker-Content-Digest {value:?} is not a sha256 digest");
            Err(RegistryError::new(Class::Invalid, what, message))
        }
    }
}

#[derive(Deserialize)]
struct TagPage {
    /// Null where there are none.
    tags: Option<Vec<String>>,
}

/// The target of `Link: <...>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    headers.get_all(LINK).iter().find_map(|value| {
        let (target, parameters) = value.to_str().ok()?.trim().strip_prefix('<')?.split_once('>')?;
        let mut parameters = parameters.split(';').map(str::trim);
        let next = parameters.any(|one| matches!(one, r#"rel="next""# | "rel=next"));
        next.then(|| target.to_owned())
    })
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
pub(crate) async fn failure(what: &str, response: Response) -> RegistryError {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_do_not_leave_tls() {
        for (from, to, expected) in [
            ("https://a/", "https://b/", true),
            ("http://a/", "https://b/", true),
            ("http://a/", "http://b/", true),
            ("https://a/", "http://a/", false),
            ("http://a/", "ftp://a/", false),
            ("https://a/", "file:///etc/passwd", false),
        ] {
            let url = |text: &str| Url::parse(text).unwrap();
            assert_eq!(may_redirect(&url(from), &url(to)), expected, "{from} {to}");
        }
    }
}

//! Servers that the operator named: only these are asked, no redirect is followed, no proxy is used.

use reqwest::{Client, Url};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error("{who}: {url:?} is not http://HOST or https://HOST, with a port and a path where needed")]
    Url { who: String, url: String },
    #[error("{who}: {} cannot be read", file.display())]
    File {
        who: String,
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("{who}: {} holds no PEM certificate", file.display())]
    Certificates { who: String, file: PathBuf },
    #[error("{who}: TLS cannot be set up")]
    Tls { who: String, source: rustls::Error },
    #[error("{who}: the HTTP client cannot be built")]
    Client { who: String, source: reqwest::Error },
}

#[derive(Clone)]
pub struct WebServer {
    /// Without a slash at its end.
    pub base: String,
    pub client: Client,
}

impl WebServer {
    /// `who`: for messages, as in `metric source main`. `ca_file`: PEM of a private authority; none: the public ones.
    pub fn new(who: &str, url: &str, ca_file: Option<&Path>, deadline: Duration) -> Result<Self, WebError> {
        let bad_url = || WebError::Url {
            who: who.to_owned(),
            url: url.to_owned(),
        };
        let url = Url::parse(url).map_err(|_| bad_url())?;
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !plain {
            return Err(bad_url());
        }
        let client = Client::builder()
            .tls_backend_preconfigured(tls(who, ca_file)?)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(deadline)
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| WebError::Client {
                who: who.to_owned(),
                source,
            })?;
        Ok(Self {
            base: url.as_str().trim_end_matches('/').to_owned(),
            client,
        })
    }
}

fn tls(who: &str, ca_file: Option<&Path>) -> Result<rustls::ClientConfig, WebError> {
    let who = || who.to_owned();
    let mut roots = rustls::RootCertStore::empty();
    match ca_file {
        Some(file) => {
            let pem = std::fs::read(file).map_err(|source| WebError::File {
                who: who(),
                file: file.to_owned(),
                source,
            })?;
            let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
            if roots.add_parsable_certificates(certificates).0 == 0 {
                return Err(WebError::Certificates {
                    who: who(),
                    file: file.to_owned(),
                });
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| WebError::Tls { who: who(), source })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

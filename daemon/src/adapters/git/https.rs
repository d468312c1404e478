//! Git's smart HTTP: two kinds of request, no redirects, capped.

use super::Class;
use super::transport::{self, Purpose, failed, https_settings, time_left};
use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream};
use reqwest::blocking::{Client, Response};
use reqwest::{StatusCode, Url};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FETCH_MAX_BYTES: u64 = 1 << 30;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Settings {
    pub url: Url,
    pub basic: Option<(String, PathBuf)>,
    pub ca_file: Option<PathBuf>,
    pub purpose: Purpose,
    pub deadline: Instant,
}

pub struct Https;

impl SmartSubtransport for Https {
    fn action(&self, url: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        // libgit2 appends its own path to the URL it was given.
        let name = url.to_owned();
        let settings = https_settings(&name).ok_or_else(|| git2::Error::from_str("unknown remote"))?;
        let client = client(&settings).map_err(|message| failed(&name, Class::Invalid, message))?;
        let Some((program, listing)) = transport::service(settings.purpose, service) else {
            return Err(git2::Error::from_str("Holdfast never pushes there"));
        };
        Ok(Box::new(Stream {
            name,
            settings,
            client,
            program,
            listing,
            request: Vec::new(),
            response: None,
        }))
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

fn client(settings: &Settings) -> Result<Client, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(file) = &settings.ca_file {
        let pem = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(format!("{} holds no PEM certificate", file.display()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Client::builder()
        .tls_backend_preconfigured(tls.with_root_certificates(roots).with_no_client_auth())
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(time_left(settings.deadline))
        .user_agent(concat!("git/holdfast-", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| error.to_string())
}

struct Stream {
    name: String,
    settings: Settings,
    client: Client,
    /// git-upload-pack or git-receive-pack.
    program: &'static str,
    listing: bool,
    request: Vec<u8>,
    response: Option<io::Take<Response>>,
}

impl Stream {
    fn exchange(&mut self) -> Result<Response, git2::Error> {
        let base = self.settings.url.as_str().trim_end_matches('/').to_owned();
        let mut request = if self.listing {
            self.client.get(format!("{base}/info/refs?service={}", self.program))
        } else {
            self.client
                .post(format!("{base}/{}", self.program))
                .header("content-type", format!("application/x-{}-request", self.program))
                .header("accept", format!("application/x-{}-result", self.program))
                .body(std::mem::take(&mut self.request))
        };
        if let Some((username, file)) = &self.settings.basic {
            let password = std::fs::read_to_string(file);
            let password = password.map_err(|error| {
                failed(
                    &self.name,
                    Class::Denied,
                    format!("the password file {}: {error}", file.display()),
                )
            })?;
            request = request.basic_auth(username, Some(password.trim_end_matches(['\n', '\r'])));
        }
        let shown = self.settings.url.as_str();
        // A request's own limit covers its answer to the last byte; the client's covers each read alone.
        let request = request.timeout(time_left(self.settings.deadline));
        let response = request.send().map_err(|error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(source) = cause.source() {
                cause = source;
            }
            failed(&self.name, Class::Unreachable, format!("{shown}: {cause}"))
        })?;
        let refused = |class, what: &str| Err(failed(&self.name, class, format!("{shown}: {what}")));
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return refused(Class::Denied, "the server refused the credentials (check auth.basic)");
            }
            StatusCode::NOT_FOUND => return refused(Class::NotFound, "there is no such repository"),
            status if status.is_redirection() => {
                return refused(Class::Invalid, "the server redirects elsewhere; name the final URL");
            }
            status => return refused(Class::Unreachable, &format!("the server answered {status}")),
        }
        let media_type = response
            .headers()
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if !media_type.starts_with(&format!("application/x-{}", self.program)) {
            return refused(Class::Invalid, "the server does not speak smart Git");
        }
        Ok(response)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let response = match &mut self.response {
            Some(response) => response,
            empty @ None => {
                let response = {
                    // Borrowed apart: the exchange needs all of the stream but its answer.
                    let mut other = Stream {
                        name: self.name.clone(),
                        settings: self.settings.clone(),
                        client: self.client.clone(),
                        program: self.program,
                        listing: self.listing,
                        request: std::mem::take(&mut self.request),
                        response: None,
                    };
                    other.exchange().map_err(io::Error::other)?
                };
                empty.insert(response.take(FETCH_MAX_BYTES))
            }
        };
        response.read(buffer).map_err(|error| {
            let shown = self.settings.url.as_str();
            let message = match time_left(self.settings.deadline).is_zero() {
                true => format!("{shown}: the fetch did not end in time (repository.timeout)"),
                false => format!("{shown}: {error}"),
            };
            io::Error::other(failed(&self.name, Class::Unreachable, message))
        })
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.request.extend_from_slice(bytes);
        // What was read belonged to the request before.
        self.response = None;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

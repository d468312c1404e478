//! TLS of the management API: its own certificate, and an authority whose clients need no token.

use crate::EdgeNodeError;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// PEM files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Whoever shows a certificate of this authority is let in.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, EdgeNodeError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| EdgeNodeError::Tls { path, source }
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(at(&self.cert))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(path)?);
                // A client without a certificate is told so in HTTP, where it can read it.
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated();
                let verifier = verifier.build().map_err(|_| EdgeNodeError::Pem {
                    path: path.clone(),
                    what: "certificate of an authority",
                })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|_| EdgeNodeError::Pem {
            path: self.key.clone(),
            what: "private key",
        })?;
        let config = builder
            .with_single_cert(certificates(&self.cert)?, key)
            .map_err(at(&self.cert))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, EdgeNodeError> {
    std::fs::read(path).map_err(|source| EdgeNodeError::File {
        path: path.to_owned(),
        source,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EdgeNodeError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?).filter_map(Result::ok).collect();
    if found.is_empty() {
        return Err(EdgeNodeError::Pem {
            path: path.to_owned(),
            what: "certificate",
        });
    }
    Ok(found)
}

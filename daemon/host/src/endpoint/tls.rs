//! TLS towards an endpoint, with what the files say now: an authority, a certificate or a key that was rotated counts from
//! the next connection on.

use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{} cannot be read: {source}", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("{} holds no PEM certificate", .0.display())]
    Certificates(PathBuf),
    #[error("{} holds no PEM private key", .0.display())]
    Key(PathBuf),
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Where trust and identity come from.
pub(super) struct TlsFiles {
    /// None: the public authorities.
    pub authority: Option<PathBuf>,
    /// Certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// What tells one content of a file from another without reading it.
type Stamp = Option<(i64, i64, u64, u64)>;

pub(super) struct Tls {
    files: TlsFiles,
    now: Mutex<Loaded>,
}

struct Loaded {
    stamps: Vec<Stamp>,
    config: Arc<ClientConfig>,
}

impl Tls {
    pub fn new(files: TlsFiles) -> Result<Self, TlsError> {
        // Before they are read: a change in between is then seen next time.
        let stamps = files.stamps();
        let config = files.load()?;
        Ok(Self {
            files,
            now: Mutex::new(Loaded { stamps, config }),
        })
    }

    /// What does not fit together, as a new certificate beside its old key, is told once and not taken: the old one goes on.
    pub fn current(&self) -> Arc<ClientConfig> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = self.files.stamps();
        if stamps != now.stamps {
            now.stamps = stamps;
            match self.files.load() {
                Ok(config) => now.config = config,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        "the changed TLS files of an endpoint cannot be used; the old ones go on"
                    );
                }
            }
        }
        now.config.clone()
    }
}

impl TlsFiles {
    fn stamps(&self) -> Vec<Stamp> {
        let client = self.client.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.authority.iter().chain(client).map(|file| stamp(file)).collect()
    }

    fn load(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut roots = rustls::RootCertStore::empty();
        match &self.authority {
            Some(file) => {
                if roots.add_parsable_certificates(certificates(file)?).0 == 0 {
                    return Err(TlsError::Certificates(file.clone()));
                }
            }
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(roots);
        let Some((certificate, key)) = &self.client else {
            return Ok(Arc::new(builder.with_no_client_auth()));
        };
        let pem = Zeroizing::new(read(key)?);
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::Key(key.clone()))?;
        Ok(Arc::new(builder.with_client_auth_cert(certificates(certificate)?, key)?))
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|source| TlsError::Read {
        file: file.to_owned(),
        source,
    })
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(file)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    if certificates.is_empty() {
        return Err(TlsError::Certificates(file.to_owned()));
    }
    Ok(certificates)
}

fn stamp(file: &Path) -> Stamp {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.mtime(), metadata.mtime_nsec(), metadata.len(), metadata.ino()))
}

//! TLS towards endpoints: private authorities, client certificates, and what is rotated under a running daemon.

use crate::guests::Call;
use crate::server::{Server, binding};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

struct Identity {
    pem: String,
    der: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    fn certify(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            key,
        }
    }

    /// A server at 127.0.0.1 that takes everybody, or only whom `clients` certified.
    async fn serve(&self, clients: Option<&Authority>) -> Server {
        let own = self.certify("127.0.0.1");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let config = builder
            .with_single_cert(vec![own.der], own.key.serialize_der().try_into().unwrap())
            .unwrap();
        Server::start_tls(Arc::new(config)).await
    }
}

/// Puts a file in the place of another, as whoever rotates does.
fn put(dir: &Path, name: &str, text: &str) -> PathBuf {
    let (aside, path) = (dir.join(format!("{name}.new")), dir.join(name));
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(aside, &path).unwrap();
    path
}

fn rules() -> Value {
    json!([{ "effect": "read", "methods": ["GET"], "path": "/read/**" }])
}

fn asking() -> Call {
    Call::new(json!([{ "do": "send", "alias": "a", "method": "GET", "path": "/read/x" }]))
}

#[tokio::test]
async fn tls_to_a_private_authority_and_nobody_else() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = authority.serve(None).await;
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "ca.pem", &authority.pem);
    put(dir.path(), "other.pem", &other.pem);
    let port = server.address.port();
    for (host, ca, part) in [
        ("127.0.0.1", Some("ca.pem"), "200 "),
        ("127.0.0.1", Some("other.pem"), "unreachable: "),
        ("127.0.0.1", None, "unreachable: "),
        // Signed by the authority, but for another name.
        ("localhost", Some("ca.pem"), "unreachable: "),
    ] {
        let mut endpoint = json!({ "url": format!("https://{host}:{port}"), "rules": rules() });
        if let Some(ca) = ca {
            endpoint["ca_file"] = json!(dir.path().join(ca));
        }
        let said = asking().with(&binding(endpoint)).observe().await.unwrap();
        assert!(said[0].starts_with(part), "{host} {ca:?}: {said:?}");
    }
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_a_rotated_one_counts() {
    let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let server = servers.serve(Some(&clients)).await;
    let dir = tempfile::tempdir().unwrap();
    let url = format!("https://{}", server.address);
    let mut endpoint = json!({ "url": url, "rules": rules(), "ca_file": put(dir.path(), "ca.pem", &servers.pem) });
    let said = asking().with(&binding(endpoint.clone())).observe().await.unwrap();
    assert!(!said[0].starts_with("200"), "without a certificate: {said:?}");

    let shown = |identity: &Identity| {
        let certificate = put(dir.path(), "client.pem", &identity.pem);
        (certificate, put(dir.path(), "client.key", &identity.key.serialize_pem()))
    };
    let (certificate, key) = shown(&strangers.certify("holdfast"));
    endpoint["client_cert_file"] = json!(certificate);
    endpoint["client_key_file"] = json!(key);
    let binding = binding(endpoint);
    let said = asking().with(&binding).observe().await.unwrap();
    assert!(!said[0].starts_with("200"), "a stranger's: {said:?}");

    // The same binding, other files.
    shown(&clients.certify("holdfast"));
    let said = asking().with(&binding).observe().await.unwrap();
    assert!(said[0].starts_with("200 "), "{said:?}");

    // Half of a rotation is not taken: the old pair goes on, also on new connections.
    put(dir.path(), "client.key", "not a key");
    for _ in 0..2 {
        let said = asking().with(&binding).observe().await.unwrap();
        assert!(said[0].starts_with("200 "), "{said:?}");
    }
    // The whole of it is, and what was connected before is not used again.
    shown(&strangers.certify("holdfast"));
    let said = asking().with(&binding).observe().await.unwrap();
    assert!(!said[0].starts_with("200"), "{said:?}");
}

#[tokio::test]
async fn a_rotated_authority_counts() {
    let (old, new) = (Authority::new(), Authority::new());
    let server = new.serve(None).await;
    let dir = tempfile::tempdir().unwrap();
    let ca_file = put(dir.path(), "ca.pem", &old.pem);
    let binding = binding(json!({ "url": format!("https://{}", server.address), "rules": rules(), "ca_file": ca_file }));
    let said = asking().with(&binding).observe().await.unwrap();
    assert!(said[0].starts_with("unreachable: "), "{said:?}");
    put(dir.path(), "ca.pem", &new.pem);
    let said = asking().with(&binding).observe().await.unwrap();
    assert!(said[0].starts_with("200 "), "{said:?}");
}

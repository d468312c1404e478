//! The management API over TLS, with token or client certificate.

use crate::site::Site;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::blocking::{Client, ClientBuilder};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self {
            pem: params.self_signed(&key).unwrap().pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Certificate and key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn client(authority: &Authority, identity: Option<&(String, String)>) -> Client {
    let builder = ClientBuilder::new().no_proxy().timeout(Duration::from_secs(10));
    let root = reqwest::Certificate::from_pem(authority.pem.as_bytes()).unwrap();
    let mut builder = builder.tls_certs_only([root]);
    if let Some((certificate, key)) = identity {
        builder = builder.identity(reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap());
    }
    builder.build().unwrap()
}

fn write(dir: &Path, servers: &Authority, clients: &Authority) {
    let (certificate, key) = servers.sign("127.0.0.1");
    for (name, text) in [("cert.pem", &certificate), ("key.pem", &key), ("clients.pem", &clients.pem)] {
        std::fs::write(dir.join(name), text).unwrap();
    }
}

const TLS: [&str; 6] = ["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--client-ca", "clients.pem"];

#[test]
fn a_token_or_a_certificate_opens_the_door() {
    let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let (known, stranger) = (clients.sign("daemon"), strangers.sign("daemon"));
    for with_token in [true, false] {
        let mut site = Site::prepare();
        write(site.dir.path(), &servers, &clients);
        let more = TLS.iter().copied().chain((!with_token).then_some("--no-token"));
        site.run_with(more);
        let url = format!("https://{}/v1/site", site.addresses.api);
        for (what, identity, token, expected) in [
            ("a certificate", Some(&known), None, Some(200)),
            ("a certificate, whatever the token", Some(&known), Some("wrong"), Some(200)),
            (
                "the token",
                None,
                Some("secret-token"),
                Some(if with_token { 200 } else { 401 }),
            ),
            ("another token", None, Some("wrong"), Some(401)),
            ("nothing", None, None, Some(401)),
            ("a certificate of somebody else", Some(&stranger), Some("secret-token"), None),
        ] {
            let mut request = client(&servers, identity).get(&url);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let status = request.send().ok().map(|response| response.status().as_u16());
            assert_eq!(status, expected, "{what}, token file: {with_token}");
        }
        assert!(
            client(&strangers, Some(&known)).get(&url).send().is_err(),
            "a client that knows another authority"
        );
        let plain = site.client.get(format!("http://{}/v1/site", site.addresses.api)).send();
        assert!(plain.is_err(), "plain HTTP");
    }
}

#[test]
fn what_cannot_be_served_is_said() {
    let site = Site::prepare();
    write(site.dir.path(), &Authority::new(), &Authority::new());
    std::fs::write(site.dir.path().join("empty.pem"), "").unwrap();
    for (more, part) in [
        (vec![], "--token-file"),
        (vec!["--token-file", "token", "--tls-cert", "cert.pem"], "--tls-key"),
        (vec!["--token-file", "token", "--client-ca", "clients.pem"], "--tls-cert"),
        (
            vec!["--token-file", "token", "--tls-cert", "empty.pem", "--tls-key", "key.pem"],
            "empty.pem holds no PEM certificate",
        ),
        (
            vec!["--token-file", "token", "--tls-cert", "cert.pem", "--tls-key", "cert.pem"],
            "cert.pem holds no PEM private key",
        ),
        (
            vec!["--token-file", "token", "--tls-cert", "none.pem", "--tls-key", "key.pem"],
            "none.pem of the edge node cannot be used",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args([
                "edge-node",
                "--dir",
                "site",
                "--api",
                "127.0.0.1:0",
                "--listen",
                "127.0.0.1:0",
                "--registries",
                "registries.yaml",
            ])
            .args(&more)
            .current_dir(site.dir.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(part), "{more:?}: {said}");
    }
}

//! Against Debian's docker-registry: open, basic and bearer. Run by `tests/run registry`, which starts them.

mod common;

use common::sha256;
use holdfast_registry::{Class, INDEX_TYPE, MANIFEST_TYPE, Reference, Registries, RegistryConfig, Wanted};
use reqwest::blocking::Client;
use serde_json::json;

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run this by `tests/run registry`"))
}

/// Pushes as any client would.
struct Pusher {
    client: Client,
    host: String,
    authorization: Option<String>,
}

impl Pusher {
    fn new(host: &str, authorization: Option<&str>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().build().unwrap();
        Self {
            client,
            host: host.into(),
            authorization: authorization.map(str::to_owned),
        }
    }

    fn put(&self, url: &str, media_type: &str, bytes: &[u8]) {
        let mut request = self.client.put(url).header("content-type", media_type).body(bytes.to_vec());
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let response = request.send().unwrap();
        assert!(response.status().is_success(), "PUT {url}: {}", response.status());
    }

    fn blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let mut request = self
            .client
            .post(format!("http://{}/v2/{repository}/blobs/uploads/", self.host));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let location = request.send().unwrap().headers()["location"].to_str().unwrap().to_owned();
        let joiner = if location.contains('?') { '&' } else { '?' };
        self.put(
            &format!("{location}{joiner}digest={digest}"),
            "application/octet-stream",
            bytes,
        );
        digest
    }

    fn manifest(&self, repository: &str, name: &str, media_type: &str, bytes: &[u8]) -> String {
        self.put(
            &format!("http://{}/v2/{repository}/manifests/{name}", self.host),
            media_type,
            bytes,
        );
        sha256(bytes)
    }

    fn image(&self, repository: &str, tag: &str, content: &[u8]) -> String {
        let (config, layer) = (self.blob(repository, b"{}"), self.blob(repository, content));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2 },
            "layers": [{ "mediaType": "application/wasm", "digest": layer, "size": content.len() }],
        });
        self.manifest(repository, tag, MANIFEST_TYPE, manifest.to_string().as_bytes())
    }
}

fn registries(config: serde_json::Value) -> Registries {
    let config: RegistryConfig = serde_json::from_value(config).unwrap();
    Registries::new(&[config]).unwrap()
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn tags_move_and_digests_stay() {
    let host = env("HOLDFAST_REGISTRY_OPEN");
    let pusher = Pusher::new(&host, None);
    let registries = registries(json!({ "host": host, "plain_http": true }));
    let reference = Reference::parse(&format!("{host}/team/app:stable")).unwrap();
    let first = pusher.image("team/app", "stable", b"one");
    let resolved = block(registries.resolve(&reference, None)).unwrap().unwrap();
    assert_eq!(resolved.digest, first);
    assert_eq!(resolved.evidence.headers["docker-content-digest"], first);
    assert_eq!(resolved.images[0].blobs[0].digest, sha256(b"one"));
    assert!(
        block(registries.resolve(&reference, Some(&first))).unwrap().is_none(),
        "unchanged"
    );
    let second = pusher.image("team/app", "stable", b"two");
    assert_eq!(
        block(registries.resolve(&reference, Some(&first))).unwrap().unwrap().digest,
        second
    );
    let source = reference.source();
    assert_eq!(block(registries.fetch_blob(&source, &sha256(b"one"), 100)).unwrap(), b"one");
    assert_eq!(
        block(registries.fetch_blob(&source, &sha256(b"one"), 2)).unwrap_err().class,
        Class::TooLarge
    );
    assert_eq!(
        block(registries.fetch_blob(&source, &sha256(b"none"), 100))
            .unwrap_err()
            .class,
        Class::NotFound
    );
    let missing = Reference::parse(&format!("{host}/team/app:never")).unwrap();
    assert_eq!(block(registries.resolve(&missing, None)).unwrap_err().class, Class::NotFound);
}

#[test]
fn an_index_gives_every_platform() {
    let host = env("HOLDFAST_REGISTRY_OPEN");
    let pusher = Pusher::new(&host, None);
    let (one, two) = (
        pusher.image("multi", "amd64", b"amd64"),
        pusher.image("multi", "arm64", b"arm64"),
    );
    let child = |digest: &str, architecture: &str| json!({ "mediaType": MANIFEST_TYPE, "digest": digest, "size": 1, "platform": { "os": "linux", "architecture": architecture } });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [child(&one, "amd64"), child(&two, "arm64")] });
    let digest = pusher.manifest("multi", "v1", INDEX_TYPE, index.to_string().as_bytes());
    let registries = registries(json!({ "host": host, "plain_http": true }));
    let resolved = block(registries.resolve(&Reference::parse(&format!("{host}/multi:v1")).unwrap(), None))
        .unwrap()
        .unwrap();
    assert_eq!(resolved.digest, digest);
    let platforms: Vec<(&str, &str)> = resolved
        .images
        .iter()
        .map(|image| (image.platform.as_str(), image.manifest.as_str()))
        .collect();
    assert_eq!(platforms, [("linux/amd64", one.as_str()), ("linux/arm64", two.as_str())]);
}

#[test]
fn basic_authentication() {
    let host = env("HOLDFAST_REGISTRY_BASIC");
    let digest = Pusher::new(&host, Some("Basic Y2k6c2VjcmV0")).image("private", "v1", b"secret bytes");
    let reference = Reference::parse(&format!("{host}/private:v1")).unwrap();
    let with = |password: &str| {
        registries(json!({ "host": host, "plain_http": true, "auth": { "username": "ci", "password_file": env(password) } }))
    };
    assert_eq!(
        block(with("HOLDFAST_REGISTRY_PASSWORD").resolve(&reference, None))
            .unwrap()
            .unwrap()
            .digest,
        digest
    );
    assert_eq!(
        block(with("HOLDFAST_REGISTRY_WRONG_PASSWORD").resolve(&reference, None))
            .unwrap_err()
            .class,
        Class::Denied
    );
    let anonymous = registries(json!({ "host": host, "plain_http": true }));
    assert_eq!(block(anonymous.resolve(&reference, None)).unwrap_err().class, Class::Denied);
}

/// A token of the issuer that may push and pull.
fn push_token(repository: &str) -> String {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!(
        "{}?service=testbed&scope=repository:{repository}:pull,push",
        env("HOLDFAST_REGISTRY_ISSUER")
    );
    let client = Client::builder().no_proxy().build().unwrap();
    let answer = client
        .get(url)
        .basic_auth("ci", Some("secret"))
        .send()
        .unwrap()
        .bytes()
        .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    format!("Bearer {}", answer["token"].as_str().unwrap())
}

#[test]
fn bearer_tokens() {
    let host = env("HOLDFAST_REGISTRY_BEARER");
    let digest = Pusher::new(&host, Some(&push_token("tokens"))).image("tokens", "v1", b"behind a token");
    let reference = Reference::parse(&format!("{host}/tokens:v1")).unwrap();
    let source = reference.source();
    let with = |password: &str| {
        let auth =
            json!({ "username": "ci", "password_file": env(password), "token_host": env("HOLDFAST_REGISTRY_ISSUER_HOST") });
        registries(json!({ "host": host, "plain_http": true, "auth": auth }))
    };
    let anonymous = registries(json!({ "host": host, "plain_http": true }));
    // The issuer lets anyone pull, and knows the user.
    for registries in [&anonymous, &with("HOLDFAST_REGISTRY_PASSWORD")] {
        let resolved = block(registries.resolve(&reference, None)).unwrap().unwrap();
        assert_eq!(resolved.digest, digest);
        assert_eq!(resolved.images[0].blobs[0].digest, sha256(b"behind a token"));
        assert_eq!(block(registries.resolve(&reference, Some(&digest))).unwrap(), None);
        assert_eq!(
            block(registries.fetch_blob(&source, &sha256(b"behind a token"), 100)).unwrap(),
            b"behind a token"
        );
        assert_eq!(block(registries.tags(&source)).unwrap(), ["v1"]);
    }
    let wrong = with("HOLDFAST_REGISTRY_WRONG_PASSWORD");
    assert_eq!(block(wrong.resolve(&reference, None)).unwrap_err().class, Class::Denied);
}

#[test]
fn tags_are_listed_in_pages_and_what_is_there_is_told() {
    let host = env("HOLDFAST_REGISTRY_OPEN");
    let pusher = Pusher::new(&host, None);
    let digest = pusher.image("paged", "v0", b"paged");
    let manifest = {
        let client = Client::builder().no_proxy().build().unwrap();
        let request = client
            .get(format!("http://{host}/v2/paged/manifests/v0"))
            .header("accept", MANIFEST_TYPE);
        request.send().unwrap().bytes().unwrap()
    };
    for number in 1..1_005 {
        pusher.manifest("paged", &format!("v{number}"), MANIFEST_TYPE, &manifest);
    }
    let registries = registries(json!({ "host": host, "plain_http": true }));
    let source = format!("{host}/paged");
    assert_eq!(block(registries.tags(&source)).unwrap().len(), 1_005);
    assert_eq!(
        block(registries.tags(&format!("{host}/never"))).unwrap_err().class,
        Class::NotFound
    );
    let layer = |content: &[u8], size_bytes| Wanted::Blob {
        digest: sha256(content),
        size_bytes,
    };
    for (wanted, expected) in [
        (Wanted::Manifest { digest }, Ok(())),
        (Wanted::Manifest { digest: sha256(b"x") }, Err(Class::NotFound)),
        (layer(b"paged", Some(5)), Ok(())),
        (layer(b"paged", Some(6)), Err(Class::DigestMismatch)),
        (layer(b"none", None), Err(Class::NotFound)),
    ] {
        let outcome = block(registries.has(&source, &wanted)).map_err(|error| error.class);
        assert_eq!(outcome, expected, "{wanted:?}");
    }
}

#[test]
fn a_component_is_pushed_and_pulled() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let auth = |token_host: Option<String>| json!({ "username": "ci", "password_file": env("HOLDFAST_REGISTRY_PASSWORD"), "token_host": token_host });
    for (host, auth) in [
        (env("HOLDFAST_REGISTRY_OPEN"), serde_json::Value::Null),
        (env("HOLDFAST_REGISTRY_BASIC"), auth(None)),
        (
            env("HOLDFAST_REGISTRY_BEARER"),
            auth(Some(env("HOLDFAST_REGISTRY_ISSUER_HOST"))),
        ),
    ] {
        let registries = registries(json!({ "host": host, "plain_http": true, "auth": auth }));
        let reference = Reference::parse(&format!("{host}/plugins/mine:1.0")).unwrap();
        let annotations = std::collections::BTreeMap::from([("holdfast.plugin.note".to_owned(), "signed".to_owned())]);
        for component in [&b"one component"[..], b"another one", b"another one"] {
            let pushed = block(registries.push_component(&reference, component, &annotations)).unwrap();
            let pulled = block(registries.pull_component(&reference, 1_000)).unwrap();
            assert_eq!(
                (pulled.manifest_digest, pulled.component.as_slice()),
                (pushed, component),
                "{host}"
            );
            assert_eq!(pulled.annotations, annotations);
        }
    }
    let anonymous = registries(json!({ "host": env("HOLDFAST_REGISTRY_BASIC"), "plain_http": true }));
    let reference = Reference::parse(&format!("{}/plugins/mine:2.0", env("HOLDFAST_REGISTRY_BASIC"))).unwrap();
    let refused = block(anonymous.push_component(&reference, b"x", &Default::default()));
    assert_eq!(refused.unwrap_err().class, Class::Denied);
}

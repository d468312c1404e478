//! Blobs, archives and long requests: streamed, verified, and begun again when the daemon was.

use crate::guests::{Call, component, generation};
use crate::server::{Seen, Server, answer, binding, http_binding};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, StreamExt};
use holdfast_core::ids::Digest;
use holdfast_core::target::{Artifact, BlobRef, PlatformImage, Progress};
use holdfast_host::{ArtifactSource, BlobBytes, Limits, LongLimits, Plugin, PluginHost, SecretValue};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;

const SOURCE: &str = "r.example.com/shop";
const CHUNK_BYTES: usize = 1_000;

/// A registry in memory, that can lie, stop half-way, or wait.
#[derive(Default)]
struct Store {
    content: BTreeMap<String, Vec<u8>>,
    /// What comes instead of a blob.
    instead: BTreeMap<String, Vec<u8>>,
    /// Before the last chunk of every blob.
    gate: Option<Arc<Notify>>,
    asked: Mutex<Vec<String>>,
}

impl Store {
    fn add(&mut self, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes).to_string();
        self.content.insert(digest.clone(), bytes.to_vec());
        digest
    }

    fn get(&self, source: &str, digest: &str) -> Result<Vec<u8>, String> {
        assert_eq!(source, SOURCE);
        self.asked.lock().unwrap().push(digest.to_owned());
        let found = self.instead.get(digest).or_else(|| self.content.get(digest));
        found.cloned().ok_or_else(|| format!("{digest} is not there"))
    }
}

impl ArtifactSource for Store {
    fn manifest(&self, source: &str, digest: &str) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let found = self.get(source, digest);
        async move { found }.boxed()
    }

    fn blob(&self, source: &str, digest: &str) -> BoxFuture<'static, Result<BlobBytes, String>> {
        let (found, gate) = (self.get(source, digest), self.gate.clone());
        async move {
            let chunks: Vec<Bytes> = found?.chunks(CHUNK_BYTES).map(Bytes::copy_from_slice).collect();
            let last = chunks.len().saturating_sub(1);
            let chunks = stream::iter(chunks.into_iter().enumerate());
            let chunks = chunks.then(move |(number, chunk)| {
                let gate = gate.clone().filter(|_| number == last);
                async move {
                    if let Some(gate) = gate {
                        gate.notified().await;
                    }
                    Ok(chunk)
                }
            });
            Ok(chunks.boxed())
        }
        .boxed()
    }
}

/// One image of two layers in an index, and what plugins are told of it.
struct Image {
    store: Store,
    artifact: Artifact,
    layer: String,
    layer_bytes: Vec<u8>,
}

fn image() -> Image {
    let mut store = Store::default();
    let layer_bytes: Vec<u8> = (0..10_500u32).map(|number| number as u8).collect();
    let (layer, other) = (store.add(&layer_bytes), store.add(b"another layer"));
    let config = store.add(b"{}");
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2 },
        "layers": [
            { "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": layer_bytes.len() },
            { "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": other, "size": 13 },
        ],
    })
    .to_string();
    let manifest_digest = store.add(manifest.as_bytes());
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest,
            "size": manifest.len(),
            "platform": { "os": "linux", "architecture": "amd64" },
        }],
    })
    .to_string();
    let index_digest = store.add(index.as_bytes());
    let blob = |digest: &str, size_bytes: u64| BlobRef {
        digest: digest.into(),
        media_type: "application/vnd.oci.image.layer.v1.tar".into(),
        size_bytes,
    };
    let artifact = Artifact {
        name: "main".into(),
        uri: format!("{SOURCE}@{index_digest}"),
        digest: index_digest,
        images: vec![PlatformImage {
            platform: "linux/amd64".into(),
            manifest: manifest_digest,
            config,
            blobs: vec![blob(&layer, 10_500), blob(&other, 13)],
        }],
        payload: Vec::new(),
    };
    Image {
        store,
        artifact,
        layer,
        layer_bytes,
    }
}

fn rules() -> Value {
    json!([{ "effect": "write", "methods": ["POST"], "path": "/images" }])
}

fn upload(kind: &str, what: &str) -> Value {
    json!({ "do": kind, "alias": "a", "method": "POST", "path": "/images", "kind": what })
}

fn call(mut op: Value, body: &str, image: &Image, store: Store, binding: &Arc<holdfast_host::Binding>) -> Call {
    op["body"] = body.into();
    let mut call = Call::new(json!([op])).with(binding);
    call.subject.artifacts = vec![image.artifact.clone()];
    call.artifacts = Some(Arc::new(store));
    call
}

/// A daemon of its own, so that no test counts another one's requests; with a cache, as a daemon that starts again.
fn plugin(long: LongLimits) -> Plugin {
    static CACHE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let cache = CACHE.get_or_init(|| tempfile::tempdir().unwrap());
    let limits = Limits {
        long,
        ..Limits::default()
    };
    let host = PluginHost::new(limits, Some(cache.path().into())).unwrap();
    host.load("hostile", &component("holdfast-hostile-plugin")).unwrap()
}

async fn ask(plugin: &Plugin, call: &Call) -> String {
    match plugin.launch(&call.options(), &call.subject, 1).await.answer.unwrap() {
        Progress::Pending { resume, .. } => resume,
        Progress::Done => panic!("the hostile plugin is never done"),
    }
}

/// Asks until it is no longer running.
async fn ask_to_the_end(plugin: &Plugin, call: &Call) -> String {
    loop {
        let said = ask(plugin, call).await;
        if !said.starts_with("running ") {
            return said;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_blob_goes_out_whole_and_verified() {
    let image = image();
    let server = Server::start_bytes().await;
    let binding = http_binding(&server, rules());
    for kind in ["send", "send-long"] {
        for (digest, expected) in [
            (&image.layer, image.layer_bytes.clone()),
            (&image.artifact.images[0].config, b"{}".to_vec()),
            (&image.artifact.digest, image.store.content[&image.artifact.digest].clone()),
        ] {
            let call = call(upload(kind, "blob"), digest, &image, self::image().store, &binding);
            let said = ask_to_the_end(&plugin(LongLimits::default()), &call).await;
            assert!(said.contains("200"), "{kind} {digest}: {said}");
            let seen = server.bodies().pop().unwrap();
            assert_eq!(seen, expected, "{kind} {digest}");
        }
    }
}

#[tokio::test]
async fn an_archive_is_an_oci_layout() {
    let image = image();
    let server = Server::start_bytes().await;
    let binding = http_binding(&server, rules());
    let manifest = image.artifact.images[0].manifest.clone();
    for (digest, files) in [(&image.artifact.digest, 7), (&manifest, 6)] {
        let call = call(upload("send-long", "archive"), digest, &image, self::image().store, &binding);
        let said = ask_to_the_end(&plugin(LongLimits::default()), &call).await;
        assert!(said.starts_with("finished 200"), "{said}");
        let body = server.bodies().pop().unwrap();
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(&body[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            found.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        assert_eq!(found.len(), files, "{:?}", found.keys());
        for (path, bytes) in &found {
            if let Some(hex) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(Digest::of(bytes).hex(), hex);
            }
        }
        assert_eq!(found["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
        let index: Value = serde_json::from_slice(&found["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["digest"], json!(digest));
        assert_eq!(body.len() % 512, 0);
    }
}

#[tokio::test]
async fn what_is_not_what_its_digest_says_never_arrives_whole() {
    let server = Server::start_bytes().await;
    let binding = http_binding(&server, rules());
    let whole = image().layer_bytes;
    let (mut wrong, mut longer) = (whole.clone(), whole.clone());
    wrong[10_400] ^= 1;
    longer.push(0);
    for (what, instead, part) in [
        ("a wrong byte", wrong, "what came has the hash sha256:"),
        ("cut short", whole[..9_000].to_vec(), "it ended after 9000 of 10500 bytes"),
        ("too long", longer, "it has more than its 10500 bytes"),
        ("nothing", Vec::new(), "it ended after 0 of 10500 bytes"),
    ] {
        for kind in ["send", "send-long"] {
            for wanted in ["blob", "archive"] {
                let mut image = image();
                let mut store = std::mem::take(&mut image.store);
                store.instead.insert(image.layer.clone(), instead.clone());
                let body = if wanted == "blob" {
                    image.layer.clone()
                } else {
                    image.artifact.digest.clone()
                };
                let call = call(upload(kind, wanted), &body, &image, store, &binding);
                let said = ask_to_the_end(&plugin(LongLimits::default()), &call).await;
                assert!(
                    said.starts_with("lost: the body was not sent whole: blob sha256:"),
                    "{what} {kind} {wanted}: {said}"
                );
                assert!(said.contains(part), "{what} {kind} {wanted}: {said}");
            }
        }
    }
    // A manifest is checked before anything is sent.
    let mut image = image();
    let mut store = std::mem::take(&mut image.store);
    store.instead.insert(image.artifact.digest.clone(), b"{}".to_vec());
    let call = call(
        upload("send-long", "archive"),
        &image.artifact.digest,
        &image,
        store,
        &binding,
    );
    let said = ask_to_the_end(&plugin(LongLimits::default()), &call).await;
    assert!(said.starts_with("denied: the manifest sha256:"), "{said}");
    assert!(server.bodies().is_empty(), "no whole body arrived");
}

#[tokio::test]
async fn only_what_belongs_to_the_release_is_sent() {
    let server = Server::start_bytes().await;
    let binding = http_binding(&server, rules());
    let mut image = image();
    let secret = image.store.add(b"of somebody else");
    for (kind, wanted, body, part) in [
        ("send", "blob", secret.clone(), "is no blob of this release"),
        ("send-long", "blob", secret, "is no blob of this release"),
        ("send", "archive", image.layer.clone(), "is no artifact of this release"),
        ("send", "blob", "../../etc/passwd".into(), "is no blob of this release"),
        ("send", "blob", String::new(), "is no blob of this release"),
    ] {
        let call = call(upload(kind, wanted), &body, &image, self::image().store, &binding);
        let said = ask(&plugin(LongLimits::default()), &call).await;
        assert!(said.starts_with("denied: ") && said.contains(part), "{body}: {said}");
    }
    assert!(server.bodies().is_empty());
    // And only by verbs that change something.
    let mut binding_call = Call::new(json!([upload("send-long", "blob")])).with(&binding);
    binding_call.subject = generation(2);
    let said = binding_call.observe().await.unwrap();
    assert!(said[0].starts_with("denied: no rule"), "{said:?}");
}

#[tokio::test]
async fn a_long_request_reports_and_begins_again_after_a_restart() {
    let gate = Arc::new(Notify::new());
    let image = image();
    let gated = |gate: &Arc<Notify>| Store {
        gate: Some(gate.clone()),
        ..self::image().store
    };
    let server = Server::start_bytes().await;
    let binding = http_binding(&server, rules());
    let mut call = call(upload("send-long", "blob"), &image.layer, &image, gated(&gate), &binding);
    let first = plugin(LongLimits::default());
    assert_eq!(ask(&first, &call).await, "running 0");
    // Its last chunk is held back until it is known to be right, and the one before it goes out.
    while ask(&first, &call).await != "running 8" {
        tokio::task::yield_now().await;
    }
    // The same request of another step is another one; the one before it is given up.
    call.context.fence = 8;
    assert_eq!(ask(&first, &call).await, "running 0");
    call.context.fence = 7;
    drop(first);

    // As after a restart: nothing is remembered, so it begins afresh.
    let second = plugin(LongLimits::default());
    assert_eq!(ask(&second, &call).await, "running 0");
    gate.notify_one();
    let said = loop {
        let said = ask(&second, &call).await;
        if !said.starts_with("running ") {
            break said;
        }
        gate.notify_one();
        tokio::task::yield_now().await;
    };
    assert_eq!(said, "finished 200");
    assert_eq!(ask(&second, &call).await, "finished 200", "and says so again");
    let whole = server.bodies();
    assert!(whole.iter().all(|body| *body == image.layer_bytes), "{}", whole.len());
}

#[tokio::test]
async fn long_requests_have_bounds() {
    let server = Server::start(|_| Vec::new()).await;
    let binding = http_binding(&server, rules());
    let limits = LongLimits {
        per_target: 1,
        at_once: 2,
        ..LongLimits::default()
    };
    let plugin = self::plugin(limits);
    let on = |target: &str, body: &str| {
        let mut call = Call::new(json!([upload("send-long", "bytes")])).with(&binding);
        let mut op = upload("send-long", "bytes");
        op["body"] = body.into();
        call.context.config = json!({ "ops": [op] }).to_string();
        call.context.target = target.into();
        call
    };
    let requests = |wanted: usize| {
        let server = &server;
        async move {
            while server.seen().len() < wanted {
                tokio::task::yield_now().await;
            }
        }
    };
    assert_eq!(ask(&plugin, &on("a", "one")).await, "running 0");
    requests(1).await;
    // Each waits its turn; none is sent.
    assert_eq!(ask(&plugin, &on("a", "two")).await, "running 0");
    assert_eq!(ask(&plugin, &on("b", "three")).await, "running 0");
    requests(2).await;
    assert_eq!(ask(&plugin, &on("c", "four")).await, "running 0");
    let bodies: Vec<String> = server.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, ["one", "three"]);

    let short = self::plugin(LongLimits {
        longest: Duration::from_millis(50),
        ..LongLimits::default()
    });
    let said = ask_to_the_end(&short, &on("a", "five")).await;
    assert!(said.starts_with("lost: no whole answer within "), "{said}");
    // It was told; now it begins again.
    assert_eq!(ask(&short, &on("a", "five")).await, "running 0");

    let forgetful = self::plugin(LongLimits {
        unasked: Duration::ZERO,
        ..LongLimits::default()
    });
    for _ in 0..3 {
        assert_eq!(
            ask(&forgetful, &on("a", "six")).await,
            "running 0",
            "nobody asked for it in time"
        );
    }
}

/// The end of the answer, without secrets: also not the rest of one that the cut went through.
#[tokio::test]
async fn the_end_of_a_long_answer_is_shown_and_holds_no_secret() {
    const VALUE: &str = "canary-value-of-a-secret";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "canary-token").unwrap();
    let echo = |seen: &Seen| {
        let mut body = seen.body.repeat(9_000);
        body.push_str(&seen.head);
        body.push_str("THE END");
        answer(200, "text/plain", body.as_bytes())
    };
    let server = Server::start(echo).await;
    let binding = binding(json!({
        "url": format!("http://{}", server.address),
        "rules": rules(),
        "auth": { "bearer_token_file": dir.path().join("token") },
    }));
    let plugin = plugin(LongLimits::default());
    let with_marker = |marker: &str| {
        let mut op = upload("send-long", "bytes");
        op["body"] = json!(marker);
        let mut call = Call::new(json!([op])).with(&binding);
        call.secrets = vec![SecretValue {
            marker: marker.into(),
            marker_base64: format!("{marker}b"),
            value: VALUE.into(),
        }];
        call
    };
    // Each call has markers of its own, and asks for the same request all the same.
    assert_eq!(ask(&plugin, &with_marker("@@0@@")).await, "running 0");
    let said = ask_to_the_end(&plugin, &with_marker("@@1@@")).await;
    assert_eq!(server.seen().len(), 1);
    assert!(
        said.starts_with("finished 200 ") && said.ends_with("THE END"),
        "{}",
        &said[said.len() - 300..]
    );
    assert!(said.len() <= (64 << 10) + 100 && said.len() > 10_000, "{}", said.len());
    for part in ["canary", "anary", "of-a-secret", "token"] {
        assert!(!said.contains(part), "{part}");
    }
    assert!(said.contains("@@0@@@@0@@") && said.contains("authorization: Bearer [removed]"));
}

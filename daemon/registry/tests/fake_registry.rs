//! Against a small registry of our own that answers whatever a test wants: right, wrong, too much, too late or elsewhere.

mod common;

use bytes::Bytes;
use common::sha256;
use futures_util::{StreamExt, stream};
use holdfast_registry::{Class, INDEX_TYPE, MANIFEST_MAX_BYTES, MANIFEST_TYPE, Reference, Registries, Wanted};
use http::header::AUTHORIZATION;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

#[derive(Clone, Default)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The body begins and never ends.
    stalls: bool,
    /// Without saying how long the body is.
    chunked: bool,
}

fn reply(status: u16) -> Reply {
    Reply {
        status,
        ..Reply::default()
    }
}

impl Reply {
    fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
    fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// A manifest or index as a good registry gives it.
fn manifest(bytes: &[u8]) -> Reply {
    reply(200).header("docker-content-digest", sha256(bytes)).body(bytes)
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Method and path with query.
    line: String,
    authorization: Option<String>,
}

struct Fake {
    host: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// `answer` gets the request and how many came before it.
    async fn start(answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (answer, all) = (Arc::new(answer), seen.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, all) = (answer.clone(), all.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let authorization = request.headers().get(AUTHORIZATION);
                    let one = Seen {
                        line: format!("{} {}", request.method(), request.uri()),
                        authorization: authorization.map(|value| value.to_str().unwrap().to_owned()),
                    };
                    let mut all = all.lock().unwrap();
                    let reply = answer(&one, all.len());
                    all.push(one);
                    async move { Ok::<_, Infallible>(response(reply)) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { host, seen, task }
    }

    fn lines(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|seen| seen.line.clone()).collect()
    }

    fn registries(&self, more: Value) -> Registries {
        let mut config = json!({ "host": self.host, "plain_http": true, "timeout_ms": 5_000 });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        Registries::new(&[serde_json::from_value(config).unwrap()]).unwrap()
    }

    fn reference(&self) -> Reference {
        Reference::parse(&format!("{}/team/app:v1", self.host)).unwrap()
    }
}

fn response(reply: Reply) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    let named = |name| reply.headers.iter().any(|(one, _)| *one == name);
    if !reply.stalls && !reply.chunked && !named("content-length") {
        response = response.header("content-length", reply.body.len());
    }
    let begun = stream::iter([Ok(Frame::data(Bytes::from(reply.body)))]);
    let body = if reply.stalls {
        BodyExt::boxed(StreamBody::new(begun.chain(stream::pending())))
    } else {
        BodyExt::boxed(StreamBody::new(begun))
    };
    response.body(body).unwrap()
}

fn image(layer: &str) -> Vec<u8> {
    let config = sha256(b"{}");
    let layers = json!([{ "mediaType": "application/wasm", "digest": sha256(layer.as_bytes()), "size": layer.len() }]);
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": { "digest": config, "size": 2 }, "layers": layers });
    manifest.to_string().into_bytes()
}

#[tokio::test]
async fn a_first_resolve_is_head_then_get_and_a_poll_is_head() {
    let bytes = image("one");
    let digest = sha256(&bytes);
    let fake = Fake::start(move |_, _| manifest(&bytes)).await;
    let registries = fake.registries(json!({}));
    let resolved = registries.resolve(&fake.reference(), None).await.unwrap().unwrap();
    assert_eq!(resolved.digest, digest);
    assert_eq!(resolved.evidence.headers["docker-content-digest"], digest);
    let known = registries.resolve(&fake.reference(), Some(&digest)).await.unwrap();
    assert_eq!(known, None);
    let by_digest = fake.reference().with_digest(&digest);
    assert_eq!(registries.resolve(&by_digest, Some(&digest)).await.unwrap(), None);
    let line = |method| format!("{method} /v2/team/app/manifests/v1");
    assert_eq!(fake.lines(), [line("HEAD"), line("GET"), line("HEAD")]);
}

#[tokio::test]
async fn get_decides_where_head_says_nothing() {
    let bytes = image("one");
    let digest = sha256(&bytes);
    let silent = move |status| {
        let bytes = bytes.clone();
        move |seen: &Seen, _| {
            if seen.line.starts_with("HEAD") {
                return reply(status);
            }
            reply(200).body(bytes.clone())
        }
    };
    for status in [404, 405, 501, 200] {
        let fake = Fake::start(silent(status)).await;
        let registries = fake.registries(json!({}));
        let resolved = registries.resolve(&fake.reference(), None).await.unwrap().unwrap();
        assert_eq!(resolved.digest, digest, "HEAD {status}");
        assert_eq!(registries.resolve(&fake.reference(), Some(&digest)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_tag_that_moves_between_head_and_get_is_asked_for_again() {
    let (old, new) = (image("old"), image("new"));
    let expected = sha256(&new);
    let fake = Fake::start(move |seen, before| match (seen.line.starts_with("HEAD"), before) {
        (true, 0) => manifest(&old),
        (true, _) => manifest(&new),
        (false, _) => reply(200).body(new.clone()),
    })
    .await;
    let resolved = fake.registries(json!({})).resolve(&fake.reference(), None).await;
    assert_eq!(resolved.unwrap().unwrap().digest, expected);
    assert_eq!(fake.lines().len(), 4);
}

/// What GET answers after a HEAD that gives no digest; then the class of the failure and a part of its message.
fn bad_answers() -> Vec<(&'static str, Reply, Class, &'static str)> {
    let good = image("one");
    let large = vec![b' '; MANIFEST_MAX_BYTES as usize + 1];
    let listed = |digest: &str| json!({ "manifests": [{ "digest": digest, "platform": { "os": "linux" } }] }).to_string();
    let many = json!({ "manifests": vec![json!({ "digest": sha256(b"x") }); 65] }).to_string();
    let layers = json!({ "config": { "digest": sha256(b"{}") }, "layers": vec![json!({}); 129] }).to_string();
    let claims = |digest: &str| reply(200).header("docker-content-digest", digest).body(good.clone());
    vec![
        (
            "another digest",
            claims(&sha256(b"x")),
            Class::DigestMismatch,
            "Docker-Content-Digest says",
        ),
        ("short digest", claims("sha256:12"), Class::Invalid, "is not a sha256 digest"),
        (
            "other hash",
            claims(&format!("sha512:{}", "a".repeat(128))),
            Class::Invalid,
            "is not a sha256 digest",
        ),
        (
            "digest in capitals",
            claims(&sha256(&good).to_uppercase()),
            Class::Invalid,
            "is not a sha256 digest",
        ),
        (
            "huge",
            reply(200).body(large.clone()),
            Class::TooLarge,
            "more than 4194304 bytes",
        ),
        (
            "huge, unsaid",
            Reply {
                chunked: true,
                ..reply(200).body(large)
            },
            Class::TooLarge,
            "more than 4194304 bytes",
        ),
        (
            "stalls",
            Reply {
                stalls: true,
                ..reply(200).body("{")
            },
            Class::Unreachable,
            "no answer in time",
        ),
        ("no JSON", reply(200).body("<html>"), Class::Invalid, "not JSON"),
        ("no config", reply(200).body("{}"), Class::Invalid, "no config"),
        ("too many layers", reply(200).body(layers), Class::Invalid, "too many layers"),
        (
            "empty index",
            reply(200).body(r#"{"manifests":[]}"#),
            Class::Invalid,
            "lists no image",
        ),
        (
            "too many children",
            reply(200).body(many),
            Class::TooLarge,
            "lists 65 manifests",
        ),
        (
            "child without digest",
            reply(200).body(listed("latest")),
            Class::Invalid,
            "without a sha256 digest",
        ),
        (
            "child of other bytes",
            reply(200).body(listed(&sha256(b"x"))),
            Class::DigestMismatch,
            "the reference says",
        ),
        (
            "gone",
            reply(404).body(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
            Class::NotFound,
            "manifest unknown",
        ),
        ("forbidden", reply(403), Class::Denied, "403"),
        ("no challenge", reply(401), Class::Denied, "401"),
        ("teapot", reply(418), Class::Invalid, "418"),
        ("down", reply(503), Class::Unavailable, "503"),
        ("no place", reply(307), Class::Invalid, "redirected more than 5 times"),
        (
            "odd place",
            reply(307).header("location", "ftp://127.0.0.1/x"),
            Class::Denied,
            "redirected from http to ftp",
        ),
    ]
}

#[tokio::test]
async fn bad_answers_are_named() {
    for (name, answer, class, part) in bad_answers() {
        let fake = Fake::start(move |seen, _| {
            if seen.line.starts_with("HEAD") {
                return reply(404);
            }
            answer.clone()
        })
        .await;
        let registries = fake.registries(json!({ "timeout_ms": if name == "stalls" { 300 } else { 10_000 } }));
        let error = registries.resolve(&fake.reference(), None).await.unwrap_err();
        assert_eq!(error.class, class, "{name}: {error}");
        assert!(error.message.contains(part), "{name}: {error}");
    }
}

#[tokio::test]
async fn head_is_not_believed_against_the_bytes_and_its_failures_count() {
    let bytes = image("one");
    for (name, head, class, heads) in [
        (
            "another digest",
            reply(200).header("docker-content-digest", sha256(b"x")),
            Class::DigestMismatch,
            2,
        ),
        (
            "malformed",
            reply(200).header("docker-content-digest", "sha256:zz"),
            Class::Invalid,
            1,
        ),
        ("forbidden", reply(403), Class::Denied, 1),
        ("down", reply(502), Class::Unavailable, 1),
    ] {
        let bytes = bytes.clone();
        let fake = Fake::start(move |seen, _| {
            if seen.line.starts_with("HEAD") {
                return head.clone();
            }
            reply(200).body(bytes.clone())
        })
        .await;
        let error = fake.registries(json!({})).resolve(&fake.reference(), None).await.unwrap_err();
        assert_eq!(error.class, class, "{name}: {error}");
        let seen = fake.lines().iter().filter(|line| line.starts_with("HEAD")).count();
        assert_eq!(seen, heads, "{name}");
    }
}

#[tokio::test]
#[allow(
    clippy::disallowed_methods,
    reason = "an HTTP date can only be compared with the wall clock"
)]
async fn retry_after_is_seconds_or_a_date() {
    let date = |seconds: u64| httpdate::fmt_http_date(std::time::SystemTime::now() + std::time::Duration::from_secs(seconds));
    for (value, expected) in [
        ("7".to_owned(), Some(7_000..=7_000)),
        (date(600), Some(590_000..=600_000)),
        ("Thu, 01 Jan 2015 00:00:00 GMT".to_owned(), Some(0..=0)),
        // A registry cannot put us to sleep for a week.
        ("999999999".to_owned(), Some(3_600_000..=3_600_000)),
        ("soon".to_owned(), None),
    ] {
        let shown = value.clone();
        let fake = Fake::start(move |_, _| reply(429).header("retry-after", &value)).await;
        let error = fake.registries(json!({})).resolve(&fake.reference(), None).await.unwrap_err();
        assert_eq!(error.class, Class::Unavailable);
        assert_eq!(expected.is_some(), error.retry_after_ms.is_some(), "{shown}");
        if let (Some(expected), Some(ms)) = (expected, error.retry_after_ms) {
            assert!(expected.contains(&ms), "{shown}: {ms}");
        }
    }
}

fn password(dir: &tempfile::TempDir) -> Value {
    let file = dir.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    json!({ "auth": { "username": "ci", "password_file": file } })
}

/// ci:secret
const BASIC: &str = "Basic Y2k6c2VjcmV0";

#[tokio::test]
async fn redirects_carry_no_credentials_to_another_host() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = image("one");
    let expected = sha256(&bytes);
    let store = Fake::start(move |_, _| manifest(&bytes)).await;
    let place = format!("http://{}/store/1", store.host);
    let fake = Fake::start(move |seen, _| match seen {
        Seen { authorization: None, .. } => reply(401).header("www-authenticate", "Basic realm=\"x\""),
        Seen { line, .. } if line.contains("/moved/") => reply(307).header("location", &place),
        _ => reply(307).header("location", "/moved/1"),
    })
    .await;
    let registries = fake.registries(password(&dir));
    let resolved = registries.resolve(&fake.reference(), None).await.unwrap().unwrap();
    assert_eq!(resolved.digest, expected);
    let blob = registries
        .fetch_blob(&fake.reference().source(), &expected, 10_000)
        .await
        .unwrap();
    assert_eq!(sha256(&blob), expected);
    let own = fake.seen.lock().unwrap().clone();
    let moved: Vec<_> = own.iter().filter(|seen| seen.line.contains("/moved/")).collect();
    assert!(
        moved.len() == 3 && moved.iter().all(|seen| seen.authorization.as_deref() == Some(BASIC)),
        "{own:?}"
    );
    let elsewhere = store.seen.lock().unwrap().clone();
    assert!(
        elsewhere.len() == 3 && elsewhere.iter().all(|seen| seen.authorization.is_none()),
        "{elsewhere:?}"
    );
}

#[tokio::test]
async fn a_token_is_fetched_once_and_only_from_the_registrys_own_host() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = image("one");
    let digest = sha256(&bytes);
    let guarded = |realm: Option<String>| {
        let bytes = bytes.clone();
        let own = Arc::new(Mutex::new(String::new()));
        let told = own.clone();
        let answer = move |seen: &Seen, _: usize| match &seen.authorization {
            Some(basic) if seen.line.starts_with("GET /token?") && basic == BASIC => reply(200).body(r#"{"token":"t-1"}"#),
            Some(bearer) if bearer == "Bearer t-1" => manifest(&bytes),
            _ => {
                let realm = realm
                    .clone()
                    .unwrap_or_else(|| format!("http://{}/token", told.lock().unwrap()));
                let challenge = format!(r#"Bearer realm="{realm}",service="r",scope="repository:team/app:pull""#);
                reply(401).header("www-authenticate", challenge)
            }
        };
        (own, answer)
    };
    let (own, answer) = guarded(None);
    let fake = Fake::start(answer).await;
    own.lock().unwrap().clone_from(&fake.host);
    let registries = fake.registries(password(&dir));
    for _ in 0..2 {
        let resolved = registries.resolve(&fake.reference(), None).await.unwrap().unwrap();
        assert_eq!(resolved.digest, digest);
    }
    let tokens: Vec<_> = fake.lines().into_iter().filter(|line| line.contains("/token")).collect();
    assert_eq!(tokens, ["GET /token?scope=repository%3Ateam%2Fapp%3Apull&service=r"]);

    // "localhost" is the same machine, but not what the operator wrote.
    let thief = Fake::start(|_, _| reply(200).body(r#"{"token":"t-1"}"#)).await;
    let (_, answer) = guarded(Some(format!(
        "http://localhost:{}/token",
        thief.host.split(':').next_back().unwrap()
    )));
    let fake = Fake::start(answer).await;
    let error = fake
        .registries(password(&dir))
        .resolve(&fake.reference(), None)
        .await
        .unwrap_err();
    assert_eq!(error.class, Class::Denied);
    assert_eq!(thief.lines(), [""; 0]);
}

#[tokio::test]
async fn an_index_gives_every_platform_with_config_and_layers() {
    let (amd64, arm64) = (image("amd64"), image("arm64"));
    let child = |bytes: &[u8], os: &str, architecture: &str, variant: &str| json!({ "digest": sha256(bytes), "platform": { "os": os, "architecture": architecture, "variant": variant } });
    let attestation = image("attestation");
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [
        child(&amd64, "linux", "amd64", ""),
        child(&arm64, "linux", "arm64", "v8"),
        child(&attestation, "unknown", "unknown", ""),
    ] });
    let index = index.to_string().into_bytes();
    let all: BTreeMap<String, Vec<u8>> = [index.clone(), amd64.clone(), arm64.clone()]
        .map(|bytes| (sha256(&bytes), bytes))
        .into();
    let expected: Vec<_> = all.clone().into_iter().collect();
    let digest = sha256(&index);
    let fake = Fake::start(move |seen, _| {
        let name = seen.line.rsplit('/').next().unwrap();
        match all.get(if name == "v1" { digest.as_str() } else { name }) {
            Some(bytes) => manifest(bytes),
            None => reply(404),
        }
    })
    .await;
    let resolved = fake
        .registries(json!({}))
        .resolve(&fake.reference(), None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(resolved.digest, sha256(&index));
    let images: Vec<_> = resolved
        .images
        .iter()
        .map(|image| {
            (
                image.platform.as_str(),
                image.manifest.clone(),
                image.config.clone(),
                image.blobs[0].digest.clone(),
            )
        })
        .collect();
    assert_eq!(
        images,
        [
            ("linux/amd64", sha256(&amd64), sha256(b"{}"), sha256(b"amd64")),
            ("linux/arm64/v8", sha256(&arm64), sha256(b"{}"), sha256(b"arm64")),
        ]
    );
    let mut raw = resolved.manifests;
    raw.sort();
    assert_eq!(raw, expected);
}

fn tag_page(tags: &[String]) -> Reply {
    reply(200).body(json!({ "name": "team/app", "tags": tags }).to_string())
}

fn numbered(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| format!("v{number:05}")).collect()
}

#[tokio::test]
async fn tags_come_page_by_page() {
    // With links, relative and not.
    let fake = Fake::start(|seen, _| match seen.line.as_str() {
        "GET /v2/team/app/tags/list?n=1000" => tag_page(&["b".into(), "a".into(), "no tag".into()])
            .header("link", r#"</v2/team/app/tags/list?last=b&n=2>; rel="next""#),
        "GET /v2/team/app/tags/list?last=b&n=2" => tag_page(&["c".into()]).header("link", "<?last=c>; rel=next"),
        "GET /v2/team/app/tags/list?last=c" => tag_page(&["d".into()]),
        _ => reply(404),
    })
    .await;
    let tags = fake.registries(json!({})).tags(&fake.reference().source()).await.unwrap();
    assert_eq!(tags, ["a", "b", "c", "d"]);

    // A full page without a link is asked to go on from its last tag.
    let fake = Fake::start(|seen, _| match seen.line.as_str() {
        "GET /v2/team/app/tags/list?n=1000" => tag_page(&numbered(0, 1_000)),
        "GET /v2/team/app/tags/list?n=1000&last=v00999" => tag_page(&numbered(1_000, 1_200)),
        _ => reply(404),
    })
    .await;
    let tags = fake.registries(json!({})).tags(&fake.reference().source()).await.unwrap();
    assert_eq!(tags, numbered(0, 1_200));

    // One that knows no paging gives the same page for ever.
    let fake = Fake::start(|_, _| tag_page(&numbered(0, 1_500))).await;
    let tags = fake.registries(json!({})).tags(&fake.reference().source()).await.unwrap();
    assert_eq!((tags.len(), fake.lines().len()), (1_500, 2));

    let fake = Fake::start(|_, _| reply(200).body(r#"{"name":"team/app","tags":null}"#)).await;
    assert_eq!(
        fake.registries(json!({})).tags(&fake.reference().source()).await.unwrap(),
        [""; 0]
    );
}

#[tokio::test]
async fn lists_of_tags_have_limits() {
    let page = |number: usize, size: usize| {
        tag_page(&numbered(number * size, (number + 1) * size)).header("link", format!("<?n=1000&last={number}>; rel=\"next\""))
    };
    let long: Vec<String> = (0..9).map(|number| format!("v{number}").repeat(500_000)).collect();
    type Answer = Box<dyn Fn(&Seen, usize) -> Reply + Send + Sync>;
    let cases: Vec<(&str, Answer, Class, &str)> = vec![
        (
            "many",
            Box::new(move |_, before| page(before, 1_000)),
            Class::TooLarge,
            "more than 10000 tags",
        ),
        (
            "many pages",
            Box::new(move |_, before| page(before, 1)),
            Class::TooLarge,
            "after 200 pages",
        ),
        (
            "large",
            Box::new(move |_, _| tag_page(&long)),
            Class::TooLarge,
            "more than 8388608 bytes",
        ),
        (
            "elsewhere",
            Box::new(|_, _| tag_page(&["a".into()]).header("link", "<http://192.0.2.1/v2/x>; rel=\"next\"")),
            Class::Denied,
            "another host",
        ),
        (
            "no JSON",
            Box::new(|_, _| reply(200).body("<html>")),
            Class::Invalid,
            "not the JSON",
        ),
        ("unknown", Box::new(|_, _| reply(404)), Class::NotFound, "404"),
        (
            "busy",
            Box::new(|_, _| reply(429).header("retry-after", "3")),
            Class::Unavailable,
            "429",
        ),
    ];
    for (name, answer, class, part) in cases {
        let fake = Fake::start(answer).await;
        let error = fake.registries(json!({})).tags(&fake.reference().source()).await.unwrap_err();
        assert_eq!(error.class, class, "{name}: {error}");
        assert!(error.message.contains(part), "{name}: {error}");
    }
}

#[tokio::test]
async fn what_could_be_pulled_is_asked_by_head() {
    let digest = sha256(b"layer");
    let blob = |size_bytes| Wanted::Blob {
        digest: sha256(b"layer"),
        size_bytes,
    };
    let wanted_manifest = Wanted::Manifest { digest: digest.clone() };
    let there = || reply(200).header("content-length", 5);
    for (name, wanted, answer, expected) in [
        ("a blob", blob(Some(5)), there(), Ok(())),
        ("a blob of any size", blob(None), there(), Ok(())),
        (
            "a blob kept elsewhere",
            blob(Some(5)),
            reply(307).header("location", "http://192.0.2.1/x"),
            Ok(()),
        ),
        ("another size", blob(Some(6)), there(), Err(Class::DigestMismatch)),
        (
            "a manifest",
            wanted_manifest.clone(),
            there().header("docker-content-digest", &digest),
            Ok(()),
        ),
        (
            "another manifest",
            wanted_manifest.clone(),
            there().header("docker-content-digest", sha256(b"x")),
            Err(Class::DigestMismatch),
        ),
        ("gone", wanted_manifest, reply(404), Err(Class::NotFound)),
        ("down", blob(None), reply(500), Err(Class::Unavailable)),
    ] {
        let fake = Fake::start(move |_, _| answer.clone()).await;
        let source = fake.reference().source();
        let outcome = fake
            .registries(json!({}))
            .has(&source, &wanted)
            .await
            .map_err(|error| error.class);
        assert_eq!(outcome, expected, "{name}");
        let kind = if matches!(wanted, Wanted::Blob { .. }) {
            "blobs"
        } else {
            "manifests"
        };
        assert_eq!(fake.lines(), [format!("HEAD /v2/team/app/{kind}/{digest}")], "{name}");
    }
}

#[tokio::test]
async fn only_configured_registries_are_contacted() {
    let (fake, other) = (Fake::start(|_, _| reply(404)).await, Fake::start(|_, _| reply(404)).await);
    let registries = fake.registries(json!({}));
    let source = other.reference().source();
    let wanted = Wanted::Manifest { digest: sha256(b"x") };
    let classes = [
        registries
            .resolve(&other.reference(), None)
            .await
            .map(drop)
            .unwrap_err()
            .class,
        registries.tags(&source).await.map(drop).unwrap_err().class,
        registries.has(&source, &wanted).await.unwrap_err().class,
        registries
            .fetch_blob(&source, &sha256(b"x"), 10)
            .await
            .map(drop)
            .unwrap_err()
            .class,
    ];
    assert_eq!(classes, [Class::NotConfigured; 4]);
    assert_eq!(other.lines(), [""; 0]);
}

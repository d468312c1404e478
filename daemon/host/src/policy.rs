//! What a plugin may send: the bytes of the path, the method, the headers, by phase. Everything not granted is denied.

use hyper::header::HeaderName;
use std::collections::BTreeSet;

/// What the operator says a rule's requests do. `read` is the operator's judgement, not an HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    Read,
    Write,
}

/// What kind of verb is running.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// `check`: pure, nothing is granted.
    #[default]
    Pure,
    Reading,
    Mutating,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub effect: Effect,
    pub methods: BTreeSet<String>,
    /// Path and query with `{key}`, `{name}`, `{target}`, `*` for one segment, and `**` at the end for the rest.
    pub path: String,
    /// JSON pointer into the body that must be the object's name.
    pub body_name_pointer: Option<String>,
}

/// The names that rules may hold the request to, for this call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub key: Option<String>,
    pub names: BTreeSet<String>,
    pub target: String,
}

/// Put in by the host alone.
pub const REGISTRY_AUTH: HeaderName = HeaderName::from_static("x-registry-auth");

const PATH_MAX_BYTES: usize = 4096;
/// What separates, climbs, ends or escapes once more, if whoever reads the path decodes it first.
const HIDDEN: [u8; 8] = *b"/.\\%?#;\x7f";

/// Why a path is not even looked at. What passes is the same to every reader: nothing in it is removed, decoded into
/// structure, or normalised away.
pub fn path_problem(path: &str) -> Option<&'static str> {
    let (before_query, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    // Some servers cut parameters off a segment before they look at it.
    let mut segments = before_query
        .split('/')
        .map(|segment| segment.split(';').next().unwrap_or_default());
    if !path.starts_with('/') {
        Some("it does not begin with /")
    } else if path.len() > PATH_MAX_BYTES {
        Some("it is longer than 4096 bytes")
    } else if !path.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
        Some("it holds a space, a control character or something that is not ASCII")
    } else if before_query.contains('\\') || path.contains(['#', '"', '\'', '<', '>', '`', '{', '}', '|', '^']) {
        Some("it holds a character that URI parsers read differently")
    } else if before_query.contains("//") {
        Some("it holds //")
    } else if segments.any(|segment| segment == "." || segment == "..") {
        Some("it holds a . or .. segment")
    } else if query.is_some_and(|query| query.contains('?')) {
        Some("it holds a second ?")
    } else {
        let hidden = |byte: &u8| HIDDEN.contains(byte) || *byte < 0x20;
        match (percent_decoded(before_query), percent_decoded(query.unwrap_or_default())) {
            (None, _) | (_, None) => Some("a % in it is not followed by two hexadecimal digits"),
            (Some(decoded), _) if std::str::from_utf8(&decoded.all).is_err() => Some("what it encodes is not UTF-8"),
            (Some(decoded), _) if decoded.escaped.iter().any(hidden) => {
                Some("it holds an encoded slash, dot, backslash, percent, ?, #, ; or control character")
            }
            _ => None,
        }
    }
}

struct Decoded {
    all: Vec<u8>,
    /// Only what was written with a percent sign.
    escaped: Vec<u8>,
}

fn percent_decoded(text: &str) -> Option<Decoded> {
    let (mut all, mut escaped) = (Vec::with_capacity(text.len()), Vec::new());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            all.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let value = u8::try_from(digit()? * 16 + digit()?).ok()?;
        all.push(value);
        escaped.push(value);
    }
    Some(Decoded { all, escaped })
}

/// The registry from which a request makes a container engine pull: only if it names an artifact of the release, once, and
/// nothing else could be meant. Docker reads a form in the body before the query, so a body means no.
pub fn pulls_from<'a>(path: &str, has_body: bool, uris: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let (_, query) = path.split_once('?')?;
    let mut names = BTreeSet::new();
    let mut pulled = None;
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (percent_decoded(name)?.all, percent_decoded(value)?.all);
        // Case and separators are read differently by different servers.
        let name = String::from_utf8(name).ok()?.to_ascii_lowercase();
        if name.contains([';', '&', '=', '+']) || value.contains(&b';') || !names.insert(name.clone()) {
            return None;
        }
        match name.as_str() {
            "fromsrc" => return None,
            "fromimage" | "reference" if pulled.is_some() => return None,
            "fromimage" | "reference" => pulled = Some(String::from_utf8(value).ok()?),
            _ => {}
        }
    }
    let pulled = pulled.filter(|_| !has_body)?;
    let pulled = pulled.strip_prefix("docker://").unwrap_or(&pulled);
    let uri = uris.into_iter().find(|uri| *uri == pulled)?;
    Some(uri.split_once('/')?.0.to_owned())
}

/// Whether some rule grants the request in this phase. `body` is looked at only where a rule pins a name.
pub fn granted(rules: &[Rule], phase: Phase, method: &str, path: &str, body: &[u8], names: &Names) -> bool {
    rules.iter().any(|rule| {
        let effect = match phase {
            Phase::Pure => false,
            Phase::Reading => rule.effect == Effect::Read,
            Phase::Mutating => true,
        };
        effect && rule.methods.contains(method) && path_matches(&rule.path, path, names) && body_matches(rule, body, names)
    })
}

fn body_matches(rule: &Rule, body: &[u8], names: &Names) -> bool {
    let Some(pointer) = &rule.body_name_pointer else { return true };
    let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let name = value
        .as_ref()
        .and_then(|value| value.pointer(pointer))
        .and_then(|name| name.as_str());
    name.is_some_and(|name| names.names.contains(name))
}

fn path_matches(pattern: &str, path: &str, names: &Names) -> bool {
    let (pattern_path, pattern_query) = pattern
        .split_once('?')
        .map_or((pattern, None), |(path, query)| (path, Some(query)));
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let query_ok = match (pattern_query, query) {
        (None, None) => true,
        (Some("**"), _) => true,
        (Some(wanted), Some(query)) => wanted == query,
        _ => false,
    };
    query_ok
        && segments_match(
            &pattern_path.split('/').collect::<Vec<_>>(),
            &path.split('/').collect::<Vec<_>>(),
            names,
        )
}

fn segments_match(pattern: &[&str], path: &[&str], names: &Names) -> bool {
    match (pattern, path) {
        ([], []) => true,
        (["**"], rest) => !rest.is_empty() && rest.iter().all(|segment| !segment.is_empty()),
        ([wanted, pattern @ ..], [segment, path @ ..]) => {
            segment_matches(wanted, segment, names) && segments_match(pattern, path, names)
        }
        _ => false,
    }
}

fn segment_matches(wanted: &str, segment: &str, names: &Names) -> bool {
    match wanted {
        "*" => !segment.is_empty(),
        "{key}" => names.key.as_deref() == Some(segment),
        "{name}" => names.names.contains(segment),
        "{target}" => names.target == segment,
        literal => literal == segment,
    }
}

/// Request headers that a plugin may set. The rest is the host's: above all Host, Authorization and what frames a body.
pub fn request_header_allowed(name: &str) -> bool {
    const ALLOWED: [&str; 6] = [
        "accept",
        "content-type",
        "if-match",
        "if-none-match",
        "x-lxd-fingerprint",
        "x-lxd-public",
    ];
    ALLOWED.contains(&name.to_ascii_lowercase().as_str())
}

/// Answer headers that a plugin may see.
pub fn response_header_allowed(name: &str) -> bool {
    const ALLOWED: [&str; 8] = [
        "content-type",
        "etag",
        "location",
        "retry-after",
        "date",
        "content-length",
        "last-modified",
        "warning",
    ];
    ALLOWED.contains(&name.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            key: Some("shop".into()),
            names: ["shop-g2".to_owned()].into(),
            target: "site-a".into(),
        }
    }

    #[test]
    fn paths_that_lie() {
        for path in [
            "",
            "v1",
            "//evil",
            "/a//b",
            "/a/../b",
            "/a/./b",
            "/a/%2e%2e/b",
            "/a%2Fb",
            "/a%5cb",
            "/a%252fb",
            "/a b",
            "/a\r\nHost: x",
            "/a#b",
            "/a\\b",
            "/ä",
            "/a?x?y",
            "http://evil/a",
            "/a\0",
            "/a%00",
            "/a%0d%0aHost:x",
            "/a/..;x/b",
            "/a%3fx",
            "/a%23x",
            "/a%3bx",
            "/a%7f",
            "/a%2",
            "/a%zz",
            "/a?x=%g0",
            "/a%c0%ae",
            "/a'b",
        ] {
            assert!(path_problem(path).is_some(), "{path:?}");
        }
        for path in [
            "/",
            "/v1/site",
            "/1.0/images?recursion=1&filter=a%20b",
            "/v1/a.b/c",
            "/v1/a%20%c3%a4",
            "/v1/...",
            "/x?labelSelector=a%2Fb%3Dc",
        ] {
            assert_eq!(path_problem(path), None, "{path:?}");
        }
    }

    /// The same in every eye: what passes is read by the parser that the client really uses, goes out on the wire, and is read by
    /// browsers' rules, without a byte removed or changed; and decoded once it has the same segments.
    #[test]
    fn what_passes_is_the_same_to_every_reader() {
        const PARTS: [&str; 44] = [
            "/", "/", "/", "a", "b1", ".", "..", "...", "?", "&", "=", "#", ";", ":", "@", "\\", " ", "\t", "\r\n", "\0", "ä",
            "%", "%2", "%2f", "%2F", "%2e", "%5c", "%25", "%20", "%c3%a4", "%c0%ae", "%0d%0a", "%3f", "%zz", "http://", "//",
            "[", "]", "|", "'", "*", "~", "+", "\u{202e}",
        ];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % below as u64) as usize
        };
        let mut passed = 0;
        for _ in 0..60_000 {
            let tail: String = (0..next(9)).map(|_| PARTS[next(PARTS.len())]).collect();
            let path = if next(8) == 0 { tail } else { format!("/{tail}") };
            if path_problem(&path).is_some() {
                continue;
            }
            passed += 1;
            let uri: hyper::Uri = path.parse().unwrap_or_else(|error| panic!("{path:?}: {error}"));
            assert_eq!(uri.path_and_query().map(|sent| sent.as_str()), Some(path.as_str()));
            assert!(uri.authority().is_none() && uri.scheme().is_none(), "{path:?}");
            let url = url::Url::parse(&format!("http://h.example{path}")).unwrap();
            let read = match url.query() {
                Some(query) => format!("{}?{query}", url.path()),
                None => url.path().to_owned(),
            };
            assert_eq!((url.host_str(), read.as_str()), (Some("h.example"), path.as_str()));
            let before_query = path.split('?').next().unwrap();
            let decoded = String::from_utf8(percent_decoded(before_query).unwrap().all).unwrap();
            assert_eq!(decoded.split('/').count(), before_query.split('/').count(), "{path:?}");
            assert!(
                decoded.split('/').all(|segment| segment != "." && segment != ".."),
                "{path:?}"
            );
            if passed % 20 == 0 {
                let line = runtime.block_on(on_the_wire(&path));
                assert_eq!(line, format!("GET {path} HTTP/1.1"));
            }
        }
        assert!(passed > 2_000, "only {passed} passed");
    }

    /// The request line that the client sends.
    async fn on_the_wire(path: &str) -> String {
        use tokio::io::AsyncReadExt;
        let (ours, mut theirs) = tokio::io::duplex(16 << 10);
        let io = hyper_util::rt::TokioIo::new(ours);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let request = hyper::Request::get(path)
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        let mut sent = Vec::new();
        tokio::select! {
            _ = connection => {}
            _ = sender.send_request(request) => {}
            read = theirs.read_buf(&mut sent) => drop(read.unwrap()),
        }
        let sent = String::from_utf8(sent).unwrap();
        sent.split("\r\n").next().unwrap_or_default().to_owned()
    }

    #[test]
    fn rules() {
        let rule = |effect, method: &str, path: &str| Rule {
            effect,
            methods: [method.to_owned()].into(),
            path: path.into(),
            body_name_pointer: None,
        };
        let rules = [
            rule(Effect::Read, "GET", "/v1/site"),
            rule(Effect::Write, "PUT", "/v1/workloads/{key}/generations/*"),
            rule(Effect::Read, "GET", "/logs/**"),
            rule(Effect::Read, "GET", "/list?recursion=1"),
            Rule {
                body_name_pointer: Some("/metadata/name".into()),
                ..rule(Effect::Write, "POST", "/apis/deployments")
            },
        ];
        let ok = |phase, method: &str, path: &str, body: &str| granted(&rules, phase, method, path, body.as_bytes(), &names());
        for (phase, method, path, body, expected) in [
            (Phase::Reading, "GET", "/v1/site", "", true),
            (Phase::Pure, "GET", "/v1/site", "", false),
            (Phase::Reading, "GET", "/v1/site?x=1", "", false),
            (Phase::Reading, "GET", "/v1/site/", "", false),
            (Phase::Reading, "POST", "/v1/site", "", false),
            (Phase::Mutating, "GET", "/v1/site", "", true),
            (Phase::Mutating, "PUT", "/v1/workloads/shop/generations/2", "", true),
            (Phase::Mutating, "PUT", "/v1/workloads/other/generations/2", "", false),
            (Phase::Reading, "PUT", "/v1/workloads/shop/generations/2", "", false),
            (Phase::Mutating, "PUT", "/v1/workloads/shop/generations/", "", false),
            (Phase::Reading, "GET", "/logs/a/b", "", true),
            (Phase::Reading, "GET", "/logs", "", false),
            (Phase::Reading, "GET", "/list?recursion=1", "", true),
            (Phase::Reading, "GET", "/list?recursion=2", "", false),
            (
                Phase::Mutating,
                "POST",
                "/apis/deployments",
                r#"{"metadata":{"name":"shop-g2"}}"#,
                true,
            ),
            (
                Phase::Mutating,
                "POST",
                "/apis/deployments",
                r#"{"metadata":{"name":"other-g2"}}"#,
                false,
            ),
            (Phase::Mutating, "POST", "/apis/deployments", "not json", false),
        ] {
            assert_eq!(ok(phase, method, path, body), expected, "{phase:?} {method} {path} {body}");
        }
    }

    #[test]
    fn registries_that_get_their_credentials() {
        let uris = ["r.example.com/a/b@sha256:0a", "other.example.com/c@sha256:0b"];
        for (path, has_body, expected) in [
            (
                "/images/create?fromImage=r.example.com/a/b@sha256:0a",
                false,
                Some("r.example.com"),
            ),
            (
                "/images/create?fromImage=r.example.com%2Fa%2Fb%40sha256%3A0a",
                false,
                Some("r.example.com"),
            ),
            (
                "/libpod/images/pull?reference=docker://other.example.com/c@sha256:0b",
                false,
                Some("other.example.com"),
            ),
            ("/images/create?fromImage=r.example.com/a/b@sha256:0a", true, None),
            ("/images/create?fromImage=evil.example.com/a/b@sha256:0a", false, None),
            ("/images/create?fromImage=r.example.com/a/b", false, None),
            (
                "/images/create?fromImage=r.example.com/a/b@sha256:0a&fromImage=evil/x",
                false,
                None,
            ),
            (
                "/images/create?fromImage=r.example.com/a/b@sha256:0a&FromImage=evil/x",
                false,
                None,
            ),
            (
                "/images/create?fromImage=r.example.com/a/b@sha256:0a&reference=evil/x",
                false,
                None,
            ),
            (
                "/images/create?fromImage=r.example.com/a/b@sha256:0a&x=1;fromImage=evil/x",
                false,
                None,
            ),
            ("/images/create?fromImage=r.example.com/a/b@sha256:0a&fromSrc=x", false, None),
            ("/images/create?image=r.example.com/a/b@sha256:0a", false, None),
            ("/images/create", false, None),
        ] {
            assert_eq!(pulls_from(path, has_body, uris).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn headers() {
        for name in [
            "Host",
            "Authorization",
            "Transfer-Encoding",
            "Content-Length",
            "Impersonate-User",
            "Connection",
            "Cookie",
            "X-Registry-Auth",
        ] {
            assert!(!request_header_allowed(name), "{name}");
        }
        assert!(request_header_allowed("If-Match") && !response_header_allowed("Set-Cookie"));
    }
}

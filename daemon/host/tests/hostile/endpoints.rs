//! What a guest can make the host send: nothing but what is granted, byte for byte, and never with its own authority.

use crate::guests::{Call, generation, hostile};
use crate::server::{Server, answer, binding, http_binding};
use base64::Engine as _;
use holdfast_host::{Binding, BindingConfig};
use serde_json::{Value, json};
use std::time::Duration;

fn rules() -> Value {
    json!([
        { "effect": "read", "methods": ["GET"], "path": "/read/**" },
        { "effect": "write", "methods": ["PUT", "POST"], "path": "/write/{key}/*" },
        { "effect": "write", "methods": ["POST"], "path": "/named", "body_name_pointer": "/metadata/name" },
    ])
}

fn send(method: &str, path: &str) -> Value {
    json!({ "do": "send", "alias": "a", "method": method, "path": path })
}

fn with_header(name: &str, value: &str) -> Value {
    let mut op = send("GET", "/read/x");
    op["headers"] = json!([[name, value]]);
    op
}

fn with_body(path: &str, kind: &str, body: &str) -> Value {
    let mut op = send("POST", path);
    op["kind"] = kind.into();
    op["body"] = body.into();
    op
}

async fn ok_server() -> Server {
    Server::start(|_| answer(200, "text/plain", b"ok")).await
}

#[tokio::test]
async fn what_is_not_granted_is_not_sent() {
    let server = ok_server().await;
    let binding = http_binding(&server, rules());
    let mut other_alias = send("GET", "/read/x");
    other_alias["alias"] = "b".into();
    let mut twice = with_header("accept", "a");
    twice["headers"] = json!([["accept", "a"], ["Accept", "b"]]);
    let mut long = send("POST", "/write/other/x");
    long["do"] = "send-long".into();
    for (op, part) in [
        (other_alias, "grants no endpoint named \"b\""),
        (send("GET", "/other"), "no rule of endpoint a grants GET /other"),
        (send("DELETE", "/read/x"), "no rule"),
        (send("get", "/read/x"), "no rule"),
        (send("PUT", "/write/other/x"), "no rule"),
        (send("GET", "//evil/read"), "it holds //"),
        (send("GET", "/read/../other"), "segment"),
        (send("GET", "/read/%2e%2e/other"), "encoded"),
        (send("GET", "/read/%2fother"), "encoded"),
        (send("GET", "http://evil/read/x"), "begin with /"),
        (send("GET", "/read/x\r\nHost: evil"), "control"),
        (send("GET", "/read/x\u{0}"), "control"),
        (send("GET", "/read/x#y"), "URI parsers"),
        (send("GET", "/read/x?a=1"), "no rule"),
        (send("GET", "/read/x?a?b"), "second ?"),
        (send("GET / HTTP/1.1\r\nX: ", "/read/x"), "no rule"),
        (with_header("Host", "evil"), "not a plugin's to set"),
        (with_header("Authorization", "Bearer x"), "not a plugin's to set"),
        (with_header("Transfer-Encoding", "chunked"), "not a plugin's to set"),
        (with_header("Content-Length", "0"), "not a plugin's to set"),
        (with_header("Impersonate-User", "admin"), "not a plugin's to set"),
        (with_header("Connection", "upgrade"), "not a plugin's to set"),
        (with_header("X-Registry-Auth", "e30="), "not a plugin's to set"),
        (twice, "header accept is set twice"),
        (with_header("accept\r\nX", "y"), "not a plugin's to set"),
        (with_header("accept", "x\r\nHost: evil"), "not valid"),
        (with_header("accept", &"x".repeat(20_000)), "more than 16384 bytes"),
        (with_body("/named", "bytes", r#"{"metadata":{"name":"other-g1"}}"#), "no rule"),
        (with_body("/write/shop/x", "blob", "sha256:00"), "artifacts can only be sent"),
        (
            with_body("/write/shop/x", "archive", "sha256:00"),
            "artifacts can only be sent",
        ),
        (long, "no rule"),
    ] {
        let said = Call::new(json!([op])).with(&binding).launch().await.unwrap();
        assert!(said[0].starts_with("denied: ") && said[0].contains(part), "{op}: {said:?}");
    }
    assert!(server.seen().is_empty(), "{:?}", server.seen());
    assert!(
        Call::new(json!([send("GET", "/read/x")])).launch().await.unwrap()[0].starts_with("denied: the operator grants"),
        "without a binding there is nothing"
    );
}

#[tokio::test]
async fn phases_have_their_rules() {
    let server = ok_server().await;
    let binding = http_binding(&server, rules());
    let named = with_body("/named", "bytes", r#"{"metadata":{"name":"shop-g2"}}"#);
    let ops = json!([send("GET", "/read/x"), send("PUT", "/write/shop/x"), named]);
    let call = Call::new(ops).with(&binding);
    let said = call.launch().await.unwrap();
    assert!(said.iter().all(|said| said.starts_with("200 ")), "{said:?}");
    let said = call.observe().await.unwrap();
    assert!(
        said[0].starts_with("200 ") && said[1].starts_with("denied") && said[2].starts_with("denied"),
        "{said:?}"
    );
    let report = hostile().check(&call.options(), &generation(2)).await.answer.unwrap();
    assert!(
        report
            .problems
            .iter()
            .all(|problem| problem.message.starts_with("denied: check is pure"))
    );
    assert_eq!(server.seen().len(), 4);
    let head = &server.seen()[0].head;
    assert!(head.starts_with("GET /read/x HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {}", server.address)), "{head}");
}

#[tokio::test]
async fn redirects_are_returned_and_not_followed() {
    let evil = ok_server().await;
    let location = format!("http://{}/read/x", evil.address);
    let server = Server::start(move |_| {
        format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\nset-cookie: s=1\r\ncontent-length: 0\r\n\r\n").into_bytes()
    })
    .await;
    let said = Call::new(json!([send("GET", "/read/x")]))
        .with(&http_binding(&server, rules()))
        .observe()
        .await
        .unwrap();
    assert!(
        said[0].starts_with("302 location=http://") && !said[0].contains("cookie"),
        "{said:?}"
    );
    assert!(evil.seen().is_empty());
}

#[tokio::test]
async fn answers_have_a_cap_and_an_end() {
    let big = |_: &_| answer(200, "text/plain", &vec![b'x'; 5 << 20]);
    let endless = |_: &_| {
        let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        (0..80).for_each(|_| bytes.extend_from_slice(format!("10000\r\n{}\r\n", "x".repeat(65_536)).as_bytes()));
        bytes
    };
    let many_headers = |_: &_| format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(200_000)).into_bytes();
    for (server, part) in [
        (Server::start(big).await, "too-large: the answer has more than 4194304 bytes"),
        (Server::start(endless).await, "too-large: "),
        (Server::start(many_headers).await, "lost: "),
        (Server::start(|_| b"not HTTP at all\r\n\r\n".to_vec()).await, "lost: "),
        (
            Server::start(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort".to_vec()).await,
            "lost: ",
        ),
    ] {
        let said = Call::new(json!([send("GET", "/read/x")]))
            .with(&http_binding(&server, rules()))
            .observe()
            .await
            .unwrap();
        assert!(said[0].starts_with(part), "{part}: {}", &said[0][..said[0].len().min(200)]);
    }
    let silent = Server::start(|_| Vec::new()).await;
    let endpoint = json!({ "url": format!("http://{}", silent.address), "rules": rules(), "timeout_ms": 100 });
    let said = Call::new(json!([send("GET", "/read/x")]))
        .with(&binding(endpoint))
        .observe()
        .await
        .unwrap();
    assert_eq!(said, ["lost: no whole answer within 100 ms"]);
    // The call's own deadline counts, whatever the endpoint would allow.
    let call = Call::new(json!([send("GET", "/read/x")]))
        .with(&http_binding(&silent, rules()))
        .within(Duration::from_millis(300));
    let report = hostile().observe(&call.options(), None).await;
    assert!(report.elapsed < Duration::from_secs(5), "{:?}", report.elapsed);
    let nowhere = json!({ "url": "http://127.0.0.1:1", "rules": rules() });
    let said = Call::new(json!([send("GET", "/read/x")]))
        .with(&binding(nowhere))
        .observe()
        .await
        .unwrap();
    assert!(said[0].starts_with("unreachable: "), "{said:?}");
}

#[tokio::test]
async fn a_call_has_so_many_requests_and_bytes() {
    let server = Server::start(|_| answer(200, "text/plain", &vec![b'x'; 12 << 20])).await;
    let endpoint = json!({ "url": format!("http://{}", server.address), "rules": rules(), "max_body_bytes": 16 << 20 });
    let binding = binding(endpoint);
    let mut op = send("GET", "/read/x");
    op["times"] = 6.into();
    let said = Call::new(json!([op])).with(&binding).observe().await.unwrap();
    assert!(
        said[0].starts_with("too-large: the answer has more than"),
        "{}",
        &said[0][..said[0].len().min(200)]
    );

    let server = ok_server().await;
    let binding = http_binding(&server, rules());
    let mut op = send("GET", "/read/x");
    op["times"] = 65.into();
    let said = Call::new(json!([op])).with(&binding).observe().await.unwrap();
    assert_eq!(said, ["denied: more than 64 requests in one call"]);
    assert_eq!(server.seen().len(), 64);

    let mut op = with_body("/write/shop/x", "bytes", "0123456789abcdef");
    op["body_times"] = (14 << 16).into();
    op["times"] = 5.into();
    let said = Call::new(json!([op])).with(&binding).launch().await.unwrap();
    assert_eq!(said, ["denied: more than 67108864 bytes moved in one call"]);
}

#[tokio::test]
async fn credentials_are_the_hosts_alone() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let pair = base64::engine::general_purpose::STANDARD.encode("deploy:pass-word");
    let echo = |seen: &crate::server::Seen| answer(200, "text/plain", seen.head.as_bytes());
    for (auth, header, hidden) in [
        (
            json!({ "bearer_token_file": write("token", "canary-token\n") }),
            "authorization: Bearer canary-token",
            "canary-token",
        ),
        (
            json!({ "basic": { "username": "deploy", "password_file": write("password", "pass-word") } }),
            &format!("authorization: Basic {pair}"),
            &pair,
        ),
        // Part of the mark that stands for it, which once looped for ever.
        (
            json!({ "bearer_token_file": write("mark", "moved") }),
            "authorization: Bearer moved",
            "Bearer moved",
        ),
    ] {
        let server = Server::start(echo).await;
        let endpoint = json!({ "url": format!("http://{}", server.address), "rules": rules(), "auth": auth });
        let said = Call::new(json!([send("GET", "/read/x")]))
            .with(&binding(endpoint))
            .observe()
            .await
            .unwrap();
        assert!(server.seen()[0].head.contains(header), "{}", server.seen()[0].head);
        assert!(said[0].contains("[removed]") && !said[0].contains(hidden), "{said:?}");
    }
    let server = ok_server().await;
    for (auth, part) in [
        (
            json!({ "bearer_token_file": write("empty", " \n") }),
            "denied: the endpoint's credential is empty",
        ),
        (
            json!({ "bearer_token_file": dir.path().join("none") }),
            "denied: the endpoint's credential cannot be read",
        ),
    ] {
        let endpoint = json!({ "url": format!("http://{}", server.address), "rules": rules(), "auth": auth });
        let said = Call::new(json!([send("GET", "/read/x")]))
            .with(&binding(endpoint))
            .observe()
            .await
            .unwrap();
        assert!(
            said[0].starts_with(part) && !said[0].contains(dir.path().to_str().unwrap()),
            "{said:?}"
        );
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_unix_socket_is_an_endpoint_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let seen = Server::start_unix(&path);
    let endpoint = json!({ "unix": path, "rules": rules() });
    let said = Call::new(json!([send("GET", "/read/x")]))
        .with(&binding(endpoint))
        .observe()
        .await
        .unwrap();
    assert!(said[0].ends_with(" local"), "{said:?}");
    assert!(seen.lock().unwrap()[0].head.contains("host: localhost"));
}

#[test]
fn endpoints_that_cannot_be() {
    for (endpoint, part) in [
        (json!({}), "either `url` or `unix`"),
        (json!({ "url": "http://x", "unix": "/x" }), "either `url` or `unix`"),
        (json!({ "url": "ftp://x" }), "is not http://"),
        (json!({ "url": "http://x/path" }), "is not http://"),
        (json!({ "url": "https://x", "ca_file": "/nowhere/ca.pem" }), "cannot be read"),
        (json!({ "url": "http://user@x" }), "is not http://"),
        (
            json!({ "url": "http://x", "max_connections": 0 }),
            "`max_connections` is 1 to 256",
        ),
        (json!({ "url": "https://x", "client_cert_file": "c.pem" }), "go together"),
        (json!({ "url": "https://x", "client_key_file": "k.pem" }), "go together"),
        (
            json!({ "url": "http://x", "client_cert_file": "c.pem", "client_key_file": "k.pem" }),
            "a `url` that is https",
        ),
        (
            json!({ "unix": "/x", "client_cert_file": "c.pem", "client_key_file": "k.pem" }),
            "a `url` that is https",
        ),
        (
            json!({ "url": "https://x", "client_cert_file": "/nowhere/c.pem", "client_key_file": "/nowhere/k.pem" }),
            "/nowhere/k.pem cannot be read",
        ),
    ] {
        let config: BindingConfig = serde_json::from_value(json!({ "endpoints": { "a": endpoint } })).unwrap();
        let error = Binding::new(&config).err().unwrap().to_string();
        assert!(error.starts_with("endpoint a: ") && error.contains(part), "{error}");
    }
}

//! Connections to an endpoint: used again, and no more of them than the operator allows.

use crate::guests::Call;
use crate::server::{Server, answer, binding, http_binding};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn rules() -> Value {
    json!([
        { "effect": "read", "methods": ["GET"], "path": "/x" },
        { "effect": "write", "methods": ["PUT"], "path": "/x" },
    ])
}

fn send(method: &str, times: usize) -> Value {
    json!({ "do": "send", "alias": "a", "method": method, "path": "/x", "times": times })
}

#[tokio::test]
async fn one_connection_serves_many_requests_and_calls() {
    let server = Server::start(|_| answer(200, "text/plain", b"ok")).await;
    let binding = http_binding(&server, rules());
    for _ in 0..3 {
        let said = Call::new(json!([send("GET", 5), send("PUT", 5)]))
            .with(&binding)
            .launch()
            .await
            .unwrap();
        assert!(said.iter().all(|said| said.starts_with("200 ")), "{said:?}");
    }
    assert_eq!((server.seen().len(), server.connections()), (30, 1));
}

#[tokio::test]
async fn a_server_that_closes_is_asked_anew() {
    let server = Server::start(|_| b"HTTP/1.1 200 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let binding = http_binding(&server, rules());
    let said = Call::new(json!([send("GET", 5), send("PUT", 5)]))
        .with(&binding)
        .launch()
        .await
        .unwrap();
    assert!(said.iter().all(|said| said.starts_with("200 ")), "{said:?}");
    assert_eq!((server.seen().len(), server.connections()), (10, 10));
}

/// It answers the first request of each connection, and drops the second one: an idle connection that went stale.
#[tokio::test]
async fn what_reads_is_asked_once_more_and_what_writes_is_not() {
    let count = Arc::new(AtomicUsize::new(0));
    for (method, expected) in [("GET", "200 "), ("PUT", "lost: ")] {
        let seen = count.clone();
        seen.store(0, Ordering::Relaxed);
        let server = Server::start(move |_| {
            let first = seen.fetch_add(1, Ordering::Relaxed) != 1;
            if first {
                answer(200, "text/plain", b"ok")
            } else {
                b"\r\n\r\n".to_vec()
            }
        })
        .await;
        let binding = http_binding(&server, rules());
        let said = Call::new(json!([send(method, 2)])).with(&binding).launch().await.unwrap();
        assert!(said[0].starts_with(expected), "{method}: {said:?}");
    }
}

#[tokio::test]
async fn there_are_no_more_than_the_operator_allows() {
    let server = Server::start(|_| Vec::new()).await;
    let binding = binding(
        json!({ "url": format!("http://{}", server.address), "rules": rules(), "max_connections": 2, "timeout_ms": 60_000 }),
    );
    let silent = || {
        let binding = binding.clone();
        tokio::spawn(async move { Call::new(json!([send("GET", 1)])).with(&binding).observe().await })
    };
    let held = [silent(), silent()];
    while server.seen().len() < 2 {
        tokio::task::yield_now().await;
    }
    let mut op = send("GET", 1);
    op["timeout_ms"] = 50.into();
    let said = Call::new(json!([op])).with(&binding).observe().await.unwrap();
    assert_eq!(said, ["unreachable: all 2 connections of the endpoint were in use"]);
    assert_eq!(server.connections(), 2);
    held.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_registry_gets_its_credentials_through_the_engine_that_pulls() {
    let dir = tempfile::tempdir().unwrap();
    let password_file = dir.path().join("password");
    std::fs::write(&password_file, "canary-password\n").unwrap();
    let echo = |seen: &crate::server::Seen| answer(200, "text/plain", seen.head.as_bytes());
    let server = Server::start(echo).await;
    let binding = binding(json!({
        "url": format!("http://{}", server.address),
        "rules": [{ "effect": "write", "methods": ["POST"], "path": "/images/create?**" }],
        "registry_auth": [{ "registry": "r.example.com", "username": "puller", "password_file": password_file }],
    }));
    let digest = format!("sha256:{}", "0a".repeat(32));
    let pull = |image: &str| {
        let path = format!("/images/create?fromImage={image}");
        let mut call = Call::new(json!([{ "do": "send", "alias": "a", "method": "POST", "path": path }])).with(&binding);
        call.subject.artifacts = vec![holdfast_core::target::Artifact {
            name: "main".into(),
            uri: format!("r.example.com/shop@{digest}"),
            digest: digest.clone(),
            images: Vec::new(),
            payload: Vec::new(),
        }];
        call
    };
    let said = pull(&format!("r.example.com/shop@{digest}"))
        .launch()
        .await
        .unwrap()
        .join(" ");
    let head = &server.seen()[0].head;
    let value = head.lines().find_map(|line| line.strip_prefix("x-registry-auth: ")).unwrap();
    let login = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE, value).unwrap();
    let login: Value = serde_json::from_slice(&login).unwrap();
    let expected = json!({ "username": "puller", "password": "canary-password", "serveraddress": "r.example.com" });
    assert_eq!(login, expected);
    assert!(
        said.contains("[removed]") && !said.contains(value),
        "the guest does not see it: {said}"
    );
    // Another image than the release's could lie with anybody.
    for image in ["evil.example.com/shop", "r.example.com/other", "r.example.com/shop"] {
        let said = pull(image).launch().await.unwrap();
        assert!(said[0].starts_with("200 "), "{said:?}");
    }
    assert!(server.seen()[1..].iter().all(|seen| !seen.head.contains("x-registry-auth")));
}

//! Secret values go out in bodies and nowhere else, and come back as markers.

use crate::guests::{Call, generation, hostile};
use crate::server::{Seen, Server, answer, http_binding};
use holdfast_core::target::Secret;
use holdfast_host::SecretValue;
use serde_json::json;

const MARKER: &str = "@@holdfast-secret-1@@";
const MARKER_BASE64: &str = "@@holdfast-secret-1-base64@@";
const VALUE: &str = "can\"ary<value>";

fn secret(value: &str) -> Vec<SecretValue> {
    vec![SecretValue {
        marker: MARKER.into(),
        marker_base64: MARKER_BASE64.into(),
        value: value.into(),
    }]
}

#[tokio::test]
async fn values_go_out_in_bodies_and_come_back_as_markers() {
    // What the server got, in the body and in a header.
    let echo = |seen: &Seen| {
        let mut reply = format!(
            "HTTP/1.1 200 OK\r\netag: {VALUE}\r\ncontent-length: {}\r\n\r\n",
            seen.body.len()
        )
        .into_bytes();
        reply.extend_from_slice(seen.body.as_bytes());
        reply
    };
    let server = Server::start(echo).await;
    let rules = json!([
        { "effect": "write", "methods": ["PUT"], "path": "/x/**" },
        { "effect": "write", "methods": ["POST"], "path": "/named", "body_name_pointer": "/name" },
    ]);
    let binding = http_binding(&server, rules);
    let body = format!(r#"{{"a":"{MARKER}","b":"{MARKER_BASE64}"}}"#);
    let op = json!({ "do": "send", "alias": "a", "method": "PUT", "path": format!("/x/{MARKER}"), "kind": "bytes", "body": body,
        "headers": [["accept", MARKER]] });
    let mut call = Call::new(json!([op])).with(&binding);
    call.secrets = secret(VALUE);
    let said = call.launch().await.unwrap();
    let seen = &server.seen()[0];
    let sent: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(
        (sent["a"].as_str(), sent["b"].as_str()),
        (Some(VALUE), Some("Y2FuImFyeTx2YWx1ZT4="))
    );
    assert!(seen.head.contains(&format!("/x/{MARKER} ")), "not in the path: {}", seen.head);
    assert!(
        seen.head.contains(&format!("accept: {MARKER}")),
        "not in a header: {}",
        seen.head
    );
    assert_eq!(said, [format!("200 etag={MARKER};content-length={} {body}", seen.body.len())]);

    // The rules see the markers, so a value cannot pass for a name.
    let mut call = Call::new(
        json!([{ "do": "send", "alias": "a", "method": "POST", "path": "/named", "kind": "bytes",
        "body": format!(r#"{{"name":"{MARKER}"}}"#) }]),
    )
    .with(&binding);
    call.secrets = secret("shop-g2");
    assert!(call.launch().await.unwrap()[0].starts_with("denied: no rule"));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_guest_is_told_name_version_and_marker() {
    let mut subject = generation(2);
    subject.secrets = vec![Secret {
        name: "db".into(),
        version: "7".into(),
        marker: MARKER.into(),
        marker_base64: MARKER_BASE64.into(),
    }];
    let mut call = Call::new(json!([]));
    call.secrets = secret(VALUE);
    let report = hostile().check(&call.options(), &subject).await.answer.unwrap();
    assert_eq!(report.problems[0].message, format!("db 7 {MARKER}"));
}

#[tokio::test]
async fn an_empty_value_is_refused_and_found_nowhere() {
    let server = Server::start(|_| answer(200, "text/plain", b"plain")).await;
    let binding = http_binding(&server, json!([{ "effect": "write", "methods": ["PUT"], "path": "/x" }]));
    let op = |body: &str| json!({ "do": "send", "alias": "a", "method": "PUT", "path": "/x", "kind": "bytes", "body": body });
    let mut call = Call::new(json!([op("no marker"), op(MARKER)])).with(&binding);
    call.secrets = secret("");
    let said = call.launch().await.unwrap();
    assert!(said[0].ends_with(" plain"), "{said:?}");
    assert!(said[1].starts_with("denied: the secret that @@"), "{said:?}");
}

//! What a plugin exports is asked of it, what it does not export is said to be absent.

use crate::guests::{Call, component, generation, host, hostile};
use holdfast_core::target::{Change, FaultClass, Progress};
use serde_json::json;

#[tokio::test]
async fn what_is_exported_answers() {
    let call = Call::new(json!([{ "do": "say", "text": "well" }]));
    let (options, subject) = (call.options(), generation(2));
    let problems = hostile()
        .check_job(&options, &subject, "migrate", "{\"x\":1}")
        .await
        .answer
        .unwrap();
    assert_eq!(problems[1].message, "migrate: {\"x\":1}");
    assert_eq!(
        hostile().run(&options, &subject, "migrate", "{}").await.answer.unwrap(),
        Progress::Pending {
            resume: "well".into(),
            after_ms: 7,
            message: "shop-g2-migrate: {}".into()
        }
    );
    for (current, have) in [(None, ""), (Some(generation(1)), "shop-g1")] {
        let changes = hostile().diff(&options, current.as_ref(), &subject).await.answer.unwrap();
        let expected = Change {
            item: "shop-g2".into(),
            path: "/x".into(),
            have: have.into(),
            want: "well".into(),
        };
        assert_eq!(changes, [expected]);
    }
    for (number, room) in [(1, None), (2, Some(2))] {
        assert_eq!(hostile().room(&options, &generation(number)).await.answer.unwrap(), room);
    }
    assert_eq!(hostile().telemetry(&options, &subject).await.answer.unwrap()[0].value, 1.5);
    assert_eq!(hostile().explain(&options, &subject).await.answer.unwrap()[0].text, "well");
}

/// By phase: `run` may write, the others may not, and `check-job` may not even look.
#[tokio::test]
async fn each_has_its_phase() {
    use crate::server::{Server, http_binding};
    let server = Server::start(|_| crate::server::answer(200, "text/plain", b"ok")).await;
    let binding = http_binding(&server, json!([{ "effect": "write", "methods": ["PUT"], "path": "/x" }]));
    let call = Call::new(json!([{ "do": "send", "alias": "a", "method": "PUT", "path": "/x" }])).with(&binding);
    let (options, subject) = (call.options(), generation(2));
    let problems = hostile().check_job(&options, &subject, "j", "{}").await.answer.unwrap();
    assert!(problems[0].message.starts_with("denied: check is pure"), "{problems:?}");
    let changes = hostile().diff(&options, None, &subject).await.answer.unwrap();
    assert!(changes[0].want.starts_with("denied: no rule"), "{changes:?}");
    assert!(hostile().room(&options, &subject).await.sent.is_empty());
    let report = hostile().run(&options, &subject, "j", "{}").await;
    assert_eq!((report.sent.len(), server.seen().len()), (1, 1));
}

#[tokio::test]
async fn what_is_not_exported_is_absent() {
    let minimal = host().load("minimal", &component("holdfast-example-plugin-minimal")).unwrap();
    assert_eq!(minimal.exports, ["target".to_owned()].into());
    let call = Call::new(json!([]));
    let (options, subject) = (call.options(), generation(2));
    let faults = [
        ("jobs", minimal.check_job(&options, &subject, "j", "{}").await.answer.err()),
        ("preview", minimal.diff(&options, None, &subject).await.answer.err()),
        ("capacity", minimal.room(&options, &subject).await.answer.err()),
        ("telemetry", minimal.telemetry(&options, &subject).await.answer.err()),
        ("diagnosis", minimal.explain(&options, &subject).await.answer.err()),
    ];
    for (interface, failure) in faults {
        let fault = failure.unwrap().into_fault();
        assert_eq!(fault.class, FaultClass::Absent, "{interface}");
        assert!(
            fault.message.contains(&format!("does not export {interface}")),
            "{}",
            fault.message
        );
    }
    // That is an answer of a plugin that runs jobs: begun, and gone.
    let fault = minimal
        .run(&options, &subject, "j", "{}")
        .await
        .answer
        .unwrap_err()
        .into_fault();
    assert_eq!(fault.class, FaultClass::Invalid);
    assert!(fault.message.contains("does not export jobs"), "{}", fault.message);
}

#[test]
fn a_plugin_exports_what_it_names_and_no_more() {
    for (package, exports) in [
        ("holdfast-example-plugin-minimal", "target"),
        ("holdfast-hostile-plugin", "capacity diagnosis jobs preview target telemetry"),
        ("holdfast-plugin-edge", "capacity diagnosis jobs preview target telemetry"),
    ] {
        let plugin = host().load(package, &component(package)).unwrap();
        let exported: Vec<&str> = plugin.exports.iter().map(String::as_str).collect();
        assert_eq!(exported.join(" "), exports, "{package}");
    }
}

//! Every call ends, in time, with the class that says what the guest did wrong.

use crate::guests::{Call, DEADLINE, NOW_MS, class, generation, hostile};
use holdfast_host::{CallFailure, FailureClass};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(300);
/// What a loaded machine may add.
const SLACK: Duration = Duration::from_secs(5);

#[tokio::test]
async fn harm_has_a_class_and_an_end() {
    use FailureClass as Class;
    for (what, ops, deadline, classes) in [
        (
            "a loop",
            json!([{ "do": "loop" }]),
            SHORT,
            vec![Class::CpuBudget, Class::Deadline],
        ),
        (
            "a sleep",
            json!([{ "do": "sleep", "ms": 600_000 }]),
            SHORT,
            vec![Class::Deadline],
        ),
        (
            "memory",
            json!([{ "do": "allocate", "mib": 100 }]),
            DEADLINE,
            vec![Class::Memory],
        ),
        // Its own stack in memory ends before the engine's; worlds.rs has the other.
        (
            "recursion",
            json!([{ "do": "recurse" }]),
            DEADLINE,
            vec![Class::Stack, Class::Panic],
        ),
        ("a panic", json!([{ "do": "panic" }]), DEADLINE, vec![Class::Panic]),
        ("a trap", json!([{ "do": "trap" }]), DEADLINE, vec![Class::Panic]),
        (
            "exit with 0",
            json!([{ "do": "exit", "code": 0 }]),
            DEADLINE,
            vec![Class::Exit],
        ),
        (
            "exit with 1",
            json!([{ "do": "exit", "code": 1 }]),
            DEADLINE,
            vec![Class::Exit],
        ),
        (
            "one huge answer",
            json!([{ "do": "output", "bytes": 17 << 20 }]),
            DEADLINE,
            vec![Class::OutputSize],
        ),
        (
            "pages without end",
            json!([{ "do": "pages", "bytes": 8 << 20 }]),
            DEADLINE,
            vec![Class::OutputSize],
        ),
        (
            "handles",
            json!([{ "do": "handles", "count": 2_000 }]),
            DEADLINE,
            vec![Class::Panic],
        ),
        (
            "random bytes",
            json!([{ "do": "random", "bytes": 1 << 20 }]),
            DEADLINE,
            vec![Class::Panic],
        ),
    ] {
        let call = Call::new(ops).within(deadline);
        let report = hostile().observe(&call.options(), None).await;
        assert!(
            class(&report).is_some_and(|class| classes.contains(&class)),
            "{what}: {:?}",
            report.answer
        );
        assert!(report.elapsed < deadline + SLACK, "{what} took {:?}", report.elapsed);
        let next = Call::new(json!([{ "do": "say", "text": "well" }])).observe().await;
        assert_eq!(next.unwrap(), ["well"], "after {what}");
    }
}

#[tokio::test]
async fn every_export_is_cut_off() {
    let (subject, call) = (generation(2), Call::new(json!([{ "do": "loop" }])).within(SHORT));
    let options = call.options();
    let entries = [holdfast_core::target::RouteEntry {
        generation: subject.clone(),
        live: 10_000,
        lead: true,
    }];
    let classes = [
        ("check", class(&hostile().check(&options, &subject).await)),
        ("launch", class(&hostile().launch(&options, &subject, 1).await)),
        ("scale", class(&hostile().scale(&options, &subject, 1).await)),
        ("route", class(&hostile().route(&options, &entries).await)),
        ("retire", class(&hostile().retire(&options, &subject, true).await)),
        (
            "check-job",
            class(&hostile().check_job(&options, &subject, "job", "{}").await),
        ),
        ("run", class(&hostile().run(&options, &subject, "job", "{}").await)),
        ("diff", class(&hostile().diff(&options, None, &subject).await)),
        ("room", class(&hostile().room(&options, &subject).await)),
        ("read", class(&hostile().telemetry(&options, &subject).await)),
        ("explain", class(&hostile().explain(&options, &subject).await)),
    ];
    for (verb, class) in classes {
        assert!(
            matches!(class, Some(FailureClass::CpuBudget | FailureClass::Deadline)),
            "{verb}: {class:?}"
        );
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_nothing_behind() {
    let call = Call::new(json!([{ "do": "sleep", "ms": 600_000 }]));
    assert!(tokio::time::timeout(SHORT, call.observe()).await.is_err());
    let next = Call::new(json!([{ "do": "say", "text": "well" }])).observe().await;
    assert_eq!(next.unwrap(), ["well"]);
}

#[tokio::test]
async fn a_panic_says_why() {
    let Err(CallFailure::Failed { message, .. }) = Call::new(json!([{ "do": "panic" }])).observe().await else {
        panic!("it did not fail");
    };
    assert!(message.contains("the plugin panicked on purpose"), "{message}");
}

#[tokio::test]
async fn what_is_within_the_caps_is_served() {
    let ops = json!([
        { "do": "allocate", "mib": 20 },
        { "do": "handles", "count": 500 },
        { "do": "output", "bytes": 1 << 20 },
    ]);
    let said = Call::new(ops).observe().await.unwrap();
    assert_eq!(
        (said[0].as_str(), said[1].as_str(), said[2].len()),
        ("holds 20 MiB", "holds 500 handles", 1 << 20)
    );
}

#[tokio::test]
async fn nothing_ambient_is_there_and_nothing_is_random() {
    let ops = json!([{ "do": "environment" }, { "do": "times" }, { "do": "random", "bytes": 16 }]);
    let said = Call::new(ops.clone()).observe().await.unwrap();
    assert_eq!(said[0], "0 variables, 0 arguments, 0 files, false");
    assert_eq!(said[1], format!("wall {NOW_MS}, ours {NOW_MS}, elapsed 0ns"));
    assert_eq!(said, Call::new(ops).observe().await.unwrap(), "a replay sees the same");
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_log_flood_is_cut_and_cannot_forge_lines() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let said = Call::new(json!([{ "do": "log", "lines": 5_000, "bytes": 5_000 }]))
        .observe()
        .await;
    assert_eq!(said.unwrap(), ["logged"]);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let logged: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["message"] == "plugin log")
        .collect();
    assert_eq!(logged.len(), 200);
    for line in &logged {
        let text = line["text"].as_str().unwrap();
        assert!(text.len() <= 2_000 && !text.contains(char::is_control), "{text}");
    }
}

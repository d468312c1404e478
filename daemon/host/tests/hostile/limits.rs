//! Limits that the corpus does not reach: those of the host itself, and what is within them. What a single guest can do wrong is
//! in `tests/hostile/corpus`.

use crate::guests::{Call, NOW_MS, class, component, host};
use holdfast_host::{CallFailure, FailureClass, Limits, LoadError, PluginHost};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn what_is_too_large_is_not_looked_at() {
    let error = host().load("test", &vec![0; (64 << 20) + 1]).err().unwrap();
    assert!(matches!(error, LoadError::TooLarge { .. }), "{error}");
}

#[test]
fn what_compiles_for_too_long_is_given_up_and_not_tried_again() {
    let limits = Limits {
        compile: Duration::ZERO,
        ..Limits::default()
    };
    let host = PluginHost::new(limits, None).unwrap();
    for attempt in 0..2 {
        let error = host.load("test", &component("holdfast-hostile-plugin")).err().unwrap();
        assert!(
            matches!(error, LoadError::CompileTime { limit_ms: 0, .. }),
            "{attempt}: {error}"
        );
    }
    assert!(host.load("test", b"another one").is_err(), "others are looked at");
}

/// A call that waits for its turn waits within its own deadline, and nothing of it was begun.
#[tokio::test]
async fn a_plugin_has_so_many_calls_at_once() {
    let limits = Limits {
        calls_at_once: 1,
        ..Limits::default()
    };
    let host = PluginHost::new(limits, None).unwrap();
    let plugin = host.load("hostile", &component("holdfast-hostile-plugin")).unwrap();
    let sleeps = Call::new(json!([{ "do": "sleep", "ms": 600_000 }]));
    let waits = Call::new(json!([])).within(SHORT);
    let (sleeping, waiting) = (sleeps.options(), waits.options());
    tokio::select! {
        biased;
        report = plugin.observe(&sleeping, None) => panic!("{report:?}"),
        report = plugin.observe(&waiting, None) => {
            assert_eq!(class(&report), Some(FailureClass::Busy), "{report:?}");
            let fault = report.answer.unwrap_err().into_fault();
            assert!(!fault.class.is_unknown(), "{fault:?}");
        }
    }
    assert!(plugin.observe(&waiting, None).await.answer.is_ok(), "the place is free again");
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

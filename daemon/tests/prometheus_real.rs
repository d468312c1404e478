//! The Prometheus adapter against Debian's Prometheus, which scrapes a small exporter of ours. Run by `tests/run
//! prometheus`, which starts it.

use holdfast::adapters::prometheus::{MetricSources, Placeholders, RangeQuery};
use holdfast_core::plan::facts::Measure;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A label's value that must be escaped in a query.
const ODD: &str = "odd \"g\" \\1 é";

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run this by `tests/run prometheus`"))
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env("HOLDFAST_PROMETHEUS_DIR")).join(name)
}

fn sources(config: Value) -> MetricSources {
    MetricSources::new(&[("main".to_owned(), serde_json::from_value(config).unwrap())].into()).unwrap()
}

/// Serves the same numbers for ever, and has both servers scrape them.
fn exporter() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let odd = ODD.replace('\\', "\\\\").replace('"', "\\\"");
            let mut metrics = String::new();
            for (generation, ratio, requests) in [("shop-g1", 0.25, 40), ("shop-g2", 0.5, 60), (&odd, 0.75, 1)] {
                metrics += &format!("test_ratio{{generation=\"{generation}\"}} {ratio}\n");
                metrics += &format!("test_requests_total{{generation=\"{generation}\"}} {requests}\n");
            }
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close";
                let length = metrics.len();
                let _ = write!(stream, "{head}\r\ncontent-length: {length}\r\n\r\n{metrics}");
            }
        });
        // In one rename: half a file would be no list of targets.
        std::fs::write(file("targets.new"), json!([{ "targets": [address] }]).to_string()).unwrap();
        std::fs::rename(file("targets.new"), file("targets.json")).unwrap();
    });
}

/// Asks until the number is there: scraping takes its time.
#[allow(clippy::disallowed_methods, reason = "a real server is waited for in real time")]
async fn measured(
    sources: &MetricSources,
    query: &str,
    samples: Option<&str>,
    range_ms: Option<u64>,
    generation: &str,
) -> Measure {
    exporter();
    let begun = Instant::now();
    loop {
        match ask(sources, query, samples, range_ms, generation).await {
            Ok(measure) => return measure,
            Err(why) => assert!(begun.elapsed() < Duration::from_secs(60), "{query}: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[allow(clippy::disallowed_methods, reason = "a range ends at the server's now")]
async fn ask(
    sources: &MetricSources,
    query: &str,
    samples: Option<&str>,
    range_ms: Option<u64>,
    generation: &str,
) -> Result<Measure, String> {
    let placeholders = Placeholders {
        generation: generation.to_owned(),
        ..Placeholders::default()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let range = range_ms.map(|range_ms| RangeQuery {
        end_ms: now.as_millis() as u64,
        range_ms,
    });
    sources.measure("main", query, samples, range, &placeholders).await
}

#[tokio::test]
async fn each_generation_has_its_own_number() {
    let open = sources(json!({ "url": env("HOLDFAST_PROMETHEUS_OPEN") }));
    let requests = Some(r#"sum(test_requests_total{generation="{{generation}}"})"#);
    for (generation, value, samples) in [("shop-g1", 0.25, 40), ("shop-g2", 0.5, 60), (ODD, 0.75, 1)] {
        for query in [
            r#"test_ratio{generation="{{generation}}"}"#,
            "sum(test_ratio{generation='{{generation}}'})",
            r#"scalar(test_ratio{generation="{{generation}}"})"#,
        ] {
            let found = measured(&open, query, requests, None, generation).await;
            assert_eq!(found, Measure { value, samples }, "{query} {generation}");
        }
        let query = r#"test_ratio{generation="{{generation}}"}"#;
        let averaged = measured(&open, query, None, Some(60_000), generation).await;
        assert!(
            averaged.value == value && (1..=61).contains(&averaged.samples),
            "{averaged:?}"
        );
    }
}

#[tokio::test]
async fn what_is_no_number_is_unmeasured() {
    let open = sources(json!({ "url": env("HOLDFAST_PROMETHEUS_OPEN") }));
    let all = "count(test_ratio)";
    assert_eq!(measured(&open, all, None, None, "").await.value, 3.0);
    for (query, range_ms, part) in [
        ("test_ratio", None, "answers 3 series"),
        ("test_ratio", Some(5_000), "answers 3 series"),
        ("test_nothing", None, "answers nothing"),
        ("test_nothing", Some(5_000), "answers nothing"),
        ("vector(0) / 0", None, "no finite number"),
        ("1 / 0", None, "no finite number"),
        ("sum(", None, "refuses the query: invalid parameter \"query\""),
        ("\"text\"", None, "answers a \"string\""),
        // More points than it gives.
        ("test_ratio[1y]", Some(5_000), "refuses the query"),
    ] {
        let why = ask(&open, query, None, range_ms, "").await.unwrap_err();
        assert!(why.contains(part), "{query}: {why}");
    }
}

#[tokio::test]
async fn tls_of_a_private_authority_and_basic_authentication() {
    let secure = |ca: Option<&str>, password: &str| {
        let auth = json!({ "basic": { "username": "ci", "password_file": file(password) } });
        sources(json!({ "url": env("HOLDFAST_PROMETHEUS_SECURE"), "ca_file": ca.map(file), "auth": auth }))
    };
    let good = secure(Some("ca.crt"), "password");
    assert_eq!(measured(&good, "count(test_ratio)", None, None, "").await.value, 3.0);
    for (sources, part) in [
        (secure(Some("ca.crt"), "wrong-password"), "answered 401"),
        (secure(None, "password"), "cannot be reached: invalid peer certificate"),
    ] {
        let why = ask(&sources, "count(test_ratio)", None, None, "").await.unwrap_err();
        assert!(why.contains(part), "{why}");
    }
}

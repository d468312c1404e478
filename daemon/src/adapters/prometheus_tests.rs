//! Against a small server of our own that answers whatever a test wants.

use super::*;
use holdfast_host::AuthConfig;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Request line, headers in lower case, body.
type Seen = Arc<Mutex<Vec<String>>>;

/// Answers each request on a connection of its own with what `answer` makes of its text.
async fn server(answer: impl Fn(&str) -> Option<String> + Send + 'static) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let all = seen.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            loop {
                let mut part = [0; 4096];
                let size = stream.read(&mut part).await.unwrap();
                request.extend_from_slice(&part[..size]);
                let text = String::from_utf8_lossy(&request);
                let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
                    let mut lengths = head.lines().filter_map(|line| line.strip_prefix("content-length: "));
                    body.len() >= lengths.next_back().map_or(0, |length| length.parse().unwrap())
                });
                if whole || size == 0 {
                    break;
                }
            }
            let request = String::from_utf8(request).unwrap();
            all.lock().unwrap().push(request.clone());
            match answer(&request) {
                Some(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                // Says nothing, and stays.
                None => open.push(stream),
            }
        }
    });
    (url, seen)
}

fn http(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn data(kind: &str, result: Value) -> String {
    http(
        200,
        &json!({ "status": "success", "data": { "resultType": kind, "result": result } }).to_string(),
    )
}

fn sources(url: &str, auth: Option<AuthConfig>) -> MetricSources {
    let config = MetricSourceConfig {
        url: url.to_owned(),
        ca_file: None,
        auth,
    };
    MetricSources::new(&[("main".to_owned(), config)].into()).unwrap()
}

fn placeholders() -> Placeholders {
    Placeholders {
        generation: "shop-g2".into(),
        workload: "shop".into(),
        target: "site-a".into(),
        release: "abc".into(),
        deploy: "d1-812".into(),
    }
}

async fn instant(url: &str) -> Result<Measure, String> {
    sources(url, None).measure("main", "up", None, None, &placeholders()).await
}

#[tokio::test]
async fn an_instant_query_answers_one_number_or_why_there_is_none() {
    let series = |value: &str| json!({ "metric": { "job": "x" }, "value": [1.5, value] });
    let warned =
        json!({ "status": "success", "warnings": ["a store is away"], "data": { "resultType": "vector", "result": [] } });
    let also_warned = json!({ "status": "success", "warnings": ["a store is away"], "data": { "resultType": "vector", "result": [series("2")] } });
    let refused = json!({ "status": "error", "errorType": "bad_data", "error": "parse error:\nunexpected end" }).to_string();
    for (name, answer, expected) in [
        ("scalar", data("scalar", json!([1.5, "0.25"])), Ok(0.25)),
        ("one series", data("vector", json!([series("0.5")])), Ok(0.5)),
        ("negative", data("vector", json!([series("-3e2")])), Ok(-300.0)),
        ("value and warning", http(200, &also_warned.to_string()), Ok(2.0)),
        ("empty", data("vector", json!([])), Err("answers nothing")),
        (
            "only warnings",
            http(200, &warned.to_string()),
            Err("answers nothing; Prometheus warns: a store is away"),
        ),
        (
            "several",
            data("vector", json!([series("1"), series("2")])),
            Err("answers 2 series"),
        ),
        ("NaN", data("vector", json!([series("NaN")])), Err("no finite number")),
        ("infinite", data("vector", json!([series("+Inf")])), Err("no finite number")),
        ("NaN scalar", data("scalar", json!([1, "NaN"])), Err("no finite number")),
        ("text", data("string", json!([1, "x"])), Err("answers a \"string\"")),
        (
            "histogram",
            data("vector", json!([{ "metric": {}, "histogram": [1, { "count": "1" }] }])),
            Err("without numbers"),
        ),
        ("no number", data("vector", json!([series("many")])), Err("without numbers")),
        (
            "bad data",
            http(400, &refused),
            Err("refuses the query: parse error: unexpected end"),
        ),
        ("bad data as 200", http(200, &refused), Err("refuses the query")),
        ("busy", http(503, "overloaded"), Err("answered 503")),
        ("denied", http(401, ""), Err("answered 401")),
        (
            "success as 500",
            http(500, &data("scalar", json!([1, "1"]))),
            Err("answered 500"),
        ),
        ("elsewhere", http(302, ""), Err("redirects are not followed")),
        ("no JSON", http(200, "<html>"), Err("not the JSON")),
        ("other JSON", http(200, "{}"), Err("not the JSON")),
        (
            "large",
            http(200, &" ".repeat(ANSWER_MAX_BYTES + 1)),
            Err("more than 1048576 bytes"),
        ),
        ("cut", http(200, "{")[..60].to_owned(), Err("cannot be reached")),
    ] {
        let (url, _) = server(move |_| Some(answer.clone())).await;
        match (instant(&url).await, expected) {
            (Ok(measure), Ok(value)) => assert_eq!(measure, Measure { value, samples: 1 }, "{name}"),
            (Err(why), Err(part)) => assert!(why.contains(part) && !why.contains('\n'), "{name}: {why}"),
            (outcome, _) => panic!("{name}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_range_is_averaged_over_what_was_measured() {
    let values = json!([{ "metric": {}, "values": [[1, "1"], [2, "NaN"], [3, "3"], [4, "+Inf"]] }]);
    let (url, seen) = server(move |_| Some(data("matrix", values.clone()))).await;
    let range = RangeQuery {
        end_ms: 1_000_500,
        range_ms: 300_000,
    };
    let measured = sources(&url, None)
        .measure("main", "up", None, Some(range), &placeholders())
        .await;
    assert_eq!(measured, Ok(Measure { value: 2.0, samples: 2 }));
    let request = seen.lock().unwrap()[0].clone();
    assert!(request.starts_with("POST /api/v1/query_range HTTP/1.1\r\n"), "{request}");
    assert!(
        request.ends_with("query=up&start=700.500&end=1000.500&step=5.000&timeout=10s"),
        "{request}"
    );
}

#[tokio::test]
async fn placeholders_are_filled_in_and_escaped() {
    let (url, seen) = server(|_| Some(data("scalar", json!([1, "1"])))).await;
    let hostile = Placeholders {
        target: "a\"} or vector(1) #`\\é".into(),
        ..placeholders()
    };
    let sources = sources(&url, None);
    let ask = |query: &'static str| sources.measure("main", query, None, None, &hostile);
    ask(r#"x{g="{{generation}}",w="{{ workload }}",r="{{release}}",d="{{deploy}}",t="{{target}}"}"#)
        .await
        .unwrap();
    let form = seen.lock().unwrap()[0].split("\r\n\r\n").nth(1).unwrap().to_owned();
    let query = Url::parse(&format!("http://x/?{form}"))
        .unwrap()
        .query_pairs()
        .next()
        .unwrap()
        .1
        .into_owned();
    assert_eq!(
        query,
        r#"x{g="shop-g2",w="shop",r="abc",d="d1-812",t="a\x22\x7d\x20or\x20vector\x281\x29\x20\x23\x60\x5c\xc3\xa9"}"#
    );
    for (query, part) in [("x{{pod}}", "names {{pod}}"), ("x{{target", "not closed")] {
        let why = ask(query).await.unwrap_err();
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(seen.lock().unwrap().len(), 1, "a query with holes is not sent");
}

#[tokio::test]
async fn samples_are_asked_for_beside() {
    let answer = |request: &str| {
        let value = if request.contains("query=requests") { "41.9" } else { "0.5" };
        Some(data("scalar", json!([1, value])))
    };
    let (url, _) = server(answer).await;
    let sources = sources(&url, None);
    let measured = sources
        .measure("main", "ratio", Some("requests"), None, &placeholders())
        .await;
    assert_eq!(measured, Ok(Measure { value: 0.5, samples: 41 }));
    let (url, _) = server(move |request| match request.contains("query=requests") {
        true => Some(data("vector", json!([]))),
        false => answer(request),
    })
    .await;
    let outcome = self::sources(&url, None)
        .measure("main", "ratio", Some("requests"), None, &Placeholders::default())
        .await;
    assert_eq!(outcome, Err("the samples query: the query answers nothing".into()));
}

#[tokio::test]
async fn what_lets_only_get_through_is_asked_by_get() {
    let (url, seen) = server(|request| {
        let get = request.starts_with("GET /prometheus/api/v1/query?query=up&timeout=10s HTTP/1.1\r\n");
        Some(if get { data("scalar", json!([1, "1"])) } else { http(405, "") })
    })
    .await;
    assert!(instant(&format!("{url}/prometheus/")).await.is_ok());
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn credentials_are_read_at_each_query_and_never_said() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credential");
    let auth = |config: Value| serde_json::from_value::<AuthConfig>(config).unwrap();
    let bearer = auth(json!({ "bearer_token_file": file }));
    let basic = auth(json!({ "basic": { "username": "ci", "password_file": file } }));
    let (url, seen) = server(|_| Some(data("scalar", json!([1, "1"])))).await;
    for (auth, header) in [
        (bearer.clone(), "authorization: Bearer secret-"),
        (basic, "authorization: Basic Y2k6c2VjcmV0LT"),
    ] {
        let sources = sources(&url, Some(auth));
        for turn in 1..=2 {
            std::fs::write(&file, format!("secret-{turn}\n")).unwrap();
            sources.measure("main", "up", None, None, &placeholders()).await.unwrap();
            let request = seen.lock().unwrap().last().unwrap().clone();
            // "secret-1" and "secret-2" differ in the last two characters of their base64.
            let expected = match header.contains("Bearer") {
                true => format!("{header}{turn}\r\n"),
                false => format!("{header}{}=\r\n", if turn == 1 { "E" } else { "I" }),
            };
            assert!(request.contains(&expected), "{request}");
        }
    }
    std::fs::write(&file, "secret\u{7f}value").unwrap();
    let sources = sources(&url, Some(bearer));
    let nobody = Placeholders::default();
    let ask = || sources.measure("main", "up", None, None, &nobody);
    let why = ask().await.unwrap_err();
    assert!(why.contains("holds is no token") && !why.contains("secret\u{7f}"), "{why}");
    std::fs::remove_file(&file).unwrap();
    let why = ask().await.unwrap_err();
    assert!(why.contains("cannot be read"), "{why}");
}

#[tokio::test]
async fn silence_ends_and_unknown_sources_are_named() {
    let (url, _) = server(|_| None).await;
    let why = instant(&url).await.unwrap_err();
    assert_eq!(
        why,
        format!("the metric source did not answer within {} s", DEADLINE.as_secs())
    );
    let why = sources(&url, None)
        .measure("other", "up", None, None, &placeholders())
        .await
        .unwrap_err();
    assert!(why.contains("\"other\"") && why.contains("metrics.sources"), "{why}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let why = instant(&format!("http://{closed}")).await.unwrap_err();
    assert!(why.starts_with("the metric source cannot be reached: "), "{why}");
}

#[test]
fn configurations_that_cannot_be_used_are_named() {
    for (url, ca_file, part) in [
        ("prometheus:9090", None, "is not http://HOST"),
        ("ftp://prometheus", None, "is not http://HOST"),
        ("http://user:secret@prometheus", None, "is not http://HOST"),
        ("http://prometheus/?tenant=1", None, "is not http://HOST"),
        ("https://prometheus", Some("/nonexistent/ca.pem"), "cannot be read"),
        ("https://prometheus", Some("/dev/null"), "holds no PEM certificate"),
    ] {
        let config = MetricSourceConfig {
            url: url.into(),
            ca_file: ca_file.map(PathBuf::from),
            auth: None,
        };
        let error = MetricSources::new(&[("main".to_owned(), config)].into())
            .map(drop)
            .unwrap_err();
        assert!(error.to_string().contains(part), "{url}: {error}");
    }
}

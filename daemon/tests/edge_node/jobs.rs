//! Jobs run at most once under one name, whatever crashes, and what came of them is kept.

use crate::site::{Site, until};
use reqwest::Method;
use serde_json::{Value, json};

fn request(path: &str, timeout_ms: u32) -> Value {
    json!({ "path": path, "method": "POST", "body": "please", "timeout_ms": timeout_ms })
}

/// Asks until the job has ended, one way or the other.
fn ended(site: &Site, number: u32, fence: u64, bundle: &str, job: &str, request: &Value) -> (u16, Value) {
    until(&format!("the end of {job}"), || {
        Some(site.job(number, fence, bundle, job, request.clone())).filter(|(status, _)| *status != 202)
    })
}

fn lines(site: &Site, job: &str) -> Vec<String> {
    let name = Some(job.to_owned());
    let lines = site.journal().into_iter().filter(|line| line.job == name);
    lines.map(|line| line.verb).collect()
}

#[test]
fn a_job_ends_once_and_says_how() {
    let site = Site::start();
    for (fence, (job, bundle, path, timeout_ms, status, class, part)) in [
        ("good", "hostile", "/migrate", 5_000, 200, Value::Null, ""),
        ("no-content", "hostile", "/status/204", 5_000, 200, Value::Null, ""),
        (
            "refused",
            "hostile",
            "/status/500",
            5_000,
            422,
            json!("failed"),
            "it answered 500",
        ),
        (
            "not-found",
            "hostile",
            "/status/404",
            5_000,
            422,
            json!("failed"),
            "it answered 404",
        ),
        (
            "panics",
            "hostile",
            "/panic",
            5_000,
            422,
            json!("failed"),
            "the bundle panicked on purpose",
        ),
        ("loops", "hostile", "/loop", 300, 422, json!("failed"), "failed"),
        (
            "sleeps",
            "hostile",
            "/sleep/60000",
            300,
            422,
            json!("failed"),
            "no answer within 300 ms",
        ),
        ("grows", "hostile", "/allocate/100", 5_000, 422, json!("failed"), "failed"),
        (
            "no-bundle",
            "no component",
            "/x",
            5_000,
            422,
            json!("failed"),
            "its bundle does not run",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let (fence, request) = (10 + fence as u64, request(path, timeout_ms));
        let (got, answer) = ended(&site, 2, fence, bundle, job, &request);
        assert_eq!((got, &answer["error"]["class"]), (status, &class), "{job}: {answer}");
        assert!(
            answer["error"]["message"].as_str().unwrap_or_default().contains(part),
            "{job}: {answer}"
        );
        // Asked again, under this fence or a higher one, it is found.
        for fence in [fence, fence + 1] {
            assert_eq!(site.job(2, fence, bundle, job, request.clone()).0, status, "{job}");
        }
        let ended = if status == 200 { "job-done" } else { "job-failed" };
        assert_eq!(lines(&site, &format!("shop-g2-{job}")), ["job", ended], "{job}");
    }
    let (_, diagnosis) = site.send(Method::GET, "/v1/workloads/shop/generations/2/diagnosis", Value::Null);
    let jobs = diagnosis["jobs"].as_array().unwrap();
    let good = jobs.iter().find(|job| job["name"] == "shop-g2-good").unwrap();
    assert_eq!(good["state"], "done");
    assert!(good["output"].as_str().unwrap().contains("/migrate done, please"), "{good}");
    assert!(site.generation(2).is_none(), "a job alone makes no generation");
}

#[test]
fn what_never_started_is_started() {
    let site = Site::start();
    let quick = request("/migrate", 5_000);
    let (status, answer) = ended(&site, 2, 10, "missing", "migrate", &quick);
    assert_eq!(
        (status, answer["error"]["class"].as_str()),
        (503, Some("unavailable")),
        "{answer}"
    );
    assert!(lines(&site, "shop-g2-migrate").is_empty(), "it was never started");
    assert_eq!(ended(&site, 2, 10, "hostile", "migrate", &quick).0, 200);
    for (what, bad) in [
        ("path", request("migrate", 5_000)),
        ("method", json!({ "path": "/x", "method": "post", "timeout_ms": 100 })),
        ("timeout_ms", request("/x", 1)),
        (
            "body",
            json!({ "path": "/x", "method": "POST", "timeout_ms": 100, "body": "x".repeat(70_000) }),
        ),
        (
            "retries",
            json!({ "path": "/x", "method": "POST", "timeout_ms": 100, "retries": 3 }),
        ),
    ] {
        let (status, answer) = site.job(2, 11, "hostile", "bad", bad);
        assert_eq!((status, answer["error"]["class"].as_str()), (400, Some("invalid")), "{what}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(what), "{answer}");
    }
}

#[test]
fn fences_and_owners_hold_for_jobs() {
    let site = Site::start();
    let quick = request("/migrate", 5_000);
    assert_eq!(ended(&site, 2, 20, "hostile", "migrate", &quick).0, 200);
    let (status, answer) = site.job(2, 19, "hostile", "migrate", quick.clone());
    assert_eq!(
        (status, &answer["error"]["class"], &answer["error"]["fence"]),
        (409, &json!("fenced"), &json!(20))
    );
    let (status, answer) = site.job(2, 19, "hostile", "another", quick.clone());
    assert_eq!((status, &answer["error"]["class"]), (409, &json!("fenced")));
    assert_eq!(
        site.launch(2, 19, "r2", "hostile").1["error"]["fence"],
        20,
        "a job moves the fence of all"
    );
    let mut body = json!({
        "owner": "other", "fence": 30, "deploy_id": "d", "workload": "main/shop", "name": "shop-g2", "release_id": "r2",
        "artifact": "main", "source": "x", "digest": "sha256:00", "job": quick,
    });
    let path = "/v1/workloads/shop/generations/2/jobs/migrate";
    assert_eq!(
        site.send(Method::PUT, path, body.clone()).1["error"]["class"],
        "conflict",
        "another owner"
    );
    body["owner"] = "me".into();
    body["release_id"] = "r9".into();
    assert_eq!(
        site.send(Method::PUT, path, body).1["error"]["class"],
        "conflict",
        "another release"
    );

    // Retiring takes jobs away, also one that runs, also of a generation that never was.
    site.job(2, 21, "hostile", "slow", request("/sleep/600000", 600_000));
    until("a job that runs", || (lines(&site, "shop-g2-slow") == ["job"]).then_some(()));
    assert_eq!(site.retire(2, 22, false).0, 200);
    assert_eq!(
        site.send(Method::GET, "/v1/workloads/shop/generations/2/diagnosis", Value::Null)
            .0,
        404
    );
    assert_eq!(lines(&site, "shop-g2-slow"), ["job"], "it never ended");
}

#[test]
fn kills_lose_jobs_but_never_repeat_them() {
    let mut site = Site::start();
    let slow = request("/sleep/600000", 600_000);
    assert_eq!(ended(&site, 2, 10, "hostile", "quick", &request("/migrate", 5_000)).0, 200);
    assert_eq!(site.job(2, 11, "hostile", "slow", slow.clone()).0, 202);
    let states = |site: &Site| -> Vec<Value> {
        let path = "/v1/workloads/shop/generations/2/diagnosis";
        let (_, diagnosis) = site.send(Method::GET, path, Value::Null);
        let jobs = diagnosis["jobs"].as_array().unwrap();
        jobs.iter().map(|job| job["state"].clone()).collect()
    };
    until("a job that runs", || (states(&site) == ["done", "running"]).then_some(()));
    assert_eq!(lines(&site, "shop-g2-slow"), ["job"]);
    assert_eq!(site.job(2, 11, "hostile", "slow", slow.clone()).0, 202, "it runs");
    site.kill();
    site.run();
    for fence in [11, 12] {
        let (status, answer) = site.job(2, fence, "hostile", "slow", slow.clone());
        assert_eq!((status, answer["error"]["class"].as_str()), (404, Some("absent")), "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("lost"), "{answer}");
    }
    assert_eq!(
        site.job(2, 12, "hostile", "quick", request("/migrate", 5_000)).0,
        200,
        "what ended is known"
    );
    assert_eq!(states(&site), ["done", "lost"]);

    // Wherever the kill falls, a name starts once; what is not known afterwards is lost, and what is known is what happened.
    let quick = request("/migrate", 5_000);
    for round in 0..12u32 {
        let (job, fence) = (format!("round-{round}"), 20 + u64::from(round));
        site.job(2, fence, "hostile", &job, quick.clone());
        for _ in 0..round {
            site.job(2, fence, "hostile", &job, quick.clone());
        }
        site.kill();
        site.run();
        let (status, answer) = ended(&site, 2, fence, "hostile", &job, &quick);
        assert!(matches!(status, 200 | 404), "{answer}");
        let verbs = lines(&site, &format!("shop-g2-{job}"));
        assert_eq!(
            verbs.iter().filter(|verb| *verb == "job").count(),
            1,
            "round {round}: {verbs:?}"
        );
        assert!(status == 200 || verbs == ["job"], "round {round}: {verbs:?}");
    }
    // Another name is another job.
    assert_eq!(ended(&site, 2, 50, "hostile", "slow-2", &quick).0, 200);
}

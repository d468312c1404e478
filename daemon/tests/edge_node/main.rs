//! An edge site as a process of its own, over real HTTP: weights, fences, owners, idempotence, bad bundles, jobs, parking,
//! TLS, caps, and SIGKILL.

mod caps;
mod conformance;
mod driver;
mod jobs;
mod parking;
mod plugin;
mod site;
mod tls;

use reqwest::Method;
use serde_json::{Value, json};
use site::{Site, until};
use std::process::Command;

#[test]
fn traffic_follows_the_weights() {
    let site = Site::start();
    site.launch(1, 10, "r1", "1.0.0");
    site.launch(2, 11, "r2", "1.1.0");
    let ready = site.reaches(1, "ready");
    assert_eq!(ready["digests"][0], site.digests["1.0.0"].as_str());
    site.reaches(2, "ready");
    assert_eq!(site.get().0, 503, "nothing is live yet");
    assert_eq!(site.route(12, json!({ "1": 9_000, "2": 1_000 })).0, 200);
    let answers: Vec<(u16, u32)> = (0..1_000).map(|_| site.get()).collect();
    assert!(answers.iter().all(|(status, _)| *status == 200));
    assert_eq!(answers.iter().filter(|(_, generation)| *generation == 2).count(), 100);
    let (_, telemetry) = site.send(Method::GET, "/v1/workloads/shop/generations/2/telemetry", Value::Null);
    assert_eq!(
        (&telemetry["requests_total"], &telemetry["errors_total"]),
        (&100.into(), &0.into())
    );
    // Its own address answers beside, and is not counted.
    let address = site.reaches(2, "ready")["address"].as_str().unwrap().to_owned();
    assert_eq!(
        site.client
            .get(format!("http://{address}/healthz"))
            .send()
            .unwrap()
            .status()
            .as_u16(),
        200
    );
    let (_, after) = site.send(Method::GET, "/v1/workloads/shop/generations/2/telemetry", Value::Null);
    assert_eq!(after["requests_total"], 100);
}

#[test]
fn refusals_have_a_class() {
    let site = Site::start();
    site.launch(1, 10, "r1", "1.0.0");
    site.reaches(1, "ready");
    site.route(11, json!({ "1": 10_000 }));
    let foreign = json!({ "owner": "other", "fence": 99, "deploy_id": "x", "shares": {} });
    for (what, (status, answer), expected, class) in [
        ("stale fence", site.route(10, json!({ "1": 10_000 })), 409, "fenced"),
        (
            "foreign owner",
            site.send(Method::PUT, "/v1/workloads/shop/route", foreign),
            409,
            "conflict",
        ),
        ("other release", site.launch(1, 12, "r9", "1.0.0"), 409, "conflict"),
        ("sum", site.route(12, json!({ "1": 5_000 })), 400, "invalid"),
        ("unknown generation", site.route(12, json!({ "7": 10_000 })), 404, "absent"),
        ("retire what is live", site.retire(1, 12, false), 409, "conflict"),
        (
            "malformed",
            site.send(Method::PUT, "/v1/workloads/shop/route", json!("x")),
            400,
            "invalid",
        ),
        ("unknown path", site.send(Method::GET, "/v1/nope", Value::Null), 404, "absent"),
    ] {
        assert_eq!(
            (status, answer["error"]["class"].as_str()),
            (expected, Some(class)),
            "{what}: {answer}"
        );
    }
    assert_eq!(site.route(10, json!({})).1["error"]["fence"], 11, "the higher fence is named");
    let url = format!("http://{}/v1/site", site.addresses.api);
    assert_eq!(site.client.get(&url).send().unwrap().status().as_u16(), 401);
    assert_eq!(
        site.client
            .get(&url)
            .bearer_auth("wrong-token")
            .send()
            .unwrap()
            .status()
            .as_u16(),
        401
    );
    assert_eq!(site.get(), (200, 1), "none of it touched what runs");
}

#[test]
fn bad_bundles_are_told_apart() {
    let site = Site::start();
    site.launch(1, 10, "r1", "no component");
    site.launch(2, 11, "r2", "missing");
    // The release is to blame for one, and not for the other.
    assert_eq!(site.reaches(1, "failing")["reason"], "bundle-invalid");
    assert_eq!(site.reaches(2, "stuck")["reason"], "pull-failed");
    let (_, diagnosis) = site.send(Method::GET, "/v1/workloads/shop/generations/2/diagnosis", Value::Null);
    assert!(
        diagnosis["message"].as_str().unwrap().contains("is not in the layout"),
        "{diagnosis}"
    );
    assert_eq!(site.retire(1, 12, false).0, 200);
    assert_eq!(site.retire(2, 13, true).0, 200);
    assert!(site.generation(1).is_none() && site.generation(2).is_none());
    assert_eq!(site.retire(2, 13, true).0, 200, "what is gone is gone");
}

#[test]
fn repeats_are_one_effect_and_kills_forget_nothing() {
    let mut site = Site::start();
    let mut fence = 10;
    for round in 0..6u32 {
        let number = round + 1;
        for _ in 0..2 {
            let (status, answer) = site.launch(number, fence, &format!("r{number}"), "1.0.0");
            assert!(matches!(status, 200 | 202), "{answer}");
        }
        if round % 2 == 0 {
            // In the middle of the pull, or just after it.
            site.kill();
            site.run();
        }
        site.reaches(number, "ready");
        let shares = json!({ number.to_string(): 10_000 });
        assert_eq!(site.route(fence + 1, shares.clone()).0, 200);
        site.kill();
        site.run();
        assert_eq!(site.route(fence + 1, shares).0, 200, "the same fence repeats");
        until("an answer after the kill", || (site.get() == (200, number)).then_some(()));
        if round > 0 {
            assert_eq!(
                until("the drain", || Some(site.retire(number - 1, fence + 2, false).0)
                    .filter(|status| *status == 200)),
                200
            );
        }
        fence += 3;
    }
    let lines = site.journal();
    let mut fences: Vec<u64> = lines.iter().map(|line| line.fence).collect();
    let count = fences.len();
    fences.dedup();
    assert_eq!(fences.len(), count, "each fence has one effect: {lines:?}");
    assert_eq!(lines.iter().filter(|line| line.verb == "launch").count(), 6);
}

#[test]
fn late_requests_of_a_workload_that_is_gone_are_refused() {
    let mut site = Site::start();
    site.launch(1, 10, "r1", "1.0.0");
    until("the end of the last one", || {
        (site.retire(1, 12, true).0 == 200).then_some(())
    });
    for killed in [false, true] {
        if killed {
            site.kill();
            site.run();
        }
        let (status, answer) = site.launch(1, 11, "r1", "1.0.0");
        assert_eq!(
            (status, &answer["error"]["fence"]),
            (409, &json!(12)),
            "killed: {killed}: {answer}"
        );
        let seen = site.send(Method::GET, "/v1/site", Value::Null).1;
        assert_eq!((&seen["high_fence"], &seen["workloads"]), (&json!(12), &json!([])));
    }
    let fences: Vec<u64> = site.journal().iter().map(|line| line.fence).collect();
    assert_eq!(fences, [10, 12]);
    assert!(
        matches!(site.launch(2, 13, "r2", "1.0.0").0, 200 | 202),
        "a newer one is as good as ever"
    );
}

#[test]
fn a_damaged_state_is_said() {
    let mut site = Site::start();
    site.launch(1, 10, "r1", "1.0.0");
    site.kill();
    std::fs::write(site.path("state.json"), "{ not json").unwrap();
    let log = std::fs::File::create(site.dir.path().join("log")).unwrap();
    let args = [
        "edge-node",
        "--dir",
        "site",
        "--token-file",
        "token",
        "--api",
        "127.0.0.1:0",
        "--listen",
        "127.0.0.1:0",
        "--registries",
        "registries.yaml",
    ];
    let status = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(args)
        .current_dir(site.dir.path())
        .stderr(log)
        .status()
        .unwrap();
    let said = std::fs::read_to_string(site.dir.path().join("log")).unwrap();
    assert!(
        !status.success() && said.contains("state.json of the edge node is damaged"),
        "{said}"
    );
}

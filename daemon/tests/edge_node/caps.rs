//! One request cannot take more than its caps of memory, time and concurrency, on the site's address or the generation's own.

use crate::site::{HOST, Site, until};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[test]
#[allow(clippy::disallowed_methods, reason = "time caps are measured")]
fn a_request_has_caps() {
    let site = Site::start();
    let body = json!({
        "owner": "me", "fence": 10, "deploy_id": "d", "workload": "main/shop", "name": "shop-g1", "release_id": "r1", "artifact": "main",
        "source": format!("{HOST}/shop"), "digest": site.digests["hostile"],
        "template": { "memory_mib": 16, "timeout_ms": 1_000, "concurrency": 2 }, "size": 1,
    });
    site.send(Method::PUT, "/v1/workloads/shop/generations/1", body);
    let own = site.reaches(1, "ready")["address"].as_str().unwrap().to_owned();
    assert_eq!(site.route(11, json!({ "1": 10_000 })).0, 200);
    let front = site.addresses.listen.to_string();
    for address in [&front, &own] {
        for (path, status) in [
            ("/hello", 200),
            ("/allocate/4", 200),
            ("/allocate/64", 500),
            ("/loop", 500),
            ("/sleep/60000", 500),
            ("/panic", 500),
            ("/status/418", 418),
            ("/hello", 200),
        ] {
            let begun = Instant::now();
            let response = site.client.get(format!("http://{address}{path}")).send().unwrap();
            assert_eq!(response.status().as_u16(), status, "{path}");
            assert!(begun.elapsed() < Duration::from_secs(8), "{path} took {:?}", begun.elapsed());
        }
        let at_once: Vec<_> = (0..8)
            .map(|_| {
                let (client, url) = (site.client.clone(), format!("http://{address}/sleep/500"));
                std::thread::spawn(move || client.get(url).send().unwrap().status().as_u16())
            })
            .collect();
        let statuses: Vec<u16> = at_once.into_iter().map(|one| one.join().unwrap()).collect();
        assert!(statuses.contains(&503) && statuses.contains(&200), "{statuses:?}");
        until("the places to be free again", || {
            let response = site.client.get(format!("http://{address}/hello")).send().unwrap();
            (response.status().as_u16() == 200).then_some(())
        });
    }
    let (_, diagnosis) = site.send(Method::GET, "/v1/workloads/shop/generations/1/diagnosis", Value::Null);
    let output = diagnosis["output"].as_str().unwrap();
    for said in ["no answer within 1000 ms", "the bundle panicked on purpose"] {
        assert!(output.contains(said), "{output}");
    }
}

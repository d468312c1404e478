//! What is parked serves nothing, holds no address, and comes back without a registry. And how many may run at once.

use crate::site::{Site, until};
use reqwest::Method;
use serde_json::{Value, json};

#[test]
fn a_parked_generation_comes_back_without_a_registry() {
    let mut site = Site::start();
    site.launch(1, 10, "r1", "1.0.0");
    site.launch(2, 11, "r2", "1.1.0");
    let ready = site.reaches(1, "ready");
    site.reaches(2, "ready");
    let address = ready["address"].as_str().unwrap().to_owned();
    assert_eq!(site.route(12, json!({ "1": 10_000 })).0, 200);
    assert_eq!(
        site.size(1, 13, 0).1["error"]["class"],
        "conflict",
        "what is live is not parked"
    );
    assert_eq!(site.route(14, json!({ "2": 10_000 })).0, 200);
    assert_eq!(site.size(1, 15, 0).0, 200);
    let parked = site.reaches(1, "parked");
    assert_eq!(parked["address"], Value::Null);
    assert_eq!(parked["digests"], ready["digests"], "it is held on the site");
    until("the address to be given back", || {
        std::net::TcpListener::bind(&address).is_ok().then_some(())
    });
    assert_eq!(
        site.route(16, json!({ "1": 10_000 })).1["error"]["class"],
        "conflict",
        "what is parked gets no share"
    );

    // Another one goes, and with it what nothing needs; then the registry is gone, and the site is killed.
    site.launch(3, 17, "r3", "1.2.0");
    site.reaches(3, "ready");
    assert_eq!(site.retire(3, 18, false).0, 200);
    std::fs::remove_dir_all(site.dir.path().join("bundles")).unwrap();
    site.kill();
    site.run();
    assert_eq!(site.reaches(1, "parked")["digests"], ready["digests"]);
    assert_eq!(site.size(1, 19, 1).0, 200);
    let back = site.reaches(1, "ready");
    assert_eq!((&back["release_id"], &back["digests"]), (&json!("r1"), &ready["digests"]));
    assert_eq!(site.route(20, json!({ "1": 10_000 })).0, 200);
    assert_eq!(site.get(), (200, 1));
    let own = site
        .client
        .get(format!("http://{}/healthz", back["address"].as_str().unwrap()))
        .send()
        .unwrap();
    assert_eq!(own.status().as_u16(), 200);
}

#[test]
fn a_site_has_so_much_room() {
    let room = |site: &Site| site.send(Method::GET, "/v1/room", Value::Null).1["instances"].clone();
    let free = Site::start();
    assert_eq!(room(&free), Value::Null, "no limit, nothing to tell");
    let site = Site::start_with(&["--max-instances", "2"]);
    assert_eq!(room(&site), 2);
    site.launch(1, 10, "r1", "1.0.0");
    site.launch(2, 11, "r2", "1.1.0");
    assert_eq!(room(&site), 0);
    let (status, answer) = site.launch(3, 12, "r3", "1.2.0");
    assert_eq!((status, &answer["error"]["class"]), (507, &json!("exhausted")), "{answer}");
    assert!(
        matches!(site.launch(2, 12, "r2", "1.1.0").0, 200 | 202),
        "what runs already needs no room"
    );
    assert_eq!(site.size(1, 13, 0).0, 200);
    assert_eq!(room(&site), 1);
    assert!(matches!(site.launch(3, 14, "r3", "1.2.0").0, 200 | 202));
    assert_eq!(
        site.size(1, 15, 1).1["error"]["class"],
        "exhausted",
        "back from parking needs room too"
    );
}

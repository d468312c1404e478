//! The built-in edge plugin against a real site, under the rules that a binding of it gets by itself.

use crate::driver::{Driver, generation};
use crate::site::until;
use holdfast_core::target::{FaultClass, FileBody, Generation, Progress, RouteEntry, Secret};
use holdfast_host::CallFailure;

#[test]
fn jobs_room_diff_and_parking_through_the_plugin() {
    let driver = Driver::new();
    let subject = generation(&driver.site, 1, "hostile", r#"{"concurrency":4}"#);
    let problems = driver.call(0, async |plugin, options| {
        plugin
            .check_job(options, &subject, "m", r#"{"path":"x","timeout":"soon"}"#)
            .await
    });
    let places: Vec<String> = problems.unwrap().into_iter().map(|problem| problem.at).collect();
    assert_eq!(places, ["/template/path", "/template/timeout"]);
    let wanting = Generation {
        files: vec![FileBody {
            path: "app.toml".into(),
            body: Vec::new(),
        }],
        secrets: vec![Secret {
            name: "db".into(),
            version: "7".into(),
            marker: "m".into(),
            marker_base64: "b".into(),
        }],
        ..subject.clone()
    };
    let report = driver.call(0, async |plugin, options| plugin.check(options, &wanting).await);
    let places: Vec<String> = report.unwrap().problems.into_iter().map(|problem| problem.at).collect();
    assert_eq!(places, ["/files", "/secrets"], "nothing is left out in silence");

    assert_eq!(
        driver
            .run(10, &subject, "migrate", r#"{"path":"/migrate","timeout":"20s"}"#)
            .unwrap(),
        Progress::Done
    );
    let CallFailure::Fault(fault) = driver.run(11, &subject, "broken", r#"{"path":"/status/500"}"#).unwrap_err() else {
        panic!("no fault");
    };
    assert_eq!(fault.class, FaultClass::Failed);
    assert!(fault.message.contains("it answered 500"), "{}", fault.message);
    let CallFailure::Fault(fault) = driver.run(11, &subject, "wrong", r#"{"path":"x"}"#).unwrap_err() else {
        panic!("no fault");
    };
    assert_eq!(fault.class, FaultClass::Invalid);
    let stale = driver.call(3, async |plugin, options| {
        plugin.run(options, &subject, "m", r#"{"path":"/m"}"#).await
    });
    assert!(matches!(stale, Err(CallFailure::Fault(fault)) if fault.class == FaultClass::Fenced && fault.fence == Some(11)));

    let page = driver
        .call(0, async |plugin, options| plugin.observe(options, None).await)
        .unwrap();
    assert!(
        page.generations.is_empty() && page.routes.is_empty(),
        "jobs alone are nothing to route: {page:?}"
    );
    assert_eq!(page.high_fence, 11);
    let excerpts = driver
        .call(0, async |plugin, options| plugin.explain(options, &subject).await)
        .unwrap();
    let migrate = excerpts
        .iter()
        .find(|excerpt| excerpt.source == "job shop-g1-migrate")
        .unwrap();
    assert!(
        migrate.text.starts_with("done\n") && migrate.text.contains("/migrate done"),
        "{}",
        migrate.text
    );

    let room = |expected: u32| {
        let room = driver
            .call(0, async |plugin, options| plugin.room(options, &subject).await)
            .unwrap();
        assert_eq!(room, Some(expected));
    };
    let diff = |current: Option<&Generation>, wanted: &Generation| -> Vec<String> {
        let changes = driver
            .call(0, async |plugin, options| plugin.diff(options, current, wanted).await)
            .unwrap();
        changes.into_iter().map(|change| change.path).collect()
    };
    room(3);
    assert_eq!(diff(None, &subject), ["/digest", "/template/concurrency", "/size"]);
    until("the launch", || {
        let answer = driver
            .call(12, async |plugin, options| plugin.launch(options, &subject, 1).await)
            .unwrap();
        (answer == Progress::Done).then_some(())
    });
    driver.site.reaches(1, "ready");
    room(2);
    assert_eq!(diff(None, &subject), Vec::<String>::new());
    let next = generation(&driver.site, 2, "1.0.0", r#"{"concurrency":8}"#);
    assert_eq!(diff(Some(&subject), &next), ["/digest", "/template/concurrency"]);
    assert_eq!(
        diff(None, &generation(&driver.site, 1, "hostile", r#"{"concurrency":5}"#)),
        ["/template/concurrency"]
    );

    let parked = driver.call(13, async |plugin, options| plugin.scale(options, &subject, 0).await);
    assert_eq!(parked.unwrap(), Progress::Done);
    room(3);
    let page = driver
        .call(0, async |plugin, options| plugin.observe(options, None).await)
        .unwrap();
    let state = &page.generations[0];
    assert_eq!(
        (state.phase, state.proofs.len(), state.proofs[0].count),
        (holdfast_core::target::GenPhase::Parked, 2, 0)
    );
    assert!(state.instances.is_empty());
    let entries = [RouteEntry {
        generation: subject.clone(),
        live: 10_000,
        lead: true,
    }];
    let routed = driver.call(14, async |plugin, options| plugin.route(options, &entries).await);
    assert!(matches!(routed, Err(CallFailure::Fault(fault)) if fault.class == FaultClass::Conflict));
    let gone = driver.call(15, async |plugin, options| plugin.retire(options, &subject, true).await);
    assert_eq!(gone.unwrap(), Progress::Done);
    let page = driver
        .call(0, async |plugin, options| plugin.observe(options, None).await)
        .unwrap();
    assert!(page.generations.is_empty());
}

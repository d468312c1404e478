//! What status says of State: cause, wave, approvals, jobs, overlays, and the ways out.

#[allow(dead_code, reason = "shared with the tests of commands")]
mod bench;

use bench::*;
use holdfast_core::state::JobOutcome;
use holdfast_core::view::{StatusView, WorkloadView, of_state};
use serde_json::json;

fn view(bench: &Bench) -> (StatusView, WorkloadView) {
    let mut view = of_state(&bench.state);
    let workload = view.workloads.remove(0);
    (view, workload)
}

#[test]
fn a_rollout_in_progress() {
    let (bench, request) = Bench::rolling(Some(approval()));
    let (_, shop) = view(&bench);
    let wanted = shop.wanted.as_ref().unwrap();
    assert_eq!(
        (wanted.request, wanted.cause.kind.as_str(), wanted.cause.text.as_str()),
        (request, "commit", "say c2")
    );
    let wave = shop.wave.as_ref().unwrap();
    assert_eq!(
        (wave.number, wave.of, wave.reaches, wave.targets, wave.stable),
        (1, 1, 2, 2, 0)
    );
    let approvals: Vec<_> = shop.approvals.iter().map(|a| (a.step, a.needed, a.awaited)).collect();
    assert_eq!(approvals, [(2_500, 2, true), (10_000, 2, false)]);
    let a = &shop.units[0];
    let (new, old) = (release("new").to_string(), release("old").to_string());
    assert_eq!((a.release.as_ref(), a.weight), (Some(&old), 9_000));
    assert_eq!(
        a.attempt.as_ref().map(|attempt| (&attempt.release, attempt.weight)),
        Some((&new, 1_000))
    );
    assert_eq!(
        shop.exits,
        [
            "holdfast approve shop",
            "holdfast pause shop",
            "holdfast advance shop",
            "holdfast abort shop"
        ]
    );
    assert!(!shop.settled && shop.taken_up);
}

#[test]
fn exits_by_state() {
    let short = release("new").short().to_owned();
    let lift = format!("holdfast quarantine lift shop {short}");
    for (state, quarantined, expected) in [
        ("halted", false, vec!["holdfast retry shop", "holdfast abort shop"]),
        ("halted", true, vec!["holdfast resume shop", "holdfast abort shop", &lift]),
        (
            "holding",
            false,
            vec!["holdfast pause shop", "holdfast advance shop", "holdfast abort shop"],
        ),
        ("refused", false, vec!["holdfast retry shop"]),
        ("refused", true, vec![&lift]),
        ("aborting", false, vec![]),
        ("succeeded", false, vec!["holdfast rollback shop"]),
    ] {
        let (mut bench, request) = Bench::rolling(None);
        bench.rollout(request, state, &release("new"), "test");
        if quarantined {
            let body =
                json!({ "action": "set", "release": release("new"), "attempt": 1, "reason": "bad", "message": "it failed" });
            bench.add(json!({ "workload": "main/shop" }), "quarantine", body);
        }
        assert_eq!(view(&bench).1.exits, expected, "{state} {quarantined}");
    }
}

#[test]
fn a_newer_request_that_waits_for_an_older_attempt() {
    let (mut bench, _) = Bench::rolling(None);
    let third = bench.commit("c3", &spec(None));
    assert!(!view(&bench).1.taken_up, "nothing was requested for the newest manifest");
    bench.rollout(third, "rolling", &release("newer"), "requested");
    let (_, shop) = view(&bench);
    assert!(shop.taken_up && shop.exits.contains(&"holdfast deploy shop --now".to_owned()));
}

#[test]
fn freezes_guards_and_lost_jobs_name_their_ways_out() {
    let (mut bench, _) = Bench::rolling(None);
    let freeze = json!({ "command": "freeze", "reason": "a fair", "key": "k" });
    bench.add(json!({ "target": "a" }), "command", freeze.clone());
    bench.add(json!({ "workload": "main/shop" }), "command", freeze);
    bench.add(json!({}), "guard", json!({ "class": "heals-per-hour", "limit": 30 }));
    bench.add(
        json!({ "target": "b" }),
        "target",
        json!({ "change": "unreachable", "message": "no route" }),
    );
    let (all, shop) = view(&bench);
    assert_eq!(all.exits, ["holdfast thaw --target a", "holdfast allow-heals"]);
    assert!(shop.exits.contains(&"holdfast thaw shop".to_owned()));
    assert_eq!(shop.frozen.as_ref().map(|frozen| frozen.reason.as_str()), Some("a fair"));
    let overlays = |at: usize| -> Vec<(String, String)> {
        let unit = &shop.units[at];
        unit.overlays
            .iter()
            .map(|over| (over.name.clone(), over.message.clone()))
            .collect()
    };
    assert_eq!(overlays(0), [("frozen".to_owned(), "by ann: a fair".to_owned())]);
    assert_eq!(overlays(1), [("unreachable".to_owned(), "no route".to_owned())]);

    let attempt = bench.state.unit(&bench::shop(), "a").unwrap().attempt.as_ref().unwrap();
    let (attempt, generation) = (attempt.id, attempt.generation);
    let on = json!({ "workload": "main/shop", "target": "a", "attempt": attempt, "gen": generation });
    let digest = holdfast_core::ids::Digest::of(b"x");
    let intent = bench.add(
        on.clone(),
        "intent",
        json!({
            "verb": "run", "generation": generation, "job": "migrate", "hook": "before", "scope": "placement",
            "plugin": { "name": "edge", "digest": digest, "grants": digest }, "observed": digest, "planner": 1,
        }),
    );
    let lost = json!({ "intent": intent, "class": "absent", "message": "nothing known", "closed": true });
    bench.add(on, "result", lost);
    let (_, shop) = view(&bench);
    assert_eq!(
        (shop.jobs[0].job.as_str(), shop.jobs[0].outcome),
        ("before/migrate", JobOutcome::Lost)
    );
    assert!(shop.exits.contains(&"holdfast retry shop".to_owned()));
}

#[test]
fn a_target_that_is_away_for_long_lags() {
    let (mut bench, _) = Bench::rolling(None);
    bench.add(
        json!({ "target": "b" }),
        "target",
        json!({ "change": "unreachable", "message": "no route" }),
    );
    let name = |bench: &Bench| view(bench).1.units[1].overlays[0].name.clone();
    assert_eq!(name(&bench), "unreachable");
    bench.state.t += 1_800_000;
    assert_eq!(name(&bench), "lagging");
}

#[test]
fn a_wait_says_what_ends_it() {
    let (bench, _) = Bench::rolling(None);
    let mut engine = bench.engine();
    let now = holdfast_core::engine::Now {
        t: bench.state.t + 1,
        wall_ms: 0,
    };
    engine.handle(now, holdfast_core::engine::Input::Tick);
    let shop = holdfast_core::view::status(&engine).workloads.remove(0);
    let waiting = shop.waiting.expect("no plugin is bound, so the rollout waits");
    assert_eq!(
        (waiting.on.as_str(), waiting.ends.as_str()),
        ("plugin", "a binding in the operator's configuration")
    );
    assert!(!shop.settled);
}

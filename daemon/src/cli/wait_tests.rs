//! What became of a commit, as the ledger tells it: each way a rollout can end.

use super::*;
use holdfast_core::entry::RolloutState;
use holdfast_core::ids::{Digest, ReleaseId};
use holdfast_core::view::{UnitView, WantedView};
use serde_json::{Value, json};

const SPEC: u64 = 10;

fn release(text: &str) -> ReleaseId {
    ReleaseId::of(text.as_bytes())
}

fn entry(seq: u64, on: Value, kind: &str, body: Value) -> Entry {
    let mut on = on;
    on["workload"] = json!("main/shop");
    let entry = json!({
        "v": 1, "seq": seq, "term": 0, "t": seq, "wall": "", "by": { "kind": "user", "id": "ann", "auth": "peercred" },
        "on": on, "kind": kind, "body": body,
    });
    serde_json::from_value(entry).unwrap()
}

fn manifest(seq: u64, commit: &str, presence: &str) -> Entry {
    let artifacts = [(
        "main".to_owned(),
        holdfast_core::spec::ArtifactSpec::Reference("r.example.com/shop:1".into()),
    )];
    let targets = holdfast_core::spec::Targets::Names(vec!["a".into()]);
    let spec = holdfast_core::spec::WorkloadSpec::new(artifacts.into(), targets.into());
    let mut body = json!({ "commit": commit, "object": "workload", "presence": presence });
    if presence == "present" {
        body["spec"] = serde_json::to_value(spec).unwrap();
    }
    entry(seq, json!({}), "spec", body)
}

fn rollout(seq: u64, request: u64, to: &str, message: &str) -> Entry {
    let body = json!({ "to": to, "release": release("new"), "reason": "r", "message": message });
    entry(seq, json!({ "rollout": request }), "rollout", body)
}

fn command(seq: u64, request: u64, verb: &str) -> Entry {
    let body = json!({ "command": verb, "to": null, "reason": "wrong prices", "key": "k" });
    entry(seq, json!({ "rollout": request }), "command", body)
}

fn failed(seq: u64, request: u64, attempt: u64, outcome: &str) -> Entry {
    let on = json!({ "rollout": request, "target": "a", "attempt": attempt });
    let body = json!({ "change": "ended", "outcome": outcome, "reason": "health", "message": "answered 500" });
    entry(seq, on, "attempt", body)
}

fn diagnosis(seq: u64, attempt: u64, text: &str) -> Entry {
    let evidence = json!({ "excerpts": [ { "instance": "i1", "source": "stderr", "text": text } ] });
    let body = json!({ "about": "diagnosis", "outcome": "fail", "reason": "explained", "message": "", "evidence": evidence });
    entry(seq, json!({ "target": "a", "attempt": attempt }), "verdict", body)
}

fn view(spec: u64, request: u64, state: RolloutState, taken_up: bool) -> WorkloadView {
    WorkloadView {
        name: "main/shop".into(),
        presence: "present".into(),
        spec,
        taken_up,
        wanted: Some(WantedView {
            request,
            release: release("old").to_string(),
            commit: String::new(),
            cause: Default::default(),
            state,
            since: 5,
            began: 5,
            reason: String::new(),
            message: "what status says".into(),
            paused: false,
        }),
        settled: state == RolloutState::Succeeded,
        ..WorkloadView::default()
    }
}

#[test]
fn every_way_a_rollout_can_end() {
    use Outcome::*;
    let own = || manifest(SPEC, "c1", "present");
    let begun = || rollout(11, SPEC, "rolling", "");
    let newer = || manifest(30, "c2c2c2c2c2c2c2", "present");
    let selection = |seq| {
        let select = json!({ "semver": "~1.4" });
        let hash = Digest::of(b"x");
        let body = json!({
            "artifact": "main", "repository": "r.example.com/shop", "select": select, "tag": "1.4.2", "candidates": 3,
            "candidates_hash": hash,
        });
        entry(seq, json!({}), "selection", body)
    };
    for (what, entries, expected) in [
        ("nothing yet", vec![own()], None),
        ("under way", vec![own(), begun()], None),
        ("held wave", vec![own(), begun(), rollout(12, SPEC, "holding", "")], None),
        (
            "live",
            vec![own(), begun(), rollout(12, SPEC, "succeeded", "")],
            Some((Live, "")),
        ),
        (
            "live, and opened again for a new target",
            vec![
                own(),
                begun(),
                rollout(12, SPEC, "succeeded", ""),
                rollout(13, SPEC, "rolling", ""),
            ],
            Some((Live, "")),
        ),
        (
            "live, until the next one",
            vec![
                own(),
                begun(),
                rollout(12, SPEC, "succeeded", ""),
                newer(),
                rollout(31, 30, "rolling", ""),
            ],
            Some((Live, "")),
        ),
        (
            "taken back after it was live",
            vec![
                own(),
                begun(),
                rollout(12, SPEC, "succeeded", ""),
                command(13, SPEC, "rollback"),
                rollout(14, 13, "rolling", ""),
            ],
            Some((RolledBack, "by ann: wrong prices")),
        ),
        (
            "taken back on the way",
            vec![
                own(),
                begun(),
                command(12, SPEC, "rollback"),
                rollout(13, SPEC, "superseded", ""),
                rollout(14, 12, "succeeded", ""),
            ],
            Some((RolledBack, "by ann: wrong prices")),
        ),
        (
            "aborted",
            vec![
                own(),
                begun(),
                command(12, SPEC, "abort"),
                rollout(13, SPEC, "aborted", ""),
                rollout(14, 12, "succeeded", ""),
            ],
            Some((Aborted, "by ann: wrong prices")),
        ),
        (
            "aborting",
            vec![own(), begun(), command(12, SPEC, "abort"), rollout(13, SPEC, "aborting", "")],
            Some((Aborted, "by ann: wrong prices")),
        ),
        (
            "refused",
            vec![own(), rollout(11, SPEC, "refused", "a: no canary here")],
            Some((Refused, "a: no canary here")),
        ),
        (
            "overtaken on the way",
            vec![
                own(),
                begun(),
                newer(),
                rollout(31, SPEC, "superseded", ""),
                rollout(32, 30, "rolling", ""),
            ],
            Some((Superseded, "by commit c2c2c2c2c2c2")),
        ),
        (
            "overtaken before it began",
            vec![own(), newer()],
            Some((Superseded, "by commit c2c2c2c2c2c2")),
        ),
        (
            "a command came first",
            vec![own(), command(12, 3, "rollback"), rollout(13, 12, "rolling", "")],
            Some((Superseded, "by a command of ann, before it was begun")),
        ),
        (
            "halted and gone on",
            vec![
                own(),
                begun(),
                failed(12, SPEC, 11, "bad"),
                rollout(13, SPEC, "halted", "no"),
                rollout(14, SPEC, "rolling", ""),
            ],
            None,
        ),
        (
            "rolled back by itself",
            vec![
                own(),
                begun(),
                failed(12, SPEC, 11, "bad"),
                rollout(13, SPEC, "halted", "a failed"),
            ],
            Some((RolledBack, "a failed")),
        ),
        (
            "could not be tried",
            vec![
                own(),
                begun(),
                failed(12, SPEC, 11, "could-not-try"),
                rollout(13, SPEC, "halted", "a is away"),
            ],
            Some((CouldNotTry, "a is away")),
        ),
        (
            "a selected tag",
            vec![own(), selection(12), rollout(13, 12, "succeeded", "")],
            Some((Live, "")),
        ),
        (
            "a tag that was selected for a later manifest",
            vec![own(), newer(), selection(32), rollout(33, 32, "succeeded", "")],
            Some((Superseded, "by commit c2c2c2c2c2c2")),
        ),
        (
            "cannot be read",
            vec![manifest(SPEC, "c1", "unknown")],
            Some((Problem, "the last good state goes on")),
        ),
        ("removed", vec![manifest(SPEC, "c1", "absent")], Some((Removed, ""))),
        (
            "removed, and back again",
            vec![manifest(SPEC, "c1", "absent"), newer()],
            Some((Superseded, "by commit c2c2c2c2c2c2")),
        ),
    ] {
        let decided = decide(SPEC, &entries, None, 1);
        let decided = decided.as_ref().map(|decision| (decision.outcome, decision.message.as_str()));
        assert_eq!(decided, expected, "{what}");
    }
}

#[test]
fn a_failure_has_its_last_words() {
    let entries = [
        manifest(SPEC, "c1", "present"),
        rollout(11, SPEC, "rolling", ""),
        diagnosis(12, 99, "of another attempt"),
        diagnosis(13, 11, "listening\nfatal: no config\n"),
        failed(14, SPEC, 11, "bad"),
        rollout(15, SPEC, "halted", "a failed"),
    ];
    let decision = decide(SPEC, &entries, None, 2).unwrap();
    assert_eq!(decision.deploy.as_deref(), Some("d2-11"));
    assert_eq!(decision.log, ["i1: listening", "i1: fatal: no config"]);
    assert_eq!(decision.release, Some(release("new").to_string()));
}

#[test]
fn a_manifest_that_asks_for_the_same_release() {
    use Outcome::*;
    let entries = [manifest(SPEC, "c1", "present")];
    for (what, view, expected) in [
        ("live already", view(SPEC, 3, RolloutState::Succeeded, true), Some(Unchanged)),
        ("still on its way", view(SPEC, 3, RolloutState::Rolling, true), None),
        ("halted before", view(SPEC, 3, RolloutState::Halted, true), Some(Halted)),
        ("refused before", view(SPEC, 3, RolloutState::Refused, true), Some(Refused)),
        ("not taken up yet", view(SPEC, 3, RolloutState::Succeeded, false), None),
        (
            "an answer from before this manifest",
            view(4, 3, RolloutState::Succeeded, true),
            None,
        ),
    ] {
        let decided = decide(SPEC, &entries, Some(&view), 1).map(|decision| decision.outcome);
        assert_eq!(decided, expected, "{what}");
    }
}

#[test]
fn a_removal_ends_when_the_last_unit_is_gone() {
    let entries = [manifest(SPEC, "c1", "absent")];
    let mut shop = view(SPEC, 3, RolloutState::Superseded, true);
    let unit = json!({
        "target": "a", "phase": "leaving", "since": 0, "generation": 1, "release": null, "attempt": null, "last": null,
        "waiting": null, "held": false,
    });
    shop.units = vec![serde_json::from_value::<UnitView>(unit).unwrap()];
    assert_eq!(decide(SPEC, &entries, Some(&shop), 1), None);
    shop.units[0].held = true;
    let decided = |shop: &WorkloadView| decide(SPEC, &entries, Some(shop), 1).map(|decision| decision.outcome);
    assert_eq!(decided(&shop), Some(Outcome::Held));
    shop.units[0].held = false;
    shop.units[0].generation = None;
    assert_eq!(decided(&shop), Some(Outcome::Removed));
}

#[test]
fn targets_that_changed() {
    let case = |state, since, settled| {
        let mut view = view(SPEC, 3, state, true);
        view.settled = settled;
        after_target_change(Some(&view), since).map(|decision| decision.outcome)
    };
    assert_eq!(case(RolloutState::Rolling, 5, false), None);
    assert_eq!(case(RolloutState::Halted, 5, true), Some(Outcome::Halted));
    assert_eq!(
        case(RolloutState::Halted, 6, true),
        Some(Outcome::Unchanged),
        "it was halted before"
    );
    assert_eq!(case(RolloutState::Succeeded, 5, true), Some(Outcome::Live));
    assert_eq!(case(RolloutState::Succeeded, 6, true), Some(Outcome::Unchanged));
}

#[test]
fn only_workloads_that_the_commit_changed_count() {
    let mut status = StatusView::default();
    let unit = json!({
        "target": "a", "phase": "stable", "since": 0, "generation": 1, "release": null, "attempt": null, "last": null,
        "waiting": null, "held": false,
    });
    for name in ["main/shop", "main/other", "main/elsewhere"] {
        let mut workload = view(SPEC, 3, RolloutState::Succeeded, true);
        workload.name = name.into();
        if name != "main/elsewhere" {
            workload.units = vec![serde_json::from_value(unit.clone()).unwrap()];
        }
        status.workloads.push(workload);
    }
    let mut target = entry(
        11,
        json!({ "target": "a" }),
        "spec",
        json!({ "commit": "c1", "object": "target", "presence": "present", "spec": { "plugin": "edge", "config": {} } }),
    );
    target.on.workload = None;
    let shop = manifest(SPEC, "c1", "present");
    let names = |specs: &[Entry], only: Option<&str>| -> Vec<String> {
        let cases = cases(specs, 0, &status, only);
        cases.into_iter().map(|case| case.workload).collect()
    };
    assert_eq!(names(std::slice::from_ref(&shop), None), ["main/shop"]);
    assert_eq!(names(std::slice::from_ref(&target), None), ["main/other", "main/shop"]);
    assert_eq!(names(&[shop, target], Some("main/other")), ["main/other"]);
    assert!(names(&[], None).is_empty());
}

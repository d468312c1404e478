//! Commands of people against State: what is taken, what is refused and why, and what the ledger says afterwards.

mod bench;

use bench::*;
use holdfast_core::engine::{CommandRequest, Engine, Wish};
use holdfast_core::entry::*;
use serde_json::json;

fn approve(name: &str, email: &str, step: Option<u32>) -> CommandRequest {
    CommandRequest {
        person: person(name, email),
        ..command(Wish::Approve { step })
    }
}

fn rolling_entries(said: &Said) -> Vec<(&str, RolloutState)> {
    let all = said.entries.iter();
    all.filter_map(|body| match body {
        Body::Rollout(change) => Some((change.reason.as_str(), change.to)),
        _ => None,
    })
    .collect()
}

#[test]
fn an_approval_is_one_persons_for_one_step_of_one_rollout() {
    let (bench, request) = Bench::rolling(Some(approval()));
    let mut engine = bench.engine();
    let first = say(&mut engine, approve("ann", "hash-of-ann", None));
    let expected = CommandVerb::Approve {
        rollout: request,
        release: release("new"),
        step: 2_500,
        approver: "ann".into(),
    };
    assert_eq!(first.commands()[0].verb, expected);
    let short = release("new").short().to_owned();
    assert_eq!(first.message(), format!("ann approved 25% of release {short}: 1 of 2"));

    let again = say(&mut engine, approve("ann", "hash-of-ann", None));
    assert_eq!(
        (again.message(), again.commands().len()),
        (
            format!("25% of release {short} has 1 of 2 approvals already: ann").as_str(),
            0
        )
    );
    let second = say(&mut engine, approve("bob", "hash-of-bob", None));
    assert_eq!(second.message(), format!("bob approved 25% of release {short}: 2 of 2"));
    let third = say(&mut engine, approve("cid", "hash-of-cid", Some(2_500)));
    assert!(
        third.commands().is_empty() && third.message().ends_with("ann, bob"),
        "{}",
        third.message()
    );
    // 25 % has all it needs: the next step is the one that is waited for.
    let next = say(&mut engine, approve("ann", "hash-of-ann", None));
    assert_eq!(next.message(), format!("ann approved 100% of release {short}: 1 of 2"));
}

#[test]
fn who_may_approve_and_what() {
    let by_author = || approve("dan", AUTHOR, None);
    let nobody = || CommandRequest {
        person: None,
        ..command(Wish::Approve { step: None })
    };
    let mut allowed = approval();
    allowed.allow_author = true;
    for (asked, state, request, expected) in [
        (Some(approval()), "rolling", nobody(), "not-a-person"),
        (Some(approval()), "rolling", by_author(), "own-change"),
        (Some(allowed), "rolling", by_author(), "dan approved 25%"),
        (None, "rolling", approve("ann", "hash-of-ann", None), "no-approval"),
        (
            Some(approval()),
            "rolling",
            approve("ann", "hash-of-ann", Some(5_000)),
            "unknown-step",
        ),
        (
            Some(approval()),
            "holding",
            approve("ann", "hash-of-ann", None),
            "ann approved 25%",
        ),
        (
            Some(approval()),
            "aborting",
            approve("ann", "hash-of-ann", None),
            "nothing-open",
        ),
        (
            Some(approval()),
            "succeeded",
            approve("ann", "hash-of-ann", None),
            "nothing-open",
        ),
    ] {
        let (mut bench, id) = Bench::rolling(asked);
        if state != "rolling" {
            bench.rollout(id, state, &release("new"), "test");
        }
        let said = say(&mut bench.engine(), request);
        assert!(said.word().starts_with(expected), "{state}: {} for {expected}", said.word());
        assert_eq!(said.reply.is_ok(), !said.commands().is_empty());
    }
    let (bench, _) = Bench::rolling(Some(approval()));
    let said = say(&mut bench.engine(), nobody());
    let text = "your unix user is in no `users` entry of holdfast.yaml (unix-ann)";
    assert!(said.message().starts_with(text), "{}", said.message());
}

#[test]
fn the_step_that_is_waited_for_is_above_what_every_unit_reached() {
    let (mut bench, request) = Bench::rolling(Some(approval()));
    let approver = |engine: &mut Engine| say(engine, approve("ann", "hash-of-ann", None)).message().to_owned();
    let a = bench.state.unit(&shop(), "a").unwrap().attempt.as_ref().unwrap().id;
    bench.attempt_change("a", a, json!({ "change": "reached", "weight": 2_500 }));
    assert!(approver(&mut bench.engine()).starts_with("ann approved 100%"));
    bench.attempt("b", request, &release("new"), 0);
    assert!(approver(&mut bench.engine()).starts_with("ann approved 25%"));
}

#[test]
fn preconditions_say_what_is_so_instead() {
    let (bench, request) = Bench::rolling(None);
    let short = release("new").short().to_owned();
    let at_rollout = format!("main/shop is at rollout {request}, not 1");
    let at_release = format!("main/shop is at release {short}, not 00000000");
    for (rollout, prefix, step, expected) in [
        (Some(request), Some(&short[..4]), Some(1_000), Ok(())),
        (Some(1), None, None, Err(at_rollout.as_str())),
        (None, Some("00000000"), None, Err(at_release.as_str())),
        (None, Some(&short[..3]), None, Err("is too short")),
        (None, None, Some(2_500), Err("main/shop is at 10% on a, not at 25%")),
    ] {
        let only_if = Precondition {
            rollout,
            release: prefix.map(str::to_owned),
            step,
        };
        let mut request = command(Wish::Pause);
        request.only_if = only_if.clone();
        let mut engine = bench.engine();
        let said = say(&mut engine, request);
        match expected {
            Ok(()) => assert_eq!(said.commands()[0].only_if, only_if),
            Err(text) => {
                assert!(said.message().contains(text), "{} for {text}", said.message());
                assert_eq!((said.word(), said.commands().len()), ("precondition", 0));
                assert!(!engine.state().workloads[&shop()].request.as_ref().unwrap().paused);
            }
        }
    }
    let mut without = command(Wish::AllowHeals);
    without.workload = None;
    without.only_if.step = Some(1);
    assert_eq!(say(&mut bench.engine(), without).word(), "precondition");
}

#[test]
fn retry_reopens_what_was_not_the_releases_fault() {
    let short = release("new").short().to_owned();
    for (state, reason, quarantined, expected) in [
        ("halted", "could-not-try", false, Ok(true)),
        ("refused", "check", false, Ok(true)),
        ("refused", "could-not-try", false, Ok(true)),
        ("halted", "health", true, Err("quarantined")),
        ("refused", "quarantined", true, Err("quarantined")),
        ("aborted", "aborted", false, Err("closed")),
        ("superseded", "newer", false, Err("closed")),
        ("succeeded", "stable", false, Err("nothing-to-retry")),
    ] {
        let (mut bench, request) = Bench::rolling(None);
        bench.rollout(request, state, &release("new"), reason);
        if quarantined {
            let body =
                json!({ "action": "set", "release": release("new"), "attempt": 1, "reason": "bad", "message": "it failed" });
            bench.add(json!({ "workload": "main/shop" }), "quarantine", body);
        }
        let mut engine = bench.engine();
        let said = say(&mut engine, command(Wish::Retry));
        match expected {
            Ok(_) => {
                assert_eq!(said.commands()[0].verb, CommandVerb::Retry, "{state} {reason}");
                assert_eq!(
                    rolling_entries(&said)[0],
                    ("retry", RolloutState::Rolling),
                    "{state} {reason}"
                );
            }
            Err(word) => {
                assert_eq!((said.word(), said.commands().len()), (word, 0), "{state} {reason}");
                let lift = format!("`holdfast quarantine lift shop {short}`");
                assert_eq!(said.message().contains(&lift), word == "quarantined");
            }
        }
    }
}

#[test]
fn retry_of_one_that_is_open_or_over_needs_something_that_failed() {
    let nothing = |bench: &Bench| say(&mut bench.engine(), command(Wish::Retry)).word().to_owned();
    let (mut bench, request) = Bench::rolling(None);
    assert_eq!(nothing(&bench), "nothing-to-retry");
    let a = bench.state.unit(&shop(), "a").unwrap().attempt.as_ref().unwrap().id;
    bench.end("a", a, "could-not-try");
    assert!(nothing(&bench).ends_with("is tried again"));
    // Once over, a unit that missed it can be tried again without opening the rollout by hand.
    bench.rollout(request, "succeeded", &release("new"), "stable");
    let said = say(&mut bench.engine(), command(Wish::Retry));
    assert_eq!(said.commands()[0].verb, CommandVerb::Retry);
    assert!(rolling_entries(&said).iter().all(|(reason, _)| *reason != "retry"));
}

#[test]
fn deploy_now_needs_something_older_to_drop() {
    let (mut bench, _) = Bench::rolling(None);
    assert_eq!(say(&mut bench.engine(), command(Wish::DeployNow)).word(), "nothing-to-drop");
    let third = bench.commit("c3", &spec(None));
    bench.rollout(third, "rolling", &release("newer"), "requested");
    let mut engine = bench.engine();
    let said = say(&mut engine, command(Wish::DeployNow));
    assert_eq!(said.commands()[0].verb, CommandVerb::DeployNow);
    assert!(engine.state().workloads[&shop()].request.as_ref().unwrap().now);
    assert_eq!(say(&mut engine, command(Wish::DeployNow)).word(), "nothing-to-drop");
}

#[test]
fn freezing() {
    let on_target = |wish: Wish, target: &str| CommandRequest {
        workload: None,
        target: Some(target.into()),
        ..command(wish)
    };
    let (bench, _) = Bench::rolling(None);
    let mut engine = bench.engine();
    for (request, expected) in [
        (command(Wish::Thaw), "not-frozen"),
        (command(Wish::Freeze), "main/shop is frozen: nothing new begins"),
        (
            command(Wish::Freeze),
            "main/shop is frozen already, by unix-ann: because of a test",
        ),
        (command(Wish::Thaw), "main/shop is thawed"),
        (on_target(Wish::Thaw, "a"), "not-frozen"),
        (on_target(Wish::Freeze, "z"), "unknown-target"),
        (on_target(Wish::Freeze, "a"), "target a is frozen"),
        (on_target(Wish::Freeze, "a"), "target a is frozen already"),
        (on_target(Wish::Pause, "a"), "not-of-a-target"),
        (
            CommandRequest {
                target: Some("a".into()),
                ..command(Wish::Freeze)
            },
            "two-subjects",
        ),
    ] {
        let said = say(&mut engine, request);
        assert!(said.word().starts_with(expected), "{} for {expected}", said.word());
    }
    let frozen = engine.state().targets["a"].frozen.clone().unwrap();
    assert_eq!(
        (frozen.by.as_str(), frozen.reason.as_str()),
        ("unix-ann", "because of a test")
    );
    assert!(engine.state().workloads[&shop()].frozen.is_none());
    let thawed = say(&mut engine, on_target(Wish::Thaw, "a"));
    assert_eq!(thawed.message(), "target a is thawed");
    assert!(engine.state().targets["a"].frozen.is_none());
}

#[test]
fn repin_is_about_a_tag_that_the_manifest_names() {
    let repin = |reference: &str| {
        command(Wish::Repin {
            reference: reference.into(),
        })
    };
    let (mut bench, _) = Bench::rolling(None);
    let said = say(&mut bench.engine(), repin("r.example.com/other:1"));
    assert_eq!(
        said.message(),
        "main/shop does not name \"r.example.com/other:1\"; it names r.example.com/shop:1"
    );
    let mut engine = bench.engine();
    let said = say(&mut engine, repin(REFERENCE));
    let seq = said.reply.as_ref().unwrap().seq.unwrap();
    assert_eq!(engine.state().workloads[&shop()].repins[REFERENCE], seq);
    let again = say(&mut engine, repin(REFERENCE));
    assert!(again.message().ends_with("is being resolved anew already") && again.commands().is_empty());

    for (reference, word) in [
        (
            format!("r.example.com/shop@{}", holdfast_core::ids::Digest::of(b"x")),
            "not-a-tag",
        ),
        ("r.example.com/shop:2".to_owned(), "not-pinned"),
    ] {
        let mut other = spec(None);
        other.artifacts = [(
            "main".to_owned(),
            holdfast_core::spec::ArtifactSpec::Reference(reference.clone()),
        )]
        .into();
        bench.commit("c3", &other);
        assert_eq!(say(&mut bench.engine(), repin(&reference)).word(), word);
    }
}

#[test]
fn heals_are_allowed_for_all() {
    let (mut bench, _) = Bench::rolling(None);
    bench.add(json!({}), "guard", json!({ "class": "heals-per-hour", "limit": 30 }));
    let mut engine = bench.engine();
    assert!(engine.state().heal_guard.is_some());
    assert_eq!(say(&mut engine, command(Wish::AllowHeals)).word(), "not-of-a-workload");
    let for_all = CommandRequest {
        workload: None,
        ..command(Wish::AllowHeals)
    };
    assert_eq!(say(&mut engine, for_all).commands()[0].verb, CommandVerb::AllowHeals);
    assert!(engine.state().heal_guard.is_none());
}

/// The accepted version drives what is new until somebody allows the other one, which the ledger then says.
#[test]
fn a_plugin_that_wants_more_is_allowed_by_name() {
    let (bench, _) = Bench::rolling(None);
    let mut engine = bench.engine();
    let [old, new] = [b"old", b"new"].map(|bytes| holdfast_core::ids::Digest::of(bytes));
    let mut config = engine.config().clone();
    let upgrade = holdfast_core::config::PluginUpgrade {
        digest: new.clone(),
        newly_wants: vec!["site: GET /b (to see it)".into()],
    };
    config.plugins.insert("mine".into(), old.clone());
    config.upgrades.insert("mine".into(), upgrade);
    engine.configure(config);
    let allow = |name: &str| CommandRequest {
        workload: None,
        ..command(Wish::AllowPlugin { name: name.into() })
    };
    assert_eq!(say(&mut engine, allow("other")).word(), "nothing-held");
    assert_eq!(engine.config().plugins["mine"], old);
    let said = say(&mut engine, allow("mine"));
    let expected = CommandVerb::AllowPlugin {
        name: "mine".into(),
        plugin: new.clone(),
    };
    assert_eq!(said.commands()[0].verb, expected);
    assert_eq!(
        (&engine.config().plugins["mine"], &engine.state().accepted_plugins["mine"]),
        (&new, &new)
    );
    assert_eq!(say(&mut engine, allow("mine")).word(), "nothing-held", "once is enough");
}

#[test]
fn the_same_key_is_one_command() {
    let keyed = |key: String| CommandRequest {
        key,
        ..command(Wish::Pause)
    };
    let (bench, _) = Bench::rolling(None);
    let mut engine = bench.engine();
    let long = "k".repeat(100);
    assert_eq!(say(&mut engine, keyed(long.clone())).commands().len(), 1);
    let again = say(&mut engine, keyed(long.clone()));
    assert_eq!((again.word(), again.commands().len()), ("already done", 0));
    assert_eq!(say(&mut engine, keyed(long + "k")).word(), "key-too-long");
}

#[test]
fn an_abort_that_is_under_way_is_not_begun_again() {
    let (mut bench, request) = Bench::rolling(None);
    bench.rollout(request, "aborting", &release("new"), "aborted");
    let said = say(&mut bench.engine(), command(Wish::Abort));
    assert!(said.commands().is_empty() && said.message().ends_with("is being aborted already"));
}

#[test]
fn a_held_wave_can_be_advanced() {
    let (mut bench, request) = Bench::rolling(None);
    let a = bench.state.unit(&shop(), "a").unwrap().attempt.as_ref().unwrap().id;
    bench.end("a", a, "succeeded");
    assert_eq!(say(&mut bench.engine(), command(Wish::Advance)).word(), "nothing-open");
    bench.rollout(request, "holding", &release("new"), "wave");
    assert_eq!(
        say(&mut bench.engine(), command(Wish::Advance)).commands()[0].verb,
        CommandVerb::Advance
    );
}

#[test]
fn an_incident_is_of_a_known_deploy_and_ends_once() {
    let (bench, _) = Bench::rolling(None);
    let mut engine = bench.engine();
    let open = |deploy: &str| command(Wish::OpenIncident { deploy: deploy.into() });
    let close = |deploy: &str| command(Wish::CloseIncident { deploy: deploy.into() });
    let epoch = engine.state().epoch;
    let known = format!("d{epoch}-0");
    let unknown = format!("d{epoch}-{}", engine.state().size + 100);
    for (request, expected) in [
        (close(&known), "no-incident".to_owned()),
        (open("nonsense"), "unknown-deploy".to_owned()),
        (open(&unknown), "unknown-deploy".to_owned()),
        (open(&known), format!("an incident of {known} is open")),
        (open(&known), format!("an incident of {known} is open already")),
        (close(&known), format!("the incident of {known} is over")),
        (close(&known), "no-incident".to_owned()),
    ] {
        assert_eq!(say(&mut engine, request).word(), expected);
    }
}

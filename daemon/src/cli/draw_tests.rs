//! Views made by hand, drawn at several widths.

use super::*;
use crate::cli::show::{Style, text_of};
use holdfast_core::entry::DriftKind;
use holdfast_core::view::{
    AttemptView, DriftView, MovedTagView, OverlayView, ParkedView, QuarantineView, SourceView, UntrustedView, WaveView,
};

const WIDE: Style = Style {
    color: false,
    columns: None,
};
const NARROW: Style = Style {
    color: false,
    columns: Some(50),
};

const OLD: &str = "0ld0ld0ld0ld";
const NEW: &str = "4be1c09d77aa";

fn release(short: &str) -> String {
    format!("{short}{}", "0".repeat(52))
}

fn unit(target: &str, generation: u32, short: &str) -> UnitView {
    UnitView {
        target: target.into(),
        phase: PhaseName::Stable,
        since: 400_000,
        generation: Some(generation),
        release: Some(release(short)),
        weight: FULL_SHARE,
        running_since: Some(300_000),
        parked: Vec::new(),
        attempt: None,
        last: None,
        waiting: None,
        held: false,
        drift: None,
        overlays: Vec::new(),
    }
}

fn attempt(weight: u32) -> AttemptView {
    AttemptView {
        deploy: "d1-42".into(),
        generation: 4,
        release: release(NEW),
        weight,
        began: 950_000,
        heal: false,
    }
}

fn wanted(state: RolloutState) -> WantedView {
    WantedView {
        request: 40,
        release: release(NEW),
        commit: "3f2a9c1d6b0e4c5a8f7e9d0b1a2c3d4e5f607182".into(),
        cause: CauseView {
            kind: "commit".into(),
            text: "Raise the time-out".into(),
        },
        state,
        since: 940_000,
        began: 940_000,
        reason: String::new(),
        message: String::new(),
        paused: false,
    }
}

pub fn empty() -> StatusView {
    StatusView {
        entries: 1,
        durable: 1,
        t: 1_000_000,
        epoch: 1,
        owner: "owner123".into(),
        ..StatusView::default()
    }
}

fn with(workload: WorkloadView) -> StatusView {
    StatusView {
        entries: 120,
        durable: 119,
        source: Some(SourceView {
            commit: "3f2a9c1d6b0e4c5a8f7e9d0b1a2c3d4e5f607182".into(),
            summary: "Raise the time-out".into(),
            since: 930_000,
            problems: Vec::new(),
            rewrite: None,
        }),
        workloads: vec![workload],
        ..empty()
    }
}

fn shop() -> WorkloadView {
    WorkloadView {
        name: "main/shop".into(),
        presence: "present".into(),
        ..WorkloadView::default()
    }
}

/// Two of three targets of the second wave still to come; one at 12.34 %, waiting for a person.
pub fn rolling() -> StatusView {
    let mut site_a = unit("site-a", 3, OLD);
    site_a.phase = PhaseName::Shifting;
    site_a.since = 988_000;
    site_a.weight = FULL_SHARE - 1_234;
    site_a.attempt = Some(attempt(1_234));
    site_a.parked = vec![ParkedView {
        generation: 2,
        release: release("beefbeefbeef"),
    }];
    site_a.waiting = Some(WaitView {
        on: "hold".into(),
        message: "12.3% holds for 3m".into(),
        since: 988_000,
        until: Some(1_168_000),
        ends: "`holdfast advance shop`, or its own end".into(),
    });
    let mut view = with(WorkloadView {
        wanted: Some(wanted(RolloutState::Rolling)),
        waiting: Some(WaitView {
            on: "approval".into(),
            message: "25% needs 1 more approval".into(),
            since: 999_900,
            until: None,
            ends: "`holdfast approve shop`".into(),
        }),
        wave: Some(WaveView {
            number: 2,
            of: 3,
            reaches: 2,
            targets: 3,
            stable: 1,
        }),
        approvals: vec![ApprovalView {
            step: 2_500,
            given: vec!["ann".into()],
            needed: 2,
            awaited: true,
        }],
        jobs: vec![JobView {
            job: "before/migrate".into(),
            target: "site-a".into(),
            outcome: JobOutcome::Done,
            since: 960_000,
            message: String::new(),
        }],
        units: vec![site_a, unit("site-b", 4, NEW), unit("site-c", 3, OLD)],
        exits: vec!["holdfast approve shop".into(), "holdfast pause shop".into()],
        ..shop()
    });
    view.targets = ["site-a", "site-b"]
        .map(|name| TargetView {
            name: name.into(),
            plugin: "edge".into(),
            state: "ok".into(),
            message: String::new(),
            since: None,
            frozen: None,
        })
        .into();
    view
}

/// Everything that can lie over a workload at once, and a failure with its last words.
fn troubled() -> StatusView {
    let frozen = FrozenView {
        by: "ann".into(),
        reason: "the fair".into(),
        since: 940_000,
    };
    let mut site_a = unit("site-a", 3, OLD);
    site_a.last = Some(LastView {
        deploy: "d1-42".into(),
        release: release(NEW),
        outcome: AttemptOutcome::Bad,
        reason: "health".into(),
        message: "answered 500".into(),
        ended: 990_000,
        log: vec!["i1: cannot open /etc/app.toml".into(), "i1: \x1b[31mfatal".into()],
    });
    site_a.drift = Some(DriftView {
        what: DriftKind::Instances,
        seen: "1 of 2 instances".into(),
        since: 980_000,
    });
    let mut site_c = unit("site-c", 3, OLD);
    site_c.overlays = vec![OverlayView {
        name: "lagging".into(),
        message: "no route to host".into(),
        since: Some(100_000),
    }];
    let mut halted = wanted(RolloutState::Halted);
    halted.message = "site-a failed: answered 500".into();
    halted.paused = true;
    halted.cause = CauseView {
        kind: "command".into(),
        text: "rollback of bob: checkout is slow".into(),
    };
    let mut view = with(WorkloadView {
        frozen: Some(frozen.clone()),
        suspended: true,
        presence: "unknown".into(),
        wanted: Some(halted),
        units: vec![site_a, site_c],
        quarantine: vec![QuarantineView {
            release: release(NEW),
            reason: "health".into(),
            message: "answered 500".into(),
            entry: 90,
        }],
        moved_tags: vec![MovedTagView {
            reference: "r.example.com/shop:1".into(),
            pinned: format!("sha256:{}", "a".repeat(64)),
            seen: format!("sha256:{}", "b".repeat(64)),
        }],
        exits: vec!["holdfast thaw shop".into()],
        ..shop()
    });
    if let Some(source) = &mut view.source {
        source.summary = "Raise\x1b[2J the time-out".into();
        source.problems = vec!["shop.yaml:3:1: unknown field \"templat\"".into()];
        source.rewrite = Some("f".repeat(40));
    }
    view.targets = vec![TargetView {
        name: "site-c".into(),
        plugin: "edge".into(),
        state: "unreachable".into(),
        message: "no route to host".into(),
        since: Some(100_000),
        frozen: Some(frozen),
    }];
    view.exits = vec![format!("holdfast accept-rewrite {}", "f".repeat(40))];
    view
}

#[test]
fn nothing_yet() {
    insta::assert_snapshot!(text_of(&status(&empty()), WIDE), @"
    Git     no revision yet
    Ledger  1 entry, 1 durable

    no workloads yet: commit a manifest, or see examples/
    ");
    insta::assert_snapshot!(text_of(&live(&empty(), 80), WIDE), @"
    Git     no revision yet
    no workloads yet
    ");
}

#[test]
fn a_tip_that_is_not_trusted() {
    let mut view = empty();
    view.untrusted = Some(UntrustedView {
        commit: "f".repeat(40),
        verdict: "unsigned".into(),
        since: 0,
        message: holdfast_core::view::untrusted(&"f".repeat(40), "unsigned"),
    });
    insta::assert_snapshot!(text_of(&live(&view, 80), WIDE), @r#"
    Git     no revision yet
            commit ffffffffffff is not taken: the operator requires a verified signature, and the verdict is "unsigned"; sign it by `git commit --amend -S`, or put a signed commit on top
    no workloads yet
    "#);
}

#[test]
fn a_rollout_in_progress() {
    insta::assert_snapshot!(text_of(&status(&rolling()), WIDE), @r#"
    Git     3f2a9c1d6b0e "Raise the time-out", 1m10s ago
    Ledger  120 entries, 119 durable

    main/shop
      Wanted   release 4be1c09d77aa by commit 3f2a9c1d6b0e "Raise the time-out": rolling wave 2 of 3, stable on 1 of 3 targets, for 1m
               approvals before 25%: 1 of 2 (ann)
               job before/migrate on site-a done, 40s ago
               waits on approval just now: 25% needs 1 more approval; ended by `holdfast approve shop`
      Running  site-a: generation 3, release 0ld0ld0ld0ld, 87.6%, for 11m40s
               d1-42 brings generation 4, release 4be1c09d77aa: shifting at 12.3%, for 12s
               parked for a way back: generation 2 (release beefbeefbeef)
               waits on hold for 12s, 2m48s left: 12.3% holds for 3m; ended by `holdfast advance shop`, or its own end
      Running  site-b: generation 4, release 4be1c09d77aa, 100%, for 11m40s
      Running  site-c: generation 3, release 0ld0ld0ld0ld, 100%, for 11m40s
               $ holdfast approve shop
               $ holdfast pause shop
    "#);
}

#[test]
fn a_rollout_in_progress_on_a_narrow_terminal() {
    let text = text_of(&status(&rolling()), NARROW);
    assert!(text.lines().all(|line| line.chars().count() <= 50), "{text}");
    insta::assert_snapshot!(text, @r#"
    Git     3f2a9c1d6b0e "Raise the time-out", 1m10s
            ago
    Ledger  120 entries, 119 durable

    main/shop
      Wanted   release 4be1c09d77aa by commit
               3f2a9c1d6b0e "Raise the time-out":
               rolling wave 2 of 3, stable on 1 of 3
               targets, for 1m
               approvals before 25%: 1 of 2 (ann)
               job before/migrate on site-a done, 40s
                 ago
               waits on approval just now: 25% needs 1
                 more approval; ended by `holdfast
                 approve shop`
      Running  site-a: generation 3, release
               0ld0ld0ld0ld, 87.6%, for 11m40s
               d1-42 brings generation 4, release
                 4be1c09d77aa: shifting at 12.3%, for
                 12s
               parked for a way back: generation 2
                 (release beefbeefbeef)
               waits on hold for 12s, 2m48s left:
                 12.3% holds for 3m; ended by
                 `holdfast advance shop`, or its own
                 end
      Running  site-b: generation 4, release
               4be1c09d77aa, 100%, for 11m40s
      Running  site-c: generation 3, release
               0ld0ld0ld0ld, 100%, for 11m40s
               $ holdfast approve shop
               $ holdfast pause shop
    "#);
}

#[test]
fn trouble_of_every_kind() {
    let text = text_of(&status(&troubled()), WIDE);
    assert!(!text.replace('\n', "").contains(|c: char| c.is_control()), "{text:?}");
    insta::assert_snapshot!(text, @r#"
    Git     3f2a9c1d6b0e "Raise [2J the time-out", 1m10s ago
            shop.yaml:3:1: unknown field "templat"
            the branch was rewritten to ffffffffffff; nothing of it is taken until somebody accepts it
    Ledger  120 entries, 119 durable
    Target  site-c is unreachable for 15m: no route to host
    Target  site-c is frozen by ann, for 1m: the fair
            $ holdfast accept-rewrite ffffffffffffffffffffffffffffffffffffffff

    main/shop  (unknown; frozen by ann, for 1m: the fair; suspended by its manifest)
      Wanted   release 4be1c09d77aa by command (rollback of bob: checkout is slow), of commit 3f2a9c1d6b0e: halted, paused, for 1m
               site-a failed: answered 500
      Running  site-a: generation 3, release 0ld0ld0ld0ld, 100%, for 11m40s
               drift of instances for 20s: 1 of 2 instances
               d1-42 of release 4be1c09d77aa was rolled back: health: answered 500
               | i1: cannot open /etc/app.toml
               | i1:  [31mfatal
      Running  site-c: generation 3, release 0ld0ld0ld0ld, 100%, for 11m40s
               lagging for 15m: no route to host
      Moved    r.example.com/shop:1 points at bbbbbbbbbbbb now; aaaaaaaaaaaa stays pinned
      Kept out release 4be1c09d77aa: answered 500
               $ holdfast thaw shop
    "#);
}

#[test]
fn many_quiet_targets_are_one_line() {
    let mut units: Vec<UnitView> = (0..12).map(|number| unit(&format!("site-{number:02}"), 4, NEW)).collect();
    units[7].overlays = vec![OverlayView {
        name: "unreachable".into(),
        message: "no route to host".into(),
        since: None,
    }];
    let view = with(WorkloadView {
        wanted: Some(wanted(RolloutState::Succeeded)),
        units,
        exits: vec!["holdfast rollback shop".into()],
        ..shop()
    });
    insta::assert_snapshot!(text_of(&status(&view), WIDE), @r#"
    Git     3f2a9c1d6b0e "Raise the time-out", 1m10s ago
    Ledger  120 entries, 119 durable

    main/shop
      Wanted   release 4be1c09d77aa by commit 3f2a9c1d6b0e "Raise the time-out": succeeded, for 1m
      Running  11 targets (site-00, site-01, site-02 and 8 more): release 4be1c09d77aa, 100%, all for 10m
      Running  site-07: generation 4, release 4be1c09d77aa, 100%, for 11m40s
               unreachable: no route to host
               $ holdfast rollback shop
    "#);
}

#[test]
fn the_live_view_has_bars() {
    insta::assert_snapshot!(text_of(&live(&rolling(), 80), WIDE), @r#"
    Git     3f2a9c1d6b0e "Raise the time-out", 1m10s ago

    main/shop  release 4be1c09d77aa: rolling wave 2 of 3, stable on 1 of 3 targets, for 1m
      targets ██████░░░░░░░░░░░░░░ 1 of 2 in this wave, 3 in all
               approvals before 25%: 1 of 2 (ann)
               waits on approval just now: 25% needs 1 more approval; ended by `holdfast approve shop`
      site-a ██░░░░░░░░░░░░░░░░░░ 12.3%  shifting; waits on hold, 2m48s left
      site-b ████████████████████  100%  stable
      site-c ░░░░░░░░░░░░░░░░░░░░    0%  stable
    "#);
    insta::assert_snapshot!(text_of(&live(&troubled(), 50), NARROW), @r#"
    Git     3f2a9c1d6b0e "Raise [2J the time-out",
            1m10s ago
            shop.yaml:3:1: unknown field "templat"
            the branch was rewritten to ffffffffffff;
              nothing of it is taken until somebody
              accepts it
    Target  site-c is unreachable for 15m: no route to
            host
    Target  site-c is frozen by ann, for 1m: the fair

    main/shop  release 4be1c09d77aa: halted, paused,
      for 1m
               site-a failed: answered 500
      site-a ░░░░░░░░    0%  stable; d1-42 was rolled
                             back: answered 500
      site-c ░░░░░░░░    0%  stable; lagging
    "#);
}

#[test]
fn facts_for_a_pipe() {
    let facts: Vec<String> = facts(&rolling())
        .into_iter()
        .map(|(key, text)| format!("{key}: {text}"))
        .collect();
    insta::assert_snapshot!(facts.join("\n"), @"
    git: 3f2a9c1d6b0e Raise the time-out
    target site-a: ok
    target site-b: ok
    main/shop: release 4be1c09d77aa is rolling wave 2 of 3, stable on 1 of 3 targets
    main/shop waits: approval: 25% needs 1 more approval
    main/shop@site-a: generation 3, release 0ld0ld0ld0ld, shifting; d1-42 brings release 4be1c09d77aa at 12.3%; waits on hold
    main/shop@site-b: generation 4, release 4be1c09d77aa, stable
    main/shop@site-c: generation 3, release 0ld0ld0ld0ld, stable
    ");
}

#[test]
fn colours() {
    let style = Style {
        color: true,
        columns: None,
    };
    let view = with(WorkloadView {
        wanted: Some(wanted(RolloutState::Succeeded)),
        ..shop()
    });
    insta::assert_snapshot!(format!("{:?}", text_of(&status(&view), style).lines().nth(4)), @r#"Some("\u{1b}[32m  Wanted   release 4be1c09d77aa by commit 3f2a9c1d6b0e \"Raise the time-out\": succeeded, for 1m\u{1b}[0m")"#);
}

#[test]
fn one_is_not_many() {
    assert_eq!(
        (count(1, "entry", "entries"), count(0, "entry", "entries")),
        ("1 entry".into(), "0 entries".into())
    );
}

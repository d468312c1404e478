//! What polls of tags saw is written down by the hour and at a stop, and stands for exactly the polls that were made.

use holdfast_core::config::EngineConfig;
use holdfast_core::engine::{Engine, Input, Now, Output, PinFailure, Resolved};
use holdfast_core::entry::{Body, Observation};
use holdfast_core::ids::{Digest, WorkloadId};
use holdfast_core::state::State;
use std::collections::BTreeSet;

const MINUTE_MS: u64 = 60_000;

fn now(minutes: u64) -> Now {
    Now {
        t: 1 + minutes * MINUTE_MS,
        wall_ms: minutes * MINUTE_MS,
    }
}

fn answer(reference: &str, digest: Option<&str>) -> Input {
    let outcome = digest.map(|text| Resolved {
        digest: Digest::of(text.as_bytes()),
        source: "r.example.com/shop".into(),
        images: b"[]".to_vec(),
        accepted: BTreeSet::new(),
        blobs: Vec::new(),
        evidence: serde_json::json!({}),
    });
    Input::Pinned {
        workload: WorkloadId::new("main", "shop").unwrap(),
        reference: reference.into(),
        outcome: outcome.ok_or(PinFailure {
            message: "down".into(),
            retry_after_ms: None,
        }),
    }
}

/// Rows of every root that was written: minute of first and last, polls.
fn rows(outputs: Vec<Output>) -> Vec<Vec<(String, u64, String, String)>> {
    let mut roots = Vec::new();
    for output in outputs {
        let Output::Append { entries, blobs } = output else { continue };
        for entry in entries {
            let Body::ObservationRoot(root) = entry.body else { continue };
            let bytes = blobs
                .iter()
                .find(|(digest, _)| *digest == entry.blobs["observations"])
                .unwrap();
            assert_eq!(Digest::of(&bytes.1), bytes.0);
            let rows: Vec<Observation> = serde_json::from_slice(&bytes.1).unwrap();
            assert_eq!(root.polls, rows.iter().map(|row| row.polls).sum::<u64>());
            assert_eq!(root.references as usize, rows.len());
            let minute = |wall: &str| wall[11..16].to_owned();
            roots.push(
                rows.iter()
                    .map(|row| {
                        (
                            row.digest.short().to_owned(),
                            row.polls,
                            minute(&row.first),
                            minute(&row.last),
                        )
                    })
                    .collect(),
            );
        }
    }
    roots
}

#[test]
fn polls_are_written_down_by_the_hour_and_at_a_stop() {
    let mut engine = Engine::new(EngineConfig::default(), State::default());
    let short = |text: &str| Digest::of(text.as_bytes()).short().to_owned();
    let mut written = Vec::new();
    for minute in 0..=60 {
        // Failures are no polls; what names a digest is no tag.
        let digest = (minute % 10 != 5).then_some("one");
        written.extend(engine.handle(now(minute), answer("r.example.com/shop:1", digest)));
        let named = format!("r.example.com/shop@{}", Digest::of(b"two"));
        written.extend(engine.handle(now(minute), answer(&named, Some("two"))));
    }
    assert_eq!(rows(written), [[(short("one"), 55, "00:00".into(), "01:00".into())]]);
    let mut after = engine.handle(now(61), answer("r.example.com/shop:1", Some("one")));
    after.extend(engine.handle(now(62), answer("r.example.com/shop:1", Some("moved"))));
    assert!(rows(after).is_empty());
    let mut expected = vec![
        (short("one"), 1, "01:01".to_owned(), "01:01".to_owned()),
        (short("moved"), 1, "01:02".to_owned(), "01:02".to_owned()),
    ];
    expected.sort();
    let mut at_stop = rows(engine.stop(now(70)));
    at_stop.iter_mut().for_each(|rows| rows.sort());
    assert_eq!(at_stop, [expected]);
    assert!(
        rows(engine.stop(now(71))).is_empty(),
        "what is written down is not written twice"
    );
}

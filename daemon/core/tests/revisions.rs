//! Revisions that say what differs from the one before lead to the same entries as whole ones, whatever came between.

use holdfast_core::engine::{Engine, Input, Now, Output, Revision};
use holdfast_core::entry::{Body, Entry, Presence, SpecObject};
use holdfast_core::manifest::{Delta, Desired};
use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};
use std::sync::Arc;

mod written;

/// Each workload: gone, or at a version; the last digit: whether all files could be read.
type Tree = (Vec<u8>, u8);

fn tree(tree: &Tree) -> Arc<Desired> {
    let mut text =
        String::from("apiVersion: holdfast.dev/v1alpha1\nkind: Target\nmetadata: { name: site-a }\nspec: { plugin: edge }\n");
    for (name, version) in tree.0.iter().enumerate().filter(|(_, version)| **version > 0) {
        text += &format!(
            "---\napiVersion: holdfast.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: w{name} }}\nspec:\n  artifacts: {{ main: \"r.example.com/a:{version}\" }}\n  placement: {{ targets: {{ names: [ site-a ] }} }}\n  template: {{}}\n"
        );
    }
    let mut desired = written::desired("all.yaml", &text);
    assert_eq!(desired.problems, []);
    desired.absence_proven = tree.1 > 0;
    desired.into()
}

fn take(engine: &mut Engine, at: usize, desired: &Arc<Desired>, delta: Option<Delta>, adopted: bool) -> Vec<Entry> {
    let revision = Revision {
        adopted,
        fast_forward: adopted,
        delta,
        ..written::revision(&format!("{at:040x}"), desired.clone())
    };
    let now = Now { t: 1, wall_ms: 1 };
    let outputs = engine.handle(now, Input::Revision(Box::new(revision)));
    let entries = outputs.into_iter().filter_map(|output| match output {
        Output::Append { entries, .. } => Some(entries),
        _ => None,
    });
    entries.flatten().collect()
}

/// Workloads that the entries name, and whether they are there.
fn specs(entries: &[Entry]) -> Vec<(String, bool)> {
    let specs = entries.iter().filter_map(|entry| match &entry.body {
        Body::Spec(spec) => match &spec.object {
            SpecObject::Workload { presence, .. } => {
                Some((entry.on.workload.clone()?.to_string(), *presence == Presence::Present))
            }
            SpecObject::Target { .. } => None,
        },
        _ => None,
    });
    specs.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_delta_says_what_the_whole_says(
        trees in prop::collection::vec(((prop::collection::vec(0u8..3, 6), 0u8..8), any::<bool>(), 0u8..6), 1..12),
    ) {
        let mut whole = Engine::new(written::config(), Default::default());
        let mut short = Engine::new(written::config(), Default::default());
        let mut told: Option<Arc<Desired>> = None;
        for (at, (wanted, as_delta, refused)) in trees.iter().enumerate() {
            let desired = tree(wanted);
            let delta = told.as_ref().filter(|_| *as_delta).and_then(|told| Delta::between(told, &desired));
            let adopted = *refused > 0;
            let of_whole = take(&mut whole, at, &desired, None, adopted);
            let of_short = take(&mut short, at, &desired, delta, adopted);
            prop_assert_eq!(of_whole, of_short);
            // What was not taken is told again as a difference all the same: it must not be believed.
            told = Some(desired);
        }
        prop_assert!(whole.state() == short.state());
    }
}

#[test]
fn only_what_differs_is_named() {
    let first = tree(&(vec![1, 1, 1], 1));
    let second = tree(&(vec![1, 2, 0], 1));
    let delta = Delta::between(&first, &second).unwrap();
    let names: Vec<&str> = delta.workloads.iter().map(|id| id.name()).collect();
    assert_eq!(names, ["w1", "w2"]);
    let mut engine = Engine::new(written::config(), Default::default());
    take(&mut engine, 1, &first, None, true);
    let entries = take(&mut engine, 2, &second, Some(delta), true);
    assert_eq!(specs(&entries), [("main/w1".to_owned(), true), ("main/w2".to_owned(), false)]);
    // Nothing can be said where a file could not be read.
    let broken = tree(&(vec![1, 2, 0], 0));
    assert!(Delta::between(&second, &broken).is_none() && Delta::between(&broken, &second).is_none());
}

//! `plan` runs the real planners: what it says is what the engine then writes.

mod written;

use holdfast_core::engine::Revision;
use holdfast_core::preview::{Preview, preview};
use holdfast_core::state::State;
use written::{config, desired};

fn target(name: &str) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: Target\nmetadata: {{ name: {name}, labels: {{ env: prod }} }}\nspec: {{ plugin: edge }}\n---\n"
    )
}

fn workload(name: &str, tag: &str, strategy: &str) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: {name} }}\nspec:\n  artifacts: {{ main: \"r.example.com/{name}:{tag}\" }}\n  placement: {{ targets: {{ matchLabels: {{ env: prod }} }} }}\n  template: {{}}\n  strategy: {strategy}\n---\n"
    )
}

const BLUE_GREEN: &str = "{ blueGreen: {} }";
const CANARY: &str = "{ canary: { steps: [ { weight: 10%, hold: 1m }, { weight: 100% } ] } }";

fn revision(commit: &str, text: &str) -> Revision {
    written::revision(commit, desired("all.yaml", text))
}

fn rows(preview: &Preview) -> Vec<String> {
    preview
        .steps
        .iter()
        .map(|step| {
            format!("{} {} {}", step.action, step.workload, step.target)
                .trim_end()
                .to_owned()
        })
        .collect()
}

/// State after the entries that a preview foretold.
fn carried_out(mut state: State, preview: &Preview) -> State {
    preview.entries.iter().for_each(|entry| state.fold(entry));
    state
}

#[test]
fn what_would_happen() {
    let both = format!("{}{}", target("site-a"), target("site-b"));
    let cases: &[(&str, String, &[&str])] = &[
        (
            "a first release",
            format!("{both}{}", workload("shop", "1", BLUE_GREEN)),
            &[
                "pin main/shop",
                "request main/shop",
                "launch main/shop site-a",
                "launch main/shop site-b",
            ],
        ),
        (
            "a target that no binding covers",
            format!("{}{}", target("elsewhere"), workload("shop", "1", BLUE_GREEN)),
            &["pin main/shop", "refuse main/shop"],
        ),
        ("a file that does not parse removes nothing", format!("{both}kind: [\n"), &[]),
    ];
    for (name, text, expected) in cases {
        let seen = preview(config(), State::default(), revision("c1", text), 0);
        assert_eq!(rows(&seen), *expected, "{name}: {:#?}", seen.steps);
    }
}

#[test]
fn the_second_commit_is_planned_against_the_first() {
    let both = format!("{}{}", target("site-a"), target("site-b"));
    let first = revision("c1", &format!("{both}{}", workload("shop", "1", BLUE_GREEN)));
    let begun = preview(config(), State::default(), first.clone(), 0);
    assert_eq!(begun.as_of, 0);
    assert!(
        begun.assumed.contains("r.example.com/shop:1 can be resolved"),
        "{:?}",
        begun.assumed
    );
    let state = carried_out(State::default(), &begun);
    let again = preview(config(), state.clone(), first, 0);
    assert!(
        !again
            .steps
            .iter()
            .any(|step| ["pin", "request", "launch"].contains(&step.action.as_str())),
        "the same commit requests nothing: {:?}",
        again.steps
    );
    assert_eq!(again.as_of, state.size);
    let next = revision("c2", &format!("{both}{}", workload("shop", "2", CANARY)));
    let next = preview(config(), state, next, 0);
    assert!(rows(&next).contains(&"pin main/shop".to_owned()), "{:?}", next.steps);
}

#[test]
fn the_strategy_is_named() {
    let text = format!("{}{}", target("site-a"), workload("shop", "1", CANARY));
    let seen = preview(config(), State::default(), revision("c1", &text), 0);
    let details: Vec<&str> = seen.steps.iter().map(|step| step.detail.as_str()).collect();
    assert_eq!(
        details,
        [
            "r.example.com/shop:1 is resolved to a digest once, and written down",
            "a new release: requested",
            "a new release, generation 1, the first to serve",
        ]
    );
}

//! Bad workloads: each a named problem at its place, each ending fast, none hiding another.

mod manifest_support;

use holdfast_core::ids::Digest;
use holdfast_core::manifest::*;
use manifest_support::*;
use proptest::prelude::*;

#[test]
fn a_good_one_has_no_problems() {
    let spec = format!(
        "{GOOD}\nconfig: {{ files: {{ \"app.toml\": app.toml }} }}\nstrategy: {{ canary: {{ steps: [ {{ weight: 12.5%, hold: 1m }}, {{ weight: 100% }} ] }} }}"
    );
    let desired = assembled(
        &[("t.yaml", TARGET.as_bytes()), ("apps/w.yaml", workload(&spec).as_bytes())],
        &[],
    );
    assert_eq!(desired.problems, []);
    assert!(desired.absence_proven);
    assert_eq!(desired.workloads[&named("w")].files["app.toml"], Digest::of(b"content"));
}

fn expect(spec: &str, code: &str, line: u32, hint: &str) {
    let desired = problems_of(spec);
    let found = desired
        .problems
        .iter()
        .any(|one| one.code == code && one.line == line && one.hint.as_deref().unwrap_or_default().contains(hint));
    assert!(
        found && desired.problems.iter().all(|one| one.hint.is_some()),
        "{spec}\nexpected {code} in line {line} with {hint:?}, found {:#?}",
        desired.problems
    );
    assert!(
        desired.unknown_workloads.contains(&named("w")),
        "{spec}: what has an error is unknown, not absent"
    );
    assert_eq!(desired.targets.len(), 1, "{spec}: others go on");
}

#[test]
fn problems_have_a_code_a_line_and_a_hint() {
    for (extra, code, hint) in [
        ("instances: many", "type", "as in instances: 6"),
        ("instances: 0", "type", "as in instances: 6"),
        ("instances: { min: 3 }", "missing", "max: 12"),
        ("instances: { min: 3, max: 2 }", "instances", "smaller"),
        ("instances: [ 3 ]", "type", "as in instances"),
        ("onHalt: abort", "unknown-field", "did you mean placement.onHalt?"),
        ("steps: []", "unknown-field", "did you mean strategy.canary.steps?"),
        ("health: { rollback: manual }", "unknown-field", "did you mean spec.rollback?"),
        (
            "secrets: [ { name: db, version: latest } ]",
            "secret-version",
            "name one version",
        ),
        (
            "secrets: [ { name: db, version: LATEST } ]",
            "secret-version",
            "name one version",
        ),
        ("secrets: [ { name: db, version: 7 } ]", "type", "quote it: \"7\""),
        ("secrets: [ { name: db, version: \"a b\" } ]", "secret-version", "visible"),
        ("secrets: [ { name: d_b, version: \"7\" } ]", "name", "a-z"),
        ("secrets: [ { version: \"7\" } ]", "missing", "as in name: db"),
        (
            "secrets: [ { name: db, version: \"7\" }, { name: db, version: \"8\" } ]",
            "duplicate",
            "keep one",
        ),
        ("secrets: db", "type", "as in secrets"),
        ("secrets: [ db ]", "type", "as in secrets"),
        ("before: [ { name: Migrate, template: {} } ]", "name", "a-z"),
        (
            "before: [ { name: migrate-the-whole-of-the-database, template: {} } ]",
            "name",
            "at most 30",
        ),
        ("before: [ { name: migrate } ]", "missing", "as in template"),
        (
            "before: [ { name: m, template: {}, scope: targets } ]",
            "choice",
            "did you mean \"target\"?",
        ),
        (
            "before: [ { name: m, template: {}, repeatable: often } ]",
            "type",
            "as in repeatable",
        ),
        ("before: [ { name: m, template: { x: \"${env.X}\" } } ]", "placeholder", "$${"),
        (
            "after: [ { name: m, template: { x: \"${artifacts.nope}\" } } ]",
            "placeholder",
            "there are main",
        ),
        (
            "after: [ { name: m, template: { x: \"${values.nope}\" } } ]",
            "missing-value",
            "add values: { nope: ... }",
        ),
        (
            "strategy: { canary: { steps: [ { weight: 50% }, { weight: 10% }, { weight: 100% } ] } }",
            "weight",
            "10%, 50%",
        ),
        (
            "strategy: { canary: { steps: [ { weight: 50% } ] } }",
            "steps",
            "add { weight: 100% }",
        ),
        (
            "strategy: { canary: { steps: [ { weight: 0% }, { weight: 100% } ] } }",
            "weight",
            "above 0%",
        ),
        (
            "strategy: { canary: { steps: [ { weight: 25 }, { weight: 100% } ] } }",
            "percentage",
            "write 25%",
        ),
        (
            "strategy: { canary: { steps: [ { weight: 101% } ] } }",
            "percentage",
            "as in 25%",
        ),
        ("strategy: { canary: {} }", "missing", "as in steps"),
        ("strategy: canary", "type", "as in strategy"),
        ("strategy: {}", "one-of", "as in blueGreen"),
        ("strategy: { blueGreen: {}, recreate: {} }", "one-of", "keep one of them"),
        (
            "strategy: { rolling: { surge: 0, maxUnavailable: 0% } }",
            "rolling",
            "raise one",
        ),
        ("strategy: { rolling: { surge: 101% } }", "count", "as in 1 or 25%"),
        (
            "strategy: { rolling: { maxUnavalable: 1 } }",
            "unknown-field",
            "maxUnavailable",
        ),
        ("strategy: { recreate: { steps: [] } }", "unknown-field", "there are bake"),
        ("drain: soon", "duration", "as in 250ms"),
        ("drain: 30", "duration", "as in 250ms"),
        ("rollback: autmatic", "choice", "did you mean \"automatic\"?"),
        ("health: { timeout: 1s, stable: 2s }", "timeout", "by default"),
        ("health: { timeout: 20s }", "timeout", "by default"),
        ("health: { interval: 1ms }", "interval", "as in"),
        ("health: { http: { path: healthz } }", "path", "as in path: /healthz"),
        ("health: { telemetry: sometimes }", "choice", "as in telemetry"),
        (
            "analysis: [ { name: e, target: a/b, failWhen: \"canary.value >\" } ]",
            "condition",
            "CEL over",
        ),
        (
            "analysis: [ { name: e, target: a/b, failWhen: \"canary.value\" } ]",
            "condition",
            "CEL over",
        ),
        (
            "analysis: [ { name: e, target: a, failWhen: \"false\" } ]",
            "analysis",
            "errors_total/requests_total",
        ),
        ("analysis: [ { name: e, failWhen: \"false\" } ]", "one-of", "as in target"),
        (
            "analysis: [ { name: e, target: a/b, http: { path: / }, failWhen: \"false\" } ]",
            "one-of",
            "keep one",
        ),
        ("analysis: [ { name: e, target: a/b } ]", "missing", "as in failWhen"),
        (
            "analysis: [ { name: e, http: { path: x }, failWhen: \"false\" } ]",
            "path",
            "as in path",
        ),
        (
            "analysis: [ { name: e, prometheus: { source: m }, failWhen: \"false\" } ]",
            "missing",
            "as in query",
        ),
        (
            "analysis: [ { name: e, prometheus: { source: m, query: 'x{{gen}}' }, failWhen: \"false\" } ]",
            "placeholder",
            "{{generation}}, {{workload}}",
        ),
        (
            "analysis: [ { name: e, prometheus: { source: m, query: 'x{{ generation }}' }, failWhen: \"false\" } ]",
            "placeholder",
            "did you mean {{generation}}?",
        ),
        (
            "analysis: [ { name: e, prometheus: { source: m, query: 'x{{generation' }, failWhen: \"false\" } ]",
            "placeholder",
            "there are {{generation}}",
        ),
        (
            "analysis: [ { name: e, prometheus: { source: m, query: x, samples: '{{nope}}' }, failWhen: \"false\" } ]",
            "placeholder",
            "there are",
        ),
        (
            "analysis: [ { name: e, prometheus: { source: m, query: x, range: 0s }, failWhen: \"false\" } ]",
            "range",
            "as in range: 5m",
        ),
        (
            "analysis: [ { name: e, target: a/b, failWhen: \"false\", at: [ 10% ] } ]",
            "weight",
            "it reaches 100%",
        ),
        (
            "analysis: [ { name: e, target: a/b, failWhen: \"false\", at: [ 100%, 100% ] } ]",
            "duplicate",
            "keep one",
        ),
        (
            "analysis: [ { name: e, target: a/b, failWhen: \"false\" }, { name: e, target: a/b, failWhen: \"false\" } ]",
            "duplicate",
            "by name",
        ),
        ("approval: { before: [ 50% ] }", "weight", "it reaches 100%"),
        ("approval: { before: [] }", "approval", "as in before: [ 100% ]"),
        ("approval: { count: 2 }", "missing", "as in before"),
        ("approval: { before: [ 100% ], count: 0 }", "type", "as in count"),
        ("dependsOn: w", "type", "as in dependsOn"),
        ("dependsOn: [ w ]", "circle", "take it out"),
        (
            "dependsOn: [ ww ]",
            "unknown-workload",
            "a Workload with this name is missing",
        ),
        ("dependsOn: [ W ]", "name", "a-z"),
        ("retain: 101", "type", "as in retain"),
        ("standby: 21", "type", "as in standby"),
        ("suspend: maybe", "type", "as in suspend"),
        ("suspend: \"true\"", "type", "as in suspend"),
        ("attempt: 0", "type", "as in attempt"),
        (
            "config: { files: { x: ../../etc/passwd } }",
            "config-file",
            "relative to the manifest",
        ),
        (
            "config: { files: { x: link.toml } }",
            "config-file",
            "relative to the manifest",
        ),
        ("config: { files: { ../x: app.toml } }", "path", "as in conf/app.toml"),
    ] {
        expect(&format!("{GOOD}\n{extra}"), code, 8, hint);
    }
}

#[test]
fn jobs_share_their_names() {
    let spec = format!("{GOOD}\nbefore: [ {{ name: m, template: {{}} }} ]\nafter: [ {{ name: m, template: {{}} }} ]");
    expect(&spec, "duplicate", 9, "before and after share their names");
}

#[test]
fn problems_of_artifacts_placement_and_template() {
    let placed = "placement: { targets: { names: [ a ] } }\ntemplate: {}";
    let selected = |select: &str| format!("artifacts: {{ main: {{ repository: r.example.com/a, select: {select} }} }}\n{placed}");
    for (spec, code, line, hint) in [
        (
            "artifacts: { main: r.example.com/app:1 }\ntemplate: {}".to_owned(),
            "missing",
            5,
            "as in placement",
        ),
        (
            "artefacts: { main: r.example.com/app:1 }".to_owned(),
            "unknown-field",
            5,
            "did you mean \"artifacts\"?",
        ),
        (
            format!("artifacts: {{ main: app }}\n{placed}"),
            "reference",
            5,
            "as in registry",
        ),
        (format!("artifacts: {{ main: 7 }}\n{placed}"), "type", 5, "quote it"),
        (
            format!("artifacts: {{ main: [ r/a:1 ] }}\n{placed}"),
            "type",
            5,
            "as in artifacts",
        ),
        (
            format!("artifacts: {{ a: r/a:1, b: r/b:1 }}\n{placed}"),
            "artifacts",
            5,
            "rename",
        ),
        (format!("artifacts: {{}}\n{placed}"), "artifacts", 5, "main:"),
        (
            format!("artifacts: {{ main: r/a:1 }}\n{placed}\nartifacts: {{}}"),
            "duplicate-key",
            8,
            "keep one of them",
        ),
        (selected("{}"), "one-of", 5, "as in semver"),
        (selected("{ semver: ^1, regex: x }"), "one-of", 5, "keep one"),
        (selected("{ semver: \">=1.2 <2\" }"), "semver", 5, "commas"),
        (selected("{ semver: newest }"), "semver", 5, "~1.4"),
        (selected("{ regex: '(' }"), "regex", 5, "single quotes"),
        (selected("{ regex: '(a)(b)' }"), "regex", 5, "at most one capture"),
        (selected("{ regex: '(a{1000}){1000}' }"), "regex", 5, "single quotes"),
        (selected("{ smever: ^1 }"), "unknown-field", 5, "did you mean \"semver\"?"),
        (
            selected("{ semver: ^1 }").replace("example.com/a", "example.com/a:1"),
            "repository",
            5,
            "which tag, select says",
        ),
        (
            selected("{ semver: ^1 }").replace("r.example.com/a", "noslash"),
            "reference",
            5,
            "without the tag",
        ),
        (
            "artifacts: { main: r/a:1 }\nplacement: { targets: { names: [ aa ] } }\ntemplate: {}".to_owned(),
            "unknown-target",
            6,
            "did you mean \"a\"?",
        ),
        (
            "artifacts: { main: r/a:1 }\nplacement: { targets: { names: [ a, a ] } }\ntemplate: {}".to_owned(),
            "duplicate",
            6,
            "keep one",
        ),
        (
            "artifacts: { main: r/a:1 }\nplacement: { targets: {} }\ntemplate: {}".to_owned(),
            "one-of",
            6,
            "as in matchLabels",
        ),
        (
            "artifacts: { main: r/a:1 }\nplacement: { targets: { names: [ a ] } }\ntemplate: { x: \"${values.nope}\" }"
                .to_owned(),
            "missing-value",
            7,
            "add values",
        ),
        (
            "artifacts: { main: r/a:1 }\nplacement: { targets: { names: [ a ] } }\ntemplate: { x: \"${env.HOME}\" }".to_owned(),
            "placeholder",
            7,
            "$${",
        ),
        (
            "artifacts: { main: r/a:1 }\nplacement: { targets: { names: [ a ] } }\ntemplate: [ x ]".to_owned(),
            "type",
            7,
            "as in template",
        ),
    ] {
        expect(&spec, code, line, hint);
    }
    for (extra, code, hint) in [
        ("waves: [ { targets: 2 }, { targets: 1 } ]", "waves", "as in 1, then 25%"),
        (
            "waves: [ { targets: 50% }, { targets: 3 }, { targets: 50% } ]",
            "waves",
            "as in 1",
        ),
        ("waves: [ { targets: 0 } ]", "waves", "as in 1"),
        ("waves: [ { targets: half } ]", "count", "as in 1 or 25%"),
        ("waves: [ { hold: 5m } ]", "missing", "as in targets"),
        ("maxFailed: -1", "count", "as in 1 or 25%"),
        ("maxLagging: 110%", "count", "as in 1 or 25%"),
        ("lagAfter: 30", "duration", "30s"),
        ("onHalt: stop", "choice", "as in onHalt"),
        ("maxFaild: 1", "unknown-field", "did you mean \"maxFailed\"?"),
        ("drain: 1m", "unknown-field", "did you mean spec.drain?"),
    ] {
        let spec = format!("artifacts: {{ main: r/a:1 }}\nplacement: {{ targets: {{ names: [ a ] }}, {extra} }}\ntemplate: {{}}");
        expect(&spec, code, 6, hint);
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let spec = "artifacts: { main: app }\nplacement: { targets: { names: [ b ] }, waves: [ { targets: 0 } ] }\ntemplate: { x: \"${nope}\" }\ndrain: soon\nstrategy: { canary: { steps: [ { weight: 10% }, { weight: 100% } ] } }\nanalysis: [ { name: e, target: a/b, failWhen: \"false\", at: [ 20% ] } ]\napproval: { before: [ 30% ] }";
    let desired = problems_of(spec);
    let found: Vec<(u32, &str)> = desired.problems.iter().map(|one| (one.line, one.code)).collect();
    assert_eq!(
        found,
        [
            (6, "waves"),
            (7, "placeholder"),
            (8, "duration"),
            (10, "weight"),
            (11, "weight")
        ]
    );
    let hint = desired.problems[3].hint.as_deref();
    assert_eq!(hint, Some("it reaches 10%, 100%"));
}

#[test]
fn what_was_not_read_as_meant_is_not_deployed() {
    for (spec, code) in [
        (format!("{GOOD}\ndrain: 1m\ndrain: 5m"), "duplicate-key"),
        (GOOD.replace("template: {}", "template: { x: .nan }"), "number"),
        (GOOD.replace("template: {}", "template: { x: { <<: y } }"), "alias"),
    ] {
        let desired = problems_of(&spec);
        assert_eq!(desired.problems[0].code, code);
        assert!(
            desired.workloads.is_empty() && desired.unknown_workloads.contains(&named("w")),
            "{code}"
        );
    }
    let twice = TARGET.replace("plugin: edge", "plugin: edge, plugin: other");
    let desired = assembled(&[("t.yaml", twice.as_bytes())], &[]);
    assert!(desired.targets.is_empty() && desired.unknown_targets.contains("a"));
    let extra = format!("{}status: {{}}\n", workload(GOOD));
    let desired = assembled(&[("t.yaml", TARGET.as_bytes()), ("w.yaml", extra.as_bytes())], &[]);
    assert_eq!(desired.problems[0].code, "unknown-field");
    assert!(desired.unknown_workloads.contains(&named("w")));
}

#[test]
fn a_problem_is_shown_with_a_caret() {
    let text = workload(&format!("{GOOD}\ninstnces: 6"));
    let desired = assembled(&[("t.yaml", TARGET.as_bytes()), ("w.yaml", text.as_bytes())], &[]);
    let expected = "error[unknown-field]: unknown field \"instnces\"\n  --> w.yaml:8:3\n  |\n8 |   instnces: 6\n  |   ^^^^^^^^\n  hint: did you mean \"instances\"?\n";
    assert_eq!(render(&desired.problems[0], Some(&text)), expected);
    let forged = workload(&format!("{GOOD}\nconfig: {{ files: {{ \"\\e[2Jx\": 7 }} }}"));
    let problem = parse_file("w.yaml", forged.as_bytes()).problems.remove(0);
    assert!(problem.message.starts_with("\u{1b}[2Jx is text"), "{problem:?}");
    let shown = render(&problem, Some(&forged));
    assert!(shown.lines().all(|line| !line.contains(char::is_control)), "{shown:?}");
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_file("f.yaml", &bytes);
    }

    #[test]
    fn no_yaml_makes_it_panic(text in "([a-z]{1,5}: ?[\\[\\]{}a-z0-9%$\"'&*!|>#,-]{0,12}\n ?){0,12}") {
        let parsed = parse_file("f.yaml", text.as_bytes());
        for problem in &parsed.problems {
            let _ = render(problem, Some(&text));
        }
    }
}

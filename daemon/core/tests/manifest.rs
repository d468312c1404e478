//! Bad manifests: each a named problem at its place, each ending fast, none hiding another.

use holdfast_core::ids::{Digest, WorkloadId};
use holdfast_core::manifest::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const TARGET: &str = "apiVersion: holdfast.dev/v1alpha1\nkind: Target\nmetadata: { name: a, labels: { env: prod } }\nspec: { plugin: edge, values: { host: h } }\n---\n";

struct Files;

impl ConfigFiles for Files {
    fn digest(&self, path: &str) -> Result<Digest, String> {
        match path {
            "apps/app.toml" => Ok(Digest::of(b"content")),
            other => Err(format!("{other} is not in the repository, or a link")),
        }
    }
}

fn assembled(files: &[(&str, &[u8])], file_problems: &[FileProblem]) -> Desired {
    let parsed: BTreeMap<String, ParsedFile> = files
        .iter()
        .map(|(path, bytes)| ((*path).to_owned(), parse_file(path, bytes)))
        .collect();
    let check = |text: &str| {
        if text.contains('/') {
            Ok(())
        } else {
            Err("it names no registry".to_owned())
        }
    };
    assemble("main", &parsed, file_problems, &Files, &check)
}

fn workload(spec: &str) -> String {
    let lines: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: holdfast.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: w }}\nspec:\n{lines}")
}

const GOOD: &str =
    "artifacts: { main: r.example.com/app:1 }\nplacement: { targets: { matchLabels: { env: prod } } }\ntemplate: {}";

fn named(name: &str) -> WorkloadId {
    WorkloadId::new("main", name).unwrap()
}

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

/// Of a workload whose line 8 is `extra`.
fn problems_of(spec: &str) -> Desired {
    assembled(
        &[("t.yaml", TARGET.as_bytes()), ("apps/w.yaml", workload(spec).as_bytes())],
        &[],
    )
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
fn whole_files_can_be_bad() {
    let deep = format!("a: {}1{}", "[".repeat(100), "]".repeat(100));
    let very_deep = "[".repeat(400_000);
    let documents = "---\n{}\n".repeat(100_000);
    let laughs = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n";
    let huge = vec![b'#'; 10 << 20];
    let keys: String = (0..49_000).map(|n| format!("k{n}: 1\n")).collect();
    let policy = "apiVersion: holdfast.dev/v1alpha1\nkind: Policy\nmetadata: { name: p }\nspec: {}\n";
    let typo = "apiVersion: holdfast.dev/v1alpha1\nkind: Wrokload\nmetadata: { name: p }\nspec: {}\n";
    let nul = format!("{TARGET}\0{}", workload(GOOD));
    for (bytes, code, at, hint) in [
        (b"a: [1\nb: 2" as &[u8], "yaml-syntax", (2, 2), "an open quote or bracket"),
        (deep.as_bytes(), "too-deep", (1, 67), "a bracket not closed"),
        (very_deep.as_bytes(), "too-deep", (1, 256), "a bracket not closed"),
        (documents.as_bytes(), "too-many-documents", (2001, 1), "split it"),
        (laughs.as_bytes(), "alias", (1, 7), "write the value out"),
        (b"a: *b", "alias", (1, 4), "write the value out"),
        (b"<<: { a: 1 }", "alias", (1, 1), "write the values out"),
        (&huge, "file-too-large", (1, 1), "split it"),
        (keys.as_bytes(), "too-many-keys", (10_001, 1), "split it"),
        (b"a: b\nc: d\xff\xfe", "not-utf8", (2, 5), "save the file as UTF-8"),
        (nul.as_bytes(), "nul", (6, 1), "save the file as text again"),
        (b"just text", "not-a-manifest", (1, 1), "holdfast explain"),
        (b"kind: Target", "missing", (1, 1), "apiVersion: holdfast.dev/v1alpha1"),
        (
            b"apiVersion: v1\nkind: Target\nmetadata: { name: a }\nspec: {}",
            "api-version",
            (1, 13),
            "this version reads",
        ),
        (policy.as_bytes(), "not-in-this-version", (2, 7), "take it out for now"),
        (typo.as_bytes(), "unknown-kind", (2, 7), "did you mean \"Workload\"?"),
        (b"? [a]\n: b", "key-type", (1, 3), "needs quotes"),
        (b"a: !!binary x", "alias", (1, 13), "write the value out"),
        (
            b"repository: { url: x }\ndata: d",
            "unknown-field",
            (1, 1),
            "operator's configuration",
        ),
        (b"a: .nan", "number", (1, 4), "quote it"),
        (b"a: [ -.inf ]", "number", (1, 6), "quote it"),
        (b"a: 1e999", "number", (1, 4), "quote it"),
        (b"a: 9007199254740993", "number", (1, 4), "quote it"),
        (b"a: -9007199254740993", "number", (1, 4), "quote it"),
        (
            b"a: 99999999999999999999999999999999999999999999999999",
            "number",
            (1, 4),
            "quote it",
        ),
        (b"a: 0xFFFFFFFFFFFFFFFFFFFF", "number", (1, 4), "quote it"),
        (b"a: 99999999999999999999999999", "number", (1, 4), "quote it"),
    ] {
        let desired = assembled(&[("bad.yaml", bytes), ("t.yaml", TARGET.as_bytes())], &[]);
        let found = desired.problems.iter().find(|one| one.code == code);
        let shown = found.map(|one| (one.line, one.column, one.hint.as_deref().unwrap_or_default().contains(hint)));
        assert_eq!(
            shown,
            Some((at.0, at.1, true)),
            "{code} of {}: {:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(40)]),
            desired.problems.iter().take(5).collect::<Vec<_>>()
        );
        assert!(
            !desired.absence_proven,
            "{code}: a file that cannot be read proves no absence"
        );
        assert_eq!(desired.targets.len(), 1, "{code}: others go on");
    }
}

#[test]
fn numbers_that_json_holds_are_read() {
    let spec = GOOD.replace(
        "template: {}",
        "template: { a: 9007199254740992, b: -5, c: 0.5, d: 1e3, e: \"1e999\", f: ~, g: 0x10 }",
    );
    let desired = problems_of(&spec);
    assert_eq!(desired.problems, []);
    assert_eq!(
        desired.workloads[&named("w")].template,
        serde_json::json!({ "a": 9_007_199_254_740_992_u64, "b": -5, "c": 0.5, "d": 1000.0, "e": "1e999", "f": null, "g": 16 })
    );
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let text = format!("\u{feff}{}", workload(GOOD));
    let desired = assembled(&[("t.yaml", TARGET.as_bytes()), ("w.yaml", text.as_bytes())], &[]);
    assert_eq!((desired.problems.len(), desired.workloads.len()), (0, 1));
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
fn a_bad_document_leaves_the_others_of_its_file() {
    let text = format!(
        "{}---\n{}",
        workload(&format!("{GOOD}\ndrain: 1m\ndrain: 5m")),
        workload(GOOD).replace("name: w", "name: v")
    );
    let desired = assembled(&[("t.yaml", TARGET.as_bytes()), ("w.yaml", text.as_bytes())], &[]);
    assert!(desired.workloads.contains_key(&named("v")) && desired.unknown_workloads.contains(&named("w")));
}

#[test]
fn a_target_that_cannot_be_read_is_not_missing() {
    let by_name = workload(&GOOD.replace("matchLabels: { env: prod }", "names: [ a ]"));
    let bad_target = TARGET.replace("plugin: edge", "plugn: edge");
    let desired = assembled(&[("t.yaml", bad_target.as_bytes()), ("w.yaml", by_name.as_bytes())], &[]);
    let codes: Vec<&str> = desired.problems.iter().map(|one| one.code).collect();
    assert_eq!(codes, ["missing", "unknown-field"], "the target is bad, the workload is not");
    assert!(desired.workloads.contains_key(&named("w")));

    // The target may be in the file that cannot be read.
    let desired = assembled(&[("t.yaml", b"a: [".as_slice()), ("w.yaml", by_name.as_bytes())], &[]);
    let warning = desired.problems.iter().find(|one| one.code == "unknown-target").unwrap();
    assert_eq!((warning.severity, warning.line), (Severity::Warning, 6));
    assert!(desired.workloads.contains_key(&named("w")));
}

#[test]
fn dependencies_exist_and_end() {
    let depending = |name: &str, on: &str| {
        format!(
            "{}---\n",
            workload(&format!("{GOOD}\ndependsOn: [ {on} ]")).replace("name: w", &format!("name: {name}"))
        )
    };
    let check = |text: &str| {
        let desired = assembled(&[("t.yaml", TARGET.as_bytes()), ("w.yaml", text.as_bytes())], &[]);
        let told: Vec<String> = desired
            .problems
            .iter()
            .map(|one| format!("{}:{} {}", one.line, one.column, one.message))
            .collect();
        let good: Vec<String> = desired.workloads.keys().map(|id| id.name().to_owned()).collect();
        (told, good)
    };
    let chain = depending("a", "b") + &depending("b", "c") + &workload(GOOD).replace("name: w", "name: c");
    assert_eq!(check(&chain), (vec![], vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]));
    let circle = depending("a", "b") + &depending("b", "a") + &depending("c", "a");
    let told = vec![
        "8:16 dependsOn goes in a circle: a -> b -> a".to_owned(),
        "17:16 dependsOn goes in a circle: b -> a -> b".to_owned(),
    ];
    assert_eq!(check(&circle), (told, vec!["c".to_owned()]));
    // A dependency that is bad is not missing.
    let bad = depending("a", "b") + &workload(&format!("{GOOD}\ndrain: soon")).replace("name: w", "name: b");
    let (told, good) = check(&bad);
    assert_eq!((told.len(), good), (1, vec!["a".to_owned()]));
}

#[test]
fn many_problems_of_one_file_are_counted() {
    let text: String = (0..500).map(|n| format!("x{n}: 1\n")).collect();
    let desired = assembled(
        &[
            ("t.yaml", TARGET.as_bytes()),
            ("w.yaml", format!("{}{text}", workload(GOOD)).as_bytes()),
        ],
        &[],
    );
    let last = desired.problems.last().unwrap();
    assert_eq!((desired.problems.len(), last.code), (201, "more-problems"));
    assert_eq!(last.message, "and 300 more problems in this file");
}

#[test]
fn two_of_one_name_are_both_unknown() {
    let text = workload(GOOD);
    let desired = assembled(
        &[
            ("a.yaml", text.as_bytes()),
            ("b.yaml", text.as_bytes()),
            ("t.yaml", TARGET.as_bytes()),
        ],
        &[],
    );
    let told: Vec<(&str, &str, u32, Option<&str>)> = desired
        .problems
        .iter()
        .map(|one| (one.code, one.file.as_str(), one.line, one.hint.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            ("duplicate-name", "a.yaml", 3, Some("also at b.yaml:3")),
            ("duplicate-name", "b.yaml", 3, Some("also at a.yaml:3")),
        ]
    );
    assert!(desired.workloads.is_empty() && desired.unknown_workloads.contains(&named("w")));

    let many: Vec<String> = (0..9).map(|n| format!("f{n}.yaml")).collect();
    let files: Vec<(&str, &[u8])> = many.iter().map(|file| (file.as_str(), text.as_bytes())).collect();
    assert_eq!(
        assembled(&files, &[]).problems[0].hint.as_deref(),
        Some("also at f1.yaml:3, f2.yaml:3, f3.yaml:3, f4.yaml:3, f5.yaml:3, 3 more")
    );
}

#[test]
fn a_link_proves_no_absence() {
    let link = FileProblem {
        file: "x.yaml".into(),
        code: "symlink",
        message: "a symbolic link is never followed".into(),
    };
    let desired = assembled(&[("t.yaml", TARGET.as_bytes())], &[link]);
    assert!(!desired.absence_proven);
    let hint = desired.problems[0].hint.as_deref();
    assert_eq!(
        (desired.problems[0].code, hint),
        ("symlink", Some("replace the link by the file itself"))
    );
}

#[test]
fn a_problem_is_shown_with_a_caret() {
    let text = workload(&format!("{GOOD}\ninstnces: 6"));
    let desired = assembled(&[("t.yaml", TARGET.as_bytes()), ("w.yaml", text.as_bytes())], &[]);
    let expected = "error[unknown-field]: unknown field \"instnces\"\n  --> w.yaml:8:3\n  |\n8 |   instnces: 6\n  |   ^^^^^^^^\n  hint: did you mean \"instances\"?\n";
    assert_eq!(render(&desired.problems[0], Some(&text)), expected);
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

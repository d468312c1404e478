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

#[test]
fn problems_have_a_code_and_a_line() {
    for (spec, code, line) in [
        ("artifacts: { main: r.example.com/app:1 }\ntemplate: {}", "missing", 5),
        ("artefacts: { main: r.example.com/app:1 }", "unknown-field", 5),
        (&format!("{GOOD}\ninstances: many"), "type", 8),
        (&format!("{GOOD}\ninstances: {{ min: 1, max: 2 }}"), "not-in-this-version", 8),
        (&format!("{GOOD}\nsecrets: []"), "not-in-this-version", 8),
        (&format!("{GOOD}\nbefore: []"), "not-in-this-version", 8),
        (&format!("{GOOD}\nstrategy: {{ rolling: {{}} }}"), "not-in-this-version", 8),
        (
            &format!("{GOOD}\nstrategy: {{ canary: {{ steps: [ {{ weight: 50% }}, {{ weight: 10% }}, {{ weight: 100% }} ] }} }}"),
            "weight",
            8,
        ),
        (
            &format!("{GOOD}\nstrategy: {{ canary: {{ steps: [ {{ weight: 50% }} ] }} }}"),
            "steps",
            8,
        ),
        (
            &format!("{GOOD}\nstrategy: {{ canary: {{ steps: [ {{ weight: 0% }}, {{ weight: 100% }} ] }} }}"),
            "weight",
            8,
        ),
        (&format!("{GOOD}\ndrain: soon"), "duration", 8),
        (&format!("{GOOD}\nrollback: autmatic"), "choice", 8),
        (&format!("{GOOD}\nhealth: {{ timeout: 1s, stable: 2s }}"), "timeout", 8),
        (&format!("{GOOD}\nhealth: {{ http: {{ path: healthz }} }}"), "path", 8),
        (
            &format!("{GOOD}\nanalysis: [ {{ name: e, target: a/b, failWhen: \"canary.value >\" }} ]"),
            "condition",
            8,
        ),
        (
            &format!("{GOOD}\nanalysis: [ {{ name: e, prometheus: {{}} }} ]"),
            "not-in-this-version",
            8,
        ),
        (
            &format!("{GOOD}\nconfig: {{ files: {{ x: ../../etc/passwd }} }}"),
            "config-file",
            8,
        ),
        (&format!("{GOOD}\nconfig: {{ files: {{ x: link.toml }} }}"), "config-file", 8),
        (
            "artifacts: { main: app }\nplacement: { targets: { names: [ a ] } }\ntemplate: {}",
            "reference",
            5,
        ),
        (
            "artifacts: { main: 7 }\nplacement: { targets: { names: [ a ] } }\ntemplate: {}\nartifacts: {}",
            "duplicate-key",
            8,
        ),
        (
            "artifacts: { main: r/a:1 }\nplacement: { targets: { names: [ aa ] } }\ntemplate: {}",
            "unknown-target",
            6,
        ),
        (
            "artifacts: { main: r/a:1 }\nplacement: { targets: { names: [ a ] } }\ntemplate: { x: \"${values.nope}\" }",
            "missing-value",
            7,
        ),
        (
            "artifacts: { main: r/a:1 }\nplacement: { targets: { names: [ a ] } }\ntemplate: { x: \"${env.HOME}\" }",
            "placeholder",
            7,
        ),
        (
            "artifacts: { main: { repository: r/a, select: {} } }\nplacement: { targets: { names: [ a ] } }\ntemplate: {}",
            "not-in-this-version",
            5,
        ),
    ] {
        let desired = assembled(
            &[("t.yaml", TARGET.as_bytes()), ("apps/w.yaml", workload(spec).as_bytes())],
            &[],
        );
        let found: Vec<(&str, u32)> = desired.problems.iter().map(|problem| (problem.code, problem.line)).collect();
        assert!(
            found.contains(&(code, line)),
            "{spec}\nexpected {code} in line {line}, found {found:?}"
        );
        assert!(
            desired.unknown_workloads.contains(&named("w")),
            "{spec}: what has an error is unknown, not absent"
        );
        assert_eq!(desired.targets.len(), 1, "{spec}: others go on");
    }
}

#[test]
fn whole_files_can_be_bad() {
    let deep = format!("a: {}1{}", "[".repeat(100), "]".repeat(100));
    let documents = "---\n{}\n".repeat(100_000);
    let laughs = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n";
    let huge = vec![b'#'; 10 << 20];
    let policy = "apiVersion: holdfast.dev/v1alpha1\nkind: Policy\nmetadata: { name: p }\nspec: {}\n";
    let typo = "apiVersion: holdfast.dev/v1alpha1\nkind: Wrokload\nmetadata: { name: p }\nspec: {}\n";
    for (bytes, code) in [
        (b"a: [1\nb: 2" as &[u8], "yaml-syntax"),
        (deep.as_bytes(), "too-deep"),
        (documents.as_bytes(), "too-many-documents"),
        (laughs.as_bytes(), "alias"),
        (&huge, "file-too-large"),
        (b"a: \xff\xfe", "not-utf8"),
        (b"just text", "not-a-manifest"),
        (b"kind: Target", "missing"),
        (
            b"apiVersion: v1\nkind: Target\nmetadata: { name: a }\nspec: {}",
            "api-version",
        ),
        (policy.as_bytes(), "not-in-this-version"),
        (typo.as_bytes(), "unknown-kind"),
        (b"? [a]\n: b", "key-type"),
        (b"a: !!binary x", "alias"),
    ] {
        let desired = assembled(&[("bad.yaml", bytes), ("t.yaml", TARGET.as_bytes())], &[]);
        let codes: Vec<&str> = desired.problems.iter().map(|problem| problem.code).collect();
        assert!(codes.contains(&code), "expected {code}, found {codes:?}");
        assert!(
            !desired.absence_proven,
            "{code}: a file that cannot be read proves no absence"
        );
        assert_eq!(desired.targets.len(), 1, "{code}: others go on");
    }
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
    let places: Vec<&str> = desired
        .problems
        .iter()
        .filter(|problem| problem.code == "duplicate-name")
        .map(|problem| problem.file.as_str())
        .collect();
    assert_eq!(places, ["a.yaml", "b.yaml"]);
    assert!(desired.workloads.is_empty() && desired.unknown_workloads.contains(&named("w")));
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
    assert_eq!(desired.problems[0].code, "symlink");
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

//! Bad files, and what files say together: one bad thing takes down nothing else, and proves no absence.

mod manifest_support;

use holdfast_core::manifest::*;
use manifest_support::*;

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

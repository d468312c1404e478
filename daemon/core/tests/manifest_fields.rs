//! The table of fields: its defaults are what is meant, its examples can be read, and schema, `explain`, the reference document
//! and the examples of this repository agree with it.

use holdfast_core::ids::{Digest, WorkloadId};
use holdfast_core::manifest::fields::{Absent, Field, KINDS, Kind, OBJECTS, object_of, paths};
use holdfast_core::manifest::*;
use holdfast_core::spec::{TargetSpec, WorkloadSpec};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

struct AnyFile;

impl ConfigFiles for AnyFile {
    fn digest(&self, path: &str) -> Result<Digest, String> {
        Ok(Digest::of(path.as_bytes()))
    }
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// An object that has what it must have, and at `path` the value; none: there it has nothing.
fn around(object: &str, path: &[&str], value: Option<&Value>) -> Value {
    let object = object_of(object);
    let mut map = Map::new();
    for field in object.fields {
        let is_chosen = object.one_of.first() == Some(&field.name) && !object.one_of.contains(&path[0]);
        if field.name == path[0] {
            let inside = match path {
                [_] => value.cloned(),
                _ => Some(wrapped(field.kind, around(field.kind.object().unwrap(), &path[1..], value))),
            };
            map.extend(inside.map(|inside| (field.name.to_owned(), inside)));
        } else if field.absent == Absent::Refused || is_chosen {
            map.insert(field.name.to_owned(), yaml(field.example));
        }
    }
    Value::Object(map)
}

fn wrapped(kind: Kind, inside: Value) -> Value {
    match kind {
        // The last step of a canary is always 100%.
        Kind::List(Kind::Object("step")) => json!([inside, { "weight": "100%" }]),
        Kind::List(_) => json!([inside]),
        Kind::Map(_) => json!({ "main": inside }),
        _ => inside,
    }
}

/// What one document means beside a few good ones.
fn read(kind: &str, metadata: Value, spec: Value) -> (Vec<Problem>, Option<WorkloadSpec>, Option<TargetSpec>) {
    let document = json!({ "apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec });
    let others = "apiVersion: holdfast.dev/v1alpha1\nkind: Target\nmetadata: { name: prod-eu, labels: { env: prod } }\nspec: { plugin: edge }\n---\napiVersion: holdfast.dev/v1alpha1\nkind: Target\nmetadata: { name: prod-us, labels: { env: prod } }\nspec: { plugin: edge }\n---\napiVersion: holdfast.dev/v1alpha1\nkind: Workload\nmetadata: { name: ledger-db }\nspec: { artifacts: { main: r.example.com/db:1 }, placement: { targets: { matchLabels: {} } }, template: {} }\n";
    let files = [
        ("one.yaml".to_owned(), parse_file("one.yaml", document.to_string().as_bytes())),
        ("others.yaml".to_owned(), parse_file("others.yaml", others.as_bytes())),
    ];
    let desired = assemble("main", &files.into(), &[], &AnyFile, &|_| Ok(()));
    let name = metadata["name"].as_str().unwrap();
    let workload = WorkloadId::new("main", name).unwrap();
    (
        desired.problems,
        desired.workloads.get(&workload).map(|spec| WorkloadSpec::clone(spec)),
        desired.targets.get(name).cloned(),
    )
}

fn every_field() -> Vec<(&'static str, &'static str, String, &'static Field)> {
    let mut all = Vec::new();
    for (kind, spec) in KINDS {
        all.extend(paths(spec).into_iter().map(|(path, field)| (kind, spec, path, field)));
        all.extend(
            paths("metadata")
                .into_iter()
                .map(|(path, field)| (kind, "metadata", path, field)),
        );
    }
    all
}

fn read_with(kind: &str, object: &str, path: &str, value: Option<&Value>) -> (Vec<Problem>, Value) {
    let parts: Vec<&str> = path.split('.').collect();
    let spec_object = KINDS.iter().find(|(one, _)| *one == kind).unwrap().1;
    let of = |wanted: &str| match wanted == object {
        true => around(object, &parts, value),
        // Nothing is called so: only what must be there.
        false => around(wanted, &[""], None),
    };
    let (problems, workload, target) = read(kind, of("metadata"), of(spec_object));
    (problems, json!({ "workload": workload, "target": target }))
}

#[test]
fn defaults_are_what_leaving_out_means() {
    let mut compared = 0;
    for (kind, object, path, field) in every_field() {
        let Absent::Means(default) = field.absent else { continue };
        let (problems, written) = read_with(kind, object, &path, Some(&yaml(default)));
        assert_eq!(problems, [], "{kind}.{path}: {default}");
        let (problems, left_out) = read_with(kind, object, &path, None);
        assert_eq!(problems, [], "{kind}.{path} left out");
        assert_eq!(written, left_out, "{kind}.{path} is not {default} by default");
        compared += 1;
    }
    assert!(compared > 30, "{compared}");
}

#[test]
fn examples_can_be_read_and_mean_something() {
    for (kind, object, path, field) in every_field() {
        let (problems, with) = read_with(kind, object, &path, Some(&yaml(field.example)));
        assert_eq!(problems, [], "{kind}.{path}: {}", field.example);
        if field.absent != Absent::Refused {
            let (_, without) = read_with(kind, object, &path, None);
            let says_the_default = matches!(field.absent, Absent::Means(default) if yaml(default) == yaml(field.example));
            assert_eq!(with == without, says_the_default, "{kind}.{path}: {} is read", field.example);
        }
    }
}

/// Whatever stands in a field: a workload is either used or unknown with an error, and every error says where.
#[test]
fn no_value_of_any_field_is_half_read() {
    let odd = [
        "~",
        "7",
        "-1",
        "0.5",
        "true",
        "''",
        "x",
        "'${'",
        "'{{'",
        "[]",
        "{}",
        "[ ~ ]",
        "[ {} ]",
        "[ x, x ]",
        "{ x: ~ }",
        "{ x: { y: z } }",
        "100%",
        "0%",
        "1s",
        "2024-01-01",
        "'../..'",
        "9007199254740991",
        "[ [ [ ] ] ]",
    ];
    for (kind, object, path, _) in every_field().iter().filter(|one| one.1 != "metadata") {
        for text in odd {
            let (problems, read) = read_with(kind, object, path, Some(&yaml(text)));
            let is_used = !read[kind.to_lowercase()].is_null();
            let errors = problems.iter().filter(|one| one.severity == Severity::Error).count();
            assert_eq!(is_used, errors == 0, "{kind}.{path}: {text}: {problems:?}");
            assert!(
                problems
                    .iter()
                    .all(|one| one.line == 1 && one.column > 1 && one.hint.is_some()),
                "{path}: {text}: {problems:?}"
            );
        }
    }
}

#[test]
fn what_is_required_is_missed() {
    for (kind, object, path, _) in every_field().iter().filter(|one| one.3.absent == Absent::Refused) {
        let parts: Vec<&str> = path.split('.').collect();
        let (problems, _, _) = match *object {
            // Without a name there is nothing to find it by.
            "metadata" => continue,
            object => read(kind, json!({ "name": "one" }), around(object, &parts, None)),
        };
        let name = parts.last().unwrap();
        let found = problems
            .iter()
            .any(|one| one.code == "missing" && one.message == format!("{name} is missing"));
        assert!(found, "{kind}.{path}: {problems:?}");
    }
}

#[test]
fn samples_by_source() {
    for (source, expected) in [
        (json!({ "target": "a/b" }), 100),
        (json!({ "http": { "path": "/" } }), 5),
        (json!({ "prometheus": { "source": "m", "query": "q" } }), 1),
        (json!({ "prometheus": { "source": "m", "query": "q", "samples": "s" } }), 100),
    ] {
        let mut analysis = source.clone();
        analysis["name"] = "e".into();
        analysis["failWhen"] = "false".into();
        let (problems, read) = read_with("Workload", "workload", "analysis", Some(&json!([analysis])));
        assert_eq!(problems, []);
        assert_eq!(read["workload"]["analysis"][0]["min_samples"], expected, "{source}");
    }
}

#[test]
fn the_table_holds_together() {
    let named: BTreeSet<&str> = OBJECTS
        .iter()
        .flat_map(|object| object.fields)
        .filter_map(|field| field.kind.object())
        .chain(KINDS.map(|(_, spec)| spec))
        .chain(["metadata"])
        .collect();
    assert_eq!(named, OBJECTS.iter().map(|object| object.name).collect());
    for object in OBJECTS {
        for name in object.one_of {
            assert!(
                object.fields.iter().any(|field| field.name == *name),
                "{name} in {}",
                object.name
            );
        }
    }
}

#[test]
fn the_schema_has_every_field() {
    let schema = schema();
    for (kind, object, path, field) in every_field() {
        let part = if object == "metadata" { "metadata" } else { "spec" };
        let of_kind = schema["oneOf"].as_array().unwrap().iter();
        let mut node = of_kind
            .map(|one| &one["properties"])
            .find(|one| one["kind"]["const"] == kind)
            .map(|one| &one[part])
            .unwrap();
        for name in path.split('.') {
            let inner = ["items", "additionalProperties"]
                .iter()
                .find_map(|key| node.get(key).filter(|one| one.is_object()));
            let candidates = [Some(node), inner];
            let found = candidates.into_iter().flatten().find_map(|one| {
                let any = one.get("anyOf").and_then(Value::as_array).into_iter().flatten();
                [one]
                    .into_iter()
                    .chain(any)
                    .map(|one| &one["properties"][name])
                    .find(|one| one.is_object())
            });
            node = found.unwrap_or_else(|| panic!("{kind}.{path}: no {name}"));
        }
        assert_eq!(node["description"], field.doc, "{kind}.{path}");
        assert_eq!(node["examples"][0], yaml(field.example), "{kind}.{path}");
        if let Absent::Means(default) = field.absent {
            assert_eq!(node["default"], yaml(default), "{kind}.{path}");
        }
    }
}

#[test]
fn every_field_is_explained() {
    for (kind, object, path, field) in every_field() {
        let path = if object == "metadata" {
            format!("{kind}.metadata.{path}")
        } else {
            format!("{kind}.{path}")
        };
        let explained = explain(&path).unwrap();
        assert_eq!((explained.path.as_str(), explained.doc.as_str()), (path.as_str(), field.doc));
        assert_eq!(explained.example, format!("{}: {}", field.name, field.example));
        let inner = field.kind.object().map_or(0, |object| object_of(object).fields.len());
        assert_eq!(explained.fields.len(), inner, "{path}");
    }
    assert_eq!(
        explain("workload.spec.placement.waves").unwrap().path,
        "Workload.placement.waves"
    );
    for (path, message, hint) in [
        ("Wrokload", "there is no kind \"Wrokload\"", "did you mean \"Workload\"?"),
        (
            "Policy.x",
            "there is no kind \"Policy\"",
            "it is known, but not in this version",
        ),
        ("", "there is no kind \"\"", "there are Target and Workload"),
        (
            "Workload.placement.wave",
            "there is no Workload.placement.wave",
            "did you mean Workload.placement.waves?",
        ),
        (
            "Workload.approval.xyzzy",
            "there is no Workload.approval.xyzzy",
            "Workload.approval has before, count, allowAuthor",
        ),
        (
            "Workload.drain.x",
            "there is no Workload.drain.x",
            "Workload.drain has no fields",
        ),
    ] {
        let error = explain(path).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.hint.as_str()), (message, hint), "{path}");
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

#[test]
fn the_reference_document_has_every_field() {
    let document = std::fs::read_to_string(repository("examples/MANIFESTS.md")).unwrap();
    for object in OBJECTS {
        let section = document
            .split("\n### ")
            .find(|section| section.starts_with(&format!("`{}`", object.name)))
            .unwrap_or_else(|| panic!("no section ### `{}`", object.name));
        for field in object.fields {
            let row = format!(
                "| `{}` | {} | {} | {} |",
                field.name,
                field.kind.words(),
                field.absent.words(),
                field.doc
            );
            assert!(section.contains(&row), "the section `{}` needs this row:\n{row}", object.name);
        }
    }
    for code in document.split("```yaml\n").skip(1) {
        let text = code.split("```").next().unwrap();
        let parsed = parse_file("MANIFESTS.md", text.as_bytes());
        assert_eq!(parsed.problems, [], "{text}");
        assert!(!parsed.documents.is_empty(), "{text}");
    }
}

/// Config files beside the examples.
struct Beside(PathBuf);

impl ConfigFiles for Beside {
    fn digest(&self, path: &str) -> Result<Digest, String> {
        let bytes = std::fs::read(self.0.join(path)).map_err(|error| error.to_string())?;
        Ok(Digest::of(&bytes))
    }
}

fn manifests_below(dir: &Path, root: &Path, found: &mut BTreeMap<String, ParsedFile>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let relative = path.strip_prefix(root).unwrap().display().to_string();
        if path.is_dir() {
            manifests_below(&path, root, found);
        } else if relative.ends_with(".yaml") {
            let bytes = std::fs::read(&path).unwrap();
            // Dashboards, alert rules and an operator's file are no manifests.
            if String::from_utf8_lossy(&bytes).contains("apiVersion: holdfast.dev/") {
                found.insert(relative.clone(), parse_file(&relative, &bytes));
            }
        }
    }
}

#[test]
fn the_examples_have_no_problems() {
    let root = repository("examples");
    let (mut targets, mut strategies) = (0, BTreeSet::new());
    for entry in std::fs::read_dir(&root).unwrap() {
        let dir = entry.unwrap().path();
        if !dir.is_dir() {
            continue;
        }
        let mut files = BTreeMap::new();
        manifests_below(&dir, &dir, &mut files);
        let desired = assemble("main", &files, &[], &Beside(dir.clone()), &|_| Ok(()));
        assert_eq!(desired.problems, [], "{}", dir.display());
        targets += desired.targets.len();
        strategies.extend(desired.workloads.values().map(|spec| spec.strategy.name()));
        for (id, spec) in &desired.workloads {
            let on_edge = desired
                .targets
                .iter()
                .any(|(name, target)| target.plugin == "edge" && spec.placement.includes(name, &target.labels));
            let known = ["host", "memory_mib", "timeout_ms", "concurrency"];
            let fits = spec
                .template
                .as_object()
                .unwrap()
                .keys()
                .all(|key| known.contains(&key.as_str()));
            assert!(
                !on_edge || (fits && spec.files.is_empty()),
                "{id}: what the edge plugin takes"
            );
        }
    }
    assert!(targets >= 6);
    assert_eq!(strategies, BTreeSet::from(["blueGreen", "canary", "recreate", "rolling"]));
}

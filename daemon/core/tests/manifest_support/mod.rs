//! What the tests of manifests share.

use holdfast_core::ids::{Digest, WorkloadId};
use holdfast_core::manifest::*;
use std::collections::BTreeMap;

pub const TARGET: &str = "apiVersion: holdfast.dev/v1alpha1\nkind: Target\nmetadata: { name: a, labels: { env: prod } }\nspec: { plugin: edge, values: { host: h } }\n---\n";

struct Files;

impl ConfigFiles for Files {
    fn digest(&self, path: &str) -> Result<Digest, String> {
        match path {
            "apps/app.toml" => Ok(Digest::of(b"content")),
            other => Err(format!("{other} is not in the repository, or a link")),
        }
    }
}

pub fn assembled(files: &[(&str, &[u8])], file_problems: &[FileProblem]) -> Desired {
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

pub fn workload(spec: &str) -> String {
    let lines: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: holdfast.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: w }}\nspec:\n{lines}")
}

pub const GOOD: &str =
    "artifacts: { main: r.example.com/app:1 }\nplacement: { targets: { matchLabels: { env: prod } } }\ntemplate: {}";

pub fn named(name: &str) -> WorkloadId {
    WorkloadId::new("main", name).unwrap()
}

/// What one workload means beside a good target. Its spec begins in line 5.
pub fn problems_of(spec: &str) -> Desired {
    assembled(
        &[("t.yaml", TARGET.as_bytes()), ("apps/w.yaml", workload(spec).as_bytes())],
        &[],
    )
}

//! Manifests as text, and the revision that they are.

use holdfast_core::config::{BindingRule, EngineConfig};
use holdfast_core::engine::Revision;
use holdfast_core::ids::Digest;
use holdfast_core::manifest::{ConfigFiles, Desired, assemble, parse_file};
use std::collections::BTreeMap;
use std::sync::Arc;

struct NoFiles;

impl ConfigFiles for NoFiles {
    fn digest(&self, path: &str) -> Result<Digest, String> {
        Err(format!("{path} is not there"))
    }
}

pub fn desired(file: &str, text: &str) -> Desired {
    let files = BTreeMap::from([(file.to_owned(), parse_file(file, text.as_bytes()))]);
    assemble("main", &files, &[], &NoFiles, &|_: &str| Ok(()))
}

pub fn revision(commit: &str, desired: impl Into<Arc<Desired>>) -> Revision {
    Revision {
        commit: commit.into(),
        adopted: true,
        fast_forward: true,
        desired: desired.into(),
        ..Revision::default()
    }
}

/// Plugin `edge` drives every target `site-*`.
pub fn config() -> EngineConfig {
    EngineConfig {
        plugins: BTreeMap::from([("edge".to_owned(), Digest::of(b"plugin"))]),
        bindings: vec![BindingRule {
            target: "site-*".into(),
            plugin: "edge".into(),
            grants: Digest::of(b"grants"),
            fixed: BTreeMap::new(),
        }],
        removals_per_revision: 1,
        ..EngineConfig::default()
    }
}

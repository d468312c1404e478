//! A release: the immutable content that a generation runs, and its identity.
//!
//! `ReleaseId` is the SHA-256 of the release's canonical JSON (RFC 8785). Only what the user wrote goes in; defaults and
//! policy stay out, so that a new default of ours never changes what an old commit means.

use crate::ids::{Digest, ReleaseId};
use crate::spec::{Job, SecretRef, WorkloadSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

pub const RELEASE_FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    pub format: u32,
    /// Artifact name to index digest, without registry or tag.
    pub artifacts: BTreeMap<String, Digest>,
    /// Before `${...}` is filled in.
    pub template: Value,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, Digest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Job>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Job>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("the release is not valid JSON of this format")]
    Json(#[source] serde_json::Error),
    #[error("the release has format {0}; this binary knows {RELEASE_FORMAT}")]
    Format(u32),
}

impl Release {
    pub fn from_spec(spec: &WorkloadSpec, pins: &BTreeMap<String, Digest>) -> Self {
        Self {
            format: RELEASE_FORMAT,
            artifacts: pins.clone(),
            template: spec.template.clone(),
            files: spec.files.clone(),
            secrets: spec.secrets.clone(),
            before: spec.before.clone(),
            after: spec.after.clone(),
        }
    }

    /// Canonical bytes. The blob that holds the release has the release's id as its hash.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Cannot fail: string keys, no non-finite numbers in a JSON value.
        serde_json_canonicalizer::to_vec(self).unwrap_or_default()
    }

    pub fn id(&self) -> ReleaseId {
        ReleaseId::of(&self.to_bytes())
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, ReleaseError> {
        let release: Release = serde_json::from_slice(bytes).map_err(ReleaseError::Json)?;
        if release.format != RELEASE_FORMAT {
            return Err(ReleaseError::Format(release.format));
        }
        Ok(release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn release(template: Value) -> Release {
        let digest = Digest::of(b"artifact");
        Release {
            format: 1,
            artifacts: [("main".to_owned(), digest)].into(),
            template,
            files: BTreeMap::new(),
            secrets: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
        }
    }

    #[test]
    fn identity_is_frozen() {
        let release = release(json!({ "b": 1, "a": "x" }));
        let text = r#"{"artifacts":{"main":"sha256:c7c5c1d70c5dec4416ab6158afd0b223ef40c29b1dc1f97ed9428b94d4cadb1c"},"format":1,"template":{"a":"x","b":1}}"#;
        assert_eq!(String::from_utf8(release.to_bytes()).unwrap(), text);
        assert_eq!(Release::parse(&release.to_bytes()).unwrap(), release);
    }

    #[test]
    fn identity_ignores_key_order_only() {
        let id = |text: &str| release(serde_json::from_str(text).unwrap()).id();
        assert_eq!(id(r#"{"a":1,"b":2}"#), id(r#"{ "b": 2, "a": 1 }"#));
        assert_ne!(id(r#"{"a":1,"b":2}"#), id(r#"{"a":1,"b":3}"#));
    }
}

//! What a site remembers over restarts, and how it is written: whole, aside, synced, renamed.

use crate::EdgeNodeError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteRecord {
    /// Whose this site is: the first that changed anything.
    pub owner: Option<String>,
    /// The highest fence seen of each workload by key, also of those that are gone: a late request of theirs is still refused.
    pub fences: BTreeMap<String, u64>,
    /// By key.
    pub workloads: BTreeMap<String, WorkloadRecord>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadRecord {
    pub workload: String,
    /// Fence of the last route.
    pub route_fence: u64,
    /// Generation to share in 1/10000; empty: off line.
    pub shares: BTreeMap<u32, u32>,
    pub generations: BTreeMap<u32, Generation>,
    /// By the generation's name and the job's, as in `shop-g2-migrate`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub jobs: BTreeMap<String, Job>,
}

/// A job that was started: written before it runs, so that it never runs twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub generation: u32,
    pub release_id: String,
    pub fence: u64,
    pub deploy_id: String,
    /// None: it runs, or it was lost with the process that ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub ok: bool,
    pub message: String,
    /// The last of what it printed and answered.
    pub output: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    pub name: String,
    pub release_id: String,
    pub fence: u64,
    pub deploy_id: String,
    /// Name of the artifact, for proofs.
    pub artifact: String,
    /// `registry/repository`.
    pub source: String,
    /// Of the index, or the manifest where there is none.
    pub digest: String,
    pub template: Template,
    #[serde(default)]
    pub stamps: BTreeMap<String, String>,
    pub drain_ms: u32,
    /// 0: parked.
    pub size: u32,
    /// The port of its own, kept over restarts when it is free.
    #[serde(default)]
    pub port: u16,
    /// Digests of all that makes the bundle, once it was loaded: kept on disk while the generation is, parked or not.
    #[serde(default)]
    pub blobs: Vec<String>,
}

/// The template's dialect. Everything has a default and a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Template {
    /// The Host header that this workload answers to; none: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    pub memory_mib: u32,
    pub timeout_ms: u32,
    pub concurrency: u32,
}

impl Default for Template {
    fn default() -> Self {
        Self {
            host: None,
            memory_mib: 64,
            timeout_ms: 5_000,
            concurrency: 64,
        }
    }
}

impl Template {
    pub fn problem(&self) -> Option<String> {
        if !(1..=512).contains(&self.memory_mib) {
            return Some(format!("memory_mib {} is not in 1 to 512", self.memory_mib));
        }
        if !(10..=60_000).contains(&self.timeout_ms) {
            return Some(format!("timeout_ms {} is not in 10 to 60000", self.timeout_ms));
        }
        if !(1..=1024).contains(&self.concurrency) {
            return Some(format!("concurrency {} is not in 1 to 1024", self.concurrency));
        }
        None
    }
}

impl SiteRecord {
    pub fn load(path: &Path) -> Result<Self, EdgeNodeError> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| EdgeNodeError::Damaged {
                path: path.to_owned(),
                source,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(EdgeNodeError::File {
                path: path.to_owned(),
                source,
            }),
        }
    }

    pub fn save(&self, path: &Path) -> Result<(), EdgeNodeError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|source| EdgeNodeError::Damaged {
            path: path.to_owned(),
            source,
        })?;
        write_whole(path, &bytes)
    }
}

pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), EdgeNodeError> {
    let at = |source| EdgeNodeError::File {
        path: path.to_owned(),
        source,
    };
    let aside = path.with_extension("tmp");
    let mut file = File::create(&aside).map_err(at)?;
    file.write_all(bytes).map_err(at)?;
    file.sync_all().map_err(at)?;
    std::fs::rename(&aside, path).map_err(at)?;
    match path.parent() {
        Some(dir) => File::open(dir).and_then(|dir| dir.sync_all()).map_err(at),
        None => Ok(()),
    }
}

//! A registry: tags that may move, go or not be there yet, and what the bytes behind a digest are like.

use crate::options::{Fault, Faults};
use crate::random::Random;
use holdfast_core::engine::{PinFailure, Resolved};
use holdfast_core::ids::Digest;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Versions from here on are good: what the world wants once it is calm.
pub const GOOD_FROM: u64 = 1_000;

/// What a release turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    Good,
    /// Answers wrongly, once it has traffic.
    Erring,
    /// Never passes the HTTP check.
    Unhealthy,
    /// The target says itself that it fails.
    Failing,
    /// Starts, and never gets ready.
    NeverReady,
    /// Ready, and restarts again and again.
    Restarting,
    /// Its jobs end with an error.
    JobFails,
}

#[derive(Debug, Clone)]
struct Content {
    app: String,
    version: u64,
    /// A moved tag's bytes are others.
    variant: u64,
}

pub struct Registry {
    seed: u64,
    tags: BTreeMap<String, BTreeMap<String, Digest>>,
    contents: BTreeMap<Digest, Content>,
    /// Blob that lists a pin's images, to the digests in it.
    images: BTreeMap<Digest, BTreeSet<Digest>>,
    gone: BTreeSet<Digest>,
    pub away_until: u64,
}

fn split(reference: &str) -> (&str, &str) {
    reference.rsplit_once(':').unwrap_or((reference, ""))
}

fn version_of(tag: &str) -> u64 {
    tag.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

impl Registry {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            tags: BTreeMap::new(),
            contents: BTreeMap::new(),
            images: BTreeMap::new(),
            gone: BTreeSet::new(),
            away_until: 0,
        }
    }

    fn content(&mut self, app: &str, version: u64, variant: u64) -> Digest {
        let digest = Digest::of(format!("{app} {version} {variant}").as_bytes());
        self.contents.entry(digest.clone()).or_insert_with(|| Content {
            app: app.to_owned(),
            version,
            variant,
        });
        digest
    }

    /// Makes sure that the tag is there. Some tags are another name for the version before.
    pub fn publish(&mut self, reference: &str) -> Digest {
        let (repository, tag) = split(reference);
        if let Some(digest) = self.tags.get(repository).and_then(|tags| tags.get(tag)) {
            return digest.clone();
        }
        let version = version_of(tag);
        let alias = version > 0 && version < GOOD_FROM && Random::of(self.seed, reference).chance(10);
        let app = repository.rsplit('/').next().unwrap_or_default().to_owned();
        let digest = self.content(&app, version - u64::from(alias), 0);
        self.tags
            .entry(repository.to_owned())
            .or_default()
            .insert(tag.to_owned(), digest.clone());
        digest
    }

    pub fn quality(&self, digest: &Digest) -> Quality {
        let Some(content) = self.contents.get(digest) else {
            return Quality::Good;
        };
        if content.version >= GOOD_FROM {
            return Quality::Good;
        }
        let what = format!("{}/{}/{}", content.app, content.version, content.variant);
        match Random::of(self.seed, &what).below(100) {
            0..55 => Quality::Good,
            55..66 => Quality::Erring,
            66..74 => Quality::Unhealthy,
            74..82 => Quality::Failing,
            82..87 => Quality::NeverReady,
            87..93 => Quality::Restarting,
            _ => Quality::JobFails,
        }
    }

    pub fn is_away(&self, now: u64) -> bool {
        now < self.away_until
    }

    pub fn resolve(&mut self, reference: &str, faults: &mut Faults, now: u64) -> Result<Resolved, PinFailure> {
        let failure = |message: &str| {
            Err(PinFailure {
                message: message.into(),
                retry_after_ms: None,
            })
        };
        if self.is_away(now) || faults.strikes(Fault::RegistryDown, 10) {
            return failure("registry away");
        }
        let mut digest = self.publish(reference);
        let (repository, tag) = split(reference);
        if faults.strikes(Fault::TagMoved, 10) {
            let (app, version) = (self.contents[&digest].app.clone(), self.contents[&digest].version);
            let variant = 1 + faults.below(Fault::TagMoved, 3);
            digest = self.content(&app, version, variant);
            if let Some(tags) = self.tags.get_mut(repository) {
                tags.insert(tag.to_owned(), digest.clone());
            }
        }
        if version_of(tag) < GOOD_FROM && faults.strikes(Fault::TagGone, 4) {
            self.gone.insert(digest.clone());
        }
        if self.gone.contains(&digest) {
            return failure("manifest unknown");
        }
        let images = serde_json::to_vec(&json!([{ "manifest": digest }])).unwrap_or_default();
        let accepted: BTreeSet<Digest> = [digest.clone()].into();
        self.images.insert(Digest::of(&images), accepted.clone());
        Ok(Resolved {
            digest,
            source: repository.to_owned(),
            images,
            accepted,
            blobs: Vec::new(),
            evidence: json!({}),
        })
    }

    pub fn accepted(&self, blob: &Digest) -> BTreeSet<Digest> {
        self.images.get(blob).cloned().unwrap_or_default()
    }

    pub fn tags(&mut self, repository: &str, faults: &mut Faults, now: u64) -> Result<Vec<String>, PinFailure> {
        if self.is_away(now) || faults.strikes(Fault::RegistryDown, 10) {
            return Err(PinFailure {
                message: "registry away".into(),
                retry_after_ms: None,
            });
        }
        let tags = self.tags.get(repository);
        Ok(tags.into_iter().flat_map(|tags| tags.keys().cloned()).collect())
    }

    pub fn pullable<'a>(&self, artifacts: impl Iterator<Item = &'a Digest>, now: u64) -> Result<(), String> {
        if self.is_away(now) {
            return Err("registry away".into());
        }
        let mut artifacts = artifacts;
        match artifacts.find(|digest| self.gone.contains(digest)) {
            Some(digest) => Err(format!("{} is gone", digest.short())),
            None => Ok(()),
        }
    }
}

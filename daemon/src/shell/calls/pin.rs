//! Questions to registries: what a reference is, which tags there are, and whether a release could still be pulled.

use crate::shell::answer::{Blobs, accepted};
use futures_util::{StreamExt, stream};
use holdfast_core::engine::{PinFailure, Resolved};
use holdfast_core::ids::Digest;
use holdfast_core::state::ReleaseState;
use holdfast_core::target::{BlobRef, PlatformImage};
use holdfast_registry::{Class, Reference, Registries, RegistryError, Wanted};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(120);
const HEADS_AT_ONCE: usize = 8;

fn failure(message: impl Into<String>) -> PinFailure {
    PinFailure {
        message: message.into(),
        retry_after_ms: None,
    }
}

fn refused(error: &RegistryError) -> PinFailure {
    PinFailure {
        message: error.to_string(),
        retry_after_ms: error.retry_after_ms,
    }
}

async fn in_time<T>(what: &str, outcome: impl Future<Output = Result<T, PinFailure>>) -> Result<T, PinFailure> {
    match tokio::time::timeout(DEADLINE, outcome).await {
        Ok(outcome) => outcome,
        Err(_) => Err(failure(format!("{what}: no answer within {} s", DEADLINE.as_secs()))),
    }
}

pub(super) async fn pin(registries: &Registries, reference: &str, known: Option<String>) -> Result<Resolved, PinFailure> {
    in_time(reference, resolve(registries, reference, known)).await
}

async fn resolve(registries: &Registries, reference: &str, known: Option<String>) -> Result<Resolved, PinFailure> {
    let parsed = Reference::parse(reference).map_err(|error| failure(error.to_string()))?;
    let resolved = registries.resolve(&parsed, known.as_deref()).await;
    let Some(resolution) = resolved.map_err(|error| refused(&error))? else {
        // As it was: the digest alone says so.
        let digest = known
            .and_then(|known| known.parse().ok())
            .ok_or_else(|| failure("the registry says unchanged, but of what?"))?;
        return Ok(Resolved {
            digest,
            source: parsed.source(),
            images: Vec::new(),
            accepted: Default::default(),
            blobs: Vec::new(),
            evidence: Value::Null,
        });
    };
    let images = serde_json::to_vec(&resolution.images).map_err(|error| failure(error.to_string()))?;
    let listed: Vec<PlatformImage> = serde_json::from_slice(&images).map_err(|error| failure(error.to_string()))?;
    let mut accepted = accepted(&listed);
    let digest: Digest = resolution
        .digest
        .parse()
        .map_err(|_| failure("the registry's digest is not sha256"))?;
    accepted.insert(digest.clone());
    let blobs = resolution
        .manifests
        .into_iter()
        .filter_map(|(digest, bytes)| Some((digest.parse().ok()?, bytes)))
        .collect();
    let evidence = serde_json::to_value(&resolution.evidence).unwrap_or_default();
    Ok(Resolved {
        digest,
        source: resolution.source,
        images,
        accepted,
        blobs,
        evidence,
    })
}

pub(super) async fn tags(registries: &Registries, repository: &str) -> Result<Vec<String>, PinFailure> {
    in_time(repository, async {
        registries.tags(repository).await.map_err(|error| refused(&error))
    })
    .await
}

/// Ok when everything of the release is where it was: index, manifests, configs and layers. They are asked for, not pulled.
pub(crate) async fn pullable(registries: &Registries, blobs: &Blobs, release: Option<&ReleaseState>) -> Result<(), String> {
    let release = release.ok_or("the release is not known any more")?;
    let images = |blob: &Digest| blobs.images(blob);
    match tokio::time::timeout(DEADLINE, all_there(registries, images, release)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(unknown(&format!("no answer within {} s", DEADLINE.as_secs()))),
    }
}

fn unknown(why: &str) -> String {
    format!("whether it could be pulled cannot be known now: {why}")
}

async fn all_there(
    registries: &Registries,
    images: impl Fn(&Digest) -> Result<Vec<PlatformImage>, String>,
    release: &ReleaseState,
) -> Result<(), String> {
    let mut wanted = BTreeSet::new();
    for (name, digest) in &release.artifacts {
        let source = release
            .sources
            .get(name)
            .ok_or_else(|| format!("artifact {name} has no source"))?;
        let images = match release.images.get(name).map(&images) {
            Some(Ok(images)) if !images.is_empty() => images,
            // Not written down, so the registry says what belongs to it.
            _ => listed(registries, source, digest)
                .await
                .map_err(|error| said(name, "its images", &error))?,
        };
        let index = Wanted::Manifest {
            digest: digest.to_string(),
        };
        let parts = std::iter::once((0, index)).chain(images.iter().flat_map(parts));
        wanted.extend(parts.map(|(kind, part)| (name.as_str(), source.as_str(), kind, part)));
    }
    let heads: Vec<_> = wanted
        .iter()
        .map(|(name, source, kind, part)| async move {
            let what = format!("{} {}", KINDS[*kind], part.digest());
            let outcome = registries.has(source, part).await;
            outcome.map_err(|error| said(name, &what, &error))
        })
        .collect();
    let failures: Vec<String> = stream::iter(heads)
        .buffered(HEADS_AT_ONCE)
        .filter_map(|outcome| async { outcome.err() })
        .collect()
        .await;
    match failures.as_slice() {
        [] => Ok(()),
        [only] => Err(only.clone()),
        [first, more @ ..] => Err(format!("{first}; and {} more", more.len())),
    }
}

/// What a part is, for people.
const KINDS: [&str; 4] = ["index or manifest", "manifest", "config", "layer"];

fn parts(image: &PlatformImage) -> impl Iterator<Item = (usize, Wanted)> {
    let manifest = Wanted::Manifest {
        digest: image.manifest.clone(),
    };
    let config = Wanted::Blob {
        digest: image.config.clone(),
        size_bytes: None,
    };
    // Foreign layers come from elsewhere, and never were in the registry.
    let own = |media_type: &str| !media_type.contains(".foreign.") && !media_type.contains("nondistributable");
    let layers = image.blobs.iter().filter(move |blob| own(&blob.media_type)).map(|blob| {
        let layer = Wanted::Blob {
            digest: blob.digest.clone(),
            size_bytes: Some(blob.size_bytes),
        };
        (3, layer)
    });
    [(1, manifest), (2, config)].into_iter().chain(layers)
}

async fn listed(registries: &Registries, source: &str, digest: &Digest) -> Result<Vec<PlatformImage>, RegistryError> {
    let found = registries.fetch_images(source, digest.as_str()).await?;
    let image = |image: holdfast_registry::PlatformImage| PlatformImage {
        platform: image.platform,
        manifest: image.manifest,
        config: image.config,
        blobs: image
            .blobs
            .into_iter()
            .map(|blob| BlobRef {
                digest: blob.digest,
                media_type: blob.media_type,
                size_bytes: blob.size_bytes,
            })
            .collect(),
    };
    Ok(found.into_iter().map(image).collect())
}

/// Gone, or not to be known: these are different waits.
fn said(artifact: &str, what: &str, error: &RegistryError) -> String {
    match error.class {
        Class::NotFound => format!("artifact {artifact}: {what} is gone: {error}"),
        Class::DigestMismatch => format!("artifact {artifact}: {what} is not what it was: {error}"),
        _ => unknown(&format!("artifact {artifact}: {what}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_registry::layout::Writer;
    use serde_json::json;

    const SOURCE: &str = "bundles.example.com/team/app";

    struct Layout {
        dir: tempfile::TempDir,
        release: ReleaseState,
        images: Vec<PlatformImage>,
    }

    impl Layout {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let writer = Writer::create(&dir.path().join("team/app")).unwrap();
            let manifest = writer.component(b"a component").unwrap();
            writer.tag("v1", &manifest).unwrap();
            let parsed: Value = serde_json::from_slice(&Self::read(&dir, &manifest)).unwrap();
            let digest = |value: &Value| value["digest"].as_str().unwrap().to_owned();
            let images = vec![PlatformImage {
                platform: String::new(),
                manifest: manifest.clone(),
                config: digest(&parsed["config"]),
                blobs: vec![
                    BlobRef {
                        digest: digest(&parsed["layers"][0]),
                        media_type: "application/wasm".into(),
                        size_bytes: 11,
                    },
                    BlobRef {
                        digest: Digest::of(b"kept by somebody else").to_string(),
                        media_type: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into(),
                        size_bytes: 1,
                    },
                ],
            }];
            let release = ReleaseState {
                artifacts: [("main".to_owned(), manifest.parse().unwrap())].into(),
                sources: [("main".to_owned(), SOURCE.to_owned())].into(),
                images: [("main".to_owned(), Digest::of(b"images"))].into(),
                before: Vec::new(),
                after: Vec::new(),
            };
            Self { dir, release, images }
        }

        fn file(dir: &tempfile::TempDir, digest: &str) -> std::path::PathBuf {
            dir.path().join("team/app/blobs/sha256").join(&digest["sha256:".len()..])
        }

        fn read(dir: &tempfile::TempDir, digest: &str) -> Vec<u8> {
            std::fs::read(Self::file(dir, digest)).unwrap()
        }

        fn registries(&self) -> Registries {
            let config = json!({ "host": "bundles.example.com", "layout": self.dir.path() });
            Registries::new(&[serde_json::from_value(config).unwrap()]).unwrap()
        }

        async fn pullable(&self, recorded: bool) -> Result<(), String> {
            let images = |_: &Digest| match recorded {
                true => Ok(self.images.clone()),
                false => Err("the blob is gone".to_owned()),
            };
            all_there(&self.registries(), images, &self.release).await
        }
    }

    #[tokio::test]
    async fn every_part_of_a_release_must_be_there() {
        let whole = Layout::new();
        assert_eq!(whole.pullable(true).await, Ok(()));
        assert_eq!(whole.pullable(false).await, Ok(()), "the registry says what belongs to it");
        let image = &whole.images[0];
        for (lost, part) in [
            (&image.manifest, "is gone"),
            (&image.config, "artifact main: config sha256:"),
            (&image.blobs[0].digest, "artifact main: layer sha256:"),
        ] {
            let layout = Layout::new();
            std::fs::remove_file(Layout::file(&layout.dir, lost)).unwrap();
            for recorded in [true, false] {
                let why = layout.pullable(recorded).await.unwrap_err();
                assert!(why.contains(part) && why.contains("is gone"), "{lost}: {why}");
            }
        }
        let changed = Layout::new();
        std::fs::write(Layout::file(&changed.dir, &image.blobs[0].digest), "shorter").unwrap();
        let why = changed.pullable(true).await.unwrap_err();
        assert!(
            why.contains("is not what it was") && why.contains("7 bytes instead of 11"),
            "{why}"
        );
    }

    #[tokio::test]
    async fn what_cannot_be_known_is_not_gone() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = json!({ "host": closed.to_string(), "plain_http": true, "timeout_ms": 2_000 });
        let registries = Registries::new(&[serde_json::from_value(config).unwrap()]).unwrap();
        let mut release = Layout::new().release;
        release.sources.insert("main".into(), format!("{closed}/team/app"));
        let images = |_: &Digest| Ok(Layout::new().images);
        let why = all_there(&registries, images, &release).await.unwrap_err();
        assert!(why.starts_with("whether it could be pulled cannot be known now: "), "{why}");
        assert!(!why.contains("is gone") && why.ends_with("; and 3 more"), "{why}");
        let why = pullable_of_nothing(&registries).await.unwrap_err();
        assert_eq!(why, "the release is not known any more");
    }

    async fn pullable_of_nothing(registries: &Registries) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, _) = holdfast_ledger::Ledger::open(dir.path(), Default::default()).unwrap();
        pullable(registries, &Blobs::new(ledger.reader()), None).await
    }

    #[tokio::test]
    async fn tags_and_their_failures_come_back() {
        let layout = Layout::new();
        assert_eq!(tags(&layout.registries(), SOURCE).await.unwrap(), ["v1"]);
        for (repository, part) in [
            ("bundles.example.com/none", "is not in the layout"),
            ("elsewhere.example.com/app", "is not in the operator's configuration"),
            ("app", "names no registry"),
        ] {
            let failure = tags(&layout.registries(), repository).await.unwrap_err();
            assert!(failure.message.contains(part), "{failure:?}");
        }
    }
}

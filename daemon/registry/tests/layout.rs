//! Image-layout directories: written by this crate and by others, complete, damaged and hostile.

mod common;

use common::sha256;
use holdfast_registry::{Class, INDEX_TYPE, MANIFEST_TYPE, Reference, Registries, Wanted, layout};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

struct Layout {
    root: tempfile::TempDir,
    writer: layout::Writer,
}

impl Layout {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let writer = layout::Writer::create(&root.path().join("team/app")).unwrap();
        Self { root, writer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("team/app").join(name)
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        self.path("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    fn registries(&self) -> Registries {
        let config = json!({ "host": "bundles.example.com", "layout": self.root.path() });
        Registries::new(&[serde_json::from_value(config).unwrap()]).unwrap()
    }

    fn edit_index(&self, edit: impl Fn(&mut Vec<Value>)) {
        let mut index: Value = serde_json::from_slice(&std::fs::read(self.path("index.json")).unwrap()).unwrap();
        edit(index["manifests"].as_array_mut().unwrap());
        std::fs::write(self.path("index.json"), index.to_string()).unwrap();
    }
}

const SOURCE: &str = "bundles.example.com/team/app";

fn reference(tag: &str) -> Reference {
    Reference::parse(&format!("{SOURCE}:{tag}")).unwrap()
}

#[tokio::test]
async fn tags_move_and_digests_stay() {
    let layout = Layout::new();
    let registries = layout.registries();
    let first = layout.writer.component(b"one").unwrap();
    layout.writer.tag("stable", &first).unwrap();
    let resolved = registries.resolve(&reference("stable"), None).await.unwrap().unwrap();
    assert_eq!((resolved.digest.as_str(), resolved.source.as_str()), (first.as_str(), SOURCE));
    assert_eq!(resolved.images[0].blobs[0].digest, sha256(b"one"));
    assert_eq!(resolved.evidence.status, 0);
    assert_eq!(registries.resolve(&reference("stable"), Some(&first)).await.unwrap(), None);
    let second = layout.writer.directory(b"tar").unwrap();
    layout.writer.tag("stable", &second).unwrap();
    layout.writer.tag("other", &first).unwrap();
    let moved = registries.resolve(&reference("stable"), Some(&first)).await.unwrap().unwrap();
    assert_eq!(moved.digest, second);
    assert_eq!(registries.fetch_blob(SOURCE, &sha256(b"one"), 100).await.unwrap(), b"one");
    assert_eq!(registries.tags(SOURCE).await.unwrap(), ["other", "stable"]);
}

#[tokio::test]
async fn an_index_gives_every_platform() {
    let layout = Layout::new();
    let (one, two) = (
        layout.writer.component(b"amd64").unwrap(),
        layout.writer.component(b"arm64").unwrap(),
    );
    let child = |digest: &str, architecture: &str| json!({ "mediaType": MANIFEST_TYPE, "digest": digest, "platform": { "os": "linux", "architecture": architecture } });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [child(&one, "amd64"), child(&two, "arm64")] });
    let digest = layout.writer.blob(index.to_string().as_bytes()).unwrap();
    layout.writer.tag("v1", &digest).unwrap();
    let resolved = layout.registries().resolve(&reference("v1"), None).await.unwrap().unwrap();
    let images: Vec<_> = resolved
        .images
        .iter()
        .map(|image| {
            (
                image.platform.as_str(),
                image.manifest.as_str(),
                image.blobs[0].digest.clone(),
            )
        })
        .collect();
    assert_eq!(resolved.digest, digest);
    assert_eq!(
        images,
        [
            ("linux/amd64", one.as_str(), sha256(b"amd64")),
            ("linux/arm64", two.as_str(), sha256(b"arm64")),
        ]
    );
    assert_eq!(resolved.manifests.len(), 3);
}

/// What was done to a good layout, the class of the failure, and a part of its message.
#[tokio::test]
async fn damage_is_named() {
    type Damage = fn(&Layout, &str);
    let cases: [(&str, Damage, Class, &str); 9] = [
        (
            "no such tag",
            |layout, _| layout.edit_index(Vec::clear),
            Class::NotFound,
            "is named \"v1\"",
        ),
        (
            "two of one tag",
            |layout, _| {
                layout.edit_index(|manifests| {
                    let again = manifests[0].clone();
                    manifests.push(again);
                });
            },
            Class::Invalid,
            "2 manifests",
        ),
        (
            "no digest",
            |layout, _| layout.edit_index(|manifests| manifests[0]["digest"] = json!("../../etc/passwd")),
            Class::Invalid,
            "no sha256 digest",
        ),
        (
            "index is no JSON",
            |layout, _| std::fs::write(layout.path("index.json"), "x").unwrap(),
            Class::Invalid,
            "not JSON",
        ),
        (
            "no layout",
            |layout, _| std::fs::remove_dir_all(layout.path("")).unwrap(),
            Class::NotFound,
            "is not in the layout",
        ),
        (
            "blob is gone",
            |layout, digest| std::fs::remove_file(layout.blob_path(digest)).unwrap(),
            Class::NotFound,
            "is not in the layout",
        ),
        (
            "blob of other bytes",
            |layout, digest| std::fs::write(layout.blob_path(digest), "{}").unwrap(),
            Class::DigestMismatch,
            "has the hash",
        ),
        (
            "link out of the layout",
            |layout, digest| {
                let outside = layout.root.path().join("outside");
                std::fs::rename(layout.blob_path(digest), &outside).unwrap();
                symlink(outside, layout.blob_path(digest)).unwrap();
            },
            Class::Denied,
            "leads out of the layout",
        ),
        (
            "a directory",
            |layout, digest| {
                std::fs::remove_file(layout.blob_path(digest)).unwrap();
                std::fs::create_dir(layout.blob_path(digest)).unwrap();
            },
            Class::Invalid,
            "is not a file",
        ),
    ];
    for (name, damage, class, part) in cases {
        let layout = Layout::new();
        let digest = layout.writer.component(b"one").unwrap();
        layout.writer.tag("v1", &digest).unwrap();
        damage(&layout, &digest);
        let error = layout.registries().resolve(&reference("v1"), None).await.unwrap_err();
        assert_eq!(error.class, class, "{name}: {error}");
        assert!(error.message.contains(part), "{name}: {error}");
    }
}

#[tokio::test]
async fn what_could_be_pulled_is_looked_for() {
    let layout = Layout::new();
    let manifest = layout.writer.component(b"one").unwrap();
    let registries = layout.registries();
    let blob = |size_bytes| Wanted::Blob {
        digest: sha256(b"one"),
        size_bytes,
    };
    let class = |outcome: Result<(), holdfast_registry::RegistryError>| outcome.map_err(|error| error.class);
    assert_eq!(
        class(registries.has(SOURCE, &Wanted::Manifest { digest: manifest }).await),
        Ok(())
    );
    assert_eq!(class(registries.has(SOURCE, &blob(Some(3))).await), Ok(()));
    assert_eq!(
        class(registries.has(SOURCE, &blob(Some(4))).await),
        Err(Class::DigestMismatch)
    );
    std::fs::remove_file(layout.blob_path(&sha256(b"one"))).unwrap();
    assert_eq!(class(registries.has(SOURCE, &blob(Some(3))).await), Err(Class::NotFound));
}

#[tokio::test]
async fn too_many_tags_are_refused() {
    let layout = Layout::new();
    let digest = layout.writer.component(b"one").unwrap();
    layout.edit_index(|manifests| {
        for number in 0..10_001 {
            manifests
                .push(json!({ "digest": digest, "annotations": { "org.opencontainers.image.ref.name": format!("v{number}") } }));
        }
    });
    assert_eq!(layout.registries().tags(SOURCE).await.unwrap_err().class, Class::TooLarge);
}

#[tokio::test]
async fn a_component_is_pushed_and_pulled() {
    let layout = Layout::new();
    let registries = layout.registries();
    let annotations = std::collections::BTreeMap::from([("holdfast.plugin.note".to_owned(), "signed".to_owned())]);
    let pushed = registries
        .push_component(&reference("1.0"), b"\0asm component", &annotations)
        .await
        .unwrap();
    let pulled = registries.pull_component(&reference("1.0"), 100).await.unwrap();
    assert_eq!(
        (&pulled.manifest_digest, pulled.component.as_slice()),
        (&pushed, &b"\0asm component"[..])
    );
    assert_eq!(
        (&pulled.component_digest, &pulled.annotations),
        (&sha256(b"\0asm component"), &annotations)
    );
    let again = registries
        .push_component(&reference("1.1"), b"\0asm component", &annotations)
        .await;
    assert_eq!(again.unwrap(), pushed, "the same bytes have the same digest");
    let by_digest = Reference::parse(&format!("{SOURCE}@{pushed}")).unwrap();
    for (reference, max_bytes, class) in [
        (&reference("1.0"), 3, Class::TooLarge),
        (&reference("2.0"), 100, Class::NotFound),
    ] {
        assert_eq!(
            registries.pull_component(reference, max_bytes).await.unwrap_err().class,
            class
        );
    }
    let refused = registries.push_component(&by_digest, b"x", &annotations).await;
    assert_eq!(refused.unwrap_err().class, Class::Invalid, "a digest is no place to push to");
    let files = layout.writer.directory(b"not really gzip").unwrap();
    layout.writer.tag("files", &files).unwrap();
    assert_eq!(
        registries.pull_component(&reference("files"), 100).await.unwrap_err().class,
        Class::Invalid
    );
}

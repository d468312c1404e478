//! OCI image-layout directories: read with the same suspicion as a server, written reproducibly.

use crate::push::component_artifact;
use crate::reference::{Reference, Version, is_digest};
use crate::resolve::{BlobStream, Wanted};
use crate::{Class, MANIFEST_TYPE, RegistryError, TAGS_MAX, TAGS_MAX_BYTES, TAR_GZIP_LAYER_TYPE, sha256};
use bytes::BytesMut;
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;

const CHUNK_BYTES: usize = 64 << 10;
/// A layout's index lists every tag, so it may be as large as a list of tags.
const INDEX_MAX_BYTES: u64 = TAGS_MAX_BYTES;
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The layout of one repository below the registry's directory.
pub(crate) fn directory(root: &Path, repository: &str) -> PathBuf {
    // The grammar of repositories has neither `..` nor an absolute path.
    root.join(repository)
}

fn error(class: Class, what: impl Into<String>, message: impl Into<String>) -> RegistryError {
    RegistryError::new(class, what, message)
}

/// Opens a regular file that really lies below `dir`.
fn open_inside(dir: &Path, relative: &str, what: &str) -> Result<std::fs::File, RegistryError> {
    let real_dir = dir
        .canonicalize()
        .map_err(|source| unreadable(dir, relative, what, &source))?;
    let real = dir.join(relative).canonicalize();
    let real = real.map_err(|source| unreadable(dir, relative, what, &source))?;
    if !real.starts_with(&real_dir) {
        return Err(error(Class::Denied, what, format!("{relative} leads out of the layout")));
    }
    // Before it is opened: a pipe would block.
    let metadata = real.metadata().map_err(|source| unreadable(dir, relative, what, &source))?;
    if !metadata.is_file() {
        return Err(error(Class::Invalid, what, format!("{relative} is not a file")));
    }
    std::fs::File::open(&real).map_err(|source| unreadable(dir, relative, what, &source))
}

fn unreadable(dir: &Path, relative: &str, what: &str, source: &io::Error) -> RegistryError {
    match source.kind() {
        io::ErrorKind::NotFound => error(
            Class::NotFound,
            what,
            format!("{relative} is not in the layout {}", dir.display()),
        ),
        _ => error(Class::Unreachable, what, format!("{relative} of the layout: {source}")),
    }
}

/// Reads a file of at most `max_bytes`.
fn read_inside(dir: &Path, relative: &str, max_bytes: u64, what: &str) -> Result<Vec<u8>, RegistryError> {
    let file = open_inside(dir, relative, what)?;
    let mut bytes = Vec::new();
    file.take(max_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| unreadable(dir, relative, what, &source))?;
    if bytes.len() as u64 > max_bytes {
        return Err(error(
            Class::TooLarge,
            what,
            format!("{relative} has more than {max_bytes} bytes"),
        ));
    }
    Ok(bytes)
}

/// The digest that a reference has in the layout's index.
pub(crate) fn digest_of(dir: &Path, reference: &Reference) -> Result<String, RegistryError> {
    let what = reference.to_string();
    let tag = match &reference.version {
        Version::Digest(digest, _) => return Ok(digest.clone()),
        Version::Tag(tag) => tag,
    };
    let manifests = index(dir, &what)?;
    let named: Vec<&Value> = manifests
        .iter()
        .filter(|one| one["annotations"][REF_NAME].as_str() == Some(tag))
        .collect();
    match named.as_slice() {
        [] => Err(error(
            Class::NotFound,
            &what,
            format!("no manifest in the layout is named {tag:?}"),
        )),
        [one] => match one["digest"].as_str().filter(|digest| is_digest(digest)) {
            Some(digest) => Ok(digest.to_owned()),
            None => Err(error(Class::Invalid, &what, "the layout's index gives it no sha256 digest")),
        },
        _ => Err(error(
            Class::Invalid,
            &what,
            format!("{} manifests in the layout are named {tag:?}", named.len()),
        )),
    }
}

/// What `index.json` lists.
fn index(dir: &Path, what: &str) -> Result<Vec<Value>, RegistryError> {
    let bytes = read_inside(dir, "index.json", INDEX_MAX_BYTES, what)?;
    let index: Value =
        serde_json::from_slice(&bytes).map_err(|_| error(Class::Invalid, what, "index.json of the layout is not JSON"))?;
    Ok(index.get("manifests").and_then(Value::as_array).cloned().unwrap_or_default())
}

pub(crate) fn tags(dir: &Path, what: &str) -> Result<BTreeSet<String>, RegistryError> {
    let manifests = index(dir, what)?;
    let names = manifests.iter().filter_map(|one| one["annotations"][REF_NAME].as_str());
    let tags: BTreeSet<String> = names.map(str::to_owned).collect();
    if tags.len() > TAGS_MAX {
        return Err(error(Class::TooLarge, what, format!("it has more than {TAGS_MAX} tags")));
    }
    Ok(tags)
}

fn blob_path(digest: &str, what: &str) -> Result<String, RegistryError> {
    let hex = digest.strip_prefix("sha256:").filter(|_| is_digest(digest));
    let hex = hex.ok_or_else(|| error(Class::Invalid, what, format!("{digest:?} is not a sha256 digest")))?;
    Ok(format!("blobs/sha256/{hex}"))
}

/// A blob's bytes; the caller verifies them.
pub(crate) fn blob(dir: &Path, digest: &str, max_bytes: u64, what: &str) -> Result<Vec<u8>, RegistryError> {
    read_inside(dir, &blob_path(digest, what)?, max_bytes, what)
}

/// A blob's bytes as they are read; whoever reads them to their end verifies them.
pub(crate) fn open_blob(dir: &Path, digest: &str, what: &str) -> Result<BlobStream, RegistryError> {
    let relative = blob_path(digest, what)?;
    let file = tokio::fs::File::from_std(open_inside(dir, &relative, what)?);
    let (dir, what) = (dir.to_owned(), what.to_owned());
    let chunks = stream::try_unfold(file, move |mut file| {
        let (dir, relative, what) = (dir.clone(), relative.clone(), what.clone());
        async move {
            let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
            let read = file.read_buf(&mut chunk).await;
            let read = read.map_err(|source| unreadable(&dir, &relative, &what, &source))?;
            Ok((read > 0).then(|| (chunk.freeze(), file)))
        }
    });
    Ok(chunks.boxed())
}

/// Whether the file is there, with the size it should have.
pub(crate) fn has(dir: &Path, wanted: &Wanted, what: &str) -> Result<(), RegistryError> {
    let file = open_inside(dir, &blob_path(wanted.digest(), what)?, what)?;
    let length = file
        .metadata()
        .map_err(|source| error(Class::Unreachable, what, source.to_string()))?
        .len();
    match wanted {
        Wanted::Blob {
            size_bytes: Some(size), ..
        } if *size != length => {
            let message = format!("it has {length} bytes instead of {size}");
            Err(error(Class::DigestMismatch, what, message))
        }
        _ => Ok(()),
    }
}

/// Writes an OCI image layout.
pub struct Writer {
    dir: PathBuf,
}

impl Writer {
    pub fn create(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir.join("blobs/sha256"))?;
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        if !dir.join("index.json").exists() {
            std::fs::write(dir.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#)?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    pub fn blob(&self, bytes: &[u8]) -> io::Result<String> {
        let digest = sha256(bytes);
        replace(&self.dir.join("blobs/sha256").join(&digest["sha256:".len()..]), bytes)?;
        Ok(digest)
    }

    /// A Wasm OCI artifact: one component. Returns the manifest's digest.
    pub fn component(&self, component: &[u8]) -> io::Result<String> {
        let artifact = component_artifact(component, &BTreeMap::new());
        self.blob(component)?;
        self.blob(&artifact.config)?;
        self.blob(&artifact.manifest)
    }

    /// A directory of files, as one tar+gzip layer. `tar_gzip` is what its digest is about.
    pub fn directory(&self, tar_gzip: &[u8]) -> io::Result<String> {
        let layer = self.blob(tar_gzip)?;
        let config = b"{}";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": self.blob(config)?, "size": config.len() },
            "layers": [{ "mediaType": TAR_GZIP_LAYER_TYPE, "digest": layer, "size": tar_gzip.len() }],
        });
        self.blob(&serde_json::to_vec(&manifest)?)
    }

    /// Points a tag at a manifest, in one rename.
    pub fn tag(&self, tag: &str, digest: &str) -> io::Result<()> {
        let path = self.dir.join("index.json");
        let mut index: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let size = std::fs::metadata(self.dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:")))?.len();
        if let Some(manifests) = index["manifests"].as_array_mut() {
            manifests.retain(|one| one["annotations"][REF_NAME].as_str() != Some(tag));
            manifests
                .push(json!({ "mediaType": MANIFEST_TYPE, "digest": digest, "size": size, "annotations": { REF_NAME: tag } }));
        }
        replace(&path, &serde_json::to_vec_pretty(&index)?)
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("tmp");
    std::fs::write(&aside, bytes)?;
    std::fs::rename(aside, path)
}

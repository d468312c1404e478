//! Who vouches for a plugin: a C2SP signed note over its id, version and digest.

use holdfast_host::Inspection;
use holdfast_ledger::tlog::note::{Note, VerifierKey};
use std::path::{Path, PathBuf};

/// Of a manifest, with the note in it.
pub const ANNOTATION: &str = "holdfast.plugin.note";

pub fn note_text(inspection: &Inspection) -> String {
    let (id, version) = match &inspection.metadata {
        Some(metadata) => (metadata.id.as_str(), metadata.version.as_str()),
        None => ("-", "-"),
    };
    format!("holdfast plugin\n{id} {version}\n{}\n", inspection.digest)
}

/// Where the note of a file lies.
pub fn note_file(component: &Path) -> PathBuf {
    let mut name = component.as_os_str().to_owned();
    name.push(".note");
    name.into()
}

/// Names of those of the keys that signed this very component.
pub fn signers(inspection: &Inspection, note: Option<&str>, keys: &[VerifierKey]) -> Vec<String> {
    let Some(note) = note.and_then(|note| Note::parse(note.as_bytes()).ok()) else {
        return Vec::new();
    };
    if note.text != note_text(inspection) {
        return Vec::new();
    }
    let signed = keys.iter().filter(|key| note.verify(key).is_ok());
    signed.map(|key| key.name().to_owned()).collect()
}

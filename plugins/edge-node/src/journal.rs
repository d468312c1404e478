//! The journal: one line for each effect, written and synced when it is first applied. A repeat of the same request adds
//! nothing, even over a crash, so an effect can be counted here.

use crate::EdgeNodeError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalLine {
    pub fence: u64,
    /// launch, size, route, retire, job (it starts), job-done or job-failed (it ended).
    pub verb: String,
    pub workload: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub generation: Option<u32>,
    pub deploy_id: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub shares: BTreeMap<u32, u32>,
    /// Name of the job, with that of its generation before it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub job: Option<String>,
}

pub struct Journal {
    path: PathBuf,
    file: File,
    /// Workload to the highest fence that has a line.
    written: BTreeMap<String, u64>,
}

impl Journal {
    pub fn open(path: &Path) -> Result<Self, EdgeNodeError> {
        let at = |source| EdgeNodeError::File {
            path: path.to_owned(),
            source,
        };
        let text = match std::fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(at(source)),
        };
        let mut written: BTreeMap<String, u64> = BTreeMap::new();
        // A line that a kill cut short was never acted on.
        for line in text.lines().filter_map(|line| serde_json::from_str::<JournalLine>(line).ok()) {
            let fence = written.entry(line.workload).or_default();
            *fence = (*fence).max(line.fence);
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(at)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").map_err(at)?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            written,
        })
    }

    /// Durable before the effect is.
    pub fn write(&mut self, line: &JournalLine) -> Result<(), EdgeNodeError> {
        if self.written.get(&line.workload).is_some_and(|fence| *fence >= line.fence) {
            return Ok(());
        }
        self.append(line)
    }

    /// A line that is no repeat, whatever its fence.
    pub fn append(&mut self, line: &JournalLine) -> Result<(), EdgeNodeError> {
        let at = |source| EdgeNodeError::File {
            path: self.path.clone(),
            source,
        };
        let mut bytes = serde_json::to_vec(line).unwrap_or_default();
        bytes.push(b'\n');
        self.file.write_all(&bytes).map_err(at)?;
        self.file.sync_data().map_err(at)?;
        let fence = self.written.entry(line.workload.clone()).or_default();
        *fence = (*fence).max(line.fence);
        Ok(())
    }
}

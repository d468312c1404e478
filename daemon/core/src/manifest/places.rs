//! Where the manifests say what: for problems that are found only after they were read, as by a registry or a plugin.

use super::decode::Document;
use crate::ids::{TargetName, WorkloadId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Of the revision read last. Only words depend on it, never a decision.
#[derive(Debug, Clone, Default)]
pub struct Places {
    workloads: BTreeMap<WorkloadId, Written>,
    targets: BTreeMap<TargetName, Written>,
}

#[derive(Debug, Clone)]
struct Written {
    file: String,
    document: Arc<Document>,
}

impl Written {
    /// ` (apps/shop.yaml:6:20)`: the field that `pointer` names below `spec`, or what holds it.
    fn suffix(&self, pointer: &str) -> String {
        let place = self.document.node.locate(&format!("/spec{pointer}"));
        format!(" ({}:{}:{})", self.file, place.line, place.column)
    }
}

impl Places {
    pub(super) fn add_workload(&mut self, id: WorkloadId, file: &str, document: &Arc<Document>) {
        let (file, document) = (file.to_owned(), document.clone());
        self.workloads.insert(id, Written { file, document });
    }

    pub(super) fn add_target(&mut self, name: TargetName, file: &str, document: &Arc<Document>) {
        let (file, document) = (file.to_owned(), document.clone());
        self.targets.insert(name, Written { file, document });
    }

    /// To put behind a message; empty where the manifest is not known.
    pub fn suffix(&self, workload: &WorkloadId, pointer: &str) -> String {
        self.workloads
            .get(workload)
            .map_or(String::new(), |written| written.suffix(pointer))
    }

    /// As a plugin points at what it was given: `/config` and `/values` are the target's, all else the workload's, where
    /// `/files` is called `config.files`.
    pub fn suffix_of_check(&self, workload: &WorkloadId, target: &TargetName, pointer: &str) -> String {
        if pointer.starts_with("/config") || pointer.starts_with("/values") {
            return self
                .targets
                .get(target)
                .map_or(String::new(), |written| written.suffix(pointer));
        }
        match pointer.strip_prefix("/files") {
            Some(rest) => self.suffix(workload, &format!("/config/files{rest}")),
            None => self.suffix(workload, pointer),
        }
    }
}

//! `freeze` and `thaw` of a workload or a target. A freeze that is there already stays as it is, with its reason.

use super::*;
use crate::state::Frozen;

fn already(what: &str, frozen: &Frozen) -> Done {
    let reason = if frozen.reason.is_empty() {
        "no reason given"
    } else {
        &frozen.reason
    };
    Ok((None, format!("{what} is frozen already, by {}: {reason}", frozen.by)))
}

impl Engine {
    pub(super) fn freeze(&mut self, command: &CommandRequest, id: &WorkloadId, workload: &WorkloadState) -> Done {
        if let Some(frozen) = &workload.frozen {
            return already(id.as_str(), frozen);
        }
        let seq = self.record_command(command, CommandVerb::Freeze);
        Ok((
            Some(seq),
            format!(
                "{id} is frozen: nothing new begins, what is under way ends, until `holdfast thaw {}`",
                id.name()
            ),
        ))
    }

    pub(super) fn thaw(&mut self, command: &CommandRequest, id: &WorkloadId, workload: &WorkloadState) -> Done {
        if workload.frozen.is_none() {
            return refuse("not-frozen", format!("{id} is not frozen"));
        }
        let seq = self.record_command(command, CommandVerb::Thaw);
        Ok((Some(seq), format!("{id} is thawed")))
    }

    pub(super) fn freeze_target(&mut self, command: &CommandRequest, target: &TargetName) -> Done {
        let Some(state) = self.state.targets.get(target) else {
            return refuse("unknown-target", format!("no target {target} in the ledger"));
        };
        if let Some(frozen) = &state.frozen {
            return already(&format!("target {target}"), frozen);
        }
        let seq = self.record_command(command, CommandVerb::Freeze);
        Ok((
            Some(seq),
            format!("target {target} is frozen: nothing new begins there until `holdfast thaw --target {target}`"),
        ))
    }

    pub(super) fn thaw_target(&mut self, command: &CommandRequest, target: &TargetName) -> Done {
        let Some(state) = self.state.targets.get(target) else {
            return refuse("unknown-target", format!("no target {target} in the ledger"));
        };
        if state.frozen.is_none() {
            return refuse("not-frozen", format!("target {target} is not frozen"));
        }
        let seq = self.record_command(command, CommandVerb::Thaw);
        Ok((Some(seq), format!("target {target} is thawed")))
    }

    /// Workloads that run on a target or are placed on it.
    pub(super) fn workloads_on(&self, target: &TargetName) -> Vec<WorkloadId> {
        let here = |workload: &WorkloadState| workload.units.contains_key(target) || self.state.is_placed(workload, target);
        let all = self.state.workloads.iter();
        all.filter(|(_, workload)| here(workload)).map(|(id, _)| id.clone()).collect()
    }
}

//! Incidents: what a person found wrong with a deploy that had passed.

use super::*;
use crate::ids::parse_deploy_id;
use crate::state::INCIDENTS_MAX;

impl Engine {
    pub(super) fn open_incident(
        &mut self,
        command: &CommandRequest,
        id: &WorkloadId,
        workload: &WorkloadState,
        deploy: &str,
    ) -> Done {
        let is_known = parse_deploy_id(deploy).is_some_and(|(epoch, seq)| epoch <= self.state.epoch && seq < self.state.size);
        if !is_known {
            return refuse("unknown-deploy", format!("there is no deploy {deploy:?} in this ledger"));
        }
        if workload.incidents.contains(deploy) {
            return Ok((None, format!("an incident of {deploy} is open already")));
        }
        if workload.incidents.len() >= INCIDENTS_MAX {
            return refuse(
                "too-many-incidents",
                format!("{INCIDENTS_MAX} incidents of {id} are open already"),
            );
        }
        let deploy = deploy.to_owned();
        let seq = self.record_command(command, CommandVerb::OpenIncident { deploy: deploy.clone() });
        Ok((Some(seq), format!("an incident of {deploy} is open")))
    }

    pub(super) fn close_incident(
        &mut self,
        command: &CommandRequest,
        id: &WorkloadId,
        workload: &WorkloadState,
        deploy: &str,
    ) -> Done {
        if !workload.incidents.contains(deploy) {
            return refuse("no-incident", format!("no incident of {deploy:?} on {id} is open"));
        }
        let deploy = deploy.to_owned();
        let seq = self.record_command(command, CommandVerb::CloseIncident { deploy: deploy.clone() });
        Ok((Some(seq), format!("the incident of {deploy} is over")))
    }
}

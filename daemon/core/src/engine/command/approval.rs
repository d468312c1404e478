//! `approve`: one person's yes to one step of one rollout of one release.

use super::*;
use crate::view::{awaited_step, percent};

impl Engine {
    pub(super) fn approve(
        &mut self,
        command: &CommandRequest,
        id: &WorkloadId,
        workload: &WorkloadState,
        step: Option<u32>,
    ) -> Done {
        let Some(person) = &command.person else {
            return refuse(
                "not-a-person",
                format!(
                    "your unix user is in no `users` entry of holdfast.yaml ({}): only people whom the operator names there approve",
                    command.by.id
                ),
            );
        };
        let request = open(id, workload)?;
        if request.state == RolloutState::Aborting {
            return refuse("nothing-open", format!("the rollout of {id} is being aborted"));
        }
        let Some(approval) = workload.spec.as_ref().and_then(|spec| spec.approval.as_ref()) else {
            return refuse(
                "no-approval",
                format!("nothing of {id} needs an approval: its manifest has no `approval`"),
            );
        };
        let is_own = person.emails.iter().any(|email| request.contributors.contains(email));
        if is_own && !approval.allow_author {
            return refuse(
                "own-change",
                format!(
                    "{} wrote or committed a part of this change: somebody else approves it, unless the manifest says `allowAuthor: true` under `approval`",
                    person.name
                ),
            );
        }
        let step = match step.or_else(|| awaited_step(workload)) {
            Some(step) if approval.before.contains(&step) => step,
            Some(step) => {
                let steps: Vec<String> = approval.before.iter().map(|step| format!("{}%", percent(*step))).collect();
                return refuse(
                    "unknown-step",
                    format!(
                        "no approval is asked before {}%, only before {}",
                        percent(step),
                        steps.join(", ")
                    ),
                );
            }
            None => return refuse("nothing-to-approve", format!("no step of {id} waits for an approval")),
        };
        let what = format!("{}% of release {}", percent(step), request.release.short());
        let approvers = request.approvers(step);
        let needed = approval.count as usize;
        if approvers.contains(person.name.as_str()) || approvers.len() >= needed {
            let names: Vec<&str> = approvers.iter().copied().collect();
            return Ok((
                None,
                format!(
                    "{what} has {} of {needed} approvals already: {}",
                    approvers.len(),
                    names.join(", ")
                ),
            ));
        }
        let given = approvers.len() + 1;
        let verb = CommandVerb::Approve {
            rollout: request.id,
            release: request.release.clone(),
            step,
            approver: person.name.clone(),
        };
        let seq = self.record_command(command, verb);
        Ok((Some(seq), format!("{} approved {what}: {given} of {needed}", person.name)))
    }
}

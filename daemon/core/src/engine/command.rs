//! Commands of people: checked against State, written down with who and why, then carried out by the planners.

mod approval;
mod freeze;
mod incident;
mod precondition;
mod retry;

use super::*;
use crate::ids::ReleaseId;
use crate::state::{Request, WorkloadState};

/// The longest key that State remembers whole.
const KEY_MAX_BYTES: usize = 100;
/// The shortest beginning of a release id that may name one.
const PREFIX_MIN: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRequest {
    pub by: By,
    /// Who it is by the operator's configuration: only such a person may approve.
    pub person: Option<Person>,
    pub workload: Option<WorkloadId>,
    /// For what is about a target: freeze and thaw.
    pub target: Option<TargetName>,
    pub only_if: Precondition,
    pub wish: Wish,
    pub reason: String,
    /// The same key twice is one command.
    pub key: String,
}

/// A person whom the operator's configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub name: String,
    /// Salted hashes of their e-mail addresses, as in `source` entries.
    pub emails: BTreeSet<String>,
}

/// A command before names are resolved against State.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Wish {
    /// `to`: the beginning of a release id; none: the release proven before the present one.
    Rollback {
        to: Option<String>,
    },
    Pause,
    Resume,
    Abort,
    Advance,
    Lift {
        release: String,
    },
    AcceptRewrite {
        commit: String,
    },
    AllowRemovals,
    /// `step`: a weight in 1/10000; none: the one that is being waited for.
    Approve {
        step: Option<u32>,
    },
    Retry,
    DeployNow,
    /// Of the workload, or of the target that the request names.
    Freeze,
    Thaw,
    Repin {
        reference: String,
    },
    AllowHeals,
    /// Let the configured version of a plugin have what it newly wants.
    AllowPlugin {
        name: String,
    },
    OpenIncident {
        deploy: String,
    },
    CloseIncident {
        deploy: String,
    },
    /// The note is signed by the log's present key and by the new one, which the shell has checked and found in `key_file`.
    RotateLogKey {
        note: String,
        key_file: String,
    },
    /// `below` is a multiple of 256; whoever asks has checked that the export has everything below.
    PruneBundles {
        below: Seq,
        export: Digest,
    },
    /// The shell replaces the address by the hash that the ledger has of it.
    ForgetAddress {
        address: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CommandReply {
    /// The command's entry; none when it was so before, or the same key was carried out before.
    pub seq: Option<Seq>,
    pub message: String,
}

/// A command that does not fit what is; nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{message}")]
pub struct Refusal {
    /// A stable word.
    pub reason: String,
    pub message: String,
}

fn refuse<T>(reason: &str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        reason: reason.into(),
        message: message.into(),
    })
}

/// The command's entry, if one was needed, and what the person is told.
type Done = Result<(Option<Seq>, String), Refusal>;

impl Engine {
    pub(super) fn take_command(&mut self, token: Token, request: CommandRequest) {
        if self.state.command_keys.contains(&request.key) {
            let reply = CommandReply {
                seq: None,
                message: "already done".into(),
            };
            self.out.push(Output::Reply { token, reply: Ok(reply) });
            return;
        }
        match self.carry_out(&request) {
            Ok((Some(seq), message)) => {
                self.held_replies.push((seq, token, CommandReply { seq: Some(seq), message }));
                let touched = self.touched(&request);
                touched.iter().for_each(|id| self.schedule.mark_all(id));
            }
            Ok((None, message)) => {
                let reply = CommandReply { seq: None, message };
                self.out.push(Output::Reply { token, reply: Ok(reply) });
            }
            Err(refusal) => self.out.push(Output::Reply {
                token,
                reply: Err(refusal),
            }),
        }
    }

    /// Whose plans may be others now.
    fn touched(&self, command: &CommandRequest) -> Vec<WorkloadId> {
        match (&command.workload, &command.target, &command.wish) {
            (Some(workload), _, _) => vec![workload.clone()],
            (None, Some(target), _) => self.workloads_on(target),
            (None, None, Wish::AllowHeals) => self.state.workloads.keys().cloned().collect(),
            (None, None, _) => Vec::new(),
        }
    }

    fn carry_out(&mut self, command: &CommandRequest) -> Done {
        if command.key.len() > KEY_MAX_BYTES {
            return refuse("key-too-long", format!("a key has at most {KEY_MAX_BYTES} bytes"));
        }
        if command.target.is_some() && !matches!(command.wish, Wish::Freeze | Wish::Thaw) {
            return refuse("not-of-a-target", "only freeze and thaw are about a target");
        }
        if command.target.is_some() && command.workload.is_some() {
            return refuse("two-subjects", "name a workload or a target, not both");
        }
        if command.workload.is_none() && !command.only_if.is_empty() {
            return refuse(
                "precondition",
                "a precondition is about a rollout, and this command names no workload",
            );
        }
        match (&command.wish, &command.workload, &command.target) {
            (Wish::AcceptRewrite { commit }, _, _) => {
                let waiting = self.state.source.as_ref().and_then(|head| head.rewrite.clone());
                if waiting.as_ref() != Some(commit) {
                    return refuse("nothing-to-accept", "no rewritten tip with this commit is waiting");
                }
                let seq = self.record_command(command, CommandVerb::AcceptRewrite { commit: commit.clone() });
                Ok((Some(seq), format!("the rewritten tip {commit} is taken at the next sync")))
            }
            (Wish::AllowHeals, None, _) => Ok((
                Some(self.record_command(command, CommandVerb::AllowHeals)),
                "drift is healed again; the limits count from now".into(),
            )),
            (Wish::RotateLogKey { note, .. }, None, None) => {
                let seq = self.record_command(command, CommandVerb::RotateLogKey);
                let body = Body::LogKey(LogKey { note: note.clone() });
                self.append(Draft::new(On::default(), vec![seq], body), By::daemon());
                Ok((Some(seq), "the new key signs every checkpoint from here on".into()))
            }
            (Wish::PruneBundles { below, export }, None, None) => {
                if *below <= self.state.bundles_from {
                    return Ok((None, format!("bundles below {} went before", self.state.bundles_from)));
                }
                let seq = self.record_command(command, CommandVerb::PruneBundles);
                let (bundles_from, export) = (*below, export.clone());
                let body = Body::Retention(Retention { bundles_from, export });
                self.append(Draft::new(On::default(), vec![seq], body), By::daemon());
                Ok((Some(seq), format!("bundles below entry {below} are not published any more")))
            }
            (Wish::ForgetAddress { address }, None, None) => {
                let hash = address.clone();
                let seq = self.record_command(command, CommandVerb::ForgetAddress { hash });
                Ok((Some(seq), "the address cannot be told from its hash any more".into()))
            }
            (Wish::AllowPlugin { name }, None, _) => self.allow_plugin(command, name),
            (Wish::AllowHeals, Some(_), _) => refuse("not-of-a-workload", "the limit on heals is one for all workloads"),
            (Wish::Freeze, None, Some(target)) => self.freeze_target(command, target),
            (Wish::Thaw, None, Some(target)) => self.thaw_target(command, target),
            (_, None, _) => refuse("no-workload", "this command needs a workload"),
            (wish, Some(id), _) => {
                let Some(workload) = self.state.workloads.get(id).cloned() else {
                    return refuse("unknown-workload", format!("no workload {id} in the ledger"));
                };
                precondition::check(&command.only_if, id, &workload)?;
                self.on_workload(command, wish, id, &workload)
            }
        }
    }

    fn on_workload(&mut self, command: &CommandRequest, wish: &Wish, id: &WorkloadId, workload: &WorkloadState) -> Done {
        match wish {
            Wish::Pause => {
                open(id, workload)?;
                Ok((
                    Some(self.record_command(command, CommandVerb::Pause)),
                    format!("{id} is paused; what has traffic is still watched"),
                ))
            }
            Wish::Resume => {
                let request = open(id, workload)?;
                let seq = self.record_command(command, CommandVerb::Resume);
                if request.state == RolloutState::Halted {
                    self.record_rollout(id, &request, RolloutState::Rolling, "resumed", "somebody said resume");
                }
                Ok((Some(seq), format!("{id} goes on")))
            }
            Wish::Advance => {
                let request = open(id, workload)?;
                let at_a_step = workload.units.values().any(|unit| unit.attempt.is_some());
                if !at_a_step && request.state != RolloutState::Holding {
                    return refuse(
                        "nothing-open",
                        format!("no unit of {id} is at a hold or an analysis, and no wave is held"),
                    );
                }
                Ok((
                    Some(self.record_command(command, CommandVerb::Advance)),
                    "the present hold or analysis is over; health still counts".into(),
                ))
            }
            Wish::Abort => self.abort(command, id, workload),
            Wish::Rollback { to } => self.roll_back(command, id, workload, to.as_deref()),
            Wish::Lift { release } => self.lift(command, id, workload, release),
            Wish::AllowRemovals => {
                if !workload.units.values().any(|unit| unit.held) {
                    return refuse("nothing-held", format!("no removal of {id} is held"));
                }
                let workloads = [id.clone()].into();
                Ok((
                    Some(self.record_command(command, CommandVerb::AllowRemovals { workloads })),
                    format!("{id} may leave"),
                ))
            }
            Wish::Approve { step } => self.approve(command, id, workload, *step),
            Wish::Retry => self.retry(command, id, workload),
            Wish::DeployNow => {
                let request = open(id, workload)?;
                let older = |unit: &crate::state::UnitState| {
                    let attempt = unit.attempt.as_ref();
                    attempt.is_some_and(|attempt| attempt.request != request.id)
                };
                if request.now || !workload.units.values().any(older) {
                    return refuse(
                        "nothing-to-drop",
                        format!(
                            "no unit of {id} is at anything older than release {}",
                            request.release.short()
                        ),
                    );
                }
                Ok((
                    Some(self.record_command(command, CommandVerb::DeployNow)),
                    format!(
                        "what is at an older release turns back at once; release {} follows",
                        request.release.short()
                    ),
                ))
            }
            Wish::Freeze => self.freeze(command, id, workload),
            Wish::Thaw => self.thaw(command, id, workload),
            Wish::Repin { reference } => self.repin(command, id, workload, reference),
            Wish::OpenIncident { deploy } => self.open_incident(command, id, workload, deploy),
            Wish::CloseIncident { deploy } => self.close_incident(command, id, workload, deploy),
            Wish::AcceptRewrite { .. } => refuse("no-workload", "accept-rewrite is about the repository, not a workload"),
            Wish::AllowHeals => refuse("not-of-a-workload", "the limit on heals is one for all workloads"),
            Wish::RotateLogKey { .. } | Wish::PruneBundles { .. } | Wish::ForgetAddress { .. } => {
                refuse("not-of-a-workload", "the ledger is one for all workloads")
            }
            Wish::AllowPlugin { .. } => refuse("not-of-a-workload", "a plugin is not a workload's"),
        }
    }

    /// From here on new launches are the new version's; what runs and what is under way ends on the one that it began with.
    fn allow_plugin(&mut self, command: &CommandRequest, name: &str) -> Done {
        let Some(upgrade) = self.config.upgrades.get(name).cloned() else {
            return refuse(
                "nothing-held",
                format!("no version of plugin {name:?} is waiting to be allowed"),
            );
        };
        let verb = CommandVerb::AllowPlugin {
            name: name.to_owned(),
            plugin: upgrade.digest.clone(),
        };
        let seq = self.record_command(command, verb);
        let mut config = self.config.clone();
        config.upgrades.remove(name);
        config.plugins.insert(name.to_owned(), upgrade.digest.clone());
        self.configure(config);
        Ok((Some(seq), format!("plugin {name} is {} from here on", upgrade.digest.short())))
    }

    fn abort(&mut self, command: &CommandRequest, id: &WorkloadId, workload: &WorkloadState) -> Done {
        let request = open(id, workload)?;
        if request.state == RolloutState::Aborting {
            return Ok((None, format!("release {} is being aborted already", request.release.short())));
        }
        let seq = self.record_command(command, CommandVerb::Abort);
        self.quarantine_request(
            id,
            &request,
            "aborted",
            &format!("aborted by {}: {}", command.by.id, command.reason),
        );
        match workload.proven.iter().rev().find(|release| **release != request.release) {
            Some(back) => {
                self.record_rollout(id, &request, RolloutState::Aborted, "aborted", &command.reason);
                self.request_release(id, workload, back, seq, "aborted");
            }
            None => self.record_rollout(id, &request, RolloutState::Aborting, "aborted", &command.reason),
        }
        Ok((
            Some(seq),
            format!("release {} is aborted and quarantined", request.release.short()),
        ))
    }

    fn lift(&mut self, command: &CommandRequest, id: &WorkloadId, workload: &WorkloadState, release: &str) -> Done {
        let found = find_release(workload.quarantine.keys(), release)?;
        let seq = self.record_command(command, CommandVerb::Lift { release: found.clone() });
        let lift = Quarantine {
            action: QuarantineAction::Lift,
            release: found.clone(),
            attempt: workload.attempt_number(),
            values: None,
            reason: "lifted".into(),
            message: command.reason.clone(),
        };
        self.append(Draft::new(On::workload(id), vec![seq], Body::Quarantine(lift)), By::daemon());
        let still_wanted = workload.request.as_ref().is_some_and(|request| {
            request.release == found && !matches!(request.state, RolloutState::Rolling | RolloutState::Succeeded)
        });
        if still_wanted {
            self.request_release(id, workload, &found, seq, "lifted");
        }
        Ok((Some(seq), format!("release {} may be deployed again", found.short())))
    }

    /// The reference's digest is asked for anew; if it is another one, that is a new release.
    fn repin(&mut self, command: &CommandRequest, id: &WorkloadId, workload: &WorkloadState, reference: &str) -> Done {
        let names = workload.spec.iter().flat_map(|spec| spec.artifacts.keys());
        let references: BTreeSet<String> = names.filter_map(|name| workload.reference(name)).collect();
        if !references.contains(reference) {
            let known: Vec<&str> = references.iter().map(String::as_str).collect();
            return refuse(
                "unknown-reference",
                format!("{id} does not name {reference:?}; it names {}", known.join(", ")),
            );
        }
        if reference.contains("@sha256:") {
            return refuse("not-a-tag", format!("{reference} names a digest: it cannot point elsewhere"));
        }
        if !workload.pins.contains_key(reference) {
            return refuse(
                "not-pinned",
                format!("{reference} is not pinned yet: it is being resolved anyway"),
            );
        }
        if workload.repins.contains_key(reference) {
            return Ok((None, format!("{reference} is being resolved anew already")));
        }
        let verb = CommandVerb::Repin {
            reference: reference.to_owned(),
        };
        let seq = self.record_command(command, verb);
        if let Some(facts) = self.pins.get_mut(id).and_then(|pins| pins.get_mut(reference)) {
            (facts.again_at, facts.tries, facts.failure) = (0, 0, None);
        }
        Ok((
            Some(seq),
            format!("{reference} is resolved anew; another digest is a new release and is rolled out as one"),
        ))
    }

    fn roll_back(&mut self, command: &CommandRequest, id: &WorkloadId, workload: &WorkloadState, to: Option<&str>) -> Done {
        let Some(request) = workload.request.clone() else {
            return refuse("nothing-deployed", format!("nothing of {id} was ever requested"));
        };
        let back = match to {
            Some(to) => find_release(workload.proven.iter(), to)?,
            None => match workload.proven.iter().rev().find(|release| **release != request.release) {
                Some(release) => release.clone(),
                None => {
                    return refuse(
                        "no-way-back",
                        format!("no other release of {id} was ever stable on every target"),
                    );
                }
            },
        };
        if back == request.release && request.is_open() {
            return refuse(
                "already-wanted",
                format!("release {} is being rolled out already", back.short()),
            );
        }
        let seq = self.record_command(command, CommandVerb::Rollback { to: Some(back.clone()) });
        if back != request.release {
            self.quarantine_request(
                id,
                &request,
                "rolled-back",
                &format!("rolled back by {}: {}", command.by.id, command.reason),
            );
        }
        if request.is_open() {
            self.record_rollout(id, &request, RolloutState::Superseded, "rolled-back", &command.reason);
        }
        self.request_release(id, workload, &back, seq, "rollback");
        Ok((Some(seq), format!("going back to release {}", back.short())))
    }

    fn record_command(&mut self, command: &CommandRequest, verb: CommandVerb) -> Seq {
        let workload = command.workload.clone();
        let request = workload
            .as_ref()
            .and_then(|id| self.state.workloads.get(id)?.request.as_ref());
        let on = On {
            rollout: request.map(|request| request.id),
            workload,
            target: command.target.clone(),
            ..On::default()
        };
        let because = request.map(|request| request.seq).into_iter().collect();
        let body = Command {
            verb,
            reason: events::clip(&command.reason, 500),
            key: command.key.clone(),
            only_if: command.only_if.clone(),
        };
        self.append(Draft::new(on, because, Body::Command(body)), command.by.clone())
    }

    fn quarantine_request(&mut self, id: &WorkloadId, request: &Request, reason: &str, message: &str) {
        let quarantine = Quarantine {
            action: QuarantineAction::Set,
            release: request.release.clone(),
            attempt: request.attempt,
            values: None,
            reason: reason.into(),
            message: events::clip(message, 500),
        };
        self.append(Draft::following(On::workload(id), Body::Quarantine(quarantine)), By::daemon());
    }

    fn record_rollout(&mut self, id: &WorkloadId, request: &Request, to: RolloutState, reason: &str, message: &str) {
        let on = On {
            rollout: Some(request.id),
            ..On::workload(id)
        };
        let body = RolloutChange {
            to,
            release: request.release.clone(),
            wave: request.wave,
            reason: reason.into(),
            message: events::clip(message, 500),
            sources: BTreeMap::new(),
            before: Vec::new(),
            after: Vec::new(),
            artifacts: BTreeMap::new(),
        };
        let mut draft = Draft::following(on, Body::Rollout(body));
        draft.because.push(request.seq);
        self.append(draft, By::daemon());
    }

    /// A request that a command makes, for a release whose content the ledger holds.
    fn request_release(&mut self, id: &WorkloadId, workload: &WorkloadState, release: &ReleaseId, command: Seq, reason: &str) {
        let known = workload.releases.get(release);
        let body = RolloutChange {
            to: RolloutState::Rolling,
            release: release.clone(),
            wave: 0,
            reason: reason.into(),
            message: String::new(),
            sources: known.map(|known| known.sources.clone()).unwrap_or_default(),
            before: known.map(|known| known.before.clone()).unwrap_or_default(),
            after: known.map(|known| known.after.clone()).unwrap_or_default(),
            artifacts: known.map(|known| known.artifacts.clone()).unwrap_or_default(),
        };
        let on = On {
            rollout: Some(command),
            ..On::workload(id)
        };
        let mut draft = Draft::new(on, vec![command], Body::Rollout(body));
        draft.blobs.insert("release".into(), release.blob());
        for (name, images) in known.iter().flat_map(|known| &known.images) {
            draft.blobs.insert(format!("images/{name}"), images.clone());
        }
        self.append(draft, By::daemon());
    }
}

/// The rollout that a command is about.
fn open(id: &WorkloadId, workload: &WorkloadState) -> Result<Request, Refusal> {
    match workload.request.as_ref().filter(|request| request.is_open()) {
        Some(request) => Ok(request.clone()),
        None => refuse("nothing-open", format!("no rollout of {id} is open")),
    }
}

/// The one release whose id begins so.
fn find_release<'a>(releases: impl Iterator<Item = &'a ReleaseId>, prefix: &str) -> Result<ReleaseId, Refusal> {
    let found: BTreeSet<&ReleaseId> = releases.filter(|release| release.as_str().starts_with(prefix)).collect();
    match (found.len(), found.first()) {
        (1, Some(release)) if prefix.len() >= PREFIX_MIN => Ok((*release).clone()),
        (0, _) => refuse(
            "unknown-release",
            format!("no release that could be meant begins with {prefix:?}"),
        ),
        _ => refuse("ambiguous-release", format!("{prefix:?} is too short to name one release")),
    }
}

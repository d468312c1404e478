//! What people see of State: two lines for each workload, Wanted and Running, every wait with since-when and what ends
//! it, and each way out as a command. Plain data; the CLI draws it and `--json` prints it.

mod exits;
mod log;
mod unit;

pub use log::last_log_lines;
pub use unit::{AttemptView, DriftView, LastView, OverlayView, ParkedView, UnitView};

use crate::engine::Engine;
use crate::entry::{Presence, RolloutState};
use crate::ids::{Millis, WorkloadId};
use crate::plan::Waiting;
use crate::state::{Claim, Frozen, JobOutcome, Place, Request, State, WorkloadState};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// What the daemon is at: starting, ready or stopping. Empty without a daemon.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Entries in the ledger, and how many of them are durable.
    pub entries: u64,
    pub durable: u64,
    pub t: Millis,
    pub epoch: u64,
    pub owner: String,
    pub source: Option<SourceView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untrusted: Option<UntrustedView>,
    pub targets: Vec<TargetView>,
    pub workloads: Vec<WorkloadView>,
    /// What is wrong with the ledger while the daemon goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ledger_alarms: Vec<String>,
    /// What a person can do about what is not one workload's.
    #[serde(default)]
    pub exits: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceView {
    pub commit: String,
    pub summary: String,
    #[serde(default)]
    pub since: Millis,
    pub problems: Vec<String>,
    /// A rewritten tip that waits for a person.
    pub rewrite: Option<String>,
}

/// The tip, when nothing of it was taken because of its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UntrustedView {
    pub commit: String,
    pub verdict: String,
    pub since: Millis,
    /// What is wrong, and what to do about it.
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetView {
    pub name: String,
    pub plugin: String,
    /// ok, unseen, unreachable, conflict, ahead or orphaned.
    pub state: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<FrozenView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrozenView {
    pub by: String,
    pub reason: String,
    pub since: Millis,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkloadView {
    pub name: String,
    /// present, unknown or absent.
    pub presence: String,
    /// The manifest says `suspend: true`.
    pub suspended: bool,
    pub frozen: Option<FrozenView>,
    /// The entry with the newest manifest, and whether the request below does what it says.
    pub spec: u64,
    pub taken_up: bool,
    pub wanted: Option<WantedView>,
    pub waiting: Option<WaitView>,
    pub wave: Option<WaveView>,
    pub approvals: Vec<ApprovalView>,
    pub jobs: Vec<JobView>,
    pub units: Vec<UnitView>,
    pub quarantine: Vec<QuarantineView>,
    pub moved_tags: Vec<MovedTagView>,
    /// What a person can do about it, as commands.
    pub exits: Vec<String>,
    /// Every unit runs what is wanted, or it is settled that it will not.
    pub settled: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WantedView {
    pub request: u64,
    pub release: String,
    pub commit: String,
    /// What made the request.
    #[serde(default)]
    pub cause: CauseView,
    pub state: RolloutState,
    pub since: Millis,
    #[serde(default)]
    pub began: Millis,
    pub reason: String,
    pub message: String,
    pub paused: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseView {
    /// commit, selection, repin or command; empty while it is not looked up.
    pub kind: String,
    /// The commit's summary, the reference, or who said what and why.
    pub text: String,
}

/// What somebody waits for, since when, and what ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitView {
    /// A stable word.
    pub on: String,
    pub message: String,
    pub since: Millis,
    /// When it ends by itself, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
    /// What ends it, for people; empty where that is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ends: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaveView {
    /// From 1.
    pub number: u32,
    pub of: u32,
    /// Targets that this wave reaches, of all that the workload is placed on.
    pub reaches: u32,
    pub targets: u32,
    /// Targets that run the release, alone.
    pub stable: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApprovalView {
    /// Weight in 1/10000.
    pub step: u32,
    pub given: Vec<String>,
    pub needed: u32,
    /// This one is waited for next.
    pub awaited: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// `HOOK/JOB`, or `HOOK/JOB@TARGET` for a job of each target.
    pub job: String,
    pub target: String,
    pub outcome: JobOutcome,
    pub since: Millis,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuarantineView {
    pub release: String,
    pub reason: String,
    pub message: String,
    pub entry: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MovedTagView {
    pub reference: String,
    pub pinned: String,
    pub seen: String,
}

/// With an engine, waits are known too.
pub fn status(engine: &Engine) -> StatusView {
    let mut view = of_state(engine.state());
    view.durable = engine.durable();
    view.t = engine.now().t;
    for workload in &mut view.workloads {
        let Ok(id) = WorkloadId::try_from(workload.name.clone()) else {
            continue;
        };
        workload.waiting = engine.waiting(&id, None).map(|waiting| wait_view(waiting, id.name()));
        for unit in &mut workload.units {
            unit.waiting = engine
                .waiting(&id, Some(&unit.target))
                .map(|waiting| wait_view(waiting, id.name()));
            let stalled = engine.unit_facts(&id, &unit.target).and_then(|facts| facts.stalled.as_ref());
            unit.overlays.extend(stalled.map(|message| OverlayView {
                name: "stalled".into(),
                message: message.clone(),
                since: None,
            }));
        }
        workload.settled = workload.settled && workload.waiting.is_none();
        exits::add_waits(workload, id.name());
    }
    view.targets = targets(engine);
    view
}

/// Targets alone.
pub fn targets(engine: &Engine) -> Vec<TargetView> {
    let mut views: Vec<TargetView> = target_views(engine.state());
    for target in &mut views {
        if let Some(fault) = engine
            .target_facts(&target.name)
            .and_then(|facts| facts.last_failure.as_ref())
        {
            target.state = "unreachable".into();
            target.message = fault.message.clone();
        }
    }
    views
}

fn target_views(state: &State) -> Vec<TargetView> {
    state.targets.iter().map(|(name, target)| target_view(name, target)).collect()
}

pub fn of_state(state: &State) -> StatusView {
    let source = state.source.as_ref().map(|head| SourceView {
        commit: head.commit.clone(),
        summary: head.summary.clone(),
        since: head.t,
        problems: head
            .problems
            .iter()
            .map(|p| match p.file.is_empty() {
                true => p.message.clone(),
                false => format!("{}:{}:{}: {}", p.file, p.line, p.column, p.message),
            })
            .collect(),
        rewrite: head.rewrite.clone(),
    });
    StatusView {
        state: String::new(),
        entries: state.size,
        durable: state.size,
        t: state.t,
        epoch: state.epoch,
        owner: state.owner.clone(),
        source,
        untrusted: state.untrusted.as_ref().map(|tip| UntrustedView {
            commit: tip.commit.clone(),
            verdict: tip.verdict.clone(),
            since: tip.t,
            message: untrusted(&tip.commit, &tip.verdict),
        }),
        targets: target_views(state),
        workloads: state
            .workloads
            .iter()
            .map(|(id, workload)| workload_view(state, id, workload))
            .collect(),
        ledger_alarms: Vec::new(),
        exits: exits::of_all(state),
    }
}

/// Why nothing of a commit is taken that should have a verified signature, and what to do about it.
pub fn untrusted(commit: &str, verdict: &str) -> String {
    let is = |word: &str| verdict.starts_with(word);
    let what_to_do = if is("unknown key") {
        "add the key to the operator's allowed signers, or sign with a key that is there"
    } else if is("expired") || is("not yet valid") {
        "sign with a key that is valid at the commit's time, or change its dates in the operator's allowed signers"
    } else if is("other committer") || is("not for git") {
        "sign with the committer's own key, or correct the key's line in the operator's allowed signers"
    } else if is("unverified") {
        "only SSH signatures can be checked: sign with `gpg.format` set to `ssh`"
    } else {
        "sign it by `git commit --amend -S`, or put a signed commit on top"
    };
    let commit = commit.get(..12).unwrap_or(commit);
    format!(
        "commit {commit} is not taken: the operator requires a verified signature, and the verdict is \"{verdict}\"; {what_to_do}"
    )
}

fn target_view(name: &str, target: &crate::state::TargetState) -> TargetView {
    let (state, message) = match (&target.claim, &target.unreachable, target.presence) {
        (Claim::Conflict(owner), _, _) => ("conflict", format!("belongs to owner {owner}; nothing there is touched")),
        (Claim::Ahead(fence), _, _) => (
            "ahead",
            format!("has seen fence {fence}, above this ledger's head: LEDGER_LOSS"),
        ),
        (_, Some(message), _) => ("unreachable", message.clone()),
        (_, _, Some(Presence::Absent)) => (
            "orphaned",
            "no manifest names it any more; what runs there is kept".to_owned(),
        ),
        (Claim::Unseen, None, _) => ("unseen", String::new()),
        (Claim::Ours, None, _) => ("ok", String::new()),
    };
    let plugin = target.spec.as_ref().map(|spec| spec.plugin.clone()).unwrap_or_default();
    TargetView {
        name: name.to_owned(),
        plugin,
        state: state.to_owned(),
        message,
        since: (state == "unreachable").then_some(target.unreachable_t),
        frozen: target.frozen.as_ref().map(frozen_view),
    }
}

fn frozen_view(frozen: &Frozen) -> FrozenView {
    FrozenView {
        by: frozen.by.clone(),
        reason: frozen.reason.clone(),
        since: frozen.t,
    }
}

fn wait_view(waiting: &Waiting, name: &str) -> WaitView {
    WaitView {
        on: waiting.on.clone(),
        message: waiting.message.clone(),
        since: waiting.since,
        until: waiting.until,
        ends: exits::end_of(&waiting.on, name),
    }
}

fn workload_view(state: &State, id: &WorkloadId, workload: &WorkloadState) -> WorkloadView {
    let request = workload.request.as_ref();
    let quarantine = workload.quarantine.iter().flat_map(|(release, all)| {
        all.last().map(|q| QuarantineView {
            release: release.to_string(),
            reason: q.reason.clone(),
            message: q.message.clone(),
            entry: q.seq,
        })
    });
    let moved = workload.pins.iter().filter_map(|(reference, pin)| {
        let seen = pin.moved_to.as_ref()?.to_string();
        Some(MovedTagView {
            reference: reference.clone(),
            pinned: pin.digest.to_string(),
            seen,
        })
    });
    let busy = workload.units.values().any(|unit| unit.attempt.is_some());
    let taken_up = request.is_some_and(|request| request.id >= workload.wish_seq() || !is_wish_new(workload));
    let decided = request.is_some_and(|request| {
        !matches!(
            request.state,
            RolloutState::Rolling | RolloutState::Holding | RolloutState::Aborting
        )
    });
    let placed = state.places(workload).count();
    WorkloadView {
        name: id.to_string(),
        presence: match workload.presence {
            Some(Presence::Absent) => "absent",
            Some(Presence::Unknown) => "unknown",
            Some(Presence::Present) | None => "present",
        }
        .to_owned(),
        suspended: workload.spec.as_ref().is_some_and(|spec| spec.suspend),
        frozen: workload.frozen.as_ref().map(frozen_view),
        spec: workload.spec_seq,
        taken_up,
        wanted: request.map(|request| wanted_view(state, workload, request)),
        waiting: None,
        wave: wave_view(state, workload),
        approvals: approval_views(workload),
        jobs: job_views(workload),
        units: workload
            .units
            .iter()
            .map(|(target, unit)| unit::unit_view(state, workload, target, unit))
            .collect(),
        quarantine: quarantine.collect(),
        moved_tags: moved.collect(),
        exits: exits::of_workload(id.name(), workload),
        settled: !busy && ((taken_up && decided) || placed == 0),
    }
}

fn wanted_view(state: &State, workload: &WorkloadState, request: &Request) -> WantedView {
    WantedView {
        request: request.id,
        release: request.release.to_string(),
        commit: request.commit.clone(),
        cause: cause_view(state, workload, request),
        state: request.state,
        since: request.since,
        began: request.began,
        reason: request.reason.clone(),
        message: request.message.clone(),
        paused: request.paused,
    }
}

/// As far as State tells; the ledger has the rest.
fn cause_view(state: &State, workload: &WorkloadState, request: &Request) -> CauseView {
    let selected = workload.selections.values().find(|selection| selection.seq == request.id);
    let head = state.source.as_ref().filter(|head| head.commit == request.commit);
    match (selected, head) {
        (Some(selection), _) => CauseView {
            kind: "selection".into(),
            text: selection.reference(),
        },
        (None, Some(head)) if request.id == workload.spec_seq => CauseView {
            kind: "commit".into(),
            text: head.summary.clone(),
        },
        _ => CauseView::default(),
    }
}

fn wave_view(state: &State, workload: &WorkloadState) -> Option<WaveView> {
    let request = workload.request.as_ref().filter(|request| request.is_open())?;
    let places: Vec<Place> = state.places(workload).collect();
    let targets = u32::try_from(places.len()).ok()?;
    let sizes = workload.spec.as_ref()?.placement.wave_sizes(targets);
    let is_stable = |place: &&Place| {
        place.unit.is_some_and(|unit| {
            let current = unit.current();
            unit.attempt.is_none() && current.is_some_and(|current| current.release == request.release)
        })
    };
    Some(WaveView {
        number: request.wave + 1,
        of: u32::try_from(sizes.len()).ok()?,
        reaches: sizes.get(request.wave as usize).map_or(targets, |(size, _)| *size),
        targets,
        stable: u32::try_from(places.iter().filter(is_stable).count()).ok()?,
    })
}

fn approval_views(workload: &WorkloadState) -> Vec<ApprovalView> {
    let open = workload.request.as_ref().filter(|request| request.is_open());
    let asked = workload.spec.as_ref().and_then(|spec| spec.approval.as_ref());
    let (Some(request), Some(approval)) = (open, asked) else {
        return Vec::new();
    };
    let awaited = awaited_step(workload);
    let steps = approval.before.iter();
    steps
        .map(|step| ApprovalView {
            step: *step,
            given: request.approvers(*step).into_iter().map(str::to_owned).collect(),
            needed: approval.count,
            awaited: awaited == Some(*step),
        })
        .collect()
}

/// The step that misses approvals and comes next: the smallest above the weights reached so far.
pub fn awaited_step(workload: &WorkloadState) -> Option<u32> {
    let request = workload.request.as_ref().filter(|request| request.is_open())?;
    let approval = workload.spec.as_ref()?.approval.as_ref()?;
    let attempts = workload.units.values().filter_map(|unit| unit.attempt.as_ref());
    let weights = attempts
        .filter(|attempt| attempt.request == request.id)
        .map(|attempt| attempt.weight);
    let reached = weights.min().unwrap_or(0);
    let missing = |step: u32| request.approvers(step).len() < approval.count as usize;
    let steps = approval.before.iter().copied();
    steps.filter(|step| *step > reached && missing(*step)).min()
}

fn job_views(workload: &WorkloadState) -> Vec<JobView> {
    let request = workload.request.as_ref();
    let jobs = request.and_then(|request| workload.jobs.get(&request.release));
    jobs.into_iter()
        .flatten()
        .map(|(job, state)| JobView {
            job: job.clone(),
            target: state.target.clone(),
            outcome: state.outcome,
            since: state.t,
            message: state.message.clone(),
        })
        .collect()
}

/// Whether the manifest says something that no request has taken up.
fn is_wish_new(workload: &WorkloadState) -> bool {
    let (Some(spec), Some(request)) = (&workload.spec, &workload.request) else {
        return true;
    };
    let digests: Option<std::collections::BTreeMap<_, _>> = spec
        .artifacts
        .keys()
        .map(|name| Some((name.clone(), workload.pins.get(&workload.reference(name)?)?.digest.clone())))
        .collect();
    digests.is_none_or(|digests| {
        crate::release::Release::from_spec(spec, &digests).id() != request.release || spec.attempt != request.attempt
    })
}

/// A weight in 1/10000 as percent, with at most three digits. Never rounded up: what is not all is not 100.
pub fn percent(weight: u32) -> String {
    let (whole, hundredths) = (weight / 100, weight % 100);
    let text = match whole {
        0..=9 => format!("{whole}.{hundredths:02}"),
        10..=99 => format!("{whole}.{}", hundredths / 10),
        _ => return whole.to_string(),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn percentages_have_at_most_three_digits() {
        for (weight, text) in [
            (0, "0"),
            (1, "0.01"),
            (250, "2.5"),
            (999, "9.99"),
            (1_000, "10"),
            (1_234, "12.3"),
            (9_999, "99.9"),
            (10_000, "100"),
        ] {
            assert_eq!(super::percent(weight), text);
        }
    }
}

//! A revision of the desired state, turned into entries: what changed, what is gone, what cannot be known.

use super::*;
use crate::manifest::{Desired, Places};
use crate::spec::{TargetSpec, WorkloadSpec};
use std::cmp::Ordering;

/// People of one revision that are written down; more than that is no review.
const CONTRIBUTORS_MAX: usize = 100;

/// A commit as the Git adapter and the manifest parser see it.
#[derive(Debug, Clone, Default)]
pub struct Revision {
    pub reference: String,
    pub commit: String,
    pub old: Option<String>,
    pub fast_forward: bool,
    /// False: an untrusted tip, or a non-fast-forward one that nobody has accepted. Nothing of it is taken.
    pub adopted: bool,
    /// The verdict on its signature is not what the operator requires.
    pub untrusted: bool,
    pub signer: String,
    /// Salted hash of the author's e-mail.
    pub author: String,
    /// Salted hashes of the e-mails of everybody who wrote or committed something since `old`.
    pub contributors: BTreeSet<String>,
    pub summary: String,
    pub committed_s: i64,
    pub workloads: BTreeMap<WorkloadId, WorkloadSpec>,
    pub targets: BTreeMap<TargetName, TargetSpec>,
    /// Workloads and targets that are named but cannot be read.
    pub unknown_workloads: BTreeSet<WorkloadId>,
    pub unknown_targets: BTreeSet<TargetName>,
    /// Every file in scope parsed: what is not named is gone.
    pub absence_proven: bool,
    pub problems: Vec<SourceProblem>,
    pub places: Places,
    /// Contents that the specs name.
    pub blobs: Vec<(Digest, Vec<u8>)>,
}

impl Revision {
    /// What its files say. Their problems are for whoever read them to tell.
    pub fn with(self, desired: Desired) -> Self {
        Self {
            workloads: desired.workloads,
            targets: desired.targets,
            unknown_workloads: desired.unknown_workloads,
            unknown_targets: desired.unknown_targets,
            absence_proven: desired.absence_proven,
            places: desired.places,
            ..self
        }
    }
}

impl Engine {
    pub(super) fn take_revision(&mut self, mut revision: Revision) {
        if !revision.adopted {
            let known = match (&self.state.untrusted, revision.untrusted) {
                (Some(tip), true) => tip.commit == revision.commit && tip.verdict == revision.signer,
                (None, false) => self.state.source.as_ref().and_then(|head| head.rewrite.as_ref()) == Some(&revision.commit),
                _ => false,
            };
            if !known {
                self.record_source(&revision, Vec::new(), Vec::new());
            }
            return;
        }
        self.places = std::mem::take(&mut revision.places);
        self.keep_target_identity(&mut revision);
        let changes = self.spec_changes(&revision);
        // A rewrite or an untrusted tip that was taken back is over only when the ledger says so.
        let as_known = |head: &crate::state::SourceHead| head.commit == revision.commit && head.rewrite.is_none();
        if self.state.source.as_ref().is_some_and(as_known) && self.state.untrusted.is_none() && changes.is_empty() {
            return;
        }
        let workloads_changed: Vec<WorkloadId> = changes.iter().filter_map(|(on, _)| on.workload.clone()).collect();
        let targets_changed = changes.iter().any(|(on, _)| on.target.is_some());
        let held = self.held_removals(&revision, &changes);
        let blobs = std::mem::take(&mut revision.blobs);
        let source = self.record_source(&revision, workloads_changed.clone(), held.clone());
        self.blobs.extend(blobs);
        for (on, object) in changes {
            let mut draft = Draft::new(
                on,
                vec![source],
                Body::Spec(Spec {
                    commit: revision.commit.clone(),
                    object,
                }),
            );
            if let Body::Spec(Spec {
                object: SpecObject::Workload { spec: Some(spec), .. },
                ..
            }) = &draft.body
            {
                draft.blobs = spec
                    .files
                    .iter()
                    .map(|(path, digest)| (format!("file/{path}"), digest.clone()))
                    .collect();
            }
            self.append(draft, By::daemon());
        }
        // A target may place any workload; a workload concerns itself.
        if targets_changed {
            self.state.workloads.keys().for_each(|id| self.schedule.mark_all(id));
        }
        workloads_changed.iter().for_each(|id| self.schedule.mark_all(id));
    }

    /// What a target is cannot change under its name: generations there would be driven by another plugin.
    fn keep_target_identity(&self, revision: &mut Revision) {
        for (name, spec) in &mut revision.targets {
            let Some(known) = self.state.targets.get(name).and_then(|target| target.spec.as_ref()) else {
                continue;
            };
            let in_use = || {
                let mut workloads = self.state.workloads.values();
                workloads.any(|w| w.units.get(name).is_some_and(|unit| !unit.generations.is_empty()))
            };
            if known.plugin != spec.plugin && in_use() {
                revision.problems.push(SourceProblem {
                    code: "target-identity".into(),
                    file: String::new(),
                    line: 0,
                    column: 0,
                    message: format!(
                        "target {name} runs generations of plugin {}; give the {} one another name",
                        known.plugin, spec.plugin
                    ),
                });
                *spec = known.clone().into();
            }
        }
    }

    fn spec_changes(&self, revision: &Revision) -> Vec<(On, SpecObject)> {
        let (mut named, mut gone) = (Vec::new(), Vec::new());
        let presence_of = |unknown: bool| {
            if unknown || !revision.absence_proven {
                Presence::Unknown
            } else {
                Presence::Absent
            }
        };
        for (name, known, wanted) in joined(&self.state.targets, &revision.targets) {
            let on = || On {
                target: Some(name.clone()),
                ..On::default()
            };
            let presence = known.and_then(|known| known.presence);
            match (known.and_then(|known| known.spec.as_deref()), wanted) {
                (spec, Some(wanted)) if spec != Some(wanted) || presence != Some(Presence::Present) => {
                    let (presence, spec) = (Presence::Present, Some(wanted.clone()));
                    named.push((on(), SpecObject::Target { presence, spec }));
                }
                (Some(_), None) => {
                    let now = presence_of(revision.unknown_targets.contains(name));
                    if presence != Some(now) {
                        let object = SpecObject::Target {
                            presence: now,
                            spec: None,
                        };
                        gone.push((on(), object));
                    }
                }
                _ => {}
            }
        }
        for (id, known, wanted) in joined(&self.state.workloads, &revision.workloads) {
            let presence = known.and_then(|known| known.presence);
            match (known, wanted) {
                (known, Some(wanted)) => {
                    let spec = known.and_then(|known| known.spec.as_ref());
                    if spec != Some(wanted) || presence != Some(Presence::Present) {
                        let (presence, spec) = (Presence::Present, Some(wanted.clone()));
                        named.push((On::workload(id), SpecObject::Workload { presence, spec }));
                    }
                }
                (_, None) => {
                    let now = presence_of(revision.unknown_workloads.contains(id));
                    if presence != Some(now) {
                        let object = SpecObject::Workload {
                            presence: now,
                            spec: None,
                        };
                        gone.push((On::workload(id), object));
                    }
                }
            }
        }
        named.append(&mut gone);
        named
    }

    /// Units that would leave: none of them does when they are more than one revision may remove.
    fn held_removals(&self, revision: &Revision, changes: &[(On, SpecObject)]) -> Vec<crate::ids::UnitId> {
        // What a workload changes to; none: it goes.
        let changed: BTreeMap<&WorkloadId, Option<&WorkloadSpec>> = changes
            .iter()
            .filter_map(|(on, object)| match object {
                SpecObject::Workload { presence, spec } if *presence != Presence::Unknown => {
                    Some((on.workload.as_ref()?, spec.as_ref()))
                }
                _ => None,
            })
            .collect();
        let mut leaving = Vec::new();
        for (id, workload) in &self.state.workloads {
            let known = || workload.spec.as_ref().filter(|_| workload.presence != Some(Presence::Absent));
            let spec = changed.get(id).copied().unwrap_or_else(known);
            for (name, _) in workload
                .units
                .iter()
                .filter(|(_, unit)| !unit.generations.is_empty() && unit.phase != PhaseName::Leaving)
            {
                let target = revision
                    .targets
                    .get(name)
                    .or_else(|| self.state.target_spec(name).map(|known| &**known));
                let placed = spec
                    .zip(target)
                    .is_some_and(|(spec, target)| spec.placement.includes(name, &target.labels));
                // A target that left Git orphans its units: they are kept.
                if !placed && target.is_some() {
                    leaving.push(crate::ids::UnitId {
                        workload: id.clone(),
                        target: name.clone(),
                    });
                }
            }
        }
        if leaving.len() > self.config.removals_per_revision {
            leaving
        } else {
            Vec::new()
        }
    }

    fn record_source(&mut self, revision: &Revision, changed: Vec<WorkloadId>, held: Vec<crate::ids::UnitId>) -> Seq {
        let because = self.state.source.iter().map(|head| head.seq).collect();
        let source = Source {
            repository: self.config.repository.clone(),
            reference: revision.reference.clone(),
            old: revision.old.clone(),
            new: revision.commit.clone(),
            fast_forward: revision.fast_forward,
            adopted: revision.adopted,
            untrusted: revision.untrusted,
            signer: revision.signer.clone(),
            author: revision.author.clone(),
            contributors: revision.contributors.iter().take(CONTRIBUTORS_MAX).cloned().collect(),
            summary: events::clip(&revision.summary, 200),
            committed_s: revision.committed_s,
            changed,
            problems: revision.problems.iter().take(100).cloned().collect(),
            held,
        };
        let by = By {
            kind: "git".into(),
            id: revision.author.clone(),
            auth: revision.signer.clone(),
        };
        self.append(Draft::new(On::default(), because, Body::Source(source)), by)
    }
}

/// Two maps in one pass, in the order of their keys: nothing is looked up.
fn joined<'a, K: Ord, A, B>(
    left: &'a BTreeMap<K, A>,
    right: &'a BTreeMap<K, B>,
) -> impl Iterator<Item = (&'a K, Option<&'a A>, Option<&'a B>)> {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (left.peek(), right.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let in_left = if order.is_le() { left.next() } else { None };
        let in_right = if order.is_ge() { right.next() } else { None };
        let key = in_left.map(|(key, _)| key).or(in_right.map(|(key, _)| key))?;
        Some((key, in_left.map(|(_, value)| value), in_right.map(|(_, value)| value)))
    })
}

//! Invariant 6: known-bad stays out, and only what is bad gets in there. Invariant 7: "cannot measure" is not "bad".

use super::{Check, Oracle, Truth};
use crate::options::{Fault, Feature, has};
use crate::registry::Quality;
use holdfast_core::entry::*;
use holdfast_core::ids::ReleaseId;
use holdfast_core::target::{FaultClass, Verb};

/// Faults that can make a good release look bad.
const MISLEADING: [Fault; 8] = [
    Fault::Lies,
    Fault::ForeignEdit,
    Fault::InstanceLost,
    Fault::ExtraGeneration,
    Fault::ProbeFails,
    Fault::MetricsSpike,
    Fault::JobLost,
    Fault::CallPartial,
];

/// Faults that mislead an engine which judges by old looks.
const LATE: [Fault; 4] = [Fault::Slow, Fault::TargetAway, Fault::CallLate, Fault::CallLost];

impl Oracle {
    pub(super) fn blame(&self, entry: &Entry, batch: &[Entry], truth: &Truth) -> Check {
        let Some(id) = &entry.on.workload else { return Ok(()) };
        let Some(workload) = self.facts.workloads.get(id) else {
            return Ok(());
        };
        match &entry.body {
            Body::Attempt(AttemptChange::Began {
                release, values, heal, ..
            }) => {
                let attempt = workload.attempt_number();
                if !heal && workload.keeps_out(release, values, attempt) {
                    return Err(format!(
                        "invariant 6: quarantined release {} begins an attempt",
                        release.short()
                    ));
                }
            }
            Body::Intent(intent) => {
                let unit = entry.on.target.as_ref().and_then(|target| workload.units.get(target));
                let Some(attempt) = unit.and_then(|unit| unit.attempt.as_ref()) else {
                    return Ok(());
                };
                if !workload.keeps_out(&attempt.release, &attempt.captured, workload.attempt_number()) || attempt.heal {
                    return Ok(());
                }
                let rises = match &intent.verb {
                    Verb::Launch { .. } => true,
                    Verb::Route { shares, .. } => {
                        let live = shares.iter().find(|share| share.number == attempt.generation);
                        let past = unit.is_some_and(|unit| unit.phase == Some(PhaseName::Retiring));
                        !past && live.is_some_and(|share| share.live > attempt.weight)
                    }
                    _ => false,
                };
                if rises {
                    return Err(format!(
                        "invariant 6: quarantined release {} is launched or gets more traffic",
                        attempt.release.short()
                    ));
                }
            }
            Body::Attempt(AttemptChange::Undo {
                outcome: AttemptOutcome::Bad,
                ..
            }) => {
                let quarantined = batch.iter().any(|other| {
                    matches!(&other.body, Body::Quarantine(q) if q.action == QuarantineAction::Set)
                        && other.on.workload.as_ref() == Some(id)
                });
                if !quarantined {
                    return Err("invariant 6: a bad verdict without its quarantine in the same batch".into());
                }
            }
            Body::Verdict(verdict) if verdict.outcome == VerdictOutcome::Fail && verdict.about != "diagnosis" => {
                let unit = entry.on.target.as_ref().and_then(|target| workload.units.get(target));
                let nothing_began = unit.is_some_and(|unit| {
                    let before = matches!(unit.phase, Some(PhaseName::Preparing | PhaseName::Launching));
                    before && unit.last_fault.is_some_and(|class| class != FaultClass::Failed)
                });
                if nothing_began {
                    return Err("invariant 6: a bad verdict before anything of the release was seen".into());
                }
                let release = unit.and_then(|unit| Some(unit.attempt.as_ref()?.release.clone()));
                if let Some(release) = release {
                    self.deserved(&release, &verdict.about, truth)?;
                }
            }
            Body::Quarantine(quarantine) if quarantine.action == QuarantineAction::Set => {
                let said = batch.iter().any(|other| {
                    matches!(&other.body, Body::Verdict(verdict) if verdict.outcome == VerdictOutcome::Fail)
                        || matches!(&other.body, Body::Command(_))
                        || matches!(&other.body, Body::Rollout(_))
                });
                if !said {
                    return Err("invariant 6: a quarantine without a bad verdict or a command".into());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Where nothing misleads, only what is bad is called bad.
    fn deserved(&self, release: &ReleaseId, about: &str, truth: &Truth) -> Check {
        let analysis = about.starts_with("analysis/");
        let late = LATE.into_iter().filter(|_| !has(Feature::Punctual));
        let misled = if analysis {
            truth.faults.has(Fault::MetricsSpike)
        } else {
            MISLEADING.into_iter().chain(late).any(|fault| truth.faults.has(fault))
        };
        let artifact = truth.releases.get(release).and_then(|release| release.artifacts.get("main"));
        let (false, Some(artifact)) = (misled, artifact) else {
            return Ok(());
        };
        match (truth.registry.quality(artifact), analysis) {
            (Quality::Good, true) => Err(format!("invariant 7: good release {} fails an analysis", release.short())),
            (Quality::Good, false) => Err(format!("invariant 6: good release {} is called bad", release.short())),
            _ => Ok(()),
        }
    }
}

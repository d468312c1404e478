//! Jobs: at most once per release and scope, whatever crashes. What became of one is in State; only the target knows more.

use super::*;
use crate::state::{JobOutcome, JobState, job_key};
use crate::target::{Hook, run_name};
use serde_json::json;

/// The next increment for the release's jobs of one hook; none: all are done.
pub(super) fn run_jobs(c: &UnitContext, attempt: &AttemptState, hook: Hook) -> Option<UnitPlan> {
    let jobs = c.workload.releases.get(&attempt.release)?.jobs(hook);
    for job in jobs {
        let key = job_key(hook, &job.name, job.scope, c.target);
        let known = c.workload.job(&attempt.release, &key);
        let run = |number: u32| Verb::Run {
            generation: attempt.generation,
            job: job.name.clone(),
            hook,
            scope: job.scope,
            run: number,
        };
        // Another name than any job of the release has.
        let next = |known: &JobState| {
            let is_taken = |number: u32| jobs.iter().any(|other| other.name == run_name(&job.name, number));
            (known.run.max(1) + 1..).find(|number| !is_taken(*number)).unwrap_or(u32::MAX)
        };
        return Some(match known.map(|known| (known.outcome, known)) {
            Some((JobOutcome::Done, _)) => continue,
            None => c.act(run(1)),
            Some((JobOutcome::Failed, known)) if known.attempt < c.workload.attempt_number() => c.act(run(known.run)),
            Some((JobOutcome::Lost, known)) if job.repeatable || known.again => c.act(run(next(known))),
            Some((JobOutcome::Failed, known)) => {
                let message = format!("job {} failed on {}: {}", job.name, known.target, known.message);
                let evidence = json!({ "job": job.name, "intent": known.seq, "target": known.target });
                let mut plan = back::condemn(c, attempt, "job", "job-failed", message, evidence);
                // It is the release's job wherever it ran.
                for draft in &mut plan.records {
                    draft.because.push(known.seq);
                    if let Body::Quarantine(quarantine) = &mut draft.body {
                        quarantine.values = None;
                    }
                }
                plan
            }
            Some((JobOutcome::Lost, known)) => c.wait(
                "job-lost",
                format!(
                    "job {} was begun on {} and the target knows nothing of it now; `holdfast retry {}` runs it again",
                    job.name,
                    known.target,
                    c.id.name()
                ),
                known.t,
                None,
            ),
            Some((JobOutcome::Running, known)) => {
                c.wait("job", format!("job {} runs on {}", job.name, known.target), known.t, None)
            }
        });
    }
    None
}

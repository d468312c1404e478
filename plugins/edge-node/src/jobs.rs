//! Jobs: one request to a fresh instance of a generation's bundle, at most once under one name. That it starts is on disk
//! before it does; what came of it is on disk before anybody is told. What was started and has no outcome after a restart is lost,
//! and stays so.

use crate::bundle::Trouble;
use crate::output::Output;
use crate::record::{Generation, Job, Outcome, WorkloadRecord};
use crate::site::{Done, Refused, Room, Site, Writer, line, lock};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::header::HOST;
use hyper::{Method, Request};
use serde::Deserialize;
use std::sync::{Arc, Mutex};
use tokio::task::AbortHandle;

const JOBS_AT_ONCE: usize = 16;
const JOBS_KEPT: usize = 64;
const TIMEOUT_MS: std::ops::RangeInclusive<u32> = 10..=3_600_000;
const BODY_MAX_BYTES: usize = 64 << 10;
const OUTPUT_KEPT_BYTES: usize = 16 << 10;
const NAME_MAX_BYTES: usize = 63;
/// How much of the output a refusal quotes.
const LAST_LINES: usize = 5;

/// The request that is the job.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    pub path: String,
    pub method: String,
    #[serde(default)]
    pub body: String,
    pub timeout_ms: u32,
}

/// A job, of which generation, and what that runs.
pub struct Wanted {
    pub number: u32,
    pub workload: String,
    pub job: String,
    pub request: JobRequest,
    pub generation: Generation,
}

/// What this process does for a job.
pub struct JobAtWork {
    number: u32,
    state: Mutex<State>,
    task: Mutex<Option<AbortHandle>>,
}

#[derive(Clone)]
enum State {
    /// Not started: a restart forgets it.
    Pulling,
    /// Not started, and why not; the next ask begins anew.
    NotStarted(Refused),
    Running,
    /// It ended, but the disk did not take it; the next ask tries again.
    Unsaved(Outcome),
}

impl JobAtWork {
    fn set(&self, state: State) {
        *lock(&self.state) = state;
    }
}

impl JobRequest {
    fn problem(&self) -> Option<String> {
        if !self.path.starts_with('/') || self.path.parse::<hyper::Uri>().is_err() {
            Some(format!("path {:?} is not a path that begins with /", self.path))
        } else if !matches!(self.method.as_str(), "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE") {
            Some(format!(
                "method {:?} is none of GET, HEAD, POST, PUT, PATCH and DELETE",
                self.method
            ))
        } else if self.body.len() > BODY_MAX_BYTES {
            Some(format!("the body has more than {BODY_MAX_BYTES} bytes"))
        } else if !TIMEOUT_MS.contains(&self.timeout_ms) {
            Some(format!(
                "timeout_ms {} is not in {} to {}",
                self.timeout_ms,
                TIMEOUT_MS.start(),
                TIMEOUT_MS.end()
            ))
        } else {
            None
        }
    }
}

impl Site {
    /// Starts a job, or says how the one of this name is.
    pub fn run_job(self: &Arc<Self>, key: &str, writer: &Writer, mut wanted: Wanted) -> Result<Done, Refused> {
        let problem = wanted.request.problem().or_else(|| wanted.generation.template.problem());
        if let Some(problem) = problem {
            return Err(Refused::Invalid(problem));
        }
        let name = format!("{}-{}", wanted.generation.name, wanted.job);
        if name.len() > 2 * NAME_MAX_BYTES {
            return Err(Refused::Invalid(format!("the name {name:?} is too long")));
        }
        let id = (key.to_owned(), name.clone());
        let mut inner = lock(&self.inner);
        inner.admit(key, writer)?;
        let at_work = inner.jobs.get(&id).cloned();
        let known = inner.record.workloads.get(key).and_then(|workload| workload.jobs.get(&name));
        if let Some(known) = known {
            if known.release_id != wanted.generation.release_id {
                return Err(Refused::Conflict(format!("job {name} is of release {}", known.release_id)));
            }
            if let Some(outcome) = &known.outcome {
                return answer(&name, outcome);
            }
            let Some(at_work) = at_work else {
                return Err(Refused::Absent(format!(
                    "job {name} was started under fence {} and lost when the site's process ended; what it did is not known, \
                     and it does not run again under this name",
                    known.fence
                )));
            };
            let state = lock(&at_work.state).clone();
            drop(inner);
            return match state {
                State::Unsaved(outcome) => {
                    self.end_job(&id, &at_work, outcome.clone())?;
                    answer(&name, &outcome)
                }
                _ => Ok(Done::Pending),
            };
        }
        if let Some(at_work) = at_work {
            let state = lock(&at_work.state).clone();
            return match state {
                State::NotStarted(why) => {
                    inner.jobs.remove(&id);
                    Err(why)
                }
                _ => Ok(Done::Pending),
            };
        }
        if inner.jobs.len() >= JOBS_AT_ONCE {
            return Err(Refused::Exhausted(format!(
                "{JOBS_AT_ONCE} jobs are at work on the site already"
            )));
        }
        let at_work = Arc::new(JobAtWork {
            number: wanted.number,
            state: Mutex::new(State::Pulling),
            task: Mutex::new(None),
        });
        inner.jobs.insert(id.clone(), at_work.clone());
        // The caps of a request hold for a job too, but for the time, which is its own.
        wanted.generation.template.timeout_ms = wanted.request.timeout_ms;
        let (site, writer, job) = (self.clone(), writer.clone(), at_work.clone());
        let task = tokio::spawn(async move { site.work(id, &writer, wanted, &job).await });
        *lock(&at_work.task) = Some(task.abort_handle());
        Ok(Done::Pending)
    }

    async fn work(&self, id: (String, String), writer: &Writer, wanted: Wanted, job: &JobAtWork) {
        let output = Output::default();
        let loaded = match self.store.load(&wanted.generation, output.clone()).await {
            Err(Trouble::Pull(message)) => {
                let message = format!("the bundle of job {} cannot be had: {message}", id.1);
                return job.set(State::NotStarted(Refused::Unavailable(message)));
            }
            loaded => loaded,
        };
        let mut started = line("job", &id.0, Some(wanted.number), writer);
        started.job = Some(id.1.clone());
        let record = Job {
            generation: wanted.number,
            release_id: wanted.generation.release_id.clone(),
            fence: writer.fence,
            deploy_id: writer.deploy_id.clone(),
            outcome: None,
        };
        let durable = self.change(&id.0, writer, started, |workload, _: Room| {
            workload.workload.clone_from(&wanted.workload);
            make_room(workload)?;
            workload.jobs.insert(id.1.clone(), record);
            // In the same breath, so that nobody finds it started and not at work.
            job.set(State::Running);
            Ok(())
        });
        if let Err(why) = durable {
            return job.set(State::NotStarted(why));
        }
        tracing::info!(workload = id.0, job = id.1, deploy_id = writer.deploy_id, "job started");
        let outcome = match loaded {
            Ok(loaded) => {
                let answered = match request(&wanted, &id.1) {
                    Ok(request) => loaded.handle(request).await,
                    Err(error) => Err(error.to_string()),
                };
                let (ok, message, body) = match answered {
                    Ok(response) => {
                        let status = response.status();
                        let body = response
                            .into_body()
                            .collect()
                            .await
                            .map(|body| body.to_bytes())
                            .unwrap_or_default();
                        (status.is_success(), format!("it answered {status}"), body)
                    }
                    Err(message) => (false, message, Bytes::new()),
                };
                output.push(&body);
                Outcome {
                    ok,
                    message,
                    output: tail(&output.text(), OUTPUT_KEPT_BYTES).to_owned(),
                }
            }
            Err(Trouble::Bundle(message) | Trouble::Pull(message)) => Outcome {
                ok: false,
                message: format!("its bundle does not run: {message}"),
                output: String::new(),
            },
        };
        if self.end_job(&id, job, outcome.clone()).is_err() {
            job.set(State::Unsaved(outcome));
        }
    }

    fn end_job(&self, id: &(String, String), job: &JobAtWork, outcome: Outcome) -> Result<(), Refused> {
        self.amend(|record| {
            // None: its generation was retired meanwhile.
            let known = record.workloads.get_mut(&id.0)?.jobs.get_mut(&id.1)?;
            let mut ended = line(
                if outcome.ok { "job-done" } else { "job-failed" },
                &id.0,
                Some(known.generation),
                &Writer {
                    owner: String::new(),
                    fence: known.fence,
                    deploy_id: known.deploy_id.clone(),
                },
            );
            ended.job = Some(id.1.clone());
            tracing::info!(
                workload = id.0,
                job = id.1,
                deploy_id = known.deploy_id,
                ok = outcome.ok,
                "job ended"
            );
            known.outcome = Some(outcome);
            Some(ended)
        })?;
        let mut inner = lock(&self.inner);
        if inner.jobs.get(id).is_some_and(|at_work| std::ptr::eq(&**at_work, job)) {
            inner.jobs.remove(id);
        }
        Ok(())
    }

    /// Ends and forgets the jobs of a generation that is retired.
    pub(crate) fn forget_jobs(&self, key: &str, number: u32, writer: &Writer) -> Result<(), Refused> {
        let recorded = {
            let mut inner = lock(&self.inner);
            inner.admit(key, writer)?;
            inner.jobs.retain(|(of_key, _), at_work| {
                let retired = of_key == key && at_work.number == number;
                if retired && let Some(task) = lock(&at_work.task).take() {
                    task.abort();
                }
                !retired
            });
            let jobs = inner.record.workloads.get(key).map(|workload| &workload.jobs);
            jobs.into_iter().flatten().any(|(_, job)| job.generation == number)
        };
        if !recorded {
            return Ok(());
        }
        self.change(key, writer, line("retire", key, Some(number), writer), |workload, _| {
            workload.jobs.retain(|_, job| job.generation != number);
            Ok(())
        })
    }

    /// Jobs of a generation, with how they are.
    pub fn jobs_of(&self, key: &str, number: u32) -> Vec<(String, &'static str, Outcome)> {
        let inner = lock(&self.inner);
        let jobs = inner.record.workloads.get(key).map(|workload| &workload.jobs);
        let of_this = jobs.into_iter().flatten().filter(|(_, job)| job.generation == number);
        of_this
            .map(|(name, job)| {
                let at_work = inner.jobs.contains_key(&(key.to_owned(), name.clone()));
                let (state, outcome) = match &job.outcome {
                    Some(outcome) if outcome.ok => ("done", outcome.clone()),
                    Some(outcome) => ("failed", outcome.clone()),
                    None => (
                        if at_work { "running" } else { "lost" },
                        Outcome {
                            ok: false,
                            message: String::new(),
                            output: String::new(),
                        },
                    ),
                };
                (name.clone(), state, outcome)
            })
            .collect()
    }
}

/// Forgets the oldest outcomes of generations that are not here; a job that never ended is not forgotten.
fn make_room(workload: &mut WorkloadRecord) -> Result<(), Refused> {
    while workload.jobs.len() >= JOBS_KEPT {
        let ended = workload.jobs.iter().filter(|(_, job)| job.outcome.is_some());
        let gone = ended.filter(|(_, job)| !workload.generations.contains_key(&job.generation));
        let Some(oldest) = gone.min_by_key(|(_, job)| job.generation).map(|(name, _)| name.clone()) else {
            return Err(Refused::Exhausted(format!(
                "{JOBS_KEPT} jobs of this workload are on the site already"
            )));
        };
        workload.jobs.remove(&oldest);
    }
    Ok(())
}

fn request(wanted: &Wanted, name: &str) -> Result<Request<Bytes>, hyper::http::Error> {
    let method = Method::from_bytes(wanted.request.method.as_bytes())?;
    Request::builder()
        .method(method)
        .uri(&wanted.request.path)
        .header(HOST, wanted.generation.template.host.as_deref().unwrap_or("localhost"))
        .header("x-holdfast-job", name)
        .body(Bytes::from(wanted.request.body.clone()))
}

fn answer(name: &str, outcome: &Outcome) -> Result<Done, Refused> {
    if outcome.ok {
        return Ok(Done::Done);
    }
    let lines: Vec<&str> = outcome.output.lines().rev().take(LAST_LINES).collect();
    let last = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
    Err(Refused::Failed(
        format!("job {name} failed: {}\n{last}", outcome.message)
            .trim_end()
            .to_owned(),
    ))
}

/// The last `bytes` of a text, from a whole character on.
fn tail(text: &str, bytes: usize) -> &str {
    let mut from = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(generation: u32, ended: bool) -> Job {
        let outcome = Outcome {
            ok: true,
            message: String::new(),
            output: String::new(),
        };
        Job {
            generation,
            release_id: "r".into(),
            fence: 1,
            deploy_id: "d".into(),
            outcome: ended.then_some(outcome),
        }
    }

    #[test]
    fn what_is_forgotten_has_ended_and_is_oldest() {
        let mut workload = WorkloadRecord::default();
        workload.jobs.insert("lost".into(), job(0, false));
        (1..JOBS_KEPT as u32).for_each(|number| drop(workload.jobs.insert(format!("g{number}"), job(number, true))));
        make_room(&mut workload).unwrap();
        assert_eq!(workload.jobs.len(), JOBS_KEPT - 1);
        assert!(workload.jobs.contains_key("lost") && !workload.jobs.contains_key("g1"));
        workload.jobs.values_mut().for_each(|job| job.outcome = None);
        workload.jobs.insert("one-more".into(), job(99, false));
        assert!(matches!(make_room(&mut workload), Err(Refused::Exhausted(_))));
    }

    #[test]
    fn tails_are_whole() {
        assert_eq!((tail("abcdef", 3), tail("abc", 9), tail("aäö", 3)), ("def", "abc", "ö"));
    }
}

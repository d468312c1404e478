//! The interfaces that a plugin may export or not. Where it does not, the answer is `not-exported`, which the planners see
//! as `absent`.

use crate::call::{CallOptions, Plugin, Scope, names_of, progress};
use crate::convert;
use crate::guest::Guest;
use crate::outcome::{CallFailure, CallReport, FailureClass};
use crate::{capacity, diagnosis, jobs, preview, telemetry};
use holdfast_core::target::{Change, CheckProblem, Excerpt, Fault, FaultClass, Generation, Progress, Sample};
use std::collections::BTreeSet;
use std::time::Duration;
use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

/// Where a plugin's optional exports are, as far as it has them.
#[derive(Default)]
pub(crate) struct Optional {
    jobs: Option<jobs::JobsIndices>,
    preview: Option<preview::PreviewIndices>,
    capacity: Option<capacity::CapacityIndices>,
    telemetry: Option<telemetry::TelemetryIndices>,
    diagnosis: Option<diagnosis::DiagnosisIndices>,
}

impl Optional {
    /// What is not asked for need not fit.
    pub fn new(exports: &BTreeSet<String>, pre: &InstancePre<Guest>) -> wasmtime::Result<Self> {
        let mut found = Self::default();
        for interface in exports {
            match interface.as_str() {
                "jobs" => found.jobs = Some(jobs::JobsIndices::new(pre)?),
                "preview" => found.preview = Some(preview::PreviewIndices::new(pre)?),
                "capacity" => found.capacity = Some(capacity::CapacityIndices::new(pre)?),
                "telemetry" => found.telemetry = Some(telemetry::TelemetryIndices::new(pre)?),
                "diagnosis" => found.diagnosis = Some(diagnosis::DiagnosisIndices::new(pre)?),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Whether what is exported has the types that it should.
    pub fn types(&self, store: &mut Store<Guest>, instance: &Instance) -> wasmtime::Result<()> {
        let _ = self.jobs.as_ref().map(|one| one.load(&mut *store, instance)).transpose()?;
        let _ = self.preview.as_ref().map(|one| one.load(&mut *store, instance)).transpose()?;
        let _ = self
            .capacity
            .as_ref()
            .map(|one| one.load(&mut *store, instance))
            .transpose()?;
        let _ = self
            .telemetry
            .as_ref()
            .map(|one| one.load(&mut *store, instance))
            .transpose()?;
        let _ = self
            .diagnosis
            .as_ref()
            .map(|one| one.load(&mut *store, instance))
            .transpose()?;
        Ok(())
    }
}

/// Called only after it was seen to be there.
fn exported<T>(found: &Option<T>) -> wasmtime::Result<&T> {
    found
        .as_ref()
        .ok_or_else(|| wasmtime::Error::msg("an interface that is exported was not looked up"))
}

impl Plugin {
    /// Pure, like `check`: what is wrong with a job's template.
    pub async fn check_job(
        &self,
        options: &CallOptions<'_>,
        subject: &Generation,
        job: &str,
        template: &str,
    ) -> CallReport<Vec<CheckProblem>> {
        if !self.exports.contains("jobs") {
            return not_exported("jobs");
        }
        let (ctx, subject) = (convert::context(options.context), convert::generation(subject));
        let (job, template) = (job.to_owned(), template.to_owned());
        self.call(options, Scope::default(), move |plugin, store, instance| {
            Box::pin(async move {
                let plugin = exported(&plugin.optional.jobs)?.load(&mut *store, instance)?;
                let answer = plugin
                    .holdfast_target_jobs()
                    .call_check_job(store, &ctx, &subject, &job, &template)
                    .await?;
                Ok(answer
                    .map(|problems| problems.into_iter().map(convert::problem).collect())
                    .map_err(convert::fault))
            })
        })
        .await
    }

    /// Starts a job, or says how it is. `absent` is an answer of a plugin that runs jobs: begun, and gone.
    pub async fn run(&self, options: &CallOptions<'_>, subject: &Generation, job: &str, template: &str) -> CallReport<Progress> {
        if !self.exports.contains("jobs") {
            return CallReport {
                answer: Err(CallFailure::Fault(Fault {
                    class: FaultClass::Invalid,
                    message: "the plugin does not export jobs: it runs none".into(),
                    fence: None,
                })),
                ..not_exported("jobs")
            };
        }
        let mut scope = Scope::mutating(options, std::iter::once(subject));
        scope.names.names.insert(format!("{}-{job}", subject.name));
        let (ctx, subject) = (convert::context(options.context), convert::generation(subject));
        let (job, template) = (job.to_owned(), template.to_owned());
        self.call(options, scope, move |plugin, store, instance| {
            Box::pin(async move {
                let plugin = exported(&plugin.optional.jobs)?.load(&mut *store, instance)?;
                let answer = plugin
                    .holdfast_target_jobs()
                    .call_run(store, &ctx, &subject, &job, &template)
                    .await?;
                progress(answer)
            })
        })
        .await
    }

    /// What would be written for `wanted`: against its own objects if it is there, else against those of `current`.
    pub async fn diff(
        &self,
        options: &CallOptions<'_>,
        current: Option<&Generation>,
        wanted: &Generation,
    ) -> CallReport<Vec<Change>> {
        if !self.exports.contains("preview") {
            return not_exported("preview");
        }
        let mut names = names_of(options, wanted);
        names.names.extend(current.map(|current| current.name.clone()));
        let ctx = convert::context(options.context);
        let (current, wanted) = (current.map(convert::generation), convert::generation(wanted));
        self.call(options, Scope::reading(names), move |plugin, store, instance| {
            Box::pin(async move {
                let plugin = exported(&plugin.optional.preview)?.load(&mut *store, instance)?;
                let answer = plugin
                    .holdfast_target_preview()
                    .call_diff(store, &ctx, current.as_ref(), &wanted)
                    .await?;
                let change = |change: preview::exports::holdfast::target::preview::Change| Change {
                    item: change.item,
                    path: change.path,
                    have: change.have,
                    want: change.want,
                };
                Ok(answer
                    .map(|changes| changes.into_iter().map(change).collect())
                    .map_err(convert::fault))
            })
        })
        .await
    }

    /// How many instances could start now; none: the target cannot tell.
    pub async fn room(&self, options: &CallOptions<'_>, subject: &Generation) -> CallReport<Option<u32>> {
        if !self.exports.contains("capacity") {
            return not_exported("capacity");
        }
        let names = names_of(options, subject);
        let (ctx, subject) = (convert::context(options.context), convert::generation(subject));
        self.call(options, Scope::reading(names), move |plugin, store, instance| {
            Box::pin(async move {
                let plugin = exported(&plugin.optional.capacity)?.load(&mut *store, instance)?;
                let answer = plugin.holdfast_target_capacity().call_room(store, &ctx, &subject).await?;
                Ok(answer.map_err(convert::fault))
            })
        })
        .await
    }

    pub async fn telemetry(&self, options: &CallOptions<'_>, subject: &Generation) -> CallReport<Vec<Sample>> {
        if !self.exports.contains("telemetry") {
            return not_exported("telemetry");
        }
        let names = names_of(options, subject);
        let (ctx, subject) = (convert::context(options.context), convert::generation(subject));
        self.call(options, Scope::reading(names), move |plugin, store, instance| {
            Box::pin(async move {
                let plugin = exported(&plugin.optional.telemetry)?.load(&mut *store, instance)?;
                let answer = plugin.holdfast_target_telemetry().call_read(store, &ctx, &subject).await?;
                let sample = |sample: telemetry::exports::holdfast::target::telemetry::Sample| Sample {
                    name: sample.name,
                    value: sample.value,
                };
                Ok(answer
                    .map(|samples| samples.into_iter().map(sample).collect())
                    .map_err(convert::fault))
            })
        })
        .await
    }

    pub async fn explain(&self, options: &CallOptions<'_>, subject: &Generation) -> CallReport<Vec<Excerpt>> {
        if !self.exports.contains("diagnosis") {
            return not_exported("diagnosis");
        }
        let names = names_of(options, subject);
        let (ctx, subject) = (convert::context(options.context), convert::generation(subject));
        self.call(options, Scope::reading(names), move |plugin, store, instance| {
            Box::pin(async move {
                let plugin = exported(&plugin.optional.diagnosis)?.load(&mut *store, instance)?;
                let answer = plugin.holdfast_target_diagnosis().call_explain(store, &ctx, &subject).await?;
                let excerpt = |excerpt: diagnosis::exports::holdfast::target::diagnosis::Excerpt| Excerpt {
                    instance: excerpt.instance,
                    source: excerpt.source,
                    text: excerpt.text,
                };
                Ok(answer
                    .map(|excerpts| excerpts.into_iter().map(excerpt).collect())
                    .map_err(convert::fault))
            })
        })
        .await
    }
}

fn not_exported<T>(interface: &str) -> CallReport<T> {
    let message = format!("it does not export {interface}");
    CallReport {
        answer: Err(CallFailure::Failed {
            class: FailureClass::NotExported,
            message,
        }),
        sent: Vec::new(),
        elapsed: Duration::ZERO,
    }
}

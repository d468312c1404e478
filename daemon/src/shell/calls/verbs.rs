//! Mutating calls: one attempt of one verb, under its intent's fence.

use super::generation::{Prepared, SecretsNeed, prepare};
use super::{Turn, World, fault, send, turn};
use holdfast_core::engine::subject::Subject;
use holdfast_core::engine::{Call, Durable, Engine, Input};
use holdfast_core::target::*;
use tracing::Instrument as _;

pub(in crate::shell) fn call(world: &World, engine: &Engine, call: Durable<Call>) {
    let call = call.into_inner();
    let numbers: Vec<u32> = match &call.verb {
        Verb::Route { shares, .. } => shares.iter().map(|share| share.number).collect(),
        verb => vec![verb.generation()],
    };
    let subjects: Option<Vec<Subject>> = numbers
        .iter()
        .map(|number| engine.state().subject(&call.workload, &call.target, *number))
        .collect();
    let world = world.clone();
    let span = super::super::say::call(&call);
    let task = async move {
        let _turn = turn(&world, &call.target, Turn::Write).await;
        tracing::debug!("call begins");
        let (outcome, sent) = match subjects {
            Some(subjects) => perform(&world, &call, &subjects).await,
            None => (Err(fault(FaultClass::Internal, "the generation is not in State")), Vec::new()),
        };
        let Call {
            workload,
            target,
            intent,
            ..
        } = call;
        send(
            &world,
            Input::Called {
                workload,
                target,
                intent,
                outcome,
                sent,
            },
        );
    };
    tokio::spawn(task.instrument(span));
}

fn need(verb: &Verb) -> SecretsNeed {
    match verb {
        Verb::Launch { .. } | Verb::Run { .. } => SecretsNeed::Required,
        Verb::Scale { size, .. } if *size > 0 => SecretsNeed::Required,
        Verb::Scale { .. } | Verb::Route { .. } | Verb::Retire { .. } => SecretsNeed::Spared,
    }
}

async fn perform(world: &World, call: &Call, subjects: &[Subject]) -> (Result<Progress, Fault>, Vec<Sent>) {
    let prepared: Result<Vec<Prepared>, Fault> = subjects
        .iter()
        .map(|subject| prepare(world, &call.target, subject, &call.plugin, need(&call.verb)))
        .collect();
    let mut prepared = match prepared {
        Ok(prepared) => prepared,
        Err(fault) => return (Err(fault), Vec::new()),
    };
    if prepared.is_empty() {
        return (Err(fault(FaultClass::Internal, "a verb without a generation")), Vec::new());
    }
    let others = prepared.split_off(1);
    let mut first = prepared.remove(0);
    first.fenced(call);
    first.take_secrets(&others);
    let (plugin, generation, options) = (&first.plugin, &first.generation, first.options(world));
    let report = match &call.verb {
        Verb::Launch { size, .. } => plugin.launch(&options, generation, *size).await,
        Verb::Scale { size, .. } => plugin.scale(&options, generation, *size).await,
        Verb::Retire { last, .. } => plugin.retire(&options, generation, *last).await,
        Verb::Run { job, hook, run, .. } => match first.job_template(*hook, job) {
            Ok(template) => plugin.run(&options, generation, &run_name(job, *run), &template).await,
            Err(fault) => return (Err(fault), Vec::new()),
        },
        Verb::Route { shares, lead } => {
            let entries: Vec<RouteEntry> = std::iter::once(&first)
                .chain(&others)
                .zip(shares)
                .map(|(one, share)| RouteEntry {
                    generation: one.generation.clone(),
                    live: share.live,
                    lead: share.number == *lead,
                })
                .collect();
            plugin.route(&options, &entries).await
        }
    };
    (report.answer.map_err(|failure| failure.into_fault()), report.sent)
}

//! What is measured of generations: probes by the host, the target's own counters, queries of the operator's metric
//! sources. Whatever cannot be measured says why; it is never a number.

use super::reads::{self, Known};
use super::{World, fault};
use crate::adapters::prometheus::{Placeholders, RangeQuery};
use crate::shell::wall_ms;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use holdfast_core::engine::subject::{Subject, generation_name};
use holdfast_core::ids::GenNumber;
use holdfast_core::plan::MeasureQuery;
use holdfast_core::plan::facts::{Answers, Measure, Samples};
use holdfast_core::spec::AnalysisSource;
use holdfast_core::target::*;
use holdfast_host::{Network, ProbeOutcome, probe_http};
use std::collections::BTreeMap;
use std::time::Duration;

const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const PROBES_AT_ONCE: usize = 16;

pub(super) async fn probe(
    world: &World,
    target: &str,
    subject: Known,
    path: &str,
    addresses: &[String],
) -> (Option<String>, bool) {
    let Some((_, binding)) = subject.and_then(|(_, plugin)| world.plugins.find(target, &plugin)) else {
        return (Some("no plugin is bound to the target".into()), false);
    };
    let mut answered = false;
    for address in addresses {
        let failure = match probe_http(address, path, &binding.probe_networks, PROBE_TIMEOUT).await {
            ProbeOutcome::Healthy => {
                answered = true;
                continue;
            }
            ProbeOutcome::Status(status) => {
                answered = true;
                format!("{address} answered {status}")
            }
            // An instance that is there and says nothing is too late or not at all: that is an answer too.
            ProbeOutcome::Silent(message) => {
                answered = true;
                format!("{address}: {message}")
            }
            ProbeOutcome::NotGranted(message) => message,
        };
        return (Some(failure), answered);
    }
    (None, answered)
}

/// Counters and queries at once; one slow source does not hold the others up for longer than its own deadline.
pub(super) async fn measure(
    world: &World,
    target: &str,
    subjects: Vec<(GenNumber, Known)>,
    queries: &[MeasureQuery],
) -> (Result<Samples, Fault>, BTreeMap<String, Answers>) {
    let answers = join_all(queries.iter().map(|query| async {
        let answers = subjects.iter().map(|(number, subject)| async {
            let answer = match subject {
                Some((subject, plugin)) => answer(world, target, subject, plugin, query).await,
                None => Err("the generation is not known any more".to_owned()),
            };
            (*number, answer)
        });
        (query.name.clone(), join_all(answers).await.into_iter().collect())
    }));
    let (samples, answers) = tokio::join!(counters(world, target, &subjects), answers);
    (samples, answers.into_iter().collect())
}

async fn counters(world: &World, target: &str, subjects: &[(GenNumber, Known)]) -> Result<Samples, Fault> {
    let known = subjects.iter().filter(|(_, subject)| subject.is_some());
    let reads = join_all(known.map(|(number, subject)| async {
        let samples = reads::telemetry(world, target, subject.clone()).await?;
        Ok((*number, samples))
    }));
    reads.await.into_iter().collect()
}

async fn answer(
    world: &World,
    target: &str,
    subject: &Subject,
    plugin: &PluginRef,
    query: &MeasureQuery,
) -> Result<Measure, String> {
    match &query.source {
        // Answered by the counters.
        AnalysisSource::Target { .. } => Err("the target's own counters are no query".into()),
        AnalysisSource::Prometheus {
            source,
            query,
            samples,
            range_ms,
        } => {
            let placeholders = Placeholders {
                generation: generation_name(&subject.workload, subject.number),
                workload: subject.workload.name().to_owned(),
                target: target.to_owned(),
                release: subject.release.to_string(),
                deploy: subject.deploy_id.clone(),
            };
            let range = range_ms.map(|range_ms| RangeQuery {
                end_ms: wall_ms(),
                range_ms,
            });
            world
                .metrics
                .measure(source, query, samples.as_deref(), range, &placeholders)
                .await
        }
        AnalysisSource::Http { path } => {
            let addresses = query.addresses.get(&subject.number).map(Vec::as_slice).unwrap_or_default();
            let (_, binding) = world
                .plugins
                .find(target, plugin)
                .ok_or_else(|| fault(FaultClass::Invalid, "no plugin is bound to the target").message)?;
            ask_addresses(addresses, path, &binding.probe_networks).await
        }
    }
}

/// `value` is the share that did not answer 2xx. An address that may not be dialled measures nothing.
async fn ask_addresses(addresses: &[String], path: &str, networks: &[Network]) -> Result<Measure, String> {
    if addresses.is_empty() {
        return Err("no instance reports an address that could be asked".into());
    }
    let probes: Vec<_> = addresses
        .iter()
        .map(|address| probe_http(address, path, networks, PROBE_TIMEOUT))
        .collect();
    let outcomes: Vec<ProbeOutcome> = stream::iter(probes).buffered(PROBES_AT_ONCE).collect().await;
    let mut failed = 0_u32;
    for outcome in &outcomes {
        match outcome {
            ProbeOutcome::Healthy => {}
            ProbeOutcome::Status(_) | ProbeOutcome::Silent(_) => failed += 1,
            ProbeOutcome::NotGranted(message) => return Err(message.clone()),
        }
    }
    Ok(Measure {
        value: f64::from(failed) / outcomes.len() as f64,
        samples: outcomes.len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Answers every connection with one status.
    async fn server(status: u16) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let text = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(text.as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn addresses_are_counted_and_only_granted_ones_are_asked() {
        let (good, bad) = (server(204).await, server(503).await);
        let closed = {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let loopback = [Network::parse("127.0.0.0/8").unwrap()];
        let measure = |value, samples| Ok(Measure { value, samples });
        for (addresses, expected) in [
            (vec![good.clone()], measure(0.0, 1)),
            (vec![good.clone(), bad, good.clone(), closed], measure(0.5, 4)),
            (vec![], Err("no instance reports an address that could be asked".to_owned())),
            (
                vec![good, "192.0.2.1:80".to_owned()],
                Err("192.0.2.1:80 is in none of the networks that the operator granted for probes".to_owned()),
            ),
        ] {
            assert_eq!(
                ask_addresses(&addresses, "/healthz", &loopback).await,
                expected,
                "{addresses:?}"
            );
        }
    }
}

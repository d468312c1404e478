//! What is measured of generations: by the target's own counters, by a Prometheus and by probes. It may have gaps and
//! spikes.

use crate::options::{Fault as Trouble, Faults};
use crate::registry::Quality;
use crate::site::Site;
use holdfast_core::ids::GenNumber;
use holdfast_core::plan::MeasureQuery;
use holdfast_core::plan::facts::{Answers, Measure, Samples};
use holdfast_core::spec::AnalysisSource;
use holdfast_core::target::{Fault, FaultClass, Sample};
use std::collections::BTreeMap;

type Measured = (Result<Samples, Fault>, BTreeMap<String, Answers>);

pub fn measure(
    site: &Site,
    workload: &str,
    generations: &[GenNumber],
    queries: &[MeasureQuery],
    faults: &mut Faults,
    now: u64,
) -> Measured {
    let held = site.of(workload);
    let shares = site.shares(&held, now);
    let serves = |number: &GenNumber| shares.get(number).is_some_and(|live| *live > 0);
    let errs = |number: &GenNumber| held.generations.get(number).is_some_and(|one| one.quality == Quality::Erring);
    let spike = faults.strikes(Trouble::MetricsSpike, 4);
    let rate = |number: &GenNumber| if errs(number) || spike { 0.2 } else { 0.0 };
    let counters = |number: &GenNumber| {
        let total = if serves(number) { now as f64 } else { 0.0 };
        let sample = |name: &str, value| Sample {
            name: name.into(),
            value,
        };
        vec![sample("requests_total", total), sample("errors_total", total * rate(number))]
    };
    let samples = if faults.strikes(Trouble::MetricsGap, 15) {
        Err(Fault {
            class: FaultClass::Unavailable,
            message: "away".into(),
            fence: None,
        })
    } else {
        let known = generations.iter().filter(|number| held.generations.contains_key(number));
        Ok(known.map(|number| (*number, counters(number))).collect())
    };
    let mut answers = BTreeMap::new();
    for query in queries
        .iter()
        .filter(|query| !matches!(query.source, AnalysisSource::Target { .. }))
    {
        let gap = faults.strikes(Trouble::MetricsGap, 15);
        let broken = faults.below(Trouble::MetricsGap, 3);
        let answer = |number: &GenNumber| match (gap, broken) {
            (true, 0) => Err("bad_data".to_owned()),
            (true, 1) => Ok(Measure {
                value: f64::NAN,
                samples: 10,
            }),
            (true, _) => Err("time-out".to_owned()),
            (false, _) if serves(number) => Ok(Measure {
                value: rate(number),
                samples: 50,
            }),
            (false, _) => Err("empty vector".to_owned()),
        };
        answers.insert(
            query.name.clone(),
            generations.iter().map(|number| (*number, answer(number))).collect(),
        );
    }
    (samples, answers)
}

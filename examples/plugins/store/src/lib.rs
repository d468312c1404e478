//! A target plugin over an API that keeps JSON documents: a unit for each generation, and for each workload one document with
//! its shares, which is also where fences are compared.

use holdfast_plugin::schemars::JsonSchema;
use holdfast_plugin::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const API: Endpoint = Endpoint::new("api");
/// The protocol has room for so many.
const STRANGERS_MAX: usize = 50;

/// A target's `config`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// What a manifest can say of a generation.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Template {}

#[derive(Serialize, Deserialize)]
struct Unit {
    record: Record,
    size: u32,
    /// The digest of what runs; the target's to say.
    #[serde(default)]
    running: String,
}

#[derive(Serialize, Deserialize)]
struct Workload {
    owner: String,
    workload: String,
    fence: u64,
    /// What was asked for, in 1/10000, by generation.
    shares: BTreeMap<u32, u32>,
    /// What is in effect; the target's to say.
    #[serde(default)]
    applied: BTreeMap<u32, u32>,
}

#[derive(Deserialize)]
struct Listed {
    items: Vec<Item>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    path: String,
    document: serde_json::Value,
}

impl Item {
    fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Fault> {
        T::deserialize(&self.document)
            .map_err(|error| Fault::Unavailable(format!("{} is not as we wrote it: {error}", self.path)))
    }
}

pub struct Store;
export_target!("plugin.json", Store);

impl TargetPlugin for Store {
    type Config = Config;
    type Template = Template;

    fn abilities(_: &Config, _: &Template) -> Abilities {
        Abilities::weighted()
    }

    fn observe(call: &Call<Config>, query: &Query) -> Result<Page, Fault> {
        let mut page = Page::default();
        let split = |listed: Listed| (listed.items, listed.next);
        let (units, strangers) = API.list_by_stamp("/units", split, |item| {
            item.document["record"]["owner"] == call.owner.as_str()
        })?;
        page.strangers = strangers.into_iter().map(|item| item.path).take(STRANGERS_MAX).collect();
        for item in units {
            let unit: Unit = item.read()?;
            if page.takes(call, query, &unit.record) {
                page.generations.push(state(unit));
            }
        }
        let (workloads, _) = API.list_by_stamp("/workloads", split, |item| item.document["owner"] == call.owner.as_str())?;
        for item in workloads {
            let workload: Workload = item.read()?;
            page.high_fence = page.high_fence.max(workload.fence);
            if query.workload.as_ref().is_none_or(|wanted| *wanted == workload.workload) {
                page.routes.push(route_state(workload));
            }
        }
        Ok(page)
    }

    fn launch(call: &Call<Config>, subject: &Subject<Template>, size: u32) -> Result<Progress, Fault> {
        claim(call, subject, |_| {})?;
        let record = Record::of(call, subject)?;
        API.swap(&unit_path(subject), |there: Option<Unit>| {
            let running = match there {
                Some(there) if there.record.release_id != record.release_id => {
                    return Err(Fault::Conflict(format!("{} is there, of another release", subject.name)));
                }
                Some(there) => there.running,
                None => String::new(),
            };
            Ok(Some(Unit {
                record: record.clone(),
                size,
                running,
            }))
        })?;
        Ok(Progress::Done)
    }

    fn scale(call: &Call<Config>, subject: &Subject<Template>, size: u32) -> Result<Progress, Fault> {
        claim(call, subject, |_| {})?;
        API.swap(&unit_path(subject), |there: Option<Unit>| {
            let mut unit = there.ok_or_else(|| Fault::Absent(format!("{} is not there", subject.name)))?;
            (unit.size, unit.record.fence) = (size, call.fence);
            Ok(Some(unit))
        })?;
        Ok(Progress::Done)
    }

    fn route(call: &Call<Config>, entries: &[RouteEntry]) -> Result<Progress, Fault> {
        let Some(first) = entries.first() else {
            return Err(Fault::Invalid("a route has entries".into()));
        };
        let shares: BTreeMap<u32, u32> = entries.iter().map(|entry| (entry.generation.number, entry.live)).collect();
        claim(call, &first.generation, |workload| workload.shares.clone_from(&shares))?;
        Ok(Progress::Done)
    }

    fn retire(call: &Call<Config>, subject: &Generation, last: bool) -> Result<Progress, Fault> {
        let path = workload_path(subject);
        let Some(workload) = API.find::<Workload>(&path)? else {
            return Ok(Progress::Done);
        };
        if !last && workload.applied.get(&subject.number).is_some_and(|share| *share > 0) {
            return Err(Fault::Conflict(format!("{} has traffic", subject.name)));
        }
        claim(call, subject, |workload| {
            workload.shares.retain(|number, _| *number != subject.number)
        })?;
        API.remove(&unit_path(subject))?;
        if last {
            API.remove(&path)?;
        }
        Ok(Progress::Done)
    }
}

fn unit_path(of: &Generation) -> String {
    format!("/units/{}", of.name)
}

fn workload_path(of: &Generation) -> String {
    format!("/workloads/{}", of.key)
}

/// Every verb that writes begins here: whose the workload is, and whether somebody newer is at work.
fn claim(call: &Call<Config>, of: &Generation, change: impl Fn(&mut Workload)) -> Result<(), Fault> {
    API.swap(&workload_path(of), |there: Option<Workload>| {
        let mut workload = there.unwrap_or_else(|| Workload {
            owner: call.owner.clone(),
            workload: of.workload.clone(),
            fence: 0,
            shares: BTreeMap::new(),
            applied: BTreeMap::new(),
        });
        call.may_write("the workload", &workload.owner, workload.fence)?;
        workload.fence = call.fence;
        change(&mut workload);
        Ok(Some(workload))
    })
}

fn state(unit: Unit) -> GenerationState {
    let phase = match (unit.size, unit.running.as_str()) {
        (0, _) => Phase::Parked,
        (_, "") => Phase::Starting,
        _ => Phase::Ready,
    };
    let ready = if phase == Phase::Ready { unit.size } else { 0 };
    let mut state = unit.record.state(phase, ready);
    state.wanted = Some(unit.size);
    // What it was asked to run proves nothing.
    state
        .proofs
        .iter_mut()
        .for_each(|proof| proof.digest.clone_from(&unit.running));
    state.proofs.retain(|proof| !proof.digest.is_empty());
    state
}

fn route_state(workload: Workload) -> RouteState {
    RouteState {
        settled: workload.applied == workload.shares,
        workload: workload.workload,
        fence: workload.fence,
        shares: workload
            .applied
            .into_iter()
            .map(|(number, live)| Share { number, live })
            .collect(),
        fingerprint: String::new(),
    }
}

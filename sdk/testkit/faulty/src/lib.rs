//! The example plugin `store`, with one promise broken: the one that the target's config names. Each is a mistake that an
//! author could make in a line or two; where none is named, all are kept.

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
pub struct Config {
    #[serde(default)]
    broken: Option<Broken>,
    /// What `Broken::Problems` puts up with.
    #[serde(default, rename = "holdfast-unknown-field")]
    unknown: bool,
}

impl Config {
    fn breaks(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Broken {
    /// An unknown field of the config is no problem.
    Problems,
    /// It starts one instance, whatever was planned.
    Claims,
    /// What is there already is in the way.
    Idempotence,
    /// `scale` looks at the owner only.
    Fence,
    /// Where the workload's document is there under this fence, the rest is thought to be.
    Resume,
    /// It writes the shares without looking whether somebody wrote in between.
    Guarded,
    /// It reports what it was asked to run.
    Digest,
    /// It reports what it was asked to route.
    Weights,
    /// It takes away everything that has no traffic.
    Retire,
    /// The last generation of one workload takes every workload's document along.
    Neighbours,
    /// `route` does not look whose the workload is.
    Foreign,
    /// A target that is overloaded is the release's fault.
    Classes,
    /// It unwraps what the target answers.
    Faults,
    /// It quotes whole answers.
    Bounded,
    /// It asks for each generation by itself.
    Crowd,
}

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

pub struct Faulty;
export_target!("plugin.json", Faulty);

impl TargetPlugin for Faulty {
    type Config = Config;
    type Template = Template;

    fn abilities(_: &Config, _: &Template) -> Abilities {
        Abilities::weighted()
    }

    fn problems(call: &Call<Config>, _: &Subject<Template>) -> Vec<Problem> {
        let unknown = call.config.unknown && !call.config.breaks(Broken::Problems);
        let problem = || Problem {
            at: "/config/holdfast-unknown-field".into(),
            message: "unknown field".into(),
            hint: String::new(),
        };
        unknown.then(problem).into_iter().collect()
    }

    fn observe(call: &Call<Config>, query: &Query) -> Result<Page, Fault> {
        let mut page = Page::default();
        let split = |listed: Listed| (listed.items, listed.next);
        let (units, strangers) = API.list_by_stamp("/units", split, |item| {
            item.document["record"]["owner"] == call.owner.as_str()
        })?;
        page.strangers = strangers.into_iter().map(|item| item.path).take(STRANGERS_MAX).collect();
        for item in units {
            let unit: Unit = match call.config.breaks(Broken::Crowd) {
                true => API.get(&item.path)?,
                false => item.read()?,
            };
            if page.takes(call, query, &unit.record) {
                page.generations.push(state(call, unit));
            }
        }
        let (workloads, _) = API.list_by_stamp("/workloads", split, |item| item.document["owner"] == call.owner.as_str())?;
        for item in workloads {
            let workload: Workload = item.read()?;
            page.high_fence = page.high_fence.max(workload.fence);
            if query.workload.as_ref().is_none_or(|wanted| *wanted == workload.workload) {
                page.routes.push(route_state(call, workload));
            }
        }
        Ok(page)
    }

    fn launch(call: &Call<Config>, subject: &Subject<Template>, size: u32) -> Result<Progress, Fault> {
        if call.config.breaks(Broken::Resume) {
            let workload: Option<Workload> = API.find(&workload_path(subject))?;
            if workload.is_some_and(|workload| workload.fence == call.fence) {
                return Ok(Progress::Done);
            }
        }
        claim(call, subject, |_| {})?;
        let size = if call.config.breaks(Broken::Claims) { 1 } else { size };
        let record = Record::of(call, subject)?;
        API.swap(&unit_path(subject), |there: Option<Unit>| {
            let running = match there {
                Some(_) if call.config.breaks(Broken::Idempotence) => {
                    return Err(Fault::Conflict(format!("{} is there already", subject.name)));
                }
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
        if call.config.breaks(Broken::Bounded) {
            let answer = API.ask(&unit_path(subject))?;
            if answer.status == 500 {
                return Err(Fault::Unavailable(String::from_utf8_lossy(&answer.body).into_owned()));
            }
            expect_success(answer)?;
        }
        let look = match call.config.breaks(Broken::Fence) {
            true => Look {
                fence: false,
                owner: true,
            },
            false => Look::ALL,
        };
        claim_looking(call, subject, look, |_| {})?;
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
        let subject = &first.generation;
        if call.config.breaks(Broken::Guarded) {
            return overwrite(call, subject, shares);
        }
        let look = match call.config.breaks(Broken::Foreign) {
            true => Look {
                fence: true,
                owner: false,
            },
            false => Look::ALL,
        };
        match claim_looking(call, subject, look, |workload| workload.shares.clone_from(&shares)) {
            Err(Fault::Unavailable(message)) if call.config.breaks(Broken::Classes) && message.starts_with("HTTP 5") => {
                Err(Fault::Failed(message))
            }
            Err(Fault::Unavailable(message))
                if call.config.breaks(Broken::Faults) && message.contains("not what was expected") =>
            {
                panic!("called unwrap on {message}")
            }
            outcome => outcome.map(|()| Progress::Done),
        }
    }

    fn retire(call: &Call<Config>, subject: &Generation, last: bool) -> Result<Progress, Fault> {
        let path = workload_path(subject);
        let Some(workload) = API.find::<Workload>(&path)? else {
            return Ok(Progress::Done);
        };
        let has_traffic = |number: u32| workload.applied.get(&number).is_some_and(|share| *share > 0);
        if !last && has_traffic(subject.number) {
            return Err(Fault::Conflict(format!("{} has traffic", subject.name)));
        }
        claim(call, subject, |workload| {
            workload.shares.retain(|number, _| *number != subject.number)
        })?;
        API.remove(&unit_path(subject))?;
        if call.config.breaks(Broken::Retire) {
            for number in (1..subject.number).filter(|number| !has_traffic(*number)) {
                API.remove(&format!("/units/{}-g{number}", subject.key))?;
            }
        }
        if last && call.config.breaks(Broken::Neighbours) {
            let all = API.list("/workloads", |listed: Listed| (listed.items, listed.next))?;
            all.iter().try_for_each(|item| API.remove(&item.path))?;
        }
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

/// What is looked at before a workload is written.
#[derive(Clone, Copy)]
struct Look {
    fence: bool,
    owner: bool,
}

impl Look {
    const ALL: Look = Look {
        fence: true,
        owner: true,
    };
}

fn claim(call: &Call<Config>, of: &Generation, change: impl Fn(&mut Workload)) -> Result<(), Fault> {
    claim_looking(call, of, Look::ALL, change)
}

fn claim_looking(call: &Call<Config>, of: &Generation, look: Look, change: impl Fn(&mut Workload)) -> Result<(), Fault> {
    API.swap(&workload_path(of), |there: Option<Workload>| {
        let mut workload = there.unwrap_or_else(|| Workload {
            owner: call.owner.clone(),
            workload: of.workload.clone(),
            fence: 0,
            shares: BTreeMap::new(),
            applied: BTreeMap::new(),
        });
        let owner = if look.owner { &workload.owner } else { &call.owner };
        let fence = if look.fence { workload.fence } else { 0 };
        call.may_write("the workload", owner, fence)?;
        workload.fence = call.fence;
        change(&mut workload);
        Ok(Some(workload))
    })
}

/// Looks, and then writes whatever came in between.
fn overwrite(call: &Call<Config>, of: &Generation, shares: BTreeMap<u32, u32>) -> Result<Progress, Fault> {
    let path = workload_path(of);
    let Some(mut workload) = API.find::<Workload>(&path)? else {
        return Err(Fault::Conflict(format!("{path} is not there")));
    };
    call.may_write("the workload", &workload.owner, workload.fence)?;
    (workload.fence, workload.shares) = (call.fence, shares);
    expect_success(API.put(&path, &workload)?)?;
    Ok(Progress::Done)
}

fn state(call: &Call<Config>, unit: Unit) -> GenerationState {
    let phase = match (unit.size, unit.running.as_str()) {
        (0, _) => Phase::Parked,
        (_, "") => Phase::Starting,
        _ => Phase::Ready,
    };
    let ready = if phase == Phase::Ready { unit.size } else { 0 };
    let mut state = unit.record.state(phase, ready);
    state.wanted = Some(unit.size);
    if !call.config.breaks(Broken::Digest) {
        state
            .proofs
            .iter_mut()
            .for_each(|proof| proof.digest.clone_from(&unit.running));
        state.proofs.retain(|proof| !proof.digest.is_empty());
    }
    state
}

fn route_state(call: &Call<Config>, workload: Workload) -> RouteState {
    let believed = call.config.breaks(Broken::Weights);
    let shares = if believed { &workload.shares } else { &workload.applied };
    RouteState {
        settled: believed || workload.applied == workload.shares,
        shares: shares
            .iter()
            .map(|(number, live)| Share {
                number: *number,
                live: *live,
            })
            .collect(),
        workload: workload.workload,
        fence: workload.fence,
        fingerprint: String::new(),
    }
}

//! One target on which a plugin acts: verbs with their repeats, looks, and what both say.

use crate::lab::{Lab, Subjects};
use crate::tap::Tap;
use holdfast_core::target::{
    Abilities, Artifact, CallContext, Fault, FaultClass, GenPhase, Generation, Page, Progress, RouteEntry, Stamp,
};
use holdfast_host::{Binding, BindingConfig, BindingError, CallFailure, CallOptions, EndpointConfig, FailureClass, Plugin, Wire};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub const OWNER: &str = "owner001";
pub const WHOLE: u32 = 10_000;
const TARGET: &str = "target-a";
/// A verb that is pending, or a generation that is not ready, is asked again so often.
const REPEATS_MAX: u32 = 600;
const PAUSE: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_secs(10);
const NOW_MS: u64 = 1_700_000_000_000;

/// Why a check ends before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// What the check is about is not so.
    Failed(String),
    /// What it needs first did not work.
    NotReached(String),
    /// There is nothing to check.
    Skipped(String),
}

pub type Checked = Result<(), Stop>;

pub fn fail<T>(why: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Failed(why.into()))
}

pub fn skip<T>(why: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Skipped(why.into()))
}

/// A verb and its arguments.
#[derive(Debug, Clone)]
pub enum Verb {
    Launch(Generation, u32),
    Scale(Generation, u32),
    Route(Vec<RouteEntry>),
    Retire(Generation, bool),
}

impl Verb {
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Launch(..) => "launch",
            Verb::Scale(..) => "scale",
            Verb::Route(..) => "route",
            Verb::Retire(..) => "retire",
        }
    }
}

/// What a plugin wants is what it gets: what its metadata does not say that it wants is denied. `wire` answers.
pub fn binding_over(plugin: &Plugin, wire: Arc<dyn Wire>) -> Result<Arc<Binding>, BindingError> {
    let wants = plugin
        .metadata
        .as_ref()
        .map(|metadata| metadata.wants.as_slice())
        .unwrap_or_default();
    let endpoints = wants.iter().map(|want| {
        // Nothing listens there, and nothing is sent there.
        let mut endpoint = EndpointConfig::new("http://127.0.0.1:9");
        endpoint.rules.clone_from(&want.rules);
        (want.alias.clone(), endpoint)
    });
    let config = BindingConfig {
        endpoints: endpoints.collect(),
        probe_networks: Vec::new(),
    };
    Ok(Arc::new(Binding::over(&config, wire)?))
}

/// A generation of the workload `main/KEY` with one artifact, for trying a verb. `uri`: registry/repository@digest.
pub fn sample_generation(key: &str, number: u32, uri: &str, template: &str) -> Generation {
    let release_id = format!("{key}-release-{number}");
    let stamp = |name: &str, value: &str| Stamp {
        name: name.into(),
        value: value.into(),
    };
    Generation {
        workload: format!("main/{key}"),
        key: key.into(),
        name: format!("{key}-g{number}"),
        number,
        artifacts: vec![Artifact {
            name: "main".into(),
            uri: uri.into(),
            digest: uri.rsplit_once('@').map_or(uri, |(_, digest)| digest).into(),
            images: Vec::new(),
            payload: Vec::new(),
        }],
        template: template.into(),
        files: Vec::new(),
        secrets: Vec::new(),
        stamps: vec![
            stamp("holdfast-owner", OWNER),
            stamp("holdfast-workload", &format!("main.{key}")),
            stamp("holdfast-generation", &number.to_string()),
            stamp("holdfast-release", &release_id),
        ],
        release_id,
        drain_ms: 0,
    }
}

/// The plugin, the lab, and what the plugin said that it can do.
pub struct Kit<'a> {
    pub plugin: &'a Plugin,
    pub lab: &'a dyn Lab,
    pub abilities: Abilities,
}

impl Kit<'_> {
    pub fn subjects(&self) -> &Subjects {
        self.lab.subjects()
    }

    /// A new target.
    pub fn stage(&self) -> Result<Stage<'_>, Stop> {
        Stage::on(self, Arc::new(Tap::new(self.lab.fresh())), OWNER)
    }

    /// Generation `number` of the workload named by `key`; releases take turns with the artifacts.
    pub fn generation(&self, key: &str, number: u32) -> Generation {
        let subjects = self.subjects();
        let artifact = &subjects.artifacts[(number as usize + 1) % 2];
        Generation {
            artifacts: vec![artifact.clone()],
            ..sample_generation(key, number, &artifact.uri, &subjects.template)
        }
    }

    pub fn entry(&self, key: &str, number: u32, live: u32, lead: bool) -> RouteEntry {
        RouteEntry {
            generation: self.generation(key, number),
            live,
            lead,
        }
    }
}

pub struct Stage<'a> {
    pub kit: &'a Kit<'a>,
    pub tap: Arc<Tap>,
    owner: &'static str,
    binding: Arc<Binding>,
}

impl<'a> Stage<'a> {
    pub fn on(kit: &'a Kit<'a>, tap: Arc<Tap>, owner: &'static str) -> Result<Self, Stop> {
        let binding = binding_over(kit.plugin, tap.clone()).map_err(|error| Stop::NotReached(error.to_string()))?;
        Ok(Self {
            kit,
            tap,
            owner,
            binding,
        })
    }

    /// The same target, as another installation.
    pub fn stranger(&self) -> Result<Stage<'a>, Stop> {
        Stage::on(self.kit, self.tap.clone(), "other002")
    }

    fn context(&self, fence: u64, resume: Option<String>) -> CallContext {
        CallContext {
            owner: self.owner.into(),
            target: TARGET.into(),
            config: self.kit.subjects().config.clone(),
            fence,
            deploy_id: format!("d{fence}"),
            resume,
        }
    }

    /// One call, whatever comes of it.
    pub async fn once(&self, fence: u64, verb: &Verb, resume: Option<String>) -> Result<Progress, CallFailure> {
        let context = self.context(fence, resume);
        let options = CallOptions {
            binding: Some(self.binding.clone()),
            context: &context,
            deadline: DEADLINE,
            now_ms: NOW_MS,
            secrets: &[],
            artifacts: None,
        };
        let plugin = self.kit.plugin;
        match verb {
            Verb::Launch(subject, size) => plugin.launch(&options, subject, *size).await.answer,
            Verb::Scale(subject, size) => plugin.scale(&options, subject, *size).await.answer,
            Verb::Route(entries) => plugin.route(&options, entries).await.answer,
            Verb::Retire(subject, last) => plugin.retire(&options, subject, *last).await.answer,
        }
    }

    /// Until it is done, or no longer pending.
    pub async fn act(&self, fence: u64, verb: &Verb) -> Result<(), CallFailure> {
        let mut resume = None;
        for _ in 0..REPEATS_MAX {
            match self.once(fence, verb, resume.take()).await? {
                Progress::Done => return Ok(()),
                Progress::Pending { resume: next, .. } => {
                    resume = Some(next);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        Err(CallFailure::Fault(Fault {
            class: FaultClass::Unavailable,
            message: format!("{} is still pending after {REPEATS_MAX} calls", verb.name()),
            fence: None,
        }))
    }

    /// As `act`, where something else is being checked.
    pub async fn do_it(&self, fence: u64, verb: &Verb) -> Checked {
        let outcome = self.act(fence, verb).await;
        outcome.map_err(|failure| Stop::NotReached(format!("{} did not work: {}", verb.name(), said(&failure))))
    }

    pub async fn look(&self) -> Result<Page, CallFailure> {
        let context = self.context(0, None);
        let options = CallOptions {
            binding: Some(self.binding.clone()),
            context: &context,
            deadline: DEADLINE,
            now_ms: NOW_MS,
            secrets: &[],
            artifacts: None,
        };
        self.kit.plugin.observe(&options, None).await.answer
    }

    pub async fn seen(&self) -> Result<Page, Stop> {
        let page = self.look().await;
        page.map_err(|failure| Stop::NotReached(format!("observe did not work: {}", said(&failure))))
    }

    /// Looks until `condition` holds; none: it never did.
    pub async fn seen_when(&self, condition: impl Fn(&Page) -> bool) -> Result<Option<Page>, Stop> {
        for _ in 0..REPEATS_MAX {
            let page = self.seen().await?;
            if condition(&page) {
                return Ok(Some(page));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(None)
    }

    /// What is there once nothing is on its way any more.
    pub async fn settled(&self) -> Result<BTreeMap<String, String>, Stop> {
        let quiet = |page: &Page| {
            let on_its_way = |phase| matches!(phase, GenPhase::Starting | GenPhase::Leaving);
            !page.generations.iter().any(|state| on_its_way(state.phase)) && page.routes.iter().all(|route| route.settled)
        };
        match self.seen_when(quiet).await? {
            Some(page) => Ok(state_of(&page)),
            None => Ok(state_of(&self.seen().await?)),
        }
    }

    /// A generation that is there and ready; on a target that stages nothing, also live.
    pub async fn bring(&self, key: &str, number: u32, fence: u64) -> Checked {
        let kit = self.kit;
        let verb = match kit.abilities.staged {
            true => Verb::Launch(kit.generation(key, number), 1),
            false => Verb::Route(vec![kit.entry(key, number, WHOLE, true)]),
        };
        self.do_it(fence, &verb).await?;
        let ready = |page: &Page| {
            let generations = page.generations.iter();
            let mut ours = generations.filter(|state| state.workload == format!("main/{key}") && state.number == number);
            ours.any(|state| state.phase == GenPhase::Ready)
        };
        match self.seen_when(ready).await? {
            Some(_) => Ok(()),
            None => Err(Stop::NotReached(format!("generation {number} of {key} never became ready"))),
        }
    }

    /// Where a generation has no traffic by being launched.
    pub async fn route(&self, key: &str, shares: &[(u32, u32)], fence: u64) -> Checked {
        let entries = shares.iter().enumerate();
        let entries = entries.map(|(index, (number, live))| self.kit.entry(key, *number, *live, index == 0));
        self.do_it(fence, &Verb::Route(entries.collect())).await
    }
}

pub fn said(failure: &CallFailure) -> String {
    match failure {
        CallFailure::Fault(fault) => format!("{}: {}", fault.class.as_str(), short(&fault.message)),
        CallFailure::Failed { class, message } => format!("the call ended by {}: {}", class.as_str(), short(message)),
    }
}

pub fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

/// A plugin that ends by its own fault class, and not by a trap or a limit.
pub fn fault(failure: &CallFailure) -> Option<&Fault> {
    match failure {
        CallFailure::Fault(fault) => Some(fault),
        CallFailure::Failed { .. } => None,
    }
}

pub fn class(failure: &CallFailure) -> Option<FaultClass> {
    fault(failure).map(|fault| fault.class)
}

pub fn is_limit(class: FailureClass) -> bool {
    use FailureClass::*;
    matches!(class, Deadline | CpuBudget | Stack | Memory | OutputSize)
}

/// What two looks are compared by: not when, under which fence, at which address, nor in which words.
pub fn state_of(page: &Page) -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    for one in &page.generations {
        let mut proofs: Vec<String> = one
            .proofs
            .iter()
            .map(|proof| format!("{} {} {}", proof.artifact, proof.digest, proof.count))
            .collect();
        proofs.sort();
        let value = format!(
            "{} {:?} wanted {:?} ready {} {proofs:?}",
            one.release_id, one.phase, one.wanted, one.ready
        );
        state.insert(format!("generation {} of {}", one.number, one.workload), value);
    }
    for route in &page.routes {
        let shares: BTreeMap<u32, u32> = route
            .shares
            .iter()
            .filter(|share| share.live > 0)
            .map(|share| (share.number, share.live))
            .collect();
        state.insert(format!("route of {}", route.workload), format!("{shares:?}"));
    }
    state
}

/// The first difference, in words.
pub fn difference(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Option<String> {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    let name = names.into_iter().find(|name| before.get(*name) != after.get(*name))?;
    let of = |state: &BTreeMap<String, String>| state.get(name).cloned().unwrap_or_else(|| "not there".into());
    Some(format!("{name}: {} / {}", of(before), of(after)))
}

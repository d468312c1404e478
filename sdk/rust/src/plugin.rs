//! The trait that most plugins implement: config and template are the author's own types, and what does not fit them is
//! reported before a verb is entered.

use crate::bindings::exports::holdfast::target::target::Guest;
use crate::typed::{checked_config, config, template};
use crate::*;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ops::Deref;

/// The context of a call, and the target's config.
pub struct Call<C> {
    pub context: Context,
    pub config: C,
}

impl<C> Deref for Call<C> {
    type Target = Context;
    fn deref(&self) -> &Context {
        &self.context
    }
}

/// A generation, and its template.
pub struct Subject<T> {
    pub generation: Generation,
    pub template: T,
}

impl<T> Deref for Subject<T> {
    type Target = Generation;
    fn deref(&self) -> &Generation {
        &self.generation
    }
}

/// The required part of the contract, `target` in `target.wit`, whose comments say what each verb promises. Implement it and
/// export the type with [`export_target!`](crate::export_target).
///
/// A target that stages nothing (one document) leaves out `launch` and `scale`: they are never called there.
pub trait TargetPlugin {
    /// A target's `config`. Unknown fields should be denied, so that a typing error is a problem at its place.
    type Config: DeserializeOwned + JsonSchema;
    /// A generation's template.
    type Template: DeserializeOwned + JsonSchema;

    /// Pure. What this workload can do on this target.
    fn abilities(config: &Self::Config, template: &Self::Template) -> Abilities;

    /// Pure. What is wrong that the types cannot say; `at` is a JSON pointer below /config or /template.
    fn problems(_: &Call<Self::Config>, _: &Subject<Self::Template>) -> Vec<Problem> {
        Vec::new()
    }

    fn observe(call: &Call<Self::Config>, query: &Query) -> Result<Page, Fault>;

    fn launch(_: &Call<Self::Config>, _: &Subject<Self::Template>, _size: u32) -> Result<Progress, Fault> {
        Err(Fault::Invalid("nothing can be staged on this target".into()))
    }

    fn scale(_: &Call<Self::Config>, _: &Subject<Self::Template>, _size: u32) -> Result<Progress, Fault> {
        Err(Fault::Invalid("nothing can be sized on this target".into()))
    }

    fn route(call: &Call<Self::Config>, entries: &[RouteEntry]) -> Result<Progress, Fault>;

    fn retire(call: &Call<Self::Config>, subject: &Generation, last: bool) -> Result<Progress, Fault>;
}

/// For a plugin without config, or without template: `{}`.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

fn call<P: TargetPlugin>(context: Context) -> Result<Call<P::Config>, Fault> {
    let config = config(&context.config)?;
    Ok(Call { context, config })
}

fn subject<P: TargetPlugin>(generation: Generation) -> Result<Subject<P::Template>, Fault> {
    let template =
        template(&generation.template).map_err(|problem| Fault::Invalid(format!("{}: {}", problem.at, problem.message)))?;
    Ok(Subject { generation, template })
}

impl<P: TargetPlugin> Guest for P {
    fn check(context: Context, generation: Generation) -> Result<Report, Fault> {
        match (checked_config(&context.config), template(&generation.template)) {
            (Ok(config), Ok(template)) => {
                let abilities = P::abilities(&config, &template);
                let problems = P::problems(&Call { context, config }, &Subject { generation, template });
                Ok(Report { problems, abilities })
            }
            (config, template) => Ok(Report {
                problems: config.err().into_iter().chain(template.err()).collect(),
                // Nobody plans by them where there are problems.
                abilities: Abilities::document(),
            }),
        }
    }

    fn observe(context: Context, query: Query) -> Result<Page, Fault> {
        P::observe(&call::<P>(context)?, &query)
    }

    fn launch(context: Context, generation: Generation, size: u32) -> Result<Progress, Fault> {
        P::launch(&call::<P>(context)?, &subject::<P>(generation)?, size)
    }

    fn scale(context: Context, generation: Generation, size: u32) -> Result<Progress, Fault> {
        P::scale(&call::<P>(context)?, &subject::<P>(generation)?, size)
    }

    fn route(context: Context, entries: Vec<RouteEntry>) -> Result<Progress, Fault> {
        P::route(&call::<P>(context)?, &entries)
    }

    fn retire(context: Context, generation: Generation, last: bool) -> Result<Progress, Fault> {
        P::retire(&call::<P>(context)?, &generation, last)
    }
}

impl Context {
    /// What a verb that changes something looks at first, on each object that it is about to write: another owner's is a
    /// conflict, a higher fence refuses.
    pub fn may_write(&self, what: &str, owner: &str, fence: u64) -> Result<(), Fault> {
        if owner != self.owner {
            return Err(Fault::Conflict(format!("{what} belongs to another installation")));
        }
        if fence > self.fence {
            return Err(Fault::Fenced(fence));
        }
        Ok(())
    }
}

/// What a plugin writes into an object so that it finds it again: whose it is, of which generation, and what it shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub owner: String,
    pub workload: String,
    pub fence: u64,
    pub number: u32,
    pub release_id: String,
    /// The main artifact's name and digest.
    pub artifact: String,
    pub digest: String,
}

impl Record {
    pub fn of(ctx: &Context, generation: &Generation) -> Result<Self, Fault> {
        let named_main = generation.artifacts.iter().find(|artifact| artifact.name == "main");
        let Some(main) = named_main.or(generation.artifacts.first()) else {
            return Err(Fault::Invalid("the release has no artifact".into()));
        };
        Ok(Self {
            owner: ctx.owner.clone(),
            workload: generation.workload.clone(),
            fence: ctx.fence,
            number: generation.number,
            release_id: generation.release_id.clone(),
            artifact: main.name.clone(),
            digest: main.digest.clone(),
        })
    }

    /// See [`Context::may_write`].
    pub fn may_write(&self, ctx: &Context, what: &str) -> Result<(), Fault> {
        ctx.may_write(what, &self.owner, self.fence)
    }

    /// As the record says it; set `proofs` to what the target says, where it says more.
    pub fn state(self, phase: Phase, ready: u32) -> GenerationState {
        GenerationState {
            proofs: vec![Proof {
                artifact: self.artifact,
                digest: self.digest,
                by: Evidence::Reported,
                count: ready,
            }],
            objects: vec![format!("{} g{}", self.workload, self.number)],
            workload: self.workload,
            number: self.number,
            release_id: self.release_id,
            fence: self.fence,
            phase,
            ready,
            ..GenerationState::default()
        }
    }

    /// All traffic is this generation's.
    pub fn whole_route(self) -> RouteState {
        RouteState {
            workload: self.workload,
            fence: self.fence,
            shares: vec![Share {
                number: self.number,
                live: 10_000,
            }],
            settled: true,
            fingerprint: String::new(),
        }
    }
}

impl Page {
    /// Notes whose the target is and the highest fence of ours; whether the record is ours, and is asked for.
    pub fn takes(&mut self, ctx: &Context, query: &Query, record: &Record) -> bool {
        let ours = record.owner == ctx.owner;
        if ours {
            self.high_fence = self.high_fence.max(record.fence);
        }
        ours && query.workload.as_ref().is_none_or(|wanted| *wanted == record.workload)
    }
}

impl Abilities {
    /// One document that says what runs: nothing beside what is live.
    pub const fn document() -> Self {
        Self {
            routing: Routing::Single,
            most_live: 1,
            finest_share: 10_000,
            sizing: Sizing::Unsized,
            overlap: false,
            staged: false,
            seamless: true,
            guarded: false,
            probed: false,
        }
    }

    /// Generations side by side, with any share each, as many instances as are planned, fenced by the target's own
    /// compare-and-swap.
    pub const fn weighted() -> Self {
        Self {
            routing: Routing::Weighted,
            most_live: 16,
            finest_share: 1,
            sizing: Sizing::Planned,
            overlap: true,
            staged: true,
            seamless: true,
            guarded: true,
            probed: false,
        }
    }
}

#[allow(clippy::derivable_impls, reason = "the type is made from the WIT")]
impl Default for Page {
    fn default() -> Self {
        Self {
            owner: None,
            high_fence: 0,
            generations: Vec::new(),
            routes: Vec::new(),
            strangers: Vec::new(),
            more: None,
        }
    }
}

/// Of nobody, partial, without instances: set what is known.
impl Default for GenerationState {
    fn default() -> Self {
        Self {
            workload: String::new(),
            number: 0,
            release_id: String::new(),
            fence: 0,
            phase: Phase::Partial,
            reason: String::new(),
            message: String::new(),
            wanted: None,
            ready: 0,
            restarts: 0,
            proofs: Vec::new(),
            fingerprint: String::new(),
            objects: Vec::new(),
            instances: Vec::new(),
        }
    }
}

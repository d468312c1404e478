//! Versions of the plugin protocol: each breaking one is a directory of WIT and one adapter to what the host calls. A component
//! says by its exports which one it was built for.

use crate::bindings::holdfast::target::types::Query;
use crate::bindings::{TargetPlugin, TargetPluginIndices};
use crate::call::{Running, progress};
use crate::convert;
use crate::guest::Guest;
use holdfast_core::target::{CallContext, Generation, Page, Progress, Report, RouteEntry};
use wasmtime::component::{HasSelf, Instance, InstancePre, Linker};
use wasmtime::{Result, Store};

const TARGET: &str = "holdfast:target/target@";

/// One version of the protocol.
pub(crate) trait Protocol: Send + Sync {
    /// The series, as in `0.1`: everything in it is compatible.
    fn series(&self) -> &'static str;
    /// Interfaces of `holdfast:target` that a component may import.
    fn imports(&self) -> &'static [&'static str];
    fn link(&self, linker: &mut Linker<Guest>) -> Result<()>;
    /// Where a component's required exports are: looked up once, not in every call.
    fn bind(&self, pre: &InstancePre<Guest>) -> Result<Box<dyn Bound>>;
}

/// The required part of one component, in the core's own words.
pub(crate) trait Bound: Send + Sync {
    /// Whether what an instance exports has the right types.
    fn fits(&self, store: &mut Store<Guest>, instance: &Instance) -> Result<()>;

    fn check<'a>(
        &'a self,
        store: &'a mut Store<Guest>,
        instance: &'a Instance,
        ctx: &'a CallContext,
        subject: &'a Generation,
    ) -> Running<'a, Report>;
    /// One page.
    fn observe<'a>(
        &'a self,
        store: &'a mut Store<Guest>,
        instance: &'a Instance,
        ctx: &'a CallContext,
        workload: Option<String>,
        cursor: Option<String>,
    ) -> Running<'a, Page>;
    fn mutate<'a>(
        &'a self,
        store: &'a mut Store<Guest>,
        instance: &'a Instance,
        ctx: &'a CallContext,
        verb: &'a Mutation,
    ) -> Running<'a, Progress>;
}

/// A verb that changes something, with its arguments.
pub(crate) enum Mutation {
    Launch(Generation, u32),
    Scale(Generation, u32),
    Route(Vec<RouteEntry>),
    Retire(Generation, bool),
}

/// The version that a component was built for, from the names of its exports.
pub(crate) fn version_of<'e>(exports: impl IntoIterator<Item = &'e str>) -> Vec<&'e str> {
    exports.into_iter().filter_map(|export| export.strip_prefix(TARGET)).collect()
}

/// Whether a version is one of a series: 0.1.0 and 0.1.7 are both of 0.1.
pub(crate) fn is_of(version: &str, series: &str) -> bool {
    version.strip_prefix(series).is_some_and(|rest| rest.starts_with('.'))
}

/// `sdk/wit/since-0.1`.
pub(crate) struct Since01;

impl Since01 {
    pub(crate) const SERIES: &'static str = "0.1";
}

impl Protocol for Since01 {
    fn series(&self) -> &'static str {
        Self::SERIES
    }

    fn imports(&self) -> &'static [&'static str] {
        &["endpoint", "log", "clock", "types"]
    }

    fn link(&self, linker: &mut Linker<Guest>) -> Result<()> {
        TargetPlugin::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
    }

    fn bind(&self, pre: &InstancePre<Guest>) -> Result<Box<dyn Bound>> {
        Ok(Box::new(Bound01(TargetPluginIndices::new(pre)?)))
    }
}

struct Bound01(TargetPluginIndices);

impl Bound for Bound01 {
    fn fits(&self, store: &mut Store<Guest>, instance: &Instance) -> Result<()> {
        self.0.load(store, instance).map(drop)
    }

    fn check<'a>(
        &'a self,
        store: &'a mut Store<Guest>,
        instance: &'a Instance,
        ctx: &'a CallContext,
        subject: &'a Generation,
    ) -> Running<'a, Report> {
        Box::pin(async move {
            let plugin = self.0.load(&mut *store, instance)?;
            let (ctx, subject) = (convert::context(ctx), convert::generation(subject));
            let answer = plugin.holdfast_target_target().call_check(store, &ctx, &subject).await?;
            Ok(answer.map(convert::report).map_err(convert::fault))
        })
    }

    fn observe<'a>(
        &'a self,
        store: &'a mut Store<Guest>,
        instance: &'a Instance,
        ctx: &'a CallContext,
        workload: Option<String>,
        cursor: Option<String>,
    ) -> Running<'a, Page> {
        Box::pin(async move {
            let plugin = self.0.load(&mut *store, instance)?;
            let query = Query { workload, cursor };
            let answer = plugin
                .holdfast_target_target()
                .call_observe(store, &convert::context(ctx), &query)
                .await?;
            Ok(answer.map(convert::page).map_err(convert::fault))
        })
    }

    fn mutate<'a>(
        &'a self,
        store: &'a mut Store<Guest>,
        instance: &'a Instance,
        ctx: &'a CallContext,
        verb: &'a Mutation,
    ) -> Running<'a, Progress> {
        Box::pin(async move {
            let plugin = self.0.load(&mut *store, instance)?;
            let target = plugin.holdfast_target_target();
            let ctx = convert::context(ctx);
            let answer = match verb {
                Mutation::Launch(subject, size) => target.call_launch(store, &ctx, &convert::generation(subject), *size).await?,
                Mutation::Scale(subject, size) => target.call_scale(store, &ctx, &convert::generation(subject), *size).await?,
                Mutation::Route(entries) => {
                    let entries: Vec<_> = entries.iter().map(convert::route_entry).collect();
                    target.call_route(store, &ctx, &entries).await?
                }
                Mutation::Retire(subject, last) => target.call_retire(store, &ctx, &convert::generation(subject), *last).await?,
            };
            progress(answer)
        })
    }
}

#[cfg(test)]
mod tests;

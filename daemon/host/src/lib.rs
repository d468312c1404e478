//! The plugin host: runs hostile WebAssembly components under the closed profile and lets them reach only what the
//! operator granted, by alias.
//!
//! A fresh store and instance for each call; an epoch budget for loops and a wall deadline for everything else; caps on
//! memory, tables, output, logs, requests and bytes; no ambient WASI. Credentials never enter guest memory.

mod call;
mod convert;
mod endpoint;
mod guest;
mod outcome;
mod policy;
mod probe;

pub use call::{Call, CallContext, Limits, Plugin, PluginHost, Verb};
pub use endpoint::{Alias, AliasError, Binding, BindingConfig, AuthConfig, EndpointConfig, RuleConfig};
pub use outcome::{CallFailure, CallReport, FailureClass, LoadError};
pub use policy::{Effect, Phase};
pub use probe::{ProbeOutcome, probe_http};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit/since-0.1",
        world: "full-plugin",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

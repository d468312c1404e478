//! The plugin host: runs hostile WebAssembly components under the closed profile and lets them reach only what the
//! operator granted, by alias.
//!
//! A fresh store and instance for each call; an epoch budget for loops and a wall deadline for everything else; caps on
//! memory, tables, output, logs, requests and bytes; no ambient WASI. Credentials never enter guest memory.

mod call;
mod compile;
mod content;
mod convert;
mod endpoint;
mod guest;
mod long;
mod metadata;
mod optional;
mod outcome;
mod policy;
mod probe;
mod secrets;
mod versions;
mod wire;

pub use call::{CallOptions, Limits, Plugin, PluginHost};
pub use content::{ArtifactSource, BlobBytes};
pub use endpoint::{
    AuthConfig, Binding, BindingConfig, BindingError, EndpointConfig, Exchange, RegistryAuthConfig, RuleConfig, SendFail,
    TlsError,
};
pub use long::LongLimits;
pub use metadata::{
    AskedLimits, InspectError, Inspection, METADATA_SECTION, Metadata, MetadataProblem, NewWant, SUPPORTED_VERSIONS, Want,
    inspect, newly_wanted, with_metadata,
};
pub use outcome::{CallFailure, CallReport, FailureClass, LoadError};
pub use policy::{Effect, Phase};
pub use probe::{Network, ProbeOutcome, probe_http};
pub use secrets::SecretValue;
pub use wire::{Sending, Wire, WireRequest};

mod bindings {
    //! The required part of a plugin's world.
    wasmtime::component::bindgen!({
        path: "../../sdk/wit/since-0.1",
        world: "target-plugin",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

mod telemetry {
    //! An optional interface: called only where it is exported.
    wasmtime::component::bindgen!({
        path: "../../sdk/wit/since-0.1",
        inline: "package holdfast:host; world telemetry { export holdfast:target/telemetry@0.1.0; }",
        world: "holdfast:host/telemetry",
        exports: { default: async },
        with: { "holdfast:target/types@0.1.0": crate::bindings::holdfast::target::types },
    });
}

mod diagnosis {
    //! An optional interface: called only where it is exported.
    wasmtime::component::bindgen!({
        path: "../../sdk/wit/since-0.1",
        inline: "package holdfast:host; world diagnosis { export holdfast:target/diagnosis@0.1.0; }",
        world: "holdfast:host/diagnosis",
        exports: { default: async },
        with: { "holdfast:target/types@0.1.0": crate::bindings::holdfast::target::types },
    });
}

mod jobs {
    //! An optional interface: called only where it is exported.
    wasmtime::component::bindgen!({
        path: "../../sdk/wit/since-0.1",
        inline: "package holdfast:host; world jobs { export holdfast:target/jobs@0.1.0; }",
        world: "holdfast:host/jobs",
        exports: { default: async },
        with: { "holdfast:target/types@0.1.0": crate::bindings::holdfast::target::types },
    });
}

mod preview {
    //! An optional interface: called only where it is exported.
    wasmtime::component::bindgen!({
        path: "../../sdk/wit/since-0.1",
        inline: "package holdfast:host; world preview { export holdfast:target/preview@0.1.0; }",
        world: "holdfast:host/preview",
        exports: { default: async },
        with: { "holdfast:target/types@0.1.0": crate::bindings::holdfast::target::types },
    });
}

mod capacity {
    //! An optional interface: called only where it is exported.
    wasmtime::component::bindgen!({
        path: "../../sdk/wit/since-0.1",
        inline: "package holdfast:host; world capacity { export holdfast:target/capacity@0.1.0; }",
        world: "holdfast:host/capacity",
        exports: { default: async },
        with: { "holdfast:target/types@0.1.0": crate::bindings::holdfast::target::types },
    });
}

//! Guest crate for Holdfast target plugins: the protocol's types and exports, an endpoint client that turns HTTP
//! outcomes into faults, and typed config and template whose errors point at the place.
//!
//! Implement [`Target`], [`Telemetry`] and [`Diagnosis`] for a type, then export it with [`export_target!`]. A plugin
//! keeps no state: every call is a fresh instance.

pub mod bindings {
    //! What `wit-bindgen` makes of the protocol; plugins use the names below instead.
    wit_bindgen::generate!({
        path: "../wit/since-0.1",
        inline: "
            package holdfast:plugin;
            world plugin {
                include holdfast:target/target-plugin@0.1.0;
                export holdfast:target/telemetry@0.1.0;
                export holdfast:target/diagnosis@0.1.0;
            }
        ",
        world: "holdfast:plugin/plugin",
        pub_export_macro: true,
        export_macro_name: "export_plugin",
        default_bindings_module: "holdfast_plugin::bindings",
        generate_all,
    });
}

mod client;
mod typed;

pub use bindings::exports::holdfast::target::diagnosis::{Excerpt, Guest as Diagnosis};
pub use bindings::exports::holdfast::target::target::Guest as Target;
pub use bindings::exports::holdfast::target::telemetry::{Guest as Telemetry, Sample};
pub use bindings::holdfast::target::clock;
pub use bindings::holdfast::target::log::{Level, write as log};
pub use bindings::holdfast::target::types::*;
pub use client::{Answer, Endpoint};
pub use serde_json;
pub use typed::{config, template};

/// Exports a type that implements [`Target`], [`Telemetry`] and [`Diagnosis`]. A target that counts nothing answers
/// telemetry with an empty list; one that keeps no logs answers diagnosis likewise.
#[macro_export]
macro_rules! export_target {
    ($plugin:ident) => {
        $crate::bindings::export_plugin!($plugin with_types_in $crate::bindings);
    };
}

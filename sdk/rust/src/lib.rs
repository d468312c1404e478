//! Guest crate for Holdfast target plugins: the protocol's types and exports, an endpoint client that turns HTTP
//! outcomes into faults, and typed config and template whose errors point at the place.
//!
//! Implement [`TargetPlugin`] (or, with config and template as plain JSON, [`Target`]), and what you have of [`Jobs`],
//! [`Preview`], [`Capacity`], [`Telemetry`], [`Diagnosis`] and [`Adoption`], for one type; then export it with
//! [`export_target!`]. A plugin keeps no state: every call is a fresh instance. The same type runs natively against the
//! [`fake`] host, so that a plain `cargo test` needs no WebAssembly.

pub mod bindings {
    //! What `wit-bindgen` makes of the required part; plugins use the names below instead.
    wit_bindgen::generate!({
        path: "../wit/since-0.1",
        world: "holdfast:target/target-plugin",
        pub_export_macro: true,
        export_macro_name: "export_plugin",
        default_bindings_module: "holdfast_plugin::bindings",
        generate_all,
    });
}

/// An optional interface in a world of its own, so that exporting it is a plugin's choice.
macro_rules! optional {
    ($interface:ident, $inline:tt, $world:tt, $export:tt) => {
        #[doc(hidden)]
        pub mod $interface {
            wit_bindgen::generate!({
                path: "../wit/since-0.1",
                inline: $inline,
                world: $world,
                pub_export_macro: true,
                export_macro_name: $export,
                with: { "holdfast:target/types@0.1.0": crate::bindings::holdfast::target::types },
            });
        }
    };
}

optional!(
    jobs,
    "package holdfast:plugin; world jobs-part { export holdfast:target/jobs@0.1.0; }",
    "holdfast:plugin/jobs-part",
    "export_jobs"
);
optional!(
    preview,
    "package holdfast:plugin; world preview-part { export holdfast:target/preview@0.1.0; }",
    "holdfast:plugin/preview-part",
    "export_preview"
);
optional!(
    capacity,
    "package holdfast:plugin; world capacity-part { export holdfast:target/capacity@0.1.0; }",
    "holdfast:plugin/capacity-part",
    "export_capacity"
);
optional!(
    telemetry,
    "package holdfast:plugin; world telemetry-part { export holdfast:target/telemetry@0.1.0; }",
    "holdfast:plugin/telemetry-part",
    "export_telemetry"
);
optional!(
    diagnosis,
    "package holdfast:plugin; world diagnosis-part { export holdfast:target/diagnosis@0.1.0; }",
    "holdfast:plugin/diagnosis-part",
    "export_diagnosis"
);
optional!(
    adoption,
    "package holdfast:plugin; world adoption-part { export holdfast:target/adoption@0.1.0; }",
    "holdfast:plugin/adoption-part",
    "export_adoption"
);

mod client;
#[cfg(not(target_arch = "wasm32"))]
pub mod fake;
mod plugin;
mod typed;

pub use adoption::exports::holdfast::target::adoption::Guest as Adoption;
pub use bindings::exports::holdfast::target::target::Guest as Target;
pub use bindings::holdfast::target::clock;
pub use bindings::holdfast::target::log::Level;
#[cfg(target_arch = "wasm32")]
pub use bindings::holdfast::target::log::write as log;
pub use bindings::holdfast::target::types::*;
pub use capacity::exports::holdfast::target::capacity::Guest as Capacity;
pub use client::{Answer, Endpoint, expect_success};
pub use diagnosis::exports::holdfast::target::diagnosis::{Excerpt, Guest as Diagnosis};
pub use jobs::exports::holdfast::target::jobs::Guest as Jobs;
pub use plugin::{Call, Nothing, Record, Subject, TargetPlugin};
pub use preview::exports::holdfast::target::preview::{Change, Guest as Preview};
pub use schemars;
pub use serde_json;
pub use telemetry::exports::holdfast::target::telemetry::{Guest as Telemetry, Sample};
pub use typed::{checked_config, config, template};

/// Where there is no host, a log line is the test's output.
#[cfg(not(target_arch = "wasm32"))]
#[allow(clippy::print_stderr, reason = "a test's output")]
pub fn log(at: Level, message: &str) {
    eprintln!("{at:?}: {message}");
}

/// Exports a type that implements [`TargetPlugin`] or [`Target`], and of the optional interfaces those that are named, and no other: what is
/// not exported, the daemon knows not to ask for. With a file's name, that file (beside Cargo.toml) becomes the plugin's
/// metadata section, which is read without running it.
///
/// ```text
/// export_target!("plugin.json", MyTarget);
/// export_target!("plugin.json", MyTarget: jobs, telemetry);
/// ```
#[macro_export]
macro_rules! export_target {
    ($metadata:literal, $plugin:ident $(: $($interface:ident),+ $(,)?)?) => {
        $crate::export_target!($plugin $(: $($interface),+)?);
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            const TEXT: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $metadata));
            #[used]
            #[allow(unsafe_code, reason = "it only says where the bytes go")]
            #[unsafe(link_section = "holdfast.plugin")]
            static SECTION: [u8; TEXT.len()] = {
                let mut bytes = [0; TEXT.len()];
                bytes.copy_from_slice(TEXT);
                bytes
            };
        };
    };
    ($plugin:ident $(: $($interface:ident),+ $(,)?)?) => {
        // Symbols that a native linker has no use for, nor can spell.
        #[cfg(target_arch = "wasm32")]
        mod exported {
            use super::$plugin;
            $crate::bindings::export_plugin!($plugin with_types_in $crate::bindings);
            $($($crate::export_optional!($interface $plugin);)+)?
        }
        #[cfg(not(target_arch = "wasm32"))]
        const _: $plugin = $plugin;
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! export_optional {
    (jobs $plugin:ident) => {
        $crate::jobs::export_jobs!($plugin with_types_in $crate::jobs);
    };
    (preview $plugin:ident) => {
        $crate::preview::export_preview!($plugin with_types_in $crate::preview);
    };
    (capacity $plugin:ident) => {
        $crate::capacity::export_capacity!($plugin with_types_in $crate::capacity);
    };
    (telemetry $plugin:ident) => {
        $crate::telemetry::export_telemetry!($plugin with_types_in $crate::telemetry);
    };
    (diagnosis $plugin:ident) => {
        $crate::diagnosis::export_diagnosis!($plugin with_types_in $crate::diagnosis);
    };
    (adoption $plugin:ident) => {
        $crate::adoption::export_adoption!($plugin with_types_in $crate::adoption);
    };
    ($other:ident $plugin:ident) => {
        compile_error!(concat!(
            "no optional interface `",
            stringify!($other),
            "`; there are jobs, preview, capacity, telemetry, diagnosis and adoption"
        ));
    };
}

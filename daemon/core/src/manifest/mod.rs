//! Manifests: from the bytes of a revision's files to what they mean, with every problem at its place.
//!
//! A problem is somebody's afternoon: it says what, where and what to do, and it never hides another. One bad workload
//! becomes *unknown* and the others go on; while any file does not parse, nothing is taken for absent.

mod assemble;
mod circle;
mod decode;
mod explain;
pub mod fields;
pub mod fill;
mod places;
mod problem;
mod quantity;
mod schema;
pub mod yaml;

pub use assemble::{ConfigFiles, Delta, Desired, FileProblem, assemble};
pub use decode::{Document, ParsedFile, QUERY_PLACEHOLDERS, parse_file};
pub use explain::{Explained, UnknownPath, explain};
pub use places::Places;
pub use problem::{Problem, Severity, operator_problem, render};
pub use quantity::{human_ms, parse_duration_ms, parse_percent};
pub use schema::schema;

pub const API_VERSION: &str = "holdfast.dev/v1alpha1";

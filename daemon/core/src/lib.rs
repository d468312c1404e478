//! Holdfast's pure core: what the nouns are, what a commit means, and what to do next.
//!
//! Nothing here touches the world. No clock, no randomness, no file, no socket: time and facts come in as values, and
//! wishes go out as values. That is what makes a decision replayable and the whole system simulatable.

pub mod check;
pub mod config;
pub mod engine;
pub mod entry;
pub mod ids;
pub mod manifest;
pub mod plan;
pub mod preview;
pub mod release;
pub mod spec;
pub mod state;
pub mod target;
pub mod view;

//! What touches the world: Git, metric sources, registries (in their own crate), plugins (in theirs).

pub mod git;
pub mod prometheus;
pub mod web;

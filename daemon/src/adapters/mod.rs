//! What touches the world: Git, registries (in their own crate), plugins (in theirs).

pub mod git;

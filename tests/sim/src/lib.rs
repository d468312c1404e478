//! A deterministic simulation: the real engine and the real log over a simulated disk, with sites, registry, people and
//! crashes driven by one seed. First everything may go wrong and the invariants must hold; then faults stop and it must
//! come to rest.

mod oracle;
mod random;
mod site;
mod world;

pub use world::{Outcome, run};

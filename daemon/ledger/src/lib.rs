//! Holdfast's ledger: an append-only, tamper-evident log of canonical JSON entries with content-addressed blobs, a
//! snapshot of State to boot from, and a sled index to ask questions of. The log is the proof; everything else can be
//! built from it again.

pub mod blobs;
pub mod disk;
pub mod frame;
pub mod head;
pub mod index;
pub mod log;
pub mod merkle;
pub mod sim_disk;
pub mod snapshot;
mod store;
pub mod verify;
mod writer;

pub use log::{Boot, LogError, Loss};
pub use store::{Batch, Committed, Ledger, LedgerError, Opened, Reader, load_state};
pub use writer::Writer;

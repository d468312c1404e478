//! Holdfast's ledger: an append-only, tamper-evident log of canonical JSON entries with content-addressed blobs, a
//! snapshot of State to boot from, and a sled index to ask questions of. The log is the proof; everything else can be
//! built from it again.

pub mod backup;
pub mod blobs;
mod boot;
mod claim;
pub mod disk;
pub mod epoch;
pub mod frame;
pub mod head;
pub mod index;
pub mod log;
pub mod mark;
pub mod merkle;
mod options;
mod reader;
pub mod sim_disk;
pub mod snapshot;
mod state;
mod store;
pub mod tlog;
pub mod verify;
mod walk;
mod writer;

pub use boot::Loss;
pub use disk::{Disk, RealDisk};
pub use log::LogError;
pub use options::{Options, Room};
pub use reader::Reader;
pub use sim_disk::SimDisk;
pub use state::{load_state, state_bytes};
pub use store::{Batch, BootReport, Committed, Ledger, LedgerError};
pub use tlog::Publisher;
pub use verify::{Finding, Trust, VerifyReport, verify, verify_on, verify_published};
pub use writer::Writer;

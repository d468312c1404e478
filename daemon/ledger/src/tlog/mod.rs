//! The ledger as a transparency log that other people's tools verify: C2SP signed-note, checkpoint, tlog-tiles,
//! tlog-proof, cosignature and tlog-witness. Everything in here is derived from the log, and may lag behind it.

pub mod checkpoint;
pub mod key;
pub mod note;
pub mod proof;
pub mod publish;
mod publisher;
pub mod rotation;
pub mod tile;
pub mod witness;

pub use publisher::Publisher;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What may be served, or copied to an auditor, as it is: `checkpoint` and `tile/`.
pub const TLOG_DIR: &str = "tlog";

fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Padded and canonical, or none.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// ASCII decimal without leading zeroes.
fn parse_decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

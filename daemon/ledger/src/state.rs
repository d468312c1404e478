//! State as of the log's end: the newest snapshot that the log bears out, and the fold of what came after it.

use crate::disk::Disk;
use crate::store::{Ledger, LedgerError};
use holdfast_core::state::State;

/// Also says how many entries the snapshot spared. With a loss, State is that of the entries that can still be read.
pub fn load_state<D: Disk>(ledger: &mut Ledger<D>) -> Result<(State, u64), LedgerError> {
    let from_snapshot =
        ledger
            .take_newest_snapshot()
            .and_then(|snapshot| match serde_json::from_slice::<State>(&snapshot.body) {
                Ok(state) if state.size == snapshot.size => Some(state),
                Ok(_) => None,
                Err(error) => {
                    // Another version's State: the log has all that is in it.
                    tracing::info!(
                        error = &error as &dyn std::error::Error,
                        size = snapshot.size,
                        "the snapshot's State cannot be read; folding the whole log"
                    );
                    None
                }
            });
    let mut state = from_snapshot.unwrap_or_default();
    let spared = state.size;
    for entry in ledger.reader().iter(spared, u64::MAX) {
        state.fold(&entry?);
    }
    Ok((state, spared))
}

/// The bytes that a snapshot of `state` holds.
pub fn state_bytes(state: &State) -> Result<Vec<u8>, LedgerError> {
    serde_json::to_vec(state).map_err(|source| LedgerError::State {
        size: state.size,
        source,
    })
}

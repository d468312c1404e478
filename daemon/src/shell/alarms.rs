//! What a person has to know of the ledger: shown by `status` and the metrics until it is over, and logged once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// The log is not published.
    Publishing,
    /// Too few witnesses cosign.
    Witnesses,
    /// The newest checkpoint is not pinned in Git.
    Pin,
    /// Something that is stored is not what it was.
    Damage,
}

impl Alarm {
    pub const ALL: [Alarm; 4] = [Alarm::Publishing, Alarm::Witnesses, Alarm::Pin, Alarm::Damage];

    pub fn as_str(self) -> &'static str {
        match self {
            Alarm::Publishing => "publishing",
            Alarm::Witnesses => "witnesses",
            Alarm::Pin => "pin",
            Alarm::Damage => "damage",
        }
    }
}

/// An error with what caused it.
pub(super) fn said(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", said(source)),
        None => error.to_string(),
    }
}

#[derive(Clone, Default)]
pub(super) struct Alarms(Arc<Mutex<BTreeMap<Alarm, String>>>);

impl Alarms {
    /// None: it is over.
    pub fn set(&self, alarm: Alarm, what: Option<String>) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(&alarm) == what.as_ref() {
            return;
        }
        match what {
            Some(what) => {
                tracing::error!(alarm = alarm.as_str(), what, "the ledger needs attention");
                open.insert(alarm, what);
            }
            None => {
                tracing::info!(alarm = alarm.as_str(), "the ledger's alarm is over");
                open.remove(&alarm);
            }
        }
    }

    pub fn open(&self) -> BTreeMap<Alarm, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

//! Reads the whole ledger again and again beside the daemon's work, slowly: a boot reads only what came since its marks, and
//! disks decay. Nothing is repaired; damage to what was acknowledged stops the daemon, anything else is an alarm.

use super::Event;
use super::alarms::{self, Alarm, Alarms};
use holdfast_ledger::tlog::note::VerifierKey;
use holdfast_ledger::{Reader, Trust, VerifyReport};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// A year of a large installation takes some half an hour.
const BYTES_PER_S: u64 = 16 << 20;
const PORTION_BYTES: u64 = 1 << 20;
/// Between two rounds.
const PAUSE: Duration = Duration::from_secs(3_600);
/// Findings named in an alarm.
const NAMED_MAX: usize = 3;

/// What the last whole round read. 0: none yet.
#[derive(Default)]
pub(super) struct Scrubbed {
    pub entries: AtomicU64,
    pub wall_ms: AtomicU64,
}

/// The thread ends with the process: it only reads.
pub(super) fn spawn(
    log: Reader,
    signing: Option<watch::Receiver<VerifierKey>>,
    alarms: Alarms,
    events: mpsc::UnboundedSender<Event>,
) -> std::io::Result<Arc<Scrubbed>> {
    let scrubbed = Arc::<Scrubbed>::default();
    let told = scrubbed.clone();
    std::thread::Builder::new()
        .name("scrub".into())
        .spawn(move || run(&log, signing.as_ref(), &alarms, &events, &told))?;
    Ok(scrubbed)
}

#[allow(clippy::disallowed_methods, reason = "paced in real time")]
fn run(
    log: &Reader,
    signing: Option<&watch::Receiver<VerifierKey>>,
    alarms: &Alarms,
    events: &mpsc::UnboundedSender<Event>,
    scrubbed: &Scrubbed,
) {
    loop {
        let trust = Trust {
            keys: signing.map(|key| key.borrow().clone()).into_iter().collect(),
            ..Trust::default()
        };
        let mut read_bytes = 0;
        let outcome = log.scrub(&trust, &mut |bytes| {
            read_bytes += bytes;
            while read_bytes >= PORTION_BYTES {
                read_bytes -= PORTION_BYTES;
                std::thread::sleep(Duration::from_micros(PORTION_BYTES * 1_000_000 / BYTES_PER_S));
            }
        });
        match outcome {
            Ok(report) => {
                scrubbed.entries.store(report.entries, Ordering::Relaxed);
                scrubbed.wall_ms.store(super::wall_ms(), Ordering::Relaxed);
                alarms.set(Alarm::Damage, found(&report));
                if let Some(loss) = report.loss() {
                    let message = format!("LEDGER_LOSS: {} (entry {})", loss.what, loss.first_damaged_seq);
                    let _ = events.send(Event::LedgerFailed(message));
                    return;
                }
            }
            Err(error) => alarms.set(
                Alarm::Damage,
                Some(format!("the ledger cannot be read whole: {}", alarms::said(&error))),
            ),
        }
        std::thread::sleep(PAUSE);
    }
}

/// None: nothing was found.
fn found(report: &VerifyReport) -> Option<String> {
    let named: Vec<String> = report
        .findings
        .iter()
        .take(NAMED_MAX)
        .map(|finding| format!("{}: {} ({})", finding.code, finding.message, finding.file))
        .collect();
    let more = report.findings.len() as u64 + report.findings_left_out - named.len() as u64;
    match (named.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(named.join("; ")),
        (false, more) => Some(format!("{}; and {more} more, see `holdfast ledger verify`", named.join("; "))),
    }
}

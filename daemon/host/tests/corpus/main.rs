//! The corpus of hostile plugins in `tests/hostile/corpus`: each does one kind of harm, and ends as it says there. For each:
//! how it ends, that it ends within two seconds of its deadline, that others are served meanwhile, how much memory it takes,
//! and that no credential is in anything that it saw or said. `tests/hostile/README.md` is the table of it.

#![allow(clippy::disallowed_methods, reason = "how long harm lasts is real time")]

mod entry;
mod forge;
#[allow(dead_code, reason = "the other tests use the rest")]
#[path = "../hostile/guests.rs"]
mod guests;
mod lab;
#[allow(dead_code, reason = "the other tests use the rest")]
#[path = "../hostile/server.rs"]
mod server;

use entry::{End, Entry, Harm};
use holdfast_host::{Network, ProbeOutcome, probe_http};
use lab::Lab;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a loaded machine may add to a deadline.
const LATE: Duration = Duration::from_secs(2);
/// The cap of a guest's memory, what crosses at once, a page of it as values, and what the allocator keeps.
const RISE_MAX_MIB: u64 = 256;
const NEIGHBOUR_CALLS: usize = 3;
const TABLE_BEGINS: &str = "<!-- the table: written by the test -->\n";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/hostile")
}

#[test]
fn harm_ends_as_the_corpus_says() {
    let entries = entry::read(&folder().join("corpus"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut problems = Vec::new();
    runtime.block_on(async {
        let lab = Lab::new().await;
        for entry in &entries {
            if let Err(problem) = judge(&lab, entry).await {
                problems.push(format!("{}: {}: {problem}", entry.class, entry.what));
            }
        }
        lab.logs_hold_no_canary();
    });
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn the_table_is_what_the_corpus_holds() {
    let entries = entry::read(&folder().join("corpus"));
    let classes: std::collections::BTreeSet<&str> = entries.iter().map(|entry| entry.class.as_str()).collect();
    assert!(classes.len() >= 20, "{classes:?}");
    let readme = folder().join("README.md");
    let text = std::fs::read_to_string(&readme).unwrap();
    let (before, table) = text.split_once(TABLE_BEGINS).unwrap();
    let wanted = entry::table(&entries);
    if std::env::var_os("HOLDFAST_WRITE_TABLE").is_some() {
        std::fs::write(&readme, format!("{before}{TABLE_BEGINS}{wanted}")).unwrap();
    } else {
        assert!(table == wanted, "run it with HOLDFAST_WRITE_TABLE=1 to write the table");
    }
}

async fn judge(lab: &Lab, entry: &Entry) -> Result<(), String> {
    lab::forget_peak();
    let before_mib = lab::peak_mib();
    let judged = match &entry.harm {
        Harm::Bytes(_) | Harm::Component(_) => judge_component(lab, entry).await,
        Harm::Ops(_) => judge_calls(lab, entry, lab.hostile()).await,
        Harm::Probe(address) => judge_probe(entry, address).await,
    };
    let rise_mib = lab::peak_mib().saturating_sub(before_mib);
    if rise_mib > RISE_MAX_MIB {
        return Err(format!("memory rose by {rise_mib} MiB"));
    }
    judged
}

async fn judge_component(lab: &Lab, entry: &Entry) -> Result<(), String> {
    let bytes = match &entry.harm {
        Harm::Bytes(bytes) => bytes.clone(),
        Harm::Component(recipe) => forge::component(recipe),
        Harm::Ops(_) | Harm::Probe(_) => unreachable!("it has no component of its own"),
    };
    let began = Instant::now();
    let loaded = lab.host().load("hostile", &bytes);
    if began.elapsed() > Duration::from_secs(3) + LATE {
        return Err(format!("loading it took {:?}", began.elapsed()));
    }
    match (&entry.end, loaded) {
        (End::Refused(part), Err(error)) if error.to_string().contains(part.as_str()) => Ok(()),
        (End::Refused(_), Ok(_)) => Err("it was loaded".into()),
        (_, Err(error)) => Err(format!("it was refused: {error}")),
        (_, Ok(plugin)) => judge_calls(lab, entry, &plugin).await,
    }
}

/// In networks as wide as there are.
async fn judge_probe(entry: &Entry, address: &str) -> Result<(), String> {
    let everywhere = ["0.0.0.0/0", "::/0"].map(|network| Network::parse(network).unwrap());
    match (probe_http(address, "/", &everywhere, LATE).await, &entry.end) {
        (ProbeOutcome::NotGranted(message), End::Refused(part)) if message.contains(part.as_str()) => Ok(()),
        (outcome, _) => Err(format!("{outcome:?}")),
    }
}

async fn judge_calls(lab: &Lab, entry: &Entry, plugin: &holdfast_host::Plugin) -> Result<(), String> {
    for verb in &entry.verbs {
        let hostile = async {
            let began = Instant::now();
            let seen = lab.call(plugin, entry, verb).await;
            (seen, began.elapsed())
        };
        let neighbour = async {
            let began = Instant::now();
            for _ in 0..NEIGHBOUR_CALLS {
                lab.neighbour().await?;
            }
            Ok::<_, String>(began.elapsed())
        };
        let ((seen, took), served) = tokio::join!(hostile, neighbour);
        let served = served.map_err(|problem| format!("{verb}: a neighbour was not served: {problem}"))?;
        if took > entry.deadline + LATE {
            return Err(format!("{verb}: it took {took:?}"));
        }
        if took >= entry.deadline && served > took {
            return Err(format!(
                "{verb}: the neighbour was served after {served:?} only, when it had ended"
            ));
        }
        seen.compare(&entry.end).map_err(|problem| format!("{verb}: {problem}"))?;
        lab.neighbour()
            .await
            .map_err(|problem| format!("{verb}: afterwards: {problem}"))?;
    }
    Ok(())
}

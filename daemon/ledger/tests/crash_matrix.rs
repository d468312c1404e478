//! Which fault at which step costs what: every change of the disk in a ledger's life is its last once, and every kind of file is
//! damaged in every way. The table is published in `CRASH_MATRIX.md` beside this crate's page, and this test holds it to what
//! happens; `HOLDFAST_WRITE_MATRIX=1` writes it anew.

mod common;

use common::{assert_holds, batch, entry, small_segments};
use holdfast_core::entry::{Body, ClockTick};
use holdfast_ledger::disk::Disk;
use holdfast_ledger::epoch::begin_epoch_on;
use holdfast_ledger::tlog::note::{KeyKind, SignerKey};
use holdfast_ledger::tlog::publish::Publication;
use holdfast_ledger::{Ledger, SimDisk, Trust, verify_on};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/CRASH_MATRIX.md");
/// Ways in which a power cut may leave what was not synced.
const CUTS: u64 = 6;

fn key() -> SignerKey {
    SignerKey::new("ledger.example/prod", KeyKind::Log, [5; 32]).unwrap()
}

/// The steps of a life, in order, and what was acknowledged when it ended.
struct Life {
    disk: SimDisk,
    acknowledged: u64,
    /// Name of each step, and the number of changes of the disk and of syncs before it.
    steps: Vec<(&'static str, u64, u64)>,
}

impl Life {
    fn step<T>(&mut self, name: &'static str, act: impl FnOnce(&SimDisk) -> Result<T, ()>) -> Result<T, ()> {
        self.steps.push((name, self.disk.changes(), self.disk.syncs()));
        act(&self.disk)
    }

    /// Goes on until the disk does not.
    fn live(&mut self) -> Result<(), ()> {
        let open = |disk: &SimDisk| {
            Ledger::open_on(disk.clone(), small_segments())
                .map(|opened| opened.0)
                .map_err(drop)
        };
        let mut log = self.step("open an empty directory", open)?;
        for (name, entries) in [
            ("append, with a blob", 5),
            ("append, and fill a segment", 38),
            ("append, and begin a segment", 9),
        ] {
            let size = log.size();
            let committed = self.step(name, |_| log.append(&batch(size, entries)).map_err(drop))?;
            self.acknowledged = committed.size;
        }
        self.step("write the head", |_| log.write_head().map_err(drop))?;
        let size = log.size();
        self.step("write a snapshot", |_| log.write_snapshot(size, vec![7; 2_000]).map_err(drop))?;
        let mut publication = Publication::new(log.reader(), &key(), 1, Vec::new()).map_err(drop)?;
        self.step("publish tiles and checkpoint", |_| {
            publication.advance().map(drop).map_err(drop)
        })?;
        let size = log.size();
        self.acknowledged = self
            .step("append after that", |_| log.append(&batch(size, 3)).map_err(drop))?
            .size;
        self.step("publish again", |_| publication.advance().map(drop).map_err(drop))?;
        self.step("write marks, the head, and end", |_| log.close().map_err(drop))?;
        let log = self.step("open again", open)?;
        let (size, dir) = (log.size(), self.disk.clone());
        drop(log);
        let mut first = entry(size);
        first.t = 10_000;
        first.blobs.clear();
        first.body = Body::Clock(ClockTick {});
        self.step("begin a new epoch", |_| {
            begin_epoch_on(&dir, &small_segments(), &first).map_err(drop)
        })?;
        self.acknowledged = size;
        Ok(())
    }

    fn new() -> Self {
        Self {
            disk: SimDisk::new(),
            acknowledged: 0,
            steps: Vec::new(),
        }
    }

    fn last_step(&self) -> &'static str {
        self.steps.last().map_or("", |step| step.0)
    }
}

/// What became of the runs of one fault at one step.
#[derive(Default)]
struct Row {
    runs: u64,
    acknowledged_lost: u64,
    unmended: u64,
    cut_tails: u64,
    refused: u64,
}

impl Row {
    /// What the next start makes of it.
    fn judge(&mut self, disk: &SimDisk, acknowledged: u64) {
        self.runs += 1;
        let begun = disk.files().iter().any(|path| path.starts_with("lost/"));
        let (mut log, boot) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
        if boot.loss.is_some() {
            // A new epoch that is half begun: given again, it ends.
            assert!(begun, "{:?}", boot.loss);
            self.refused += 1;
            let size = log.size();
            drop(log);
            let mut again = entry(size);
            again.t = 10_000;
            again.blobs.clear();
            again.body = Body::Clock(ClockTick {});
            begin_epoch_on(disk, &small_segments(), &again).unwrap();
            log = Ledger::open_on(disk.clone(), small_segments()).unwrap().0;
        }
        self.acknowledged_lost += acknowledged.saturating_sub(log.size());
        self.cut_tails += u64::from(boot.cut_bytes > 0);
        let kept = acknowledged.min(log.size());
        for seq in 0..kept {
            assert_eq!(log.reader().entry(seq).unwrap().seq, seq);
        }
        if log.epoch() == 1 {
            assert_holds(&log, kept);
            log.append(&batch(log.size(), 2)).unwrap();
        }
        log.close().unwrap();
        let report = verify_on(disk, &small_segments(), &Trust::default(), false).unwrap();
        self.unmended += report.findings.len() as u64;
    }
}

fn faults() -> BTreeMap<(usize, &'static str, &'static str), Row> {
    let mut whole = Life::new();
    whole.live().unwrap();
    let mut names: Vec<&'static str> = Vec::new();
    let mut rows: BTreeMap<(usize, &'static str, &'static str), Row> = BTreeMap::new();
    let changes = whole.disk.changes();
    let mut row = |names: &mut Vec<&'static str>, step: &'static str, fault: &'static str, disk: &SimDisk, acknowledged: u64| {
        let at = names.iter().position(|name| *name == step).unwrap_or_else(|| {
            names.push(step);
            names.len() - 1
        });
        rows.entry((at, step, fault)).or_default().judge(disk, acknowledged);
    };
    for change in 0..changes {
        let mut life = Life::new();
        life.disk.crash_after(change);
        assert!(life.live().is_err(), "change {change}");
        let step = life.last_step();
        for seed in 0..CUTS {
            row(
                &mut names,
                step,
                "power cut",
                &life.disk.copy().crash(seed),
                life.acknowledged,
            );
        }
        row(&mut names, step, "SIGKILL", &life.disk.kill().copy(), life.acknowledged);
    }
    for nth in 1..=whole.disk.syncs() {
        let mut life = Life::new();
        life.disk.fail_sync(nth);
        let _ = life.live();
        let step = whole.steps.iter().rev().find(|step| step.2 < nth).map_or("", |step| step.0);
        for seed in 0..CUTS {
            row(
                &mut names,
                step,
                "EIO on fsync, then power cut",
                &life.disk.copy().crash(seed),
                life.acknowledged,
            );
        }
    }
    // Until there is room for everything up to where the reserve is asked for.
    for room in (0..).step_by(61) {
        let mut life = Life::new();
        life.disk.set_room(Some(room));
        let _ = life.live();
        if life.last_step() == "publish tiles and checkpoint" {
            break;
        }
        row(
            &mut names,
            life.last_step(),
            "ENOSPC",
            &life.disk.kill().copy(),
            life.acknowledged,
        );
    }
    rows
}

/// What becomes of one kind of file, damaged.
#[derive(Default)]
struct Damage {
    runs: u64,
    refused: u64,
    goes_on: u64,
    found: u64,
    shorter: u64,
}

fn kind_of(path: &str) -> &'static str {
    let kinds = [
        ("log/", "log/"),
        ("head", "head"),
        ("snapshots/", "snapshots/"),
        ("marks/", "marks/"),
        ("tlog/checkpoint", "tlog/checkpoint"),
        ("tlog/tile/entries/", "tlog/tile/entries/"),
        ("tlog/tile/", "tlog/tile/"),
        ("blobs/", "blobs/"),
    ];
    kinds
        .iter()
        .find(|(start, _)| path.starts_with(start))
        .map_or("", |(_, kind)| kind)
}

fn damages() -> BTreeMap<(&'static str, &'static str), Damage> {
    let disk = SimDisk::new();
    let (mut log, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    for entries in [30, 20, 43, 17] {
        log.append(&batch(log.size(), entries)).unwrap();
    }
    let size = log.size();
    log.write_snapshot(size, vec![7; 900]).unwrap();
    Publication::new(log.reader(), &key(), 1, Vec::new())
        .unwrap()
        .advance()
        .unwrap();
    let root = log.root();
    log.close().unwrap();
    // Read whole at boot, as if the marks had not been there, unless they are what is damaged.
    let trust = Trust {
        keys: vec![key().verifier().clone()],
        ..Trust::default()
    };
    let mut table: BTreeMap<(&'static str, &'static str), Damage> = BTreeMap::new();
    for path in disk.files().iter().filter(|path| !kind_of(path).is_empty()) {
        let length = disk.len(path).unwrap().unwrap() as usize;
        let step = 1 + length / 60;
        let flips = (0..length).step_by(step).map(|at| ("a bit flipped", at));
        let zeroed = (0..length).step_by(512).map(|at| ("512 bytes zeroed", at));
        let cuts = (0..length).step_by(1 + length / 20).map(|at| ("cut short", at));
        for (what, at) in flips.chain(zeroed).chain(cuts).chain([("missing", 0)]) {
            let damaged = disk.copy();
            if kind_of(path) != "marks/" {
                damaged.remove_dir("marks").unwrap();
            }
            let before = damaged.read(path).unwrap().unwrap();
            match what {
                "a bit flipped" => damaged.damage(path, |bytes| bytes[at] ^= 4),
                "512 bytes zeroed" => damaged.damage(path, |bytes| {
                    let end = (at + 512).min(bytes.len());
                    bytes[at..end].fill(0);
                }),
                "cut short" => damaged.damage(path, |bytes| bytes.truncate(at)),
                _ => damaged.remove(path).unwrap(),
            }
            if damaged.read(path).unwrap() == Some(before) {
                continue;
            }
            let row = table.entry((kind_of(path), what)).or_default();
            row.runs += 1;
            row.found += u64::from(!verify_on(&damaged, &small_segments(), &trust, false).unwrap().ok);
            let (log, boot) = Ledger::open_on(damaged, small_segments()).unwrap();
            match boot.loss {
                Some(_) => row.refused += 1,
                None if (log.size(), log.root()) == (size, root) => row.goes_on += 1,
                None => row.shorter += 1,
            }
        }
    }
    table
}

#[test]
fn the_published_table_is_what_happens() {
    let mut page = String::from(
        "# Which fault at which step costs what\n\n\
         Written and held to by `cargo test -p holdfast-ledger --test crash_matrix` (`tests/run crash`, with the kills of real processes), which \
         lives a\nledger's life on a simulated disk and makes every change of that disk the last one, in every way that a disk may leave what was \
         not synced.\n\n\
         | step | fault | runs | acknowledged entries lost | findings of verify after the next start | torn tails cut | refused until the command is given again |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let (mut lost, mut unmended) = (0, 0);
    for ((_, step, fault), row) in faults() {
        let Row {
            runs,
            acknowledged_lost,
            unmended: left,
            cut_tails,
            refused,
        } = row;
        let _ = writeln!(
            page,
            "| {step} | {fault} | {runs} | {acknowledged_lost} | {left} | {cut_tails} | {refused} |"
        );
        (lost, unmended) = (lost + acknowledged_lost, unmended + left);
    }
    assert_eq!((lost, unmended), (0, 0), "{page}");
    page.push_str(
        "\nDamage to what lies there, with a boot that reads all of it. `goes on`: what was damaged is not needed, or made again; `shorter`: the log \
         ends\nearlier and nothing was said. `verify` was given the log's key.\n\n\
         | file | damage | runs | found by verify | LEDGER_LOSS at boot | goes on | shorter |\n|---|---|---|---|---|---|---|\n",
    );
    let mut shorter = 0;
    for ((kind, what), row) in damages() {
        let _ = writeln!(
            page,
            "| `{kind}` | {what} | {} | {} | {} | {} | {} |",
            row.runs, row.found, row.refused, row.goes_on, row.shorter
        );
        shorter += row.shorter;
        match kind {
            "log/" => assert_eq!((row.found, row.refused), (row.runs, row.runs), "{kind} {what}"),
            "blobs/" | "tlog/tile/" | "tlog/tile/entries/" => {
                assert_eq!((row.found, row.goes_on), (row.runs, row.runs), "{kind} {what}")
            }
            _ => {}
        }
    }
    assert_eq!(shorter, 0, "{page}");
    page.push_str(
        "\nA missing `head`, snapshot or checkpoint is no finding: nothing says that there was one. Bytes of `head` between its slots are not \
         used.\nMarks are made again.\n",
    );
    if std::env::var_os("HOLDFAST_WRITE_MATRIX").is_some() {
        std::fs::write(TABLE, &page).unwrap();
    }
    let published = std::fs::read_to_string(TABLE).unwrap_or_default();
    assert!(
        published == page,
        "CRASH_MATRIX.md says otherwise; HOLDFAST_WRITE_MATRIX=1 writes:\n{page}"
    );
}

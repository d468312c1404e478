//! The offline verifier: every frame, every root, every entry's form and order, every blob, the head and the snapshots.
//! It cuts nothing, and names the first damaged entry and what is still provable.

use crate::blobs;
use crate::disk::Disk;
use crate::frame::{self, Broken, Frame, HEADER_BYTES, Header};
use crate::head;
use crate::log::{LOG_DIR, path_of};
use crate::merkle::{Frontier, leaf_hash};
use crate::snapshot;
use holdfast_core::entry::Entry;
use holdfast_core::ids::{Digest, hex};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;

const FINDINGS_MAX: usize = 100;

#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    pub ok: bool,
    /// Entries proven by a commit's root.
    pub entries: u64,
    pub root: String,
    pub epoch: u64,
    pub blobs: u64,
    pub snapshots: u64,
    /// Size that the head says was acknowledged.
    pub head: u64,
    pub findings: Vec<Finding>,
    pub findings_left_out: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The entry concerned, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    pub file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// A stable word.
    pub code: &'static str,
    pub message: String,
}

impl VerifyReport {
    fn find(&mut self, code: &'static str, seq: Option<u64>, file: &str, offset: Option<u64>, message: impl Into<String>) {
        self.ok = false;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { seq, file: file.into(), offset, code, message: message.into() });
        } else {
            self.findings_left_out += 1;
        }
    }
}

pub fn verify(disk: &impl Disk) -> io::Result<VerifyReport> {
    let mut report = VerifyReport { ok: true, epoch: 1, ..VerifyReport::default() };
    let mut walk = Walk { frontier: Frontier::default(), last_t: 0, named: BTreeMap::new(), roots: BTreeMap::new() };
    for name in snapshot::names(disk)? {
        let path = format!("{}/{name}", snapshot::SNAPSHOT_DIR);
        match snapshot::read(disk, &name)? {
            Some(snapshot) => {
                walk.roots.insert(snapshot.size, (path, snapshot.root, false));
            }
            None => report.find("snapshot-damaged", None, &path, None, "the snapshot is damaged; a boot ignores it"),
        }
    }
    for head in head::slots(disk)?.into_iter().flatten() {
        report.head = report.head.max(head.size);
        walk.roots.insert(head.size, (head::HEAD_FILE.into(), head.root, false));
    }
    let files: Vec<String> = disk.list(LOG_DIR)?.into_iter().filter(|file| file.ends_with(".log")).collect();
    for (index, file) in files.iter().enumerate() {
        let intact = verify_segment(disk, file, &mut walk, &mut report)?;
        if !intact {
            if index + 1 < files.len() {
                report.find("unprovable", Some(walk.frontier.size()), &path_of(&files[index + 1]), None, "later segments cannot be proven after this damage");
            }
            break;
        }
    }
    report.entries = walk.frontier.size();
    report.root = hex(&walk.frontier.root());
    if report.head > report.entries {
        let message = format!("{} entries were acknowledged, {} are provable", report.head, report.entries);
        report.find("acknowledged-lost", Some(report.entries), head::HEAD_FILE, None, message);
    }
    for (size, (file, _, matched)) in &walk.roots {
        if !matched && *size <= report.entries && *size > 0 {
            report.find("root-mismatch", None, file, None, format!("its root for {size} entries is not the log's"));
        } else if !matched && *size > report.entries && file != head::HEAD_FILE {
            report.find("snapshot-ahead", None, file, None, format!("it is of {size} entries, the log has {}", report.entries));
        }
    }
    verify_blobs(disk, &walk.named, &mut report);
    Ok(report)
}

struct Walk {
    /// Over committed entries only.
    frontier: Frontier,
    last_t: u64,
    /// Blob to the first entry that names it.
    named: BTreeMap<Digest, u64>,
    /// Size to who claims a root for it, and whether the log bears it out.
    roots: BTreeMap<u64, (String, [u8; 32], bool)>,
}

/// False when the rest of the log cannot be proven.
fn verify_segment(disk: &impl Disk, file: &str, walk: &mut Walk, report: &mut VerifyReport) -> io::Result<bool> {
    let path = path_of(file);
    let bytes = disk.read(&path)?.unwrap_or_default();
    match Header::parse(&bytes) {
        Some(header) if header.first == walk.frontier.size() && *file == format!("{:020}.log", header.first) => report.epoch = report.epoch.max(header.epoch),
        _ => {
            report.find("header-damaged", Some(walk.frontier.size()), &path, Some(0), "the segment's header is damaged or belongs elsewhere");
            return Ok(false);
        }
    }
    let mut at = HEADER_BYTES;
    let mut frontier = walk.frontier.clone();
    while at < bytes.len() {
        let seq = frontier.size();
        match frame::parse(&bytes[at..]) {
            Ok((Frame::Entry(payload), length)) => {
                verify_entry(payload, seq, &path, at as u64, walk, report);
                frontier.push(leaf_hash(payload));
                at += length;
            }
            Ok((Frame::Commit { size, root }, length)) => {
                if size != frontier.size() || root != frontier.root() {
                    let first = walk.frontier.size();
                    let message = format!("the root over entries {first} to {} does not match their bytes", size.saturating_sub(1));
                    report.find("root-mismatch", Some(first), &path, Some(at as u64), message);
                    return Ok(false);
                }
                walk.frontier = frontier.clone();
                if let Some((_, claimed, matched)) = walk.roots.get_mut(&size) {
                    *matched = *claimed == root;
                }
                at += length;
            }
            Err(broken) => {
                let torn = walk.frontier.size() >= report.head && !frame::has_commit_above(&bytes[at..], walk.frontier.size());
                let (code, message) = match torn {
                    true => ("torn-tail", "an unacknowledged tail; a boot cuts it".to_owned()),
                    false => ("entry-damaged", format!("entry {seq}: {}", broken.what())),
                };
                let message = if torn && broken != Broken::Short { format!("{message} ({})", broken.what()) } else { message };
                report.find(code, Some(seq), &path, Some(at as u64), message);
                return Ok(false);
            }
        }
    }
    if frontier.size() > walk.frontier.size() {
        report.find("torn-tail", Some(walk.frontier.size()), &path, None, "entries without a commit; a boot cuts them");
        return Ok(false);
    }
    Ok(true)
}

fn verify_entry(payload: &[u8], seq: u64, path: &str, offset: u64, walk: &mut Walk, report: &mut VerifyReport) {
    let entry = match Entry::parse_canonical(payload) {
        Ok(entry) => entry,
        Err(error) => return report.find("entry-form", Some(seq), path, Some(offset), format!("entry {seq}: {error}")),
    };
    if entry.seq != seq {
        report.find("entry-order", Some(seq), path, Some(offset), format!("entry {seq} says it is {}", entry.seq));
    }
    if entry.t < walk.last_t {
        report.find("time-back", Some(seq), path, Some(offset), format!("entry {seq}: ledger time goes back"));
    }
    if entry.because.iter().any(|cause| *cause >= seq) {
        report.find("cause-order", Some(seq), path, Some(offset), format!("entry {seq} names a cause that comes after it"));
    }
    walk.last_t = walk.last_t.max(entry.t);
    for digest in entry.blobs.into_values() {
        walk.named.entry(digest).or_insert(seq);
    }
}

fn verify_blobs(disk: &impl Disk, named: &BTreeMap<Digest, u64>, report: &mut VerifyReport) {
    for (digest, seq) in named {
        match blobs::get(disk, digest) {
            Ok(_) => report.blobs += 1,
            Err(error) => report.find("blob", Some(*seq), &blobs::path_of(digest), None, format!("{error}; entry {seq} names it")),
        }
    }
    report.snapshots = snapshot::names(disk).map_or(0, |names| names.len() as u64);
}

//! Verifies a log by what is published of it: an URL, or a copy of `tlog/`. Entries come out of the bundles; blobs are not there.

use super::signed::{judge_checkpoint, judge_earlier, parse_checkpoint, read_earlier};
use super::{Entries, Trust, VerifyReport, judge_claims, verify_entry};
use crate::claim::{self, Claim, Source};
use crate::merkle::{empty_root, leaf_hash};
use crate::tlog::tile::{self, Builder, Kind, Tile, hashes_of, split_bundle};
use holdfast_core::ids::hex;
use std::io;

/// `read` gives what lies at a path below the log's prefix (`checkpoint`, `tile/...`), or none.
pub fn verify_published(read: impl Fn(&str) -> io::Result<Option<Vec<u8>>>, trust: &Trust) -> io::Result<VerifyReport> {
    let mut report = VerifyReport {
        epoch: 1,
        ..VerifyReport::default()
    };
    let Some((checkpoint, note)) = parse_checkpoint(read("checkpoint")?.unwrap_or_default(), "checkpoint", &mut report) else {
        return Ok(report);
    };
    let mut claims = vec![Claim::new(Source::Checkpoint, "checkpoint", checkpoint.size, checkpoint.root)];
    read_earlier(trust, &mut claims, &mut report);
    claim::settle(&mut claims, 0, empty_root());
    report.acknowledged = claims.iter().map(|claim| claim.size).max().unwrap_or(0);
    let mut entries = Entries::new(trust);
    let (mut builder, mut gone) = (Builder::default(), Vec::new());
    let read_tile = |tile: &Tile| tile::read_by(|tile| read(&tile.to_string()), tile);
    let bundles = tile::added(0, checkpoint.size).filter(|tile| tile.kind == Kind::Entries);
    for bundle in bundles {
        let path = bundle.to_string();
        let bytes = read_tile(&bundle)?.unwrap_or_default();
        let hashes = Tile {
            kind: Kind::Hashes { level: 0 },
            ..bundle
        };
        if bytes.is_empty()
            && let Some(leaves) = read_tile(&hashes)?
        {
            // Allowed or not, an entry that comes later says.
            gone.push(bundle);
            for leaf in hashes_of(&leaves) {
                builder.push_leaf(leaf, |tile, content| compare(read_tile, tile, content, &mut report))?;
                claim::settle(&mut claims, builder.size(), builder.root());
            }
            continue;
        }
        let Some(payloads) = split_bundle(&bytes, bundle.width) else {
            let message = format!("the entries from {} on are missing, or not whole", builder.size());
            report.find("entry-damaged", Some(builder.size()), &path, None, message);
            break;
        };
        let mut at = 0;
        for payload in payloads {
            verify_entry(payload, builder.size(), &path, at, &mut entries);
            at += payload.len() as u64 + 2;
            builder.push(payload, leaf_hash(payload), |tile, content| {
                compare(read_tile, tile, content, &mut report)
            })?;
            claim::settle(&mut claims, builder.size(), builder.root());
        }
    }
    for bundle in gone {
        let entries_of = bundle.entries();
        if entries_of.end <= entries.bundles_from {
            report.pruned += entries_of.end - entries_of.start;
        } else {
            let message = format!("the entries from {} on are missing, or not whole", entries_of.start);
            report.find("entry-damaged", Some(entries_of.start), &bundle.to_string(), None, message);
        }
    }
    builder.partials(|tile, content| compare(read_tile, tile, content, &mut report))?;
    report.entries = builder.size();
    report.root = hex(&builder.root());
    report.epoch = entries.epoch;
    judge_checkpoint(checkpoint, "checkpoint", &note, trust, &entries.keys, &mut report);
    judge_earlier(trust, &entries.keys, &mut report);
    for finding in std::mem::take(&mut entries.findings) {
        report.find(finding.code, finding.seq, &finding.file, finding.offset, finding.message);
    }
    judge_claims(&claims, &mut report);
    report.findings.sort_by_key(|finding| finding.seq.unwrap_or(u64::MAX));
    report.ok = report.findings.is_empty();
    Ok(report)
}

fn compare(
    read_tile: impl Fn(&Tile) -> io::Result<Option<Vec<u8>>>,
    tile: Tile,
    expected: &[u8],
    report: &mut VerifyReport,
) -> io::Result<()> {
    // Bundles are what the others are compared with.
    if tile.kind == Kind::Entries {
        return Ok(());
    }
    match read_tile(&tile)? {
        Some(found) if found == expected => report.tiles += 1,
        _ => {
            let of = tile.entries();
            let message = format!(
                "the tile of entries {} to {} is missing, or not what they make it",
                of.start,
                of.end - 1
            );
            report.find("tile-damaged", None, &tile.to_string(), None, message);
        }
    }
    Ok(())
}

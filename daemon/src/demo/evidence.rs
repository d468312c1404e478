//! What the demo judges by: answers that clients received, the sites' journals, the log.

use super::DemoError;
use super::traffic::Answer;
use super::world::{SITES, World};
use holdfast_core::entry::{AttemptChange, Body, Entry};
use holdfast_edge_node::JournalLine;
use holdfast_ledger::{Ledger, Options};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

impl World {
    /// Every answer so far. The last line may be half written.
    pub fn answers(&self) -> Vec<Answer> {
        let text = fs::read_to_string(self.dir.join("answers.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub fn journal(&self, site: &str) -> Vec<JournalLine> {
        let text = fs::read_to_string(self.dir.join("sites").join(site).join("journal.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub fn journal_lines(&self) -> usize {
        SITES.iter().map(|site| self.journal(site).len()).sum()
    }

    /// The log, read as anyone could read a copy.
    pub fn log(&self) -> Result<Vec<Entry>, DemoError> {
        let (ledger, _) = Ledger::open_read_only(&self.dir.join("holdfast-data/ledger"), Options::default())?;
        let reader = ledger.reader();
        Ok(reader.entries(0, reader.size())?)
    }

    /// The newest answer of every site, when all of them have this body.
    pub fn all_answer(&self, body: &str, since_ms: u64) -> bool {
        let answers = self.answers();
        SITES.iter().all(|site| {
            let mut newest = answers.iter().rev().filter(|answer| answer.site == *site).take(20).peekable();
            newest.peek().is_some_and(|answer| answer.at_ms >= since_ms)
                && newest.all(|answer| answer.status == 200 && answer.body == body)
        })
    }
}

/// When an entry was written, in Unix milliseconds.
pub fn wall_ms(entry: &Entry) -> u64 {
    entry
        .wall
        .parse::<jiff::Timestamp>()
        .map_or(0, |at| u64::try_from(at.as_millisecond()).unwrap_or(0))
}

pub fn attempt_of(entry: &Entry) -> Option<&AttemptChange> {
    match &entry.body {
        Body::Attempt(change) => Some(change),
        _ => None,
    }
}

/// At a weight, the share of answers that the new generation gave, over all sites: (weight, share in percent, answers).
pub fn measured_shares(log: &[Entry], answers: &[Answer], from: u64) -> Vec<(u32, f64, usize)> {
    let mut counted: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
    for (index, entry) in log.iter().enumerate().filter(|(_, entry)| entry.seq >= from) {
        let (Some(AttemptChange::Reached { weight }), Some(site), Some(generation)) =
            (attempt_of(entry), &entry.on.target, entry.on.generation)
        else {
            continue;
        };
        let same = |later: &&Entry| later.on.target.as_ref() == Some(site) && later.on.attempt == entry.on.attempt;
        // The weight holds until the next effect is intended, or the attempt is over.
        let ends = log[index + 1..].iter().filter(same).find(|later| {
            matches!(later.body, Body::Intent(_)) || matches!(attempt_of(later), Some(AttemptChange::Ended { .. }))
        });
        let (begin, end) = (wall_ms(entry), ends.map_or(u64::MAX, wall_ms));
        for answer in answers
            .iter()
            .filter(|answer| answer.site == *site && (begin..end).contains(&answer.at_ms))
        {
            let (all, new) = counted.entry(*weight).or_default();
            *all += 1;
            *new += usize::from(answer.generation == generation);
        }
    }
    counted
        .into_iter()
        .map(|(weight, (all, new))| (weight, 100.0 * new as f64 / all.max(1) as f64, all))
        .collect()
}

/// What must hold of the journals, whatever crashed: each fence once, one launch for one deploy, no weight going back.
pub fn journal_faults(world: &World, from_deploys: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    for site in SITES {
        let lines = world.journal(site);
        let mut fences = BTreeSet::new();
        let mut launches: BTreeMap<&str, u32> = BTreeMap::new();
        let mut last_share: BTreeMap<(&str, u32), u32> = BTreeMap::new();
        for line in &lines {
            if !fences.insert((line.workload.as_str(), line.fence)) {
                faults.push(format!("{site}: fence {} has two effects", line.fence));
            }
            if line.verb == "launch" {
                *launches.entry(&line.deploy_id).or_default() += 1;
            }
            if line.verb == "route" && from_deploys.contains(&line.deploy_id) {
                let newest = line.shares.keys().max().copied().unwrap_or(0);
                let share = line.shares.get(&newest).copied().unwrap_or(0);
                let last = last_share.entry((&line.deploy_id, newest)).or_default();
                if share < *last {
                    faults.push(format!(
                        "{site}: the weight of {} fell from {last} to {share}",
                        line.deploy_id
                    ));
                }
                *last = share;
            }
        }
        faults.extend(
            launches
                .iter()
                .filter(|(_, count)| **count > 1)
                .map(|(deploy, count)| format!("{site}: {deploy} launched {count} generations")),
        );
    }
    faults
}

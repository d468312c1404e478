//! What the demo judges by: answers that clients received, the sites' journals, the log.

use super::DemoError;
use super::traffic::Answer;
use super::world::{SITES, World};
use holdfast_core::entry::{AttemptChange, Body, Entry, Outcome};
use holdfast_edge_node::JournalLine;
use holdfast_ledger::{Ledger, Options};
use std::cell::Ref;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Fences carry the epoch above the sequence number.
const SEQ_BITS: u32 = 40;
/// Answers by which the moving line shows a site's present share.
const RECENT: usize = 60;

/// The client's answers, read on from where the last look ended.
#[derive(Default)]
pub struct AnswerBook {
    offset: u64,
    /// Begun, and not ended yet.
    partial: String,
    all: Vec<Answer>,
}

impl AnswerBook {
    fn read_on(&mut self, path: &Path) {
        let mut text = std::mem::take(&mut self.partial);
        if let Ok(mut file) = fs::File::open(path)
            && file.seek(SeekFrom::Start(self.offset)).is_ok()
            && let Ok(read) = file.read_to_string(&mut text)
        {
            self.offset += read as u64;
        }
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.partial = text.split_off(whole);
        self.all
            .extend(text.lines().filter_map(|line| serde_json::from_str::<Answer>(line).ok()));
    }
}

impl World {
    /// Every answer so far.
    pub fn answers(&self) -> Ref<'_, Vec<Answer>> {
        self.answer_book.borrow_mut().read_on(&self.dir.join("answers.jsonl"));
        Ref::map(self.answer_book.borrow(), |book| &book.all)
    }

    /// For the moving line: each site's newest generation and its share of the last answers.
    pub fn traffic_bars(&self) -> String {
        let answers = self.answers();
        let bars = SITES.iter().map(|site| {
            let recent: Vec<&Answer> = answers
                .iter()
                .rev()
                .filter(|answer| answer.site == *site)
                .take(RECENT)
                .collect();
            let newest = recent.iter().map(|answer| answer.generation).max().unwrap_or(0);
            let share = recent.iter().filter(|answer| answer.generation == newest).count() * 10 / recent.len().max(1);
            format!("{site} {}{} g{newest}", "█".repeat(share), "░".repeat(10 - share))
        });
        bars.collect::<Vec<_>>().join("  ")
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
    crate::cli::wall_ms(&entry.wall).unwrap_or(0)
}

pub fn attempt_of(entry: &Entry) -> Option<&AttemptChange> {
    match &entry.body {
        Body::Attempt(change) => Some(change),
        _ => None,
    }
}

/// Answers of one site while a weight held.
pub struct Share {
    pub weight: u32,
    pub site: String,
    /// Answers, and how many of them the new generation gave.
    pub all: usize,
    pub new: usize,
}

/// The standard deviations within which a true share lies with more than 99.99 %.
const DEVIATIONS: f64 = 4.0;

pub fn percent_of(new: usize, all: usize) -> f64 {
    100.0 * new as f64 / all.max(1) as f64
}

impl Share {
    /// In points, from the binomial distribution: what chance alone may do to so many answers.
    pub fn bound(&self) -> f64 {
        let (share, all) = (f64::from(self.weight) / 10_000.0, self.all.max(1) as f64);
        100.0 * (DEVIATIONS * (share * (1.0 - share) / all).sqrt() + 1.0 / all)
    }

    pub fn is_within(&self) -> bool {
        (percent_of(self.new, self.all) - f64::from(self.weight) / 100.0).abs() <= self.bound()
    }
}

/// By weight and site, which generation answered while the weight held.
pub fn measured_shares(log: &[Entry], answers: &[Answer], from: u64) -> Vec<Share> {
    let mut counted: BTreeMap<(u32, &String), (usize, usize)> = BTreeMap::new();
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
        let (all, new) = counted.entry((*weight, site)).or_default();
        for answer in answers
            .iter()
            .filter(|answer| answer.site == *site && (begin..end).contains(&answer.at_ms))
        {
            *all += 1;
            *new += usize::from(answer.generation == generation);
        }
    }
    let share = |((weight, site), (all, new)): ((u32, &String), (usize, usize))| Share {
        weight,
        site: site.clone(),
        all,
        new,
    };
    counted.into_iter().map(share).collect()
}

/// The journals against the log, both ways: each line has its intent, each intent that is done has one line.
pub fn unmatched_effects(journals: &[(&str, Vec<JournalLine>)], log: &[Entry]) -> Vec<String> {
    let mut faults = Vec::new();
    let intents: BTreeMap<u64, &Entry> = log
        .iter()
        .filter(|entry| matches!(entry.body, Body::Intent(_)))
        .map(|entry| (entry.seq, entry))
        .collect();
    let mut lines: BTreeMap<u64, usize> = BTreeMap::new();
    for (site, journal) in journals {
        for line in journal {
            let seq = line.fence & ((1 << SEQ_BITS) - 1);
            let Some((intent, Body::Intent(body))) = intents.get(&seq).map(|entry| (*entry, &entry.body)) else {
                faults.push(format!("{site}: no intent for fence {}", line.fence));
                continue;
            };
            let verb = match body.verb.name() {
                "scale" => "size",
                verb => verb,
            };
            if intent.on.target.as_deref() != Some(site) || verb != line.verb {
                faults.push(format!(
                    "{site}: {} under fence {} is not what intent {seq} says",
                    line.verb, line.fence
                ));
            }
            *lines.entry(seq).or_default() += 1;
        }
    }
    let done: BTreeSet<u64> = log
        .iter()
        .filter_map(|entry| match &entry.body {
            Body::Result(Outcome { intent, class: None, .. }) => Some(*intent),
            _ => None,
        })
        .collect();
    for seq in intents.keys() {
        match (lines.get(seq).copied().unwrap_or(0), done.contains(seq)) {
            (1, _) | (0, false) => {}
            (0, true) => faults.push(format!("intent {seq} is done, and no site journalled it")),
            (count, _) => faults.push(format!("intent {seq} has {count} lines")),
        }
    }
    faults
}

/// What must hold of the journals, whatever crashed: one launch for one deploy, no weight going back.
pub fn journal_faults(journals: &[(&str, Vec<JournalLine>)], deploys: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    for (site, lines) in journals {
        let mut launches: BTreeMap<&str, u32> = BTreeMap::new();
        let mut last_share: BTreeMap<(&str, u32), u32> = BTreeMap::new();
        for line in lines {
            if line.verb == "launch" {
                *launches.entry(&line.deploy_id).or_default() += 1;
            }
            if line.verb == "route" && deploys.contains(&line.deploy_id) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::engine::rfc3339;
    use holdfast_core::entry::{By, ENTRY_VERSION, Intent, On};
    use holdfast_core::ids::Digest;
    use holdfast_core::target::{PluginRef, Verb};

    fn entry(seq: u64, body: Body) -> Entry {
        Entry {
            v: ENTRY_VERSION,
            seq,
            term: 0,
            t: 0,
            wall: rfc3339(0),
            by: By::daemon(),
            on: On {
                target: Some("site-a".into()),
                ..On::default()
            },
            because: Vec::new(),
            blobs: BTreeMap::new(),
            body,
        }
    }

    fn intent(seq: u64) -> Entry {
        let plugin = PluginRef {
            name: "edge".into(),
            digest: Digest::of(b"p"),
            grants: Digest::of(b"g"),
        };
        let body = Intent {
            verb: Verb::Launch { generation: 1, size: 1 },
            plugin,
            observed: Digest::of(b"o"),
            planner: 1,
        };
        entry(seq, Body::Intent(body))
    }

    fn done(seq: u64, intent: u64) -> Entry {
        let body = Outcome {
            intent,
            class: None,
            message: String::new(),
            closed: true,
            sent: Vec::new(),
        };
        entry(seq, Body::Result(body))
    }

    fn line(seq: u64, verb: &str) -> JournalLine {
        JournalLine {
            fence: (1 << SEQ_BITS) + seq,
            verb: verb.into(),
            workload: "shop".into(),
            generation: Some(1),
            deploy_id: "d1-1".into(),
            shares: BTreeMap::new(),
            job: None,
        }
    }

    #[test]
    fn effects_match_both_ways() {
        let log = [intent(5), done(6, 5), intent(7)];
        for (name, journal, faults) in [
            ("as it should be", vec![line(5, "launch")], 0),
            ("an open intent may have acted", vec![line(5, "launch"), line(7, "launch")], 0),
            ("done, without an effect", vec![], 1),
            ("done twice", vec![line(5, "launch"), line(5, "launch")], 1),
            ("another verb", vec![line(5, "retire")], 1),
            ("nobody intended it", vec![line(5, "launch"), line(9, "launch")], 1),
        ] {
            assert_eq!(unmatched_effects(&[("site-a", journal)], &log).len(), faults, "{name}");
        }
        assert_eq!(
            unmatched_effects(&[("site-b", vec![line(5, "launch")])], &log).len(),
            1,
            "another site"
        );
    }

    #[test]
    fn a_share_is_judged_by_how_many_answers_there_were() {
        for (weight, new, all, within) in [
            (1_000, 25, 250, true),
            (1_000, 50, 250, false),
            (1_000, 2, 10, true),
            (5_000, 100, 250, true),
            (5_000, 60, 250, false),
            (10_000, 250, 250, true),
            (10_000, 240, 250, false),
        ] {
            let site = "site-a".to_owned();
            let share = Share { weight, site, all, new };
            assert_eq!(share.is_within(), within, "{new} of {all} at {weight}");
        }
    }
}

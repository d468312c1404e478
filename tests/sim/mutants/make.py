#!/usr/bin/env python3
"""Writes tests/sim/mutants/*.patch from the table below: each is one thing that the engine could do wrong.

Run it again when the code moves: a text that is not found exactly once is an error here, not a mutant that is not caught.
"""

import difflib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
CORE = "daemon/core/src/"

# Name: list of (file below daemon/core/src, exact old text, new text).
MUTANTS = {
    "effect-before-durable": [
        ("engine/mod.rs", "        if intent.seq < self.durable {\n", "        if intent.seq < u64::MAX {\n"),
    ],
    "reply-before-durable": [
        ("engine/events.rs", ".partition(|(seq, _, _)| *seq < self.durable);", ".partition(|(seq, _, _)| *seq < u64::MAX);"),
        ("engine/command.rs", "                let touched = self.touched(&request);\n", "                self.take_durable(self.durable);\n                let touched = self.touched(&request);\n"),
        ("engine/events.rs", "    fn take_durable(", "    pub(super) fn take_durable("),
    ],
    "fence-of-the-head": [
        ("engine/mod.rs", "fence: self.state.fence(intent.seq),", "fence: self.state.fence(self.state.size),"),
    ],
    "number-used-again": [
        ("state/fold/unit.rs", "self.next_generation = self.next_generation.max(generation + 1);", "self.next_generation = *generation;"),
    ],
    "quarantine-forgotten": [
        ("state/workload.rs", "q.attempt >= attempt && q.values", "q.attempt > attempt && q.values"),
        ("check.rs", "q.attempt >= attempt && (q.values.is_none() || q.values.as_ref() == Some(", "q.attempt > attempt && (q.values.is_none() || q.values.as_ref() == Some("),
        ("check.rs", "q.attempt >= attempt && (q.values.is_none() || q.values.as_ref() == values)", "q.attempt > attempt && (q.values.is_none() || q.values.as_ref() == values)"),
    ],
    "snapshot-loses-faults": [
        ("state/unit.rs", "    /// Faults in a row since the last verb that was done.\n", "    /// Faults in a row since the last verb that was done.\n    #[serde(skip)]\n"),
    ],
    "pin-moves": [
        ("engine/events.rs", "        let known = state.pins.get(&reference);\n", "        let known = state.pins.get(&reference).filter(|pin| pin.digest == resolved.digest);\n"),
    ],
    "absence-not-proven": [
        ("engine/revision.rs", "    if unknown || !desired.absence_proven {\n", "    if unknown {\n"),
    ],
    "stale-look-accepted": [
        ("plan/unit/mod.rs", "look.begun > self.unit.last_result;", "look.begun + 3 > self.unit.last_result;"),
        ("check.rs", "look.begun <= c.unit.last_result {", "look.begun + 3 <= c.unit.last_result {"),
    ],
    "retires-while-it-has-traffic": [
        ("plan/unit/mod.rs", "            PhaseName::Retiring => forward::retire(c, attempt),\n", "            PhaseName::Retiring | PhaseName::Baking => forward::retire(c, attempt),\n"),
        ("check.rs", "    let replaced = c.unit.phase == PhaseName::Retiring\n", "    let replaced = true\n"),
    ],
    "quarantine-in-a-later-batch": [
        ("plan/unit/back.rs", "    plan.records.push(Draft::following(c.on(), Body::Quarantine(quarantine)));\n", "    let _ = quarantine;\n"),
        ("check.rs", "            } if !quarantines => return Err(Violation::VerdictAlone),\n            AttemptChange::Phase {\n                to: PhaseName::Leaving", "            } if false => return Err(Violation::VerdictAlone),\n            AttemptChange::Phase {\n                to: PhaseName::Leaving"),
    ],
    "weight-before-proven": [
        ("plan/unit/forward.rs", "    if c.now < stable_at || c.looked_since() < stable_at {\n", "    if c.now < healthy_since {\n"),
    ],
    "skips-the-hold": [
        ("plan/unit/shift.rs", "    let until = attempt.weight_t + hold_ms;\n", "    let until = attempt.weight_t + hold_ms / 2;\n"),
    ],
    "admits-the-quarantined": [
        (
            "plan/rollout.rs",
            "        if is_quarantined(c, place, &request.release, request) {\n            continue;\n        }\n",
            "",
        ),
        (
            "plan/rollout.rs",
            "has_failed(place, request) || is_kept_out(c, place, request))",
            "has_failed(place, request) || false && is_kept_out(c, place, request))",
        ),
    ],
    "outage-is-bad": [
        (
            "plan/unit/shift.rs",
            "let plan = turn_back(c, AttemptOutcome::CouldNotTry, \"unmeasured\", message);",
            "let plan = condemn(c, attempt, &about, \"unmeasured\", message, json!({}));",
        ),
    ],
    "could-not-try-is-bad": [
        ("plan/unit/back.rs", "        FaultClass::Failed => Some(condemn(", "        FaultClass::Failed | FaultClass::Unavailable => Some(condemn("),
    ],
    "inputs-not-written": [
        ("plan/unit/mod.rs", "            look: self.look.clone(),\n            away: self.away.cloned(),", "            look: None,\n            away: self.away.cloned(),"),
    ],
    "extra-of-another-writer-retired": [
        ("plan/unit/drift.rs", "    let is_ours = number < c.unit.next_generation;\n", "    let is_ours = true;\n"),
    ],
    "later-wave-begins-unproven": [
        ("plan/rollout.rs", "    let members = &places[..(size as usize).min(places.len())];\n", "    let members = &places[..(size as usize).max(places.len())];\n"),
    ],
    "job-runs-twice": [
        (
            "plan/unit/jobs.rs",
            "            Some((JobOutcome::Done, _)) => continue,\n",
            "            Some((JobOutcome::Done, known)) if known.target == *c.target => continue,\n            Some((JobOutcome::Done, _)) => c.act(run(1)),\n",
        ),
        ("check.rs", "        JobOutcome::Done | JobOutcome::Running => true,\n        JobOutcome::Failed => false,\n", "        JobOutcome::Running => true,\n        JobOutcome::Failed | JobOutcome::Done => false,\n"),
    ],
    "freeze-ignored": [
        ("plan/rollout.rs", "    if let Some(frozen) = &c.workload.frozen {\n", "    if let Some(frozen) = c.workload.frozen.as_ref().filter(|_| false) {\n"),
        ("plan/rollout.rs", "    if let Some(frozen) = &place.state.frozen {\n", "    if let Some(frozen) = place.state.frozen.as_ref().filter(|_| false) {\n"),
        ("check.rs", "    if held || !is_placed(state, workload, name) {\n", "    if !is_placed(state, workload, name) && held {\n"),
        ("check.rs", '            if held && change.reason == "requested" {\n', '            if held && change.reason.is_empty() {\n'),
    ],
    "stale-call-not-waited-out": [
        ("engine/events.rs", "        if !guarded {\n", "        if !guarded && self.config.call_deadline_ms == 0 {\n"),
    ],
    "time-out-before-the-launch": [
        ("state/fold/unit.rs", "(attempt.launched, attempt.launch_t) = (true, entry.t);", "attempt.launched = true;"),
    ],
    "way-back-for-everybody": [
        ("plan/unit/mod.rs", "    attempt.old.is_none() || attempt.heal ||", "    attempt.old.is_none() || true ||"),
    ],
}


def mutate(name, changes):
    texts = {}
    for file, old, new in changes:
        path = CORE + file
        text = texts.setdefault(path, [(ROOT / path).read_text()] * 2)
        if text[1].count(old) != 1:
            sys.exit(f"error: mutant {name}: the text is {text[1].count(old)} times in {path}:\n{old}")
        texts[path] = [text[0], text[1].replace(old, new)]
    patch = ""
    for path, (before, after) in texts.items():
        lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"a/{path}", f"b/{path}")
        patch += "".join(lines)
    return patch


def main():
    patches = {name: mutate(name, changes) for name, changes in MUTANTS.items()}
    for old in HERE.glob("*.patch"):
        old.unlink()
    for name, patch in patches.items():
        (HERE / f"{name}.patch").write_text(patch)
    print(f"{len(patches)} patches")


if __name__ == "__main__":
    main()

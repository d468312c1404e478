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
        ("engine/command.rs", "                self.dirty.extend(request.workload);\n", "                self.dirty.extend(request.workload);\n                self.take_durable(self.durable);\n"),
        ("engine/events.rs", "    fn take_durable(", "    pub(super) fn take_durable("),
    ],
    "fence-of-the-head": [
        ("engine/mod.rs", "fence: self.state.fence(intent.seq),", "fence: self.state.fence(self.state.size),"),
    ],
    "number-used-again": [
        ("state.rs", "self.next_generation = self.next_generation.max(generation + 1);", "self.next_generation = *generation;"),
    ],
    "quarantine-forgotten": [
        ("state.rs", "q.attempt >= attempt && q.values", "q.attempt > attempt && q.values"),
        ("check.rs", "q.attempt >= attempt &&", "q.attempt > attempt &&"),
    ],
    "snapshot-loses-faults": [
        ("state.rs", "    /// Faults in a row since the last verb that was done.\n", "    /// Faults in a row since the last verb that was done.\n    #[serde(skip)]\n"),
    ],
    "pin-moves": [
        ("engine/events.rs", "        match state.pins.get(&reference) {\n", "        match state.pins.get(&reference).filter(|pin| pin.digest == resolved.digest) {\n"),
    ],
    "absence-not-proven": [
        ("engine/revision.rs", "            if unknown || !revision.absence_proven {\n", "            if unknown {\n"),
    ],
    "stale-look-accepted": [
        ("plan/unit.rs", "observed.begun > self.unit.last_result;", "observed.begun + 3 > self.unit.last_result;"),
        ("check.rs", "observed.begun <= c.unit.last_result {", "observed.begun + 3 <= c.unit.last_result {"),
    ],
    "retires-while-it-has-traffic": [
        ("plan/unit.rs", "            PhaseName::Retiring => retire(c, attempt),\n", "            PhaseName::Retiring | PhaseName::Baking => retire(c, attempt),\n"),
        ("check.rs", "    let replaced = c.unit.phase == PhaseName::Retiring\n", "    let replaced = true\n"),
    ],
    "quarantine-in-a-later-batch": [
        ("plan/unit.rs", "    plan.records.push(Draft::following(c.on(), Body::Quarantine(quarantine)));\n", "    let _ = quarantine;\n"),
        ("check.rs", "    if ends_bad && !quarantines {\n", "    if ends_bad && !quarantines && false {\n"),
    ],
    "weight-before-proven": [
        ("plan/unit.rs", "            if c.now >= stable_at {\n", "            if true {\n"),
    ],
    "skips-the-hold": [
        ("plan/unit.rs", "    let until = attempt.weight_t + hold_ms;\n", "    let until = attempt.weight_t + hold_ms / 2;\n"),
    ],
    "admits-the-quarantined": [
        ("plan/rollout.rs", "        if c.workload.quarantined(&request.release, &captured, request.attempt).is_some() {\n            continue;\n        }\n", ""),
    ],
    "outage-is-bad": [
        (
            "plan/unit.rs",
            "Some(turn_back(c, AttemptOutcome::CouldNotTry, \"unmeasured\", message)),",
            "Some(condemn(c, attempt, &about, \"unmeasured\", message, json!({}))),",
        ),
    ],
    "could-not-try-is-bad": [
        ("plan/unit.rs", "        FaultClass::Failed => Some(condemn(", "        FaultClass::Failed | FaultClass::Unavailable => Some(condemn("),
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

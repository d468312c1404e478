#!/usr/bin/env python3
"""Applies each patch of this directory to a copy of the tree, runs seeds until one fails, and prints how many it took.

    check.py [NAME...] [--seeds N]

The copy and its build live in target/mutants. A mutant that N seeds do not catch is a failure, and so is an unmutated
tree that they do.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
WORK = ROOT / "target" / "mutants"
TREE = WORK / "tree"


def copy_tree():
    """Only what git knows or could add; a file that is the same keeps its time, so that little is built again."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True)
    wanted = {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
    for path in TREE.rglob("*"):
        if path.is_file() and str(path.relative_to(TREE)) not in wanted:
            path.unlink()
    for name in wanted:
        source, copy = ROOT / name, TREE / name
        if not copy.is_file() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            copy.chmod(source.stat().st_mode)


def seeds_until_caught(seeds):
    # Each mutant changes a few lines of one crate: what it takes is building it again, not running it.
    env = {**os.environ, "CARGO_TARGET_DIR": str(WORK / "build"), "CARGO_INCREMENTAL": "1"}
    quick = [part for crate in ("core", "ledger", "sim") for part in ("--config", f"profile.release.package.holdfast-{crate}.opt-level=1")]
    build = ["cargo", "build", "--release", "--locked", "--quiet", "-p", "holdfast-sim", *quick]
    built = subprocess.run(build, cwd=TREE, env=env, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        return None, f"does not build:\n{built.stderr[-2000:]}"
    ran = subprocess.run([WORK / "build" / "release" / "holdfast-sim", "--seeds", str(seeds), "--first"], capture_output=True, text=True, check=False)
    said = (ran.stdout.strip().splitlines() or [f"ended with {ran.returncode}"])[-1]
    return ran.returncode != 0, said


def main():
    arguments, seeds = sys.argv[1:], 500
    if "--seeds" in arguments:
        at = arguments.index("--seeds")
        seeds = int(arguments[at + 1])
        del arguments[at : at + 2]
    patches = sorted(HERE.glob("*.patch"))
    unknown = set(arguments) - {patch.stem for patch in patches}
    if unknown:
        sys.exit(f"error: no mutant {', '.join(sorted(unknown))}\nhint: there are {', '.join(patch.stem for patch in patches)}")
    failed = 0
    for patch in [None, *patches]:
        name = patch.stem if patch else "(none)"
        if arguments and patch and name not in arguments:
            continue
        begun = time.monotonic()
        copy_tree()
        if patch:
            applied = subprocess.run(["git", "apply", "--unsafe-paths", f"--directory={TREE}", str(patch)], cwd="/", capture_output=True, text=True, check=False)
            if applied.returncode != 0:
                print(f"FAIL {name:30} does not apply: {applied.stderr.strip()}", flush=True)
                failed += 1
                continue
        caught, said = seeds_until_caught(seeds)
        good = caught is not None and caught == bool(patch)
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {name:30} {time.monotonic() - begun:5.0f} s  {said[:220]}", flush=True)
    copy_tree()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

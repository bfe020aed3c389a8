"""`python -m benchmarks.endurance.bitwise DIR`: a run in one go against one that is killed at ten points and goes on.

At age cap 0 both are to end with the same bytes: every tensor of the last checkpoint, and the exported student.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advdmd_ray.learner.checkpoint import latest_checkpoint
from advdmd_ray.provenance import made_here
from advdmd_ray.runs.folder import RunFolder
from benchmarks.endurance.one_run import value
from benchmarks.endurance.storm.faults import ANY, COMMITTED, DRIVER, KILL, LEARNER, PUBLISHED, SAVING, Fault
from benchmarks.endurance.storm.hitting import Hitting
from benchmarks.endurance.storm.lives import PAGE_S, Lives, settings
from benchmarks.endurance.storm.place import Place

KILLS = (
    (DRIVER, ANY),
    ("rollout actor", PUBLISHED),
    (LEARNER, ANY),
    ("reward worker", COMMITTED),
    (DRIVER, SAVING),
    ("hub", ANY),
    (LEARNER, SAVING),
    ("rollout actor", ANY),
    (DRIVER, COMMITTED),
    (LEARNER, PUBLISHED),
)
"""Target and instant of each, in the order of the cycles."""
LOOK_S, BETWEEN_S, END_S = 0.1, 120.0, 600.0


def digests(run: RunFolder) -> dict[str, str]:
    """SHA-256 of every tensor file of the newest checkpoint and of the exported student, by name."""
    newest = latest_checkpoint(run.checkpoints).path
    files = [*newest.glob("*.safetensors"), *run.student.rglob("*.safetensors")]
    return {str(file.relative_to(file.parents[1])): _digest(file) for file in sorted(files)}


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def tree(folder: Path, address: str, ranks: int, cycles: int) -> dict[str, Any]:
    """Settings of a run at age cap 0."""
    made = settings(folder, address)
    made["run"]["cycles"] = cycles
    made["rollout"]["max_policy_age"] = 0
    made["learner"]["ranks"] = ranks
    return made


def killed(place: Place, lives: Lives, kills: Sequence[tuple[str, str]], apart: int) -> list[dict[str, Any]]:
    """Kills once so many cycles have passed since the kill before; what was done.

    Raises:
        RuntimeError: if the run is over before.
    """
    hitting, done, cycle = Hitting(place, lives), list[dict[str, Any]](), 0.0
    for target, instant in kills:
        cycle = _until(lives, cycle + apart, target)
        hit = hitting.hit(Fault(target, KILL, instant, 0.0, 0.0))
        done.append({"target": target, "instant": hit.instant, "cycle": cycle})
        sys.stderr.write(f"{target} at cycle {cycle:g}, {hit.instant}\n")
    return done


def _until(lives: Lives, cycle: float, target: str) -> float:
    """Waits for a cycle, and for whoever is to be killed then; the cycle."""
    end = time.monotonic() + BETWEEN_S
    while True:
        at = value(lives.run.metrics(PAGE_S), "advdmd_run_cycle") or 0.0
        if at >= cycle and (target == DRIVER or lives.processes(target)):
            return at
        if lives.over or time.monotonic() > end:
            raise RuntimeError(f"cycle {cycle:g} did not come: {lives.run.log.read_text(errors='replace')[-2000:]}")
        time.sleep(LOOK_S)


def experiment(folder: Path, ranks: int, cycles: int, kills: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Both runs on one cluster, one after the other, and what differs.

    Raises:
        RuntimeError: if one of them does not come to its end.
    """
    found = {}
    with Place() as place:
        for name, faults in (("one go", ()), ("killed", kills)):
            here = folder / name.replace(" ", "-")
            here.mkdir(parents=True)
            lives = Lives(here, tree(here, place.address, ranks, cycles), place.mark)
            try:
                done = killed(place, lives, faults, cycles // (len(kills) + 1))
                end = lives.ended((0,), END_S)
            finally:
                lives.run.process.kill()
            if not end.expected:
                raise RuntimeError(f"{name}: exit code {end.code}: {end.said}")
            found[name] = digests(lives.files)
    whole, other = found["one go"], found["killed"]
    differ = sorted(name for name in whole.keys() | other.keys() if whole.get(name) != other.get(name))
    return {"ranks": ranks, "cycles": cycles, "kills": done, "files": len(whole), "differ": differ}


def main() -> int:
    """Runs the experiments and prints what was found as JSON; 1 if a byte differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.bitwise", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument(
        "--ranks", type=int, nargs="+", default=[1, 2], help="of the learner, one experiment each (1 2)"
    )
    parser.add_argument("--cycles", type=int, default=220, help="of a run (220)")
    parser.add_argument("--without", action="append", default=[], help="a target that is not killed")
    args = parser.parse_args()
    folder = args.folder.absolute()
    kills = [kill for kill in KILLS if kill[0] not in args.without]
    found = [experiment(folder / f"ranks-{ranks}", ranks, args.cycles, kills) for ranks in args.ranks]
    document = {**made_here(), "found": found}
    (folder / "bitwise.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(document, indent=1) + "\n")
    return int(any(each["differ"] or not each["files"] for each in found))


if __name__ == "__main__":
    sys.exit(main())

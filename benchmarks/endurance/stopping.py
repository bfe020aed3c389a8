"""`python -m benchmarks.endurance.stopping`: a run over Ray whose learner rank is stopped in the middle and goes on.

With `--rows` and `--store` the groups that wait for it outgrow Ray's object store, which must spill them to disk.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from advdmd_ray.config import Config
from advdmd_ray.runs.parts.inputs import geometry
from benchmarks.endurance.one_run import OneRun, running, value
from benchmarks.endurance.processes import found
from benchmarks.endurance.tiny import tiny_settings, write_teacher

PER_CYCLE, AGE, STOP_AT = 4, 15, 5
LOOK_S = 0.2
SERIES = {
    "bytes": "advdmd_buffer_bytes",
    "groups": "advdmd_buffer_groups",
    "commits": "advdmd_buffer_commits_total",
    "leased": "advdmd_rollout_leases_outstanding",
    "cycle": "advdmd_run_cycle",
}


def settings(folder: Path, *, cycles: int, rows: int, room: float, store: int | None) -> tuple[Config, int]:
    """The configuration of the run, whose buffer has room for so many groups, and the bytes of one."""
    write_teacher(folder / "teacher")
    tree = tiny_settings(folder, 32)
    batch = {"batch_size": PER_CYCLE}
    tree["run"]["cycles"] = cycles
    tree["rollout"] |= {"group_size": rows, "groups_per_cycle": PER_CYCLE, "max_policy_age": AGE}
    for name in ("dmd", "fake_score", "discriminator"):
        tree[name] |= batch
    if store is not None:
        tree["ray"] = {"object_store_bytes": store}
    size = geometry(Config.model_validate(tree)).group_bytes
    tree["buffer"] = {"max_bytes": max(int(room * size), 2**16)}
    return Config.model_validate(tree), size


def state(run: OneRun) -> dict[str, float] | None:
    """What /metrics of the run says of the buffer; None before it answers."""
    text = run.metrics()
    return None if text is None else {key: value(text, name) or 0.0 for key, name in SERIES.items()}


def experiment(folder: Path, config: Config, stop_s: float) -> dict[str, Any]:
    """Runs, stops the learner rank once five cycles are done, lets it go on after so many seconds; what was seen."""
    with running(folder, config.model_dump(mode="json")) as run:
        run.until(lambda: _at_cycle(run, STOP_AT), LOOK_S)
        rank = found(run.mark, run.process.pid)["learner rank"]
        rank.suspend()
        began, seen = time.monotonic(), []
        while time.monotonic() - began < stop_s:
            time.sleep(0.5)
            now = state(run)
            if now is not None:
                seen.append({"seconds": round(time.monotonic() - began, 1), **now})
        rank.resume()
        resumed = time.monotonic()
        run.until(lambda: _at_cycle(run, seen[-1]["cycle"] + 1), LOOK_S)
        again = time.monotonic() - resumed
        code = run.process.wait()
    return {"exit_code": code, "seconds_to_next_cycle": again, "seen": seen}


def _at_cycle(run: OneRun, cycle: float) -> bool | None:
    """True once the run has made so many cycles."""
    now = state(run)
    return True if now is not None and now["cycle"] >= cycle else None


def main() -> None:
    """Runs the experiment and prints what was seen as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.stopping", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--cycles", type=int, default=40, help="learner cycles of the run (40)")
    parser.add_argument("--rows", type=int, default=16, help="trajectories of a group (16)")
    parser.add_argument("--room", type=float, default=9.5, help="groups that the buffer has room for (9.5)")
    parser.add_argument("--store", type=int, help="ray.object_store_bytes")
    parser.add_argument("--stop", type=float, default=30.0, help="seconds of the stop (30)")
    args = parser.parse_args()
    folder = args.folder.absolute()
    folder.mkdir(parents=True)
    config, size = settings(folder, cycles=args.cycles, rows=args.rows, room=args.room, store=args.store)
    result = experiment(folder, config, args.stop)
    document = {"group_bytes": size, "max_bytes": config.buffer.max_bytes, **result}
    (folder / "stopping.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps({**document, "seen": document["seen"][-1]}, indent=1) + "\n")


if __name__ == "__main__":
    main()

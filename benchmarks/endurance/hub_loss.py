"""`python -m benchmarks.endurance.hub_loss DIR`: a run over Ray whose metrics hub is killed, and then one that hangs.

/metrics is read many times a second, so that the time without it is seen, and metrics.jsonl is counted at the end.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advdmd_ray.metrics.history import entries_of
from advdmd_ray.provenance import made_here
from advdmd_ray.runs.folder import RunFolder
from benchmarks.endurance.one_run import OneRun, running, value
from benchmarks.endurance.processes import found
from benchmarks.host.rows.loop import Loop

CYCLES, WARM, LOOK_S = 10_000, 5, 0.1
BETWEEN_S = 10.0
CYCLE, GROUPS, SECONDS = "advdmd_run_cycle", "advdmd_rollout_groups_total", "advdmd_rollout_seconds"


def without(run: OneRun, number: signal.Signals) -> dict[str, float]:
    """Sends a signal to the hub; the seconds without /metrics, and cycles that the run made meanwhile."""
    before = _cycle(run)
    hub = found(run.mark, run.process.pid)["hub"]
    hub.send_signal(number)
    at = last = time.monotonic()
    gone = False
    while True:
        cycle = value(run.metrics(), CYCLE)
        now = time.monotonic()
        if cycle is None:
            gone = True
        elif gone or not hub.is_running():
            return {"without_s": now - last, "after_signal_s": now - at, "cycles": cycle - before}
        else:
            last = now
        time.sleep(LOOK_S)


def experiment(folder: Path, times: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Runs, ends hubs by turns, and counts what was written."""
    config = Loop("digits", CYCLES, tuple(overrides)).config(folder)
    seen: dict[str, list[dict[str, float]]] = {"SIGKILL": [], "SIGSTOP": []}
    with running(folder, config.model_dump(mode="json")) as run:
        run.until(lambda: True if (value(run.metrics(), CYCLE) or 0.0) >= WARM else None, LOOK_S)
        for _ in range(times):
            for name, outages in seen.items():
                time.sleep(BETWEEN_S)
                outages.append(without(run, signal.Signals[name]))
    lines = list(entries_of(RunFolder(config.folder).metrics))
    observed = sum(len(line["values"].get(SECONDS, [])) for line in lines)
    total = max(line["values"].get(GROUPS, 0) for line in lines)
    return {
        **seen,
        "lines": len(lines),
        "lines_numbered_through": [line["record"] for line in lines] == list(range(1, len(lines) + 1)),
        "groups": {"total": total, "observed": observed},
    }


def _cycle(run: OneRun) -> float:
    return run.until(lambda: value(run.metrics(), CYCLE), LOOK_S)


def main() -> None:
    """Runs the experiment and prints what was seen as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.hub_loss", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the run")
    parser.add_argument("--times", type=int, default=3, help="how often each is done (3)")
    args = parser.parse_args()
    folder = args.folder.absolute()
    folder.mkdir(parents=True)
    document = {**made_here(), **experiment(folder, args.times, args.overrides)}
    (folder / "hub_loss.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

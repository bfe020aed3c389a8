"""`python -m benchmarks.endurance.hanging DIR`: a run over Ray of whose two rollout actors one is stopped for good.

SIGSTOP leaves a process that is not dead and says nothing. Digits in large groups, so that the actors have much to do.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from advdmd_ray.provenance import made_here
from benchmarks.endurance.one_run import OneRun, running, value
from benchmarks.endurance.processes import having
from benchmarks.host.rows.loop import Loop
from benchmarks.plan_check import LARGE_GROUPS

CYCLES, WARM, LOOK_S = 10_000, 5, 0.25
WINDOW_S = 10.0
"""Over which a pace is taken: several cycles."""
RECOVERED = 0.9


class Seen(NamedTuple):
    """A look at the run.

    Attributes:
        seconds: When.
        groups: Committed until then.
    """

    seconds: float
    groups: float


def pace(seen: Sequence[Seen], at: float) -> float | None:
    """Groups a second in the `WINDOW_S` seconds that begin at `at`; None if the looks do not reach so far."""
    inside = [look for look in seen if at <= look.seconds <= at + WINDOW_S + 2 * LOOK_S]
    if len(inside) < 2 or inside[-1].seconds - inside[0].seconds < WINDOW_S:  # noqa: PLR2004 - a pace has two ends
        return None
    return (inside[-1].groups - inside[0].groups) / (inside[-1].seconds - inside[0].seconds)


def recovery(seen: Sequence[Seen], stopped: float) -> tuple[float, float, float | None]:
    """The pace before, the least of any window after, and after how many seconds it is back for good.

    Args:
        seen: All looks.
        stopped: When the actor was stopped.

    Returns:
        Groups a second before; the least pace of a window after; seconds from the stop to the begin of the first window
        from which on all have `RECOVERED` of the pace before, None if none has.

    Raises:
        ValueError: if there are too few looks on either side.
    """
    before = pace(seen, stopped - WINDOW_S - 2 * LOOK_S)
    after = [
        (look.seconds - stopped, now) for look in seen if look.seconds >= stopped and (now := pace(seen, look.seconds))
    ]
    if before is None or not after:
        raise ValueError(f"{len(seen)} looks are too few")
    short = [at for at, now in after if now < RECOVERED * before]
    back = [at for at, _ in after if not short or at > short[-1]]
    return before, min(now for _, now in after), min(back, default=None)


def experiment(folder: Path, before_s: float, after_s: float, overrides: Sequence[str]) -> dict[str, Any]:
    """Runs, stops one of two actors and watches; what was seen."""
    config = Loop("digits", CYCLES, ("rollout.actors=2", *LARGE_GROUPS, *overrides)).config(folder)
    with running(folder, config.model_dump(mode="json")) as run:
        run.until(lambda: True if (value(run.metrics(), "advdmd_run_cycle") or 0.0) >= WARM else None, LOOK_S)
        seen = watched(run, before_s)
        actors = _actors(run)
        actors[0].send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        while len(set(_actors(run)) - set(actors)) == 0:
            seen += watched(run, LOOK_S)
        up = time.monotonic() - stopped
        seen += watched(run, after_s)
    before, least, back = recovery(seen, stopped)
    return {
        "groups_per_s_before": before,
        "least_groups_per_s_after": least,
        "next_process_s": up,
        "recovered_s": back,
        "stopped_process_left": actors[0].is_running(),
    }


def watched(run: OneRun, seconds: float) -> list[Seen]:
    """Looks at the run for so many seconds."""
    seen: list[Seen] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        groups = value(run.metrics(), "advdmd_buffer_commits_total")
        if groups is not None:
            seen.append(Seen(time.monotonic(), groups))
        time.sleep(LOOK_S)
    return seen


def _actors(run: OneRun) -> list[psutil.Process]:
    return having(run.mark, run.process.pid, "rollout actor")


def main() -> None:
    """Runs the experiment and prints what was seen as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.hanging", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the run")
    parser.add_argument("--before", type=float, default=30.0, help="seconds that are watched before (30)")
    parser.add_argument("--after", type=float, default=60.0, help="and after the next process is there (60)")
    args = parser.parse_args()
    folder = args.folder.absolute()
    folder.mkdir(parents=True)
    document = {**made_here(), **experiment(folder, args.before, args.after, args.overrides)}
    (folder / "hanging.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

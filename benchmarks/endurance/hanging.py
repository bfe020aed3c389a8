"""`python -m benchmarks.endurance.hanging DIR`: a run over Ray of whose two rollout actors one is stopped for good.

SIGSTOP leaves a process that is not dead and says nothing. Digits, whose actors sleep before each group.
"""

import argparse
import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from advdmd_ray.provenance import made_here
from advdmd_ray.runs.folder import RunFolder
from benchmarks.endurance.processes import MARK, having
from benchmarks.endurance.sleeping import SETTINGS, begun, cluster_of, commits, trained, until
from benchmarks.host.rows.loop import Loop

CPUS, SLEEP_S, LOOK_S = 3, 0.5, 0.25
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


class Stopped(NamedTuple):
    """What was done to the run.

    Attributes:
        at: When an actor was stopped, Unix seconds.
        up_s: Seconds until the process in its place was there.
        left: Whether the stopped one was there at the end.
    """

    at: float
    up_s: float
    left: bool


def stopped(run: RunFolder, before_s: float, after_s: float) -> Stopped:
    """Stops one of two actors and waits, beside the driver.

    Args:
        run: The run's folder.
        before_s: Seconds from its first cycle.
        after_s: Seconds from when the next process is there.
    """
    until(lambda: begun(run))
    time.sleep(before_s)
    actors = _actors()
    actors[0].send_signal(signal.SIGSTOP)
    at = time.time()
    until(lambda: bool(set(_actors()) - set(actors)))
    up_s = time.time() - at
    time.sleep(after_s)
    return Stopped(at, up_s, actors[0].is_running())


def looks(entries: Sequence[tuple[float, float]]) -> list[Seen]:
    """Looks at regular times at what was told at others; between two of these the groups came evenly.

    Args:
        entries: When, in Unix seconds, and how many groups were committed until then.
    """
    times, groups = zip(*entries, strict=True)
    grid = np.arange(times[0], times[-1], LOOK_S)
    return [Seen(float(at), float(count)) for at, count in zip(grid, np.interp(grid, times, groups), strict=True)]


def _actors() -> list[psutil.Process]:
    return having(os.environ[MARK], os.getpid(), "rollout actor")


def main() -> None:
    """Runs the experiment and prints what was seen as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.hanging", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--before", type=float, default=30.0, help="seconds that are watched before (30)")
    parser.add_argument("--after", type=float, default=60.0, help="and after the next process is there (60)")
    args = parser.parse_args()
    folder = args.folder.absolute()
    folder.mkdir(parents=True)
    logging.basicConfig(level=logging.INFO)
    os.environ[MARK] = uuid.uuid4().hex
    with cluster_of(CPUS) as cluster:
        own = ("rollout.actors=2", "rollout.groups_per_cycle=4", f"ray.address={cluster.address}")
        config = Loop("digits", 10_000, (*SETTINGS, *own)).config(folder)
        done = trained(config, SLEEP_S, lambda run: stopped(run, args.before, args.after))
    before, least, back = recovery(looks(commits(RunFolder(config.folder))), done.at)
    document = {
        **made_here(),
        "groups_per_s_before": before,
        "least_groups_per_s_after": least,
        "next_process_s": done.up_s,
        "recovered_s": back,
        "stopped_process_left": done.left,
    }
    (folder / "hanging.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

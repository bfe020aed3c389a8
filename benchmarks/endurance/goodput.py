"""`python -m benchmarks.endurance.goodput DIR`: the pace of a digits run of whose actors a share is killed each minute.

In one run after another share, each for some minutes, an actor chosen at random gets SIGKILL at even intervals.
"""

import argparse
import json
import logging
import os
import random
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advdmd_ray.config import Config
from advdmd_ray.metrics.history import entries_of, last_values
from advdmd_ray.provenance import made_here
from advdmd_ray.runs.folder import RunFolder
from benchmarks.endurance.processes import MARK, having
from benchmarks.endurance.sleeping import (
    SETTINGS,
    UP,
    Stretch,
    begun,
    cluster_of,
    commits,
    pace,
    trained,
    until,
    what_became_of_groups,
)
from benchmarks.host.rows.loop import Loop

ACTORS, PER_CYCLE, SLEEP_S = 10, 20, 5.0
NODES = (6, 6)
"""CPUs of each: 10 actors, a rank and a reward worker."""
MINUTES = {0.0: 3.0, 0.01: 10.0, 0.1: 6.0, 0.5: 4.0}
"""By the share of the actors that is killed each minute, for how long: so long that there is a kill."""


@dataclass(frozen=True, slots=True)
class Harried(Stretch):
    """A time in which actors were killed.

    Attributes:
        share: Of the actors, each minute.
        kills: How many.
    """

    share: float
    kills: int


class Killer:
    """Who kills actors, beside the driver.

    Args:
        run: The run's folder.
        seed: Of whom it chooses.
        scale: Of all times.
    """

    def __init__(self, run: RunFolder, seed: int, scale: float) -> None:
        self._run, self._scale, self._choice = run, scale, random.Random(seed)  # noqa: S311 - nothing secret

    def work(self) -> list[Harried]:
        """All of it; what was done when."""
        until(lambda: begun(self._run))
        seen = []
        for share, minutes in MINUTES.items():
            until(lambda: last_values(entries_of(self._run.metrics, told=False)).get(UP) == ACTORS)
            seen.append(self._harry(share, 60 * minutes * self._scale))
        return seen

    def _harry(self, share: float, seconds: float) -> Harried:
        began = time.time()
        times = instants(share * ACTORS / 60, seconds)
        for at in times:
            time.sleep(max(0.0, began + at - time.time()))
            self._choice.choice(having(os.environ[MARK], os.getpid(), "rollout actor")).kill()
        time.sleep(max(0.0, began + seconds - time.time()))
        return Harried(began, time.time(), share, len(times))


def instants(rate: float, seconds: float) -> list[float]:
    """When of so many seconds something is done that is done `rate` times a second, each in the middle of its share."""
    return [(each + 0.5) / rate for each in range(round(rate * seconds))]


def mean_up(entries: Iterable[tuple[float, float]], stretch: Stretch) -> float:
    """The mean over a stretch of what is told at times and holds from then on.

    Args:
        entries: When, in Unix seconds, and the value.
        stretch: It; the first entry is before its end.
    """
    told = sorted(entries)
    before = [value for at, value in told if at <= stretch.began]
    inside = [(at, value) for at, value in told if stretch.began < at < stretch.ended]
    steps = [(stretch.began, before[-1] if before else inside[0][1]), *inside]
    ends = [*(at for at, _ in steps[1:]), stretch.ended]
    held = sum(value * (end - at) for (at, value), end in zip(steps, ends, strict=True))
    return held / (stretch.ended - stretch.began)


def document(run: RunFolder, seen: Sequence[Harried]) -> dict[str, Any]:
    """The paces, also as shares of the first, and what became of the groups."""
    made = commits(run)
    up = [(line["time"], line["values"][UP]) for line in entries_of(run.metrics) if UP in line["values"]]
    alone = pace(made, seen[0])
    stretches = [
        asdict(each)
        | {"groups_per_s": pace(made, each), "goodput": pace(made, each) / alone, "actors_up": mean_up(up, each)}
        for each in seen
    ]
    return {"actors": ACTORS, "sleep_s": SLEEP_S, "stretches": stretches, **what_became_of_groups(run)}


def configured(folder: Path, address: str) -> Config:
    """The run that loses actors, on the cluster at an address."""
    networks = ("dmd", "fake_score", "discriminator")
    rows = (f"{network}.batch_size={2 * PER_CYCLE}" for network in networks)
    own = (f"rollout.actors={ACTORS}", f"rollout.groups_per_cycle={PER_CYCLE}", f"ray.address={address}")
    return Loop("digits", 10_000, (*SETTINGS, *own, *rows)).config(folder)


def main() -> None:
    """Runs the experiment and prints what was seen as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.goodput", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--seed", type=int, default=7, help="of whom it kills (7)")
    parser.add_argument("--scale", type=float, default=1.0, help="of all times; 23 minutes in all (1)")
    args = parser.parse_args()
    folder = args.folder.absolute()
    folder.mkdir(parents=True)
    logging.basicConfig(level=logging.INFO)
    os.environ[MARK] = uuid.uuid4().hex
    with cluster_of(*NODES) as cluster:
        config = configured(folder, str(cluster.address))
        seen = trained(config, SLEEP_S, lambda run: Killer(run, args.seed, args.scale).work())
    text = json.dumps(made_here() | document(RunFolder(config.folder), seen), indent=1) + "\n"
    (folder / "goodput.json").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

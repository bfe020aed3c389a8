"""`python -m benchmarks.endurance.scaling DIR`: a digits run on two nodes that is told other numbers of actors.

It begins with 1 actor and is told 4, 2, and then 6, for which there is room once a third node is added. With --itself
nobody tells it anything: it finds its number by its section `autoscale`.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from advdmd_ray.provenance import made_here
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.scaling import ask
from benchmarks.endurance.one_run import staff_of
from benchmarks.endurance.sleeping import (
    LOOK_S,
    PATIENCE_S,
    SETTINGS,
    STORE_BYTES,
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

SLEEP_S, NO_ROOM_S = 2.0, 10.0
HEAD_CPUS, NODE_CPUS = 3, 3
"""Together for 1 rank, 1 reward worker and 4 actors."""
WHOLE = ("reward.num_cpus=1", "learner.num_cpus=1")
"""With halves of CPUs on both nodes the last actor would find room on neither, now and then."""
COUNTS = (4, 2, 6)
MOST = 4
"""Actors for which both nodes have CPUs."""
ITSELF = ("autoscale.enabled=true", f"autoscale.rollout_max={MOST}", "autoscale.window_s=15", "autoscale.cool_down_s=5")
ITSELF_S = 180.0


@dataclass(frozen=True, slots=True)
class Watched(Stretch):
    """What was seen with one number of actors, from when they were all there and no others until the next command.

    Attributes:
        actors: How many.
        effect_s: Seconds from the command until it began; of 6 actors, from the new node; of a run that scales itself,
            from the first look.
    """

    actors: int
    effect_s: float


class Operator:
    """Who tells the run its numbers, beside the driver.

    Args:
        run: The run's folder.
        cluster: Gets another node.
        watch_s: Seconds that are watched with each number.
    """

    def __init__(self, run: RunFolder, cluster: Cluster, watch_s: float) -> None:
        self._run, self._cluster, self._watch_s = run, cluster, watch_s

    def work(self) -> list[Watched]:
        """All of it; what was seen."""
        until(lambda: begun(self._run))
        seen = [self._watch(1, 0.0)]
        for count in COUNTS:
            asked = time.time()
            ask(self._run.path, {"rollout": count}, PATIENCE_S)
            if count == COUNTS[-1]:
                time.sleep(NO_ROOM_S)
                asked = time.time()
                self._cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=STORE_BYTES)
            until(lambda count=count: self._settled_at(count))
            seen.append(self._watch(count, time.time() - asked))
        return seen

    def _watch(self, actors: int, effect_s: float) -> Watched:
        began = time.time()
        time.sleep(self._watch_s)
        return Watched(began, time.time(), actors, effect_s)

    def _settled_at(self, count: int) -> bool:
        there = staff_of(self._run)
        return (there["up"], there["leaving"]) == (count, 0)


class Onlooker:
    """Who only looks, beside the driver.

    Args:
        run: The run's folder.
        watch_s: Seconds that are watched in all.
    """

    def __init__(self, run: RunFolder, watch_s: float) -> None:
        self._run, self._watch_s = run, watch_s

    def work(self) -> list[Watched]:
        """What was seen with each number of actors."""
        until(lambda: begun(self._run))
        looks = []
        end = time.time() + self._watch_s
        while time.time() < end:
            looks.append((time.time(), staff_of(self._run)["up"]))
            time.sleep(LOOK_S)
        return stretches(looks)


def stretches(looks: Sequence[tuple[float, int]]) -> list[Watched]:
    """What was seen with each number of actors.

    Args:
        looks: When, in Unix seconds, and how many there were; in order.
    """
    changes = [looks[0], *(later for before, later in pairwise(looks) if later[1] != before[1])]
    ends = [*(at for at, _ in changes[1:]), looks[-1][0]]
    return [Watched(at, end, count, at - looks[0][0]) for (at, count), end in zip(changes, ends, strict=True)]


def document(run: RunFolder, seen: Sequence[Watched]) -> dict[str, Any]:
    """The paces, the seconds, and what became of the groups."""
    made = commits(run)
    told = [asdict(each) | {"groups_per_s": pace(made, each)} for each in seen]
    return {"stretches": told, **what_became_of_groups(run)}


def main() -> None:
    """Runs the experiment and prints what was seen as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.scaling", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--watch", type=float, default=40.0, help="seconds with each number of actors (40)")
    parser.add_argument("--itself", action="store_true", help=f"the run finds its number, in {ITSELF_S:.0f} seconds")
    args = parser.parse_args()
    folder = args.folder.absolute()
    folder.mkdir(parents=True)
    logging.basicConfig(level=logging.INFO)
    with cluster_of(HEAD_CPUS, NODE_CPUS) as cluster:
        own = [*WHOLE, "rollout.actors=1", "rollout.groups_per_cycle=8", f"ray.address={cluster.address}"]
        own += ITSELF if args.itself else ()
        config = Loop("digits", 10_000, (*SETTINGS, *own)).config(folder)

        def beside(run: RunFolder) -> Operator | Onlooker:
            return Onlooker(run, ITSELF_S) if args.itself else Operator(run, cluster, args.watch)

        seen = trained(config, SLEEP_S, lambda run: beside(run).work())
    text = json.dumps(made_here() | document(RunFolder(config.folder), seen), indent=1) + "\n"
    (folder / "scaling.json").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

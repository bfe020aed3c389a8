"""`python -m benchmarks.endurance.scaling DIR`: a digits run on two nodes that is told other numbers of actors.

It begins with 1 actor and is told 4, 2, and then 6, for which there is room once a third node is added. Each actor
sleeps before a group, so that the actors set the pace and not the cores, which on one machine do not get more.
"""

import argparse
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from ray.cluster_utils import Cluster

from advdmd_ray.config import Config
from advdmd_ray.config.sections import MOST_LEASES
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.metrics.history import entries_of, last_values
from advdmd_ray.provenance import made_here
from advdmd_ray.runs.folder import RunFolder, Start, claim
from advdmd_ray.runs.parts.controller import build_controller
from advdmd_ray.runs.scaling import FolderWishes, ask
from advdmd_ray.runtime import crew
from advdmd_ray.runtime.calls import Handle
from advdmd_ray.runtime.cluster import connected
from advdmd_ray.runtime.on_ray import RayPlace
from advdmd_ray.runtime.remote_hub import metrics_hub
from advdmd_ray.runtime.worker_actors import HANDS, PULSE, RolloutActor
from benchmarks.host.rows.loop import Loop
from benchmarks.plan_check import QUICK_LEARNER

SLEEP_S, LOOK_S, NO_ROOM_S, PATIENCE_S = 2.0, 0.2, 10.0, 300.0
HEAD_CPUS, NODE_CPUS = 2, 3
"""Of the first node: 1 actor, 1 rank and 1 reward worker; of the second: 3 actors."""
STORE_BYTES = 256 * 2**20
SETTINGS = (
    *QUICK_LEARNER,
    *("rollout.actors=1", "rollout.num_cpus=1", "reward.num_cpus=0.5", "learner.num_cpus=0.5"),
    *("rollout.group_size=4", "policy_gradient.group_rows=4", "rollout.groups_per_cycle=8"),
)
COUNTS = (4, 2, 6)
UP, COMMITS = "advdmd_run_workers{role=rollout}", "advdmd_buffer_commits_total"


@dataclass(frozen=True, slots=True)
class Stretch:
    """What was seen with one number of actors.

    Attributes:
        actors: How many.
        began: When they were all there and no others, Unix seconds.
        ended: When the next number was asked for, Unix seconds.
        effect_s: Seconds from the command until then; of 6 actors, from the new node until then.
    """

    actors: int
    began: float
    ended: float
    effect_s: float


ACTOR: Handle = RolloutActor


@ray.remote(concurrency_groups={HANDS: MOST_LEASES, PULSE: 1})  # pyright: ignore[reportCallIssue]
class SleepingActor(ACTOR.__ray_metadata__.modified_class):
    """Sleeps before each group."""

    def generate(self, *arguments: Any) -> Any:
        """See `RolloutActor`."""
        time.sleep(SLEEP_S)
        return super().generate(*arguments)


class Operator:
    """Who tells the run its numbers, beside the driver.

    Args:
        run: The run's folder.
        cluster: Gets another node.
        watch_s: Seconds that are watched with each number.
    """

    def __init__(self, run: RunFolder, cluster: Cluster, watch_s: float) -> None:
        self._run, self._cluster, self._watch_s = run, cluster, watch_s
        self.seen: list[Stretch] = []

    def work(self) -> None:
        """All of it."""
        self._until(lambda: self._figure("advdmd_run_cycle") >= 1)
        self._watch(1, 0.0)
        for count in COUNTS:
            asked = time.time()
            ask(self._run.path, {"rollout": count}, PATIENCE_S)
            if count == COUNTS[-1]:
                time.sleep(NO_ROOM_S)
                asked = time.time()
                self._cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=STORE_BYTES)
            self._until(lambda count=count: self._staff() == (count, 0))
            self._watch(count, time.time() - asked)

    def _watch(self, actors: int, effect_s: float) -> None:
        began = time.time()
        time.sleep(self._watch_s)
        self.seen.append(Stretch(actors, began, time.time(), effect_s))

    def _staff(self) -> tuple[int, int]:
        rollout = json.loads(self._run.staff.read_text())["staff"]["rollout"]
        return rollout["up"], rollout["leaving"]

    def _figure(self, series: str) -> float:
        return last_values(entries_of(self._run.metrics, told=False)).get(series, 0.0)

    @staticmethod
    def _until(true: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not true():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {PATIENCE_S:.0f} s in vain")
            time.sleep(LOOK_S)


def pace(entries: Iterable[tuple[float, float]], stretch: Stretch) -> float:
    """Groups a second of a stretch.

    Args:
        entries: When, in Unix seconds, and how many groups were committed until then.
        stretch: It.

    Raises:
        ValueError: if fewer than two entries are of it.
    """
    inside = [(at, groups) for at, groups in entries if stretch.began <= at <= stretch.ended]
    if len(inside) < 2:  # noqa: PLR2004 - a pace has two ends
        raise ValueError(f"{len(inside)} looks at {stretch.actors} actors are too few")
    (first, before), (last, after) = inside[0], inside[-1]
    return (after - before) / (last - first)


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """A cluster of this machine."""
    head = {"num_cpus": HEAD_CPUS, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=STORE_BYTES)
        yield cluster
    finally:
        cluster.shutdown()


def trained(config: Config, cluster: Cluster, watch_s: float) -> list[Stretch]:
    """Trains until the operator has seen enough; what was seen."""
    with (
        connected(config),
        claim(Start(config.folder, None, None, "")) as folder,
        metrics_hub(config) as hub,
        patch.object(crew, "RolloutActor", SleepingActor),
        RayPlace(config, hub, "").workers(None, StartClock()) as shell,
    ):
        run, done = RunFolder(folder), threading.Event()
        controller = build_controller(config, shell, hub, stopping=done.is_set, wishes=FolderWishes(run))
        operator = Operator(run, cluster, watch_s)
        with ThreadPoolExecutor(1) as driver:  # Ray adds nodes from the main thread only
            training = driver.submit(controller.run)
            try:
                operator.work()
            finally:
                done.set()
            training.result()
    return operator.seen


def document(config: Config, seen: Sequence[Stretch]) -> dict[str, Any]:
    """The paces, the seconds, and what became of the groups."""
    lines = list(entries_of(RunFolder(config.folder).metrics))
    commits = [(line["time"], line["values"][COMMITS]) for line in lines if COMMITS in line["values"]]
    totals = last_values(lines)

    def total(name: str) -> float:
        return sum(value for key, value in totals.items() if key.partition("{")[0] == name)

    return {
        "stretches": [asdict(each) | {"groups_per_s": pace(commits, each)} for each in seen],
        "leases": total("advdmd_rollout_leases_issued_total"),
        "groups_made": total("advdmd_rollout_groups_total"),
        "groups_committed": total(COMMITS),
        "leases_issued_again": total("advdmd_rollout_leases_reissued_total"),
        "groups_made_twice": total("advdmd_buffer_duplicates_total"),
        "workers_lost": total("advdmd_run_workers_lost_total"),
        "cycles": total("advdmd_run_cycle"),
    }


def main() -> None:
    """Runs the experiment and prints what was seen as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.scaling", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--watch", type=float, default=40.0, help="seconds with each number of actors (40)")
    args = parser.parse_args()
    folder = args.folder.absolute()
    folder.mkdir(parents=True)
    logging.basicConfig(level=logging.INFO)
    with two_nodes() as cluster:
        config = Loop("digits", 10_000, (*SETTINGS, f"ray.address={cluster.address}")).config(folder)
        seen = document(config, trained(config, cluster, args.watch))
    text = json.dumps(made_here() | seen, indent=1) + "\n"
    (folder / "scaling.json").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

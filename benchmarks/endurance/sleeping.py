"""A run of the digits whose actors sleep before each group, so that their number sets the pace and not the cores.

On one machine more processes do not get more cores.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from unittest.mock import patch

import ray
from ray.cluster_utils import Cluster

from advdmd_ray.config import Config
from advdmd_ray.config.sections import MOST_LEASES
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.metrics.history import entries_of, last_values
from advdmd_ray.runs.folder import RunFolder, Start, claim
from advdmd_ray.runs.parts.controller import build_controller
from advdmd_ray.runs.scaling import FolderWishes
from advdmd_ray.runtime import crew
from advdmd_ray.runtime.calls import Handle
from advdmd_ray.runtime.cluster import connected
from advdmd_ray.runtime.on_ray import RayPlace
from advdmd_ray.runtime.remote_hub import metrics_hub
from advdmd_ray.runtime.worker_actors import HANDS, PULSE, RolloutActor
from benchmarks.plan_check import QUICK_LEARNER

Done = TypeVar("Done")

SETTINGS = (
    *QUICK_LEARNER,
    *("rollout.num_cpus=1", "reward.num_cpus=0.5", "learner.num_cpus=0.5"),
    *("rollout.group_size=4", "policy_gradient.group_rows=4"),
)
LOOK_S, PATIENCE_S = 0.2, 300.0
STORE_BYTES = 256 * 2**20
UP, COMMITS = "advdmd_run_workers{role=rollout}", "advdmd_buffer_commits_total"
_ACTOR: Handle = RolloutActor


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time of a run, Unix seconds."""

    began: float
    ended: float


def sleeping(seconds: float) -> Handle:
    """Ray's class of rollout actors that sleep so long before each group."""

    @ray.remote(concurrency_groups={HANDS: MOST_LEASES, PULSE: 1})  # pyright: ignore[reportCallIssue]
    class RolloutActorThatSleeps(_ACTOR.__ray_metadata__.modified_class):
        """Its name begins as that of the others, so that its processes are found by their role."""

        def generate(self, *arguments: Any) -> Any:
            """See `RolloutActor`."""
            time.sleep(seconds)
            return super().generate(*arguments)

    return RolloutActorThatSleeps


@contextmanager
def cluster_of(*cpus: int) -> Iterator[Cluster]:
    """A cluster of nodes with so many CPUs each, all on this machine; the first is its head."""
    head, *others = cpus
    first = {"num_cpus": head, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=first)
    try:
        for each in others:
            cluster.add_node(num_cpus=each, object_store_memory=STORE_BYTES)
        yield cluster
    finally:
        cluster.shutdown()


def trained(config: Config, sleep_s: float, beside: Callable[[RunFolder], Done]) -> Done:
    """Trains with actors that sleep, until what is done beside it, with the run's folder, is done; returns that."""
    with (
        connected(config) as room,
        claim(Start(config.folder, None, None, "")) as folder,
        metrics_hub(config) as hub,
        patch.object(crew, "RolloutActor", sleeping(sleep_s)),
        RayPlace(config, hub, "", room).workers(None, StartClock()) as shell,
    ):
        run, over = RunFolder(folder), threading.Event()
        controller = build_controller(config, shell, hub, stopping=over.is_set, wishes=FolderWishes(run))
        with ThreadPoolExecutor(1) as driver:  # Ray adds nodes from the main thread only
            training = driver.submit(controller.run)
            try:
                done = beside(run)
            finally:
                over.set()
            training.result()
    return done


def until(true: Callable[[], bool]) -> None:
    """Waits until something is true.

    Raises:
        TimeoutError: after five minutes.
    """
    end = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {PATIENCE_S:.0f} s in vain")
        time.sleep(LOOK_S)


def begun(run: RunFolder) -> bool:
    """Whether the first cycle has ended."""
    return last_values(entries_of(run.metrics, told=False)).get("advdmd_run_cycle", 0.0) >= 1


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
        raise ValueError(f"{len(inside)} looks from {stretch.began} to {stretch.ended} are too few")
    (first, before), (last, after) = inside[0], inside[-1]
    return (after - before) / (last - first)


def commits(run: RunFolder) -> list[tuple[float, float]]:
    """When, in Unix seconds, and how many groups were committed until then."""
    return [(line["time"], line["values"][COMMITS]) for line in entries_of(run.metrics) if COMMITS in line["values"]]


def what_became_of_groups(run: RunFolder) -> dict[str, float]:
    """How many leases, groups and losses there were in all."""
    totals = last_values(entries_of(run.metrics))

    def total(name: str) -> float:
        return sum(value for key, value in totals.items() if key.partition("{")[0] == name)

    return {
        "leases": total("advdmd_rollout_leases_issued_total"),
        "groups_made": total("advdmd_rollout_groups_total"),
        "groups_committed": total(COMMITS),
        "leases_issued_again": total("advdmd_rollout_leases_reissued_total"),
        "groups_made_twice": total("advdmd_buffer_duplicates_total"),
        "workers_lost": total("advdmd_run_workers_lost_total"),
        "cycles": total("advdmd_run_cycle"),
    }

"""How soon an actor whose network has become free gets its next lease over Ray, and what the driver does for a group.

The controller, the shell and the hub are a run's own; the workers take time and share a few processes.
"""

import statistics
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import ray
from ray.actor import ActorMethod

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Task
from advdmd_ray.planning.virtual import Costs
from advdmd_ray.runtime.landing import Landing
from advdmd_ray.stations.records import GroupInfo, Lease
from advdmd_ray.stations.weights.store import Published
from benchmarks.host.contest import OURS, Field, Row, always
from benchmarks.host.rows.no_chores import without_chores
from benchmarks.host.rows.virtual_workers import VirtualWorkersShell, trained
from benchmarks.local_ray import local_ray

BOUND_S = 0.1
BOUND = "bound: 100 ms"
UNCOUNTED = 2
"""Cycles at the start, when all workers become free at once, and as many at the end, when there are no more leases."""
PERCENT = 100


@dataclass(frozen=True, slots=True)
class Size:
    """One run.

    Attributes:
        actors: Rollout actors; a tenth as many workers score.
        groups: Groups a cycle.
        cycles: Cycles that are counted.
        generate: Seconds of a rollout.
    """

    actors: int
    groups: int
    cycles: int
    generate: float

    def __str__(self) -> str:
        """In words."""
        return f"{self.actors:,} workers, {self.groups:,} groups"


MANY = Size(1000, 2048, cycles=3, generate=4.0)
FEW = Size(10, 8, cycles=40, generate=0.5)


def settings(size: Size, folder: Path) -> Config:
    """A run in this folder whose actors are never held back by a cap."""
    return without_chores(size.actors, size.groups, size.cycles + 2 * UNCOUNTED, age=3, output=folder)


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Counts what this process asks of Ray: calls of actors as `remote`, and `put`, `get` and `wait`."""
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    with ExitStack() as patches:
        # Every way to call an actor ends in its method's _remote.
        for owner, name in ((ActorMethod, "_remote"), (ray, "put"), (ray, "get"), (ray, "wait")):
            patches.enter_context(mock.patch.object(owner, name, counted(name.strip("_"), vars(owner)[name])))
        yield calls


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a run stands when it begins a cycle: seconds, CPU seconds of the process, and calls so far."""

    at: float
    cpu: float
    calls: Counter[str]


class WatchedLanding(Landing):
    """Notes when the network of an actor is free.

    Attributes:
        free: By worker, since when, seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.free: MutableMapping[str, deque[float]] = defaultdict(deque)

    def frees(self, task: Task) -> None:
        """The actor's network is free as soon as this task has landed."""
        self._futures[task][0].add_done_callback(lambda _: self.free[task.worker].append(time.monotonic()))


class WatchedShell(VirtualWorkersShell):
    """Notes how long after their networks had become free the next lease of actors was sent.

    Args:
        config: As of the shell.
        costs: As of the shell.
        calls: Counts those of this process.

    Attributes:
        waits: When a lease was sent and how long its worker had been free, seconds.
        cycles: One moment for each.
    """

    def __init__(self, config: Config, costs: Costs, calls: Counter[str]) -> None:
        super().__init__(config, costs)
        self._landing = self._watched = WatchedLanding()
        self._calls = calls
        self.waits: list[tuple[float, float]] = []
        self.cycles: list[Moment] = []

    def generate(self, worker: str, lease: Lease, student: Published) -> Task:
        """See `Shell`."""
        task, free = super().generate(worker, lease, student), self._watched.free[worker]
        if free:
            now = time.monotonic()
            self.waits.append((now, now - free.popleft()))
        self._watched.frees(task)
        return task

    def cycle(self, infos: Sequence[GroupInfo]) -> Task:
        """See `Shell`."""
        self.cycles.append(Moment(time.monotonic(), time.process_time(), self._calls.copy()))
        return super().cycle(infos)


def run(size: Size) -> WatchedShell:
    """A whole run, on the Ray that is there; returns what was noted."""
    round_s = size.generate * size.groups / size.actors  # of all groups of a cycle
    costs = Costs(generate=size.generate, score=size.generate / 100, cycle=round_s / 5, spread=0.5)
    with tempfile.TemporaryDirectory() as folder, counted_calls() as calls:
        config = settings(size, Path(folder))
        shell = WatchedShell(config, costs, calls)
        trained(config, shell)
    return shell


def figures(
    size: Size, cycles: Sequence[Moment], waits: Sequence[tuple[float, float]]
) -> tuple[float, dict[str, float]]:
    """Seconds within which 99 of 100 free workers had a lease, and the facts, all of the cycles that are counted."""
    first, last = cycles[UNCOUNTED], cycles[UNCOUNTED + size.cycles]
    groups, calls = size.groups * size.cycles, last.calls - first.calls
    within = [wait for at, wait in waits if first.at <= at <= last.at]
    facts = {
        "half of them within, ms": 1e3 * statistics.median(within),
        "settled, groups/s": groups / (last.at - first.at),
        "driver, CPU ms a group": 1e3 * (last.cpu - first.cpu) / groups,
        **{f"ray {call}, a group": count / groups for call, count in sorted(calls.items())},
    }
    return statistics.quantiles(within, n=PERCENT, method="inclusive")[-1], facts


def turn(size: Size, facts: MutableMapping[str, list[float]]) -> float:
    """Runs and returns seconds as `figures`, with the facts added to those that are there."""
    shell = run(size)
    seconds, seen = figures(size, shell.cycles, shell.waits)
    for what, figure in seen.items():
        facts[f"{size}: {what}"].append(figure)
    return seconds


@contextmanager
def _opened() -> Iterator[Field]:
    field = Field(
        {OURS: lambda: turn(MANY, field.facts), str(FEW): lambda: turn(FEW, field.facts), BOUND: always(BOUND_S)}
    )
    with local_ray():
        yield field


LEASE = Row(
    "lease",
    f"99 of 100 workers have their next lease within, over Ray; ours: {MANY} a cycle",
    _opened,
    goals={BOUND: 1.0},
    rounds=3,
)

"""What the driver computes for each group that is settled, by the number of workers.

The controller is the real one, over workers that only take time (`planning/virtual.py`): no call to Ray is in it.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from advdmd_ray.config import Config
from advdmd_ray.metrics.series import Sample
from advdmd_ray.planning.virtual import Costs, VirtualClock, VirtualShell
from advdmd_ray.runs.parts.controller import build_controller
from advdmd_ray.runtime.heap import frozen_heap
from benchmarks.host.contest import OURS, Field, Row, always
from benchmarks.host.rows.no_chores import without_chores

GROUPS = 4000
"""At least so many are settled in a turn."""
MANY = (1000, 2048)
"""Rollout actors, groups a cycle."""
FEWER = ((100, 256), (10, 8))
PACE = 1500.0
"""Groups a second."""
FLAT = 1.3
COSTS = Costs(generate=1.0, score=0.05, cycle=0.5, fetch=0.01, load=0.01, spread=0.3)
BOUND = f"bound: {PACE:,.0f} groups/s"


def settings(actors: int, groups: int) -> Config:
    """A run of at least `GROUPS` groups, whose actors wait for the learner."""
    return without_chores(actors, groups, -(-GROUPS // groups), age=1)


class _Deaf:
    """Hub that drops what it hears: the driver's own does its work in another process."""

    def record(self, samples: Sequence[Sample], cycle: int | None = None) -> None:
        """See `Hub`."""


def turn(actors: int, groups: int) -> float:
    """CPU seconds of the controller for each settled group."""
    config, clock = settings(actors, groups), VirtualClock()
    shell = VirtualShell(config, COSTS, clock, group_bytes=2**14)
    controller = build_controller(config, shell, _Deaf(), clock=clock)
    began = time.process_time()
    cycles = controller.run()
    return (time.process_time() - began) / (cycles * groups)


def named(actors: int, groups: int) -> str:
    """A contestant."""
    return f"{actors:,} workers, {groups:,} groups"


@contextmanager
def _opened() -> Iterator[Field]:
    fewer = {named(*size): partial(turn, *size) for size in FEWER}
    with frozen_heap():  # as a run has it
        yield Field({OURS: partial(turn, *MANY), **fewer, BOUND: always(1 / PACE)})


CONTROLLER = Row(
    "controller",
    f"CPU of the driver for a settled group, without calls to Ray; ours: {named(*MANY)} a cycle",
    _opened,
    goals={named(*size): 1 / FLAT for size in FEWER} | {BOUND: 1.0},
)

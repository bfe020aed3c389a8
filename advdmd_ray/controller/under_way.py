"""The tasks that are under way, and which of them the learner waits for first."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from advdmd_ray.controller.protocols import Task
from advdmd_ray.errors import WorkerLostError
from advdmd_ray.stations.records import Lease


@dataclass(frozen=True, slots=True)
class Begun:
    """A task that is not over.

    Attributes:
        task: The task.
        done: What to do with its outcome.
        lost: What to do when its worker is lost.
        lease: Of the group that it makes or scores; None for the learner's work.
        at: When it began, seconds.
    """

    task: Task
    done: Callable[[Any], None]
    lost: Callable[[Task, WorkerLostError], None]
    lease: Lease | None
    at: float


class UnderWay:
    """Knows every task until it is over, and finds the first in the order of the ordinals without a search.

    Args:
        wanted: Whether a group of an ordinal is still to be committed. A task whose ordinal others have made holds
            nobody up: it is passed over for good.
    """

    def __init__(self, wanted: Callable[[int], bool]) -> None:
        self._wanted = wanted
        self._number = count()
        self._numbers: dict[Task, int] = {}
        self._begun: dict[int, Begun] = {}
        # A heap of (ordinal, when it began, its number) that may name tasks which are over, but keeps nothing of them.
        self._groups: list[tuple[int, float, int]] = []

    def __len__(self) -> int:
        return len(self._begun)

    def add(self, begun: Begun) -> None:
        """The task has begun."""
        number = self._numbers[begun.task] = next(self._number)
        self._begun[number] = begun
        if begun.lease is not None:
            heapq.heappush(self._groups, (begun.lease.ordinal, begun.at, number))

    def over(self, task: Task) -> Begun:
        """The task is over: with an outcome, or lost."""
        begun = self._begun.pop(self._numbers.pop(task))
        self.first()  # nothing piles up behind a task that is over or not wanted any more
        return begun

    def first(self) -> Begun | None:
        """The task of the lowest ordinal that is wanted, the earliest of several."""
        while self._groups:
            ordinal, _, number = self._groups[0]
            if number in self._begun and self._wanted(ordinal):
                return self._begun[number]
            heapq.heappop(self._groups)
        return None

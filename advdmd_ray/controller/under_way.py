"""The tasks that are under way, and which of them the learner waits for first."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

from advdmd_ray.controller.protocols import Task
from advdmd_ray.stations.records import Lease


@dataclass(frozen=True, slots=True)
class Begun:
    """A task that is not over.

    Attributes:
        task: The task.
        done: What to do with its outcome.
        lease: Of the group that it makes or scores; None for any other work.
        at: When it began, seconds.
        term: Which process of its worker does it.
        aside: Whether it is no work, and nothing comes of it that the run could wait for.
        kind: Of work on a group: what takes about as long has the same.
    """

    task: Task
    done: Callable[[Any], None]
    lease: Lease | None
    at: float
    term: int = 0
    aside: bool = False
    kind: str = ""


class Begin(Protocol):
    """How the controller takes a task in: what to do with its outcome, and the rest as of `Begun`."""

    def __call__(  # noqa: D102
        self,
        task: Task,
        done: Callable[[Any], None],
        *,
        lease: Lease | None = None,
        aside: bool = False,
        kind: str = "",
    ) -> None: ...


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
        self._asides = 0
        # A heap of (ordinal, when it began, its number) that may name tasks which are over, but keeps nothing of them.
        self._groups: list[tuple[int, float, int]] = []

    def __len__(self) -> int:
        return len(self._begun) - self._asides

    def add(self, begun: Begun) -> None:
        """The task has begun."""
        number = self._numbers[begun.task] = next(self._number)
        self._begun[number] = begun
        self._asides += begun.aside
        if begun.lease is not None:
            heapq.heappush(self._groups, (begun.lease.ordinal, begun.at, number))

    def over(self, task: Task) -> Begun:
        """The task is over: with an outcome, or lost."""
        begun = self._begun.pop(self._numbers.pop(task))
        self._asides -= begun.aside
        self.first()  # nothing piles up behind a task that is over or not wanted any more
        return begun

    def of(self, worker: str, term: int) -> list[Begun]:
        """What one process of a worker has under way; looks at all tasks."""
        return [begun for begun in self._begun.values() if (begun.task.worker, begun.term) == (worker, term)]

    def first(self) -> Begun | None:
        """The task of the lowest ordinal that is wanted, the earliest of several."""
        while self._groups:
            ordinal, _, number = self._groups[0]
            if number in self._begun and self._wanted(ordinal):
                return self._begun[number]
            heapq.heappop(self._groups)
        return None

"""Who still answers: a process that hangs says nothing, and nobody else says it either."""

from collections import OrderedDict
from collections.abc import Callable

MOST_TURN_S = 1.0
"""Of the driver's own time between two looks that counts: while it stands still itself, it hears nobody."""


class Pulse:
    """When each worker was heard of last: it did some work, or answered.

    One that was not heard of for `ask_s` is to be asked, and hangs if it was not heard of for `hang_s`.
    No call looks at more workers than it is about, as they stand in the order in which they were heard of.

    Args:
        hang_s: Seconds without a sign of life after which a worker hangs, > 0.
        clock: Monotonic clock, seconds.
        ask_s: Less than `hang_s`; None: half of it.
    """

    def __init__(self, hang_s: float, clock: Callable[[], float], ask_s: float | None = None) -> None:
        self._ask_s, self._clock = hang_s / 2 if ask_s is None else ask_s, clock
        self._answer_s = hang_s - self._ask_s
        self._looked, self._now = clock(), 0.0
        self._heard: OrderedDict[str, float] = OrderedDict()
        self._asked: OrderedDict[str, float] = OrderedDict()

    def heard(self, worker: str) -> None:
        """A sign of life."""
        self.forget(worker)
        self._heard[worker] = self._now

    def forget(self, worker: str) -> None:
        """Nothing is expected of the worker any more: it is gone, or at work that does not let it answer."""
        self._heard.pop(worker, None)
        self._asked.pop(worker, None)

    def expects(self, worker: str) -> bool:
        """Whether an answer of the worker is expected, or will be."""
        return worker in self._heard or worker in self._asked

    def look(self) -> tuple[list[str], list[str]]:
        """The workers that are to be asked now, each once, and those that hang, which are forgotten."""
        looked, before = self._clock(), self._looked
        self._now += min(looked - before, MOST_TURN_S)
        self._looked = looked
        hang, ask = self._older(self._asked, self._answer_s), self._older(self._heard, self._ask_s)
        self._asked.update(dict.fromkeys(ask, self._now))
        return ask, hang

    def _older(self, since: OrderedDict[str, float], than_s: float) -> list[str]:
        """Takes out those that are in there for too long, the first first."""
        older: list[str] = []
        while since and self._now - next(iter(since.values())) >= than_s:
            older.append(since.popitem(last=False)[0])
        return older

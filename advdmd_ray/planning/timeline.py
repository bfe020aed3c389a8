"""Ends of work in virtual time, where workers that share a card slow each other.

Whoever works on a card has an equal share of its time, as processes on one GPU take turns: two take twice as long
together, and one alone is as fast as if the card were its own.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Generic, TypeVar

Work = TypeVar("Work")


class Card(Generic[Work]):
    """Who works on a card, and how much of it is left."""

    def __init__(self) -> None:
        self._left: dict[int, tuple[float, Work]] = {}  # by number: seconds that are left on an idle card
        self._since = 0.0
        self.turn = 0  # counts the changes: an end that was foreseen before one does not come

    def add(self, now: float, number: int, seconds: float, work: Work) -> None:
        """Work comes."""
        self._advance(now)
        self._left[number] = seconds, work

    def remove(self, now: float, number: int) -> Work:
        """Work is done."""
        self._advance(now)
        return self._left.pop(number)[1]

    def next_end(self) -> tuple[float, int] | None:
        """When the first of the work is done if nothing changes, and its number."""
        if not self._left:
            return None
        seconds, number = min((seconds, number) for number, (seconds, _) in self._left.items())
        return self._since + max(0.0, seconds) * len(self._left), number

    def _advance(self, now: float) -> None:
        done = (now - self._since) / max(1, len(self._left))
        self._left = {number: (seconds - done, work) for number, (seconds, work) in self._left.items()}
        self._since, self.turn = now, self.turn + 1


class Timeline(Generic[Work]):
    """What is under way, and when it ends."""

    def __init__(self) -> None:
        # A heap of what happens when; it gives the work that ends then, if any. The number settles ties.
        self._events: list[tuple[float, int, Callable[[], Work | None]]] = []
        self._cards: dict[int, Card[Work]] = defaultdict(Card)
        self._number = count()

    def start(self, now: float, seconds: float, work: Work, *, before: float = 0.0, card: int | None = None) -> None:
        """Begins work.

        Args:
            now: The time.
            seconds: What it takes on a card of its own.
            work: It.
            before: Seconds before these, which need no card.
            card: That it may share with others; None: it has its own.
        """
        if card is None:
            self._add(now + before + seconds, lambda: work)
        else:
            self._add(now + before, partial(self._come, now + before, card, seconds, work))

    def ended(self, now: float, limit: float) -> tuple[float, list[Work]]:
        """Goes to the next end of work.

        Args:
            now: The time.
            limit: The latest to go to.

        Returns:
            The time then, and all work that has ended.
        """
        ended: list[Work] = []
        while self._events and self._events[0][0] <= (now if ended else limit):
            time, _, happen = heapq.heappop(self._events)
            work = happen()
            if work is not None:
                now = max(now, time)
                ended.append(work)
        return (now if ended else limit), ended

    def _add(self, time: float, happen: Callable[[], Work | None]) -> None:
        heapq.heappush(self._events, (time, next(self._number), happen))

    def _come(self, now: float, card: int, seconds: float, work: Work) -> None:
        self._cards[card].add(now, next(self._number), seconds, work)
        self._foresee(card)

    def _foresee(self, card: int) -> None:
        following = self._cards[card].next_end()
        if following is not None:
            time, number = following
            self._add(time, partial(self._go, time, card, number, self._cards[card].turn))

    def _go(self, now: float, card: int, number: int, turn: int) -> Work | None:
        if turn != self._cards[card].turn:
            return None
        work = self._cards[card].remove(now, number)
        self._foresee(card)
        return work

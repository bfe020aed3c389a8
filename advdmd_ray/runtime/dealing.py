"""Pieces of work dealt out to actors, one each at a time."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

import ray

from advdmd_ray.controller.pulse import Pulse
from advdmd_ray.errors import BytesLostError, DeadlineError, UserError, WorkerLostError
from advdmd_ray.runtime.calls import SILENCE_S, Handle, answer, silent

logger = logging.getLogger(__name__)
Piece = TypeVar("Piece")
SHARD_S = 3600.0
"""Nobody works longer at one shard of images."""
MOST_LOSSES = 3
"""A piece at which so many actors are lost is what ends them; so is a start."""
LOOK_S = 0.5


class Hired:
    """Actors that take pieces of work.

    Args:
        hire: Starts one. It answers `ping` beside its work, see `Pulsed`.
        count: How many.
    """

    def __init__(self, hire: Callable[[], Handle], count: int) -> None:
        self._hire = hire
        self.actors = [hire() for _ in range(count)]

    def replace(self, actor: Handle) -> Handle:
        """Ends an actor and starts another in its place, which is returned."""
        ray.kill(actor)
        self.actors[self.actors.index(actor)] = fresh = self._hire()
        return fresh

    def end(self) -> None:
        """Ends all of them."""
        for actor in self.actors:
            ray.kill(actor)


@contextmanager
def hired(hire: Callable[[], Handle], count: int) -> Iterator[Hired]:
    """So many actors; they end at once when they are done, as others wait for their room."""
    team = Hired(hire, count)
    try:
        yield team
    finally:
        team.end()


def deal(
    team: Hired,
    work: Sequence[Piece],
    begin: Callable[[Handle, Piece], ray.ObjectRef],
    name: Callable[[Piece], str],
    deadline_s: float,
    ready: Callable[[Handle], ray.ObjectRef],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[Piece, Any]]:
    """Hand the work out in its order and yield each piece with its answer, in the order that they are done.

    An actor that is lost, or hangs, is replaced, and its piece is the next that is dealt out; a warning says so.

    Args:
        team: The actors.
        work: The pieces.
        begin: Starts one piece on one actor.
        name: What to call a piece in a message.
        deadline_s: Seconds within which some piece must be done.
        ready: Asks an actor whether it is up: one for which there is no room yet is given no piece, and is not waited
            for where others do all of the work; nor is one given any that refuses with a UserError, as on a node that
            lacks something, which a warning says.
        clock: Monotonic clock, seconds.

    Raises:
        DeadlineError: if nothing is done in time; names what is at work.
        WorkerLostError: if three actors were lost at one piece, or before any of them was up.
        UserError: if no actor is left and the last one refused; and of a piece.
    """
    yield from _Dealing(team, work, begin, name, ready, clock).until_done(deadline_s)


class _Dealing(Generic[Piece]):
    """Who is at what. The piece of an actor that is starting is None."""

    def __init__(
        self,
        team: Hired,
        work: Sequence[Piece],
        begin: Callable[[Handle, Piece], ray.ObjectRef],
        name: Callable[[Piece], str],
        ready: Callable[[Handle], ray.ObjectRef],
        clock: Callable[[], float],
    ) -> None:
        self._team, self._work, self._begin, self._name = team, work, begin, name
        self._ready, self._clock = ready, clock
        self._waiting = list(reversed(range(len(work))))
        self._at: dict[ray.ObjectRef, tuple[Handle, int | None]] = {}
        self._pings: dict[ray.ObjectRef, int] = {}
        self._idle: list[Handle] = []
        self._losses: Counter[int | None] = Counter()
        self._pulse = Pulse(SILENCE_S, clock)  # of those at work, by their piece
        for actor in team.actors:
            self._start(actor)

    def until_done(self, deadline_s: float) -> Iterator[tuple[Piece, Any]]:
        """See `deal`."""
        since = self._clock()
        while self._waiting or any(piece is not None for _, piece in self._at.values()):
            done, _ = ray.wait([*self._at, *self._pings], timeout=min(LOOK_S, deadline_s))
            if done and done[0] in self._pings:
                self._answered(done[0])
            elif done:
                since = self._clock()
                yield from self._landed(done[0])
            elif self._clock() - since >= deadline_s:
                names = [self._named(piece) for _, piece in self._at.values() if piece is not None]
                at = ", ".join(names) or "nothing: no worker is up"
                raise DeadlineError(f"nothing done in {deadline_s:.0f} s; at work on {at}")
            self._look()

    def _named(self, piece: int | None) -> str:
        return "a worker's start" if piece is None else self._name(self._work[piece])

    def _start(self, actor: Handle) -> None:
        self._at[self._ready(actor)] = actor, None

    def _give(self) -> None:
        while self._idle and self._waiting:
            actor, piece = self._idle.pop(0), self._waiting.pop()
            self._at[self._begin(actor, self._work[piece])] = actor, piece
            self._pulse.heard(str(piece))

    def _landed(self, ticket: ray.ObjectRef) -> Iterator[tuple[Piece, Any]]:
        actor, piece = self._at.pop(ticket)
        self._pulse.forget(str(piece))
        try:
            given = answer(ticket, self._named(piece))
        except BytesLostError:
            raise
        except UserError as refused:
            if piece is not None or not (self._at or self._idle):
                raise
            logger.warning("%s; the others go on", refused)
        except WorkerLostError as lost:
            self._lost(actor, piece, lost)
        else:
            self._losses.pop(None, None)
            self._idle.append(actor)
            self._give()
            if piece is not None:
                yield self._work[piece], given

    def _lost(self, actor: Handle, piece: int | None, lost: WorkerLostError) -> None:
        self._losses[piece] += 1
        if piece is not None:
            self._waiting.append(piece)
        if self._losses[piece] < MOST_LOSSES:
            logger.warning("%s; another worker takes its place", lost)
            self._start(self._team.replace(actor))
        elif piece is not None or not (self._at or self._idle):
            raise lost
        else:
            logger.warning("%s; the others go on", lost)
        self._give()

    # Signs of life --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        ask, hang = (list(map(int, pieces)) for pieces in self._pulse.look())
        for piece in ask:
            _, actor = self._whose(piece)
            self._pings[actor.ping.remote()] = piece
        for piece in hang:
            ticket, actor = self._whose(piece)
            del self._at[ticket]
            self._lost(actor, piece, WorkerLostError(f"{self._named(piece)}: the worker {silent(SILENCE_S)}"))

    def _whose(self, piece: int) -> tuple[ray.ObjectRef, Handle]:
        return next((ticket, actor) for ticket, (actor, other) in self._at.items() if other == piece)

    def _answered(self, ping: ray.ObjectRef) -> None:
        piece = self._pings.pop(ping)
        with suppress(WorkerLostError):  # its piece says so too
            answer(ping, "a sign of life")
            if self._pulse.expects(str(piece)):
                self._pulse.heard(str(piece))

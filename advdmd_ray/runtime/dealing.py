"""Pieces of work dealt out to actors, one each at a time."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import ray

from advdmd_ray.errors import BytesLostError, DeadlineError, UserError, WorkerLostError
from advdmd_ray.runtime.calls import Handle, answer

logger = logging.getLogger(__name__)
Piece = TypeVar("Piece")
SHARD_S = 3600.0
"""Nobody works longer at one shard of images."""
MOST_LOSSES = 3
"""A piece at which so many actors are lost is what ends them."""


@contextmanager
def hired(hire: Callable[[], Handle], count: int) -> Iterator[list[Handle]]:
    """So many actors; they end at once when they are done, as others wait for their room."""
    team = [hire() for _ in range(count)]
    try:
        yield team
    finally:
        for actor in team:
            ray.kill(actor)


def deal(
    team: Sequence[Handle],
    work: Sequence[Piece],
    begin: Callable[[Handle, Piece], ray.ObjectRef],
    name: Callable[[Piece], str],
    deadline_s: float,
    ready: Callable[[Handle], ray.ObjectRef] | None = None,
) -> Iterator[tuple[Piece, Any]]:
    """Hand the work out in its order and yield each piece with its answer, in the order that they are done.

    The piece of an actor that is lost goes to another one, and a warning says so.

    Args:
        team: The actors.
        work: The pieces.
        begin: Starts one piece on one actor.
        name: What to call a piece in a message.
        deadline_s: Seconds within which some piece must be done.
        ready: Asks an actor whether it is up: one for which there is no room yet is given no piece, and is not waited
            for where others do all of the work; nor is one given any that refuses with a UserError, as on a node that
            lacks something, which a warning says. None: every actor is given one at once.

    Raises:
        DeadlineError: if nothing is done in time; names what is at work.
        WorkerLostError: if no actor is left, or three were lost at one piece.
        UserError: if no actor is left and the last one refused; and of a piece.
    """
    waiting = list(reversed(range(len(work))))
    at_work: dict[ray.ObjectRef, tuple[Handle, int]] = {}
    joining = {} if ready is None else {ready(actor): actor for actor in team}
    idle = list(team) if ready is None else []
    losses: Counter[int] = Counter()

    def give() -> None:
        while idle and waiting:
            actor, piece = idle.pop(0), waiting.pop()
            at_work[begin(actor, work[piece])] = actor, piece

    give()
    while at_work or waiting:
        done, _ = ray.wait([*at_work, *joining], timeout=deadline_s)
        if not done:
            names = ", ".join(name(work[piece]) for _, piece in at_work.values()) or "nothing: no worker is up"
            raise DeadlineError(f"nothing done in {deadline_s:.0f} s; at work on {names}")
        ticket = done[0]
        actor, piece = (joining.pop(ticket), None) if ticket in joining else at_work.pop(ticket)
        try:
            given = answer(ticket, "a worker's start" if piece is None else name(work[piece]))
        except BytesLostError:
            raise
        except (UserError, WorkerLostError) as error:
            refused = isinstance(error, UserError)
            if piece is not None and not refused:
                losses[piece] += 1
                waiting.append(piece)
            nobody_left = not (at_work or joining or idle)
            if nobody_left or max(losses.values(), default=0) >= MOST_LOSSES or (refused and piece is not None):
                raise
            logger.warning("%s; %s", error, "the others go on" if piece is None else "another worker does it again")
            give()
            continue
        idle.append(actor)
        give()
        if piece is not None:
            yield work[piece], given

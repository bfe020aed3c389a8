"""Pieces of work dealt out to actors, one each at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray

from advdmd_ray.errors import DeadlineError
from advdmd_ray.runtime.calls import Handle, answer

Piece = TypeVar("Piece")


def deal(
    team: Sequence[Handle],
    work: Sequence[Piece],
    begin: Callable[[Handle, Piece], ray.ObjectRef],
    name: Callable[[Piece], str],
    deadline_s: float,
) -> Iterator[tuple[Piece, Any]]:
    """Hand the work out in its order and yield each piece with its answer, in the order that they are done.

    Args:
        team: The actors.
        work: The pieces.
        begin: Starts one piece on one actor.
        name: What to call a piece in a message.
        deadline_s: Seconds within which some piece must be done.

    Raises:
        DeadlineError: if none is done in time; names what is at work.
        WorkerLostError: if an actor is lost for good.
    """
    waiting = list(reversed(work))
    at_work: dict[ray.ObjectRef, tuple[Handle, Piece]] = {}

    def give(actor: Handle) -> None:
        if waiting:
            piece = waiting.pop()
            at_work[begin(actor, piece)] = actor, piece

    for actor in team:
        give(actor)
    while at_work:
        ready, _ = ray.wait(list(at_work), timeout=deadline_s)
        if not ready:
            names = ", ".join(name(piece) for _, piece in at_work.values())
            raise DeadlineError(f"nothing done in {deadline_s:.0f} s; at work on {names}")
        actor, piece = at_work.pop(ready[0])
        given = answer(ready[0], name(piece))
        give(actor)
        yield piece, given

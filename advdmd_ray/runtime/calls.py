"""Waiting for answers: every wait has a deadline and says what it waited for."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayTaskError,
    WorkerCrashedError,
)

from advdmd_ray.errors import (
    BytesLostError,
    CheckpointError,
    DeadlineError,
    DiskError,
    GroupMismatchError,
    UserError,
    WeightsMismatchError,
    WorkerLostError,
)

Handle = Any
"""An actor's handle. Ray types neither a call with several returns nor the options of an actor."""
PULSE = "pulse"
"""Group of the calls that an actor answers beside whatever else it does, in a thread of their own."""
ANSWER_S = 120.0
SILENCE_S = 60.0
"""A process that starts or works at a piece and says nothing for so long, not even if asked, is as good as dead.

Longer than `ray.hang_s`: imports and loads from a slow disk may keep Python from answering."""
MORE_TIME = "check the cluster's free CPUs and GPUs or raise ray.start_timeout_s"
"""What helps a start that waits for workers in vain."""
# How Ray says that a worker or its node is gone, or bytes with it.
LOST = (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    WorkerCrashedError,
)
# What a worker raises with one clear line of its own.
_CLEAR = (
    CheckpointError,
    DeadlineError,
    DiskError,
    GroupMismatchError,
    UserError,
    WeightsMismatchError,
    WorkerLostError,
)


def silent(seconds: float) -> str:
    """What is said of a process that is given up because it says nothing."""
    return f"has not answered for {seconds:g} s"


def answer(
    reference: ray.ObjectRef | list[ray.ObjectRef], what: str, timeout_s: float = ANSWER_S, remedy: str = ""
) -> Any:
    """The value of a reference, or a list of theirs.

    An error of ours that the worker raised comes as itself, its traceback behind it.

    Args:
        reference: What is waited for.
        what: Its name in an error.
        timeout_s: Seconds to wait.
        remedy: What to do if it does not come in time, such as `MORE_TIME`.

    Raises:
        DeadlineError: if it does not come in time; names `what`.
        WorkerLostError: if the actor is gone; BytesLostError if it is bytes it was to read, or those asked for.
        RayTaskError: if the worker raised anything else; holds the worker's traceback.
    """
    try:
        with _in_our_words(what):
            return ray.get(reference, timeout=timeout_s)
    except GetTimeoutError:
        raise DeadlineError(f"waited {timeout_s:.0f} s for {what}{remedy and f'; {remedy}'}") from None


def landed(future: Future[Any], what: str) -> Any:
    """The value of a reference's future that is done; raises as `answer`."""
    with _in_our_words(what):
        return future.result()


@contextmanager
def _in_our_words(what: str) -> Iterator[None]:
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, _CLEAR):
            raise error.cause from error
        if isinstance(error.cause, LOST):
            raise _lost(what, error.cause) from error
        raise
    except LOST as error:
        raise _lost(what, error) from error


def _lost(what: str, error: Exception) -> WorkerLostError:
    if isinstance(error, ObjectLostError):
        return BytesLostError(f"{what}: bytes are gone with the node that held them ({type(error).__name__})")
    first = str(error).strip().splitlines()[0]
    return WorkerLostError(f"{what}: {type(error).__name__}: {first}")

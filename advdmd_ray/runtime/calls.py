"""Waiting for answers: every wait has a deadline and says what it waited for."""

from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, NodeDiedError, ObjectLostError

from advdmd_ray.errors import DeadlineError, WorkerLostError

ANSWER_S = 120.0
# How Ray says that a worker, its node or its bytes are gone; anything else is an error of the call itself.
LOST = (ActorDiedError, ActorUnavailableError, NodeDiedError, ObjectLostError)


def answer(reference: ray.ObjectRef, what: str, timeout_s: float = ANSWER_S) -> Any:
    """The value of a reference.

    Raises:
        DeadlineError: if it does not come in time; names `what`.
        WorkerLostError: if the actor or the bytes are gone.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except GetTimeoutError:
        raise DeadlineError(f"waited {timeout_s:.0f} s for {what}") from None
    except LOST as error:
        first = str(error).strip().splitlines()[0]
        raise WorkerLostError(f"{what}: {type(error).__name__}: {first}") from error

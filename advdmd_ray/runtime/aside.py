"""Work of one piece away from the driver, in a process of its own that ends with it."""

from collections.abc import Callable
from typing import Any

import ray

from advdmd_ray.runtime.calls import PULSE, Handle
from advdmd_ray.runtime.dealing import deal, hired
from advdmd_ray.runtime.pulsed import Pulsed


@ray.remote(concurrency_groups={PULSE: 1})  # pyright: ignore[reportCallIssue]
class AsideActor(Pulsed):
    """Does what it is given."""

    def ready(self) -> None:
        """Answers once there is room for the actor."""

    def do(self, work: Callable[..., Any], *given: Any) -> Any:
        """Does it."""
        return work(*given)


def aside(
    work: Callable[..., Any],
    *given: Any,
    what: str,
    limit_s: float,
    returns: int = 1,
    **options: Any,
) -> tuple[Any, list[ray.ObjectRef]]:
    """Has something done, again if its process is lost or hangs on the way.

    Args:
        work: What is to be done; twice does no harm.
        given: What it is given. References come as their values.
        what: Its name in a message.
        limit_s: Most seconds from the start of a process.
        returns: How many values it returns.
        options: Ray's, of the actor.

    Returns:
        The first value, and references of the others, which the driver does not read.

    Raises:
        DeadlineError: if it takes longer.
        WorkerLostError: if three processes are lost at it.
        RayTaskError: for whatever it does not expect; and errors of ours as themselves.
    """
    others: list[ray.ObjectRef] = []

    def begin(actor: Handle, work: Callable[..., Any]) -> ray.ObjectRef:
        if returns == 1:
            return actor.do.remote(work, *given)
        first, *others[:] = actor.do.options(num_returns=returns).remote(work, *given)
        return first

    # A cluster's head often offers no CPU.
    kind: Handle = AsideActor
    made = kind.options(num_cpus=0, **options)
    with hired(made.remote, 1) as team:
        ((_, value),) = deal(team, [work], begin, lambda _: what, limit_s, lambda actor: actor.ready.remote())
    return value, others

"""Work away from the driver, in a process of its own."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import ray

from advdmd_ray.runtime.calls import PULSE, Handle
from advdmd_ray.runtime.dealing import Hired, deal
from advdmd_ray.runtime.pulsed import Pulsed


@ray.remote(concurrency_groups={PULSE: 1})  # pyright: ignore[reportCallIssue]
class AsideActor(Pulsed):
    """Does what it is given."""

    def ready(self) -> None:
        """Answers once there is room for the actor."""

    def do(self, work: Callable[..., Any], *given: Any) -> Any:
        """Does it."""
        return work(*given)


class Aside:
    """Has work done in a process of its own, which the first piece starts and the next ones find with all its imports.

    Args:
        options: Ray's, of the actor; asked for when one is started.
    """

    def __init__(self, options: Callable[[], Mapping[str, Any]] = dict) -> None:
        self._options = options
        self._team: Hired | None = None

    def do(
        self, work: Callable[..., Any], *given: Any, what: str, limit_s: float, returns: int = 1
    ) -> tuple[Any, list[ray.ObjectRef]]:
        """Has something done, again if the process is lost or hangs on the way.

        Args:
            work: What is to be done; twice does no harm.
            given: What it is given. References come as their values.
            what: Its name in a message.
            limit_s: Most seconds, with the start of a process.
            returns: How many values it returns.

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

        if self._team is None:
            self._team = self._hired()
        with ExitStack() as unless_done:
            unless_done.callback(self.close)  # it may still be at work
            ((_, value),) = deal(self._team, [work], begin, lambda _: what, limit_s, lambda actor: actor.ready.remote())
            unless_done.pop_all()
        return value, others

    def _hired(self) -> Hired:
        # A cluster's head often offers no CPU.
        kind: Handle = AsideActor
        return Hired(kind.options(num_cpus=0, **self._options()).remote, 1)

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._team is not None:
            self._team.end()
            self._team = None

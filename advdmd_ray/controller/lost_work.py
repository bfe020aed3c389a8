"""What becomes of work that is late, hangs or is lost: its groups are made again, and its workers are replaced."""

import logging
from collections.abc import Callable

from advdmd_ray.controller.frontier import PromptFrontier
from advdmd_ray.controller.overdue import Overdue
from advdmd_ray.controller.quarantine import Quarantine
from advdmd_ray.controller.roster import Roster
from advdmd_ray.controller.telemetry import Telemetry
from advdmd_ray.controller.under_way import Begun, UnderWay
from advdmd_ray.errors import BytesLostError, DeadlineError, WorkerLostError

logger = logging.getLogger(__name__)


class LostWork:
    """Follows the work of rollout actors and reward workers, from its beginning to whatever ends it.

    Args:
        lease_s: See `rollout.lease_s`.
        frontier: Issues again what is lost.
        under_way: The tasks that are not over.
        roster: Replaces workers.
        quarantine: Counts how often a group ended its process.
        telemetry: Is told.
        clock: Monotonic clock, seconds.
    """

    def __init__(
        self,
        lease_s: float,
        *,
        frontier: PromptFrontier,
        under_way: UnderWay,
        roster: Roster,
        quarantine: Quarantine,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._frontier, self._under_way, self._roster = frontier, under_way, roster
        self._quarantine, self._telemetry, self._clock = quarantine, telemetry, clock
        self._overdue = Overdue(lease_s)

    def began(self, begun: Begun) -> None:
        """A task has begun."""
        if begun.lease is not None:
            self._overdue.began(begun)

    def done(self, begun: Begun) -> None:
        """A task has an outcome."""
        if begun.lease is None:
            return
        self._overdue.done(begun, self._clock())
        if self._roster.has(begun):
            self._roster.worked(begun.task.worker)

    def lost(self, begun: Begun, error: WorkerLostError | DeadlineError) -> None:
        """A worker's task came to nothing: its process died, or bytes that it was to read are gone."""
        worker = begun.task.worker
        self._overdue.gone(begun)
        if not self._roster.has(begun):
            return  # one of several tasks of a process that is given up: all of them were lost with the first
        if not isinstance(error, BytesLostError):
            self._give_up(worker, str(error), begun)
            return
        self._roster.station(worker).free(begun.task)
        again = [begun.lease.ordinal] if begun.lease is not None and self._frontier.lost(begun.lease) else []
        self._say(worker, str(error), again, died=False)

    def turn(self) -> None:
        """Does what time brings: has overdue groups made again, and replaces who hangs."""
        self._expire()
        self._give_up_who_hangs()

    def _give_up_who_hangs(self) -> None:
        for begun in filter(self._roster.has, self._overdue.hanging(self._clock())):
            self._give_up(begun.task.worker, f"{begun.task.worker} is long overdue and is replaced")
        for worker, why in self._roster.turn():
            self._give_up(worker, why)

    def _expire(self) -> None:
        """Has the groups of overdue leases made again. A holder that may only be slow goes on, and may be first."""
        now = self._clock()
        overdue = self._frontier.expire(now)
        for held in overdue:
            logger.warning(
                "ordinal %d from %s is overdue after %.0f s and is issued again; if it only takes so long, raise "
                "rollout.lease_s",
                held.lease.ordinal,
                held.worker,
                now - held.since,
            )
        if overdue:
            self._telemetry.expired(len(overdue))

    def _give_up(self, worker: str, reason: str, *lost: Begun) -> None:
        """Has all that the process of a worker holds made again, `lost` too, and starts the next one."""
        held = (*lost, *self._under_way.of(worker, self._roster.term(worker)))
        for begun in held:
            self._overdue.gone(begun)
        leases = {begun.lease: begun.task.process for begun in held if begun.lease is not None}
        again = [lease.ordinal for lease in leases if self._frontier.lost(lease)]
        self._say(worker, reason, again, died=True)
        for lease, process in leases.items():
            self._quarantine.ended(lease, worker, process)
        self._roster.ended(worker)

    def _say(self, worker: str, reason: str, again: list[int], *, died: bool) -> None:
        logger.warning("%s%s", reason, f"; issued again: ordinals {again}" if again else "")
        self._telemetry.lost(self._roster.role(worker), len(again), died=died)

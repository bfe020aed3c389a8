"""Whether a run moves: how long the learner may work, and how long it may be without groups."""

from collections.abc import Callable

from advdmd_ray.config import Config
from advdmd_ray.errors import DeadlineError, GangLostError, WorkerLostError

FETCHES_IN_A_ROW = 5


class Deadlines:
    """The clocks of a run. Only what brings the learner on winds them: work done over and over is no progress.

    Args:
        config: `learner.cycle_timeout_s` and `buffer.take_timeout_s`.
        clock: Monotonic clock, seconds.
    """

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self._config, self._clock = config, clock
        self.learner_busy = False
        self._since = self._commit_at = clock()
        self._lost_in_a_row = 0

    def learner(self, *, busy: bool) -> None:
        """The learner becomes busy or idle now; at the start of the loops it is idle."""
        self.learner_busy, self._since = busy, self._clock()

    def committed(self) -> None:
        """A group was committed now."""
        self._commit_at = self._clock()

    def fetched(self, lost: int) -> None:
        """The learner fetched the groups it took; the bytes of so many were gone.

        Raises:
            WorkerLostError: if some were gone each of the last FETCHES_IN_A_ROW times.
        """
        self._lost_in_a_row = self._lost_in_a_row + 1 if lost else 0
        if self._lost_in_a_row >= FETCHES_IN_A_ROW:
            raise WorkerLostError(
                f"the bytes of taken groups were gone {FETCHES_IN_A_ROW} times in a row; see the nodes and object "
                "stores in Ray's logs"
            )

    def check(self, waiting_for: Callable[[], str]) -> None:
        """Ends a run that stands still.

        Args:
            waiting_for: Says what it waits for; asked only when the run ends.

        Raises:
            GangLostError: if the learner is at work for too long.
            DeadlineError: if nothing else moves; both name what it waits for and the setting that would wait longer.
        """
        if self.learner_busy:
            since, limit = self._since, self._config.learner.cycle_timeout_s
            kind, setting = GangLostError, "learner.cycle_timeout_s"
        else:
            since, limit = max(self._since, self._commit_at), self._config.buffer.take_timeout_s
            kind, setting = DeadlineError, "buffer.take_timeout_s"
        waited = self._clock() - since
        if waited > limit:
            raise kind(
                f"no progress for {waited:.0f} s: {waiting_for()}; see the workers' logs, or raise {setting} if this "
                "only takes so long"
            )

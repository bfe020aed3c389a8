"""How each role's workers spend their time: busy, waiting for work, or blocked by the pace of the others."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

BUSY = "busy"


class StationClock:
    """Adds up the seconds of every worker's states, per role.

    Args:
        workers: Names of the workers of each role; all begin as `waiting`.
        clock: Monotonic clock, seconds.
    """

    def __init__(self, workers: Mapping[str, Sequence[str]], clock: Callable[[], float]) -> None:
        self._clock = clock
        now = clock()
        self._role = {worker: role for role, names in workers.items() for worker in names}
        self._state = dict.fromkeys(self._role, "waiting")
        self._since = dict.fromkeys(self._role, now)
        self._seconds: dict[tuple[str, str], float] = defaultdict(float)

    def busy(self, worker: str) -> None:
        """The worker has begun a job."""
        self._enter(worker, BUSY)

    def idle(self, worker: str, reason: str) -> None:
        """The worker has no job: `waiting` for input, or `blocked` by the age or byte cap."""
        self._enter(worker, reason)

    def drain(self) -> dict[tuple[str, str], float]:
        """Seconds by (role, state) since the last call."""
        for worker, state in self._state.items():
            self._enter(worker, state)
        drained, self._seconds = dict(self._seconds), defaultdict(float)
        return drained

    def _enter(self, worker: str, state: str) -> None:
        now = self._clock()
        self._seconds[self._role[worker], self._state[worker]] += now - self._since[worker]
        self._since[worker] = now
        self._state[worker] = state

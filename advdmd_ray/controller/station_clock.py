"""How each role's workers spend their time: busy, waiting for work, blocked by the pace of the others, or not up."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

State = Literal["busy", "waiting", "blocked", "down"]


class StationClock:
    """Adds up the seconds of all workers' states, per role.

    It counts the workers in each state, so that an event costs the same however many there are.

    Args:
        workers: Names of the workers of each role; all begin as `waiting`.
        clock: Monotonic clock, seconds.
    """

    def __init__(self, workers: Mapping[str, Sequence[str]], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._role = {worker: role for role, names in workers.items() for worker in names}
        self._at: dict[str, State] = {}  # of those that are busy or down
        # Of each idle worker, how often its role had been blocked when it became idle: once more, and it is too.
        self._blocks: Counter[str] = Counter()
        self._blocks_seen = dict.fromkeys(self._role, 0)
        self._count: Counter[tuple[str, State]] = Counter({(role, "waiting"): len(n) for role, n in workers.items()})
        self._seconds: dict[tuple[str, str], float] = defaultdict(float)
        self._drained: dict[tuple[str, str], float] = defaultdict(float)
        self._since = dict.fromkeys(workers, clock())

    def add(self, worker: str, role: str) -> None:
        """Another worker of a role, which is `down` at first."""
        self._add_up(role)
        self._role[worker], self._at[worker] = role, "down"
        self._count[role, "down"] += 1

    def remove(self, worker: str) -> None:
        """The worker is no more."""
        self._add_up(role := self._role[worker])
        self._count[role, self._state(worker)] -= 1
        del self._role[worker]
        self._at.pop(worker, None)
        self._blocks_seen.pop(worker, None)

    def knows(self, worker: str) -> bool:
        """Whether the worker is one of those that are counted."""
        return worker in self._role

    def up(self) -> dict[str, int]:
        """How many workers of each role are not down."""
        return {
            role: sum(self._count[role, state] for state in get_args(State) if state != "down") for role in self._since
        }

    def busy(self, worker: str) -> None:
        """The worker has begun a job."""
        self._enter(worker, "busy")

    def waiting(self, worker: str) -> None:
        """The worker has no job, as there is no input for it."""
        self._enter(worker, "waiting")

    def down(self, worker: str) -> None:
        """The worker has no process, or one that is not up yet."""
        self._enter(worker, "down")

    def blocked(self, role: str) -> None:
        """All idle workers of the role are held back by the age or byte cap, until they are busy."""
        if not self._count[role, "waiting"]:
            return
        self._add_up(role)
        self._count[role, "blocked"] += self._count.pop((role, "waiting"))
        self._blocks[role] += 1

    def drain(self) -> dict[tuple[str, str], float]:
        """Seconds by (role, state) since the last call."""
        for role in self._since:
            self._add_up(role)
        drained, self._seconds = dict(self._seconds), defaultdict(float)
        for key, seconds in drained.items():
            self._drained[key] += seconds
        return drained

    def total(self) -> dict[tuple[str, str], float]:
        """Seconds by (role, state) since the beginning."""
        for role in self._since:
            self._add_up(role)
        keys = self._seconds.keys() | self._drained.keys()
        return {key: self._drained.get(key, 0.0) + self._seconds.get(key, 0.0) for key in keys}

    def _state(self, worker: str) -> State:
        if worker in self._at:
            return self._at[worker]
        return "waiting" if self._blocks_seen[worker] == self._blocks[self._role[worker]] else "blocked"

    def _enter(self, worker: str, state: State) -> None:
        role = self._role[worker]
        self._add_up(role)
        self._count[role, self._state(worker)] -= 1
        self._count[role, state] += 1
        if state in ("busy", "down"):
            self._at[worker] = state
        else:
            self._at.pop(worker, None)
            self._blocks_seen[worker] = self._blocks[role]

    def _add_up(self, role: str) -> None:
        now = self._clock()
        seconds, self._since[role] = now - self._since[role], now
        for state in get_args(State):
            if count := self._count[role, state]:
                self._seconds[role, state] += count * seconds

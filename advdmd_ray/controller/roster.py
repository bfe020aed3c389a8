"""The roster: which workers are up, and what becomes of one whose process ends.

A worker is a name; processes come and go under it. One that died, or is given up, is replaced at once, and work is
given to the next one when it is up, not before: there may be no room for it.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Shell, Task
from advdmd_ray.controller.pulse import Pulse
from advdmd_ray.controller.station_clock import StationClock
from advdmd_ray.controller.telemetry import LEARNER
from advdmd_ray.controller.under_way import Begin, Begun
from advdmd_ray.errors import WorkerLostError

logger = logging.getLogger(__name__)

LOSSES_IN_A_ROW = 5
"""A worker that was lost this often without finishing any work rests before it is tried again."""
REST_S = 300.0


class Station(Protocol):
    """Where the workers of one role get their work."""

    def came(self, worker: str) -> None:
        """A process is up under the name; it has no work."""
        ...

    def gone(self, worker: str) -> None:
        """The process under the name is over, with all that it had under way."""
        ...

    def free(self, task: Task) -> None:
        """A task is over, whatever came of it, and its process is there."""
        ...


class Roster:
    """Knows the workers of the elastic roles, all of which are up when the loops begin.

    Args:
        config: `ray.hang_s` and `ray.start_timeout_s`.
        shell: Starts processes, and asks them whether they live.
        stations: By role.
        clocks: Are told who is down.
        begin: The controller's.
        clock: Monotonic clock, seconds.
    """

    def __init__(
        self,
        config: Config,
        *,
        shell: Shell,
        stations: Mapping[str, Station],
        clocks: StationClock,
        begin: Begin,
        clock: Callable[[], float],
    ) -> None:
        self._config, self._shell, self._stations, self._clocks = config, shell, stations, clocks
        self._begin, self._clock = begin, clock
        workers = {"rollout": shell.rollout_workers, "reward": shell.reward_workers}
        self._roles = {name: role for role, names in workers.items() for name in names}
        self._terms: Counter[str] = Counter()  # how many processes of each name have ended
        self._losses: Counter[str] = Counter()
        self._coming: dict[str, float] = {}  # since when
        self._resting: dict[str, float] = {}  # until when
        self._pulse = Pulse(config.ray.hang_s, clock)
        for name in self._roles:
            self._pulse.heard(name)

    def term(self, worker: str) -> int:
        """Which process of a worker is the present one."""
        return self._terms[worker]

    def has(self, begun: Begun) -> bool:
        """Whether the process that a task was given to is still its worker's."""
        return begun.term == self._terms[begun.task.worker]

    def station(self, worker: str) -> Station:
        """That of the worker's role."""
        return self._stations[self._roles[worker]]

    def role(self, worker: str) -> str:
        """Of a worker."""
        return self._roles[worker]

    def worked(self, worker: str) -> None:
        """The present process has finished some work."""
        self._losses.pop(worker, None)
        self._pulse.heard(worker)

    def ended(self, worker: str) -> None:
        """The present process is over: it died, or is given up and will be killed. The next one is started.

        Raises:
            WorkerLostError: if none of its role can be kept alive, however often it is replaced.
        """
        self._terms[worker] += 1
        self._losses[worker] += 1
        self._coming.pop(worker, None)
        self._pulse.forget(worker)
        self._clocks.down(worker)
        self.station(worker).gone(worker)
        if self._losses[worker] % LOSSES_IN_A_ROW:
            self._bring(worker)
        else:
            self._rest(worker)

    def _rest(self, worker: str) -> None:
        lost = f"{worker} was lost {self._losses[worker]} times in a row without finishing any work"
        role = self._roles[worker]
        self._resting[worker] = self._clock() + REST_S
        if all(name in self._resting for name in self._roles if self._roles[name] == role):
            raise WorkerLostError(f"{lost}, and so was every {role} worker; see the memory of the nodes and Ray's logs")
        logger.warning("%s; the others go on, and it is tried again in %.0f s", lost, REST_S)

    def watch_learner(self, *, idle: bool) -> None:
        """Has an idle gang asked, too, so that a rank that dies is noticed before it gets work.

        While it works it cannot answer; and one that does not is not given up, as its work has a deadline.
        """
        if not idle:
            self._pulse.forget(LEARNER)
        elif not self._pulse.expects(LEARNER):
            self._pulse.heard(LEARNER)

    def turn(self) -> list[str]:
        """Starts those that have rested, tells of those that do not come, and asks those that were silent.

        Returns:
            The workers whose processes hang.
        """
        now, limit = self._clock(), self._config.ray.start_timeout_s
        for worker in [name for name, until in self._resting.items() if until <= now]:
            del self._resting[worker]
            self._bring(worker)
        for worker in [name for name, since in self._coming.items() if now - since >= limit]:
            self._coming[worker] = now
            logger.warning("%s is not up after %.0f s (no room?); the others go on", worker, limit)
        ask, hang = self._pulse.look()
        for worker in ask:
            self._begin(self._shell.ping(worker), self._answered, aside=True)
        return [worker for worker in hang if worker != LEARNER]

    def _answered(self, worker: str) -> None:
        if self._pulse.expects(worker):
            self._pulse.heard(worker)

    def _bring(self, worker: str) -> None:
        self._coming[worker] = self._clock()
        self._begin(self._shell.bring(worker), self._is_up)

    def _is_up(self, worker: str) -> None:
        del self._coming[worker]
        self._pulse.heard(worker)
        self.station(worker).came(worker)

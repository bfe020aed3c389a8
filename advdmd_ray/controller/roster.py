"""The roster: which workers are up, and what becomes of one whose process ends.

A worker is a name; processes come and go under it. One that died, or is given up, is replaced at once, and work is
given to the next one when it is up, not before: there may be no room for it.

Workers are added and removed while the run trains. A new one comes as a replacement does. One that is to leave gets no
more work, finishes what it has at hand, and is dismissed; its name is free for another.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Shell, Task
from advdmd_ray.controller.pulse import Pulse
from advdmd_ray.controller.staff import Staff, number_of, worker_name
from advdmd_ray.controller.telemetry import LEARNER, Telemetry
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

    def drain(self, worker: str) -> None:
        """No more work is given to the worker; what it has at hand goes on."""
        ...

    def keep(self, worker: str) -> None:
        """Work is given again to a worker that was to leave."""
        ...

    def has_work(self, worker: str) -> bool:
        """Whether the worker has anything at hand."""
        ...


class Roster:
    """Knows the workers of the elastic roles.

    Args:
        config: `ray.hang_s`, `learner.hang_s`, `ray.start_timeout_s` and `rollout.lease_s`.
        shell: Starts and ends processes, and asks them whether they live.
        stations: By role.
        telemetry: Is told who is there.
        begin: The controller's.
        clock: Monotonic clock, seconds.
    """

    def __init__(
        self,
        config: Config,
        *,
        shell: Shell,
        stations: Mapping[str, Station],
        telemetry: Telemetry,
        begin: Begin,
        clock: Callable[[], float],
    ) -> None:
        self._config, self._shell, self._stations, self._telemetry = config, shell, stations, telemetry
        self._begin, self._clock = begin, clock
        workers = {"rollout": shell.rollout_workers, "reward": shell.reward_workers}
        self._roles = {name: role for role, names in workers.items() for name in names}  # of all that ever were
        self._present = set(self._roles)
        self._asked = Counter(self._roles.values())
        self._terms: Counter[str] = Counter()  # how many processes of each name have ended
        self._losses: Counter[str] = Counter()
        self._coming: dict[str, float] = {}  # since when
        self._resting: dict[str, float] = {}  # until when
        self._leaving: dict[str, float] = {}  # until when
        self._pulse = Pulse(config.ray.hang_s, clock)
        hang_s = config.learner.hang_s
        self._gang = Pulse(hang_s, clock, min(config.ray.hang_s, hang_s) / 2)
        self._gang.heard(LEARNER)
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
        """Of a worker, be it present or not."""
        return self._roles[worker]

    def staff(self, role: str) -> Staff:
        """How many workers of a role there are."""
        away = sum(self._roles[worker] == role for worker in (*self._coming, *self._resting))
        leaving = sum(self._roles[worker] == role for worker in self._leaving)
        return Staff(self._asked[role], self._asked[role] - away, away, leaving)

    def begin(self) -> None:
        """The loops start: takes in the workers that are not up yet."""
        for task in self._shell.coming():
            self._pulse.forget(task.worker)
            self._telemetry.stations.down(task.worker)
            self.station(task.worker).gone(task.worker)
            self._await(task)

    def worked(self, worker: str) -> None:
        """The present process has finished some work."""
        self._losses.pop(worker, None)
        self._pulse.heard(worker)

    # More and fewer -------------------------------------------------------------------------------------------------

    def resize(self, role: str, count: int) -> None:
        """Has so many workers of a role.

        Of too few, those are kept that were to leave, then new ones come, the lowest free numbers first. Of too many,
        those leave first that are not up, then the highest numbers.

        Args:
            role: Of them.
            count: 1 or more.
        """
        change, self._asked[role] = count - self._asked[role], count
        for _ in range(change):
            self._add_one(role)
        if change < 0:
            staying = [name for name in self._present - self._leaving.keys() if self._roles[name] == role]
            staying.sort(key=lambda name: (name in self._coming or name in self._resting, number_of(name)))
            for worker in staying[count:]:
                self._let_go(worker)

    def _add_one(self, role: str) -> None:
        leaving = [name for name in self._leaving if self._roles[name] == role]
        if leaving:
            kept = min(leaving, key=number_of)
            del self._leaving[kept]
            self.station(kept).keep(kept)
            return
        names = (worker_name(role, number) for number in range(len(self._present) + 1))
        worker = next(name for name in names if name not in self._present)
        self._roles[worker] = role
        self._present.add(worker)
        self._telemetry.joined(role, worker)
        self._bring(worker)

    def _let_go(self, worker: str) -> None:
        if worker in self._coming or worker in self._resting:
            self._dismiss(worker)
            return
        self._leaving[worker] = self._clock() + self._config.rollout.lease_s
        self.station(worker).drain(worker)

    def _dismiss(self, worker: str) -> None:
        """Ends the process of a worker, and frees its name."""
        self._is_over(worker)
        self._losses.pop(worker, None)
        self._resting.pop(worker, None)
        self._leaving.pop(worker, None)
        self._present.remove(worker)
        self._telemetry.left(worker)
        self._shell.dismiss(worker)

    # Losses ---------------------------------------------------------------------------------------------------------

    def ended(self, worker: str) -> None:
        """The present process is over: it died, or is given up and will be killed. The next one is started.

        Raises:
            WorkerLostError: if none of its role can be kept alive, however often it is replaced.
        """
        if worker in self._leaving:
            self._dismiss(worker)
            return
        self._is_over(worker)
        self._losses[worker] += 1
        if self._losses[worker] % LOSSES_IN_A_ROW:
            self._bring(worker)
        else:
            self._rest(worker)

    def _is_over(self, worker: str) -> None:
        """The present process will not be heard of any more."""
        self._terms[worker] += 1
        self._coming.pop(worker, None)
        self._pulse.forget(worker)
        self._telemetry.stations.down(worker)
        self.station(worker).gone(worker)

    def _rest(self, worker: str) -> None:
        lost = f"{worker} was lost {self._losses[worker]} times in a row without finishing any work"
        role = self._roles[worker]
        self._resting[worker] = self._clock() + REST_S
        if sum(self._roles[name] == role for name in self._resting) == self._asked[role]:
            raise WorkerLostError(f"{lost}, and so was every {role} worker; see the memory of the nodes and Ray's logs")
        logger.warning("%s; the others go on, and it is tried again in %.0f s", lost, REST_S)

    def learner_hangs(self) -> str | None:
        """Asks the gang, idle or at work; says so if a rank is silent for `learner.hang_s`."""
        ask, hang = self._gang.look()
        for worker in ask:
            self._begin(self._shell.ping(worker), self._answered, aside=True)
        return f"a learner rank has not answered for {self._config.learner.hang_s:g} s" if hang else None

    def turn(self) -> list[tuple[str, str]]:
        """Dismisses who is done, starts who has rested and, once more, who does not come, and asks the silent.

        Returns:
            The workers that are to be given up, and why.
        """
        now, limit = self._clock(), self._config.ray.start_timeout_s
        for worker in [name for name in self._leaving if not self.station(name).has_work(name)]:
            self._dismiss(worker)
        for worker in [name for name, until in self._resting.items() if until <= now]:
            del self._resting[worker]
            self._bring(worker)
        for worker in [name for name, since in self._coming.items() if now - since >= limit]:
            logger.warning("%s is not up after %.0f s (no room?) and is started anew; the others go on", worker, limit)
            self._is_over(worker)  # without a loss: it may wait for room, or hang
            self._bring(worker)
        ask, hang = self._pulse.look()
        for worker in ask:
            self._begin(self._shell.ping(worker), self._answered, aside=True)
        silent = f"has not answered for {self._config.ray.hang_s:g} s and is replaced"
        late = f"was to leave and is not done after {self._config.rollout.lease_s:g} s"
        given_up = {worker: late for worker, until in self._leaving.items() if until <= now}
        given_up |= dict.fromkeys(hang, silent)
        return [(worker, f"{worker} {why}") for worker, why in given_up.items()]

    def _answered(self, worker: str) -> None:
        pulse = self._gang if worker == LEARNER else self._pulse
        if pulse.expects(worker):
            pulse.heard(worker)

    def _bring(self, worker: str) -> None:
        self._await(self._shell.bring(worker))

    def _await(self, task: Task) -> None:
        self._coming[task.worker] = self._clock()
        self._begin(task, partial(self._is_up, term=self._terms[task.worker]))

    def _is_up(self, worker: str, term: int) -> None:
        if term != self._terms[worker]:
            return  # it was dismissed at the same time
        del self._coming[worker]
        self._pulse.heard(worker)
        self.station(worker).came(worker)

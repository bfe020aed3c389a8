"""The rollout station: gives leases to actors whose networks are free, and takes in the groups that they hand over.

An actor has up to `rollout.leases` groups at hand: one that its network generates, and others that it brings to host
memory and into the object store. It is ready for a lease when its network has no work, not before. So the lease names
the newest student, its time begins with its work, and no group waits or ages behind another of its actor.
"""

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol

from advdmd_ray.config import Config
from advdmd_ray.controller.frontier import PromptFrontier, lease_limit
from advdmd_ray.controller.protocols import Reference, Shell, Task
from advdmd_ray.controller.telemetry import Telemetry
from advdmd_ray.errors import WorkerLostError
from advdmd_ray.stations.buffer.index import BufferIndex
from advdmd_ray.stations.records import Lease, WorkReport
from advdmd_ray.stations.weights.store import WeightStore

Lost = Callable[[Literal["rollout", "reward"], Task, WorkerLostError, Lease], None]


class Begin(Protocol):
    """How the controller takes a task of a lease in: what to do with its outcome, and when its worker is lost."""

    def __call__(  # noqa: D102
        self,
        task: Task,
        done: Callable[[Any], None],
        lost: Callable[[Task, WorkerLostError], None],
        *,
        lease: Lease | None,
    ) -> None: ...


class RolloutStation:
    """Knows which actors are ready, and what each has at hand.

    Args:
        config: The run's.
        frontier: Gives the leases.
        buffer: Says whether it has room for one more group.
        store: Has the newest student.
        shell: Does the work.
        telemetry: Is told of it.
        begin: The controller's.
        verify: Checks the weights that an actor says it loaded.
        lost: Has the group of a lease made again whose worker is lost.
        made: Takes a group whose bytes are in the object store.
        not_finite: Takes one whose values are not finite: lease, fault, worker and bytes.
        group_bytes: Size of a scored group.
        clock: Monotonic clock, seconds.
    """

    def __init__(
        self,
        config: Config,
        *,
        frontier: PromptFrontier,
        buffer: BufferIndex[Reference],
        store: WeightStore[Reference],
        shell: Shell,
        telemetry: Telemetry,
        begin: Begin,
        verify: Callable[[WorkReport], None],
        lost: Lost,
        made: Callable[[Lease, Reference], None],
        not_finite: Callable[[Lease, str, str, Reference], None],
        group_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._config, self._frontier, self._buffer, self._store = config, frontier, buffer, store
        self._shell, self._telemetry, self._begin = shell, telemetry, begin
        self._verify, self._lost, self._made, self._not_finite = verify, lost, made, not_finite
        self._group_bytes, self._clock = group_bytes, clock
        self._ready = deque(shell.rollout_workers)
        self._generating: set[str] = set()
        self._handing_over: Counter[str] = Counter()

    def start(self, version: int) -> None:
        """Gives a lease to each actor that is ready, as long as there are any.

        Args:
            version: The learner's.
        """
        if not self._ready:
            return
        student = self._store.latest("student")
        while self._ready:
            worker, began = self._ready[0], self._clock()
            lease = self._frontier.lease(began, worker, version, self._limit(version))
            if lease is None:
                self._telemetry.stations.blocked("rollout")
                return
            self._generating.add(self._ready.popleft())
            self._telemetry.stations.busy(worker)
            task = self._shell.generate(worker, lease, student)
            self._begin(
                task, partial(self._generated, task, lease), partial(self._generation_lost, lease=lease), lease=lease
            )
            self._telemetry.leased()

    def _limit(self, version: int) -> int:
        """First new ordinal that may not be leased now: by the age cap, by the end of the run, by the byte cap."""
        if not self._buffer.room(self._group_bytes, self._frontier.reserved):
            return self._frontier.next_ordinal
        per_cycle = self._config.rollout.groups_per_cycle
        limit = lease_limit(version, per_cycle, self._config.rollout.max_policy_age)
        return min(limit, self._config.run.cycles * per_cycle)

    def _generated(self, task: Task, lease: Lease, reports: tuple[WorkReport, WorkReport | None]) -> None:
        generated, handed_over = reports
        self._verify(generated)
        self._telemetry.generated(generated, self._config.group_size_of(lease.ordinal))
        if handed_over is not None:
            self._take_in(task, lease, handed_over, handed_over.seconds)
        else:
            self._handing_over[task.worker] += 1
            handing = self._shell.hand_over(task, lease)
            self._begin(
                handing,
                partial(self._handed_over, handing, lease, self._clock()),
                partial(self._hand_over_lost, lease=lease),
                lease=lease,
            )
        self._network_is_free(task.worker)

    def _handed_over(self, task: Task, lease: Lease, began: float, report: WorkReport) -> None:
        self._hands_are_free(task.worker)
        # Not those of the report: an object store takes most of them after it was made.
        self._take_in(task, lease, report, self._clock() - began)

    def _take_in(self, task: Task, lease: Lease, report: WorkReport, seconds: float) -> None:
        """The group is out of the actor's hands: its death would not lose it any more."""
        self._telemetry.handed_over(report, seconds)
        if report.fault:
            self._not_finite(lease, report.fault, task.worker, task.payload)
            return
        self._frontier.made(lease, self._clock())
        self._made(lease, task.payload)

    def _generation_lost(self, task: Task, error: WorkerLostError, *, lease: Lease) -> None:
        self._network_is_free(task.worker)
        self._lost("rollout", task, error, lease)

    def _hand_over_lost(self, task: Task, error: WorkerLostError, *, lease: Lease) -> None:
        self._hands_are_free(task.worker)
        self._lost("rollout", task, error, lease)

    def _network_is_free(self, worker: str) -> None:
        self._generating.remove(worker)
        if self._handing_over[worker] < self._config.rollout.leases:
            self._is_ready(worker)

    def _hands_are_free(self, worker: str) -> None:
        full = self._handing_over[worker] == self._config.rollout.leases
        self._handing_over[worker] -= 1
        if full and worker not in self._generating:
            self._is_ready(worker)

    def _is_ready(self, worker: str) -> None:
        self._ready.append(worker)
        self._telemetry.stations.waiting(worker)

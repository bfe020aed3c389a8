"""The rollout station: gives leases to actors whose networks are free, and takes in the groups that they hand over.

An actor has up to `rollout.leases` groups at hand: one that its network generates, and others that it brings to host
memory and into the object store. It is ready for a lease when its network has no work, not before. So the lease names
the newest student, its time begins with its work, and no group waits or ages behind another of its actor.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial

from advdmd_ray.config import Config
from advdmd_ray.controller.frontier import PromptFrontier, lease_limit
from advdmd_ray.controller.protocols import Reference, Shell, Task
from advdmd_ray.controller.telemetry import Telemetry
from advdmd_ray.controller.under_way import Begin
from advdmd_ray.stations.buffer.index import BufferIndex
from advdmd_ray.stations.records import Lease, WorkReport
from advdmd_ray.stations.weights.store import WeightStore


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
        made: Callable[[Lease, Reference], None],
        not_finite: Callable[[Lease, str, str, Reference], None],
        group_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._config, self._frontier, self._buffer, self._store = config, frontier, buffer, store
        self._shell, self._telemetry, self._begin = shell, telemetry, begin
        self._verify, self._made, self._not_finite = verify, made, not_finite
        self._group_bytes, self._clock = group_bytes, clock
        self._ready = deque(shell.rollout_workers)
        self._generating: dict[str, Task] = {}
        self._handing_over: dict[str, set[Task]] = defaultdict(set)
        self._leaving: set[str] = set()

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
            self._ready.popleft()
            self._telemetry.stations.busy(worker)
            task = self._generating[worker] = self._shell.generate(worker, lease, student)
            self._begin(task, partial(self._generated, task, lease), lease=lease, kind="generate")
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
        elif self._generating.get(task.worker) is task:
            handing = self._shell.hand_over(task, lease)
            self._handing_over[task.worker].add(handing)
            done = partial(self._handed_over, handing, lease, self._clock())
            self._begin(handing, done, lease=lease, kind="hand_over")
        # Else its process was given up meanwhile, and has the group.
        self.free(task)

    def _handed_over(self, task: Task, lease: Lease, began: float, report: WorkReport) -> None:
        self.free(task)
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

    def came(self, worker: str) -> None:
        """See `roster.Station`."""
        self._is_ready(worker)

    def gone(self, worker: str) -> None:
        """See `roster.Station`."""
        self._generating.pop(worker, None)
        self._handing_over.pop(worker, None)
        self._leaving.discard(worker)
        if worker in self._ready:
            self._ready.remove(worker)

    def drain(self, worker: str) -> None:
        """See `roster.Station`."""
        self._leaving.add(worker)
        if worker in self._ready:
            self._ready.remove(worker)

    def keep(self, worker: str) -> None:
        """See `roster.Station`."""
        self._leaving.remove(worker)
        if worker not in self._generating and len(self._handing_over[worker]) < self._config.rollout.leases:
            self._is_ready(worker)

    def has_work(self, worker: str) -> bool:
        """See `roster.Station`."""
        return worker in self._generating or bool(self._handing_over.get(worker))

    def free(self, task: Task) -> None:
        """See `roster.Station`: the network has no work any more, or there is a hand more."""
        worker, most = task.worker, self._config.rollout.leases
        handing_over = self._handing_over[worker]
        if self._generating.get(worker) is task:
            del self._generating[worker]
            if len(handing_over) < most:
                self._is_ready(worker)
        elif task in handing_over:
            full = len(handing_over) == most
            handing_over.remove(task)
            if full and worker not in self._generating:
                self._is_ready(worker)

    def _is_ready(self, worker: str) -> None:
        self._telemetry.stations.waiting(worker)
        if worker not in self._leaving:
            self._ready.append(worker)

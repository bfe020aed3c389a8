"""The reward station: gives the oldest unscored group to an idle worker, and commits what it says of it."""

from collections import deque
from collections.abc import Callable
from functools import partial

from advdmd_ray.controller.deadlines import Deadlines
from advdmd_ray.controller.frontier import PromptFrontier
from advdmd_ray.controller.protocols import Reference, Shell, Task
from advdmd_ray.controller.quarantine import Quarantine
from advdmd_ray.controller.telemetry import Telemetry
from advdmd_ray.controller.under_way import Begin
from advdmd_ray.controller.verification import check_group
from advdmd_ray.stations.buffer.index import BufferIndex, CommitResult
from advdmd_ray.stations.records import GroupInfo, Lease, WorkReport
from advdmd_ray.stations.weights.store import WeightStore


class RewardStation:
    """Knows which workers are idle, and which groups wait for one.

    Args:
        frontier: Knows whether a group is wanted.
        buffer: Where scored groups are committed; the first commit of an ordinal wins.
        store: Has the newest discriminator.
        shell: Does the work.
        telemetry: Is told of it.
        deadlines: Are told of commits.
        quarantine: Takes groups whose scores are not finite.
        begin: The controller's.
        verify: Checks the weights that a worker says it loaded.
        clock: Monotonic clock, seconds.
    """

    def __init__(
        self,
        *,
        frontier: PromptFrontier,
        buffer: BufferIndex[Reference],
        store: WeightStore[Reference],
        shell: Shell,
        telemetry: Telemetry,
        deadlines: Deadlines,
        quarantine: Quarantine,
        begin: Begin,
        verify: Callable[[WorkReport], None],
        clock: Callable[[], float],
    ) -> None:
        self._frontier, self._buffer, self._store, self._shell = frontier, buffer, store, shell
        self._quarantine = quarantine
        self._telemetry, self._deadlines = telemetry, deadlines
        self._begin, self._verify, self._clock = begin, verify, clock
        self._unscored: deque[tuple[Lease, Reference]] = deque()
        self._idle = deque(shell.reward_workers)
        self._scoring: dict[str, Task] = {}
        self._leaving: set[str] = set()

    def unscored(self) -> int:
        """Groups that wait for a worker."""
        return len(self._unscored)

    def take(self, lease: Lease, group: Reference) -> None:
        """A group is to be scored; its bytes are in the object store."""
        self._unscored.append((lease, group))

    def start(self) -> None:
        """Gives groups to idle workers, as long as there are both."""
        if not (self._idle and self._unscored):
            return
        discriminator = self._store.latest("discriminator")
        while self._idle and self._unscored:
            lease, group = self._unscored.popleft()
            worker = self._idle[0]
            if not self._frontier.renew(lease, self._clock(), worker):
                continue  # another attempt was faster
            self._idle.popleft()
            self._telemetry.stations.busy(worker)
            task = self._scoring[worker] = self._shell.score(worker, group, discriminator)
            done = partial(self._scored, task, lease, discriminator.manifest.version)
            self._begin(task, done, lease=lease, kind="score")

    def came(self, worker: str) -> None:
        """See `roster.Station`."""
        self._telemetry.stations.waiting(worker)
        if worker not in self._leaving:
            self._idle.append(worker)

    def gone(self, worker: str) -> None:
        """See `roster.Station`."""
        self._leaving.discard(worker)
        if self._scoring.pop(worker, None) is None and worker in self._idle:
            self._idle.remove(worker)

    def drain(self, worker: str) -> None:
        """See `roster.Station`."""
        self._leaving.add(worker)
        if worker in self._idle:
            self._idle.remove(worker)

    def keep(self, worker: str) -> None:
        """See `roster.Station`."""
        self._leaving.remove(worker)
        if worker not in self._scoring:
            self.came(worker)

    def has_work(self, worker: str) -> bool:
        """See `roster.Station`."""
        return worker in self._scoring

    def free(self, task: Task) -> None:
        """See `roster.Station`."""
        if self._scoring.get(task.worker) is task:
            del self._scoring[task.worker]
            self.came(task.worker)

    def _scored(self, task: Task, lease: Lease, version: int, outcome: tuple[WorkReport, GroupInfo]) -> None:
        report, info = outcome
        self._verify(report)
        self.free(task)
        if report.fault:
            self._quarantine.not_finite(lease, report.fault, task.worker, task.payload)
            return
        check_group(info, lease, version, task.worker)
        result = self._buffer.commit(info, task.payload)
        if result is CommitResult.ACCEPTED:
            self._frontier.complete(info.ordinal)
            self._quarantine.committed(info.ordinal)
            self._deadlines.committed()
        self._telemetry.scored(report, result)

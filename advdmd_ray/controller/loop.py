"""The controller: the loops of a run, over protocols. It moves ids and references, never a tensor.

    leases --> rollout actor --> reward worker --> buffer --> learner gang --> weight store --> (back to both workers)

One thread, one event loop, four stations:

* **Rollout** (`rollout_station.py`). An actor whose network is free gets a lease: the lowest ordinal that must be
  issued again, else the next new one below `lease_limit` (it can still be consumed within the age cap) if the buffer
  has room for it. The lease names the newest student version; the actor loads it first if it has another. Produces one
  group, which the actor hands over while its network has the next. Unblocked by: a published version, a settled cycle.
* **Reward.** An idle worker gets the oldest unscored group and the newest discriminator. Produces one scored record
  batch, which is committed; the first commit of an ordinal wins. Unblocked by: a generated group.
* **Learner** (`learner_station.py`). The idle gang takes the next `groups_per_cycle` groups in ordinal order, all or
  none, and fetches their bytes; if a node took some of them with it, those are issued again and the take is undone. It
  trains one cycle and returns new weights, which are published as the next version. Then the groups are settled.
  Checkpoints, sample grids and judgements are made between cycles. Unblocked by: a commit.
* **Time.** Overdue leases and leases of dead workers are issued again with the same seeds. Every wait has a deadline
  and says what it waits for.

The same loop runs on Ray and in one process: a `Shell` starts tasks and says which are done.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from advdmd_ray.config import Config
from advdmd_ray.controller.deadlines import Deadlines
from advdmd_ray.controller.frontier import PromptFrontier
from advdmd_ray.controller.guard import Guard
from advdmd_ray.controller.learner_station import LearnerStation
from advdmd_ray.controller.protocols import Hub, Reference, Shell, Status, Task
from advdmd_ray.controller.quarantine import Folder, Quarantine
from advdmd_ray.controller.rollout_station import RolloutStation
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.controller.telemetry import LEARNER, Telemetry
from advdmd_ray.controller.under_way import Begun, UnderWay
from advdmd_ray.controller.watch import Watch
from advdmd_ray.errors import BytesLostError, CheckpointError, DeadlineError, WeightsMismatchError, WorkerLostError
from advdmd_ray.stations.buffer.index import BufferIndex, CommitResult
from advdmd_ray.stations.records import GroupInfo, Lease, WorkReport
from advdmd_ray.stations.weights.store import WeightStore

logger = logging.getLogger(__name__)


REFRESH_S = 0.2
"""Seconds between two statuses for the display."""
SAVES, SAVE_PAUSE_S = 7, 10.0
"""How often the last checkpoint is tried, and the seconds between: a minute in which somebody may make room."""


class Controller:
    """Runs the loops until the cycles are done, the time is up, or something fails loudly."""

    def __init__(
        self,
        config: Config,
        *,
        frontier: PromptFrontier,
        buffer: BufferIndex[Reference],
        store: WeightStore[Reference],
        hub: Hub,
        shell: Shell,
        group_bytes: int,
        watch: Watch | None = None,
        quarantine: Folder | None = None,
        version: int = 0,
        updates: Mapping[str, int] | None = None,
        counted: Mapping[str, float] | None = None,
        display: Callable[[Status], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        start: StartClock | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config = config
        self._frontier, self._buffer, self._store, self._shell = frontier, buffer, store, shell
        self._display, self._clock, self._deadlines = display, clock, Deadlines(config, clock)
        self._sleep = sleep
        self._under_way = UnderWay(frontier.wants)
        self._unscored: deque[tuple[Lease, Reference]] = deque()
        self._idle_reward = deque(shell.reward_workers)
        self._died: dict[str, Any] = {}  # the last process of each worker that did
        self._shown = -math.inf
        self._telemetry = Telemetry(
            config,
            hub,
            {"rollout": shell.rollout_workers, "reward": shell.reward_workers, LEARNER: (LEARNER,)},
            version=version,
            updates=updates or {},
            counted=counted,
            clock=clock,
            start=StartClock(clock) if start is None else start,
        )
        self._stations = self._telemetry.stations
        watch = Watch(config, Guard(config.guard), ()) if watch is None else watch
        self._quarantine = Quarantine(
            config.quarantine,
            frontier=frontier,
            batches=shell.batches,
            folder=quarantine,
            telemetry=self._telemetry,
            watch=watch,
        )
        self._rollout = RolloutStation(
            config,
            frontier=frontier,
            buffer=buffer,
            store=store,
            shell=shell,
            telemetry=self._telemetry,
            begin=self._begin,
            verify=self._verify,
            lost=self._lost,
            made=self._made,
            not_finite=self._quarantine.not_finite,
            group_bytes=group_bytes,
            clock=clock,
        )
        self._learner = LearnerStation(
            config,
            frontier=frontier,
            buffer=buffer,
            store=store,
            shell=shell,
            telemetry=self._telemetry,
            deadlines=self._deadlines,
            begin=partial(self._begin, lease=None),
            watch=watch,
            stopping=stopping,
            version=version,
        )

    @property
    def version(self) -> int:
        """Of the newest weights; equals the cycles done."""
        return self._learner.version

    def run(self) -> int:
        """Runs to the end and returns the last version; the last thing it does is a checkpoint.

        Asked to stop, it waits for what the learner is at, saves that, and begins nothing else.

        Raises:
            DeadlineError: if the idle learner got no group for `buffer.take_timeout_s`, its work takes longer than
                `learner.cycle_timeout_s`, or nothing can ever move again.
            WeightsMismatchError: if a worker loaded other bytes than were published.
            DivergedError: if a loss, gradient norm or reward spread left the range of its past for good, or too many
                groups are not finite.
            WorkerLostError: if the learner died, or groups are lost with their nodes over and over.
            CheckpointError: if the last checkpoint cannot be written for a minute.
        """
        try:
            return self._run()
        finally:  # whatever ended it, Ctrl-C too: what was measured until then is kept
            self._telemetry.send()

    def _run(self) -> int:
        self._learner.publish_first()
        self._deadlines.learner(busy=False)
        self._telemetry.begin()
        while True:
            self._learner.start()
            if self._learner.finished and not self._deadlines.learner_busy:
                break
            if not self._learner.finished:
                self._start_scoring()
                self._rollout.start(self._learner.version)
            self._collect()
            self._expire()
            self._show()
        # What is still under way belongs to cycles that will not come; a resumed run makes it again.
        self._save()
        self._learner.measure()
        self._show(at_once=True)
        return self._learner.version

    def _save(self) -> None:
        """Writes the last checkpoint; a disk that refuses it is asked again for a while."""
        for tried in range(SAVES):
            if tried:
                self._sleep(SAVE_PAUSE_S)
            self._learner.save()
            while self._deadlines.learner_busy:
                self._collect()
            if self._learner.saved:
                return
        raise CheckpointError(
            f"cycle {self._learner.version} could not be saved, {SAVES} times in {(SAVES - 1) * SAVE_PAUSE_S:.0f} s: "
            f"{self._learner.refused}"
        )

    # Reward station -------------------------------------------------------------------------------------------------

    def _made(self, lease: Lease, group: Reference) -> None:
        self._unscored.append((lease, group))

    def _start_scoring(self) -> None:
        if not (self._idle_reward and self._unscored):
            return
        discriminator = self._store.latest("discriminator")
        while self._idle_reward and self._unscored:
            lease, group = self._unscored.popleft()
            worker, began = self._idle_reward[0], self._clock()
            if not self._frontier.renew(lease, began, worker):
                continue  # another attempt was faster
            self._idle_reward.popleft()
            self._stations.busy(worker)
            task = self._shell.score(worker, group, discriminator)
            self._begin(task, partial(self._scored, task, lease), partial(self._reward_lost, lease=lease), lease=lease)

    def _scored(self, task: Task, lease: Lease, outcome: tuple[WorkReport, GroupInfo]) -> None:
        report, info = outcome
        self._verify(report)
        self._stations.waiting(task.worker)
        self._idle_reward.append(task.worker)
        if report.fault:
            self._quarantine.not_finite(lease, report.fault, task.worker, task.payload)
            return
        result = self._buffer.commit(info, task.payload)
        if result is CommitResult.ACCEPTED:
            self._frontier.complete(info.ordinal)
            self._quarantine.committed(info.ordinal)
            self._deadlines.committed()
        self._telemetry.scored(report, result)

    def _reward_lost(self, task: Task, error: WorkerLostError, *, lease: Lease) -> None:
        self._stations.waiting(task.worker)
        self._idle_reward.append(task.worker)
        self._lost("reward", task, error, lease)

    def _lost(self, role: Literal["rollout", "reward"], task: Task, error: WorkerLostError, lease: Lease) -> None:
        """Has the group of a lease made again whose worker died or whose bytes are gone."""
        again = self._frontier.lost(lease)
        logger.warning("%s; ordinal %d %s", error, lease.ordinal, "is issued again" if again else "is with others")
        # Every task of a dead process says so.
        died = not isinstance(error, BytesLostError) and self._died.get(task.worker) is not task.process
        if died:
            self._died[task.worker] = task.process
        self._telemetry.lost(role, int(again), died=died)
        if not isinstance(error, BytesLostError):
            self._quarantine.ended(lease, task.worker, task.process)

    # The event loop -------------------------------------------------------------------------------------------------

    def _begin(
        self,
        task: Task,
        done: Callable[[Any], None],
        lost: Callable[[Task, WorkerLostError], None],
        *,
        lease: Lease | None,
    ) -> None:
        self._under_way.add(Begun(task, done, lost, lease, self._clock()))

    def _collect(self) -> None:
        if not self._under_way:
            version = self._learner.version
            raise DeadlineError(
                f"nothing is under way and nothing can begin after version {version}: the buffer holds "
                f"{self._buffer.stats().groups} groups, the next ordinal is {self._frontier.next_ordinal}"
            )
        for task in self._shell.wait(timeout_s=0.5):
            begun = self._under_way.over(task)
            try:
                outcome = self._shell.outcome(task)
            except WorkerLostError as error:
                begun.lost(task, error)
                continue
            except WeightsMismatchError:
                self._telemetry.mismatched("student" if task.worker in self._shell.rollout_workers else "discriminator")
                raise
            begun.done(outcome)
        self._telemetry.tick(self._buffer.stats, lambda: self._frontier.leased)
        self._deadlines.check(self._waiting_for)

    def _waiting_for(self) -> str:
        if self._deadlines.learner_busy:
            return f"the learner's work after version {self._learner.version}"
        # The first in order: the learner takes it first.
        begun = self._under_way.first()
        if begun is None or begun.lease is None:
            return "the next lease"
        attempt = f" (attempt {begun.lease.attempt + 1})" if begun.lease.attempt else ""
        return f"ordinal {begun.lease.ordinal}{attempt} at {begun.task.worker} for {self._clock() - begun.at:.0f} s"

    def _show(self, *, at_once: bool = False) -> None:
        """Shows the status now and then: it is made only to be read."""
        now = self._clock()
        if at_once or now - self._shown >= REFRESH_S:
            self._shown = now
            self._display(self._telemetry.status(self._waiting_for()))

    def _expire(self) -> None:
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

    # Weights -------------------------------------------------------------------------------------------------------

    def _verify(self, report: WorkReport) -> None:
        """Checks the weights a worker says it loaded; a mismatch ends the run."""
        if report.load is None:
            return
        try:
            self._store.verify(report.load)
        except WeightsMismatchError:
            self._telemetry.mismatched(report.load.stream)
            raise
        self._telemetry.verified(report.load)

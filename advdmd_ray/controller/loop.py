"""The controller: the loops of a run, over protocols. It moves ids and references, never a tensor.

    leases --> rollout actor --> reward worker --> buffer --> learner gang --> weight store --> (back to both workers)

One thread, one event loop, four stations:

* **Rollout.** An idle actor gets a lease: the lowest ordinal that must be issued again, else the next new one below
  `lease_limit` (it can still be consumed within the age cap) if the buffer has room for it. The lease names the
  newest student version; the actor loads it first if it has another. Produces one group. Unblocked by: a published
  version, a settled cycle.
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
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from advdmd_ray.config import Config
from advdmd_ray.controller.deadlines import Deadlines
from advdmd_ray.controller.frontier import PromptFrontier, lease_limit
from advdmd_ray.controller.learner_station import LearnerStation
from advdmd_ray.controller.protocols import Hub, Reference, Shell, Status, Task
from advdmd_ray.controller.telemetry import LEARNER, Telemetry
from advdmd_ray.errors import BytesLostError, DeadlineError, WeightsMismatchError, WorkerLostError
from advdmd_ray.stations.buffer.index import BufferIndex, CommitResult
from advdmd_ray.stations.records import GroupInfo, Lease, WorkReport
from advdmd_ray.stations.weights.store import WeightStore

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _State:
    """What the loops share; owned by one thread."""

    tasks: dict[Task, Callable[[Any], None]] = field(default_factory=dict)
    failed: dict[Task, Callable[[WorkerLostError], None]] = field(default_factory=dict)
    groups: dict[Task, tuple[Lease, float]] = field(default_factory=dict)  # what a worker makes or scores, since when
    unscored: deque[tuple[Lease, Reference]] = field(default_factory=deque)
    idle_rollout: list[str] = field(default_factory=list)
    idle_reward: list[str] = field(default_factory=list)


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
        version: int = 0,
        updates: Mapping[str, int] | None = None,
        display: Callable[[Status], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._frontier, self._buffer, self._store, self._shell = frontier, buffer, store, shell
        self._group_bytes = group_bytes
        self._display, self._clock, self._deadlines = display, clock, Deadlines(config, clock)
        self._state = _State(idle_rollout=list(shell.rollout_workers), idle_reward=list(shell.reward_workers))
        self._telemetry = Telemetry(
            config,
            hub,
            {"rollout": shell.rollout_workers, "reward": shell.reward_workers, LEARNER: (LEARNER,)},
            version=version,
            updates=updates or {},
            clock=clock,
        )
        self._stations = self._telemetry.stations
        self._learner = LearnerStation(
            config,
            frontier=frontier,
            buffer=buffer,
            store=store,
            shell=shell,
            telemetry=self._telemetry,
            deadlines=self._deadlines,
            begin=self._begin,
            version=version,
        )

    def run(self) -> int:
        """Runs to the end and returns the last version; the last thing it does is a checkpoint.

        Raises:
            DeadlineError: if the idle learner got no group for `buffer.take_timeout_s`, its work takes longer than
                `learner.cycle_timeout_s`, or nothing can ever move again.
            WeightsMismatchError: if a worker loaded other bytes than were published.
            WorkerLostError: if the learner died, or groups are lost with their nodes over and over.
        """
        self._learner.publish_first()
        self._deadlines.learner(busy=False)
        self._telemetry.begin()
        while True:
            self._learner.start()
            if self._learner.finished and not self._deadlines.learner_busy:
                break
            self._start_scoring()
            self._start_rollouts()
            self._collect()
            self._expire()
            self._display(self._telemetry.status(self._waiting_for()))
        # What is still under way belongs to cycles that will not come; a resumed run makes it again.
        self._learner.save()
        while self._deadlines.learner_busy:
            self._collect()
        self._learner.measure()
        return self._learner.version

    # Rollout station ------------------------------------------------------------------------------------------------

    def _start_rollouts(self) -> None:
        if not self._state.idle_rollout:
            return
        student = self._store.latest("student")
        while self._state.idle_rollout:
            limit = self._lease_limit()
            worker = self._state.idle_rollout[0]
            lease = self._frontier.lease(self._clock(), worker, self._learner.version, limit)
            if lease is None:
                for idle in self._state.idle_rollout:
                    self._stations.idle(idle, "blocked")
                return
            self._state.idle_rollout.pop(0)
            self._stations.busy(worker)
            began = self._clock()
            task = self._shell.generate(worker, lease, student)
            self._state.groups[task] = (lease, began)
            self._begin(
                task, lambda report, task=task, lease=lease: self._generated(task, lease, report), self._rollout_lost
            )
            self._telemetry.leased()

    def _lease_limit(self) -> int:
        """First new ordinal that may not be leased now: by the age cap, by the end of the run, by the byte cap."""
        per_cycle = self._config.rollout.groups_per_cycle
        limit = lease_limit(self._learner.version, per_cycle, self._config.rollout.max_policy_age)
        limit = min(limit, self._config.run.cycles * per_cycle)
        under_way = self._frontier.reserved
        if not self._buffer.room(self._group_bytes, under_way):
            return self._frontier.next_ordinal
        return limit

    def _generated(self, task: Task, lease: Lease, report: WorkReport) -> None:
        self._verify(report)
        self._stations.idle(task.worker, "waiting")
        self._state.idle_rollout.append(task.worker)
        # The group is out of the actor's hands: its death would not lose it any more.
        self._frontier.renew(lease, self._clock(), "reward")
        self._state.unscored.append((lease, task.payload))
        self._telemetry.generated(report, self._config.group_size_of(lease.ordinal))

    def _rollout_lost(self, task: Task, error: WorkerLostError) -> None:
        self._state.idle_rollout.append(task.worker)
        self._lost("rollout", task, error, self._frontier.lost(task.worker))

    def _lost(
        self, role: Literal["rollout", "reward"], task: Task, error: WorkerLostError, again: Sequence[int]
    ) -> None:
        logger.warning("%s; its ordinals %s are issued again", error, list(again))
        self._telemetry.lost(role, task.worker, len(again), died=not isinstance(error, BytesLostError))

    # Reward station -------------------------------------------------------------------------------------------------

    def _start_scoring(self) -> None:
        if not (self._state.idle_reward and self._state.unscored):
            return
        discriminator = self._store.latest("discriminator")
        while self._state.idle_reward and self._state.unscored:
            worker = self._state.idle_reward.pop(0)
            lease, group = self._state.unscored.popleft()
            began = self._clock()
            if not self._frontier.renew(lease, began, worker):
                self._state.idle_reward.insert(0, worker)
                continue  # another attempt was faster
            self._stations.busy(worker)
            task = self._shell.score(worker, group, discriminator)
            self._state.groups[task] = (lease, began)
            self._begin(
                task,
                lambda outcome, task=task: self._scored(task, *outcome),
                lambda task, error, lease=lease: self._reward_lost(task, lease, error),
            )

    def _scored(self, task: Task, report: WorkReport, info: GroupInfo) -> None:
        self._verify(report)
        self._stations.idle(task.worker, "waiting")
        self._state.idle_reward.append(task.worker)
        result = self._buffer.commit(info, task.payload)
        if result is CommitResult.ACCEPTED:
            self._frontier.complete(info.ordinal)
            self._deadlines.committed()
        self._telemetry.scored(report, result)

    def _reward_lost(self, task: Task, lease: Lease, error: WorkerLostError) -> None:
        # An overdue lease may have been issued again meanwhile, and its ordinal even settled.
        held = [held.lease for held in self._frontier.outstanding()]
        reissued = [lease.ordinal] if lease in held else []
        self._frontier.reissue(reissued)
        self._state.idle_reward.append(task.worker)
        self._lost("reward", task, error, reissued)

    # The event loop -------------------------------------------------------------------------------------------------

    def _begin(self, task: Task, done: Callable[[Any], None], lost: Callable[[Task, WorkerLostError], None]) -> None:
        self._state.tasks[task] = done
        self._state.failed[task] = lambda error: lost(task, error)

    def _collect(self) -> None:
        if not self._state.tasks:
            version = self._learner.version
            raise DeadlineError(
                f"nothing is under way and nothing can begin after version {version}: the buffer holds "
                f"{self._buffer.stats().groups} groups, the next ordinal is {self._frontier.next_ordinal}"
            )
        for task in self._shell.wait(list(self._state.tasks), timeout_s=0.5):
            done, lost = self._state.tasks.pop(task), self._state.failed.pop(task)
            self._state.groups.pop(task, None)
            try:
                outcome = self._shell.outcome(task)
            except WorkerLostError as error:
                lost(error)
                continue
            except WeightsMismatchError:
                self._telemetry.mismatched("student" if task.worker in self._shell.rollout_workers else "discriminator")
                raise
            done(outcome)
        self._deadlines.check(self._waiting_for())

    def _waiting_for(self) -> str:
        if self._deadlines.learner_busy:
            return f"the learner's work after version {self._learner.version}"
        # The first in order: the learner takes it first. A task whose ordinal others have made holds nobody up.
        wanted = [
            (lease.ordinal, began, lease, task.worker)
            for task, (lease, began) in self._state.groups.items()
            if self._frontier.wants(lease.ordinal)
        ]
        if not wanted:
            return "the next lease"
        _, began, lease, worker = min(wanted, key=lambda entry: entry[:2])
        attempt = f" (attempt {lease.attempt + 1})" if lease.attempt else ""
        return f"ordinal {lease.ordinal}{attempt} at {worker} for {self._clock() - began:.0f} s"

    def _expire(self) -> None:
        now = self._clock()
        overdue = self._frontier.expire(now, {lease for lease, _ in self._state.unscored})
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

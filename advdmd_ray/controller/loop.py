"""The controller: the loops of a run, over protocols. It moves ids and references, never a tensor.

    leases --> rollout actor --> reward worker --> buffer --> learner gang --> weight store --> (back to both workers)

One thread, one event loop, three stations and a clock:

* **Rollout** (`rollout_station.py`). An actor whose network is free gets a lease: the lowest ordinal that must be
  issued again, else the next new one below `lease_limit` (it can still be consumed within the age cap) if the buffer
  has room for it. The lease names the newest student version; the actor loads it first if it has another. Produces one
  group, which the actor hands over while its network has the next. Unblocked by: a published version, a settled cycle.
* **Reward** (`reward_station.py`). An idle worker gets the oldest unscored group and the newest discriminator. Produces
  one scored record batch, which is committed; the first commit of an ordinal wins. Unblocked by: a generated group.
* **Learner** (`learner_station.py`). The idle gang takes the next `groups_per_cycle` groups in ordinal order, all or
  none, and fetches their bytes; if a node took some of them with it, those are issued again and the take is undone. It
  trains one cycle and returns new weights, which are published as the next version. Then the groups are settled.
  Checkpoints, sample grids and judgements are made between cycles. Unblocked by: a commit.
* **Time.** Overdue leases and leases of workers that died or hang are issued again with the same seeds, and such
  workers are replaced (`lost_work.py`, `roster.py`). Every wait has a deadline and says what it waits for.

The same loop runs on Ray and in one process: a `Shell` starts tasks and says which are done.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from advdmd_ray.config import Config
from advdmd_ray.controller.deadlines import Deadlines
from advdmd_ray.controller.frontier import PromptFrontier
from advdmd_ray.controller.guard import Guard
from advdmd_ray.controller.learner_station import LearnerStation
from advdmd_ray.controller.lost_work import LostWork
from advdmd_ray.controller.protocols import Hub, Reference, Shell, Status, Task
from advdmd_ray.controller.quarantine import Folder, Quarantine
from advdmd_ray.controller.reward_station import RewardStation
from advdmd_ray.controller.rollout_station import RolloutStation
from advdmd_ray.controller.roster import Roster
from advdmd_ray.controller.scaling import Scaling
from advdmd_ray.controller.staff import NoWishes, Wishes, role_of
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.controller.telemetry import LEARNER, Telemetry
from advdmd_ray.controller.under_way import Begun, UnderWay
from advdmd_ray.controller.verification import Verification
from advdmd_ray.controller.watch import Watch
from advdmd_ray.errors import CheckpointError, DeadlineError, WeightsMismatchError, WorkerLostError
from advdmd_ray.stations.buffer.index import BufferIndex
from advdmd_ray.stations.records import Lease
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
        wishes: Wishes | None = None,
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
        self._config, self._sleep, self._shown = config, sleep, -math.inf
        self._frontier, self._buffer, self._store, self._shell = frontier, buffer, store, shell
        self._display, self._clock, self._deadlines = display, clock, Deadlines(config, clock)
        self._under_way = UnderWay(frontier.wants)
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
        self._watch = watch = Watch(config, Guard(config.guard), ()) if watch is None else watch
        self._quarantine = Quarantine(
            config.quarantine,
            frontier=frontier,
            batches=shell.batches,
            folder=quarantine,
            telemetry=self._telemetry,
            watch=watch,
        )
        self._verify = Verification(store, self._telemetry)
        self._reward = self._reward_station()
        self._rollout = self._rollout_station(group_bytes)
        self._learner = self._learner_station(stopping, version)
        self._roster = self._elastic_workers()
        unscored, stations = self._reward.unscored, self._telemetry.stations
        self._scaling = Scaling(config, self._roster, wishes or NoWishes(), stations, unscored, clock)
        self._lost_work = self._followed_work()

    def _reward_station(self) -> RewardStation:
        return RewardStation(
            frontier=self._frontier,
            buffer=self._buffer,
            store=self._store,
            shell=self._shell,
            telemetry=self._telemetry,
            deadlines=self._deadlines,
            quarantine=self._quarantine,
            begin=self._begin,
            verify=self._verify,
            clock=self._clock,
        )

    def _rollout_station(self, group_bytes: int) -> RolloutStation:
        return RolloutStation(
            self._config,
            frontier=self._frontier,
            buffer=self._buffer,
            store=self._store,
            shell=self._shell,
            telemetry=self._telemetry,
            begin=self._begin,
            verify=self._verify,
            made=self._reward.take,
            not_finite=self._quarantine.not_finite,
            group_bytes=group_bytes,
            clock=self._clock,
        )

    def _learner_station(self, stopping: Callable[[], bool], version: int) -> LearnerStation:
        return LearnerStation(
            self._config,
            frontier=self._frontier,
            buffer=self._buffer,
            store=self._store,
            shell=self._shell,
            telemetry=self._telemetry,
            deadlines=self._deadlines,
            begin=self._begin,
            watch=self._watch,
            stopping=stopping,
            version=version,
        )

    def _elastic_workers(self) -> Roster:
        return Roster(
            self._config,
            shell=self._shell,
            stations={"rollout": self._rollout, "reward": self._reward},
            telemetry=self._telemetry,
            begin=self._begin,
            clock=self._clock,
        )

    def _followed_work(self) -> LostWork:
        return LostWork(
            self._config.rollout.lease_s,
            frontier=self._frontier,
            under_way=self._under_way,
            roster=self._roster,
            quarantine=self._quarantine,
            telemetry=self._telemetry,
            clock=self._clock,
        )

    @property
    def version(self) -> int:
        """Of the newest weights; equals the cycles done."""
        return self._learner.version

    @property
    def saved(self) -> Sequence[Path]:
        """The checkpoints of the run's course that are kept, the newest first."""
        return [Path(each.path) for each in self._watch.checkpoints]

    def run(self) -> int:
        """Runs to the end and returns the last version; the last thing it does is a checkpoint.

        Asked to stop, it waits for what the learner is at, saves that, and begins nothing else.

        Raises:
            GangLostError: if a rank of the learner is lost or hangs, or is at work for `learner.cycle_timeout_s`.
            DeadlineError: if the idle learner got no group for `buffer.take_timeout_s`, or nothing can ever move again.
            WeightsMismatchError, GroupMismatchError: if a worker loaded other weights or made another group than asked.
            DivergedError: if a loss, gradient norm or reward spread left the range of its past for good, or too many
                groups are not finite.
            WorkerLostError: if all workers of a role, or groups with their nodes, are lost over and over.
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
        self._roster.begin()
        while True:
            self._scaling.turn()
            self._learner.start()
            if self._learner.finished and not self._deadlines.learner_busy:
                break
            if not self._learner.finished:
                self._reward.start()
                self._rollout.start(self._learner.version)
            self._collect()
            self._lost_work.turn()
            self._show()
        # What is still under way belongs to cycles that will not come; a resumed run makes it again.
        self._save()
        self._learner.measure()
        self._show(over=True)
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

    def _begin(
        self,
        task: Task,
        done: Callable[[Any], None],
        *,
        lease: Lease | None = None,
        aside: bool = False,
        kind: str = "",
    ) -> None:
        term = self._roster.term(task.worker)
        begun = Begun(task, done, lease, self._clock(), term, aside, kind)
        self._under_way.add(begun)
        self._lost_work.began(begun)

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
            except (WorkerLostError, DeadlineError) as error:  # the second of ranks that wait for each other in vain
                if task.worker == LEARNER:
                    raise self._learner.lost(error) from error
                self._lost_work.lost(begun, error)
                continue
            except WeightsMismatchError:
                self._telemetry.mismatched("student" if role_of(task.worker) == "rollout" else "discriminator")
                raise
            self._lost_work.done(begun)
            begun.done(outcome)
        self._telemetry.tick(self._buffer.stats, lambda: self._frontier.leased)
        self._deadlines.check(self._waiting_for)
        if (silent := self._roster.learner_hangs()) is not None:
            raise self._learner.lost(WorkerLostError(silent))

    def _waiting_for(self) -> str:
        if self._deadlines.learner_busy:
            return f"the learner's work after version {self._learner.version}"
        # The first in order: the learner takes it first.
        begun = self._under_way.first()
        if begun is None or begun.lease is None:
            return "the next lease"
        attempt = f" (attempt {begun.lease.attempt + 1})" if begun.lease.attempt else ""
        return f"ordinal {begun.lease.ordinal}{attempt} at {begun.task.worker} for {self._clock() - begun.at:.0f} s"

    def _show(self, *, over: bool = False) -> None:
        """Shows the status now and then, as it is made only to be read, and when the loops are over."""
        now = self._clock()
        if over or now - self._shown >= REFRESH_S:
            self._shown = now
            self._display(self._telemetry.status("" if over else self._waiting_for(), over=over))

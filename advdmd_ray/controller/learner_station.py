"""The learner's station: takes groups in their order, trains, publishes, and does its chores between two cycles.

The controller asks it to `start` in every turn of its loop. An idle gang gets a chore that is due (checkpoint, grid,
judgement), else the groups of the next cycle to fetch; once it has their bytes, it trains on them.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from advdmd_ray.config import Config
from advdmd_ray.controller.deadlines import Deadlines
from advdmd_ray.controller.frontier import PromptFrontier
from advdmd_ray.controller.protocols import Reference, Shell, Task
from advdmd_ray.controller.telemetry import LEARNER, Telemetry
from advdmd_ray.controller.under_way import Begin
from advdmd_ray.controller.watch import Saved, Watch
from advdmd_ray.errors import DeadlineError, GangLostError, WorkerLostError
from advdmd_ray.evaluation.judges.contract import Judgement
from advdmd_ray.evaluation.validation import Validated
from advdmd_ray.learner.cadence import Every
from advdmd_ray.learner.outcome import CheckpointOutcome, CycleOutcome
from advdmd_ray.stations.buffer.index import BufferIndex
from advdmd_ray.stations.records import GroupInfo
from advdmd_ray.stations.weights.snapshot import Manifest
from advdmd_ray.stations.weights.store import WeightStore

logger = logging.getLogger(__name__)


class LearnerStation:
    """Knows the version, and what the gang does next.

    Args:
        config: The run's.
        frontier: Told which ordinals are settled and which must be issued again.
        buffer: Where groups are taken.
        store: Where weights are published.
        shell: Does the work.
        telemetry: Is told of it.
        deadlines: The clock of the learner; it knows whether the gang is busy.
        begin: The controller's.
        watch: Looks for divergence in every cycle.
        stopping: Whether the run is asked to stop.
        version: The run's first version.

    Attributes:
        version: Of the newest weights; equals the cycles done.
        refused: Why the last checkpoint could not be written; empty if it could.
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
        deadlines: Deadlines,
        begin: Begin,
        watch: Watch,
        stopping: Callable[[], bool],
        version: int,
    ) -> None:
        self._config, self._frontier, self._buffer, self._store = config, frontier, buffer, store
        self._shell, self._telemetry, self._deadlines, self._begin = shell, telemetry, deadlines, begin
        self._watch, self._stopping = watch, stopping
        self.version = self._first = version
        self._checkpointed, self._owed, self.refused = -1, False, ""
        self._fetched: tuple[GroupInfo, ...] | None = None
        self._due: deque[Callable[[], None]] = deque()
        self._chores = (
            (Every(config.learner.checkpoint_cycles), self._start_good_checkpoint),
            (Every(config.evaluation.grid_cycles), self._start_grid),
            (Every(config.evaluation.judge_cycles), self._start_judge),
            (Every(config.validates_every), self._start_validation),
        )

    @property
    def finished(self) -> bool:
        """Whether no cycle is to begin any more: all are done, the time is up, or the run is asked to stop."""
        limit = self._config.run.time_limit_s
        late = limit is not None and self._telemetry.elapsed_s >= limit
        return self.version >= self._config.run.cycles or late or self._stopping()

    def publish_first(self) -> None:
        """Publishes the weights that the learner begins with.

        Raises:
            GangLostError: if it has none to give.
        """
        try:
            (student, discriminator), *payloads = self._shell.publication()
        except (WorkerLostError, DeadlineError) as error:
            raise self.lost(error) from error
        self._publish(student, payloads[0])
        self._publish(discriminator, payloads[1])
        for newest in self._watch.checkpoints[:1]:
            self._telemetry.checkpointed(newest.version)

    def start(self) -> None:
        """Gives the gang its next work, if it can have any.

        Of a run that is asked to stop, only what the gang is at is waited for: groups that were fetched are made again
        when it goes on.
        """
        if self._fetched is not None:
            infos, self._fetched = self._fetched, None
            if self._stopping():
                self._free()
                return
            task = self._shell.cycle(infos)
            self._begin(task, lambda outcome: self._cycled(task, infos, outcome))
        elif self._deadlines.learner_busy:
            return
        elif self._due and not self._stopping():
            self._occupy()
            self._due.popleft()()
        elif not self.finished:
            self._start_fetch()

    def _start_fetch(self) -> None:
        take = self._buffer.take(self._config.rollout.groups_per_cycle, self.version)
        if take.dropped:
            logger.warning("groups %s were too old at take and are issued again", list(take.dropped))
            self._frontier.reissue(take.dropped)
            self._telemetry.dropped(len(take.dropped), "age")
        if take.groups is None:
            return
        infos = tuple(info for info, _ in take.groups)
        self._occupy()
        self._begin(self._shell.fetch(take.groups), lambda lost: self._got(infos, lost))

    def _got(self, infos: tuple[GroupInfo, ...], lost: Sequence[int]) -> None:
        self._deadlines.fetched(len(lost))
        if lost:
            logger.warning("groups %s were lost with the node that held them and are issued again", list(lost))
            self._buffer.give_back(lost)
            self._frontier.reissue(lost)
            self._telemetry.dropped(len(lost), "lost")
            self._free()
            return
        self._telemetry.taken(infos)
        self._fetched = infos
        self._deadlines.learner(busy=True)  # the cycle has its own time: the driver may have stood still meanwhile

    def _cycled(self, task: Task, infos: Sequence[GroupInfo], outcome: CycleOutcome) -> None:
        student, discriminator = task.payload
        self._publish(outcome.student, student)
        self._publish(outcome.discriminator, discriminator)
        ordinals = [info.ordinal for info in infos]
        self._buffer.settle(ordinals)
        self._frontier.settle(ordinals)
        self.version = outcome.report.version
        self._free()
        self._telemetry.cycled(outcome)
        try:
            self._watch.cycled(outcome.report)
        finally:
            self._telemetry.watched(self._watch.guard)
            self.measure()
        self._due.extend(start for every, start in self._chores if every.due(self.version))
        if self._owed and self._watch.quiet and self._start_good_checkpoint not in self._due:
            self._due.append(self._start_good_checkpoint)

    def _publish(self, manifest: Manifest, payload: Reference) -> None:
        """Makes a snapshot the newest of its stream."""
        self._store.publish(manifest, payload)
        self._telemetry.published(manifest)

    @staticmethod
    def lost(error: Exception) -> GangLostError:
        """What ends the loops when a rank is lost, or has waited for another in vain."""
        return GangLostError(f"{error}; the learner's gang cannot go on without it")

    def measure(self) -> None:
        """Records the state of the run between two cycles."""
        self._telemetry.gauges(self._buffer.stats(), self._frontier.leased)

    # Chores ---------------------------------------------------------------------------------------------------------

    @property
    def saved(self) -> bool:
        """Whether this version has a checkpoint, or needs none: a run that stops before its first cycle has no news."""
        return self._checkpointed == self.version or (self.version == self._first and self._stopping())

    def save(self) -> None:
        """Starts the checkpoint of this version, unless there is one; the gang must be idle."""
        if not self.saved:
            self._occupy()
            self._start_checkpoint()

    def _start_good_checkpoint(self) -> None:
        """Starts a checkpoint, or owes it while the run may be diverging: the newest is to stay the last good one."""
        self._owed = not self._watch.quiet
        if self._owed:
            self._free()
        else:
            self._start_checkpoint()

    def _start_checkpoint(self) -> None:
        good = self._watch.last_good
        facts = {
            "frontier": self._frontier.state(),
            "updates": dict(self._telemetry.updates),
            "counted": self._telemetry.counted(),
            "guard": self._watch.guard.state(),
            "last_good": None if good is None else good.version,
        }
        self._begin(self._shell.checkpoint(facts), self._saved)

    def _saved(self, outcome: CheckpointOutcome) -> None:
        self._free()
        self.refused, self._owed = outcome.refused, bool(outcome.refused)
        if outcome.refused:
            logger.warning("%s; it is tried again", outcome.refused)
            self._telemetry.checkpoint_refused()
            return
        logger.info("checkpoint %s", outcome.path)
        self._watch.saved(Saved(self.version, outcome.path))
        self._telemetry.checkpointed(self.version, time.time())
        self._checkpointed = self.version

    def _start_grid(self) -> None:
        self._begin(self._shell.grid(), lambda _: self._free())

    def _start_judge(self) -> None:
        self._begin(self._shell.judge(), self._judged)

    def _judged(self, judgement: Judgement) -> None:
        self._free()
        self._heed(self._telemetry.judged(judgement))

    def _start_validation(self) -> None:
        self._begin(self._shell.validate(), self._validated)

    def _validated(self, validated: Validated) -> None:
        self._free()
        self._heed(self._telemetry.validated(validated))

    def _heed(self, hacked: str) -> None:
        """Warns where the alarm for reward hacking fires."""
        if hacked:
            logger.warning(
                "%s (reward hacking?) at version %d; compare the pictures in the run's folder and lower "
                "policy_gradient.learning_rate",
                hacked,
                self.version,
            )

    def _occupy(self) -> None:
        self._deadlines.learner(busy=True)
        self._telemetry.stations.busy(LEARNER)

    def _free(self) -> None:
        self._deadlines.learner(busy=False)
        self._telemetry.stations.waiting(LEARNER)

"""The loops of a run to their end, over as many gangs of the learner as that takes."""

import gc
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Hub, Shell
from advdmd_ray.errors import CheckpointError, DeadlineError, GangLostError, WorkerLostError
from advdmd_ray.learner.checkpoint import Checkpoint, open_checkpoint
from advdmd_ray.metrics.history import cut_back
from advdmd_ray.metrics.series import Sample
from advdmd_ray.runs.folder import RunFolder

logger = logging.getLogger(__name__)


class Loops(Protocol):
    """A controller, from where a checkpoint left the run."""

    @property
    def version(self) -> int:
        """Of the newest weights."""
        ...

    @property
    def saved(self) -> Sequence[Path]:
        """The checkpoints of its course that are kept, the newest first; it may have begun with one of them."""
        ...

    def run(self) -> int:
        """To the end; returns the last version."""
        ...


def cut_back_to(checkpoint: Checkpoint | None, folder: RunFolder) -> None:
    """Takes out of metrics.jsonl what a run does again: counts come from the checkpoint that it goes on from.

    Args:
        checkpoint: It; None: everything is done again.
        folder: The run's; nobody writes to its metrics.jsonl.
    """
    if checkpoint is None:
        cut_back(folder.metrics, 0, {})
    else:
        cut_back(folder.metrics, checkpoint.step, checkpoint.facts["controller"].get("counted"))


class Training:
    """Runs the loops. When they lose the learner's gang, another goes on from the newest intact checkpoint.

    Rollout actors and reward workers stay up. All else of a run is in its checkpoint, so the loops begin anew with it,
    as those of a resumed run do. A gang that is lost over and over without a newer checkpoint ends the run.

    Args:
        config: `learner.restarts`.
        shell: Its workers are up.
        hub: Takes the figures.
        checkpoint: The one that the shell's workers were started from.
        loops: Makes the loops that go on from a checkpoint, or from the teacher.
        rewind: Takes out of the figures what is done again from there.
        stopping: Whether the run is asked to stop: then nothing is started again.
        opened: Opens a checkpoint after reading every byte of it.
    """

    def __init__(
        self,
        config: Config,
        shell: Shell,
        hub: Hub,
        checkpoint: Checkpoint | None,
        *,
        loops: Callable[[Checkpoint | None], Loops],
        rewind: Callable[[Checkpoint | None], None],
        stopping: Callable[[], bool],
        opened: Callable[[Path], Checkpoint] = open_checkpoint,
    ) -> None:
        self._most, self._shell, self._hub = config.learner.restarts, shell, hub
        self._loops, self._rewind, self._stopping, self._opened = loops, rewind, stopping, opened
        self._from, self._present = checkpoint, loops(checkpoint)
        self._restarts = self._in_vain = 0

    @property
    def version(self) -> int:
        """Of the newest weights; equals the cycles done."""
        return self._present.version

    def run(self) -> int:
        """Runs to the end and returns the last version.

        Raises:
            GangLostError: if the gang was lost for good, or while the run was asked to stop.
            CheckpointError: if no checkpoint is intact any more.
            DeadlineError: and whatever else `Controller.run` raises.
        """
        while True:
            try:
                return self._present.run()
            except GangLostError as lost:
                if self._stopping():
                    raise
                self._go_back(lost)
            # The parts of a controller name each other, and hold the bytes of its groups and weights until they are
            # collected, which may be long after.
            gc.collect()

    def _go_back(self, lost: GangLostError) -> None:
        newest = self._newest()
        if _step(newest) > _step(self._from):
            self._in_vain = 0
        self._from = newest
        self._restart(lost)
        self._restarts += 1
        self._rewind(newest)
        self._present = self._loops(newest)
        self._hub.record([Sample.of("advdmd_learner_restarts", self._restarts)])

    def _newest(self) -> Checkpoint | None:
        """The newest checkpoint of the present course that is intact; where none was kept, what it began with."""
        wrong: list[str] = []
        for path in self._present.saved:
            try:
                return self._opened(path)
            except CheckpointError as error:
                logger.warning("damaged checkpoint passed over: %s", error)
                wrong.append(str(error))
        if wrong:
            raise CheckpointError(f"the gang is lost, and no checkpoint is whole: {'; '.join(wrong)}")
        return self._from

    def _restart(self, lost: Exception) -> None:
        where = "from the teacher" if self._from is None else f"from {self._from.path}"
        while True:
            if self._in_vain >= self._most:
                again = f", {self._in_vain} times in a row without a newer checkpoint" if self._in_vain else ""
                raise GangLostError(f"{lost}{again}; learner.restarts={self._most} allows no other") from lost
            self._in_vain += 1
            logger.warning("%s: another goes on %s", lost, where)
            try:
                self._shell.restart(None if self._from is None else self._from.path.absolute())
            except (WorkerLostError, DeadlineError) as error:
                lost = error
            else:
                return


def _step(checkpoint: Checkpoint | None) -> int:
    """Of a checkpoint; that of the teacher comes before all others."""
    return -1 if checkpoint is None else checkpoint.step

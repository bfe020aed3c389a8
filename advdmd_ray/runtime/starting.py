"""The start of a run's workers: who is lost, or hangs, on the way is started again."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import ray

from advdmd_ray.config import Config
from advdmd_ray.controller.pulse import Pulse
from advdmd_ray.controller.roster import LOSSES_IN_A_ROW
from advdmd_ray.controller.staff import number_of, role_of
from advdmd_ray.errors import DeadlineError, WorkerLostError
from advdmd_ray.runs.lasting import Mark
from advdmd_ray.runtime.calls import MORE_TIME, SILENCE_S, Handle, answer, silent
from advdmd_ray.runtime.crew import Crew, may_start
from advdmd_ray.runtime.dealing import LOOK_S
from advdmd_ray.runtime.ray_gang import RayGang

logger = logging.getLogger(__name__)
LEARNER = "learner"


class Starting:
    """Brings gang and crew up once.

    A gang that loses a rank is placed anew, the others are started again under their names. Each has the time of a
    start from then on.

    Args:
        config: The run's.
        gang: Is placed by this.
        crew: Is hired already, or is up.
        mark: Of the run folder, which every rank must see.
        restarts: How many gangs may be lost.
        clock: Monotonic clock, seconds.
    """

    def __init__(
        self,
        config: Config,
        gang: RayGang,
        crew: Crew,
        mark: Mark,
        restarts: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._gang, self._crew, self._mark = config, gang, crew, mark
        self._restarts, self._clock = restarts, clock
        self._losses: Counter[str] = Counter()
        self._waits: dict[str, ray.ObjectRef] = {}
        self._pings: dict[ray.ObjectRef, str] = {}
        self._pulse = Pulse(SILENCE_S, clock)
        self._until, self._backend = 0.0, ""

    def place(self) -> Sequence[ray.ObjectRef]:
        """Finds room for the gang; returns what its ranks see.

        Raises:
            DeadlineError: if there is no room in time.
        """
        self._gang.place()
        return self._gang.prepare(self._mark)

    def check_seen(self, sights: Sequence[ray.ObjectRef]) -> None:
        """Waits until all ranks see the run folder.

        Raises:
            UserError: if one does not.
            DeadlineError: if one does not say so in time.
            WorkerLostError: if too many are lost.
        """
        while True:
            try:
                return self._gang.check_seen(sights)
            except WorkerLostError as lost:
                sights = self._place_again(lost)

    def up(self, checkpoint: Path | None, table: tuple[ray.ObjectRef, ...], *, crew: bool) -> str:
        """Waits until all ranks are up, and of the crew as many as the run may start with.

        Args:
            checkpoint: Where the learner goes on from.
            table: The prompt table.
            crew: Whether the crew is to get that, and is waited for.

        Returns:
            What the ranks reduce over.

        Raises:
            DeadlineError: naming the workers that are not up in time.
            WorkerLostError: if gangs, or a worker, are lost over and over.
        """
        self._checkpoint, self._table = checkpoint, table
        if crew:
            self._expect(self._crew.open(table))
        self._join()
        while not may_start(self._config, self._waits):
            left = self._until - self._clock()
            ready, _ = ray.wait([*self._waits.values(), *self._pings], timeout=max(0.0, min(LOOK_S, left)))
            if not ready and left <= 0:
                limit = self._config.ray.start_timeout_s
                raise DeadlineError(f"{', '.join(self._waits)} not up after {limit:.0f} s; {MORE_TIME}")
            # One by one: a rank that fails must be heard before the others have waited for it in vain.
            for reference in ready:
                self._landed(reference)
            self._look()
        if self._waits:
            logger.warning("the run starts without %s, who are not up yet", ", ".join(self._waits))
        return self._backend

    def _join(self) -> None:
        while True:
            try:
                return self._expect(self._gang.join(self._checkpoint, self._table))
            except WorkerLostError as lost:
                self.check_seen(self._place_again(lost))

    def _expect(self, waits: dict[str, ray.ObjectRef]) -> None:
        self._waits |= waits
        self._until = self._clock() + self._config.ray.start_timeout_s
        for name in waits:
            self._ask(name)

    def _process(self, name: str) -> Handle:
        return self._gang.ranks[number_of(name)] if role_of(name) == LEARNER else self._crew[name]

    def _ask(self, name: str) -> None:
        self._pings[self._process(name).ping.remote()] = name

    def _landed(self, reference: ray.ObjectRef) -> None:
        asked = self._pings.pop(reference, None)
        name = asked or next(name for name, wait in self._waits.items() if wait == reference)
        try:
            said = answer(reference, f"the start of {name}")
        except WorkerLostError as lost:
            self._lost(name, lost)
            return
        if asked:
            self._pulse.heard(name)
            return
        del self._waits[name]
        if name == f"{LEARNER}-0":
            self._backend = said

    def _look(self) -> None:
        ask, hang = self._pulse.look()
        for name in ask:
            self._ask(name)
        for name in hang:
            self._lost(name, WorkerLostError(f"{name} {silent(SILENCE_S)}"))

    # Losses ---------------------------------------------------------------------------------------------------------

    def _lost(self, name: str, lost: WorkerLostError) -> None:
        if role_of(name) == LEARNER:
            for rank in range(len(self._gang.ranks)):
                self._forget(f"{LEARNER}-{rank}")
            self.check_seen(self._place_again(lost))
            self._join()
            return
        self._losses[name] += 1
        if self._losses[name] >= LOSSES_IN_A_ROW:
            raise lost
        logger.warning("%s; it is started again", lost)
        self._forget(name)
        _, opened = self._crew.bring(name)
        self._expect({name: opened})

    def _place_again(self, lost: WorkerLostError) -> Sequence[ray.ObjectRef]:
        self._losses[LEARNER] += 1
        if self._losses[LEARNER] > self._restarts:
            raise lost
        logger.warning("%s; the learner's gang is placed again", lost)
        self._gang.note_losses()
        self._gang.end()
        return self.place()

    def _forget(self, name: str) -> None:
        self._waits.pop(name, None)
        self._pulse.forget(name)
        self._pings = {ping: other for ping, other in self._pings.items() if other != name}

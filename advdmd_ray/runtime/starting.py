"""The start of a run's workers: who is lost, or hangs, on the way is started again."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray

from advdmd_ray.config import Config
from advdmd_ray.controller.pulse import Pulse
from advdmd_ray.controller.roster import LOSSES_IN_A_ROW
from advdmd_ray.controller.staff import number_of, role_of
from advdmd_ray.controller.telemetry import LEARNER
from advdmd_ray.errors import DeadlineError, WorkerLostError
from advdmd_ray.runs.lasting import Mark
from advdmd_ray.runtime.calls import MORE_TIME, SILENCE_S, Handle, answer, silent
from advdmd_ray.runtime.counting import workers_progress
from advdmd_ray.runtime.crew import Crew, may_start
from advdmd_ray.runtime.dealing import LOOK_S
from advdmd_ray.runtime.ray_gang import RayGang

logger = logging.getLogger(__name__)


class CrewLostError(WorkerLostError):
    """One of the crew is lost over and over."""


class Starting:
    """Brings gang and crew up once.

    A gang that loses a rank is placed anew, the others are started again under their names. Each has the time of a
    start from then on.

    Args:
        config: The run's.
        gang: Is placed by this.
        crew: Is hired by this, or is up.
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

    def hire(self) -> Handle:
        """Starts the crew; returns the process that encodes the prompts."""
        self._crew.hire()
        for name in (*self._crew.of("rollout"), *self._crew.of("reward")):
            self._ask(name)
        return self._crew[self._crew.encoder]

    def replace_encoder(self, _: Handle) -> Handle:
        """Starts another in its place."""
        return self._hire_again(self._crew.encoder)

    def _hire_again(self, name: str) -> Handle:
        self._forget(name)
        process = self._crew.hire_again(name)
        self._ask(name)
        return process

    def place(self) -> Sequence[ray.ObjectRef]:
        """Finds room for the gang; returns what its ranks see.

        Raises:
            DeadlineError: if there is no room in time.
        """
        self._gang.place()
        sights = self._gang.prepare(self._mark)
        for rank in self._ranks():
            self._ask(rank)
        return sights

    def check_seen(self, sights: Sequence[ray.ObjectRef]) -> None:
        """Waits until all ranks see the run folder.

        Raises:
            UserError: if one does not, or cannot write there.
            DeadlineError: if one does not say so in time.
            WorkerLostError: if too many are lost.
        """
        while True:
            try:
                for index, seen in enumerate(sights):
                    self._answer(seen, f"learner rank {index} to see the run folder")
            except WorkerLostError as lost:
                sights = self._place_again(lost)
            else:
                return

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
        joined, members = False, [*self._crew.of("rollout"), *self._crew.of("reward")] if crew else []
        with workers_progress() as progress:
            while not (joined and may_start(self._config, self._waits)):
                try:
                    if joined:
                        self._turn()
                    else:
                        self._join()
                        joined = True
                except WorkerLostError as lost:
                    joined = False
                    self.check_seen(self._place_again(lost))
                if joined:
                    asked = len(self._ranks()) + len(members)
                    progress(asked - len(self._waits), asked)
        if self._waits:
            logger.warning("the run starts without %s, who are not up yet", ", ".join(self._waits))
        return self._backend

    def _join(self) -> None:
        address, port = self._answer(self._gang.rendezvous(), "the address of learner rank 0")
        self._expect(self._gang.join(address, port, self._checkpoint, self._table))

    def _turn(self) -> None:
        left = self._until - self._clock()
        ready, _ = ray.wait([*self._waits.values(), *self._pings], timeout=max(0.0, min(LOOK_S, left)))
        if not ready and left <= 0:
            limit = self._config.ray.start_timeout_s
            raise DeadlineError(f"{', '.join(self._waits)} not up after {limit:.0f} s; {MORE_TIME}")
        # One by one: a rank that fails must be heard before the others have waited for it in vain.
        for reference in ready:
            self._landed(reference)
        self._look()

    def _answer(self, asked: ray.ObjectRef, what: str) -> Any:
        """What a rank answers, unless it, or another, is lost meanwhile."""
        limit = self._config.ray.start_timeout_s
        until = self._clock() + limit
        while self._clock() < until:
            ready, _ = ray.wait([asked, *self._pings], timeout=LOOK_S)
            if asked in ready:
                return answer(asked, what, limit, MORE_TIME)
            for ping in ready:
                self._landed(ping)
            self._look()
        raise DeadlineError(f"waited {limit:.0f} s for {what}; {MORE_TIME}")

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

    # Who is expected ------------------------------------------------------------------------------------------------

    def _ranks(self) -> list[str]:
        return [f"{LEARNER}-{index}" for index in range(len(self._gang.ranks))]

    def _expect(self, waits: dict[str, ray.ObjectRef]) -> None:
        self._waits |= waits
        self._until = self._clock() + self._config.ray.start_timeout_s
        for name in waits:
            self._ask(name)

    def _forget(self, name: str) -> None:
        self._waits.pop(name, None)
        self._pulse.forget(name)
        self._pings = {ping: other for ping, other in self._pings.items() if other != name}

    def _ask(self, name: str) -> None:
        process = self._gang.ranks[number_of(name)] if role_of(name) == LEARNER else self._crew[name]
        self._pings[process.ping.remote()] = name

    def _look(self) -> None:
        ask, hang = self._pulse.look()
        for name in ask:
            self._ask(name)
        for name in hang:
            self._lost(name, WorkerLostError(f"{name} {silent(SILENCE_S)}"))

    # Losses ---------------------------------------------------------------------------------------------------------

    def _lost(self, name: str, lost: WorkerLostError) -> None:
        """Starts one of the crew again; that of a rank is for those to mend who wait for the gang."""
        if role_of(name) == LEARNER:
            raise lost
        self._losses[name] += 1
        if self._losses[name] >= LOSSES_IN_A_ROW:
            raise CrewLostError(str(lost))
        self._forget(name)
        if self._crew.table:
            logger.warning("%s; it is started again", lost)
            _, opened = self._crew.bring(name)
            self._expect({name: opened})
        elif name != self._crew.encoder:  # of which those hear who wait for the prompts
            logger.warning("%s; it is started again", lost)
            self._hire_again(name)

    def _place_again(self, lost: WorkerLostError) -> Sequence[ray.ObjectRef]:
        self._losses[LEARNER] += 1
        if isinstance(lost, CrewLostError) or self._losses[LEARNER] > self._restarts:
            raise lost
        logger.warning("%s; the learner's gang is placed again", lost)
        for rank in self._ranks():
            self._forget(rank)
        self._gang.note_losses()
        self._gang.end()
        return self.place()

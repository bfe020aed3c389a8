"""Where the time goes from the start of a run to the end of its first cycle, and what the run is at."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from advdmd_ray.metrics.catalogue import STAGES
from advdmd_ray.metrics.series import Sample

TEXTS = {"imports": "imports and checks", "ray": "Ray"}
"""What a stage is called where its own name is not enough."""
CHECKING, READY = "reading and checking", "ready"
"""The first phase of every run, and that in which its loops run."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What a run is at, as a user calls it: finer than a stage, and to the run's end.

    Attributes:
        name: What it is at.
        at_s: When that began, seconds since the run was started.
    """

    name: str
    at_s: float


class StartClock:
    """Splits the start into stages, one after the other, so that their seconds add up to the whole.

    What goes on beside it counts in no stage but that in which the driver waits for it.

    Args:
        clock: Monotonic clock, seconds.
        age_s: Seconds that have passed since the run was started.
        told: Is told each phase as it begins, but for the first.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        age_s: float = 0.0,
        told: Callable[[Phase], None] = lambda _: None,
    ) -> None:
        self._clock, self._last = clock, clock() - age_s
        self._started, self._told = self._last, told
        self._phases = [Phase(CHECKING, 0.0)]
        self._seconds: dict[str, float] = {}
        self._began: float | None = None

    @property
    def over(self) -> bool:
        """Whether the first cycle has ended, after which nothing is counted."""
        return STAGES[-1] in self._seconds

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far."""
        return dict(self._seconds)

    def ended(self, stage: str) -> None:
        """One of `STAGES` is over, and the next one begins.

        Raises:
            ValueError: for another stage.
        """
        if stage not in STAGES:
            raise ValueError(f"a stage of the start is one of {', '.join(STAGES)}, got {stage!r}")
        if self.over:
            return
        now = self._clock()
        self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._last
        self._last = now

    @property
    def age_s(self) -> float:
        """Seconds since the run was started."""
        return self._clock() - self._started

    def begins(self, phase: str) -> None:
        """The run is at something else from now on."""
        begun = Phase(phase, self.age_s)
        self._phases.append(begun)
        self._told(begun)

    def phases(self) -> list[tuple[str, float]]:
        """What the run was at and for how many seconds, in order; the last is what it is at now."""
        begun = tuple(self._phases)  # a display asks from a thread of its own
        now = Phase("", self.age_s)
        return [(phase.name, after.at_s - phase.at_s) for phase, after in pairwise((*begun, now))]

    def loops_begin(self) -> None:
        """The loops of the run begin; if they do so again, they count from the first time."""
        if self._began is None:
            self._began = self._clock()
            self.begins(READY)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the loops began; 0 before."""
        return 0.0 if self._began is None else self._clock() - self._began

    def samples(self) -> list[Sample]:
        """The same as series."""
        return [Sample.of("advdmd_run_start_seconds", spent, stage=stage) for stage, spent in self._seconds.items()]

    def text(self) -> str:
        """One line once it is over, else nothing; stages that took no time are left out."""
        if not self.over:
            return ""
        shown = {stage: f"{spent:.1f}" for stage, spent in self._seconds.items()}
        parts = (f"{TEXTS.get(stage, stage.replace('_', ' '))} {s} s" for stage, s in shown.items() if s != "0.0")
        return f"first update after {sum(self._seconds.values()):.1f} s: {', '.join(parts)}"

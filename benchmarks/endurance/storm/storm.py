"""The faults of a storm, one after another, each once the run is back at its pace or has had its time."""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.endurance.storm.faults import NODE, Fault
from benchmarks.endurance.storm.hitting import LOOK_S, Hit, Hitting
from benchmarks.endurance.storm.leftovers import Traces
from benchmarks.endurance.storm.lives import Lives, Look
from benchmarks.endurance.storm.place import Place
from benchmarks.endurance.storm.recovery import pace, recovered, usual

START_S = 120.0
"""A run may take so long until its first checkpoint."""
QUIET_S = 2.0
IN_VAIN = 3
"""Drivers in a row that ended of themselves: it is no use."""


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that was done.

    Attributes:
        kind: Of the fault.
        instant: At which it was.
        at_s: Since the storm began.
        cycle: Of the run.
        pace: Cycles a second before.
        recovered_s: From the fault until the run was back; None if it was not in time.
    """

    kind: str
    instant: str
    at_s: float
    cycle: float
    pace: float
    recovered_s: float | None


class Storm:
    """One storm.

    Args:
        place: The cluster.
        lives: The run.
        hitting: Of both.
        traces: Is shown what the run holds of the machine, at every fault.
        bound_s: A run may take so long until it is back.
    """

    def __init__(self, place: Place, lives: Lives, hitting: Hitting, traces: Traces, bound_s: float) -> None:
        self._place, self._lives, self._hitting, self._traces = place, lives, hitting, traces
        self._bound_s = bound_s
        self.strikes: list[Strike] = []

    def rage(self, faults: Iterable[Fault], seconds: float, most: int | None = None) -> None:
        """Does one fault after another for so long, or so many.

        Raises:
            RuntimeError: if the run does not get going, or cannot go on after a fault.
        """
        self._until(lambda: any(self._lives.files.checkpoints.glob("step-*")), START_S, "the first checkpoint")
        began = time.monotonic()
        for fault in faults:
            if time.monotonic() - began > seconds or len(self.strikes) == most:
                return
            strike = self._strike(fault, began)
            self.strikes.append(strike)
            took = "not back in time" if strike.recovered_s is None else f"back after {strike.recovered_s:.1f} s"
            sys.stderr.write(f"{len(self.strikes)}: {strike.kind}, {strike.instant}, cycle {strike.cycle:g}: {took}\n")

    def _strike(self, fault: Fault, began: float) -> Strike:
        looks = self._looks(QUIET_S)
        before, cycle = pace(looks), max((look.cycle or 0.0 for look in looks), default=0.0)
        must = usual([*(strike.pace for strike in self.strikes), before])
        self._traces.look(self._lives.run.process.pid)
        time.sleep(fault.wait_s)
        hit = self._hitting.hit(fault)
        back = self._back(hit, must)
        if fault.target == NODE:
            self._place.add_node()
        took = None if back is None else back - hit.at
        return Strike(fault.kind, hit.instant, hit.at - began, cycle, before, took)

    def _back(self, hit: Hit, must: float) -> float | None:
        """When the run was back; None if it was not in time."""
        looks: list[Look] = []
        end = time.monotonic() + self._bound_s
        while time.monotonic() < end:
            self._mend()
            if looks or hit.replaced(self._lives):
                looks.append(self._lives.look())
                if (back := recovered(looks, must)) is not None:
                    return back
            time.sleep(LOOK_S)
        return None

    def _mend(self) -> None:
        """Goes on with a run that has ended of itself, which no verdict forgives."""
        if self._lives.over:
            end = self._lives.ended((), 0.0)
            sys.stderr.write(f"the run ended with exit code {end.code}: {end.said}\n")
            if [each.expected for each in self._lives.ends[-IN_VAIN:]] == [False] * IN_VAIN:
                raise RuntimeError("the run ends whenever it is started")
            self._lives.go_on()

    def _looks(self, seconds: float) -> list[Look]:
        looks, end = [self._lives.look()], time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(LOOK_S)
            self._mend()
            looks.append(self._lives.look())
        return looks

    def _until(self, holds: Callable[[], bool], within_s: float, what: str) -> None:
        end = time.monotonic() + within_s
        while not holds():
            if self._lives.over or time.monotonic() > end:
                raise RuntimeError(f"{what} did not come:\n{self._lives.run.log.read_text(errors='replace')}")
            time.sleep(LOOK_S)

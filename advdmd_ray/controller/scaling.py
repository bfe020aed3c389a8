"""Scaling: looks now and then how many workers the run is to have, and has the roster see to it."""

from collections.abc import Callable

from advdmd_ray.controller.roster import Roster
from advdmd_ray.controller.staff import ELASTIC, Wishes

LOOK_S = 0.5
"""Seconds between two looks."""


class Scaling:
    """Brings the numbers of workers to what is asked for.

    Args:
        roster: Has the workers.
        wishes: Of the run's owner.
        clock: Monotonic clock, seconds.
    """

    def __init__(self, roster: Roster, wishes: Wishes, clock: Callable[[], float]) -> None:
        self._roster, self._wishes, self._clock = roster, wishes, clock
        self._next = clock()

    def turn(self) -> None:
        """Takes up what was asked for since the last look, if it is time for one, and tells what there is."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + LOOK_S
        for role, count in self._wishes.wanted().items():
            self._roster.resize(role, count)
        self._wishes.tell({role: self._roster.staff(role) for role in ELASTIC})

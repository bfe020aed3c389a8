"""Scaling: looks now and then how many workers the run is to have, and has the roster see to it.

What the owner asked for by hand holds for that role until the owner asks for something else, or has the run decide
again. Of the other roles `autoscale` decides if it is enabled; else they have what the configuration says.
"""

import logging
from collections import Counter
from collections.abc import Callable

from advdmd_ray.config import Config
from advdmd_ray.controller.autoscale import Load, advised
from advdmd_ray.controller.roster import Roster
from advdmd_ray.controller.staff import ELASTIC, Wishes
from advdmd_ray.controller.station_clock import StationClock

logger = logging.getLogger(__name__)

LOOK_S = 0.5
"""Seconds between two looks."""


class Scaling:
    """Brings the numbers of workers to what is asked for.

    Args:
        config: The run's.
        roster: Has the workers.
        wishes: Of the run's owner.
        stations: Know how the workers spend their time.
        unscored: How many groups wait for a reward worker now.
        clock: Monotonic clock, seconds.
    """

    def __init__(
        self,
        config: Config,
        roster: Roster,
        wishes: Wishes,
        stations: StationClock,
        unscored: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._config, self._roster, self._wishes, self._clock = config, roster, wishes, clock
        self._own = {"rollout": config.rollout.actors, "reward": config.reward.workers}
        if config.autoscale.enabled:  # it may have decided before these loops began
            self._own = {role: roster.staff(role).asked for role in ELASTIC}
        self._watch = LoadWatch(config.autoscale.window_s, stations, unscored, clock)
        self._next = clock()

    def turn(self) -> None:
        """Takes up what was asked for since the last look, if it is time for one, and tells what there is."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + LOOK_S
        wanted = self._wishes.wanted()
        if self._config.autoscale.enabled:
            self._decide({role for role in ELASTIC if role not in wanted})
        for role in ELASTIC:
            count = wanted.get(role, self._own[role])
            if count != self._roster.staff(role).asked:
                self._roster.resize(role, count)
                self._watch.rest(self._config.autoscale.cool_down_s)
        self._wishes.tell({role: self._roster.staff(role) for role in ELASTIC})

    def _decide(self, roles: set[str]) -> None:
        """Changes one of these roles, if that is advised and those that were asked for before have come."""
        load = self._watch.look()
        if load is None or (advice := advised(self._config, load, roles)) is None:
            return
        role, count = advice
        staff = self._roster.staff(role)
        if count == staff.asked or (count > staff.asked and staff.coming):
            return
        self._own[role] = count
        logger.info(
            "autoscale: %s from %d to %d: the learner waited %.0f %% of %.0f s, actors were busy %.0f %% and reward "
            "workers %.0f %% of theirs",
            role,
            staff.asked,
            count,
            100 * load.waits,
            self._config.autoscale.window_s,
            100 * load.rollout.busy,
            100 * load.reward.busy,
        )


class LoadWatch:
    """Measures the load of one stretch of time after the other.

    Args:
        window_s: Seconds of a stretch.
        stations: Know how the workers spend their time.
        unscored: How many groups wait for a reward worker now.
        clock: Monotonic clock, seconds.
    """

    def __init__(
        self, window_s: float, stations: StationClock, unscored: Callable[[], int], clock: Callable[[], float]
    ) -> None:
        self._window_s, self._stations, self._unscored, self._clock = window_s, stations, unscored, clock
        self._rests_until = clock()
        self._began: float | None = None
        self._first: Counter[tuple[str, str]] = Counter()
        self._waited = self._queued = 0.0

    def rest(self, seconds: float) -> None:
        """The workers change: what was measured is void, and for so many seconds nothing is."""
        self._rests_until, self._began = self._clock() + seconds, None

    def look(self) -> Load | None:
        """The load of the stretch that is over now; None while none is."""
        now, total = self._clock(), Counter(self._stations.total())
        if now < self._rests_until:
            return None
        waited = total["learner", "waiting"]
        if self._began is None:
            self._began, self._first, self._waited, self._queued = now, total, waited, 0.0
            return None
        self._queued += (waited - self._waited) * self._unscored()
        self._waited = waited
        stretch_s = now - self._began
        if stretch_s < self._window_s:
            return None
        seconds = {key: spent - self._first[key] for key, spent in total.items()}
        in_wait = waited - self._first["learner", "waiting"]
        load = Load.of(seconds, stretch_s, self._queued / in_wait if in_wait > 0 else 0.0)
        self._began = None
        return load

"""What the controller does about divergence: it warns, keeps the last good checkpoint, and stops the run."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from advdmd_ray.config import Config
from advdmd_ray.controller.guard import Departure, Guard, watched
from advdmd_ray.errors import DivergedError
from advdmd_ray.learner.outcome import CycleReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint.

    Attributes:
        version: Of its weights; equals the cycles done.
        path: As the learner named it.
    """

    version: int
    path: str


class Watch:
    """Follows the guard of a run, and knows its checkpoints.

    Args:
        config: The run's.
        guard: With the past that the run goes on with.
        checkpoints: Those that are there when the run begins.
    """

    def __init__(self, config: Config, guard: Guard, checkpoints: Sequence[Saved]) -> None:
        self._config, self.guard, self._checkpoints = config, guard, list(checkpoints)

    def saved(self, checkpoint: Saved) -> None:
        """There is one more checkpoint; those that it made obsolete are gone, but not the last good one."""
        good, keep = self.last_good, self._config.learner.keep_checkpoints
        earlier = [each for each in self._checkpoints if each.version < checkpoint.version]
        newest = sorted([*earlier, checkpoint], key=lambda each: each.version)[-keep:]
        self._checkpoints = [*newest, *(each for each in earlier if each == good and each not in newest)]

    @property
    def checkpoints(self) -> tuple[Saved, ...]:
        """Those that are kept, the newest first."""
        return tuple(sorted(self._checkpoints, key=lambda each: each.version, reverse=True))

    @property
    def quiet(self) -> bool:
        """Whether every series is within the range of its past, or has long given no value."""
        return not self.guard.doubtful

    @property
    def last_good(self) -> Saved | None:
        """While a series is out: the newest checkpoint from before the departure.

        A student that breaks as version v shows in losses and rewards with the first groups that it made. Cycles up to
        v + A (A = `rollout.max_policy_age`) may have older ones only, and v's own come into the losses of cycle
        v + A + 1 at the latest. So of a departure in cycle c, versions below c - 1 - A are innocent.
        """
        since = self.guard.since
        return None if since is None else self._before(since - 1 - self._config.rollout.max_policy_age)

    def way_back(self, version: int) -> str:
        """What to do about a student that is broken since a version: go back to the newest checkpoint before it."""
        return _way_back(self._before(version))

    def _before(self, version: int) -> Saved | None:
        return next((each for each in self.checkpoints if each.version < version), None)

    def cycled(self, report: CycleReport) -> None:
        """Looks at a cycle's report; a series that has left its range is warned of, once.

        Raises:
            DivergedError: if the guard says that the run is to stop.
        """
        self.guard = self.guard.fed(report.version, watched(report, self._config.learner.max_grad_norm))
        for departure in self.guard.entered:
            logger.warning(
                "%s: is the run diverging? It stops after guard.patience = %d such values in a row, and makes no "
                "checkpoint but that of an end until the series is back, or has given no value for guard.window = %d "
                "cycles",
                departure.text(),
                self._config.guard.patience,
                self._config.guard.window,
            )
        if (stop := self.guard.stops) is not None:
            raise DivergedError(self._verdict(stop))

    def _verdict(self, stop: Departure) -> str:
        out = f"the run diverges: {stop.text()}, out since cycle {stop.since}"
        return f"{out}; {_way_back(self.last_good)}, or set guard.enabled=false if this is as it should be"


def _way_back(good: Saved | None) -> str:
    if good is None:
        return "no checkpoint is older than that, so start anew by --fresh with lower learning rates"
    return f"the last good checkpoint is {good.path}: go on from it by --resume {good.path} with lower learning rates"

"""The alarm for reward hacking: a reward rises while what an independent judge or scorer says falls.

Pure: it is fed with numbers and says whether it fires.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from advdmd_ray.config import Config
from advdmd_ray.config.rewards import reads_final

SIGNIFICANCE = 0.05
"""One-sided level of each of the two tests of a slope."""


def slope_in_errors(values: Sequence[float]) -> float:
    """Least-squares slope over the position, in units of its standard error.

    `b / s_b` with `b = sum (x - x_mean) y / S`, `S = sum (x - x_mean)^2`, `s_b^2 = sum residual^2 / ((n - 2) S)`. Where
    the values are a constant and independent normal noise it follows Student's t distribution with n - 2 degrees of
    freedom.

    Args:
        values: Three or more, evenly spaced.

    Returns:
        0 for equal values, infinite for other points of one line.
    """
    count = len(values)
    middle, mean = (count - 1) / 2, math.fsum(values) / count
    spread = math.fsum((x - middle) ** 2 for x in range(count))
    slope = math.fsum((x - middle) * (y - mean) for x, y in enumerate(values)) / spread
    residuals = math.fsum((y - mean - slope * (x - middle)) ** 2 for x, y in enumerate(values))
    error = math.sqrt(residuals / ((count - 2) * spread))
    # What float64 cannot tell from zero is zero, on either side of the fraction.
    smallest = 1e-12 * max(abs(value) for value in values)
    if abs(slope) <= smallest:
        return 0.0
    return slope / error if error > smallest else math.copysign(math.inf, slope)


@dataclass(frozen=True, slots=True)
class HackAlarm:
    """Watches the last judgements of a run.

    It fires when, over the last `window` judgements, the slope of the reward is above its noise and that of the judge's
    headline below it: both differ from 0 by a one-sided t test with `window` - 2 degrees of freedom at the level 0.05.

    False alarms: where reward and headline are flat with independent noise, both tests err together in
    0.05^2 = 0.25 % of the judgements, so in less than 5 % of runs of 20 judgements. A flat headline under a reward that
    does rise gives 5 % a judgement: one judgement is a warning, not a proof. Noise that drifts passes for a trend more
    often: two random walks fire in 2 % of the judgements with a window of 4.

    Attributes:
        window: Judgements looked at, at least 4.
        pairs: The last ones: reward of the final level, and the headline signed so that higher is better.

    Raises:
        ValueError: `window` is below 4, or there are more pairs than that.
    """

    window: int
    pairs: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if self.window < 4:  # noqa: PLR2004 - with fewer points hardly any noise is left to compare with
            raise ValueError(f"alarm_window must be at least 4, got {self.window}")
        if len(self.pairs) > self.window:
            raise ValueError(f"at most {self.window} judgements are kept, got {len(self.pairs)}")

    def fed(self, reward: float, headline: float) -> Self:
        """The alarm after one more judgement; a value that is not finite begins a new window without it.

        Args:
            reward: Mean reward of the final level since the judgement before.
            headline: The judge's headline, signed so that higher is better.
        """
        if not (math.isfinite(reward) and math.isfinite(headline)):
            return replace(self, pairs=())
        return replace(self, pairs=(*self.pairs, (reward, headline))[-self.window :])

    @property
    def fires(self) -> bool:
        """Whether the last judgements look like reward hacking; never before there are `window` of them."""
        if len(self.pairs) < self.window:
            return False
        from scipy.special import stdtrit  # noqa: PLC0415 - takes long, and a start needs none of it

        bound = float(stdtrit(self.window - 2, 1 - SIGNIFICANCE))
        rewards, headlines = zip(*self.pairs, strict=True)
        return slope_in_errors(rewards) > bound and slope_in_errors(headlines) < -bound


def hears_final(config: Config) -> bool:
    """Whether RL learns from the final level's score where that level is open."""
    return config.unheard is None and reads_final(config.policy_gradient)


class HackWatch:
    """An alarm for each reward that RL learns from, all watching one judge.

    Args:
        window: Of each alarm.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._alarms: dict[str, HackAlarm] = {}
        self._since: dict[str, tuple[float, int]] = {}

    def rewarded(self, reward: str, mean: float) -> None:
        """A cycle's mean of a reward, by its name for a reader."""
        total, cycles = self._since.get(reward, (0.0, 0))
        self._since[reward] = total + mean, cycles + 1

    def judged(self, headline: float) -> None:
        """The judge has spoken, signed so that higher is better. A reward without a cycle since then has no value."""
        for reward in {**self._alarms, **self._since}:
            total, cycles = self._since.get(reward, (math.nan, 1))
            self._alarms[reward] = self._alarms.get(reward, HackAlarm(self._window)).fed(total / cycles, headline)
        self._since = {}

    @property
    def rising(self) -> str:
        """The first reward whose alarm fires; empty: none does."""
        return next((reward for reward, alarm in self._alarms.items() if alarm.fires), "")

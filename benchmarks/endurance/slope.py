"""The slope of a series whose noise is correlated, with its interval."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

BANDWIDTH = 0.1
"""Share of the samples over which noise may be correlated: the b of fixed-b asymptotics."""
CRITICAL = 1.9600 + 2.9694 * BANDWIDTH + 0.4160 * BANDWIDTH**2 - 0.5324 * BANDWIDTH**3
"""Of a t statistic with Bartlett's kernel, two-sided at 5 % (Kiefer and Vogelsang 2005, Econometric Theory 21, table
1). The normal's 1.96 would take the variance for known, which it is not where noise is correlated for long."""
FEWEST = 20


@dataclass(frozen=True, slots=True)
class Slope:
    """A least-squares slope and its 95 % interval, in units of y for one unit of x."""

    value: float
    low: float
    high: float

    @property
    def contains_zero(self) -> bool:
        """Whether no trend is a fair description."""
        return self.low <= 0 <= self.high


def fitted(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Slope:
    """The slope of y over x.

    Its variance is Newey and West's (1987, Econometrica 55): with `z = x - mean(x)`, residuals e and lags up to
    m = 0.1 n, `sum_j w_j sum_t z_t e_t z_(t+j) e_(t+j) / (sum z^2)^2`, `w_j = 1 - |j| / (m + 1)`, |j| <= m.

    Args:
        x: Rising, in the order of time.
        y: The values there.

    Raises:
        ValueError: for fewer than 20 samples, or x that are all equal.
    """
    if len(x) < FEWEST or np.ptp(x) == 0:
        raise ValueError(f"a slope needs {FEWEST} samples at different x, got {len(x)}")
    z = x - x.mean()
    spread = float(z @ z)
    value = float(z @ y) / spread
    scores = z * (y - y.mean() - value * z)
    lags = int(BANDWIDTH * len(x))
    variance = float(scores @ scores)
    for lag in range(1, lags + 1):
        variance += 2 * (1 - lag / (lags + 1)) * float(scores[lag:] @ scores[:-lag])
    half = CRITICAL * max(variance, 0.0) ** 0.5 / spread
    return Slope(value, value - half, value + half)

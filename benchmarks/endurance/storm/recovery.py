"""When a run is back at its pace after a fault, from looks at it."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from benchmarks.endurance.storm.lives import Look

WINDOW_S = 3.0
"""Over which a pace is taken: several cycles."""
BACK = 0.5
"""Share of the pace before the fault that is as before: where others work too, that of any run varies so much."""


def pace(looks: Sequence[Look]) -> float:
    """Cycles a second between the first and the last look that say a cycle; 0 if they are less than two.

    A run that goes back to a checkpoint makes cycles again: each rise counts.
    """
    told = [(look.at, look.cycle) for look in looks if look.cycle is not None]
    if len(told) < 2 or told[-1][0] == told[0][0]:  # noqa: PLR2004 - a pace has two ends
        return 0.0
    rises = sum(max(0.0, after - before) for (_, before), (_, after) in pairwise(told))
    return rises / (told[-1][0] - told[0][0])


def usual(paces: Sequence[float]) -> float:
    """The pace that a run must have again: that before the fault, or if that was a burst, the median of all such.

    Args:
        paces: Before each fault so far, and before this one.
    """
    return min(paces[-1], median(paces))


def recovered(looks: Sequence[Look], before: float) -> float | None:
    """When the run was back: the begin of the first window in which all are up and the pace is as before.

    Args:
        looks: Since whatever was hit is gone and another is in its place.
        before: Cycles a second before the fault.

    Returns:
        Monotonic seconds; None if it is not back.
    """
    for index, first in enumerate(looks):
        window = [look for look in looks[index:] if look.at <= first.at + WINDOW_S]
        whole = looks[-1].at >= first.at + WINDOW_S
        if whole and all(look.full for look in window) and pace(window) >= BACK * before:
            return first.at
    return None

"""Curves of a bounded number of points that keep every peak and trough."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import Float, Int

from advdmd_ray.evaluation.pictures.series import Curve

POINTS = 400
"""Most points of a curve in a page."""
DIGITS = 5
"""Significant digits of a value there."""


@dataclass(frozen=True, slots=True)
class Thinned:
    """Curves over the same cycles.

    Attributes:
        cycles: Rising.
        values: Of each curve, one for each cycle; None where there is none.
    """

    cycles: list[int]
    values: list[list[float | None]]


def thinned(curves: Sequence[Curve], points: int = POINTS) -> Thinned:
    """Curves over common cycles, as they are or in blocks.

    Of too many cycles a block of neighbours becomes two: where the block begins and ends. Each curve has its lowest
    and its highest value of the block there, in the order in which they came.

    Args:
        curves: At least one.
        points: Most points of each; even, at least 2.
    """
    cycles = np.unique(np.concatenate([curve.cycles for curve in curves]))
    rows = [_on(curve, cycles) for curve in curves]
    if len(cycles) > points:
        size = ceil(len(cycles) / (points // 2))
        rows = [_extremes(row, size) for row in rows]
        cycles = _ends(cycles, size)
    return Thinned([int(cycle) for cycle in cycles], [[_rounded(value) for value in row] for row in rows])


def _on(curve: Curve, cycles: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    row = np.full(len(cycles), np.nan)
    row[np.searchsorted(cycles, curve.cycles)] = curve.values
    return row


def _ends(cycles: Int[np.ndarray, " n"], size: int) -> Int[np.ndarray, " m"]:
    """First and last cycle of each block; a block of one cycle has it once."""
    starts = np.arange(0, len(cycles), size)
    ends = np.minimum(starts + size, len(cycles)) - 1
    return np.unique(np.concatenate([cycles[starts], cycles[ends]]))


def _extremes(row: Float[np.ndarray, " n"], size: int) -> list[float]:
    """Lowest and highest value of each block, in the order in which they came; of a block of one, it alone."""
    found: list[float] = []
    for start in range(0, len(row), size):
        block = row[start : start + size]
        if len(block) == 1:
            found.append(float(block[0]))
        elif not np.isfinite(block).any():
            found += [np.nan, np.nan]
        else:
            low, high = int(np.nanargmin(block)), int(np.nanargmax(block))
            found += [float(block[place]) for place in sorted((low, high))]
    return found


def _rounded(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None

"""Thinned curves: few points, no peak lost, nothing changed where nothing has to be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.evaluation.pictures.series import Curve
from advdmd_ray.runs.page.thinning import thinned

VALUES = st.floats(-1e6, 1e6, width=32) | st.just(float("nan"))


def curve(values: list[float], first: int = 1) -> Curve:
    cycles = np.arange(first, first + len(values))
    return Curve(cycles, cycles.astype(np.float64), np.array(values, dtype=np.float64))


def rounded(value: float) -> float:
    return float(f"{value:.5g}")


@given(st.lists(VALUES, min_size=1, max_size=200), st.sampled_from([2, 4, 10, 40]))
def test_a_curve_keeps_its_extremes_its_ends_and_few_points(values: list[float], points: int) -> None:
    drawn = thinned([curve(values)], points)
    (row,) = drawn.values
    assert len(drawn.cycles) == len(row) <= max(points, min(len(values), points))
    assert drawn.cycles == sorted(set(drawn.cycles))
    assert (drawn.cycles[0], drawn.cycles[-1]) == (1, len(values))
    known = [rounded(value) for value in values if np.isfinite(value)]
    shown = [value for value in row if value is not None]
    assert set(shown) <= set(known)
    assert (min(shown, default=None), max(shown, default=None)) == (min(known, default=None), max(known, default=None))


@given(st.lists(VALUES, min_size=2, max_size=120))
def test_a_value_stands_within_its_block(values: list[float]) -> None:
    drawn = thinned([curve(values)], 20)
    size = -(-len(values) // 10) if len(values) > 20 else 1
    for cycle, value in zip(drawn.cycles, drawn.values[0], strict=True):
        start = (cycle - 1) // size * size
        assert value is None or value in [rounded(own) for own in values[start : start + size]]


def test_few_points_are_as_they_were_recorded_to_five_digits() -> None:
    drawn = thinned([curve([1.0, 0.1234567, float("nan")]), curve([7.0, 8.0], first=2)])
    assert drawn.cycles == [1, 2, 3]
    assert drawn.values == [[1.0, 0.12346, None], [None, 7.0, 8.0]]


def test_a_spike_of_one_cycle_in_many_is_there_and_near() -> None:
    values = [0.0] * 100_000
    values[77_777] = 1e4
    drawn = thinned([curve(values)])
    assert len(drawn.cycles) <= 400
    place = drawn.values[0].index(1e4)
    assert abs(drawn.cycles[place] - 77_778) <= 500

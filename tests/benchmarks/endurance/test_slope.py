"""Slopes with intervals that hold for noise with a memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.endurance.slope import fitted


def noise(seed: int, count: int, memory: float) -> np.ndarray:
    """Each value is `memory` times the one before, and a draw."""
    draws = np.random.default_rng(seed).standard_normal(count)
    for index in range(1, count):
        draws[index] += memory * draws[index - 1]
    return draws


@given(st.floats(-5, 5), st.floats(-100, 100), st.integers(20, 80))
def test_points_of_a_line_have_its_slope_and_no_interval(slope: float, start: float, count: int) -> None:
    x = np.arange(count) * 3.0
    found = fitted(x, start + slope * x)
    assert found.value == pytest.approx(slope, abs=1e-9)
    assert found.high - found.low == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("memory", [0.0, 0.7])
def test_the_interval_has_the_true_slope_about_as_often_as_it_says(memory: float) -> None:
    x = np.arange(200.0)
    runs = [fitted(x, 0.3 * x + noise(seed, len(x), memory)) for seed in range(300)]
    covered = np.mean([run.low <= 0.3 <= run.high for run in runs])
    assert 0.88 <= covered <= 0.99


def test_an_interval_that_takes_correlated_noise_for_independent_would_be_too_short() -> None:
    x = np.arange(200.0)
    wide, narrow = (fitted(x, noise(1, len(x), memory)) for memory in (0.9, 0.0))
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


@pytest.mark.parametrize("x", [np.arange(19.0), np.ones(30)])
def test_too_few_samples_or_samples_at_one_place_have_no_slope(x: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a slope needs 20 samples at different x"):
        fitted(x, x)

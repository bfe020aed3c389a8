"""The alarm fires on a reward that rises under a falling judge, and hardly ever on noise."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from advdmd_ray.controller.alarm import HackAlarm, HackWatch, slope_in_errors

values = st.lists(st.floats(-100, 100), min_size=4, max_size=12)


def fed(rewards: np.ndarray, headlines: np.ndarray, window: int = 4) -> list[bool]:
    """Whether the alarm fires after each judgement."""
    alarm, fired = HackAlarm(window), []
    for reward, headline in zip(rewards, headlines, strict=True):
        alarm = alarm.fed(float(reward), float(headline))
        fired.append(alarm.fires)
    return fired


def noise(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count)


def test_the_slope_is_that_of_the_textbook() -> None:
    # y = 1, 3, 2, 4: slope 0.8, residuals -0.3, 0.9, -0.9, 0.3, so s_b = sqrt(1.8 / 2 / 5).
    assert slope_in_errors([1.0, 3.0, 2.0, 4.0]) == pytest.approx(0.8 / math.sqrt(0.18))


@given(values, st.floats(0.01, 100), st.floats(-50, 50))
def test_the_slope_in_errors_ignores_scale_and_shift_and_turns_with_the_sign(
    series: list[float], scale: float, shift: float
) -> None:
    expected = slope_in_errors(series)
    assume(math.isfinite(expected) and np.ptp(series) > 1e-3 and abs(expected) < 1e3)
    assert slope_in_errors([scale * value + shift for value in series]) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert slope_in_errors([-value for value in series]) == pytest.approx(-expected, rel=1e-9)
    assert slope_in_errors(series[::-1]) == pytest.approx(-expected, rel=1e-6, abs=1e-9)


@given(st.floats(-1e3, 1e3), st.integers(3, 20))
def test_equal_values_have_no_slope(value: float, count: int) -> None:
    assert slope_in_errors([value] * count) == 0


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.integers(4, 10), st.integers(0, 10))
def test_a_steady_rise_of_the_reward_under_a_steady_fall_of_the_judge_fires_once_the_window_is_full(
    rise: float, fall: float, window: int, more: int
) -> None:
    steps = np.arange(window + more)
    assert fed(rise * steps, -fall * steps, window) == [False] * (window - 1) + [True] * (more + 1)
    for rewards, headlines in ((rise, fall), (-rise, -fall), (-rise, fall), (rise, 0.0), (0.0, -fall)):
        assert not any(fed(rewards * steps, headlines * steps, window))


def test_a_trend_of_two_standard_deviations_a_judgement_is_soon_found() -> None:
    steps = np.arange(8)
    found = [any(fed(2 * steps + noise(2 * seed, 8), -2 * steps + noise(2 * seed + 1, 8))) for seed in range(200)]
    assert np.mean(found) > 0.9


@pytest.mark.parametrize("window", [4, 6])
def test_flat_runs_of_twenty_judgements_fire_in_less_than_one_of_twenty(window: int) -> None:
    fired = [fed(noise(2 * seed, 20), noise(2 * seed + 1, 20), window) for seed in range(1000)]
    assert np.mean([any(run) for run in fired]) < 0.05
    assert np.mean(fired) == pytest.approx(0.0025 * (21 - window) / 20, abs=0.0015)


def test_a_flat_judge_under_a_rising_reward_errs_once_in_twenty_judgements() -> None:
    steps = np.arange(4)
    fired = [fed(50 * steps + noise(2 * seed, 4), noise(2 * seed + 1, 4))[-1] for seed in range(2000)]
    assert np.mean(fired) == pytest.approx(0.05, abs=0.015)


def test_only_the_last_judgements_count() -> None:
    steps = np.arange(4)
    rewards = np.concatenate([steps, 3 - 0 * steps])
    headlines = np.concatenate([-steps, -3 + 0 * steps])
    assert fed(rewards, headlines)[3]
    assert not fed(rewards, headlines)[-1]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_value_that_is_not_finite_begins_a_new_window(broken: float) -> None:
    rewards, headlines = np.arange(9.0), -np.arange(9.0)
    rewards[3] = broken
    assert fed(rewards, headlines) == [False] * 7 + [True] * 2


def test_a_window_that_leaves_no_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4, got 3"):
        HackAlarm(3)
    with pytest.raises(ValueError, match="at most 4"):
        HackAlarm(4, ((0.0, 0.0),) * 5)


def test_each_reward_has_an_alarm_of_its_own_and_the_one_that_fires_is_named() -> None:
    watch, fired = HackWatch(4), []
    for look in range(6):
        for cycle in range(3):
            watch.rewarded("flat", float(cycle))
            watch.rewarded("rising", 3.0 * look + cycle)
        watch.judged(-float(look))
        fired.append(watch.rising)
    assert fired == ["", "", "", "rising", "rising", "rising"]


def test_a_look_without_a_cycle_since_the_one_before_begins_a_new_window() -> None:
    watch = HackWatch(4)
    for look in range(3):
        watch.rewarded("rising", float(look))
        watch.judged(-float(look))
    watch.judged(-3.0)
    for look in range(3, 6):
        watch.rewarded("rising", float(look))
        watch.judged(-float(look))
    assert watch.rising == ""
    watch.rewarded("rising", 6.0)
    watch.judged(-6.0)
    assert watch.rising == "rising"

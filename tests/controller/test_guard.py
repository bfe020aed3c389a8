"""The guard tells growth without bound from the ups and downs of a run, and forgets nothing over a checkpoint."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config.faults import GuardSection
from advdmd_ray.controller.guard import Guard, Watched, upper_limit, watched
from advdmd_ray.errors import CheckpointError
from advdmd_ray.learner.cadence import CyclePlan
from advdmd_ray.learner.outcome import CycleReport, UpdateReport

LOSS = "advdmd_learner_loss{objective=fake_score}"
settings = GuardSection()
healthy = st.lists(st.floats(1.0, 50.0), min_size=3, max_size=60)


def fed(values: list[float], guard: Guard | None = None, *, first: int = 1, learned: bool = True) -> Guard:
    """The guard after one series had these values."""
    guard = Guard(settings) if guard is None else guard
    for cycle, value in enumerate(values, start=first):
        guard = guard.fed(cycle, [Watched(LOSS, value, 1.0, learned)])
    return guard


def limit(past: list[float], scale: float = 1.0) -> float:
    return upper_limit(past, scale, factor=settings.factor, deviations=settings.deviations)


def report(**changed: UpdateReport) -> CycleReport:
    return CycleReport(
        version=3,
        plan=CyclePlan("warm", 1, 1, 1, 0),
        updates=changed,
        auc=(0.6,),
        smoothed_auc=(0.6,),
        open_levels=(True,),
        reward_mean=(-40.0,),
        reward_spread=(0.25,),
        policy=None,
        fresh_deviation=math.nan,
        trajectories=8,
        seconds=1.0,
    )


@given(healthy, st.floats(0.1, 1000))
def test_the_limit_goes_with_the_unit_of_the_series(past: list[float], unit: float) -> None:
    assert limit([unit * value for value in past], unit) == pytest.approx(unit * limit(past), rel=1e-6)


@given(st.floats(1.0, 1e6), st.lists(st.floats(1.0, 1e30), max_size=9), st.data())
def test_wild_values_in_a_row_do_not_move_the_limit_of_a_calm_series(
    calm: float, wild: list[float], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, 30))
    assert limit([*[calm] * place, *wild, *[calm] * (30 - place)]) == pytest.approx(settings.factor * calm)


@given(healthy)
def test_no_value_within_a_hundred_times_the_median_is_ever_out(past: list[float]) -> None:
    assert limit(past) >= settings.factor * 0.999 * sorted(past)[len(past) // 2 - (len(past) % 2 == 0)]


def test_a_series_that_varies_by_orders_of_magnitude_may_go_further() -> None:
    jumps = np.exp(10 + 2 * np.random.default_rng(0).standard_normal(400))
    assert math.log(limit([*jumps])) == pytest.approx(10 + settings.deviations * 2, rel=0.1)
    assert limit([math.exp(10)] * 30) == pytest.approx(settings.factor * math.exp(10))


def test_a_loss_may_grow_from_almost_nothing_to_its_natural_size() -> None:
    # The DMD loss of a student that still equals its teacher, as it is measured.
    assert not fed([6e-5, 2e-4, 6e-4, 1e-3, 0.02, 0.3, 2.0]).out


def test_a_loss_that_explodes_is_warned_of_once_and_stops_the_run_after_the_patience() -> None:
    # The fake score's loss of the digits at dmd.learning_rate=1.0, as it was measured.
    values = [0.238, 0.239, 2.63e9, 2.2e14, 1.57e15]
    entered = [len(fed(values[:count]).entered) for count in range(1, 6)]
    stops = [fed(values[:count]).stops for count in range(1, 6)]
    assert entered == [0, 0, 1, 0, 0]
    assert stops[:4] == [None] * 4
    assert stops[4] is not None
    assert (stops[4].series, stops[4].since) == (LOSS, 3)
    assert stops[4].text() == (f"{LOSS} is 1.57e+15 in cycle 5 (0.238 to 0.239 before, at most 1e+04 is in range)")


@given(st.lists(st.floats(1.0, 50.0), max_size=60), st.floats(1.25, 1e6))
def test_growth_by_a_factor_in_every_cycle_is_found_however_the_past_was(past: list[float], factor: float) -> None:
    guard, value = fed(past), 50.0
    for cycle in range(len(past) + 1, len(past) + 200):
        value = min(value * factor, 1e300)
        guard = guard.fed(cycle, [Watched(LOSS, value, 1.0)])
        if guard.stops:
            return
    raise AssertionError("it grew for 200 cycles")


def test_a_series_that_comes_back_in_time_is_no_longer_out_and_leaves_no_trace_in_the_past() -> None:
    calm = fed([0.3] * 10)
    spiked = fed([1e9, 1e9], calm, first=11)
    assert spiked.since == 11
    assert spiked.stops is None
    back = fed([0.3], spiked, first=13)
    assert (back.out, back.since, back.stops) == ({}, None, None)
    assert max(back.past[LOSS]) == 0.3
    assert fed([1e9], back, first=14).entered, "and may be warned of again"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_finite_number_stops_at_once(value: float) -> None:
    for past in ([], [0.3] * 10):
        stop = fed([*past, value]).stops
        assert stop is not None
        assert stop.since == len(past) + 1


def test_a_gradient_that_is_not_finite_was_skipped_and_stops_only_if_it_goes_on() -> None:
    calm = fed([0.3] * 10, learned=False)
    assert fed([math.inf, math.inf], calm, first=11, learned=False).stops is None
    assert fed([math.inf] * 3, calm, first=11, learned=False).stops is not None


@pytest.mark.parametrize("wild", [math.inf, 1e9])
def test_a_series_that_pauses_stops_the_run_after_as_many_of_its_own_values_and_not_of_cycles(wild: float) -> None:
    """RL's gradient in a ramp comes in every eighth cycle."""
    guard = fed([0.1] * 10, learned=False)
    for number in range(settings.patience):
        assert guard.stops is None
        first = 16 + 8 * number
        guard = guard.fed(first, [Watched(LOSS, wild, 1.0, learned=False)])
        for cycle in range(first + 1, first + 8):
            guard = guard.fed(cycle, [Watched("other", 0.3, 1.0)])
    assert guard.stops is not None
    assert guard.stops.since == 16
    assert f"in cycle {16 + 8 * (settings.patience - 1)} " in guard.stops.text()


def test_a_series_that_is_out_and_falls_silent_is_doubtful_for_a_window_and_still_counts_if_it_goes_on() -> None:
    guard = fed([0.1] * 10 + [1e9], learned=False)
    assert guard.doubtful
    for cycle in range(12, 11 + settings.window):
        guard = guard.fed(cycle, [])
        assert guard.doubtful
    guard = guard.fed(11 + settings.window, [])
    assert not guard.doubtful
    assert guard.out
    for more in range(1, settings.patience):
        guard = fed([1e9], guard, first=11 + settings.window + more, learned=False)
        assert guard.doubtful
    assert guard.stops is not None


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20))
def test_a_guard_that_is_off_says_nothing(values: list[float]) -> None:
    off = fed(values, Guard(GuardSection(enabled=False)))
    assert not off.out
    assert off.stops is None


def test_the_past_is_as_long_as_the_window_and_follows_a_slow_drift() -> None:
    slow = [1.1**cycle for cycle in range(400)]
    guard = fed(slow)
    assert not guard.out, "a loss that grows tenfold in 24 cycles, for ever, is the drift of a GAN's logits"
    assert guard.past[LOSS] == tuple(slow[-settings.window :])


def test_losses_norms_and_spreads_of_a_report_are_watched_under_the_names_of_their_metrics() -> None:
    cycle = report(
        dmd=UpdateReport(1, 0, 0.5, 2.0, 1.0),
        rl=UpdateReport(0, 0, math.nan, 0.0, 1.0),
        fake_score=UpdateReport(1, 2, 1.0, math.inf, 1.0),
    )
    found = {each.series: (each.value, each.scale, each.learned) for each in watched(cycle, 5.0)}
    assert found == {
        "advdmd_learner_loss{objective=dmd}": (0.5, 1.0, True),
        "advdmd_learner_gradient_norm{objective=dmd}": (2.0, 5.0, False),
        LOSS: (1.0, 1.0, True),
        "advdmd_learner_gradient_norm{objective=fake_score}": (math.inf, 5.0, False),
        "advdmd_reward_spread{level=1}": (0.25, 1.0, True),
    }
    names = {sample.key for sample in cycle.samples()}
    assert set(found) <= names


@given(st.lists(st.floats(-1e3, 1e3), max_size=80))
def test_a_checkpoint_keeps_the_past(values: list[float]) -> None:
    guard = fed(values)
    again = Guard.from_state(json.loads(json.dumps(guard.state(), allow_nan=False)), settings)
    assert dict(again.past) == dict(guard.past)
    assert Guard.from_state(None, settings).past == {}


@pytest.mark.parametrize("state", [{}, {"past": 3}, {"past": {"a": ["x"]}}, {"past": {"a": None}}])
def test_a_malformed_past_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="guard: malformed past"):
        Guard.from_state(state, settings)

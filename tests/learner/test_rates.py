"""Learning rates fall on a straight line over the run."""

from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.learner.updates import rate_factor


@given(cycles=st.integers(2, 10_000), final=st.floats(0.01, 1.0))
def test_rates_start_whole_and_end_at_the_final_share(cycles: int, final: float) -> None:
    assert rate_factor(0, cycles, final) == 1
    assert abs(rate_factor(cycles - 1, cycles, final) - final) < 1e-9


@given(cycles=st.integers(1, 500), final=st.floats(0.01, 1.0), version=st.integers(0, 1000))
def test_rates_never_rise_and_never_leave_their_range(cycles: int, final: float, version: int) -> None:
    here, later = rate_factor(version, cycles, final), rate_factor(version + 1, cycles, final)
    assert final - 1e-12 <= later <= here <= 1


def test_a_single_cycle_runs_at_the_whole_rate() -> None:
    assert rate_factor(0, 1, 0.1) == 1

"""Noise levels of student and teacher."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.diffusion.schedule import shift_sigmas, student_sigmas, teacher_sigmas

SHIFTS = st.floats(0.1, 12.0)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=9, unique=True), SHIFTS)
def test_student_levels_keep_their_order_and_end_at_zero(thousandths: list[int], shift: float) -> None:
    before = [n / 1000 for n in sorted(thousandths, reverse=True)]
    sigmas = student_sigmas(before, shift)
    assert sigmas.dtype == torch.float32
    assert sigmas[-1] == 0
    assert bool((sigmas[:-1] > sigmas[1:]).all())
    assert float(sigmas[0]) <= 1


@given(st.floats(0.01, 0.99), SHIFTS, SHIFTS)
def test_shifts_multiply(sigma: float, first: float, second: float) -> None:
    start = torch.tensor([1.0, sigma, 0.0])
    both = shift_sigmas(shift_sigmas(start, first), second)
    torch.testing.assert_close(both, shift_sigmas(start, first * second), rtol=1e-4, atol=1e-6)
    assert both[0] == 1
    assert both[2] == 0


def test_a_larger_shift_means_more_noise() -> None:
    sigmas = torch.tensor([0.75, 0.5, 0.25])
    assert torch.equal(shift_sigmas(sigmas, 1.0), sigmas)
    assert bool((shift_sigmas(sigmas, 3.0) > sigmas).all())


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_levels_are_those_of_the_stock_scheduler_bit_for_bit(shift: float) -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=shift)
    before = [1.0, 0.75, 0.5, 0.25]
    scheduler.set_timesteps(sigmas=before)
    assert torch.equal(scheduler.sigmas, student_sigmas(before, shift))
    uniform = list(np.arange(40, 0, -1) / 40)
    scheduler.set_timesteps(sigmas=uniform)
    assert torch.equal(scheduler.sigmas, teacher_sigmas(40, shift))


@pytest.mark.parametrize("levels", [[], [0.5, 0.5], [0.5, 0.75], [1.0, 0.0], [1.5, 1.0], [1.0, float("nan")]])
def test_levels_that_are_no_schedule_are_refused(levels: list[float]) -> None:
    with pytest.raises(ValueError, match="decrease strictly"):
        student_sigmas(levels, 1.0)


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan"), float("inf")])
def test_a_shift_that_is_no_positive_number_is_refused(shift: float) -> None:
    with pytest.raises(ValueError, match="positive number"):
        student_sigmas([1.0], shift)


def test_a_sampler_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        teacher_sigmas(0, 1.0)

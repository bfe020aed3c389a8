"""Noise levels of the student and of the teacher.

Levels are float32 tensors that stay on the CPU: a step reads single levels as numbers, which must not wait for
an accelerator. The arithmetic is that of diffusers' `FlowMatchEulerDiscreteScheduler` with `sigmas=` given, so
a teacher is sampled at the levels of its pipeline, and an exported student at the very levels it was trained at.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def shift_sigmas(sigmas: Float[Tensor, " k"], shift: float) -> Float[Tensor, " k"]:
    """Moves levels towards noise: `sigma -> shift sigma / (1 + (shift - 1) sigma)` (SD3, arXiv 2403.03206).

    0 and 1 are fixed points; 1 is held exactly, where float32 would end beside it for some shifts.

    Args:
        sigmas: Levels in [0, 1].
        shift: Dimensionless, > 0; 1 changes nothing.

    Raises:
        ValueError: if `shift` is not a positive number.
    """
    if not 0 < shift < math.inf:
        raise ValueError(f"shift must be a positive number, got {shift}")
    shifted = shift * sigmas / (1 + (shift - 1) * sigmas)
    return torch.where(sigmas == 1, torch.ones_like(sigmas), shifted)


def student_sigmas(before_shift: Sequence[float], shift: float) -> Float[Tensor, " k1"]:
    """The K levels of the student after the shift, and the final 0.

    Args:
        before_shift: K levels in (0, 1], strictly decreasing, as diffusers takes them in `sigmas=`.
        shift: As in `shift_sigmas`.

    Returns:
        K + 1 float32 levels, strictly decreasing to 0.

    Raises:
        ValueError: if there is no level, one lies outside (0, 1], or they do not strictly decrease.
    """
    levels = list(before_shift)
    inside = all(0 < level <= 1 for level in levels)
    if not levels or not inside or any(a <= b for a, b in itertools.pairwise(levels)):
        raise ValueError(f"sigmas must decrease strictly within (0, 1], got {levels}")
    shifted = shift_sigmas(torch.tensor(levels, dtype=torch.float32), shift)
    return torch.cat([shifted, torch.zeros(1)])


def stretch_sigmas(sigmas: Float[Tensor, " k"], terminal: float) -> Float[Tensor, " k"]:
    """Stretches levels away from 1 until the last is `terminal`: `1 - (1 - sigma) (1 - terminal) / (1 - last)`.

    Diffusers' `shift_terminal`, which Qwen-Image has. A single level at 1 has nothing to stretch and stays.

    Args:
        sigmas: Strictly decreasing levels in (0, 1].
        terminal: In (0, 1).

    Raises:
        ValueError: if `terminal` lies outside (0, 1).
    """
    if not 0 < terminal < 1:
        raise ValueError(f"a terminal level must lie in (0, 1), got {terminal}")
    from_noise = 1 - sigmas
    return sigmas if from_noise[-1] == 0 else 1 - from_noise * (1 - terminal) / from_noise[-1]


def teacher_sigmas(steps: int, shift: float, terminal: float | None = None) -> Float[Tensor, " k1"]:
    """`steps` levels, uniform from 1 to 1/steps before the shift, and the final 0.

    Args:
        steps: At least 1.
        shift: As in `shift_sigmas`.
        terminal: As in `stretch_sigmas`; None stretches nothing.

    Raises:
        ValueError: if `steps` < 1, or `shift` or `terminal` is out of range.
    """
    if steps < 1:
        raise ValueError(f"a sampler needs at least 1 step, got {steps}")
    sigmas = student_sigmas([(steps - k) / steps for k in range(steps)], shift)
    return sigmas if terminal is None else torch.cat([stretch_sigmas(sigmas[:-1], terminal), sigmas[-1:]])

"""TwinFlow: one network whose negative times are its own fake score (arXiv 2512.05150).

Positive time leads from noise to real data, negative time from noise to what the network itself generates: the twin
trajectory. Where the two velocities differ, the generated distribution differs from the real one, and the difference
is the direction in which a generated sample has to move. The formulas are those of the authors' tutorial and training
code (github.com/inclusionAI/TwinFlow); flow matching itself is in `fake_score.py`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

# Step of the consistency objective in units of time: "Delta t" of RCGM, arXiv 2512.05150's base objective.
CONSISTENCY_STEP = 0.01

# Root mean square below which a difference counts as this large: "c" of the authors' reweighted loss.
RMS_FLOOR = 1e-3


@torch.no_grad()
def velocity_gap(
    twin: Float[Tensor, "b c h w"], real: Float[Tensor, "b c h w"], bound: float
) -> Float[Tensor, "b c h w"]:
    """`clamp(v(y, -t) - v(y, t), -bound, bound)`: how far generated samples are from real ones, as a velocity.

    With `x0_hat = y - t v` it is `(x0_real - x0_twin) / t`, the direction of DMD (arXiv 2311.18828) reversed and
    divided by t. The bound is 1 in the authors' training code; their tutorial has none.

    Args:
        twin: Velocity of the negative branch at noised generated samples y.
        real: Velocity of the positive branch at the same y and |t|.
        bound: Largest absolute value of an element, > 0.

    Returns:
        The gap, float32, detached from both.
    """
    return (twin.float() - real.float()).clamp(-bound, bound)


@torch.no_grad()
def consistency_residual(
    velocity: Float[Tensor, "b c h w"],
    following: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    step: Float[Tensor, " b"],
    bound: float,
) -> Float[Tensor, "b c h w"]:
    """What keeps a jump from t to 0 from being a short step along the flow and a jump from there.

    Consistent jumps satisfy `t F(x_t, t) = d v + (t - d) F(x_t - d v, t - d)`. The residual is
    `clamp((t F(x_t, t) - (t - d) F(x_t - d v, t - d)) / d - v, -bound, bound)`: the recursive consistency target of
    order 1 for target time 0 in the authors' code. At d = t it is F - v.

    Args:
        velocity: F(x_t, t), the mean velocity from t to 0 that the network predicts.
        following: F(x_t - d v, t - d); its value does not matter where d = t.
        target: v, the velocity of the flow at x_t.
        t: Noise levels, in (0, 1].
        step: d, in (0, t].
        bound: Largest absolute value of an element, > 0.

    Returns:
        The residual, float32, detached from all.
    """
    level, stride = t.float().reshape(-1, 1, 1, 1), step.float().reshape(-1, 1, 1, 1)
    change = (level * velocity.float() - (level - stride) * following.float()) / stride
    return (change - target.float()).clamp(-bound, bound)


def steering_loss(
    velocity: Float[Tensor, "b c h w"],
    direction: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """`mean_b [w_b mean_CHW (F - sg(F - direction))^2]`: it moves F against `direction`, whatever F is.

    Without weights the value is `mean direction^2` and the gradient exactly `2 direction / numel`. It is the
    rectification loss with `velocity_gap` as the direction: the sample `x0 = x_t - t F` then moves along
    `x0_real - x0_twin`. It is the consistency loss with `consistency_residual`, and the twin's flow matching with
    `F - (eps - x0)`.

    Args:
        velocity: F, the network's answer.
        direction: Where it must not go.
        weight: Of each row, 1 if absent.
    """
    velocity, direction = velocity.float(), direction.detach().float()
    loss = (2 * (velocity - velocity.detach()) * direction + direction.square()).mean(dim=(1, 2, 3))
    return loss.mean() if weight is None else (weight * loss).mean()


@torch.no_grad()
def inverse_rms(difference: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """`1 / sqrt(mean_CHW difference^2 + c^2)`, c = `RMS_FLOOR`: a row's weight in all of TwinFlow's losses.

    A squared difference with this weight has a gradient of one size, however large the difference is: far rows do not
    drown near ones. It is the authors' "Barron reweighting" with alpha 1 (general robust loss, arXiv 1701.03077), but
    for their addition of 1e-8 to c^2, which raises the weight by 0.5 % at most.

    Args:
        difference: Of the network's answer from its target.
    """
    return (difference.float().square().mean(dim=(1, 2, 3)) + RMS_FLOOR**2).rsqrt()


def time_gap_weight(gap: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """`tan((1 - gap) pi / 2.5) + 1`: the authors' weight of a jump over so much time, in [0, 1].

    1 for the jump from noise to data, 4.08 for one that goes nowhere.
    """
    return torch.tan((1 - gap.float()) * math.pi / 2.5) + 1

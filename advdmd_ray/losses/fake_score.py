"""Flow-matching regression: how the fake score follows the student's distribution."""

from jaxtyping import Float
from torch import Tensor


def noised(
    x0: Float[Tensor, "b c h w"], eps: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """The state at level t in [0, 1] of clean latents and noise: `(1 - t) x0 + t eps`, float32."""
    level = t.float().reshape(-1, 1, 1, 1)
    return (1 - level) * x0.float() + level * eps.float()


def flow_matching_loss(
    velocity: Float[Tensor, "b c h w"],
    x0: Float[Tensor, "b c h w"],
    eps: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """`mean_b [w_b mean_CHW (v - (eps - x0))^2]` in float32 (flow matching, arXiv 2210.02747).

    Args:
        velocity: The network's output at `noised(x0, eps, t)`.
        x0: Clean latents: generated ones for the fake score, real ones for a teacher.
        eps: The noise that was mixed in.
        weight: Weight of each sample, 1 if absent.
    """
    error = (velocity.float() - (eps.float() - x0.float())).square().mean(dim=(1, 2, 3))
    return error.mean() if weight is None else (weight * error).mean()

"""Distribution matching distillation: the gradient that moves the student's distribution to the teacher's."""

import torch
from jaxtyping import Float
from torch import Tensor

# Keeps the normaliser of a sample that already equals the teacher's prediction away from 0.
NORMALISER_FLOOR = 1e-6


@torch.no_grad()
def dmd_gradient(
    x0: Float[Tensor, "b c h w"], x0_fake: Float[Tensor, "b c h w"], x0_real: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """The normalised DMD gradient (DMD2, arXiv 2405.14867; DMD, arXiv 2311.18828, eq. 8).

    `g = (x0_fake - x0_real) / (mean_CHW |x0 - x0_real| + 1e-6)`, per sample. Against g the student's sample moves
    from what its own score expects to what the teacher's expects.

    Args:
        x0: The student's clean latents.
        x0_fake: The fake score's prediction of x0 from the noised x0.
        x0_real: The (guided) teacher's prediction from the same noised x0.

    Returns:
        g, float32, detached from all three.
    """
    x0, x0_fake, x0_real = x0.float(), x0_fake.float(), x0_real.float()
    distance = (x0 - x0_real).abs().mean(dim=(1, 2, 3), keepdim=True)
    return (x0_fake - x0_real) / (distance + NORMALISER_FLOOR)


def dmd_loss(x0: Float[Tensor, "b c h w"], gradient: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """A scalar whose gradient with respect to x0 is exactly `gradient / (b c h w)`.

    Its value is `1/2 mean(gradient^2)`, that of `1/2 mean (x0 - sg(x0 - g))^2`, but g does not pass through the
    rounding of x0 - g. The mean over the batch makes the loss of a batch the mean of the losses of its equal parts.
    """
    x0, gradient = x0.float(), gradient.detach().float()
    return ((x0 - x0.detach()) * gradient).mean() + 0.5 * gradient.square().mean()

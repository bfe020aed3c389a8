"""The discriminator's losses and measures. Logits are high for real and low for generated samples."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

LEAST_STEEPNESS = 1e-3
"""Change of a logit below which D is blind, if a latent's elements move by 1; ours."""


def discriminator_loss(real_logits: Float[Tensor, "..."], fake_logits: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """`mean softplus(-D(real)) + mean softplus(D(fake))`, nats; 2 log 2 for a blind D (GAN, arXiv 1406.2661)."""
    return softplus(-real_logits.float()).mean() + softplus(fake_logits.float()).mean()


def generator_loss(fake_logits: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """The non-saturating loss `mean softplus(-D(fake))`, nats: falls as D takes the samples for real."""
    return softplus(-fake_logits.float()).mean()


def mismatch_loss(mismatched_logits: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """`mean softplus(D(real, wrong text))`, nats: falls as D takes real images of another text for generated ones.

    The third kind of pair of a matching-aware discriminator (Reed et al., arXiv 1605.05396).
    """
    return softplus(mismatched_logits.float()).mean()


def relativistic_loss(real_logits: Float[Tensor, " n"], fake_logits: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """`mean softplus(-(D(real_i) - D(fake_i)))` over pairs of one prompt and level (arXiv 1807.00734), nats.

    Adding one number to all logits changes nothing. With the roles swapped it is the generator's loss.
    """
    return softplus(fake_logits.float() - real_logits.float()).mean()


def r1_style_penalty(logits: Float[Tensor, " *n"], logits_perturbed: Float[Tensor, " *n"]) -> Float[Tensor, ""]:
    """`mean (D(y) - D(y + sigma n))^2` for a small Gaussian perturbation of the *noised* sample y.

    To first order in sigma it is `sigma^2 mean ||grad_y D||^2`, the R1 penalty (arXiv 1801.04406) without a second
    derivative. The caller perturbs y and owns sigma.
    """
    return (logits.float() - logits_perturbed.float()).square().mean()


@torch.no_grad()
def direct_gan_gradient(
    slope: Float[Tensor, "b c h w"], margin: Float[Tensor, " b"], reference: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """The generator's gradient at x0, with D's slope in units of another gradient; its saturation stays as it is.

    `-2 sigmoid(-m_i) dD_i/dx0_i ||reference|| / ||slope|| (1 - q / steepness)_+`. Up to a factor that all rows share it
    is the gradient of `mean softplus(-m_i)` (`generator_loss`). `2 sigmoid(-m)` is 1 where D is undecided, near 2 where
    it is sure that the sample is generated, and falls to 0 as it takes the sample for real: there is nothing left to
    learn from it then. The steepness is the root mean square over the rows of `sqrt(CHW) ||dD_i/dx0_i||`: what a logit
    changes by if the latent moves along the slope, its elements by 1 in the root mean square. Below q,
    `LEAST_STEEPNESS`, D is blind, and what it says is round-off. DMD2 (arXiv 2405.14867) adds the plain gradient with a
    weight chosen for each network; the units are ours.

    Args:
        slope: Of each row's logit at its x0.
        margin: m: the row's logit, or in the relativistic form what it exceeds that of its real partner by.
        reference: The gradient whose norm is the unit, of the same rows.

    Returns:
        The gradient: its norm is that of the reference if all margins are 0. Exactly 0 for a blind D.
    """
    slope, norm = slope.float(), torch.linalg.vector_norm(slope, dtype=torch.float64)
    steepness = norm * (slope[0].numel() / len(slope)) ** 0.5
    heard = (1 - LEAST_STEEPNESS / steepness).clamp(min=0)
    unit = torch.where(heard > 0, heard * torch.linalg.vector_norm(reference, dtype=torch.float64) / norm, 0.0)
    saturation = 2 * torch.sigmoid(-margin.float()).reshape(-1, 1, 1, 1)
    return -unit.float() * saturation * slope


@torch.no_grad()
def auc(real_logits: Float[Tensor, "..."], fake_logits: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Probability that a real logit exceeds a fake one, ties counted half: the exact area under the ROC curve.

    0.5 is chance, 1 perfect. NaN if any logit is NaN, so that a gate on it closes.

    Raises:
        ValueError: if either set is empty.
    """
    real, fake = real_logits.flatten().contiguous(), fake_logits.flatten().sort().values
    if not real.numel() or not fake.numel():
        raise ValueError(f"an AUC needs real and fake logits, got {real.numel()} and {fake.numel()}")
    if bool(real.isnan().any() | fake.isnan().any()):
        return torch.full((), torch.nan, device=real.device)
    below = torch.searchsorted(fake, real, right=False)
    up_to = torch.searchsorted(fake, real, right=True)
    return ((below + up_to).double().mean() / (2 * fake.numel())).float()


@torch.no_grad()
def pair_agreement(scores: Float[Tensor, "n k"], truth: Float[Tensor, " n"]) -> Float[Tensor, " k"]:
    """Share of the pairs i, j with `truth_i > truth_j` for which `score_i > score_j`, ties of scores counted half.

    The AUC inside one group, of any number of grades of truth; `2 share - 1` is Kendall's tau over the pairs that the
    truth does not tie (Goodman and Kruskal's gamma, if no scores are tied).

    Returns:
        One share for each of k kinds of scores, in [0, 1]; nan if the truth ties all pairs, or a score is nan.
    """
    above = truth.unsqueeze(1) > truth.unsqueeze(0)
    gaps = (scores.unsqueeze(1) - scores.unsqueeze(0))[above]
    won = torch.where(gaps.isnan(), gaps, 0.5 + 0.5 * gaps.sign())
    return won.mean(dim=0)

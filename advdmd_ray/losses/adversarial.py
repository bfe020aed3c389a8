"""The discriminator's losses and measures. Logits are high for real and low for generated samples."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus


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
def gradient_norm_scale(reference_grad: Float[Tensor, "..."], other_grad: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """The factor that gives `other_grad` the Euclidean norm of `reference_grad`; 0 if `other_grad` is 0.

    Norms are those of the tensors given: ranks that must agree on one factor have to agree on one pair of norms.
    """
    reference = torch.linalg.vector_norm(reference_grad, dtype=torch.float64)
    other = torch.linalg.vector_norm(other_grad, dtype=torch.float64)
    return torch.where(other > 0, reference / other, torch.zeros_like(other)).float()


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

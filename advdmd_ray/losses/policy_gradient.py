"""The policy-gradient loss on stored actions, with trust regions that do not depend on the latent's size.

Thresholds are nats of a whole latent. Ratios are those of `kernels.log_ratio`, means over the latent's elements, so
a threshold on them is divided by `numel` (c h w), and the loss's gradient at equal weights is the REINFORCE gradient
divided by `numel`.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TrustRegion: TypeAlias = Literal["flow_dppo", "ppo_clip", "grpo_guard"]


@dataclass(frozen=True, slots=True)
class PolicyTerms:
    """One entry per stored action of a batch.

    Attributes:
        log_ratio: `[b]` new against behaviour policy, nats per element, or `end_pull`; carries the gradient.
        kl_per_element: `[b]` KL divergence of the two, nats per element, >= 0.
        advantage: `[b]` signed, about unit scale.
        step_weight: `[b]` weight of the action's step, >= 0; 0 leaves the action out.
        std: `[b]` standard deviation of the action's step, latent units, > 0; read by `grpo_guard`.
    """

    log_ratio: Float[Tensor, " b"]
    kl_per_element: Float[Tensor, " b"]
    advantage: Float[Tensor, " b"]
    step_weight: Float[Tensor, " b"]
    std: Float[Tensor, " b"]


@dataclass(frozen=True, slots=True)
class PolicyGradientReport:
    """What one batch did; scalars without gradient on the batch's device.

    Attributes:
        clipped_fraction: Share of the b terms that the trust region kept from the gradient, in [0, 1].
        learnt_terms: How many terms reach the gradient: weighted, of an advantage, and inside the trust region.
        mean_kl_nats: Mean KL divergence of a whole latent from the behaviour policy, nats.
    """

    clipped_fraction: Float[Tensor, ""]
    learnt_terms: Float[Tensor, ""]
    mean_kl_nats: Float[Tensor, ""]


def policy_gradient_loss(
    terms: PolicyTerms, *, numel: int, trust_region: TrustRegion, kl_nats: float, clip_nats: float
) -> tuple[Float[Tensor, ""], PolicyGradientReport]:
    """`L = -1/b sum_i w_i A_i rho_i`; dropped terms count in b, so ranks with equal shares average to the whole.

    * `flow_dppo` (default): `rho = exp(log_ratio)`. A term is dropped if it moves away from the behaviour policy
      (A and log_ratio have one sign) and its KL divergence `kappa numel` exceeds `kl_nats`.
    * `ppo_clip` (PPO, arXiv 1707.06347): the smaller of `A rho` and `A rho_c`, with log_ratio clamped to
      `clip_nats / numel` in rho_c.
    * `grpo_guard`: our reading of the ratio normalisation of GRPO-Guard (arXiv 2510.22319). The log-ratio's mean under
      the behaviour policy, -kappa, is taken out and its spread made the same at every step:
      `u = std (log_ratio + kappa)`, which is `mean[(mean_new - mean_old) z]` with the action's noise z. Then PPO's
      clip on u at `clip_nats / numel`, and `rho = 1 + (exp(u) - 1) / std`, so that the step weights alone decide how
      much a step counts.

    All three have value and gradient of REINFORCE at equal weights: `-w A` and `-w A score / numel`.

    Args:
        terms: The actions, b >= 1.
        numel: Elements of one latent, c h w.
        trust_region: Which of the above.
        kl_nats: Threshold of `flow_dppo`, > 0, nats of a whole latent.
        clip_nats: Threshold of `ppo_clip` and `grpo_guard`, > 0, nats of a whole latent.

    Raises:
        ValueError: if there is no term or a number is not positive.
    """
    if not terms.log_ratio.numel() or numel < 1 or not kl_nats > 0 or not clip_nats > 0:
        raise ValueError(
            f"a policy gradient needs terms and positive numel, kl_nats and clip_nats, got "
            f"{terms.log_ratio.numel()} terms, {numel}, {kl_nats} and {clip_nats}"
        )
    gain, left_out = terms.advantage.detach(), terms.step_weight == 0
    if trust_region == "flow_dppo":
        leaves = gain.sign() * terms.log_ratio.detach().sign() > 0
        clipped = leaves & ~left_out & (terms.kl_per_element.detach() * numel > kl_nats)
        ratio = _bounded(terms.log_ratio, clipped | left_out).exp()
        objective = torch.where(clipped, torch.zeros_like(gain), gain * ratio)
    else:
        objective, clipped = _clipped(terms, gain, left_out, trust_region, clip_nats / numel)
    learnt = ~clipped & ~left_out & (gain != 0)
    return -(terms.step_weight * objective).mean(), _report(terms, clipped, learnt, numel)


def _bounded(exponent: Tensor, dropped: Tensor) -> Tensor:
    """Exponents, 0 for the terms that are dropped: theirs may overflow, and 0 times infinity is no number."""
    return torch.where(dropped, torch.zeros_like(exponent), exponent)


def _clipped(
    terms: PolicyTerms, gain: Tensor, left_out: Tensor, region: TrustRegion, limit: float
) -> tuple[Tensor, Tensor]:
    """PPO's pessimistic objective, and which terms its clip keeps from the gradient."""
    if region == "ppo_clip":
        exponent, spread = terms.log_ratio, torch.ones_like(terms.std)
    else:
        exponent, spread = terms.std * (terms.log_ratio + terms.kl_per_element), terms.std
    exponent = _bounded(exponent, left_out)
    clipped = (gain.sign() * exponent.detach().sign() > 0) & (exponent.detach().abs() > limit)
    # expm1 keeps small ratios apart that 1 + x would round together.
    free = gain * (1 + _bounded(exponent, clipped).expm1() / spread)
    held = gain * (1 + exponent.clamp(-limit, limit).expm1() / spread)
    return torch.where(clipped, held, free), clipped


@torch.no_grad()
def _report(terms: PolicyTerms, clipped: Tensor, learnt: Tensor, numel: int) -> PolicyGradientReport:
    return PolicyGradientReport(
        clipped_fraction=clipped.float().mean(),
        learnt_terms=learnt.float().sum(),
        mean_kl_nats=terms.kl_per_element.detach().mean() * numel,
    )


def stale_mask(kappa_prox_behaviour: Float[Tensor, " b"], numel: int, stale_nats: float) -> Bool[Tensor, " b"]:
    """True for rows to drop: the proximal policy is farther than `stale_nats` from the one that acted.

    Args:
        kappa_prox_behaviour: KL divergence of the learner's policy from the behaviour policy, nats per element. NaN is
            stale.
        numel: Elements of one latent, c h w.
        stale_nats: Threshold, nats of a whole latent.
    """
    return ~(kappa_prox_behaviour * numel <= stale_nats)


def end_pull(
    clean: Float[Tensor, "b c h w"],
    old: Float[Tensor, "b c h w"],
    end: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
) -> Float[Tensor, " b"]:
    """`2 mean[(x0_new - x0_old)(x0_end - x0_old)] / t^2`: how far an action's prediction goes to what came of it.

    It stands in the place of `kernels.log_ratio`, whose gradient at equal weights points along the noise z that the
    action drew. This one points along what the later steps made of z: with J the derivative of the final latent by z,
    the mean of `A J z` is `J J^T` times what that of `A z` becomes, to first order, so the reward rises too, and the
    part of z that no image shows is not in it. At equal weights its gradient is minus that of
    `mean[(v - (x - x0_end) / t)^2]`, flow matching from the state of the action to its trajectory's end; ours, next of
    kin to advantage-weighted matching (AWM, arXiv 2509.25050), which noises the final latent anew.

    Args:
        clean: The learner's clean prediction at the action's state.
        old: That of the policy that acted.
        end: Final latent of the trajectory.
        t: Noise level of the state, in (0, 1].

    Returns:
        0 at equal weights.
    """
    return 2 * ((clean - old) * (end - old)).flatten(1).mean(dim=1) / t.square()


def step_weights(stds: Float[Tensor, " m"], power: int) -> Float[Tensor, " m"]:
    """`s_k^p`, s_k the standard deviation of step k = 0..K-2.

    The score of a Gaussian action is `z / s_k`, that of its mean `(a - mean) / s_k^2`: p = 2 cancels the division by
    the variance and gives all steps one scale, p = 0 leaves low-noise steps dominant.
    """
    return stds**power

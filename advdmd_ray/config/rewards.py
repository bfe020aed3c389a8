"""The laws between what RL reads and what gives it: a run whose RL can never learn is refused before it starts."""

import math

from advdmd_ray.config.objectives import (
    CadenceSection,
    DiscriminatorSection,
    DistributionMatchingSection,
    PolicyGradientSection,
)
from advdmd_ray.config.sections import RewardSection


def check_rewards(
    *,
    cadence: CadenceSection,
    discriminator: DiscriminatorSection,
    dmd: DistributionMatchingSection,
    gradient: PolicyGradientSection,
    groups: int,
    reward: RewardSection,
    steps: int,
) -> None:
    """Makes sure that RL has a reward that can reach it, and everything else a discriminator that it needs.

    Args:
        cadence: Of the run.
        discriminator: Of the run.
        dmd: Of the run.
        gradient: RL's section.
        groups: Of a cycle.
        reward: Of the run.
        steps: The student's K.

    Raises:
        ValueError: if not, with the settings to change.
    """
    _discriminator_is_trained(cadence, dmd, gradient, reward)
    if not gradient.enabled or reward.extra is not None:
        return
    if reward.kind == "oracle" and not reads_final(gradient):
        raise ValueError(
            "reward.kind=oracle judges the final image alone, which no advantage reads: choose another "
            "policy_gradient.advantage than own_step, and policy_gradient.final_weight and policy_gradient.gamma "
            "above 0"
        )
    if reward.kind == "discriminator":
        deaf = unheard(discriminator=discriminator, gradient=gradient, groups=groups, steps=steps)
        if deaf is not None:
            raise ValueError("; ".join(deaf))


def unheard(
    *, discriminator: DiscriminatorSection, gradient: PolicyGradientSection, groups: int, steps: int
) -> tuple[str, str] | None:
    """Why no score of a discriminator ever reaches RL, and what to do; None if one may.

    Args:
        discriminator: Of the run.
        gradient: RL's section.
        groups: Of a cycle.
        steps: The student's K.
    """
    if not discriminator.auc_rows:
        return (
            "discriminator.auc_rows=0 leaves RL without what opens a level",
            "raise it, or set reward.kind=oracle or policy_gradient.enabled=false",
        )
    if not reads_scores(gradient, steps):
        why = (
            f"policy_gradient: with advantage={gradient.advantage}, gamma={gradient.gamma:g}, "
            f"final_weight={gradient.final_weight:g} and these intermediate_weight and last_actions no score reaches "
            "an action"
        )
        return why, "raise a weight that is read, or set policy_gradient.enabled=false"
    most = best_evidence(groups, discriminator.auc_decay)
    if discriminator.text_errors is not None and discriminator.text_errors >= most:
        why = (
            f"discriminator.text_errors = {discriminator.text_errors:g} is never reached: a discriminator that tells "
            f"all texts apart comes to {most:.3g} with rollout.groups_per_cycle={groups} and "
            f"discriminator.auc_decay={discriminator.auc_decay:g}"
        )
        return why, "lower it, or raise one of these"
    return None


def _discriminator_is_trained(
    cadence: CadenceSection, dmd: DistributionMatchingSection, gradient: PolicyGradientSection, reward: RewardSection
) -> None:
    if cadence.discriminator_updates:
        return
    if gradient.enabled and reward.needs_open_level:
        raise ValueError(
            "cadence.discriminator_updates=0 leaves RL without a reward; train the discriminator, or set "
            "reward.kind=oracle, reward.extra or policy_gradient.enabled=false"
        )
    if dmd.gan_weight > 0:
        raise ValueError(
            f"dmd.gan_weight = {dmd.gan_weight:g} needs a trained discriminator; set it to 0 or raise "
            "cadence.discriminator_updates"
        )
    if reward.oracle_agreement:
        raise ValueError(
            "reward.oracle_agreement compares a trained discriminator with the oracle; set it to false or "
            "raise cadence.discriminator_updates"
        )


def reads_final(gradient: PolicyGradientSection) -> bool:
    """Whether the final level's score reaches an action: it is discounted at least once on its way."""
    return gradient.advantage != "own_step" and gradient.final_weight > 0 and gradient.gamma > 0


def reads_scores(gradient: PolicyGradientSection, steps: int) -> bool:
    """Whether any level's score reaches the advantage of an action that RL learns from (`losses.advantage`).

    Args:
        gradient: RL's section.
        steps: The student's K; its levels before the final one are as many as its actions.
    """
    if reads_final(gradient):
        return True
    if gradient.advantage == "final_only":
        return False
    given = gradient.intermediate_weight
    weights = given if isinstance(given, tuple) else (given,) * (steps - 1)
    learnt = weights if gradient.last_actions is None else weights[-gradient.last_actions :]
    return any(weight > 0 for weight in learnt)


def best_evidence(groups: int, decay: float, measurements: float = math.inf) -> float:
    """Standard errors above chance of a discriminator that wins every comparison, after N measurements.

    `sqrt(G) sum_i d^i / sqrt(sum_i d^(2 i))`, i = 0..N-1, is `sum L_g / sqrt(sum L_g^2)` of
    `learner.health.agreement_and_error` with `L_g = W_g / 2` of G groups each. It grows with N, towards
    `sqrt(G (1 + d) / (1 - d))`.

    Args:
        groups: G, of a cycle.
        decay: d, in [0, 1).
        measurements: N, at least 1.
    """
    faded = decay**measurements
    return math.sqrt(groups * (1 + decay) * (1 - faded) / ((1 - decay) * (1 + faded)))

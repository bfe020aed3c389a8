"""The policy-gradient objective of the student: its loss on stored actions, and the check of ratio 1.

An action is a row of its own: the loss is a mean over them, so parts of any size add up to the whole.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Denoiser
from advdmd_ray.diffusion.kernels import clean_from_mean, kl_per_element, log_ratio, transition
from advdmd_ray.learner.actions import ActionRows, Actions
from advdmd_ray.learner.batch import LearnerBatch
from advdmd_ray.learner.gang import Gang
from advdmd_ray.learner.outcome import PolicyCycleReport
from advdmd_ray.learner.parts import LossPart, in_parts
from advdmd_ray.learner.setting import Setting
from advdmd_ray.losses.policy_gradient import (
    PolicyGradientReport,
    PolicyTerms,
    end_pull,
    policy_gradient_loss,
    stale_mask,
    step_weights,
)


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """A part of one RL update on this rank.

    Attributes:
        share: Of the update's terms, in (0, 1].
        gradient: The trust region's figures.
        stale: Terms dropped for being too far from the policy that acted.
        fresh_deviation: Largest `|ratio - 1|` over groups of age 0, before this update; None if there was none.
    """

    share: float
    gradient: PolicyGradientReport
    stale: int
    fresh_deviation: float | None


class TurnReports:
    """What the parts of an RL turn's updates tell, gathered over its ranks.

    Args:
        gang: The ranks.
    """

    def __init__(self, gang: Gang) -> None:
        self._gang = gang
        self._parts = list[PolicyReport]()
        self._asked = 0

    def told(self, report: PolicyReport) -> None:
        """Takes the report of the next part."""
        self._parts.append(report)

    def any_learnt(self) -> bool:
        """Whether a term told of since this was asked last reaches a gradient, on any rank. Collective."""
        newest, self._asked = self._parts[self._asked :], len(self._parts)
        return float(self._gang.mean(torch.stack([part.gradient.learnt_terms for part in newest]).sum())) > 0

    def whole(self, *, updates: int, actions: int, spread: float) -> PolicyCycleReport:
        """All parts in one report, averaged over the gang. Collective.

        Args:
            updates: Steps of the turn, idle and skipped ones included.
            actions: That one update learned from, on this rank.
            spread: Standard deviation of this rank's advantages before scaling.
        """
        figures = torch.stack(
            [
                torch.stack([part.share * part.gradient.clipped_fraction for part in self._parts]).sum() / updates,
                torch.stack([part.share * part.gradient.mean_kl_nats for part in self._parts]).sum() / updates,
                torch.tensor(spread),
                torch.tensor(float(sum(part.stale for part in self._parts))),
            ]
        )
        masked, kl, mean_spread, stale = self._gang.mean(figures).tolist()
        return PolicyCycleReport(
            masked_fraction=masked,
            kl_nats=kl,
            advantage_spread=mean_spread,
            stale_terms=round(stale * self._gang.size),
            actions=actions * self._gang.size,
        )


def policy_means(
    student: Denoiser, setting: Setting, batch: LearnerBatch, actions: Actions
) -> Float[Tensor, "g s m c h w"]:
    """The student's mean of every given action, through the same kernel that the rollout used."""
    return action_means(student, setting, batch, actions.rows()).unflatten(0, actions.advantages.shape)


def action_means(
    student: Denoiser, setting: Setting, batch: LearnerBatch, rows: ActionRows
) -> Float[Tensor, "b c h w"]:
    """The same of actions one after the other."""
    conditioning = setting.table.rows(batch.prompt_ids[rows.group])
    velocity = student(rows.states, batch.sigmas[rows.step], conditioning)

    def mean(at: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        return transition(setting.kernel, rows.states[at], velocity[at], t, t_next).mean

    return _step_by_step(mean, batch, rows)


def _step_by_step(
    made: Callable[[Tensor, Tensor, Tensor], Tensor], batch: LearnerBatch, rows: ActionRows
) -> Float[Tensor, "b c h w"]:
    """What is made of the rows of one step and its two levels, for all steps, in the order of the rows."""
    order, parts = [], []
    for step in rows.step.unique().tolist():
        at = (rows.step == step).nonzero().squeeze(1)
        order.append(at)
        parts.append(made(at, batch.sigmas[step], batch.sigmas[step + 1]))
    return torch.cat(parts)[torch.cat(order).argsort()]


def ratio_deviation(means: Float[Tensor, "g s m c h w"], batch: LearnerBatch, actions: Actions) -> float | None:
    """Largest `|ratio - 1|` of the groups whose policy has age 0; None if none has, nan if one is."""
    return _deviation(means.flatten(0, 2), batch, actions.rows())


def _deviation(means: Float[Tensor, "b c h w"], batch: LearnerBatch, rows: ActionRows) -> float | None:
    fresh = batch.policy_ages[rows.group] == 0
    if not bool(fresh.any()):
        return None
    new, std = means[fresh].detach(), batch.stds[rows.step[fresh]]
    ratio = log_ratio(rows.reached[fresh], new, rows.means[fresh], std)
    return float(ratio.expm1().abs().max())  # unlike the builtin max, this one keeps a nan


def policy_parts(
    student: Denoiser,
    setting: Setting,
    batch: LearnerBatch,
    actions: Actions,
    told: Callable[[PolicyReport], None],
) -> list[LossPart]:
    """The policy-gradient loss of the given actions.

    Args:
        student: The network that learns.
        setting: What the objectives share.
        batch: This rank's groups.
        actions: Those to learn from.
        told: Gets the report of each part before its backward pass; what it raises stops the update.
    """
    rows = actions.rows()

    def loss(part: slice) -> Tensor:
        value, report = _policy_loss(student, setting, batch, rows.part(part), len(rows))
        told(report)
        return value

    return in_parts(loss, len(rows), setting.micro_batch)


def _policy_loss(
    student: Denoiser, setting: Setting, batch: LearnerBatch, rows: ActionRows, of: int
) -> tuple[Float[Tensor, ""], PolicyReport]:
    config = setting.config.policy_gradient
    new, old = action_means(student, setting, batch, rows), rows.means
    numel, std = new[0].numel(), batch.stds[rows.step]
    kappa = kl_per_element(new, old, std)
    stale = stale_mask(kappa.detach(), numel, config.stale_nats)
    if config.direction == "end":
        pull, weight = _end_pull(setting, batch, rows, new), torch.ones_like(std)
    else:
        pull, weight = log_ratio(rows.reached, new, old, std), step_weights(std, config.step_weight_power)
    terms = PolicyTerms(
        log_ratio=pull,
        kl_per_element=kappa,
        advantage=rows.advantages,
        step_weight=torch.where(stale, torch.zeros_like(weight), weight),
        std=std,
    )
    loss, gradient = policy_gradient_loss(
        terms, numel=numel, trust_region=config.trust_region, kl_nats=config.kl_nats, clip_nats=config.clip_nats
    )
    return loss, PolicyReport(len(rows) / of, gradient, int(stale.sum()), _deviation(new, batch, rows))


def _end_pull(
    setting: Setting, batch: LearnerBatch, rows: ActionRows, new: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """`end_pull` of the rows, given the student's means of them."""

    def clean(means: Tensor) -> Tensor:
        def of_step(at: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
            return clean_from_mean(setting.kernel, rows.states[at], means[at], t, t_next)

        return _step_by_step(of_step, batch, rows)

    return end_pull(clean(new), clean(rows.means), rows.ends, batch.sigmas[rows.step])

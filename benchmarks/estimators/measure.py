"""What is measured of an estimator: the noise of its gradient, what its updates do to the checker, what they cost."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.learner.batch import LearnerBatch
from advdmd_ray.learner.engine import build_engine
from advdmd_ray.learner.engine_state import trainable
from benchmarks.estimators.estimator import Estimator
from benchmarks.estimators.field import Field, Forwards

FULL_MARKS = 1 - 1e-6


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its standard error."""

    mean: float
    error: float


@dataclass(frozen=True, slots=True)
class Turn:
    """What one RL turn of an estimator is made of.

    Attributes:
        updates: Optimizer updates.
        gradient: `[p]` mean gradient of its updates, all at the weights that acted.
        learner: What the learner ran forward.
    """

    updates: int
    gradient: Float[Tensor, " p"]
    learner: Forwards


@dataclass(frozen=True, slots=True)
class Change:
    """The checker's word on the same images before and after some updates.

    Attributes:
        updates: How many.
        right: Change of the share of images that are right.
        score: Change of the mean score, in [-1, 1].
    """

    updates: int
    right: Estimate
    score: Estimate


def turn_of(place: Field, estimator: Estimator, batch: LearnerBatch) -> Turn:
    """The gradient of a turn at the weights that acted, with the cost of it; zeros if it makes no update."""
    parameters = list(trainable(place.student).values())
    before, updates = place.forwards.so_far, 0
    total = torch.zeros(sum(parameter.numel() for parameter in parameters))
    for parts in estimator.updates(place, batch):
        updates += 1
        for part in parts:
            gradients = torch.autograd.grad(part(), parameters, allow_unused=True, materialize_grads=True)
            total += torch.cat([gradient.reshape(-1) for gradient in gradients])
    return Turn(updates, total / max(updates, 1), place.forwards.so_far - before)


def mean_cosine(gradients: Float[Tensor, "t p"]) -> Estimate:
    """Mean cosine of two turns' gradients, each element divided by its rms over the turns, as Adam does.

    A random direction has 0, a gradient without noise 1. The standard error is the jackknife's over turns, as pairs
    share turns: `sqrt((t - 1) / t sum_i (c_i - mean c)^2)`, c_i the mean without turn i (Efron and Stein 1981). It errs
    on the safe side, by sqrt(2) where there is no signal at all.

    Raises:
        ValueError: for fewer than three turns.
    """
    turns = len(gradients)
    if turns < 3:  # noqa: PLR2004 - without one there must be a pair left
        raise ValueError(f"a cosine with its error needs at least 3 turns, got {turns}")
    scaled = gradients / gradients.square().mean(dim=0).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    unit = scaled / scaled.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    matrix = (unit @ unit.T).double()
    of_turn = matrix.sum(dim=1) - matrix.diagonal()
    total = of_turn.sum()
    without = (total - 2 * of_turn) / ((turns - 1) * (turns - 2))
    error = ((turns - 1) / turns * (without - without.mean()).square().sum()).sqrt()
    return Estimate(float(total) / (turns * (turns - 1)), float(error))


def paired(before: Float[Tensor, " n"], after: Float[Tensor, " n"]) -> Estimate:
    """Mean difference of the same images, with its standard error over images."""
    difference = (after - before).double()
    return Estimate(float(difference.mean()), float(difference.std()) / math.sqrt(len(difference)))


def changes(
    place: Field,
    estimator: Estimator,
    marks: Sequence[int],
    *,
    first_turn: int,
    before: Float[Tensor, " n"],
    told: Callable[[], None],
) -> list[Change]:
    """Updates the student against the discriminator as it is, and asks the checker in between. Puts the student back.

    Each turn is made by the student as it is then. The updates are Adam's, with new moments, the learner's decays and
    clip and the whole learning rate of RL. A turn without a signal counts as an update that changes nothing.

    Args:
        place: The networks, under the estimator's settings.
        estimator: Whose updates.
        marks: After so many updates the checker is asked, ascending.
        first_turn: Number of the first turn.
        before: The checker's scores before any.
        told: Called after each update.
    """
    section, learner = place.config.policy_gradient, place.config.learner
    found: list[Change] = []
    made, number = 0, first_turn

    def done() -> None:
        nonlocal made
        made += 1
        told()
        if made in marks:
            after = place.checked(len(before))
            right = [(scores >= FULL_MARKS).double() for scores in (before, after)]
            found.append(Change(made, paired(*right), paired(before, after)))

    with place.kept():
        engine = build_engine(
            place.student,
            kind="torch",
            objectives={"rl": section.learning_rate},
            betas=learner.betas,
            weight_decay=learner.weight_decay,
            max_grad_norm=learner.max_grad_norm,
        )
        while made < marks[-1]:
            batch, at_start = estimator.turn(place, number), made
            for parts in estimator.updates(place, batch):
                engine.step(parts, "rl")
                done()
                if made == marks[-1]:
                    break
            if made == at_start:
                done()
            number += 1
    return found

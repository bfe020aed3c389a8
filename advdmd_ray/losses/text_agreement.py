"""Whether the discriminator reads the prompt: one noised image with its own text against the same with a wrong one.

A discriminator at the optimum of a GAN cannot tell real from generated images, so its AUC says nothing of what its
scores are worth as rewards. Whether it tells the right text from a wrong one does.
"""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def agreement_sums(
    own: Float[Tensor, "n k"], other: Float[Tensor, "n k"], weights: Float[Tensor, " n"]
) -> Float[Tensor, "3 k"]:
    """What one group adds to the text agreement of each level: `(W, L, S)`, `S = L^2 + (T / 2)^2`.

    `won_i` is 1 where the own text has the higher logit, 1/2 at a tie, else 0; `W = sum_i w_i` and
    `L = sum_i w_i (won_i - 1/2)`, the group's lead over chance. A group has one right text, so its comparisons are not
    independent and enter the error as one, by `L^2`; `learner.health.agreement_and_error` has the formulas. T is the
    weight of the ties: who cannot tell the texts apart would guess, and all guesses of a group may go one way. Without
    it ties would be no evidence, and a discriminator that reads no more would stay what it once was.

    Args:
        own: Logits of n states at k levels with their own text.
        other: Logits of the same states with a wrong text.
        weights: At least 0; 0 where there is no wrong text.

    Returns:
        float64; nan at a level where a logit of weight above 0 is nan.
    """
    wide = weights.double()
    gaps = own.double() - other.double()
    won = torch.where(gaps.isnan(), gaps, gaps.sign() / 2)
    counted = (wide > 0).unsqueeze(1)
    lead = torch.where(counted, wide.unsqueeze(1) * won, 0.0).sum(dim=0)
    tied = torch.where(counted & (gaps == 0), wide.unsqueeze(1), 0.0).sum(dim=0)
    return torch.stack([wide.sum().expand_as(lead), lead, lead.square() + (tied / 2).square()])

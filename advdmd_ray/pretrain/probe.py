"""A linear probe of what embeddings of text say: cheap, exact, and without a generator."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 1e-3
"""Weight of the penalty beside the mean square of standardised features."""
_NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its 95 % interval (Wilson 1927).

    Attributes:
        value: In [0, 1].
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def wilson(value: float, count: int) -> Share:
    """`(p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)`, z = 1.96.

    Args:
        value: Share p that was seen.
        count: Independent trials n, at least 1.
    """
    square = _NORMAL_95**2 / count
    middle = (value + square / 2) / (1 + square)
    half = _NORMAL_95 * math.sqrt(value * (1 - value) / count + square / (4 * count)) / (1 + square)
    return Share(value, max(0.0, middle - half), min(1.0, middle + half))


def ridge(
    features: Float[Tensor, "n d"], targets: Float[Tensor, "n k"], asked: Float[Tensor, "m d"]
) -> Float[Tensor, "m k"]:
    """Predict targets of `asked` by linear least squares: `argmin |X W - Y|^2 / n + 1e-3 |W|^2`, columns standardised.

    Columns that do not vary are left out by the penalty. Computed in float64.
    """
    mean, scale = features.double().mean(dim=0), features.double().std(dim=0).clamp_min(1e-9)
    x, seen = (features.double() - mean) / scale, (asked.double() - mean) / scale
    level = targets.double().mean(dim=0)
    gram = x.T @ x / len(x) + RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, x.T @ (targets.double() - level) / len(x))
    return (seen @ weights + level).to(targets.dtype)


def order_probe(
    features: Float[Tensor, "n d"],
    sides: Float[Tensor, "n k"],
    asked: Float[Tensor, "m d"],
    truth: Float[Tensor, "m k"],
) -> Share:
    """Share of captions whose relation a linear probe reads the right way round: `<prediction, truth> > 0`.

    Row 2i and row 2i + 1 of `asked` are one caption with its two things exchanged, so `truth` has opposite signs in
    them: features that ignore the order of words score 1/2 exactly. A draw counts half. The interval counts pairs.

    Args:
        features: Of captions to fit the probe on.
        sides: What they say, see `data.shapes.captions.sides`.
        asked: Features of other captions.
        truth: What those say.

    Raises:
        ValueError: `truth` does not come in pairs of opposites.
    """
    if len(truth) % 2 or not torch.equal(truth[::2], -truth[1::2]):
        raise ValueError("each caption must be followed by itself with its things exchanged")
    agreement = (ridge(features, sides, asked) * truth).sum(dim=1)
    right = (agreement.sign() + 1) / 2
    return wilson(float(right.mean()), len(truth) // 2)

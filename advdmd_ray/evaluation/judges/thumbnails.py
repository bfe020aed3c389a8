"""The judge of images whose prompts nobody can check: colours, layout and variety beside real images, in thumbnails.

It sees 8 x 8 cells and says nothing of what an image shows; it notices what few-step students do wrong first, colours
that drift and images that grow alike. For how well prompts are followed, use a benchmark.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.spatial.distance import pdist
from torch import Tensor

from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judges.contract import Figure, JudgeScore
from advdmd_ray.evaluation.judges.diversity import coverage, within_prompt_distance
from advdmd_ray.evaluation.judges.frechet import frechet

HELD_OUT = 5
"""Every fifth real image, in a drawn order, is what a perfect generator is judged by; all others are compared with."""
LEAST_IMAGES = 40
"""Real images that make the figures mean anything."""
SPREAD_OF = 1000
"""Most real images whose distances from each other are measured."""
ORDER_SEED = 20260428
"""Of the order in which real images are taken: folders list alike ones together."""
THUMBNAIL = 8
"""Cells along the side of a thumbnail."""


def coloured(images: Float[Tensor, "b i h w"]) -> Float[Tensor, "b 3 h w"]:
    """Images with three channels, which a grey one has alike."""
    return images.expand(-1, 3, -1, -1)


def thumbnails(images: Float[Tensor, "b i h w"]) -> Float[Tensor, "b 3 8 8"]:
    """Mean colours of 8 x 8 cells; values outside [-1, 1] are clipped first."""
    return torch.nn.functional.adaptive_avg_pool2d(coloured(images).float().clamp(-1, 1), THUMBNAIL)


class ThumbnailJudge:
    """Scores images by their thumbnails against those of real images.

    Figures: `frechet`, the distance of Gaussians fitted to thumbnails, per value, colours running from 0 to 100; so a
    shift of all colours by x alone is a distance of x squared; `diversity`, the
    mean distance between two images of one prompt over that of two real images of any; `coverage`, see `diversity.py`.

    Args:
        prompts: What images are asked for; each of them several times.
        real: Thumbnails of real images, in [-1, 1].

    Raises:
        UserError: there are fewer than 40 real images.
    """

    name = "files"
    figures = (
        Figure("frechet", "Fréchet distance of thumbnails", "lower", share=False),
        Figure("diversity", "diversity", "higher", share=False),
        Figure("coverage", "coverage", "higher", share=True),
    )
    headline = "frechet"
    features = staticmethod(thumbnails)

    def __init__(self, prompts: tuple[str, ...], real: Float[Tensor, "n 3 8 8"]) -> None:
        check_count(len(real))
        self.prompts = prompts
        real = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(ORDER_SEED))]
        held_out = alike(real) % HELD_OUT == 0
        self._real, self._held_out = _colours(real[~held_out]), real[held_out]
        self._distance = float(pdist(self._real[:SPREAD_OF]).mean() / np.sqrt(self._real.shape[1]))

    def score(self, features: Float[Tensor, "n 3 8 8"], rows: Int64[Tensor, " n"]) -> JudgeScore:
        """See `Judge`."""
        vectors = _colours(features)
        within = within_prompt_distance(vectors, rows.numpy())
        if not within:
            raise ValueError("no prompt has two images; judge more of them")
        figures = {
            "frechet": frechet(vectors, self._real) / vectors.shape[1],
            "diversity": sum(within.values()) / len(within) / self._distance,
            "coverage": coverage(vectors, self._real[: max(len(vectors), 2 * HELD_OUT)]),
        }
        return JudgeScore(figures, len(features))

    def ceiling(self) -> JudgeScore:
        """See `Judge`: every fifth real image, as if all had one prompt."""
        return self.score(self._held_out, torch.zeros(len(self._held_out), dtype=torch.int64))


def alike(real: Float[Tensor, "n 3 8 8"]) -> Int64[Tensor, " n"]:
    """Which image each thumbnail is of: the first row that has the same one."""
    _, kinds = real.flatten(1).unique(dim=0, return_inverse=True)
    places = torch.arange(len(real))
    first = torch.full_like(places, len(real)).scatter_reduce(0, kinds, places, "amin")
    return first[kinds]


def check_count(real: int) -> None:
    """Asked before a run, whose end would be too late.

    Raises:
        UserError: there are fewer than 40 real images.
    """
    if real < LEAST_IMAGES:
        raise UserError(
            f"{real} real images can be used, and the judge compares with at least {LEAST_IMAGES}; give more, or raise "
            "data.teacher_samples where the teacher draws them"
        )


def _colours(small: Float[Tensor, "n 3 8 8"]) -> Float[np.ndarray, "n d"]:
    """Thumbnails as vectors of colours in [0, 100]."""
    return (small.double().flatten(1).numpy() + 1.0) * 50.0

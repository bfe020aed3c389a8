"""How a sampler is drawn for a judge: all with the same prompts and the same noise."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.seeds import derive_seed, group_noise
from advdmd_ray.evaluation.judges.contract import (
    ImageScorer,
    Judge,
    Judgement,
    JudgeScore,
    Scores,
    scores_of,
    signed_headline,
    with_scores,
)
from advdmd_ray.stations.prompt_table import PromptRows

DRAWN_AT_ONCE = 250
"""Images of one call where nothing says how many a network takes: memory and time, not the images, hang on it."""


@torch.no_grad()
def judge_sampler(
    judge: Judge,
    denoiser: Denoiser,
    conditioning_of: Callable[[Sequence[str]], Conditioning],
    kernel: Kernel,
    sigmas: Float[Tensor, " k1"],
    shape: tuple[int, int, int],
    decode: Callable[[Tensor], Tensor],
    *,
    samples: int,
    seed: int,
) -> JudgeScore:
    """Draw images for the judge's prompts and judge them; samplers judged with one seed share prompts and noise.

    Args:
        judge: The judge.
        denoiser: Student, or guided teacher.
        conditioning_of: Encodes prompts, one row each.
        kernel: The transition kernel the denoiser was trained for.
        sigmas: K + 1 noise levels, the last 0.
        shape: `(c, h, w)` of a latent.
        decode: Turns latents into images in [-1, 1].
        samples: Number of images; image i is asked for `judge.prompts[i % len(judge.prompts)]`.
        seed: Of initial and step noise.
    """

    def draw(conditioning: Conditioning, seeds: Sequence[int], _size: int) -> Tensor:
        return sample(denoiser, conditioning, kernel, sigmas, group_noise(shape, seeds, "initial"), seeds)

    return _scored(judge, draw, conditioning_of(judge.prompts[:samples]), decode, (), samples, seed, sizes=1)


@dataclass(frozen=True, slots=True)
class StudentJudge:
    """Judges a student while it learns, each time with the same prompts and noise.

    Attributes:
        judge: The judge.
        prompts: Its prompts, encoded; the first `samples` suffice.
        decode: Turns latents into images in [-1, 1].
        samples: Number of images.
        seed: Of initial and step noise.
        sizes: Number of sizes that images have; row r of the prompts is asked for in size r modulo their number.
        scorers: Whose means stand beside the judge's figures.
        headline: The word of the scorer whose mean is the headline; empty: the judge's own is.
    """

    judge: Judge
    prompts: PromptRows
    decode: Callable[[Tensor], Tensor]
    samples: int
    seed: int
    sizes: int = 1
    scorers: tuple[ImageScorer, ...] = ()
    headline: str = ""

    def judged(self, draw: "Draw") -> Judgement:
        """Judge a sampler.

        Args:
            draw: Draws its latents.
        """
        judge, parts = self.judge, (self.prompts, self.decode, self.scorers)
        score = _scored(judge, draw, *parts, self.samples, self.seed, self.sizes)
        own = signed_headline(judge, score)
        return Judgement(score, score.figures[self.headline] if self.headline else own)


def _scored(
    judge: Judge,
    draw: "Draw",
    prompts: PromptRows,
    decode: Callable[[Tensor], Tensor],
    scorers: Sequence[ImageScorer],
    samples: int,
    seed: int,
    sizes: int,
) -> JudgeScore:
    """The figures of a sampler; images are held portion by portion, their features together."""
    features, rows, scores = [], [], list[Scores]()
    for portion in portions(samples, DRAWN_AT_ONCE):
        for drawn in draw_images(draw, prompts, portion, seed, sizes):
            images = decode(drawn.latents)
            features.append(judge.features(images))
            rows.append(drawn.rows)
            scores.append(scores_of(scorers, images, [judge.prompts[row] for row in drawn.rows.tolist()]))
    return with_scores(judge.score(torch.cat(features), torch.cat(rows)), scores)


@dataclass(frozen=True, slots=True)
class DrawnImages:
    """Some of the judged images, all of one size.

    Attributes:
        images: Which ones.
        rows: Row of the prompts of each.
        latents: Final ones.
    """

    images: tuple[int, ...]
    rows: Int64[Tensor, " n"]
    latents: Float[Tensor, "n c h w"]


# From a prompt and a seed for each image, and the number of the size that all of them have, to their latents.
Draw: TypeAlias = Callable[[Conditioning, Sequence[int], int], Tensor]


def draw_images(draw: Draw, prompts: PromptRows, images: range, seed: int, sizes: int = 1) -> Iterator[DrawnImages]:
    """Draw some of the judged images; image i has prompt `i mod p` and draws from (seed, i) alone.

    So every sampler judged with one seed has the same prompts and the same initial noise, whoever draws its images.

    Args:
        draw: Draws latents of one size.
        prompts: The p encoded prompts.
        images: Which ones.
        seed: Of every draw.
        sizes: See `StudentJudge`.

    Yields:
        Those of one size after the other.
    """
    everything = torch.tensor(images)
    for size in range(sizes):
        some = everything[everything % len(prompts) % sizes == size]
        if len(some):
            rows, numbers = some % len(prompts), tuple(some.tolist())
            latents = draw(prompts.select(rows), [derive_seed(seed, "judge", index) for index in numbers], size)
            yield DrawnImages(numbers, rows, latents)


def portions(samples: int, most: int) -> list[range]:
    """The images 0 to `samples` - 1 in portions of `most`, the last one maybe smaller."""
    return [range(first, min(first + most, samples)) for first in range(0, samples, most)]

"""How a sampler is drawn for a judge: all with the same prompts and the same noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.seeds import derive_seed, group_noise
from advdmd_ray.evaluation.judges.contract import Judge, Judgement, JudgeScore, signed_headline
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

    def draw(conditioning: Conditioning, seeds: Sequence[int]) -> Tensor:
        return sample(denoiser, conditioning, kernel, sigmas, group_noise(shape, seeds, "initial"), seeds)

    return _scored(judge, draw, conditioning_of(judge.prompts[:samples]), decode, samples, seed)


@dataclass(frozen=True, slots=True)
class StudentJudge:
    """Judges a student while it learns, each time with the same prompts and noise.

    Attributes:
        judge: The judge.
        prompts: Its prompts, encoded; the first `samples` suffice.
        decode: Turns latents into images in [-1, 1].
        samples: Number of images.
        seed: Of initial and step noise.
    """

    judge: Judge
    prompts: PromptRows
    decode: Callable[[Tensor], Tensor]
    samples: int
    seed: int

    def judged(self, draw: Callable[[Conditioning, Sequence[int]], Tensor]) -> Judgement:
        """Judge a sampler.

        Args:
            draw: Gives one latent for each prompt and seed.
        """
        score = _scored(self.judge, draw, self.prompts, self.decode, self.samples, self.seed)
        return Judgement(score, signed_headline(self.judge, score))


def _scored(
    judge: Judge,
    draw: Callable[[Conditioning, Sequence[int]], Tensor],
    prompts: PromptRows,
    decode: Callable[[Tensor], Tensor],
    samples: int,
    seed: int,
) -> JudgeScore:
    """The figures of a sampler; images are held portion by portion, their features together."""
    features, rows = [], []
    for images in portions(samples, DRAWN_AT_ONCE):
        latents, asked = draw_images(draw, prompts, images, seed)
        features.append(judge.features(decode(latents)))
        rows.append(asked)
    return judge.score(torch.cat(features), torch.cat(rows))


def draw_images(
    draw: Callable[[Conditioning, Sequence[int]], Tensor], prompts: PromptRows, images: range, seed: int
) -> tuple[Float[Tensor, "n c h w"], Int64[Tensor, " n"]]:
    """Draw some of the judged images; image i has prompt `i mod p` and draws from (seed, i) alone.

    So every sampler judged with one seed has the same prompts and the same initial noise, whoever draws its images.

    Args:
        draw: Gives one latent for each prompt and seed.
        prompts: The p encoded prompts.
        images: Which ones.
        seed: Of every draw.

    Returns:
        Final latents and the prompt of each.
    """
    rows = torch.tensor(images) % len(prompts)
    return draw(prompts.select(rows), [derive_seed(seed, "judge", index) for index in images]), rows


def portions(samples: int, most: int) -> list[range]:
    """The images 0 to `samples` - 1 in portions of `most`, the last one maybe smaller."""
    return [range(first, min(first + most, samples)) for first in range(0, samples, most)]

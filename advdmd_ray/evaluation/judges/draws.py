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
) -> tuple[JudgeScore, Float[Tensor, "n c h w"]]:
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

    Returns:
        The score, and the images in their order.
    """

    def draw(conditioning: Conditioning, seeds: Sequence[int]) -> Tensor:
        return sample(denoiser, conditioning, kernel, sigmas, group_noise(shape, seeds, "initial"), seeds)

    latents, rows = draw_in_turn(draw, conditioning_of(judge.prompts[:samples]), samples=samples, seed=seed)
    images = decode(latents)
    return judge.score(images, rows), images


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
    prompts: Conditioning
    decode: Callable[[Tensor], Tensor]
    samples: int
    seed: int

    def judged(self, draw: Callable[[Conditioning, Sequence[int]], Tensor]) -> Judgement:
        """Judge a sampler.

        Args:
            draw: Gives one latent for each prompt and seed.
        """
        latents, rows = draw_in_turn(draw, self.prompts, samples=self.samples, seed=self.seed)
        score = self.judge.score(self.decode(latents), rows)
        return Judgement(score, signed_headline(self.judge, score))


def draw_in_turn(
    draw: Callable[[Conditioning, Sequence[int]], Tensor],
    prompts: Conditioning,
    *,
    samples: int,
    seed: int,
    batch_size: int = 250,
) -> tuple[Float[Tensor, "n c h w"], Int64[Tensor, " n"]]:
    """Draw the prompts in turn; sample i has prompt `i mod p` and draws from (seed, i) alone.

    So every sampler judged with one seed is given the same prompts and the same initial noise.

    Args:
        draw: Gives one latent for each prompt and seed.
        prompts: The p encoded prompts.
        samples: Number of images.
        seed: Of every draw.
        batch_size: Images per call; changes memory and time, not the images.

    Returns:
        Final latents and the prompt of each.
    """
    rows = torch.arange(samples) % len(prompts)
    latents = [
        draw(prompts.select(rows[part]), [derive_seed(seed, "judge", int(index)) for index in part])
        for part in torch.arange(samples).split(batch_size)
    ]
    return torch.cat(latents), rows

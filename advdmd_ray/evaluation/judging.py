"""Judges samplers: the teacher at 40, 8, 4 and 2 steps of its own ODE, and a student at its K with its own kernel.

All samplers get the same prompts and the same initial noise, and as many images, so that their figures compare.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.data.digits import DIGIT_PROMPTS
from advdmd_ray.diffusion.denoiser import Denoiser, guided
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.schedule import student_sigmas, teacher_sigmas
from advdmd_ray.evaluation.judge import Judge, JudgeScore, balanced_samples
from advdmd_ray.models.pipeline import latent_spec, load_pipeline, scheduler_shift
from advdmd_ray.models.sd3 import SD3Denoiser
from advdmd_ray.models.text import encode_prompts, unconditional

TEACHER_STEPS = (40, 8, 4, 2)
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge says, and the first images of each sampler.

    Attributes:
        teacher: Score by number of steps.
        student: The student's score, if one was given.
        steps: Student steps K.
        real: Held-out real images: the ceiling of accuracy. They are fewer, which raises their distance.
        images: First images of each sampler, by its label; image i has prompt i modulo 10.
    """

    teacher: Mapping[int, JudgeScore]
    student: JudgeScore | None
    steps: int
    real: JudgeScore
    images: Mapping[str, Float[np.ndarray, "n c h w"]]


def judge_samplers(config: Config, student: Path | None, progress: Callable[[str], None] = lambda _: None) -> Verdict:
    """Judges the teacher and, if given, a student's pipeline folder.

    Args:
        config: Names the teacher, its guidance, the kernel and levels of the student, and the number of images.
        student: An exported student folder.
        progress: Told what is being sampled.
    """
    judge = Judge()
    teacher: dict[int, JudgeScore] = {}
    images: dict[str, np.ndarray] = {}
    kernel = Kernel(config.diffusion.kernel, eta=config.diffusion.eta, noise=config.diffusion.flow_sde_noise)
    with _all_threads():
        teacher_sampler = _Sampler(config, config.model.path, config.model.guidance)
        for steps in TEACHER_STEPS:
            progress(f"teacher, {steps} steps")
            drawn, labels = teacher_sampler.draw(Kernel.ode(), teacher_sigmas(steps, teacher_sampler.shift))
            teacher[steps] = judge.score(drawn, labels)
            images[f"teacher, {steps} steps"] = drawn[:SHOWN].numpy()
        score = None
        if student is not None:
            progress(f"student, {config.steps} steps")
            sampler = _Sampler(config, str(student), guidance=1.0)
            drawn, labels = sampler.draw(kernel, student_sigmas(config.diffusion.sigmas, sampler.shift))
            score = judge.score(drawn, labels)
            images[f"student, {config.steps} steps"] = drawn[:SHOWN].numpy()
    return Verdict(teacher, score, config.steps, judge.ceiling(), images)


def judge_run(config: Config, student: Path | None, progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The verdict as JSON-able figures: `{"teacher": {steps: score}, "student": score with steps, "real": score}`."""
    verdict = judge_samplers(config, student, progress)
    figures: dict[str, Any] = {
        "teacher": {str(steps): asdict(score) for steps, score in verdict.teacher.items()},
        "real": asdict(verdict.real),
    }
    if verdict.student is not None:
        figures["student"] = {**asdict(verdict.student), "steps": verdict.steps}
    return figures


class _Sampler:
    """A pipeline folder as a sampler of digits."""

    def __init__(self, config: Config, path: str, guidance: float) -> None:
        pipeline = load_pipeline(path)
        length = config.model.max_sequence_length
        self.shift = scheduler_shift(pipeline)
        self._shape = latent_spec(pipeline).shape
        self._prompts = encode_prompts(pipeline, DIGIT_PROMPTS, length)
        denoiser: Denoiser = SD3Denoiser(pipeline.transformer)
        self._denoiser = guided(denoiser, unconditional(pipeline, length), guidance)
        self._seed, self._samples = config.run.seed, config.evaluation.samples
        self._codec = pipeline.vae

    @torch.no_grad()
    def draw(self, kernel: Kernel, sigmas: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[n, c, h, w]` in [-1, 1] and their labels; image i has one prompt and one noise in every sampler."""
        latents, labels = balanced_samples(
            self._denoiser, self._prompts, kernel, sigmas, self._shape, samples=self._samples, seed=self._seed
        )
        scaled = latents / self._codec.config.scaling_factor + self._codec.config.shift_factor
        return self._codec.decode(scaled, return_dict=False)[0], labels


@contextmanager
def _all_threads() -> Iterator[None]:
    """Lets torch use every core while the workers rest."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

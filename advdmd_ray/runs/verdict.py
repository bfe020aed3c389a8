"""Judges samplers: the teacher at 40, 8, 4 and 2 steps of its own ODE, and a student at its K with its own kernel.

All samplers get the same prompts and the same initial noise, and as many images, so that their figures compare.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from advdmd_ray.config import Config
from advdmd_ray.data.registry import source_of
from advdmd_ray.diffusion.kernels import Kernel, kernel_of
from advdmd_ray.diffusion.schedule import student_sigmas, teacher_sigmas
from advdmd_ray.evaluation.judges.contract import Figure, Judge, JudgeScore
from advdmd_ray.evaluation.judges.pipelines import TEACHER_STEPS, PipelineSampler
from advdmd_ray.models.families.base import Execution
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import load_pipeline
from advdmd_ray.provenance import usable_cores

SHOWN_PROMPTS, SHOWN_ROUNDS = 11, 2
"""Most columns of the comparison picture, and most images of each sampler in a column; fewer of large images."""
SHOWN_SAMPLERS = 3
"""Teacher at 40 and at K steps, and the student."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge says, and the first images of each sampler.

    Attributes:
        figures: What the judge gives.
        headline: Key of the figure that samplers are compared by.
        teacher: Score by number of steps.
        student: The student's score, if one was given.
        steps: Student steps K.
        real: Real held-out images: what a perfect generator could reach.
        prompts: The prompts that are shown.
        images: Images of each sampler, by its label; image i has prompt i modulo their number.
    """

    figures: tuple[Figure, ...]
    headline: str
    teacher: Mapping[int, JudgeScore]
    student: JudgeScore | None
    steps: int
    real: JudgeScore
    prompts: tuple[str, ...]
    images: Mapping[str, Float[np.ndarray, "n c h w"]]


def judge_samplers(config: Config, student: Path | None, progress: Callable[[str], None] = lambda _: None) -> Verdict:
    """Judges the teacher and, if given, a student's pipeline folder.

    Args:
        config: Names the judge, the teacher, its guidance, the kernel and levels of the student, and the number of
            images.
        student: An exported student folder.
        progress: Told what is being sampled.
    """
    judge, samples, seed = source_of(config).judge(), config.evaluation.samples, config.run.seed
    kernel = kernel_of(config.diffusion)
    shown = shown_images(len(judge.prompts), samples)
    with _all_threads():
        teacher, images = _judged_teacher(config, judge, shown, progress)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the teacher is gone: a GPU need not hold both pipelines
        score = None
        if student is not None:
            label = f"student, {config.steps} steps"
            progress(label)
            sampler = _sampler_of(judge, str(student), config, None)
            sigmas = student_sigmas(config.diffusion.sigmas, sampler.shift)
            score, drawn = sampler.judged(kernel, sigmas, samples=samples, seed=seed)
            images[label] = drawn[shown].numpy()
    prompts = judge.prompts[:SHOWN_PROMPTS]
    return Verdict(judge.figures, judge.headline, teacher, score, config.steps, judge.ceiling(), prompts, images)


def _judged_teacher(
    config: Config, judge: Judge, shown: Sequence[int], progress: Callable[[str], None]
) -> tuple[dict[int, JudgeScore], dict[str, np.ndarray]]:
    """The teacher's score at each of its numbers of steps, and the images to show."""
    sampler = _sampler_of(judge, config.model.path, config, config.judged_guidance)
    terminal = inspect_pipeline(config.model.path).scheduler_terminal
    scores: dict[int, JudgeScore] = {}
    images: dict[str, np.ndarray] = {}
    for steps in TEACHER_STEPS:
        label = f"teacher, {steps} steps"
        progress(label)
        sigmas = teacher_sigmas(steps, sampler.shift, terminal)
        scores[steps], drawn = sampler.judged(
            Kernel.ode(), sigmas, samples=config.evaluation.samples, seed=config.run.seed
        )
        images[label] = drawn[shown].numpy()
    return scores, images


def judge_run(config: Config, student: Path | None, progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The verdict as JSON-able figures.

    `{"headline": key, "labels": [figure], "teacher": {steps: score}, "student": score with steps, "real": score}`; a
    figure is `{"key", "label", "better", "share"}`, a score `{"figures": {key: value}, "images": number}`.
    """
    verdict = judge_samplers(config, student, progress)
    facts: dict[str, Any] = {
        "headline": verdict.headline,
        "labels": [asdict(figure) for figure in verdict.figures],
        "teacher": {str(steps): asdict(score) for steps, score in verdict.teacher.items()},
        "real": asdict(verdict.real),
    }
    if verdict.student is not None:
        facts["student"] = {**asdict(verdict.student), "steps": verdict.steps}
    return facts


def shown_images(prompts: int, samples: int) -> list[int]:
    """Which of the judged images to show: those of the first prompts, whole rounds of them.

    Args:
        prompts: Number of the judge's prompts.
        samples: Number of images; image i has prompt `i % prompts`.
    """
    columns = min(prompts, SHOWN_PROMPTS)
    rounds = range(0, SHOWN_ROUNDS * prompts, prompts)
    return [first + column for first in rounds if first + columns <= samples for column in range(columns)]


def _sampler_of(judge: Judge, path: str, config: Config, guidance: float | None) -> PipelineSampler:
    info, model = inspect_pipeline(path, config.model.pixels), config.model
    half = model.precision == "bfloat16"
    pipeline = load_pipeline(path, torch.bfloat16 if half else torch.float32)
    return PipelineSampler(
        judge,
        pipeline.to("cuda" if torch.cuda.is_available() else "cpu"),
        guidance,
        model.max_sequence_length,
        info.latent.shape,
        info.scheduler_shift,
        model.guidance,
        Execution(autocast=half, micro_batch=config.rollout.micro_batch),
    )


@contextmanager
def _all_threads() -> Iterator[None]:
    """Lets torch use every core while the workers rest."""
    before = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)

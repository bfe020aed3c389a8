"""Judges the samplers of one comparison, all with the same prompts and the same noise."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from advdmd_ray.comparison.job import JUDGE_SEED, Job
from advdmd_ray.data.registry import source_of
from advdmd_ray.evaluation.judges.contract import JudgeScore
from advdmd_ray.evaluation.judges.draws import judge_sampler
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import image_decoder, load_pipeline
from advdmd_ray.models.text import encode_prompts, unconditional
from advdmd_ray.runs.judgement import Sampler, sampled_with
from advdmd_ray.runs.parts.networks import build_denoiser


class Examiner:
    """The judge of a job's samplers, with the encoded prompts and the image codec."""

    def __init__(self, job: Job) -> None:
        config = job.config
        self._job = job
        self._judge = source_of(config).judge()
        pipeline, length = load_pipeline(config.model.path), config.model.max_sequence_length
        self._prompts = encode_prompts(pipeline, self._judge.prompts[: job.judge_samples], length)
        self._empty = unconditional(pipeline, length, config.model.negative_prompt)
        self._decode = image_decoder(pipeline)
        self._info = inspect_pipeline(config.model.path, config.model.pixels)

    def facts(self) -> dict[str, Any]:
        """What a table must know of the judge: its figures, its headline, and what real images reach."""
        return {
            "headline": self._judge.headline,
            "figures": [asdict(figure) for figure in self._judge.figures],
        }

    def ceiling(self) -> dict[str, Any]:
        """The figures of real held-out images."""
        return score_facts(self._judge.ceiling())

    def student(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Judges a student with the job's kernel at the job's levels.

        Args:
            weights: Every trained weight of a `TransformerDenoiser`, by name.

        Raises:
            ValueError: if the names are not those of the teacher's network.
        """
        denoiser = self._denoiser()
        wanted = dict(denoiser.named_parameters())
        if wanted.keys() != weights.keys():
            raise ValueError(f"{self._job.name}: the student's weights are not those of its teacher's network")
        with torch.no_grad():
            for name, parameter in wanted.items():
                parameter.copy_(weights[name])
        return self._judged(Sampler(student=True, steps=self._job.config.steps), denoiser)

    def teacher(self, steps: int) -> dict[str, Any]:
        """Judges the guided teacher at so many steps of its ODE."""
        return self._judged(Sampler(student=False, steps=steps), self._denoiser())

    def _denoiser(self) -> TransformerDenoiser:
        """The teacher's network, where a rollout actor would have it."""
        return build_denoiser(self._job.config, self._job.config.rollout)

    def _judged(self, sampler: Sampler, network: TransformerDenoiser) -> dict[str, Any]:
        denoiser, kernel, sigmas = sampled_with(self._job.config, sampler, network, self._empty, self._info)
        score = judge_sampler(
            self._judge,
            denoiser,
            lambda _: self._prompts,
            kernel,
            sigmas,
            self._info.latent.shape,
            self._decode,
            samples=self._job.judge_samples,
            seed=JUDGE_SEED,
        )
        return score_facts(score)


def score_facts(score: JudgeScore) -> dict[str, Any]:
    """A score as JSON has it; a figure that is not a number is null."""
    figures = {key: value if math.isfinite(value) else None for key, value in score.figures.items()}
    return {"figures": figures, "images": score.images}

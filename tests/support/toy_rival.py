"""A rival trainer from outside the package: it moves every weight of the teacher by the same stride at each step."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from advdmd_ray.comparison.job import Job
from advdmd_ray.comparison.rivals import Trainer
from advdmd_ray.config import Section
from advdmd_ray.learner.checkpoint import Checkpoint, save_checkpoint
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.needs.compute import Cost
from advdmd_ray.runs.parts.networks import build_denoiser

NAME = "toy_rival:ToyTrainer"
"""What a rival's `trainer` says."""


class ToySettings(Section):
    """How far and how dear a step is."""

    stride: float = Field(default=0.001, description="Added to every weight by a step.")
    cost: float = Field(default=10.0, gt=0, description="Forward-equivalents of a step.")


class ToyTrainer(Trainer):
    """Needs no data at all."""

    settings = ToySettings
    unread = frozenset({"dmd"})

    def __init__(self, job: Job, checkpoint: Checkpoint | None) -> None:
        assert isinstance(job.settings, ToySettings)
        self._job, self._own = job, job.settings
        network = build_denoiser(job.config, job.config.learner)
        self._teacher = {name: weight.detach().clone() for name, weight in network.named_parameters()}
        self._steps = 0 if checkpoint is None else int(checkpoint.load("toy")["steps"])

    @property
    def spent(self) -> Cost:
        """See `Trainer`."""
        return Cost(rival=self._steps * self._own.cost)

    @property
    def version(self) -> int:
        """See `Trainer`."""
        return self._steps

    def advance(self) -> None:
        """See `Trainer`."""
        self._steps += 1

    def student(self) -> Mapping[str, Tensor]:
        """See `Trainer`."""
        return {name: weight + self._steps * self._own.stride for name, weight in self._teacher.items()}

    def notes(self) -> dict[str, Any]:
        """See `Trainer`."""
        return {"steps": self._steps}

    def save(self, facts: Mapping[str, Any]) -> None:
        """See `Trainer`."""
        folder = RunFolder(self._job.folder).checkpoints
        state = {"toy": {"steps": torch.tensor(self._steps)}}
        save_checkpoint(folder, self._steps, state, {"controller": dict(facts)}, keep=1)

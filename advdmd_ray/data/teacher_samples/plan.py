"""Which images the teacher draws, where they are, and how a shard of them is made.

They are drawn once, shard by shard, by whoever is told to, and kept as the latents of files are. Their folder is named
by everything that they hang on, so another model, guidance, size or list of prompts never meets them.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.data.files.encoding import ArrowLatents, make_cache, write_latents
from advdmd_ray.data.source import Tools
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.schedule import teacher_sigmas
from advdmd_ray.diffusion.seeds import group_noise
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judges.thumbnails import thumbnails
from advdmd_ray.files import files_digest
from advdmd_ray.models.sizes import sized_pipelines
from advdmd_ray.seeding import derive_seed

SHARD = 32
"""Images of a shard, which is drawn and written as a whole."""
SAMPLES_SEED = 20260428
"""Of every draw: the same in every run, as a data set on disk would be."""


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """Which images there are to be, and where.

    Attributes:
        folder: Of the shards' files.
        prompts: What is drawn; image k has prompt k modulo their number.
        images: How many images.
        latent_shape: (c, h, w).
        steps: Of the teacher's own Euler sampler.
        shift: Of its noise levels.
        terminal: That its last level is stretched to; None: none is.
    """

    folder: Path
    prompts: tuple[str, ...]
    images: int
    latent_shape: tuple[int, int, int]
    steps: int
    shift: float
    terminal: float | None

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.images // SHARD)

    def file(self, shard: int) -> Path:
        """Where a shard is, or will be; a last shard that grows gets another place."""
        rows = self.rows(shard)
        return self.folder / f"{rows.start:08d}-{rows.stop:08d}.arrow"

    def missing(self) -> list[int]:
        """The shards that are not there yet."""
        return [shard for shard in range(self.shards) if not self.file(shard).exists()]

    def rows(self, shard: int) -> range:
        """The images of a shard."""
        return range(shard * SHARD, min((shard + 1) * SHARD, self.images))

    def opened(self) -> ArrowLatents:
        """The teacher's images.

        Raises:
            UserError: if some of them are not there.
        """
        missing = self.missing()
        if missing:
            raise UserError(
                f"{self.folder}: {len(missing)} of {self.shards} shards of the teacher's samples are not there; advdmd "
                "run draws them before it trains; on several machines data.cache must be a folder that all of them see"
            )
        return ArrowLatents([self.file(shard) for shard in range(self.shards)], self.latent_shape)

    def make(self, shard: int, tools: Tools) -> int:
        """Draws one shard, unless it is there; it is written as a whole or not at all.

        Returns:
            Number of its images.

        Raises:
            UserError: if the folder cannot be written.
        """
        rows = self.rows(shard)
        if self.file(shard).exists():
            return len(rows)
        make_cache(self.folder)
        latents = self._drawn(rows, tools)
        prompts = [self.prompts[row % len(self.prompts)] for row in rows]
        names = [f"teacher {row}" for row in rows]
        batch = names, prompts, latents, thumbnails(tools.decode(latents))
        write_latents(self.file(shard), self.latent_shape, iter([batch]))
        return len(rows)

    @torch.no_grad()
    def _drawn(self, rows: range, tools: Tools) -> Float[Tensor, "n c h w"]:
        places = torch.tensor(rows) % len(self.prompts)
        seeds = [derive_seed(SAMPLES_SEED, "teacher_sample", row) for row in rows]
        start = group_noise(self.latent_shape, seeds, "initial")
        sigmas = teacher_sigmas(self.steps, self.shift, self.terminal)
        return sample(tools.teacher, tools.conditioning.select(places), Kernel.ode(), sigmas, start, seeds)


def plan_samples(config: Config, prompts: tuple[str, ...]) -> tuple[SamplePlan, ...]:
    """Reads every file of the pipeline, whose bytes name the folders.

    Args:
        config: What the images hang on.
        prompts: What is drawn, each once.

    Returns:
        One for each of `Config.sizes`, in their order.

    Raises:
        UserError: if the pipeline cannot be read, or has no images of one of the sizes.
    """
    data, pipelines = config.data, sized_pipelines(config)
    facts: dict[str, Any] = {
        "pipeline": [files_digest(pipelines[0].files(part.name)) for part in pipelines[0].components],
        "prompts": prompts,
        "length": config.model.max_sequence_length,
        "precision": config.model.precision,
        "guidance": [config.model.guidance, config.judged_guidance],
        "steps": data.teacher_steps,
    }
    if config.model.negative_prompt is not None:
        facts["negative_prompt"] = config.model.negative_prompt
    images, plans = len(prompts) * data.teacher_samples, list[SamplePlan]()
    for info in pipelines:
        shift, terminal = info.teacher_shift(data.teacher_steps), info.scheduler_terminal
        own = {**facts, "shift": shift, "latent": info.latent.shape}
        if terminal is not None:
            own["terminal"] = terminal
        name = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:32]
        folder = config.latents / name
        plans.append(SamplePlan(folder, prompts, images, info.latent.shape, data.teacher_steps, shift, terminal))
    return tuple(plans)

"""The real set of `data.source=teacher_samples`: the guided teacher's own images for the run's prompts.

They are drawn once, shard by shard, by whoever is told to, and kept as the latents of files are. Their folder is named
by everything that they hang on, so another model, guidance, size or list of prompts never meets them.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.data.files.encoding import ArrowLatents, make_cache, write_latents
from advdmd_ray.data.prompt_file import load_prompts
from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.seeds import group_noise
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judges.thumbnails import thumbnails
from advdmd_ray.files import files_digest
from advdmd_ray.models.folder import inspect_pipeline
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
    """

    folder: Path
    prompts: tuple[str, ...]
    images: int
    latent_shape: tuple[int, int, int]

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


def sampled_prompts(config: Config) -> tuple[str, ...]:
    """What the teacher draws, each prompt once.

    Raises:
        UserError: as `load_prompts`.
    """
    return tuple(dict.fromkeys(load_prompts(config.data.prompts or "")))


def plan_samples(config: Config) -> SamplePlan:
    """Reads the prompts and every file of the pipeline, whose bytes name the folder.

    Raises:
        UserError: if the prompts or the pipeline cannot be read.
    """
    data, info = config.data, inspect_pipeline(config.model.path, config.model.pixels)
    prompts = sampled_prompts(config)
    facts = {
        "pipeline": [files_digest(info.files(part.name)) for part in info.components],
        "shift": info.scheduler_shift,
        "latent": info.latent.shape,
        "prompts": prompts,
        "length": config.model.max_sequence_length,
        "precision": config.model.precision,
        "guidance": [config.model.guidance, config.judged_guidance],
        "steps": data.teacher_steps,
    }
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return SamplePlan(config.latents / name, prompts, len(prompts) * data.teacher_samples, info.latent.shape)


def open_samples(plan: SamplePlan) -> ArrowLatents:
    """The teacher's images.

    Raises:
        UserError: if some of them are not there.
    """
    missing = plan.missing()
    if missing:
        raise UserError(
            f"{plan.folder}: {len(missing)} of {plan.shards} shards of the teacher's samples are not there; advdmd run "
            "draws them before it trains; on several machines data.cache must be a folder that all of them see"
        )
    return ArrowLatents([plan.file(shard) for shard in range(plan.shards)], plan.latent_shape)


class SampleMaker:
    """Draws and writes shards.

    Args:
        teacher: The guided teacher.
        conditioning: The plan's prompts, encoded, row by row.
        decode: From latents to images in [-1, 1], for the judge's thumbnails.
        sigmas: Noise levels of the teacher's own Euler sampler, the last 0.
    """

    def __init__(
        self,
        teacher: Denoiser,
        conditioning: Conditioning,
        decode: Callable[[Tensor], Tensor],
        sigmas: Float[Tensor, " k1"],
    ) -> None:
        self._teacher, self._conditioning = teacher, conditioning
        self._decode, self._sigmas = decode, sigmas

    def make(self, plan: SamplePlan, shard: int) -> int:
        """Draw one shard, unless it is there; it is written as a whole or not at all.

        Returns:
            Number of its images.

        Raises:
            UserError: if the folder cannot be written.
        """
        rows = plan.rows(shard)
        if plan.file(shard).exists():
            return len(rows)
        make_cache(plan.folder)
        latents = self._drawn(plan, rows)
        prompts = [plan.prompts[row % len(plan.prompts)] for row in rows]
        names = [f"teacher {row}" for row in rows]
        batch = names, prompts, latents, thumbnails(self._decode(latents))
        write_latents(plan.file(shard), plan.latent_shape, iter([batch]))
        return len(rows)

    @torch.no_grad()
    def _drawn(self, plan: SamplePlan, rows: Sequence[int]) -> Float[Tensor, "n c h w"]:
        places = torch.tensor(rows) % len(plan.prompts)
        seeds = [derive_seed(SAMPLES_SEED, "teacher_sample", row) for row in rows]
        start = group_noise(plan.latent_shape, seeds, "initial")
        return sample(self._teacher, self._conditioning.select(places), Kernel.ode(), self._sigmas, start, seeds)

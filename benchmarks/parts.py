"""Builds what is measured: networks with random weights where they compute, and prompts, images and groups to match.

Speed does not depend on what the weights are, so nothing is downloaded and nothing is read from a disk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch

from advdmd_ray.config import Config, read_config
from advdmd_ray.config.sections import LearnerSection
from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.diffusers_classes import transformer_class
from advdmd_ray.models.families import adapter
from advdmd_ray.models.families.base import Execution, TransformerDenoiser
from advdmd_ray.models.folder import PipelineInfo, inspect_pipeline
from advdmd_ray.models.lora import sharing_copy
from advdmd_ray.models.pipeline import quiet
from advdmd_ray.runs.needs.memory import Sizes, sizes_of
from advdmd_ray.runs.parts.inputs import Geometry, geometry
from advdmd_ray.runs.parts.networks import loading
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import ScoredGroup, TrajectoryGroup
from benchmarks.headers import write_headers
from benchmarks.models import Model

PROMPTS = ("one prompt", "another prompt")
IMAGES_EACH = 4
Learns = Literal["lora", "full"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a benchmark is asked for.

    Attributes:
        device: Where the networks are.
        engine: `learner.engine`.
        checkpointing: `learner.gradient_checkpointing`; None: as the recipe has it.
        warm_up: Repeats that are not counted, at least 1.
        repeats: Repeats that are.
        seed: Of weights, prompts and noise.
    """

    device: torch.device
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    checkpointing: bool | None = None
    warm_up: int = 2
    repeats: int = 5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is measured, with all that follows from its headers and its recipe; no network is made yet.

    Attributes:
        model: The model.
        settings: What was asked for.
        config: See `config_of`.
        info: Its pipeline folder.
        sizes: Of the transformer and its adapters.
        shapes: Of latents and groups, and the student's levels.
    """

    model: Model
    settings: Settings
    config: Config
    info: PipelineInfo
    sizes: Sizes
    shapes: Geometry

    @classmethod
    def of(cls, model: Model, settings: Settings, folder: Path) -> Self:
        """Writes the model's headers into an empty or new folder and reads them.

        Raises:
            UserError: if the recipe does not go with the model.
        """
        config = config_of(model, settings, write_headers(model, folder))
        info = inspect_pipeline(config.model.path, config.model.pixels)
        return cls(model, settings, config, info, sizes_of(config), geometry(config))

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.settings.device

    @property
    def learns(self) -> Learns:
        """Adapters of one frozen base, or whole float32 networks."""
        return "lora" if self.config.lora.rank else "full"

    @property
    def text_tokens(self) -> int:
        """Of a prompt, padding included."""
        return self.sizes.backbone.tokens - self.info.image_tokens

    @property
    def group_size(self) -> int:
        """Trajectories of a group, made in one batch."""
        return self.config.last_group_size


def config_of(model: Model, settings: Settings, folder: Path) -> Config:
    """The recipe of a model, as one of its learner's ranks has it, on a card of its own.

    A rank's share of the groups and batches is all that there is, as one rank has nobody to share with. Every objective
    has one update in a cycle, RL as many as it has minibatches, and its gate is open whatever the discriminator reads.
    """
    recipe, gpus = read_config(model.recipe), int(settings.device.type == "cuda")
    ranks = recipe.learner.ranks
    shares = {
        "rollout.groups_per_cycle": recipe.rollout.groups_per_cycle,
        "dmd.batch_size": recipe.dmd.batch_size,
        "fake_score.batch_size": recipe.fake_score.batch_size,
        "discriminator.batch_size": recipe.discriminator.batch_size,
    }
    overrides = [
        *(f"{name}={whole // ranks}" for name, whole in shares.items()),
        f"run.seed={settings.seed}",
        f"model.path={folder}",
        "model.embeddings=null",
        *(f"{role}.num_gpus={gpus}" for role in recipe.roles),
        "learner.ranks=1",
        f"learner.zero_stage={LearnerSection().zero_stage}",
        f"learner.engine={settings.engine}",
        "discriminator.text_errors=null",
        "discriminator.auc_high=1.0",
        "cadence.fake_score_updates=1",
        "cadence.discriminator_updates=1",
        "cadence.warm_dmd_updates=0",
        "cadence.ramp_interval=1",
        "cadence.measure_cycles=1",
        *model.overrides,
    ]
    if settings.checkpointing is not None:
        overrides.append(f"learner.gradient_checkpointing={str(settings.checkpointing).lower()}")
    return read_config(model.recipe, overrides)


def random_teacher(subject: Subject) -> TransformerDenoiser:
    """A frozen transformer of random weights, made on its device and in its precision by diffusers' own class.

    Its precision is that of `build_denoiser`: a base of adapters is bfloat16, a network that learns as a whole float32.
    """
    config, device = subject.config, subject.device
    half = config.model.precision == "bfloat16"
    dtype = torch.bfloat16 if half and config.lora.rank else torch.float32
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device, quiet(), _made_in(dtype):
        torch.manual_seed(subject.settings.seed)
        transformer = transformer_class(subject.info.family).from_config(dict(subject.model.transformer))
        transformer.to(dtype)  # what its class makes in float32 whatever the default is, such as a table of positions
    execution = Execution(autocast=half)
    denoiser = adapter(subject.info.family).denoiser(transformer, config.model.guidance, execution)
    return denoiser.eval().requires_grad_(False)


@contextmanager
def _made_in(dtype: torch.dtype) -> Iterator[None]:
    """What is made inside has this type at once, as in diffusers' own loading: float32 first might not fit the card."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def acting_student(subject: Subject, teacher: TransformerDenoiser) -> TransformerDenoiser:
    """The network of a rollout actor, around the very weights of the teacher: adapters merged where the recipe says so.

    Where whole networks learn it runs with the teacher's weights themselves, which is what loading leaves it.
    """
    return loading(subject.config, sharing_copy(teacher), "student")


def random_table(subject: Subject) -> PromptTable:
    """Two prompts of random embeddings and an empty one, in host memory, as a run's table is; no token is padding."""
    shape, count = subject.model.transformer, len(PROMPTS) + 1
    width = shape["cap_feat_dim"] if "cap_feat_dim" in shape else shape["joint_attention_dim"]
    generator = torch.Generator().manual_seed(subject.settings.seed)
    embeds = torch.randn(count, subject.text_tokens, width, generator=generator)
    pooled = torch.randn(count, shape.get("pooled_projection_dim", 0), generator=generator)
    every = Conditioning(embeds, pooled).to(dtype=torch.bfloat16)
    return PromptTable(PROMPTS, every.select(torch.arange(count - 1)), every.select(torch.tensor([count - 1])))


def random_images(subject: Subject) -> RealImages:
    """Random latents in place of real images, a few for each prompt."""
    count = IMAGES_EACH * len(PROMPTS)
    generator = torch.Generator().manual_seed(subject.settings.seed + 1)
    latents = torch.randn(count, *subject.shapes.largest.latent_shape, generator=generator)
    return RealImages(latents, torch.arange(len(PROMPTS)).repeat_interleave(IMAGES_EACH))


def randomly_scored(group: TrajectoryGroup, seed: int) -> ScoredGroup:
    """The group with random rewards of every level."""
    shape = (len(group.seeds), len(group.sigmas) - 1)
    return ScoredGroup(group, np.random.default_rng(seed).standard_normal(shape, dtype=np.float32), reward_version=0)

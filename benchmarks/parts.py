"""Builds what is measured: networks with random weights where they compute, and prompts, images and groups to match.

Speed does not depend on what the weights are, so nothing is downloaded and nothing is read from a disk.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.schedule import student_sigmas
from advdmd_ray.models.diffusers_classes import transformer_class
from advdmd_ray.models.families import adapter
from advdmd_ray.models.families.base import Execution, TransformerDenoiser
from advdmd_ray.models.families.registry import BY_PIPELINE
from advdmd_ray.models.pipeline import quiet
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import ScoredGroup, TrajectoryGroup
from benchmarks.sizes import SHIFT, Size

FAMILY = BY_PIPELINE["StableDiffusion3Pipeline"]
PROMPTS = ("one prompt", "another prompt")
IMAGES_EACH = 4
Learns = Literal["lora", "full"]
LEARNS: tuple[Learns, ...] = ("lora", "full")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a benchmark is asked for.

    Attributes:
        size: Shapes of everything.
        device: Where the networks are.
        learns: Adapters of one bfloat16 base, whole float32 networks, or one after the other.
        engine: `learner.engine`.
        checkpointing: `learner.gradient_checkpointing`.
        rows: Images of one update; see `Size.rows`.
        warm_up: Repeats that are not counted, at least 1.
        repeats: Repeats that are, at least 5.
        seed: Of weights, prompts and noise.
    """

    size: Size
    device: torch.device
    learns: tuple[Learns, ...]
    engine: Literal["deepspeed", "torch"]
    checkpointing: bool
    rows: int
    warm_up: int = 2
    repeats: int = 5
    seed: int = 0


def config_of(settings: Settings, learns: Learns) -> Config:
    """The configuration that is measured: that of `configs/sd35_medium_lora.yaml` in what costs time.

    Every objective has one update in a cycle, and RL's gate is open whatever the AUC says. Where whole networks learn
    the discriminator reads the frozen teacher, for an own copy and its moments would need half as much memory again.
    """
    size, gpus = settings.size, float(settings.device.type == "cuda")
    return Config.model_validate(
        {
            "run": {"seed": settings.seed},
            "model": {"precision": "bfloat16", "guidance": 4.5},
            "lora": {"rank": size.rank if learns == "lora" else 0},
            "rollout": {"group_size": size.group_size, "groups_per_cycle": 1, "num_gpus": gpus},
            "learner": {
                "engine": settings.engine,
                "gradient_checkpointing": settings.checkpointing,
                "num_gpus": gpus,
            },
            "dmd": {"batch_size": settings.rows, "gan_weight": 0.5},
            "fake_score": {"batch_size": settings.rows},
            "discriminator": {
                "batch_size": settings.rows,
                "backbone": "own" if learns == "lora" else "teacher",
                "blocks": size.blocks,
                "width": size.head_width,
                "mismatched_text": 0.5,
                "auc_rows": 2,
                "auc_low": 0.0,
                "auc_high": 1.0,
            },
            "policy_gradient": {"group_rows": size.group_rows},
            "cadence": {
                "fake_score_updates": 1,
                "discriminator_updates": 1,
                "warm_dmd_updates": 0,
                "ramp_interval": 1,
            },
        }
    )


def sigmas_of(config: Config) -> Tensor:
    """`[K+1]` levels of the student after SD3's shift."""
    return student_sigmas(config.diffusion.sigmas, SHIFT)


def random_teacher(settings: Settings, dtype: torch.dtype) -> TransformerDenoiser:
    """A frozen transformer of random weights, made on its device by diffusers' own class."""
    device = settings.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device, quiet():
        torch.manual_seed(settings.seed)
        transformer = transformer_class(FAMILY).from_config(dict(settings.size.transformer)).to(device, dtype)
    # Products run in bfloat16 by autocast, as `assembly.build_denoiser` has it where model.precision is bfloat16.
    denoiser = adapter(FAMILY).denoiser(transformer, execution=Execution(autocast=True))
    return denoiser.eval().requires_grad_(False)


def base_dtype(learns: Learns) -> torch.dtype:
    """Of the teacher: adapters learn on a bfloat16 base, a network that learns as a whole is float32."""
    return torch.bfloat16 if learns == "lora" else torch.float32


def random_table(settings: Settings) -> PromptTable:
    """Two prompts of random embeddings and an empty one, in host memory, as a run's table is."""
    shape, count = settings.size.transformer, len(PROMPTS) + 1
    generator = torch.Generator().manual_seed(settings.seed)
    embeds = torch.randn(count, settings.size.text_tokens, shape["joint_attention_dim"], generator=generator)
    pooled = torch.randn(count, shape["pooled_projection_dim"], generator=generator)
    every = Conditioning(embeds, pooled).to(dtype=torch.bfloat16)
    return PromptTable(PROMPTS, every.select(torch.arange(count - 1)), every.select(torch.tensor([count - 1])))


def random_images(settings: Settings) -> RealImages:
    """Random latents in place of real images, a few for each prompt."""
    count = IMAGES_EACH * len(PROMPTS)
    generator = torch.Generator().manual_seed(settings.seed + 1)
    latents = torch.randn(count, *settings.size.latent, generator=generator)
    return RealImages(latents, torch.arange(len(PROMPTS)).repeat_interleave(IMAGES_EACH))


def randomly_scored(group: TrajectoryGroup, seed: int) -> ScoredGroup:
    """The group with random rewards of every level."""
    shape = (len(group.seeds), len(group.sigmas) - 1)
    return ScoredGroup(group, np.random.default_rng(seed).standard_normal(shape, dtype=np.float32), reward_version=0)

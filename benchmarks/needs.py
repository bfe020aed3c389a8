"""What each measurement needs of a card's memory, by arithmetic, before anything is allocated."""

from collections.abc import Mapping

import torch

from advdmd_ray.models.families.kept import BFLOAT16
from advdmd_ray.runs.needs.memory import group_bytes, memory
from advdmd_ray.runs.needs.micro_batch import held_without_activations
from benchmarks.parts import Subject

GIB = 2**30
LATENTS = 4
"""A group where it is made, where it is learned from, and twice so of the limit."""


def needs(subject: Subject) -> Mapping[str, int]:
    """Bytes by part of the benchmark, as `runs/needs/memory.py` tells those of a role.

    Where `micro_batch` is auto they are those of one row at a time, the least that a role comes down to. The script has
    the base of adapters for its own; beside a network that learns as a whole it has a copy in bfloat16. Publishing has
    two processes on the card, each with a network, and the weights on their way.
    """
    alone = {name: section.model_copy(update={"num_gpus": 1.0}) for name, section in subject.config.roles.items()}
    config = subject.config.model_copy(update=alone)
    gpu = {row.role: row.gpu for row in memory(config, subject.sizes)}
    script = 0 if config.lora.rank else subject.sizes.transformer * BFLOAT16
    acting = held_without_activations(config, subject.sizes, "rollout")
    weights = torch.float32.itemsize * (subject.sizes.adapters or subject.sizes.transformer)
    return {
        "rollout": gpu["rollout"] + script,
        "transfers": acting + LATENTS * group_bytes(config, subject.info.latent),
        "learner": gpu["learner"],
        "publishing": 2 * acting + weights,
    }


def too_large(need: int, available: int) -> str | None:
    """Why a part is left out, or None."""
    return None if need <= available else f"it needs {need / GIB:.1f} GiB, the card has {available / GIB:.1f}"

"""The networks of one learner rank."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser, guided

CPU = torch.device("cpu")
# Name of the backbone inside a discriminator that carries it, and so in a snapshot of the discriminator.
CARRIED = "backbone"


@dataclass(frozen=True, slots=True)
class Networks:
    """The four roles. Student and fake score start as copies of the teacher.

    Attributes:
        teacher: Frozen, multi-step.
        student: The few-step generator.
        fake_score: The score of the student's own distribution.
        discriminator: Real against generated; the reward model.
        backbone: The part of the fake score that the discriminator reads, so that its weights must travel with the
            heads; None if it reads another network.
        guide: How the teacher's family is guided, from denoiser, empty prompt and scale.
        base_digest: Digest of the frozen teacher; snapshots and checkpoints carry it.
        device: Where the networks are.
        micro_batch: Most rows of a call, and of a part of a loss; None: all.
    """

    teacher: nn.Module
    student: nn.Module
    fake_score: nn.Module
    discriminator: nn.Module
    backbone: nn.Module | None = None
    guide: Callable[[Denoiser, Conditioning, float], Denoiser] = guided
    base_digest: str | None = None
    device: torch.device = CPU
    micro_batch: int | None = None


def carried_weights(networks: Networks) -> dict[str, str]:
    """Names, in a snapshot of the discriminator, of the weights that it reads and the fake score trains; and there."""
    if networks.backbone is None:
        return {}
    trained = {id(weight): name for name, weight in networks.fake_score.named_parameters() if weight.requires_grad}
    read = networks.backbone.named_parameters(prefix=CARRIED)
    return {name: trained[id(weight)] for name, weight in read if id(weight) in trained}

"""Analytic stand-ins for the networks on 4x4 latents, and scored groups and learners made with them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.resolution import Resolution
from advdmd_ray.learner.actions import Actions
from advdmd_ray.learner.batch import LearnerBatch, Path, clean_predictions, collate
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.learner.heldout import HeldOut
from advdmd_ray.learner.learner import Learner
from advdmd_ray.learner.networks import Networks
from advdmd_ray.learner.objectives import discriminator_parts
from advdmd_ray.learner.parts import LossPart
from advdmd_ray.learner.policy import PolicyReport, policy_parts
from advdmd_ray.learner.setting import Setting
from advdmd_ray.stations.buffer.record_batch import (
    decode_group,
    decode_scored,
    encode_group,
    encode_scores,
)
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import GroupInfo, Lease, ScoredGroup
from advdmd_ray.stations.reward import Critic, FinalScorer, RewardSource, RewardWorker, group_info
from advdmd_ray.stations.rollout import RolloutWorker
from advdmd_ray.stations.weights.snapshot import pack

SHAPE = (1, 4, 4)
SIGMAS = torch.tensor([1.0, 0.6, 0.3, 0.0])
RESOLUTIONS = (Resolution(SHAPE, SIGMAS),)
PROMPTS = ("zero", "one", "two")
POOLED = 5


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    """Normal numbers with a seed."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def table() -> PromptTable:
    """Three prompts."""
    conditioning = Conditioning(normal(3, 2, 4, seed=1), normal(3, POOLED, seed=2))
    return PromptTable(PROMPTS, conditioning, Conditioning(torch.zeros(1, 2, 4), torch.zeros(1, POOLED)))


def real_images(each: int = 20, shift: float = 0.0) -> RealImages:
    """Real latents of every prompt."""
    latents = normal(3 * each, *SHAPE, seed=5) + shift
    return RealImages(latents, torch.arange(3).repeat_interleave(each))


class Painter(nn.Module):
    """A denoiser whose clean prediction is always the same picture: v = (x - picture) / t."""

    def __init__(self, picture: Tensor) -> None:
        super().__init__()
        self.picture = nn.Parameter(picture.clone())

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        assert len(conditioning) == len(x) == len(t)
        return (x - self.picture) / t.reshape(-1, 1, 1, 1)


class Mixer(nn.Module):
    """A denoiser that depends on the state, the level and the prompt."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.spatial = nn.Parameter(normal(1, 1, 3, 3, seed=seed, scale=0.4))
        self.text = nn.Parameter(normal(POOLED, seed=seed + 1))
        self.level = nn.Parameter(normal(1, seed=seed + 2))

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        condition = (conditioning.pooled @ self.text + self.level * t).reshape(-1, 1, 1, 1)
        return x + torch.tanh(nn.functional.conv2d(x, self.spatial, padding=1) + condition)


class Judge(nn.Module):
    """A critic that depends on the state, the level and the prompt; blind at scale 0."""

    def __init__(self, seed: int, scale: float = 0.5) -> None:
        super().__init__()
        self.spatial = nn.Parameter(normal(2, 1, 3, 3, seed=seed))
        self.readout = nn.Parameter(normal(2, 4, 4, seed=seed + 1, scale=scale))
        self.text = nn.Parameter(normal(POOLED, seed=seed + 2, scale=scale))
        self.level = nn.Parameter(normal(1, seed=seed + 3, scale=scale))

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        seen = torch.tanh(nn.functional.conv2d(x, self.spatial, padding=1)) * self.readout
        return seen.sum(dim=(1, 2, 3)) + conditioning.pooled @ self.text + self.level * t


class Brightness(nn.Module):
    """A critic that prefers bright states: gain times the mean."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        assert len(conditioning) == len(x) == len(t)
        return self.gain * x.mean(dim=(1, 2, 3))


class Constant(nn.Module):
    """A critic that gives every state one logit."""

    def __init__(self, logit: float = 0.1) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return self.logit.expand(len(x))


def config(**sections: Mapping[str, Any]) -> Config:
    """A configuration of 4 groups of 4 samples and 3 steps that fits the stand-ins."""
    tree: dict[str, dict[str, Any]] = {
        "model": {"guidance": 1.0},
        "diffusion": {"sigmas": SIGMAS[:-1].tolist()},
        "rollout": {"group_size": 4, "groups_per_cycle": 4},
        "learner": {"engine": "torch"},
        "dmd": {"batch_size": 64},
        "fake_score": {"batch_size": 64},
        "discriminator": {"batch_size": 64, "text_errors": None, "auc_high": 1.0},
        "cadence": {"warm_dmd_updates": 0, "ramp_interval": 1, "fake_score_updates": 1, "discriminator_updates": 1},
    }
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | dict(values)
    return Config.model_validate(tree)


def setting(
    settings: Config, teacher: Denoiser, *, kernel: Kernel | None = None, real: RealImages | None = None
) -> Setting:
    """The objectives' setting over the stand-ins; half of the real images are held out."""
    learn, heldout = (real_images() if real is None else real).split(0.5, seed=0)
    return Setting(settings, table(), kernel or Kernel.renoise(), SIGMAS, learn, heldout, teacher)


def heldout_auc(critic: Critic, settings: Setting, batch: LearnerBatch, path: Path) -> Tensor:
    """The AUC per level that the learner would measure."""
    return HeldOut(settings).measure(critic, batch, path).auc


def whole(parts: Sequence[LossPart]) -> Tensor:
    """A loss that was given in parts."""
    return torch.stack([part() for part in parts]).sum()


def discriminator_update(critic: Critic, settings: Setting, batch: LearnerBatch, path: Path) -> Tensor:
    """The discriminator's loss, with the student's clean predictions that belong to the batch."""
    return whole(discriminator_parts(critic, settings, batch, clean_predictions(batch, settings.kernel), path))


def policy_update(
    student: nn.Module, settings: Setting, batch: LearnerBatch, actions: Actions
) -> tuple[Tensor, PolicyReport]:
    """The policy-gradient loss of all actions in one part, and its report."""
    reports: list[PolicyReport] = []
    (part,) = policy_parts(student, settings, batch, actions, reports.append)
    loss = part()
    (report,) = reports
    return loss, report


def rollout_worker(
    student: nn.Module,
    *,
    kernel: Kernel | None = None,
    version: int = 0,
    group_size: int | Callable[[int], int] = 4,
    name: str = "rollout-0",
) -> RolloutWorker:
    """A rollout worker that runs a student's weights as `version`; its groups may differ in size by their ordinal."""
    snapshot = pack("student", version, dict(student.named_parameters()))
    worker = RolloutWorker(
        name,
        student,
        table(),
        kernel=kernel or Kernel.renoise(),
        resolution_of=lambda _: RESOLUTIONS[0],
        group_size_of=group_size if callable(group_size) else lambda _: group_size,
    )
    worker.load(snapshot)
    return worker


def brightness_oracle() -> FinalScorer:
    """An oracle that prefers bright final images: the mean of twice the latent, between 0 and 1, for known prompts."""

    def oracle(images: Tensor, prompt: str) -> Tensor:
        assert prompt in PROMPTS
        return torch.sigmoid(images.mean(dim=(1, 2, 3)))

    return FinalScorer(decode=lambda latents: 2 * latents, score=oracle)


def reward_worker(
    critic: nn.Module,
    *,
    final_levels: Sequence[float] = (0.05, 0.15, 0.3),
    source: RewardSource = "discriminator",
    oracle: FinalScorer | None = None,
    extra: FinalScorer | None = None,
) -> RewardWorker:
    """A reward worker that runs a critic's weights as version 0."""
    worker = RewardWorker(
        "reward-0", critic, table(), final_levels=final_levels, source=source, oracle=oracle, extra=extra
    )
    worker.load(pack("discriminator", 0, dict(critic.named_parameters())))
    return worker


def lease(ordinal: int, version: int = 0) -> Lease:
    """A lease whose prompt and seed follow from its ordinal."""
    return Lease(ordinal=ordinal, attempt=0, prompt_id=ordinal % 3, seed=1000 + ordinal, policy_version=version)


def scored_groups(
    student: nn.Module,
    critic: nn.Module,
    ordinals: Sequence[int] = range(4),
    *,
    kernel: Kernel | None = None,
    version: int = 0,
    group_size: int = 4,
    source: RewardSource = "discriminator",
    extra: FinalScorer | None = None,
) -> list[ScoredGroup]:
    """Groups of a student, scored by a critic or the brightness oracle, through Arrow; the networks may learn."""
    actor = rollout_worker(student, kernel=kernel, version=version, group_size=group_size)
    judge = reward_worker(critic, source=source, oracle=brightness_oracle(), extra=extra)
    groups = []
    for ordinal in ordinals:
        group = encode_group(actor.generate(lease(ordinal, version)))
        groups.append(decode_scored(group, encode_scores(judge.score(decode_group(group)))))
    student.requires_grad_(requires_grad=True)
    critic.requires_grad_(requires_grad=True)
    return groups


def batch_of(student: nn.Module, critic: nn.Module, *, kernel: Kernel | None = None, version: int = 0) -> LearnerBatch:
    """The learner's batch of four fresh groups."""
    return collate(scored_groups(student, critic, kernel=kernel, version=version), version)


def infos_of(groups: Sequence[ScoredGroup]) -> list[GroupInfo]:
    """What the index would know of the groups."""
    return [group_info(scored, 100) for scored in groups]


def learner(
    settings: Config,
    *,
    student: nn.Module,
    critic: nn.Module,
    teacher: nn.Module | None = None,
    fake_score: nn.Module | None = None,
    kernel: Kernel | None = None,
) -> Learner:
    """A learner alone, in plain torch."""
    networks = Networks(teacher or Mixer(1), student, fake_score or Mixer(20), critic)
    return Learner(
        settings,
        SoloGang(),
        networks,
        table(),
        real_images(),
        kernel=kernel or Kernel.renoise(),
        resolutions=RESOLUTIONS,
    )

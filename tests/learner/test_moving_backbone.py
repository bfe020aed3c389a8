"""A discriminator whose backbone learns: reward workers judge by the learner's own network, whole."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from advdmd_ray.config import Config
from advdmd_ray.errors import WeightsMismatchError
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.learner.learner import Learner
from advdmd_ray.runs.parts.inputs import encode_table
from advdmd_ray.runs.parts.networks import base_digest
from advdmd_ray.runs.parts.workers import build_learner, build_reward_worker, build_rollout_worker
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import Lease, TrajectoryGroup
from advdmd_ray.stations.reward import (
    RewardWorker,
    final_noise_of,
    group_info,
    judged_states,
    level_scores,
    score_states,
)
from advdmd_ray.stations.weights.snapshot import Snapshot, pack, unpack
from tiny_digits import write_tiny_digits

pytestmark = pytest.mark.usefixtures("encoders_once")


def _config(pipeline: Path, backbone: str, **dmd: Any) -> Config:
    return Config.model_validate(
        {
            "model": {"path": str(pipeline)},
            "diffusion": {"sigmas": (1.0, 0.6, 0.3)},
            "rollout": {"group_size": 4, "groups_per_cycle": 1},
            "learner": {"engine": "torch"},
            "dmd": {"batch_size": 4} | dmd,
            "fake_score": {"batch_size": 4, "learning_rate": 1e-2},
            "discriminator": {
                "batch_size": 4,
                "backbone": backbone,
                "blocks": (0, 1),
                "text_errors": None,
                "auc_high": 1.0,
            },
            "cadence": {"warm_dmd_updates": 0, "ramp_interval": 1},
        }
    )


@pytest.fixture(scope="module")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three blocks: the last is read by no head."""
    return write_tiny_digits(tmp_path_factory.mktemp("teacher") / "tiny", layers=3)


@functools.cache
def _table(pipeline: str) -> PromptTable:
    """What the prompts say does not depend on who learns from them."""
    return encode_table(Config.model_validate({"model": {"path": pipeline}}))


class Play:
    """A learner, its actors, and one cycle after the other."""

    def __init__(self, settings: Config) -> None:
        self.settings, self.table = settings, _table(settings.model.path)
        self.learner: Learner = build_learner(settings, SoloGang(), self.table, None)
        self.actor = build_rollout_worker(settings, "rollout-0", self.table)
        self.judge = build_reward_worker(settings, "reward-0", self.table)

    def group(self) -> TrajectoryGroup:
        version = self.learner.version
        self.actor.load(self.learner.snapshots()[0])
        return self.actor.generate(Lease(version, 0, 3, 17 + version, version))

    def cycle(self) -> None:
        group = self.group()
        self.judge.load(self.learner.snapshots()[1])
        scored = self.judge.score(group)
        self.learner.cycle([scored], [group_info(scored, 1)])


def _by_the_learner(play: Play, group: TrajectoryGroup) -> torch.Tensor:
    latents, final = torch.tensor(group.latents), play.settings.reward.final_levels
    eps = final_noise_of(latents.shape[2:], int(group.seeds[0]), len(final))
    states, levels = judged_states(latents, torch.tensor(group.sigmas), final, eps)
    with torch.no_grad():
        ids = torch.full((len(latents),), group.prompt_id)
        logits = score_states(play.learner._engines["discriminator"].module, play.table, ids, states, levels)
    return level_scores(logits, intermediate=latents.shape[1] - 2)


def _by_the_worker(worker: RewardWorker, snapshot: Snapshot, group: TrajectoryGroup) -> torch.Tensor:
    worker.load(snapshot)
    return torch.tensor(worker.score(group).rewards)


@pytest.mark.parametrize("backbone", ["teacher", "fake_score", "own"])
def test_workers_score_with_the_learners_network_after_it_has_learnt(backbone: str, tiny_pipeline: Path) -> None:
    play = Play(_config(tiny_pipeline, backbone))
    group = play.group()
    first = _by_the_worker(play.judge, play.learner.snapshots()[1], group)
    for _ in range(2):
        play.cycle()
    last = _by_the_worker(play.judge, play.learner.snapshots()[1], group)
    torch.testing.assert_close(last, _by_the_learner(play, group), rtol=0, atol=0)
    assert not torch.allclose(first, last, atol=1e-3)


def test_the_snapshot_carries_the_fake_score_as_it_is_now(tiny_pipeline: Path) -> None:
    play = Play(_config(tiny_pipeline, "fake_score"))
    play.cycle()
    carried = unpack(play.learner.snapshots()[1])
    weights = play.learner._engines["fake_score"].state_dict()
    backbone = {name: tensor for name, tensor in carried.items() if name.startswith("backbone.")}
    assert len(backbone) == len(weights)
    for name, weight in weights.items():
        assert torch.equal(backbone[name.replace("transformer.", "backbone.", 1)], weight)
    start = Play(play.settings).learner._engines["fake_score"].state_dict()
    assert any(not torch.equal(start[name], weight) for name, weight in weights.items())


def test_heads_without_the_backbone_that_they_read_are_refused(tiny_pipeline: Path) -> None:
    play = Play(_config(tiny_pipeline, "fake_score"))
    heads = {name: tensor for name, tensor in unpack(play.learner.snapshots()[1]).items() if name.startswith("heads.")}
    with pytest.raises(WeightsMismatchError, match=r"reward-0: .*backbone\."):
        play.judge.load(pack("discriminator", 0, heads, base_digest(play.settings)))


def test_updates_of_discriminator_and_student_leave_the_borrowed_backbone_alone(tiny_pipeline: Path) -> None:
    """Without updates of its own, a whole cycle with the direct GAN term does not move the fake score by one bit."""
    settings = _config(tiny_pipeline, "fake_score", gan_weight=1.0)
    still = settings.cadence.model_copy(update={"fake_score_updates": 0})
    play = Play(settings.model_copy(update={"cadence": still}))
    before = play.learner._engines["fake_score"].state_dict()
    play.cycle()
    after = play.learner._engines["fake_score"].state_dict()
    for name, weight in before.items():
        assert torch.equal(after[name], weight), name
    assert all(p.grad is None or not p.grad.any() for p in play.learner._engines["fake_score"].module.parameters())


def test_an_own_backbone_learns_with_the_heads(tiny_pipeline: Path) -> None:
    play = Play(_config(tiny_pipeline, "own"))
    before = play.learner._engines["discriminator"].state_dict()
    play.cycle()
    after = play.learner._engines["discriminator"].state_dict()
    moved = {name.partition(".")[0] for name, weight in after.items() if not torch.equal(before[name], weight)}
    assert moved == {"heads", "backbone"}


def test_the_direct_gan_term_leaves_a_resting_discriminator_alone(tiny_pipeline: Path) -> None:
    """A smoothed AUC above 0 counts as overpowering here: whatever moves the discriminator is not its own loss."""
    settings = _config(tiny_pipeline, "own", gan_weight=1.0)
    resting = settings.discriminator.model_copy(update={"auc_high": 0.0, "learning_rate": 0.1})
    play = Play(settings.model_copy(update={"discriminator": resting}))
    play.learner._health = replace(play.learner._health, auc=(0.9,) * len(play.learner._health.auc))
    discriminator = play.learner._engines["discriminator"]
    before, student = discriminator.state_dict(), play.learner._engines["student"].state_dict()
    play.cycle()
    for name, weight in discriminator.state_dict().items():
        assert torch.equal(weight, before[name]), name
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in discriminator.module.parameters())
    moved = play.learner._engines["student"].state_dict()
    assert any(not torch.equal(student[name], weight) for name, weight in moved.items())

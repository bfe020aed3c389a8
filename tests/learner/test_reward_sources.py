"""Whoever gives the rewards: an oracle opens its own level, and a discriminator that is not used costs nothing."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.learner.outcome import CycleReport
from small_parts import Brightness, Mixer, config, infos_of, learner, scored_groups

STILL = 1e-12


class Unasked(nn.Module):
    """A critic that must not be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        raise AssertionError("the discriminator was asked")


def _config(**sections: Mapping[str, Any]) -> Config:
    """RL in every cycle on an oracle's reward; DMD and the fake score stand still."""
    tree: dict[str, dict[str, Any]] = {
        "data": {"source": "shapes"},
        "reward": {"kind": "oracle"},
        "rollout": {"group_size": 16, "groups_per_cycle": 4},
        "dmd": {"learning_rate": STILL, "batch_size": 4},
        "fake_score": {"learning_rate": STILL, "batch_size": 4},
        "discriminator": {"learning_rate": STILL, "batch_size": 4, "auc_high": 0.9},
        "policy_gradient": {"learning_rate": 0.05},
        "cadence": {"discriminator_updates": 0},
    }
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | dict(values)
    return config(**tree)


def test_rl_on_an_oracle_raises_its_score_without_any_discriminator() -> None:
    student, actor = Mixer(1), Mixer(1)
    taught = learner(_config(), student=student, critic=Unasked())
    scores = []
    for _ in range(9):
        actor.load_state_dict(student.state_dict())
        groups = scored_groups(
            actor,
            Unasked(),
            version=taught.version,
            group_size=16,
            source="oracle",
        )
        scores.append(float(np.mean([scored.rewards[:, -1] for scored in groups])))
        report = taught.cycle(groups, infos_of(groups))
        assert report.updates["rl"].updates == 1
        assert report.updates["discriminator"].updates == 0
        assert report.open_levels == (False, False, True)
    assert all(later > earlier for earlier, later in itertools.pairwise(scores))
    assert scores[-1] > scores[0] + 0.01


def _one_cycle(settings: Config, critic: nn.Module) -> CycleReport:
    groups = scored_groups(Mixer(1), critic, group_size=16, source=settings.rewarded_by)
    return learner(settings, student=Mixer(1), critic=critic).cycle(groups, infos_of(groups))


def test_the_auc_of_a_discriminator_that_is_not_trained_is_absent() -> None:
    report = _one_cycle(_config(), Unasked())
    assert all(math.isnan(area) for area in (*report.auc, *report.smoothed_auc))
    assert "advdmd_learner_discriminator_auc" not in {sample.name for sample in report.samples()}


def test_beside_an_oracle_the_auc_of_a_trained_discriminator_is_measured_and_shuts_nothing() -> None:
    report = _one_cycle(_config(cadence={"discriminator_updates": 1}), Brightness())
    assert all(0 <= area <= 1 for area in report.auc)
    assert report.updates["discriminator"].updates == 1
    assert report.open_levels == (False, False, True)
    assert report.updates["rl"].updates == 1


def test_dmd_alone_asks_no_discriminator() -> None:
    settings = _config(reward={"kind": "discriminator"}, policy_gradient={"enabled": False})
    report = _one_cycle(settings, Unasked())
    assert report.updates["dmd"].updates == 1
    assert report.reward_mean == (0.0, 0.0, 0.0)
    assert "rl" not in report.updates


def test_the_agreement_of_a_cycle_is_the_mean_over_groups_with_something_to_order() -> None:
    groups = scored_groups(Mixer(1), Brightness(), group_size=16)
    shares = [(0.5, math.nan, 1.0), (1.0, math.nan, math.nan), (0.0, math.nan, 0.5), (0.5, math.nan, math.nan)]
    infos = [replace(info, agreement=share) for info, share in zip(infos_of(groups), shares, strict=True)]
    report = learner(config(), student=Mixer(1), critic=Brightness()).cycle(groups, infos)
    assert report.agreement[::2] == (0.5, 0.75)
    assert math.isnan(report.agreement[1])
    recorded = {dict(s.labels)["level"]: s.value for s in report.samples() if s.name == "advdmd_reward_agreement"}
    assert recorded == {"1": 0.5, "3": 0.75}
    assert learner(config(), student=Mixer(1), critic=Brightness()).cycle(groups, infos_of(groups)).agreement == ()

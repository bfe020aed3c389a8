"""A user's own reward beside the discriminator: what it adds to an advantage, and what hangs on it."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.learner.batch import collate
from advdmd_ray.learner.checkpoint import open_checkpoint, save_checkpoint
from advdmd_ray.learner.learner import Learner
from advdmd_ray.learner.outcome import CycleReport
from advdmd_ray.learner.signal import RewardSignal, own_moments
from advdmd_ray.losses.advantage import GroupSummary, within_std
from advdmd_ray.stations.records import ScoredGroup
from advdmd_ray.stations.reward import FinalScorer
from small_parts import PROMPTS, Constant, Judge, Mixer, config, infos_of, learner, scored_groups

STILL = 1e-12
OPEN, SHUT = (True,) * 3, (False,) * 3


def brightness(images: Tensor, prompt: str) -> Tensor:
    """The mean of each image, for known prompts."""
    assert prompt in PROMPTS
    return images.mean(dim=(1, 2, 3))


BRIGHT = FinalScorer(decode=lambda latents: 2 * latents, score=brightness)


def _config(**sections: Mapping[str, Any]) -> Config:
    """RL in every cycle; all but the student's RL stands still."""
    tree: dict[str, dict[str, Any]] = {
        "reward": {"extra": "toy:brightness"},
        "rollout": {"group_size": 16, "groups_per_cycle": 4},
        "dmd": {"learning_rate": STILL, "batch_size": 4},
        "fake_score": {"learning_rate": STILL, "batch_size": 4},
        "discriminator": {"learning_rate": STILL, "batch_size": 4},
        "policy_gradient": {"learning_rate": 0.05},
    }
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | dict(values)
    return config(**tree)


def _with(groups: list[ScoredGroup], change: Callable[[np.ndarray], np.ndarray]) -> list[ScoredGroup]:
    """The groups with another own reward."""
    changed = []
    for scored in groups:
        assert scored.extra is not None
        changed.append(dataclasses.replace(scored, extra=change(scored.extra).astype(np.float32)))
    return changed


def _advantages(groups: list[ScoredGroup], settings: Config, levels: tuple[bool, ...] = OPEN) -> Tensor:
    infos, signal = infos_of(groups), RewardSignal(settings)
    spread = within_std([GroupSummary(info.samples, info.reward_mean, info.reward_m2) for info in infos])
    own = own_moments(infos)
    signal.follow(spread, levels, own)
    return signal.advantages(collate(groups, 0), spread, levels, own)[0]


@pytest.fixture(scope="module")
def groups() -> list[ScoredGroup]:
    """Four groups of sixteen."""
    return scored_groups(Mixer(1), Judge(2), group_size=16, extra=BRIGHT)


def test_it_travels_beside_the_scores_and_is_of_decoded_final_images(groups: list[ScoredGroup]) -> None:
    for scored in groups:
        assert scored.extra is not None
        np.testing.assert_allclose(scored.extra, 2 * scored.group.latents[:, -1].mean(axis=(1, 2, 3)), rtol=1e-5)


def test_each_action_of_a_trajectory_gets_its_standard_deviations_times_the_weight(groups: list[ScoredGroup]) -> None:
    alone = _advantages(groups, _config(policy_gradient={"clip": 100.0}))
    own = np.stack([scored.extra for scored in groups if scored.extra is not None])
    deviations = own - own.mean(axis=1, keepdims=True)
    z = torch.from_numpy(deviations / np.sqrt(np.square(deviations).mean()))[..., None]
    for weight in (0.5, 3.0):
        both = _advantages(groups, _config(reward={"extra_weight": weight}, policy_gradient={"clip": 100.0}))
        torch.testing.assert_close(both - alone, (weight - 1.0) * z.expand_as(alone), rtol=1e-4, atol=1e-5)
        shut = _advantages(groups, _config(reward={"extra_weight": weight}, policy_gradient={"clip": 100.0}), SHUT)
        torch.testing.assert_close(shut, weight * z.expand_as(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["own_step", "final_only", "potential"])
def test_no_form_and_no_discount_of_the_levels_changes_it(form: str, groups: list[ScoredGroup]) -> None:
    usual = _advantages(groups, _config(), SHUT)
    other = _advantages(groups, _config(policy_gradient={"advantage": form, "gamma": 0.0}), SHUT)
    torch.testing.assert_close(other, usual)


def test_its_unit_and_its_offset_do_not_count_but_its_sign_does(groups: list[ScoredGroup]) -> None:
    usual = _advantages(groups, _config())
    for factor, offset in ((1e-4, 0.0), (1e5, -3e5), (2.0, 1.0)):
        changed = _with(groups, lambda own, a=factor, b=offset: a * own.astype(np.float64) + b)
        torch.testing.assert_close(_advantages(changed, _config()), usual, rtol=1e-3, atol=1e-3)
    turned = _advantages(_with(groups, np.negative), _config(), SHUT)
    torch.testing.assert_close(turned, -_advantages(groups, _config(), SHUT), rtol=1e-4, atol=1e-5)


def test_the_sum_is_clipped_and_shuffled_as_one(groups: list[ScoredGroup]) -> None:
    bound = _advantages(groups, _config(policy_gradient={"clip": 0.3}))
    assert float(bound.abs().max()) == pytest.approx(0.3)
    mixed = _advantages(groups, _config(policy_gradient={"shuffle_rewards": True}))
    usual = _advantages(groups, _config())
    for before, after in zip(usual, mixed, strict=True):
        rows = (before[:, None] - after).abs().amax(dim=-1) < 1e-4
        assert bool((rows.sum(dim=0) == 1).all()), "a trajectory has the advantages of one trajectory of its group"
    assert not torch.allclose(usual, mixed)


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_one_that_says_the_same_of_all_moves_nothing(noise: float, groups: list[ScoredGroup]) -> None:
    flat = _with(groups, lambda own: 0.3 + noise * own)
    assert not _advantages(flat, _config(), SHUT).any()


@pytest.mark.parametrize("values", [(1.0, -1.0, 1.0, -1.0), (1.3, -1.1, 0.7, -0.9), (1e4, -1e4, 0.0, 0.0)])
def test_nor_does_one_that_is_one_number_for_each_prompt(values: tuple[float, ...], groups: list[ScoredGroup]) -> None:
    flat = []
    for scored, value in zip(groups, values, strict=True):
        extra = np.full_like(scored.extra, value)
        extra[0] = np.nextafter(extra[0], np.float32(2 * value), dtype=np.float32)  # round-off
        flat.append(dataclasses.replace(scored, extra=extra))
    assert not _advantages(flat, _config(), SHUT).any()
    own = own_moments(infos_of(flat))
    assert own is not None
    assert own[1] == 0


def _cycle(taught: Learner, student: nn.Module, critic: nn.Module) -> tuple[CycleReport, float]:
    actor = Mixer(1)
    actor.load_state_dict(student.state_dict())
    made = scored_groups(actor, critic, version=taught.version, group_size=16, extra=BRIGHT)
    return taught.cycle(made, infos_of(made)), float(np.mean([info.extra[0] for info in infos_of(made) if info.extra]))


def test_rl_raises_it_with_a_discriminator_that_says_nothing_and_the_series_show_it() -> None:
    student, critic = Mixer(1), Constant()
    taught = learner(_config(discriminator={"text_errors": 3.0}), student=student, critic=critic)
    means = []
    for _ in range(6):
        report, mean = _cycle(taught, student, critic)
        assert (report.open_levels, report.updates["rl"].updates) == (SHUT, 1), "no gate shuts it"
        assert report.fresh_deviation <= 1e-6, "probabilities are those of the actions"
        said = {sample.name: sample.value for sample in report.samples()}
        assert said["advdmd_reward_extra_mean"] == pytest.approx(mean, rel=1e-4)
        assert said["advdmd_reward_extra_spread"] > 0
        means.append(mean)
    assert all(later > earlier for earlier, later in itertools.pairwise(means))
    assert means[-1] > means[0] + 0.05


def test_without_one_there_is_no_series_of_it() -> None:
    made = scored_groups(Mixer(1), Judge(2), group_size=16)
    report = learner(_config(reward={"extra": None}), student=Mixer(1), critic=Judge(2)).cycle(made, infos_of(made))
    assert not [sample for sample in report.samples() if "extra" in sample.name]


def test_its_running_scale_is_kept_by_a_checkpoint(tmp_path: Path) -> None:
    student, critic = Mixer(1), Constant()
    taught = learner(_config(), student=student, critic=critic)
    _cycle(taught, student, critic)
    facts = {"learner": taught.facts(), "controller": {}, "config": {}}
    path = save_checkpoint(tmp_path, taught.version, taught.tensors(), facts, 2)
    known = taught._signal.running_own
    assert float(known) > 0
    resumed = learner(_config(), student=Mixer(1), critic=Constant())
    resumed.restore(open_checkpoint(path))
    torch.testing.assert_close(resumed._signal.running_own, known)


def test_groups_of_a_cycle_have_it_all_or_none(groups: list[ScoredGroup]) -> None:
    lacking = dataclasses.replace(groups[0], extra=None)
    with pytest.raises(ValueError, match="3 of the 4 groups of a cycle have the user's own reward"):
        collate([lacking, *groups[1:]], 0)

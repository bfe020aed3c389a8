"""RL against one fixed, trained discriminator: its reward rises update by update, and by the rewards alone."""

import itertools

import numpy as np
import torch

from small_parts import (
    Judge,
    Mixer,
    batch_of,
    config,
    discriminator_update,
    heldout_auc,
    infos_of,
    learner,
    real_images,
    scored_groups,
    setting,
)

STILL = 1e-12
UPDATES = 12
WATCHED = range(1000, 1008)
"""Ordinals that no update learns from: the same seeds before and after every update."""


def _trained_judge() -> Judge:
    """A critic that has learnt to tell the untrained student's states from real ones; it stays as it is."""
    judge, student = Judge(3, scale=0.05), Mixer(1)
    fixed = setting(config(), Mixer(9), real=real_images(shift=0.5))
    batch = batch_of(student, judge)
    optimizer = torch.optim.SGD(judge.parameters(), lr=0.1)
    for update in range(60):
        optimizer.zero_grad()
        discriminator_update(judge, fixed, batch, ("d", 0, update)).backward()
        optimizer.step()
    assert bool((heldout_auc(judge, fixed, batch, ("auc", 0)) > 0.7).all())
    return judge


def _rewards(*, shuffled: bool) -> list[float]:
    """Mean reward over all levels of the watched groups, before the first RL update and after each."""
    settings = config(
        rollout={"group_size": 16, "groups_per_cycle": 4},
        dmd={"learning_rate": STILL, "batch_size": 4},
        fake_score={"learning_rate": STILL, "batch_size": 4},
        discriminator={"learning_rate": STILL, "batch_size": 4, "text_errors": None, "auc_high": 1.0},
        policy_gradient={"learning_rate": 0.01, "shuffle_rewards": shuffled},
    )
    judge, student, actor = _trained_judge(), Mixer(1), Mixer(1)
    taught = learner(settings, student=student, critic=judge)
    rewards = []
    for update in range(UPDATES + 1):
        actor.load_state_dict(student.state_dict())
        version = taught.version
        seen = scored_groups(actor, judge, WATCHED, version=version, group_size=16)
        rewards.append(float(np.mean([scored.rewards for scored in seen])))
        groups = scored_groups(actor, judge, range(4 * update, 4 * update + 4), version=version, group_size=16)
        assert taught.cycle(groups, infos_of(groups)).updates["rl"].updates == 1
    return rewards


def test_rl_raises_a_frozen_discriminators_reward_with_every_update_and_shuffled_rewards_do_not() -> None:
    true, shuffled = _rewards(shuffled=False), _rewards(shuffled=True)
    gain = true[-1] - true[0]
    assert gain > 0.15
    assert all(later > earlier for earlier, later in itertools.pairwise(true))
    assert shuffled[-1] - shuffled[0] < 0.3 * gain
    assert not all(later > earlier for earlier, later in itertools.pairwise(shuffled))

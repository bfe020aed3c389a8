"""The row of a group on its way: that all contestants hand on the same values, and start alike."""

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.host.rows import buffer
from benchmarks.host.rows.buffer import TURNS_TO_FILL, _Arrays, _Dict, made_group, rewarded, seen


def plain(actor: Any) -> Any:
    """The class that a Ray actor is made of, as an object."""
    return actor.__ray_metadata__.modified_class()


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(buffer, "LATENT", (2, 3, 3))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # in a process of its own an actor may
    return made_group()


def test_plain_arrays_arrive_whole_and_with_the_same_rewards(group: Any) -> None:
    maker, scorer, learner = plain(_Arrays), plain(_Arrays), plain(_Arrays)
    arrays = maker.made()
    rewards = scorer.scored(arrays)
    np.testing.assert_array_equal(rewards, rewarded(torch.from_numpy(group.latents)).numpy())
    tensors = plain(_Dict).scored(plain(_Dict).made())
    assert learner.learned(arrays, rewards) == sum(tensor.numel() for tensor in tensors.values())
    assert learner.learned(arrays, rewards) == group.latents.size + group.means.size + rewards.size


def test_every_contestant_has_used_the_store_before_the_first_round() -> None:
    took: list[str] = []
    turns = {name: lambda name=name: took.append(name) or 1.0 for name in ("ours", "rival")}
    assert seen(turns) is turns
    assert took == ["ours"] * TURNS_TO_FILL + ["rival"] * TURNS_TO_FILL

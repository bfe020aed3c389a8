"""Actors and reward workers with shares of a GPU meet on cards as Ray lets them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.sharing import by_turns, shared_cards


def names(role: str, count: int) -> list[str]:
    return [f"{role}-{index}" for index in range(count)]


@given(st.integers(0, 6), st.integers(0, 6))
def test_all_are_hired_once_and_an_actor_before_each_reward_worker(actors: int, workers: int) -> None:
    rollout, reward = names("rollout", actors), names("reward", workers)
    order = by_turns(rollout, reward)
    assert sorted(order) == sorted([*rollout, *reward])
    for index in range(min(actors, workers)):
        assert order[2 * index : 2 * index + 2] == [rollout[index], reward[index]]


def cards_of(actors: int, workers: int, share: float, worker_share: float) -> dict[str, int]:
    config = Config.model_validate({"rollout": {"num_gpus": share}, "reward": {"num_gpus": worker_share}})
    return shared_cards(config, names("rollout", actors), names("reward", workers))


def test_halves_of_a_card_go_to_an_actor_and_a_reward_worker() -> None:
    # What Ray 2.60 gave to actors hired in this order, beside a placement group of two whole GPUs.
    assert cards_of(4, 2, 0.5, 0.5) == {
        "rollout-0": 0,
        "reward-0": 0,
        "rollout-1": 1,
        "reward-1": 1,
        "rollout-2": 2,
        "rollout-3": 2,
    }


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([0.1, 0.25, 0.3, 0.5]), st.sampled_from([0.2, 0.4, 0.5]))
def test_no_card_is_given_out_twice_and_none_is_taken_without_need(
    actors: int, workers: int, share: float, worker_share: float
) -> None:
    cards = cards_of(actors, workers, share, worker_share)
    assert len(cards) == actors + workers
    used = [0.0] * (max(cards.values()) + 1)
    for name, card in cards.items():
        used[card] += share if name.startswith("rollout") else worker_share
    assert max(used) <= 1 + 1e-6
    assert len(used) <= math.ceil(2 * sum(used))


@pytest.mark.parametrize("whole", [0.0, 1.0, 2.0])
def test_a_worker_with_a_card_or_without_shares_none(whole: float) -> None:
    assert cards_of(2, 2, whole, whole) == {}
    assert cards_of(1, 2, whole, 0.5) == {"reward-0": 0, "reward-1": 0}

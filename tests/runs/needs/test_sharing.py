"""Actors and reward workers with shares of a GPU meet on cards as Ray lets them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.sharing import Shared, Split, by_turns


def names(role: str, count: int) -> list[str]:
    return [f"{role}-{index}" for index in range(count)]


@given(st.integers(0, 6), st.integers(0, 6))
def test_all_are_hired_once_and_an_actor_before_each_reward_worker(actors: int, workers: int) -> None:
    rollout, reward = names("rollout", actors), names("reward", workers)
    order = by_turns(rollout, reward)
    assert sorted(order) == sorted([*rollout, *reward])
    for index in range(min(actors, workers)):
        assert order[2 * index : 2 * index + 2] == [rollout[index], reward[index]]


def cards_of(actors: int, workers: int, share: float, worker_share: float, rank_share: float = 1.0) -> dict[str, int]:
    split = Split(actors, workers, 1, share, worker_share, rank_share)
    return split.cards(names("rollout", actors), names("reward", workers))


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


COUNTS = st.integers(1, 6)
GPUS = st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.6, 0.7, 1.0, 2.0])


@given(COUNTS, COUNTS, GPUS, GPUS, st.sampled_from([0.0, 0.3, 0.5, 1.0, 4.0]))
def test_the_cards_that_are_counted_are_those_that_workers_are_on(
    actors: int, workers: int, actor_gpus: float, worker_gpus: float, rank_gpus: float
) -> None:
    split = Split(actors, workers, 1, actor_gpus, worker_gpus, rank_gpus)
    cards = split.cards(names("rollout", actors), names("reward", workers))
    shared = split.shared
    if shared is None:
        assert not cards
        assert split.gpus == math.ceil(actors * actor_gpus + workers * worker_gpus + rank_gpus)
        return
    assert shared.roles == tuple(dict.fromkeys(name.split("-")[0] for name in by_turns(*_of(cards))))
    assert shared.cards == len(set(cards.values()))
    whole = sum(count * gpus for count, gpus in ((actors, actor_gpus), (workers, worker_gpus)) if gpus >= 1)
    learner_alone = rank_gpus and (rank_gpus >= 1 or 0 not in cards.values())
    assert split.gpus == whole + shared.cards + (math.ceil(rank_gpus) if learner_alone else 0)
    assert split.gpus >= actors * actor_gpus + workers * worker_gpus + rank_gpus - 1e-6


def _of(cards: dict[str, int]) -> tuple[list[str], list[str]]:
    return [name for name in cards if name.startswith("rollout")], [name for name in cards if name.startswith("reward")]


def test_what_is_left_of_several_cards_holds_no_worker() -> None:
    three = Split(3, 1, 1, 0.6, 1.0, 1.0)  # 1.8 cards
    assert three.shared == Shared(("rollout",), 3)
    assert three.gpus == 5


def test_a_rank_with_a_share_leaves_the_rest_of_its_card_to_others() -> None:
    assert Split(1, 1, 1, 0.25, 0.25, 0.5).gpus == 1
    assert cards_of(1, 1, 0.5, 0.5, rank_share=0.5) == {"rollout-0": 0, "reward-0": 1}


def test_a_split_is_that_of_its_configuration() -> None:
    split = Split(3, 2, 2, 0.5, 0.25, 1.0)
    batches = {name: {"batch_size": 16} for name in ("dmd", "fake_score", "discriminator")}
    config = split.applied(Config.model_validate({"learner": {"num_gpus": 1}, **batches}))
    assert config is not None
    assert Split.of(config) == split

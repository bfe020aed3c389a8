"""The recommended split fits, is allowed, is no slower than the configuration's own, and wastes no card."""

from functools import partial
from itertools import product

import pytest

from advdmd_ray.config import Config
from advdmd_ray.planning.forecast import forecast
from advdmd_ray.planning.split import Planned, best, bound, candidates
from advdmd_ray.planning.virtual import Costs
from advdmd_ray.runs.needs.sharing import Split

predicted = partial(forecast, group_bytes=2**14)


def config_of(actors: int = 1, workers: int = 1, ranks: int = 1, groups: int = 4) -> Config:
    return Config.model_validate(
        {
            "rollout": {
                "actors": actors,
                "group_size": 4,
                "groups_per_cycle": groups,
                "max_policy_age": 1,
                "num_gpus": 1,
            },
            "reward": {"workers": workers, "num_gpus": 1},
            "learner": {"ranks": ranks, "num_gpus": 1},
            **{name: {"batch_size": 16} for name in ("dmd", "fake_score", "discriminator")},
        }
    )


def costs_of(config: Config, rollout: float, reward: float, learner: float) -> Costs:
    """Of a cycle's work in GPU seconds, role by role."""
    return Costs(generate=rollout / 4, score=reward / 4, cycle=learner / config.learner.ranks, alone=True)


def planned(
    config: Config, gpus: int, work: tuple[float, float, float], *, fits: bool = True, thrifty: bool = False
) -> Planned | None:
    costs = partial(costs_of, rollout=work[0], reward=work[1], learner=work[2])
    return best(config, gpus, costs=costs, fits=lambda _: fits, predicted=predicted, thrifty=thrifty)


# Of the roles, in GPU seconds: the learner's is most, the actors' is, all have the same.
WORKS = ((10.0, 10.0, 100.0), (100.0, 10.0, 40.0), (30.0, 30.0, 30.0))


@pytest.mark.parametrize(
    ("gpus", "work"),
    [
        *product((3,), WORKS),
        (8, WORKS[1]),
        *(pytest.param(gpus, work, marks=pytest.mark.wide) for gpus, work in product((4,), WORKS)),
        *(pytest.param(8, WORKS[kind], marks=pytest.mark.wide) for kind in (0, 2)),
    ],
)
def test_a_split_is_allowed_and_no_slower_than_the_one_it_replaces(gpus: int, work: tuple[float, float, float]) -> None:
    config = config_of()
    found = planned(config, gpus, work)
    assert found is not None
    assert found.split.gpus <= gpus
    changed = found.split.applied(config)
    assert changed is not None
    assert 4 % changed.learner.ranks == 0
    own = predicted(config, costs_of(config, *work))
    assert found.forecast.cycle_s <= own.cycle_s * 1.02


def test_the_recommended_split_is_the_same_each_time() -> None:
    first, again = (planned(config_of(), 3, WORKS[0]) for _ in range(2))
    assert first == again is not None


def test_the_cards_go_to_the_role_that_has_the_work() -> None:
    learning = planned(config_of(), 8, (10.0, 10.0, 400.0))
    assert learning is not None
    assert learning.split.ranks == 4
    acting = planned(config_of(), 8, (400.0, 10.0, 10.0))
    assert acting is not None
    assert acting.split.actors * acting.split.actor_gpus >= 5
    assert acting.split.ranks == 1


def test_cards_that_would_stand_idle_are_left_over() -> None:
    found = planned(config_of(2, 2, 4), 8, (5.0, 5.0, 400.0))
    assert found is not None
    assert found.split.gpus == 5  # one actor and one reward worker share a card
    assert (found.split.actor_gpus, found.split.worker_gpus) == (0.5, 0.5)


def test_the_thriftiest_split_takes_the_fewest_gpu_seconds() -> None:
    config, work = config_of(), (27.0, 27.0, 200.0)
    fast, thrifty = (planned(config, 8, work, thrifty=thrifty) for thrifty in (False, True))
    assert fast is not None
    assert thrifty is not None
    assert thrifty.split.gpus * thrifty.forecast.cycle_s < fast.split.gpus * fast.forecast.cycle_s
    assert fast.forecast.cycle_s < thrifty.forecast.cycle_s
    # Actors and reward workers that share cards let none of these idle: all of the work on all of the cards.
    assert thrifty.split.gpus * thrifty.forecast.cycle_s == pytest.approx(sum(work), rel=0.15)


def test_nothing_is_recommended_where_nothing_fits() -> None:
    assert planned(config_of(), 8, (1.0, 1.0, 1.0), fits=False) is None
    assert planned(config_of(), 1, (1.0, 1.0, 1.0)) is None


def test_a_split_is_pasted_as_settings() -> None:
    split = Split(5, 2, 2, 1.0, 0.5, 1.0)
    assert split.gpus == 8
    assert " ".join(split.overrides) == (
        "rollout.actors=5 reward.workers=2 learner.ranks=2 rollout.num_gpus=1 reward.num_gpus=0.5"
    )


def with_gpus(config: Config, **gpus: float) -> Config:
    """The configuration with these GPUs of a worker of each role."""
    tree = config.model_dump()
    return Config.model_validate(
        {name: part | ({"num_gpus": gpus[name]} if name in gpus else {}) for name, part in tree.items()}
    )


@pytest.mark.parametrize("share", [0.3, 0.5, 0.6, 0.7])
@pytest.mark.parametrize("gpus", [3, 5, 24])
def test_whole_cards_hold_every_candidate_and_some_fill_them(share: float, gpus: int) -> None:
    config = with_gpus(config_of(groups=16), rollout=share, reward=share)
    splits = [split for _, each in candidates(config, gpus) for split in each]
    assert max(split.gpus for split in splits) == gpus
    # Ray gives no worker parts of two cards.
    own = [split for split in splits if (split.actor_gpus, split.worker_gpus) == (share, share)]
    assert all(split.actors + split.workers <= (gpus - split.ranks) * int(1 / share) for split in own)
    assert own


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 1.0), (1.0, 0.5), (0.6, 0.3)])
def test_no_split_that_shares_cards_is_forecast_faster_than_the_work_of_its_cards(shares: tuple[float, float]) -> None:
    config = with_gpus(config_of(actors=3, workers=2), rollout=shares[0], reward=shares[1])
    costs = Costs(generate=3.0, score=2.0, cycle=0.1, alone=True)
    least = bound(config, Split.of(config), costs)
    assert predicted(config, costs).cycle_s >= 0.98 * least


def test_workers_without_a_gpu_take_no_time_of_shared_cards() -> None:
    config = with_gpus(config_of(workers=2), rollout=0.0, reward=0.5)
    costs = Costs(generate=8.0, score=1.0, cycle=0.1, alone=True)
    assert bound(config, Split.of(config), costs) == 4 * 8.0

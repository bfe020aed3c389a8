"""A forecast keeps the laws of the run that it stands for."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.planning.forecast import forecast
from advdmd_ray.planning.split import bound
from advdmd_ray.planning.virtual import Costs
from advdmd_ray.runs.needs.sharing import Split

GROUP = 2**14
SECONDS = st.floats(0.01, 100.0)


def config_of(
    *, actors: int, groups: int, age: int = 1, workers: int = 1, held: int = 2**30, leases: int = 2
) -> Config:
    rollout = {"actors": actors, "leases": leases, "group_size": 4, "groups_per_cycle": groups, "max_policy_age": age}
    sections: Mapping[str, Any] = {
        "rollout": rollout,
        "reward": {"workers": workers},
        "buffer": {"max_bytes": held},
        **{name: {"batch_size": groups} for name in ("dmd", "fake_score", "discriminator")},
    }
    return Config.model_validate(sections)


@settings(max_examples=10, deadline=None)
@given(
    actors=st.integers(1, 5),
    groups=st.integers(1, 6),
    age=st.integers(0, 2),
    spare=st.integers(0, 4),
    leases=st.integers(1, 4),
    costs=st.builds(
        Costs,
        generate=SECONDS,
        hand_over=SECONDS,
        score=SECONDS,
        cycle=SECONDS,
        load=SECONDS,
        spread=st.floats(0, 0.5),
    ),
)
def test_shares_are_whole_and_caps_are_kept(
    actors: int, groups: int, age: int, spare: int, leases: int, costs: Costs
) -> None:
    held = max(2**16, (groups + spare) * GROUP)
    config = config_of(actors=actors, groups=groups, age=age, held=held, leases=leases)
    seen = forecast(config, costs, group_bytes=GROUP)
    assert set(seen.shares) == {"rollout", "reward", "learner"}
    for shares in seen.shares.values():
        assert math.fsum(shares.values()) == pytest.approx(1.0)
        assert min(shares.values()) >= 0
    assert 0 <= seen.age_mean <= seen.age_max <= age
    assert groups * GROUP <= seen.buffer_bytes <= held
    assert seen.trajectories_per_s == pytest.approx(4 * groups / seen.cycle_s)


@settings(max_examples=4, deadline=None)
@given(scale=st.floats(0.001, 1000.0), cycle=SECONDS)
def test_costs_times_a_number_are_times_times_that_number(scale: float, cycle: float) -> None:
    config, costs = config_of(actors=2, groups=4), Costs(generate=1.0, score=0.2, cycle=cycle, load=0.3, spread=0.1)
    scaled = Costs(*(scale * seconds for seconds in costs.seconds), spread=0.1)
    plain, slow = (forecast(config, each, group_bytes=GROUP) for each in (costs, scaled))
    assert slow.cycle_s == pytest.approx(scale * plain.cycle_s, rel=0.02)  # rounding moves who comes first


@settings(max_examples=4, deadline=None)
@given(generate=st.floats(5.0, 50.0))
def test_more_actors_never_make_less_where_they_are_the_bottleneck(generate: float) -> None:
    costs = Costs(generate=generate, score=0.01, cycle=1.0)
    paces = [
        forecast(config_of(actors=actors, groups=8), costs, group_bytes=GROUP).trajectories_per_s
        for actors in (1, 2, 4)
    ]
    assert all(more >= fewer * 0.999 for fewer, more in pairwise(paces))
    assert paces[1] == pytest.approx(2 * paces[0], rel=0.05)


@settings(max_examples=6, deadline=None)
@given(generate=SECONDS, hand_over=SECONDS, leases=st.integers(1, 4))
def test_no_forecast_is_faster_than_the_bound_and_actors_that_are_the_bottleneck_reach_it(
    generate: float, hand_over: float, leases: int
) -> None:
    config = config_of(actors=2, groups=8, leases=leases, age=3)
    costs = Costs(generate=generate, hand_over=hand_over, score=1e-4, cycle=1e-4)
    seen = forecast(config, costs, group_bytes=GROUP)
    assert seen.cycle_s >= 0.98 * bound(config, Split.of(config), costs)
    assert seen.cycle_s == pytest.approx(bound(config, Split.of(config), costs), rel=0.1)


def test_the_slowest_role_sets_the_pace_and_is_the_one_that_is_busy() -> None:
    config = config_of(actors=2, groups=4, workers=1)
    for slow, costs in {
        "rollout": Costs(generate=10.0, score=0.1, cycle=1.0),
        "reward": Costs(generate=0.1, score=5.0, cycle=1.0),
        "learner": Costs(generate=0.1, score=0.1, cycle=20.0),
    }.items():
        seen = forecast(config, costs, group_bytes=GROUP)
        assert seen.cycle_s == pytest.approx(20.0, rel=0.05)
        assert seen.shares[slow]["busy"] > 0.95
        assert seen.shares[slow]["busy"] == max(shares["busy"] for shares in seen.shares.values())


def test_the_age_cap_binds_where_a_group_takes_longer_than_a_cycle() -> None:
    # A group may be begun once the cycle before the last is over: two cycles take one rollout and one cycle's work.
    seen = forecast(config_of(actors=8, groups=4), Costs(generate=100.0, score=0.0, cycle=60.0), group_bytes=GROUP)
    assert seen.cycle_s == pytest.approx((100.0 + 60.0) / 2, rel=0.02)
    assert seen.shares["rollout"]["blocked"] > 0.1


def test_a_thousand_workers_are_forecast_in_seconds() -> None:
    config = config_of(actors=900, groups=512, workers=100)
    seen = forecast(config, Costs(generate=30.0, score=1.0, cycle=60.0), group_bytes=GROUP)
    assert seen.cycle_s == pytest.approx(60.0, rel=0.1)


def test_work_without_time_has_no_forecast() -> None:
    with pytest.raises(ValueError, match="work that takes time"):
        forecast(config_of(actors=1, groups=1), Costs(generate=0, score=0, cycle=0), group_bytes=GROUP)


def test_workers_on_one_card_slow_each_other_only_where_costs_are_those_of_one_alone() -> None:
    sections = {"rollout": {"num_gpus": 0.5}, "reward": {"num_gpus": 0.5}, "learner": {"num_gpus": 1}}
    config = config_of(actors=1, groups=4)
    config = Config.model_validate({name: part | sections.get(name, {}) for name, part in config.model_dump().items()})
    paces = [
        forecast(config, Costs(generate=2.0, score=1.0, cycle=0.1, alone=alone), group_bytes=GROUP).cycle_s
        for alone in (True, False)
    ]
    assert paces == pytest.approx([4 * (2.0 + 1.0), 4 * 2.0], rel=0.02)

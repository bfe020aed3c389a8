"""A consumer that stops: who makes its work pauses, nobody fails, and all goes on when it does."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.controller.frontier import lease_limit
from advdmd_ray.controller.protocols import Task
from advdmd_ray.metrics.series import Sample
from advdmd_ray.stations.records import Lease
from fake_shell import GROUP_BYTES, Stage

CYCLES, PER_CYCLE, STOP_S = 6, 2, 40.0


def stage_of(cap: int, age: int, actors: int, *, leases: int = 2, lease_s: float = 1e6, **shell: Any) -> Stage:
    """A run whose buffer has room for `cap` groups."""
    config = Config.model_validate(
        {
            "run": {"cycles": CYCLES},
            "rollout": {
                "actors": actors,
                "leases": leases,
                "group_size": 4,
                "groups_per_cycle": PER_CYCLE,
                "max_policy_age": age,
                "lease_s": lease_s,
            },
            "reward": {"workers": 2},
            "buffer": {"max_bytes": max(cap * GROUP_BYTES, 2**16), "take_timeout_s": 2 * STOP_S},
            "learner": {"engine": "torch", "cycle_timeout_s": 2 * STOP_S, "checkpoint_cycles": 2},
            "evaluation": {"grid_cycles": 50},
            "ray": {"hang_s": 2 * STOP_S},
        }
    )
    stage = Stage(config, **shell)
    stage.buffer._max_bytes = cap * GROUP_BYTES  # the configuration allows no fewer than four groups
    return stage


@settings(max_examples=60)
@given(
    random=st.one_of(st.none(), st.integers(0, 2**32).map(Random)),
    cap=st.integers(PER_CYCLE, 9),
    age=st.integers(0, 4),
    actors=st.integers(1, 4),
    leases=st.integers(1, 3),
    hand_over_s=st.sampled_from([None, 0.0, 0.5, 3.0]),
    kind=st.sampled_from(["learner", "reward", "rollout"]),
    at=st.floats(0, 12),
    lasts=st.floats(0, STOP_S),
)
def test_whoever_stops_whenever_and_for_how_long_the_cap_holds_and_the_run_ends_as_without_it(
    random: Random | None,
    cap: int,
    age: int,
    actors: int,
    leases: int,
    hand_over_s: float | None,
    kind: str,
    at: float,
    lasts: float,
) -> None:
    stage = stage_of(cap, age, actors, leases=leases, random=random, hand_over_s=hand_over_s, stopped=(kind, at, lasts))

    def has_room(_: Lease) -> None:
        assert stage.buffer.stats().bytes + stage.frontier.reserved * GROUP_BYTES <= cap * GROUP_BYTES

    stage.shell.before_lease = has_room
    assert stage.run() == CYCLES
    assert stage.shell.cycles == [(o, o + 1) for o in range(0, CYCLES * PER_CYCLE, PER_CYCLE)]
    assert len(stage.shell.leases) == CYCLES * PER_CYCLE, "nothing is made twice"
    assert stage.hub.total("advdmd_buffer_dropped_groups_total") == 0
    assert stage.hub.total("advdmd_rollout_leases_reissued_total") == 0
    assert max(stage.shell.ages) <= age


@settings(max_examples=40)
@given(
    cap=st.integers(PER_CYCLE, 9),
    age=st.integers(0, 4),
    actors=st.integers(1, 4),
    hand_over_s=st.sampled_from([None, 1.0]),
    at=st.floats(0, 4),
)
def test_a_learner_that_stops_finds_the_buffer_full_to_the_last_group_or_all_that_its_age_cap_allows(
    cap: int, age: int, actors: int, hand_over_s: float | None, at: float
) -> None:
    stage = stage_of(cap, age, actors, lease_s=STOP_S / 2, hand_over_s=hand_over_s, stopped=("learner", at, STOP_S))
    seen: list[tuple[int, int, int]] = []
    wait = stage.shell.wait

    def watched(timeout_s: float) -> Sequence[Task]:
        if at + STOP_S - 2 < stage.clock.now < at + STOP_S and stage.shell.busy == {"learner"}:
            seen.append((stage.buffer.stats().bytes, stage.frontier.next_ordinal, stage.shell.version))
        return wait(timeout_s)

    stage.shell.wait = watched  # pyright: ignore[reportAttributeAccessIssue]
    assert stage.run() == CYCLES
    assert seen, "near the end of the stop the learner alone has work"
    for held, following, version in seen:
        full = (cap - 1) * GROUP_BYTES < held <= cap * GROUP_BYTES
        assert full or following == min(lease_limit(version, PER_CYCLE, age), CYCLES * PER_CYCLE)
    assert stage.hub.total("advdmd_rollout_leases_reissued_total") == 0, "what is in the buffer is nobody's lease"


def test_the_hub_is_told_what_the_buffer_holds_though_no_cycle_ends() -> None:
    stage = stage_of(5, 4, 2, stopped=("learner", 0.5, STOP_S))
    told: list[float] = []
    record = stage.hub.record

    def recorded(samples: Sequence[Sample], cycle: int | None = None) -> None:
        if 10 < stage.clock.now < STOP_S:
            pytest.fail("nothing happens then, and nothing is recorded")
        if stage.clock.now < STOP_S:
            told.extend(sample.value for sample in samples if sample.name == "advdmd_buffer_bytes")
        record(samples, cycle)

    stage.hub.record = recorded  # pyright: ignore[reportAttributeAccessIssue]
    stage.run()
    assert told[-1] == 5 * GROUP_BYTES

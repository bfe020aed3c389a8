"""How the workers of each role spend their time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.controller.station_clock import StationClock

WORKERS = {"rollout": ("rollout-0", "rollout-1"), "reward": ("reward-0",)}


class Clock:
    """Seconds that a test moves."""

    now = 10.0

    def __call__(self) -> float:
        return self.now


def test_each_second_goes_to_the_state_the_worker_was_in() -> None:
    clock = Clock()
    stations = StationClock(WORKERS, clock)
    clock.now += 1
    stations.busy("rollout-0")
    clock.now += 4
    stations.idle("rollout-0", "blocked")
    clock.now += 2
    assert stations.drain() == {
        ("rollout", "waiting"): 1 + 7,
        ("rollout", "busy"): 4,
        ("rollout", "blocked"): 2,
        ("reward", "waiting"): 7,
    }


def test_a_state_goes_on_after_it_was_counted() -> None:
    clock = Clock()
    stations = StationClock(WORKERS, clock)
    stations.busy("reward-0")
    clock.now += 3
    stations.drain()
    clock.now += 5
    assert stations.drain()["reward", "busy"] == 5


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["rollout-0", "rollout-1", "reward-0"]),
            st.sampled_from(["busy", "waiting", "blocked", "drain"]),
            st.floats(0, 100),
        )
    )
)
def test_no_second_is_lost_or_counted_twice(events: list[tuple[str, str, float]]) -> None:
    clock = Clock()
    stations = StationClock(WORKERS, clock)
    totals = {"rollout": 0.0, "reward": 0.0}

    def drain() -> None:
        for (role, _), seconds in stations.drain().items():
            assert seconds >= 0
            totals[role] += seconds

    for worker, event, seconds in events:
        clock.now += seconds
        if event == "drain":
            drain()
        elif event == "busy":
            stations.busy(worker)
        else:
            stations.idle(worker, event)
    drain()
    assert totals["rollout"] == pytest.approx(2 * (clock.now - 10), abs=1e-6)
    assert totals["reward"] == pytest.approx(clock.now - 10, abs=1e-6)

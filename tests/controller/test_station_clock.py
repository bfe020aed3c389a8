"""How the workers of each role spend their time."""

from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.controller.staff import role_of
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
    stations.waiting("rollout-0")
    stations.blocked("rollout")
    clock.now += 2
    assert stations.drain() == {
        ("rollout", "waiting"): 1 + 5,
        ("rollout", "busy"): 4,
        ("rollout", "blocked"): 2 * 2,
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


class OneByOne:
    """What the clock must come to, with a state kept for each worker."""

    def __init__(self) -> None:
        self.role = {worker: role for role, workers in WORKERS.items() for worker in workers}
        self.state = dict.fromkeys(self.role, "waiting")
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)

    def after(self, seconds: float) -> None:
        for worker, state in self.state.items():
            self.seconds[self.role[worker], state] += seconds

    def there(self, worker: str, stations: StationClock) -> None:
        """The worker is no more; or it comes, if it is not there."""
        if self.role.pop(worker, None) is not None:
            del self.state[worker]
            stations.remove(worker)
        else:
            self.role[worker], self.state[worker] = role_of(worker), "down"
            stations.add(worker, role_of(worker))
        assert stations.knows(worker) == (worker in self.role)

    def up(self) -> dict[str, int]:
        return {role: sum(self.state[w] != "down" and self.role[w] == role for w in self.role) for role in WORKERS}

    def block(self, role: str) -> None:
        self.state |= {w: "blocked" for w, state in self.state.items() if self.role[w] == role and state == "waiting"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["rollout-0", "rollout-1", "reward-0", "rollout-2"]),
            st.sampled_from(["busy", "waiting", "down", "blocked", "drain", "there"]),
            st.integers(0, 100),
        )
    )
)
def test_no_second_is_lost_or_counted_twice_and_each_is_of_the_state_that_its_worker_was_in_while_it_was_there(
    events: list[tuple[str, str, int]],
) -> None:
    clock, expected, totals = Clock(), OneByOne(), Counter()
    stations = StationClock(WORKERS, clock)
    for worker, event, seconds in events:
        clock.now += seconds
        expected.after(seconds)
        if event == "drain":
            totals.update(stations.drain())
        elif event == "there":
            expected.there(worker, stations)
        elif event == "blocked":
            stations.blocked(role_of(worker))
            expected.block(role_of(worker))
        elif worker in expected.role:
            {"busy": stations.busy, "waiting": stations.waiting, "down": stations.down}[event](worker)
            expected.state[worker] = event
        assert stations.up() == expected.up()
    totals.update(stations.drain())
    assert {key: s for key, s in totals.items() if s} == {key: s for key, s in expected.seconds.items() if s}

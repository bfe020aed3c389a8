"""A holder of an overdue lease is given up when its work takes longer than such work ever took."""

import pytest

from advdmd_ray.controller.overdue import UNUSUAL, Overdue
from advdmd_ray.controller.protocols import Task
from advdmd_ray.controller.under_way import Begun
from advdmd_ray.stations.records import Lease

LEASE_S = 100.0


def begun(at: float, worker: str = "rollout-0") -> Begun:
    return Begun(Task(worker, ()), lambda _: None, Lease(0, 0, 0, 0, 0), at)


def ends_at(overdue: Overdue, work: Begun) -> float:
    """Seconds after which its holder is given up."""
    seconds = 0.0
    while not overdue.hanging(work.at + seconds):
        seconds += 1.0
        assert seconds < 1e5
    return seconds


@pytest.mark.parametrize(("took", "limit"), [(1.0, LEASE_S), (33.0, LEASE_S), (50.0, UNUSUAL * 50.0), (400.0, 1200.0)])
def test_work_may_take_a_lease_and_three_times_what_it_ever_took(took: float, limit: float) -> None:
    overdue, other = Overdue(LEASE_S), begun(0.0, "rollout-1")
    overdue.done(other, "rollout", took)
    overdue.done(begun(0.0), "rollout", took / 2)
    work = begun(1000.0)
    overdue.late(work, "rollout")
    assert ends_at(overdue, work) == limit
    assert overdue.hanging(1e9) == [], "it is given up once"


def test_the_first_work_has_two_leases_and_twice_as_many_after_each_that_was_given_up_in_vain() -> None:
    overdue = Overdue(LEASE_S)
    for limit in (2 * LEASE_S, 4 * LEASE_S, 8 * LEASE_S):
        work = begun(0.0)
        overdue.late(work, "rollout")
        assert ends_at(overdue, work) == limit
    scoring = begun(0.0, "reward-0")
    overdue.late(scoring, "reward")
    assert ends_at(overdue, scoring) == 2 * LEASE_S, "roles have nothing to do with each other"


def test_late_work_that_is_done_or_lost_gives_nobody_up() -> None:
    overdue, works = Overdue(LEASE_S), [begun(0.0), begun(0.0)]
    for work in works:
        overdue.late(work, "rollout")
    overdue.done(works[0], "rollout", 150.0)
    overdue.gone(works[1])
    assert overdue.hanging(1e9) == []

"""A worker is given up when its work takes longer than a lease, and than such work ever took."""

import pytest

from advdmd_ray.controller.overdue import UNUSUAL, Overdue
from advdmd_ray.controller.protocols import Task
from advdmd_ray.controller.under_way import Begun
from advdmd_ray.stations.records import Lease

LEASE_S = 100.0


def begun(overdue: Overdue, at: float, kind: str = "generate") -> Begun:
    work = Begun(Task("rollout-0", ()), lambda _: None, Lease(0, 0, 0, 0, 0), at, kind=kind)
    overdue.began(work)
    return work


def ends_at(overdue: Overdue, work: Begun) -> float:
    """Seconds after which its worker is given up."""
    seconds = 0.0
    while not overdue.hanging(work.at + seconds):
        seconds += 1.0
        assert seconds < 1e5
    return seconds


@pytest.mark.parametrize(("took", "limit"), [(1.0, LEASE_S), (33.0, LEASE_S), (50.0, UNUSUAL * 50.0), (400.0, 1200.0)])
def test_work_may_take_a_lease_and_three_times_what_it_ever_took(took: float, limit: float) -> None:
    overdue = Overdue(LEASE_S)
    overdue.done(begun(overdue, 0.0), took)
    overdue.done(begun(overdue, 0.0), took / 2)
    work = begun(overdue, 1000.0)
    assert ends_at(overdue, work) == limit
    assert overdue.hanging(1e9) == [], "it is given up once"


@pytest.mark.parametrize("took", [None, 1.0])
def test_each_time_that_workers_are_given_up_in_vain_the_next_have_twice_as_long(took: float | None) -> None:
    # The groups of the first cycles may be small, and all later ones take longer than a lease.
    overdue = Overdue(LEASE_S)
    if took is not None:
        overdue.done(begun(overdue, 0.0), took)
    first = LEASE_S if took else 2 * LEASE_S
    for limit in (first, 2 * first, 4 * first):
        assert ends_at(overdue, begun(overdue, 0.0)) == limit
    assert ends_at(overdue, begun(overdue, 0.0, "score")) == 2 * LEASE_S, "kinds have nothing to do with each other"
    overdue.done(begun(overdue, 0.0), 1.0)
    assert ends_at(overdue, begun(overdue, 0.0)) == LEASE_S


def test_many_workers_that_hang_together_are_given_up_in_vain_once() -> None:
    overdue = Overdue(LEASE_S)
    for _ in range(64):
        begun(overdue, 0.0)
    assert len(overdue.hanging(2 * LEASE_S)) == 64
    assert ends_at(overdue, begun(overdue, 0.0)) == 4 * LEASE_S


def test_late_work_that_is_done_or_lost_gives_nobody_up() -> None:
    overdue = Overdue(LEASE_S)
    overdue.done(begun(overdue, 0.0), 150.0)
    overdue.gone(begun(overdue, 0.0))
    assert overdue.hanging(1e9) == []

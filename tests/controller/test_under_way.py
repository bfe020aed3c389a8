"""What the learner waits for first is found in an ordered structure that forgets what is over."""

import gc
import weakref
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.controller.protocols import Task
from advdmd_ray.controller.under_way import Begun, UnderWay
from advdmd_ray.stations.records import Lease


def begun(ordinal: int | None, at: float = 0.0, payload: Any = None) -> Begun:
    lease = None if ordinal is None else Lease(ordinal, 0, 0, 0, 0)
    return Begun(Task("rollout-0", (), payload), lambda _: None, lease, at)


@given(st.lists(st.tuples(st.sampled_from(["begin", "end", "made", "ask"]), st.integers(0, 6)), max_size=60))
def test_the_first_is_that_of_the_lowest_wanted_ordinal_and_the_earliest_of_several(
    events: list[tuple[str, int]],
) -> None:
    made: set[int] = set()
    under_way = UnderWay(lambda ordinal: ordinal not in made)
    running: list[Begun] = []
    for now, (event, number) in enumerate(events):
        if event == "begin" and number not in made:
            running.append(begun(number, float(now)))
            under_way.add(running[-1])
        elif event == "end" and running:
            ended = running.pop(number % len(running))
            assert under_way.over(ended.task) is ended
        elif event == "made":
            made.add(number)
        wanted = [one for one in running if one.lease is not None and one.lease.ordinal not in made]
        first = min(wanted, key=lambda one: (one.lease.ordinal if one.lease else -1, one.at), default=None)
        if event == "ask":
            assert under_way.first() is first
        assert len(under_way) == len(running)


def test_the_learners_work_is_under_way_but_is_no_group() -> None:
    under_way = UnderWay(lambda _: True)
    cycle = begun(None)
    under_way.add(cycle)
    assert len(under_way) == 1
    assert under_way.first() is None
    assert under_way.over(cycle.task) is cycle
    assert not under_way


def test_nothing_is_kept_of_what_is_over_behind_a_task_that_hangs() -> None:
    class Reference:
        """Stands for bytes in the object store, which live as long as this does."""

    under_way = UnderWay(lambda _: True)
    under_way.add(begun(0))
    task, reference = begun(1, payload=Reference()), None
    under_way.add(task)
    reference = weakref.ref(task.task.payload)
    under_way.over(task.task)
    del task
    gc.collect()
    assert reference() is None


def test_nothing_piles_up_behind_a_task_that_hangs_while_others_make_its_ordinal() -> None:
    made = set()
    under_way = UnderWay(lambda ordinal: ordinal not in made)
    under_way.add(begun(0))
    made.add(0)
    for ordinal in range(1, 1000):
        task = begun(ordinal)
        under_way.add(task)
        under_way.over(task.task)
    assert len(under_way._groups) <= 1
    assert len(under_way) == 1

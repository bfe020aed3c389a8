"""A task is over when all its tickets landed or one failed; each is reported once, at once, in any order."""

import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayTaskError, WorkerCrashedError

from advdmd_ray.controller.protocols import Task
from advdmd_ray.errors import UserError, WorkerLostError
from advdmd_ray.runtime.landing import Landing


class Ticket:
    """Stands for a reference: a test decides when it lands, and how."""

    def __init__(self) -> None:
        self.landing: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self.landing


def task(tickets: int) -> Task:
    return Task("rank", tuple(Ticket() for _ in range(tickets)))


@given(
    counts=st.lists(st.integers(1, 3), min_size=1, max_size=5),
    data=st.data(),
)
def test_each_task_is_reported_once_when_its_last_ticket_lands_or_its_first_fails(
    counts: list[int], data: st.DataObject
) -> None:
    landing, tasks = Landing(), [task(count) for count in counts]
    for one in tasks:
        assert landing.watch(one) is one
    tickets = data.draw(st.permutations([(one, ticket) for one in tasks for ticket in one.tickets]))
    missing, over = dict(zip(tasks, counts, strict=True)), set()
    for one, ticket in tickets:
        fails = data.draw(st.booleans())
        ticket.landing.set_exception(WorkerCrashedError()) if fails else ticket.landing.set_result("made")
        missing[one] -= 1
        is_over = one not in over and (fails or missing[one] == 0)
        assert landing.wait(0) == ([one] if is_over else [])
        if is_over:
            over.add(one)
            if fails:
                with pytest.raises(WorkerLostError, match="rank: WorkerCrashedError"):
                    landing.values(one)
            else:
                assert landing.values(one) == ["made"] * len(one.tickets)
    assert over == set(tasks)
    assert landing.wait(0) == []
    assert (landing._missing, landing._futures) == ({}, {})


def test_all_that_landed_meanwhile_comes_at_once_in_the_order_in_which_it_landed() -> None:
    landing, tasks = Landing(), [task(1) for _ in range(5)]
    for one in tasks:
        landing.watch(one)
    for one in reversed(tasks):
        one.tickets[0].landing.set_result(None)
    assert landing.wait(0) == tasks[::-1]


def test_a_wait_ends_when_something_lands_and_else_when_its_time_is_up() -> None:
    landing, late = Landing(), task(1)
    landing.watch(late)
    assert landing.wait(0.01) == []
    threading.Timer(0.05, late.tickets[0].landing.set_result, [1]).start()
    began = time.monotonic()
    assert landing.wait(30.0) == [late]
    assert time.monotonic() - began < 10


def test_an_error_with_a_clear_line_of_its_own_comes_as_itself() -> None:
    landing, one = Landing(), task(1)
    landing.watch(one)
    cause = UserError("one clear line")
    error = RayTaskError("generate", "traceback", cause).as_instanceof_cause()
    one.tickets[0].landing.set_exception(error)
    assert landing.wait(0) == [one]
    with pytest.raises(UserError, match="one clear line") as caught:
        landing.values(one)
    assert caught.value is cause

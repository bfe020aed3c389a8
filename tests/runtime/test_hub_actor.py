"""The driver's side of the hub: it asks Ray nothing, and hears of a failed record at the next one."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import WorkerCrashedError

from advdmd_ray.errors import WorkerLostError
from advdmd_ray.metrics.series import Sample
from advdmd_ray.runtime.hub_actor import RemoteHub


class Ticket:
    """Stands for a reference."""

    def __init__(self) -> None:
        self.landing: Future[None] = Future()

    def future(self) -> Future[None]:
        return self.landing


class Actor:
    """A hub that records when a test says so."""

    def __init__(self) -> None:
        self.told: list[tuple[list[Sample], int | None]] = []
        self.tickets: list[Ticket] = []
        self.record = SimpleNamespace(remote=self._record)

    def _record(self, samples: list[Sample], cycle: int | None) -> Ticket:
        self.told.append((samples, cycle))
        self.tickets.append(Ticket())
        return self.tickets[-1]


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Actor:
    """One, while Ray may not be asked anything."""

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("the driver asked Ray")

    for name in ("get", "wait"):
        monkeypatch.setattr(ray, name, asked)
    return Actor()


def test_a_record_is_sent_and_not_waited_for(actor: Actor) -> None:
    hub, sample = RemoteHub(actor), Sample.of("advdmd_run_cycle", 3)
    for cycle in range(3):
        hub.record([sample], cycle)
    assert actor.told == [([sample], 0), ([sample], 1), ([sample], 2)]


def test_records_that_are_over_are_forgotten(actor: Actor) -> None:
    hub = RemoteHub(actor)
    for _ in range(5):
        hub.record([])
    for ticket in actor.tickets:
        ticket.landing.set_result(None)
    hub.record([])
    assert len(hub._pending) == 1


def test_a_failed_record_is_heard_of_at_the_next(actor: Actor) -> None:
    hub = RemoteHub(actor)
    hub.record([])
    hub.record([])
    actor.tickets[1].landing.set_exception(WorkerCrashedError())
    hub.record([])  # the first is still under way
    actor.tickets[0].landing.set_result(None)
    with pytest.raises(WorkerLostError, match="the metrics hub: WorkerCrashedError"):
        hub.record([])


def test_a_flush_waits_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ray, "get", lambda reference, timeout: asked.append((reference, timeout > 0)))
    actor = Actor()
    hub = RemoteHub(actor)
    hub.record([])
    hub.record([])
    hub.flush()
    assert asked == [(ticket, True) for ticket in actor.tickets]
    assert not hub._pending

"""The driver's side of the hub: it waits for nothing, and whatever ends a hub, nothing that was measured is lost."""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError

from advdmd_ray.errors import UserError, WorkerLostError
from advdmd_ray.metrics.history import LEAST_BYTES, Standing, mend, standing_of
from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.metrics.ledger import MOST_UNDER_WAY, MOST_WAITING, Record
from advdmd_ray.metrics.series import Sample
from advdmd_ray.metrics.sinks.follower import CLOSE_S
from advdmd_ray.runtime.calls import ANSWER_S
from advdmd_ray.runtime.remote_hub import AGAIN_S, IN_VAIN, LAST_RECORDS_S, TICK_S, RemoteHub
from advdmd_ray.runtime.serving import PORT_S

HANG_S = 10.0
GROUPS, SECONDS, CYCLE = "advdmd_rollout_groups_total", "advdmd_rollout_seconds", "advdmd_run_cycle"


class Machine:
    """Where hubs run: a clock, a run folder with one file, and one port that somebody else may hold."""

    def __init__(self, folder: Path) -> None:
        self.path, self.now = folder / "metrics.jsonl", 0.0
        self.hubs: list[Hub] = []
        self.stillborn = 0
        """So many of the next hubs end before they begin."""
        self.occupied = self.diligent = False
        """Whether somebody else has the port, and whether hubs answer at once."""
        self.free = iter([4321])
        """Ports for whom any will do."""

    def make(self) -> "Hub":
        assert not any(hub.exists for hub in self.hubs), "two hubs would write to one file"
        self.hubs.append(Hub(self))
        if self.stillborn:
            self.stillborn -= 1
            self.hubs[-1].exists = False
            raise WorkerLostError("the metrics hub: died as it was born")
        return self.hubs[-1]

    @property
    def hub(self) -> "Hub":
        return self.hubs[-1]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def values(self, key: str) -> list[Any]:
        return [line["values"][key] for line in self.lines() if key in line["values"]]


class Hub:
    """A process that writes, answers and ends when a test says so."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._tasks = machine, deque[tuple[Record, Future[None]]]()
        self._pings: list[Future[None]] = []
        self._own: MetricsHub | None = None
        self.exists, self.stays = True, False
        self.served: list[tuple[str, int]] = []
        self.closed_sinks: list[tuple[float, int]] = []
        """For how long that might take, and the lines that were written then."""
        self.lingers: list[tuple[float, Future[None]]] = []

    @property
    def own(self) -> MetricsHub:
        assert self._own is not None
        return self._own

    def standing(self) -> Standing:
        mend(self._machine.path)
        return standing_of(self._machine.path)

    def open(self, standing: Standing) -> None:
        self._own = MetricsHub(self._machine.path, most_bytes=LEAST_BYTES, standing=standing)

    def serve(self, host: str, port: int) -> int:
        if self._machine.occupied and port:
            raise UserError(f"/metrics cannot listen on {host}:{port}: address already in use")
        self.served.append((host, port))
        return port or next(self._machine.free)

    def record(self, record: Record) -> Future[None]:
        self._tasks.append((record, Future()))
        task = self._tasks[-1][1]
        if not self.exists:
            task.set_exception(ActorDiedError())
        elif self._machine.diligent:
            self.work()
        return task

    def close_sinks(self, within_s: float) -> None:
        self.closed_sinks.append((within_s, len(self._machine.lines())))

    def linger(self, most_s: float) -> Future[None]:
        self.lingers.append((most_s, Future()))
        return self.lingers[-1][1]

    def ping(self) -> Future[None]:
        self._pings.append(Future())
        if not self.exists:
            self._pings[-1].set_exception(ActorDiedError())
        elif self._machine.diligent:
            self._pings[-1].set_result(None)
        return self._pings[-1]

    def work(self, told: bool = True) -> None:
        """Writes all it was sent, and says so if it is to."""
        while self._tasks:
            record, task = self._tasks.popleft()
            self.own.record(record.samples, record.cycle, record.number)
            if told:
                task.set_result(None)

    def refuse(self) -> None:
        """Fails with what it was sent."""
        self._tasks.popleft()[1].set_exception(RayTaskError("record", "not in the catalogue", ValueError()))

    def answer(self) -> None:
        """Answers all that it was asked."""
        while self._pings:
            ping = self._pings.pop()
            if not ping.done():
                ping.set_result(None)

    def write(self, count: int) -> None:
        """Writes so many records of those it was sent and says nothing of it."""
        for record, _ in list(self._tasks)[:count]:
            self.own.record(record.samples, record.cycle, record.number)

    def die(self) -> None:
        """SIGKILL, of which Ray hears."""
        self.exists = False
        for future in (*(task for _, task in self._tasks), *self._pings, *(linger for _, linger in self.lingers)):
            if not future.done():
                future.set_exception(ActorDiedError())

    def end(self) -> None:
        self.exists = self.exists and self.stays

    def gone(self) -> bool:
        return not self.exists

    def close(self) -> None:
        """What the end of a process does to its files."""
        if self._own is not None:
            self._own.close()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """One, while Ray may not be asked anything."""

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("the driver asked Ray")

    for name in ("get", "wait"):
        monkeypatch.setattr(ray, name, asked)
    machine = Machine(tmp_path)
    yield machine
    for hub in machine.hubs:
        hub.close()


def driven(machine: Machine) -> RemoteHub:
    """A hub whose turns a test takes."""
    return RemoteHub(machine.make, HANG_S, threading.Event(), lambda: machine.now)


def turns(hub: RemoteHub, machine: Machine, seconds: float) -> None:
    """Takes turns for so long."""
    for _ in range(round(seconds / TICK_S)):
        machine.now += TICK_S
        hub.turn()


def measured(hub: RemoteHub, *numbers: int) -> None:
    """One record for each number: a counter, a gauge and an observation."""
    for number in numbers:
        samples = [Sample.of(GROUPS, 1), Sample.of(CYCLE, number), Sample.of(SECONDS, number)]
        hub.record(samples, number)


def written_once(machine: Machine, last: int) -> bool:
    """Whether the file has each of `measured`'s numbers once and in order, with totals to match."""
    lines = machine.lines()
    return (
        machine.values(SECONDS) == [[number] for number in range(1, last + 1)]
        and machine.values(GROUPS) == list(range(1, last + 1))
        and [line["cycle"] for line in lines] == list(range(1, last + 1))
        and [line["record"] for line in lines] == list(range(1, last + 1))
    )


def test_a_record_is_sent_and_not_waited_for(machine: Machine) -> None:
    hub = driven(machine)
    measured(hub, 1, 2, 3)
    hub.turn()
    assert machine.lines() == []
    machine.hub.work()
    hub.turn()
    assert written_once(machine, 3)


@pytest.mark.parametrize("written", range(6))
def test_a_hub_that_is_killed_with_so_many_of_its_records_written_is_replaced_and_each_stands_once(
    machine: Machine, written: int
) -> None:
    hub = driven(machine)
    assert_served(hub, machine)
    measured(hub, 1, 2)
    hub.turn()
    machine.hub.work()
    measured(hub, 3, 4, 5, 6, 7)
    hub.turn()
    machine.hub.write(written)
    machine.hub.die()
    with machine.path.open("a") as file:
        file.write('{"time": 1, "cyc')
    measured(hub, 8)
    hub.turn()
    hub.turn()
    assert len(machine.hubs) == 2
    registry = machine.hub.own.registry
    assert registry.get_sample_value(GROUPS) == 2 + written, "before anything new is recorded"
    assert registry.get_sample_value(CYCLE) == 2 + written
    assert machine.hub.served == [("127.0.0.1", 4321)]
    machine.hub.work()
    hub.turn()
    measured(hub, 9)
    hub.turn()
    machine.hub.work()
    assert written_once(machine, 9)
    assert registry.get_sample_value(GROUPS) == 9
    hub.turn()
    hub.flush()


def assert_served(hub: RemoteHub, machine: Machine, port: int = 0, found: Callable[[int], None] = print) -> None:
    """Serves at a port, or at one that the hub chooses."""
    serving = threading.Thread(target=hub.serve, args=("127.0.0.1", port, found))
    serving.start()
    while not machine.hub.served:
        hub.turn()
    serving.join()


def test_a_hub_that_ends_while_nothing_is_recorded_is_replaced_and_serves_again(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    hub = driven(machine)
    assert_served(hub, machine)
    machine.hub.die()
    turns(hub, machine, HANG_S)
    assert [len(each.served) for each in machine.hubs] == [1, 1]
    assert "the metrics hub: ActorDiedError" in caplog.text
    assert "another metrics hub is up" in caplog.text


def test_a_hub_that_says_nothing_for_so_long_is_ended_and_replaced_and_one_that_answers_is_not(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    hub = driven(machine)
    for _ in range(200):
        turns(hub, machine, TICK_S)
        machine.hub.answer()
    assert len(machine.hubs) == 1
    measured(hub, 1)
    turns(hub, machine, HANG_S - 1.0)
    assert len(machine.hubs) == 1
    turns(hub, machine, 2.0)
    assert [each.exists for each in machine.hubs] == [False, True]
    assert "has said nothing for 10 s" in caplog.text
    machine.hub.work()
    assert written_once(machine, 1)


def test_a_hub_that_answers_and_writes_nothing_is_replaced_too(machine: Machine) -> None:
    hub = driven(machine)
    measured(hub, 1)
    for _ in range(round(ANSWER_S)):
        turns(hub, machine, 1.0)
        machine.hub.answer()
    assert len(machine.hubs) == 1
    turns(hub, machine, 1.0)
    assert len(machine.hubs) == 2


def test_a_hub_that_hangs_gets_no_more_than_a_bounded_number_of_records_and_nor_does_the_driver_hold_more(
    machine: Machine,
) -> None:
    hub = driven(machine)
    for number in range(1, 3 * MOST_WAITING):
        measured(hub, number)
        hub.turn()  # in no time
        assert hub._ledger.unwritten <= MOST_UNDER_WAY + MOST_WAITING
    machine.hub.die()
    machine.diligent = True
    for _ in range(2 * MOST_WAITING // MOST_UNDER_WAY):
        hub.turn()
    assert machine.values(GROUPS)[-1] == 3 * MOST_WAITING - 1
    assert [number for row in machine.values(SECONDS) for number in row] == list(range(1, 3 * MOST_WAITING))


def test_no_hub_begins_before_the_one_that_was_ended_is_gone(machine: Machine) -> None:
    hub = driven(machine)
    machine.hub.stays = True  # in a call to a file system that does not come back
    turns(hub, machine, 3 * HANG_S)
    assert len(machine.hubs) == 1
    machine.hub.exists = False
    turns(hub, machine, 2 * TICK_S)
    assert len(machine.hubs) == 2


def test_a_run_whose_hubs_write_nothing_goes_on_is_told_once_and_loses_no_total_when_one_lives_again(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    hub = driven(machine)
    measured(hub, 1)
    hub.turn()
    machine.stillborn = IN_VAIN
    machine.hub.die()
    turns(hub, machine, 1.0)
    assert len(machine.hubs) == IN_VAIN, "the first that died and those after it"
    told = next(each for each in caplog.records if each.levelno == logging.ERROR)
    assert "the run goes on without /metrics and metrics.jsonl, and tries again every 60 s" in told.message
    measured(hub, 2)
    turns(hub, machine, AGAIN_S - 2.0)
    assert len(machine.hubs) == IN_VAIN
    machine.diligent = True
    measured(hub, 3)
    turns(hub, machine, 2 * AGAIN_S)
    assert written_once(machine, 3)
    assert [each for each in caplog.records if each.levelno == logging.ERROR] == [told]


def test_a_port_that_is_still_occupied_is_waited_for_and_told_if_it_takes_long(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    hub, found = driven(machine), list[int]()
    assert_served(hub, machine, 4321, found.append)
    lost_while_its_port_is_occupied(hub, machine)
    turns(hub, machine, PORT_S - 0.5)
    assert len(machine.hubs) == 2
    assert "/metrics is off" not in caplog.text
    turns(hub, machine, 2.0)
    assert caplog.text.count("/metrics is off until its port is free") == 1
    machine.occupied = False
    turns(hub, machine, TICK_S)
    assert machine.hub.served == [("127.0.0.1", 4321)]
    assert found == [4321, 4321], "what was written of the place may be gone too"


def test_of_a_run_that_asked_for_any_port_another_hub_takes_another_one_and_that_is_told(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    hub, found = driven(machine), list[int]()
    machine.free = iter([4321, 8765])
    assert_served(hub, machine, 0, found.append)
    lost_while_its_port_is_occupied(hub, machine)
    turns(hub, machine, PORT_S - 0.5)
    assert found == [4321], "it may only be the hub before, which is about to end"
    turns(hub, machine, 2.0)
    assert machine.hub.served == [("127.0.0.1", 0)]
    assert found == [4321, 8765]
    assert "/metrics is off" not in caplog.text


def lost_while_its_port_is_occupied(hub: RemoteHub, machine: Machine) -> None:
    """Loses a hub whose port somebody takes."""
    machine.occupied = True
    measured(hub, 1)
    hub.turn()
    machine.hub.die()
    machine.diligent = True


def test_a_port_that_is_occupied_at_the_start_is_the_users_to_mend(machine: Machine) -> None:
    machine.occupied = True
    hub = driven(machine)
    hub.start()
    with pytest.raises(UserError, match="address already in use"):
        hub.serve("127.0.0.1", 9090)
    hub.stop()


def test_a_first_hub_that_cannot_begin_ends_the_start(machine: Machine) -> None:
    machine.stillborn = IN_VAIN
    with pytest.raises(WorkerLostError, match="ended 3 times before it could begin"):
        driven(machine)
    assert len(machine.hubs) == IN_VAIN


def test_a_refused_record_is_heard_of_at_a_later_one(machine: Machine) -> None:
    hub = driven(machine)
    measured(hub, 1)
    hub.turn()
    machine.hub.refuse()
    hub.start()
    hub.flush_after_failure()
    with pytest.raises(RayTaskError, match="not in the catalogue"):
        measured(hub, 2)
    hub.flush_after_failure()


def test_what_is_recorded_is_written_when_a_flush_returns_and_a_closed_hub_has_ended(machine: Machine) -> None:
    hub = driven(machine)
    machine.diligent = True
    hub.start()
    measured(hub, *range(1, 50))
    hub.flush()
    assert written_once(machine, 49)
    measured(hub, 50)
    hub.close()
    assert written_once(machine, 50)
    assert not machine.hub.exists


def test_the_end_of_a_run_is_written_and_waits_for_the_hub_to_be_scraped(machine: Machine) -> None:
    hub, ended = driven(machine), "advdmd_run_finished{outcome=stopped}"
    assert_served(hub, machine)
    machine.diligent = True
    hub.start()
    finishing = threading.Thread(target=hub.finish, args=("stopped", 60.0))
    finishing.start()
    while not machine.hub.lingers:
        time.sleep(0.001)
    ((most_s, scraped),) = machine.hub.lingers
    assert machine.values(ended) == [1], "before anybody is to scrape it"
    assert most_s == 60.0
    finishing.join(0.05)
    assert finishing.is_alive()
    scraped.set_result(None)
    finishing.join()
    hub.close()


@pytest.mark.parametrize("lost", [False, True])
def test_the_end_of_a_run_whose_hub_serves_nothing_or_is_lost_raises_nothing_and_is_soon(
    machine: Machine, lost: bool
) -> None:
    hub = driven(machine)
    if lost:
        assert_served(hub, machine)
    machine.diligent = True
    hub.start()
    finishing = threading.Thread(target=hub.finish, args=("failed", 60.0))
    finishing.start()
    while lost and not machine.hub.lingers:
        time.sleep(0.001)
    if lost:
        machine.hub.die()
    finishing.join(30.0)
    assert not finishing.is_alive()
    assert lost or machine.hub.lingers == []
    hub.stop()


def test_a_flush_ends_and_says_what_is_missing_where_no_hub_lives(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    hub = driven(machine)
    machine.stillborn = 1000
    machine.hub.die()
    measured(hub, 1, 2)
    hub.start()
    hub.close()
    assert "the metrics hub: 2 records are not in metrics.jsonl" in caplog.text


def test_a_file_that_is_changed_between_two_hubs_is_where_the_figures_go_on_from(machine: Machine) -> None:
    machine.diligent = True
    hub = driven(machine)
    measured(hub, 1, 2, 3)
    hub.turn()
    hub.turn()
    changed: list[bool] = []

    def change() -> None:
        assert not any(each.exists for each in machine.hubs), "nobody writes meanwhile"
        changed.append(written_once(machine, 3))
        machine.hub.close()
        machine.path.write_text("".join(machine.path.read_text().splitlines(keepends=True)[:2]))

    hub.reopen(change)
    measured(hub, 3, 4)
    hub.turn()
    hub.turn()
    assert changed == [True]
    assert len(machine.hubs) == 2
    assert machine.values(SECONDS) == [[1], [2], [3], [4]]
    assert machine.values(GROUPS) == [1, 2, 3, 4]
    assert [line["record"] for line in machine.lines()] == [1, 2, 4, 5], "a number is never given twice"
    assert machine.hub.own.registry.get_sample_value(GROUPS) == 4


def test_a_file_that_cannot_be_changed_is_gone_on_with(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.diligent = True
    hub = driven(machine)
    measured(hub, 1)
    hub.turn()
    hub.turn()

    def refused() -> None:
        raise OSError(28, "No space left on device")

    hub.reopen(refused)
    measured(hub, 2)
    hub.turn()
    assert written_once(machine, 2)
    assert "stays as it is" in caplog.text


def test_sinks_have_all_that_is_written_before_a_hub_ends(machine: Machine) -> None:
    machine.diligent = True
    hub = driven(machine)
    hub.start()
    measured(hub, 1, 2, 3)
    hub.close()
    assert machine.hub.closed_sinks == [(CLOSE_S, 3)]


def test_a_run_that_failed_does_not_wait_for_its_sinks_for_long(machine: Machine) -> None:
    machine.diligent = True
    hub = driven(machine)
    hub.start()
    measured(hub, 1)
    hub.flush_after_failure()
    hub.stop()
    assert machine.hub.closed_sinks == [(LAST_RECORDS_S, 1)]

"""Signals: what they end at once, what they only ask to stop, and that they are nobody's afterwards."""

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from advdmd_ray.errors import Interrupted
from advdmd_ray.runtime.stopping import SIGNALS, StopRequest, interrupting

BOTH = pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
LONG_S = 60.0


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(*numbers: int, then_s: float = 0.0) -> None:
    """Sends this process signals, and takes so long after them."""
    for number in numbers:
        os.kill(os.getpid(), number)
    time.sleep(then_s)


def awaited() -> AbstractContextManager[None]:
    return StopRequest().awaited(LONG_S)


@BOTH
def test_a_signal_ends_what_is_inside_and_says_its_name(number: int, name: str) -> None:
    with pytest.raises(KeyboardInterrupt, match=f"^stopped by {name}$") as stopped, interrupting():
        send(number, then_s=LONG_S)
    assert isinstance(stopped.value, Interrupted)
    assert stopped.value.number == number


@BOTH
def test_the_first_signal_is_a_request_that_is_answered_at_the_end(
    number: int, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    stop, seen = StopRequest(), list[bool]()

    def work() -> None:
        seen.append(stop.asked())
        send(number)
        seen.append(stop.asked())

    with pytest.raises(Interrupted, match=f"^stopped by {name}$") as stopped, stop.awaited(LONG_S):
        work()
    assert seen == [False, True]
    assert stopped.value.number == number
    assert capfd.readouterr().err == f"{name}: stopping within 60 s; a second signal stops at once\n"


def test_a_stop_says_since_when_it_was_asked_for() -> None:
    began = time.monotonic()
    with pytest.raises(Interrupted) as stopped, awaited():
        send(signal.SIGTERM, then_s=0.1)
    assert began <= stopped.value.since < time.monotonic() - 0.1
    assert not stopped.value.at_once


def test_without_a_signal_nothing_is_asked_and_nobody_waits() -> None:
    stop, before = StopRequest(), threading.active_count()
    with stop.awaited(LONG_S):
        pass
    assert not stop.asked()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        (signal.SIGTERM, signal.SIGTERM, "stopped at once by SIGTERM, a second signal after SIGTERM"),
        (signal.SIGINT, signal.SIGTERM, "stopped at once by SIGTERM, a second signal after Ctrl-C"),
    ],
)
def test_a_second_signal_stops_at_once_whichever_it_is(first: int, second: int, line: str) -> None:
    with pytest.raises(Interrupted, match=f"^{line}$") as stopped, awaited():
        send(first, second, then_s=LONG_S)
    assert stopped.value.number == second
    assert stopped.value.at_once


@pytest.mark.parametrize("bound_s", [0.0, 0.2])
def test_what_does_not_end_within_the_bound_is_stopped_at_once(bound_s: float) -> None:
    began, line = time.monotonic(), rf"^stopped at once, {bound_s:g} s after SIGTERM$"
    with pytest.raises(Interrupted, match=line), StopRequest().awaited(bound_s):
        send(signal.SIGTERM, then_s=LONG_S)
    assert bound_s <= time.monotonic() - began < LONG_S / 2


def test_a_signal_that_came_just_before_a_long_call_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kill, sent = os.kill, list[int]()

    def unheard_once(process: int, number: int) -> None:
        """The second signal is noted for Python's handlers and wakes nobody, as one that came just before the call."""
        sent.append(number)
        if len(sent) == 2:
            _thread.interrupt_main(signal.Signals(number))
        else:
            kill(process, number)

    monkeypatch.setattr(os, "kill", unheard_once)
    began = time.monotonic()
    with pytest.raises(Interrupted, match=r"^stopped at once, 0\.1 s after SIGTERM$"), StopRequest().awaited(0.1):
        send(signal.SIGTERM, then_s=LONG_S)
    assert time.monotonic() - began < LONG_S / 2
    assert sent == [signal.SIGTERM] * 3


def test_a_failure_is_told_and_not_the_signal_before_it() -> None:
    def fail() -> None:
        send(signal.SIGTERM)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), awaited():
        fail()


@pytest.mark.parametrize("around", [interrupting, awaited])
@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN, lambda _number, _frame: None])
def test_outside_signals_are_what_they_were(
    around: Callable[[], AbstractContextManager[None]], before: signal.Handlers
) -> None:
    for number in SIGNALS:
        signal.signal(number, before)
    with pytest.raises(Interrupted), around():
        send(signal.SIGTERM)
    assert {signal.getsignal(number) for number in SIGNALS} == {before}


def test_where_the_handler_was_not_pythons_a_signal_ends_the_process_again(monkeypatch: pytest.MonkeyPatch) -> None:
    set_one = signal.signal

    def foreign(number: int, handler: signal.Handlers) -> None:
        """What `signal.signal` does after a library in C has set the handler."""
        set_one(number, handler)

    monkeypatch.setattr(signal, "signal", foreign)
    with interrupting():
        assert callable(signal.getsignal(signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    monkeypatch.undo()


@pytest.mark.parametrize("around", [interrupting, awaited])
def test_another_thread_changes_nothing(around: Callable[[], AbstractContextManager[None]]) -> None:
    heard = []

    def look() -> None:
        with around():
            heard.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert heard == [signal.getsignal(signal.SIGTERM)]

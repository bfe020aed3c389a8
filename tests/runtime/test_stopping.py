"""SIGTERM is heard as Ctrl-C for a while, and then as before."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from advdmd_ray.runtime.stopping import sigterm_as_ctrl_c


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN, lambda _number, _frame: None])
def test_sigterm_is_a_ctrl_c_inside_and_what_it_was_outside(before: signal.Handlers) -> None:
    signal.signal(signal.SIGTERM, before)
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_where_the_handler_was_not_pythons_sigterm_ends_the_process_again(monkeypatch: pytest.MonkeyPatch) -> None:
    set_one = signal.signal

    def foreign(number: int, handler: signal.Handlers) -> None:
        """What `signal.signal` does after a library in C has set the handler."""
        set_one(number, handler)

    monkeypatch.setattr(signal, "signal", foreign)
    with sigterm_as_ctrl_c():
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    monkeypatch.undo()


def test_another_thread_changes_nothing() -> None:
    heard = []

    def look() -> None:
        with sigterm_as_ctrl_c():
            heard.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert heard == [signal.getsignal(signal.SIGTERM)]

"""How a process is asked to stop: by SIGTERM, of a scheduler that wants its machine back, or by Ctrl-C.

Python gives signals to the main thread alone. Elsewhere nothing here changes anything.
"""

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from advdmd_ray.console import warn
from advdmd_ray.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)
Handler = Callable[[int, FrameType | None], None]
# Seconds after which a signal that nobody has answered is sent again.
AGAIN_S = 0.2


@contextmanager
def interrupting() -> Iterator[None]:
    """A signal ends what is inside at once.

    Raises:
        Interrupted: which names it.
    """

    def interrupt(number: int, _: FrameType | None) -> None:
        raise Interrupted(number, f"stopped by {name_of(number)}")

    with _handled_by(interrupt):
        yield


class StopRequest:
    """Whether a signal has asked to stop, for whoever can stop well and looks here now and then."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._since = 0.0

    def asked(self) -> bool:
        """Whether one has."""
        return self._number is not None

    @contextmanager
    def awaited(self, bound_s: float) -> Iterator[None]:
        """The first signal is a request; a second one, or so many seconds without an end, end what is inside at once.

        Args:
            bound_s: Seconds from the first signal, 0 or more.

        Raises:
            Interrupted: as soon as what is inside ends, if it was asked to and did not fail.
        """
        # What a handler may touch while the main thread is at anything: no lock, no buffered stream.
        first: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        late = told = False

        def hear(number: int, _: FrameType | None) -> None:
            nonlocal told
            if self._number is None:
                self._number, self._since = number, time.monotonic()
                first.put(number)
                return
            first_name = name_of(self._number)
            how = f", {bound_s:g} s after" if late else f" by {name_of(number)}, a second signal after"
            told = True
            raise Interrupted(number, f"stopped at once{how} {first_name}", since=self._since, at_once=True)

        def watch() -> None:
            nonlocal late
            number = first.get()
            if number is None:
                return
            warn(f"{name_of(number)}: stopping within {bound_s:g} s; a second signal stops at once")
            wait_s = bound_s
            # More than once: a signal between Python's last look at its signals and a system call does not interrupt
            # that call, and is heard only after it.
            while not told:
                try:
                    first.get(timeout=wait_s)
                except queue.Empty:
                    late, wait_s = True, AGAIN_S
                    os.kill(os.getpid(), number)
                else:
                    return

        watcher = threading.Thread(target=watch, name="stop-request", daemon=True)
        watcher.start()
        with _handled_by(hear):
            try:
                yield
            finally:
                first.put(None)
                watcher.join()
        if self._number is not None:
            raise Interrupted(self._number, f"stopped by {name_of(self._number)}", since=self._since)


def name_of(number: int) -> str:
    """What a user calls a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


@contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in SIGNALS} if here else {}
    try:
        yield
    finally:
        for number, old in before.items():
            # A handler that was not set from Python comes back as None, which cannot be set again.
            signal.signal(number, signal.SIG_DFL if old is None else old)

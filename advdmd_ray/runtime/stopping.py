"""How a run is asked to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM, of a scheduler that wants its machine back, is a Ctrl-C; only the main thread can hear of it."""
    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if here else None
    try:
        yield
    finally:
        if here:
            # A handler that was not set from Python comes back as None, which cannot be set again.
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)

"""The collector of reference cycles, kept away from what a start leaves behind."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 1
"""The oldest generation that is cheap to collect."""


@contextmanager
def frozen_heap() -> Iterator[None]:
    """What exists now is not looked at by the collector while the context lasts.

    With torch and Ray imported one full collection takes more than 0.1 s, in which an event loop stands still. If
    somebody froze the heap before, it is theirs, and stays as it is.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect(YOUNG)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

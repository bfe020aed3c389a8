"""Work that may end its process, in one of its own."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from advdmd_ray.errors import FAILURES, UserError, WorkerLostError

T = TypeVar("T")


def in_its_own_process(work: Callable[[], T]) -> T:
    """What a piece of work returns or raises; it may end its process, which is not this one.

    Raises:
        WorkerLostError: if it did; says how.
    """
    context = multiprocessing.get_context("spawn")
    hears, says = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(says, work))
    process.start()
    says.close()
    try:
        outcome = hears.recv()
    except EOFError:
        outcome = None
    process.join()
    if outcome is None:
        code = process.exitcode or 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        raise WorkerLostError(f"the process that was at it ended {how}: so does this work, on this machine too")
    result, error = outcome
    if error is not None:
        raise error
    return result


def _work(says: Connection, work: Callable[[], T]) -> None:
    try:
        says.send((work(), None))
    except (UserError, *FAILURES) as error:
        says.send((None, error))

"""How many of some things are done: a bar on a terminal, lines elsewhere."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from advdmd_ray import console as stderr
from advdmd_ray.evaluation.words import clock_text

if TYPE_CHECKING:  # torch, which takes seconds
    from advdmd_ray.data.source import Encoded, EncodingTask

EVERY_S = 10.0
"""Seconds between lines."""
MOMENT_S = 5.0


class Counted(Protocol):
    """Is given how many are done, of how many, and what else there is to say."""

    def __call__(self, done: int, of: int, more: str = "") -> None: ...  # noqa: D102


@contextmanager
def counted(what: str, quiet_s: float = 0.0, console: Console | None = None) -> Iterator[Counted]:
    """How many of some things are done: a bar on a terminal, elsewhere a line every ten seconds.

    Args:
        what: The things.
        quiet_s: Nothing is shown until so long after the first that is told: starting is no progress, and what is done
            in a moment needs none.
        console: The terminal; None: that of stderr, if it is one. A bar stands below what is drawn there already.

    Yields:
        The function to give done and all to, and what else to say.
    """
    where = stderr.drawing() if console is None else console
    with _lines(what, quiet_s) if where is None else _bar(what, quiet_s, where) as show:
        yield show


@contextmanager
def _bar(what: str, quiet_s: float, console: Console) -> Iterator[Counted]:
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(what, total=None)
    # What takes long may tell nothing in its midst, so the bar comes without being told.
    late = threading.Timer(quiet_s, bar.start)
    late.daemon = True

    def show(done: int, of: int, more: str = "") -> None:
        bar.update(task, completed=done, total=of, description=what + more)
        if not (late.ident or bar.live.is_started):
            late.start()

    if not quiet_s:
        bar.start()
    try:
        yield show
    finally:
        late.cancel()
        if late.ident:
            late.join()
        if bar.live.is_started:
            bar.stop()


@contextmanager
def _lines(what: str, quiet_s: float) -> Iterator[Counted]:
    first: list[float] = []
    shown = [float("-inf")]

    def show(done: int, of: int, more: str = "") -> None:
        now = time.monotonic()
        if not first:
            first.append(now)
        if now - first[0] >= quiet_s and (now - shown[0] >= EVERY_S or done == of):
            shown[0] = now
            stderr.say(f"{what}: {done} of {of}{more}", what=what, done=done, of=of)

    yield show


@contextmanager
def encoding_progress(
    tasks: "Sequence[EncodingTask]",
) -> "Iterator[Callable[[Iterable[Encoded]], Iterator[Encoded]]]":
    """How many shards of images are encoded, how fast and how long it will take; nothing if there are none to encode.

    Yields:
        The function that the results go through.
    """
    began, shards = time.monotonic(), len(tasks)

    def followed(results: "Iterable[Encoded]") -> "Iterator[Encoded]":
        images = 0
        show(0, shards, "")
        for done, result in enumerate(results, start=1):
            images += result.images
            yield result
            elapsed = time.monotonic() - began
            left = clock_text(elapsed * (shards - done) / done)
            show(done, shards, f", {images} images, {images / max(elapsed, 1e-9):.1f}/s, {left} left")

    if not tasks:
        yield iter
        return
    with counted("shards of images encoded") as show:
        yield followed


def samples_progress() -> AbstractContextManager[Counted]:
    """How many of the teacher's samples are there."""
    return counted("images of the teacher")


def judge_progress() -> AbstractContextManager[Counted]:
    """How many of the judge's images are drawn, if that takes longer than a moment."""
    return counted("images for the judge", MOMENT_S)


def drawing_progress() -> AbstractContextManager[Counted]:
    """How many images are drawn, if that takes longer than a moment."""
    return counted("images drawn", MOMENT_S)


def texts_progress() -> AbstractContextManager[Counted]:
    """How many texts are encoded, if that takes longer than a moment."""
    return counted("encoded texts", MOMENT_S)


def workers_progress() -> AbstractContextManager[Counted]:
    """How many of the awaited workers are up, if that takes longer than a moment."""
    return counted("workers that are up", MOMENT_S)

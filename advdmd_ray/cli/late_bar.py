"""A progress bar for work that is sometimes done at once: it shows itself only if the work takes a while."""

import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

SHOWN_AFTER_S = 5.0


class LateBar:
    """A bar on stderr, from a few seconds after it was entered until it is left.

    Args:
        text: What is done.
        after_s: Seconds until it shows itself.
        console: Where; None: stderr.
    """

    def __init__(self, text: str, after_s: float = SHOWN_AFTER_S, console: Console | None = None) -> None:
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        where = Console(stderr=True) if console is None else console
        self._bar = Progress(*columns, console=where, transient=True)
        self._task = self._bar.add_task(text, total=None)
        self._timer = threading.Timer(after_s, self._bar.start)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._timer.cancel()
        self._timer.join()
        if self._bar.live.is_started:
            self._bar.stop()

    def update(self, done: int, of: int) -> None:
        """Say how many are done."""
        self._bar.update(self._task, completed=done, total=of)

"""Has a driver stand still at an instant that is asked for, for as long as something is done to it or to others.

The product knows nothing of this: the storm's driver (`driver.py`) wraps two of its methods.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.endurance.storm.faults import SAVING

HELD_S = 8.0
"""A driver that nobody lets go goes on after this long."""
LOOK_S = 0.0005


class Instants:
    """Files in a folder, by which a storm and the drivers of its run agree.

    Args:
        folder: Exists.
        checkpoints: Of the run.
    """

    def __init__(self, folder: Path, checkpoints: Path) -> None:
        self._asked, self._held, self._checkpoints = folder / "asked", folder / "held", checkpoints

    def pass_by(self, instant: str) -> None:
        """The driver is at an instant; it stands still if that is the one asked for."""
        try:
            if self._asked.read_text() != instant:
                return
        except FileNotFoundError:
            return
        self._held.touch()
        end = time.monotonic() + HELD_S
        while self._asked.exists() and time.monotonic() < end:
            time.sleep(LOOK_S)

    @contextmanager
    def at(self, instant: str, within_s: float, over: Callable[[], bool]) -> Iterator[bool]:
        """Waits for an instant. A driver that stands still there goes on when the context is left.

        Args:
            instant: Which one.
            within_s: How long it is waited for.
            over: Whether it will not come any more.

        Yields:
            Whether it came.
        """
        end = time.monotonic() + within_s
        if instant != SAVING:
            draft = self._asked.with_suffix(".part")
            draft.write_text(instant)
            draft.replace(self._asked)
        try:
            while not (came := self.saving() if instant == SAVING else self._held.exists()):
                if time.monotonic() > end or over():
                    break
                time.sleep(LOOK_S)
            yield came
        finally:
            self._asked.unlink(missing_ok=True)
            self._held.unlink(missing_ok=True)

    def saving(self) -> bool:
        """Whether a checkpoint is half-written."""
        return next(self._checkpoints.glob(".saving-step-*"), None) is not None

"""Where the time of a cycle goes."""

import time
from collections.abc import Callable


class Laps:
    """Splits a stretch of work into parts, one after the other, so that their seconds add up to the whole.

    Args:
        clock: Monotonic clock, seconds.

    Attributes:
        seconds: Of each part so far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()
        self.seconds: dict[str, float] = {}

    def ended(self, part: str) -> None:
        """A part is over, and the next one begins. A part may come again."""
        now = self._clock()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now

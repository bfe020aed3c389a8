"""Which nodes end our processes again and again: too little memory, a device that is broken, a disk that is full."""

import time
from collections import defaultdict, deque
from collections.abc import Callable

MOST_LOSSES, WITHIN_S = 3, 600.0
"""So many processes that ended on one node in so many seconds are no chance any more."""
AVOIDED_S = 1800.0


class NodeLosses:
    """Counts what ended where, and says which nodes are avoided for a while.

    Args:
        clock: Monotonic clock, seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: defaultdict[str, deque[float]] = defaultdict(deque)
        self._avoided: dict[str, float] = {}  # until when

    def lost(self, node: str) -> bool:
        """A process ended on a node, or was given up there; returns whether the node is avoided from now on."""
        now, ended = self._clock(), self._ended[node]
        ended.append(now)
        while now - ended[0] > WITHIN_S:
            ended.popleft()
        if len(ended) < MOST_LOSSES:
            return False
        ended.clear()
        self._avoided[node] = now + AVOIDED_S
        return True

    def avoided(self) -> tuple[str, ...]:
        """The nodes where nothing is started now if there is room elsewhere."""
        now = self._clock()
        self._avoided = {node: until for node, until in self._avoided.items() if until > now}
        return tuple(sorted(self._avoided))

"""What a sink is given: all that was recorded of one cycle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from advdmd_ray.metrics.history import Entry
from advdmd_ray.metrics.series import parse_key

BINS = 30
"""Of a histogram, evenly over what was observed in a cycle."""


@dataclass(frozen=True, slots=True)
class Point:
    """A cycle, as every sink shows it.

    Attributes:
        cycle: Its number, the step of the sinks.
        began: Of its first record, Unix seconds.
        time: Of its last record, Unix seconds.
        scalars: The last value of each gauge and the last total of each counter, by tag.
        observations: Of each histogram, by tag; at least one.
        pictures: PNG or JPEG files, by tag.
    """

    cycle: int
    began: float
    time: float
    scalars: Mapping[str, float]
    observations: Mapping[str, Sequence[float]]
    pictures: Mapping[str, bytes] = field(default_factory=dict)


class Gathering:
    """Makes one point of the lines of a cycle, and ends it where the next one begins.

    Args:
        first: Lines of earlier cycles are passed over.
    """

    def __init__(self, first: int) -> None:
        self._begin(first)

    def _begin(self, cycle: int) -> None:
        self._cycle, self._began, self._time = cycle, 0.0, 0.0
        self._values: dict[str, float | None] = {}
        self._observations: dict[str, list[float]] = {}

    def add(self, entry: Entry) -> Point | None:
        """One more line, in the order of the file; the point of the cycle before, if this line begins another."""
        ended = None
        if entry["cycle"] < self._cycle:
            return ended
        if entry["cycle"] > self._cycle:
            ended = self.point()
            self._begin(entry["cycle"])
        self._time = entry["time"]
        self._began = self._began or self._time
        for key, value in entry["values"].items():
            if isinstance(value, list):
                self._observations.setdefault(tag_of(key), []).extend(value)
            else:
                self._values[tag_of(key)] = value
        return ended

    def point(self) -> Point | None:
        """What was recorded of the cycle so far; None if nothing was. A value that is not finite is no point."""
        if not self._time:
            return None
        scalars = {tag: value for tag, value in self._values.items() if value is not None}
        return Point(self._cycle, self._began, self._time, scalars, self._observations)


def tag_of(key: str) -> str:
    """The name of a series in the sinks, which show what has one first word together: `station/name/label/label`."""
    name, labels = parse_key(key)
    return "/".join((name.split("_")[1], name, *(text for _, text in labels)))


def histogram(observations: Sequence[float]) -> tuple[list[int], list[float]]:
    """Counts of even bins, and the edges around them, one more."""
    import numpy as np  # pre-flight needs none

    counts, edges = np.histogram(observations, bins=BINS)
    return counts.tolist(), edges.tolist()

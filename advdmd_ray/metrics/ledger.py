"""What was recorded and is not known to be written: each sample stands in metrics.jsonl once, whatever ends the hub.

A record gets its number when it is sent to a hub. A hub in the place of another finds the last number in the file: so
far everything is written, and the rest is sent again.
"""

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from advdmd_ray.metrics.batch import Batch
from advdmd_ray.metrics.catalogue import CATALOGUE, Kind
from advdmd_ray.metrics.history import Standing
from advdmd_ray.metrics.series import Sample

MOST_UNDER_WAY = 256
"""Records that a hub is sent before it has confirmed the first of them."""
MOST_WAITING = 1024
"""Records that wait for a hub; one more, and they become one."""
MOST_OBSERVATIONS = 2**16
"""Observations of histograms in a record that was made of many; the oldest are left out."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """What one call of `MetricsHub.record` is given.

    Attributes:
        number: In the order of all records of a run, from 1.
        samples: Values of series.
        cycle: Learner cycle they belong to; None: that of the record before.
    """

    number: int
    samples: Sequence[Sample]
    cycle: int | None


class Ledger:
    """The records of a run, from `add` to `written`. It holds a bounded number of them."""

    def __init__(self) -> None:
        self._record = self._cycle = self._last_sent = 0
        self._values: dict[str, float] = {}
        self._begun = False
        self._waiting: deque[tuple[Sequence[Sample], int | None]] = deque()
        self._under_way: deque[Record] = deque()

    @property
    def unwritten(self) -> int:
        """Records that are not known to be written."""
        return len(self._waiting) + len(self._under_way)

    def add(self, samples: Sequence[Sample], cycle: int | None) -> None:
        """One more record.

        Raises:
            KeyError: for a name that is not in the catalogue, if nothing was written for long.
        """
        self._waiting.append((samples, cycle))
        if len(self._waiting) > MOST_WAITING:
            self._waiting = deque([_as_one(self._waiting)])

    def next(self) -> Record | None:
        """The next record to send; None if there is none, or too many are under way."""
        if not self._waiting or len(self._under_way) >= MOST_UNDER_WAY:
            return None
        self._last_sent += 1
        record = Record(self._last_sent, *self._waiting.popleft())
        self._under_way.append(record)
        return record

    def written(self, number: int) -> None:
        """All records up to this one are written, or what the disk refused of them is given up."""
        while self._under_way and self._under_way[0].number <= number:
            record = self._under_way.popleft()
            self._record, self._cycle = record.number, self._cycle if record.cycle is None else record.cycle
            for sample in record.samples:
                kind = CATALOGUE[sample.name].kind
                if kind is Kind.COUNTER:
                    self._values[sample.key] = self._values.get(sample.key, 0.0) + sample.value
                elif kind is Kind.GAUGE:
                    self._values[sample.key] = sample.value

    def handed_over(self, found: Standing) -> Standing:
        """A hub begins to work, and no other does any more: what was sent and is not written will be sent to it.

        Args:
            found: What the file says.

        Returns:
            Where the figures stand, which the hub is to be told.
        """
        if not self._begun:
            self._begun, self._cycle, self._values = True, found.cycle, dict(found.values)
        self.written(found.record)
        self._waiting.extendleft((record.samples, record.cycle) for record in reversed(self._under_way))
        self._under_way.clear()
        self._last_sent = self._record = max(self._record, found.record)
        return Standing(self._record, self._cycle, dict(self._values))

    def read_anew(self) -> None:
        """The file was changed while no hub wrote to it: figures go on from what the next one finds there."""
        self._begun = False


def _as_one(records: Iterable[tuple[Sequence[Sample], int | None]]) -> tuple[Sequence[Sample], int | None]:
    """One record in place of many, of the cycle of the last."""
    batch, last = Batch(), None
    for samples, cycle in records:
        last = last if cycle is None else cycle
        for sample in samples:
            batch.add(sample)
    merged = batch.drain()
    observations = [sample for sample in merged if CATALOGUE[sample.name].kind is Kind.HISTOGRAM]
    left_out = len(observations) - MOST_OBSERVATIONS
    if left_out > 0:
        _log.warning("%d observations of histograms are left out: they waited too long to be written", left_out)
        merged = merged[: -len(observations)] + observations[left_out:]
    return merged, last

"""Samples gathered where they are measured, so that the hub hears of many events at once."""

from advdmd_ray.metrics.catalogue import CATALOGUE, Kind
from advdmd_ray.metrics.series import Sample


class Batch:
    """What the samples given so far come to: as `MetricsHub.record` takes them, and to the same effect.

    Increments of one counter are added up, of the values of one gauge the last one stands, and every observation of a
    histogram is kept, in its order.
    """

    def __init__(self) -> None:
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._observations: list[Sample] = []

    def __bool__(self) -> bool:
        return bool(self._values or self._observations)

    def add(self, sample: Sample) -> None:
        """One more sample.

        Raises:
            KeyError: for a name that is not in the catalogue.
        """
        kind = CATALOGUE[sample.name].kind
        if kind is Kind.HISTOGRAM:
            self._observations.append(sample)
            return
        series = sample.name, sample.labels
        before = self._values.get(series, 0.0) if kind is Kind.COUNTER else 0.0
        self._values[series] = before + sample.value

    def drain(self) -> list[Sample]:
        """All of it; the batch is empty then."""
        samples = [Sample(name, value, labels) for (name, labels), value in self._values.items()]
        samples += self._observations
        self._values, self._observations = {}, []
        return samples

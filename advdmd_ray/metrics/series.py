"""One measured value on its way to the metrics hub."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series.

    Attributes:
        name: Full series name as the catalogue has it, such as `advdmd_reward_mean`.
        value: Gauge: the new value. Counter: the increment, at least 0. Histogram: one observation.
        labels: Label names and values, in the catalogue's order.
    """

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, name: str, value: float, **labels: str | int) -> Self:
        """A sample with its labels as keywords: `Sample.of("advdmd_reward_mean", 0.3, level=2)`."""
        return cls(name, float(value), tuple((label, str(text)) for label, text in labels.items()))

    @property
    def key(self) -> str:
        """The series as text, `name{label=value,...}`; the key of metrics.jsonl."""
        if not self.labels:
            return self.name
        return f"{self.name}{{{','.join(f'{label}={text}' for label, text in self.labels)}}}"


def parse_key(key: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Name and labels of a series key; the inverse of `Sample.key`."""
    name, _, rest = key.partition("{")
    pairs = [pair.partition("=") for pair in rest.removesuffix("}").split(",") if pair]
    return name, tuple((label, text) for label, _, text in pairs)

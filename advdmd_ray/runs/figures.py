"""What metrics.jsonl said last of a run."""

from collections.abc import Mapping
from typing import Any, Self

from advdmd_ray.config import Config
from advdmd_ray.metrics.history import entries_of, last_values
from advdmd_ray.metrics.series import parse_key
from advdmd_ray.runs.folder import RunFolder


class Figures:
    """Last values of metrics.jsonl, looked up by series name; absent counters are 0."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._rows = [(*parse_key(key), value) for key, value in values.items() if isinstance(value, int | float)]

    @classmethod
    def of(cls, config: Config) -> Self:
        """Those of a run's folder; all of a run that wrote none are 0."""
        jsonl = RunFolder(config.folder).metrics
        return cls(last_values(entries_of(jsonl)) if jsonl.exists() else {})

    def rows(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of every series of this name."""
        return [(dict(labels), float(value)) for found, labels, value in self._rows if found == name]

    def by(self, name: str, label: str) -> dict[str, float]:
        """Value by one label."""
        return {labels[label]: value for labels, value in self.rows(name)}

    def one(self, name: str) -> float:
        """The value of a series without labels."""
        return next((value for _, value in self.rows(name)), 0.0)

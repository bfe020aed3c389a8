"""The series of a run, read from metrics.jsonl."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from advdmd_ray.metrics.history import Entry, entries_of
from advdmd_ray.metrics.series import parse_key


@dataclass(frozen=True, slots=True)
class Curve:
    """One series over the learner cycles.

    Attributes:
        cycles: `[n]` learner cycles, rising.
        times: `[n]` Unix seconds at which each value was recorded.
        values: `[n]` the last value of each cycle; NaN where it was not finite. For a histogram the mean of the last
            call's observations.
    """

    cycles: Int[np.ndarray, " n"]
    times: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]


class SeriesReader:
    """Gathers series while the lines of a metrics.jsonl go by.

    Args:
        names: Only series of these names; None: all.
    """

    def __init__(self, names: Collection[str] | None = None) -> None:
        self._names = names
        self._wanted: dict[str, bool] = {}
        self._points: dict[str, dict[int, tuple[float, float]]] = {}

    def see(self, entry: Entry) -> None:
        """Takes the values of one line."""
        for key, value in entry["values"].items():
            if key not in self._wanted:
                self._wanted[key] = self._names is None or parse_key(key)[0] in self._names
            if self._wanted[key]:
                number = np.mean(value) if isinstance(value, list) else np.nan if value is None else value
                self._points.setdefault(key, {})[entry["cycle"]] = (entry["time"], float(number))

    def series(self) -> dict[str, Curve]:
        """What was gathered, by series key."""
        series: dict[str, Curve] = {}
        for key, by_cycle in self._points.items():
            cycles = sorted(by_cycle)
            times, values = zip(*(by_cycle[cycle] for cycle in cycles), strict=True)
            series[key] = Curve(np.array(cycles), np.array(times, dtype=np.float64), np.array(values, dtype=np.float64))
        return series


def read_series(jsonl: Path) -> dict[str, Curve]:
    """All series of a metrics.jsonl by their key, `name{label=value}`.

    Where a cycle was recorded more than once (several calls, or a resumed run that made it again) the last value
    stands. A torn line is passed over with a warning.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    reader = SeriesReader()
    for entry in entries_of(Path(jsonl)):
        reader.see(entry)
    return reader.series()


def by_label(series: Mapping[str, Curve], name: str, label: str) -> dict[str, Curve]:
    """The curves of one name by the value of one label; numbers in numeric order, words as they came."""
    found = {dict(labels)[label]: curve for key, curve in series.items() for n, labels in [parse_key(key)] if n == name}
    if all(text.isdigit() for text in found):
        return {text: found[text] for text in sorted(found, key=int)}
    return found


def auc_while_rl(series: Mapping[str, Curve]) -> dict[int, tuple[float, float]]:
    """Mean and minimum of each level's held-out AUC over the cycles in which RL updates were made.

    A cycle counts if `advdmd_learner_updates_total{objective=rl}` rose in it. Empty if none did.
    """
    updates = series.get("advdmd_learner_updates_total{objective=rl}")
    if updates is None:
        return {}
    rose = np.diff(updates.values, prepend=0.0) > 0
    active = updates.cycles[rose]
    result: dict[int, tuple[float, float]] = {}
    for level, curve in by_label(series, "advdmd_learner_discriminator_auc", "level").items():
        values = curve.values[np.isin(curve.cycles, active) & np.isfinite(curve.values)]
        if len(values):
            result[int(level)] = (float(values.mean()), float(values.min()))
    return result

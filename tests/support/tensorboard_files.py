"""What TensorBoard reads of a folder, and what it is to read."""

from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advdmd_ray.metrics.history import entries_of
from advdmd_ray.metrics.sinks.point import tag_of


def read_back(folder: Path) -> Any:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0}).Reload()


def file_says(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The last value of each series in each cycle, where it is finite, as 32-bit numbers."""
    last: dict[tuple[str, int], float | None] = {}
    for entry in entries_of(path):
        last |= {(key, entry["cycle"]): value for key, value in entry["values"].items() if not isinstance(value, list)}
    found: dict[str, list[tuple[int, float]]] = {}
    for (key, cycle), value in sorted(last.items()):
        if value is not None:
            found.setdefault(tag_of(key), []).append((cycle, float(np.float32(value))))
    return found


def scalars(read: Any) -> dict[str, list[tuple[int, float]]]:
    return {tag: [(each.step, each.value) for each in read.Scalars(tag)] for tag in read.Tags()["scalars"]}

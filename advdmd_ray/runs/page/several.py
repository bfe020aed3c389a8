"""Several runs beside each other: how far each is, what it reached, and which settings differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advdmd_ray.config import Config
from advdmd_ray.evaluation.words import figure_text
from advdmd_ray.runs.page.names import counted
from advdmd_ray.runs.page.record import Record

MOST_SETTINGS = 20
"""Most settings that differ which are shown."""
_NONE = "\N{EN DASH}"
_OWN = {"run.name", "run.output", "metrics.port"}


@dataclass(frozen=True, slots=True)
class RunsRow:
    """What is compared.

    Attributes:
        name: Of it, or of the setting.
        values: Of each run.
        setting: Whether it is a setting that differs.
    """

    name: str
    values: tuple[str, ...]
    setting: bool = True


@dataclass(frozen=True, slots=True)
class Runs:
    """Several runs.

    Attributes:
        names: Of the runs.
        rows: How far they are, what they reached, and the settings that differ.
        more: How many settings differ beside these.
    """

    names: tuple[str, ...]
    rows: tuple[RunsRow, ...]
    more: int


def side_by_side(records: Sequence[Record]) -> Runs:
    """Runs in the order in which they were given."""
    flat = [_flat(record.config) for record in records]
    keys = list(dict.fromkeys(key for own in flat for key in own if key not in _OWN))
    differ = [key for key in keys if len({str(own.get(key, _NONE)) for own in flat}) > 1]
    rows = [
        RunsRow("state", tuple(record.state for record in records), setting=False),
        RunsRow("cycles", tuple(f"{record.cycle:,} of {record.planned:,}" for record in records), setting=False),
        RunsRow("student", tuple(_reached(record) for record in records), setting=False),
        *(RunsRow(key, tuple(str(own.get(key, _NONE)) for own in flat)) for key in differ[:MOST_SETTINGS]),
    ]
    return Runs(tuple(record.name for record in records), tuple(rows), max(0, len(differ) - MOST_SETTINGS))


def _reached(record: Record) -> str:
    if record.summary is None or record.summary.judge is None:
        return "not judged"
    judge = record.summary.judge
    label = judge.headline_label
    value = figure_text(judge.student.figures[label.key], share=label.share)
    return f"{label.label} {value} of {counted(judge.student.images, 'image')}"


def _flat(config: Config | None) -> dict[str, Any]:
    """Settings by `section.key`."""
    if config is None:
        return {}
    found: dict[str, Any] = {}
    for section, values in config.model_dump().items():
        if isinstance(values, Mapping):
            found |= {f"{section}.{key}": value for key, value in values.items()}
    return found


def names_of(folders: Sequence[Path]) -> list[str]:
    """A name for each run folder: its own, with so many of its parents that no two are alike.

    Args:
        folders: All different once resolved.
    """
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]

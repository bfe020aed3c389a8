"""What a measurement leaves: one JSON document, and the same as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from advdmd_ray.provenance import made_here
from benchmarks.estimators.field import Forwards
from benchmarks.estimators.measure import Change, Estimate

SCHEMA = 1
"""Counted up whenever a field changes its name or its meaning."""


@dataclass(frozen=True, slots=True)
class Row:
    """One estimator's figures.

    Attributes:
        title: What it is.
        overrides: Its settings over the checkpoint's.
        updates: Optimizer updates of a turn.
        cosine: Of two turns; None if it was not measured.
        learner: Forwards of the learner in a turn.
        actors: Forwards of rollout actors and reward workers in a turn.
        changes: After each number of updates.
    """

    title: str
    overrides: Mapping[str, Any]
    updates: int
    cosine: Estimate | None
    learner: Forwards
    actors: Forwards
    changes: Sequence[Change]


def document(facts: Mapping[str, Any], rows: Mapping[str, Row]) -> dict[str, Any]:
    """All of it, as JSON holds it.

    Args:
        facts: Checkpoint, seed and what was asked for.
        rows: By the estimator's name.
    """
    return {"schema": SCHEMA, **made_here(), **facts, "rows": {name: asdict(row) for name, row in rows.items()}}


def table(rows: Mapping[str, Row], marks: Sequence[int]) -> str:
    """The same for a reader, in Markdown; after each figure two standard errors."""
    after = [f"right after {updates} updates" for updates in marks]
    heads = ["estimator", "updates a turn", "cosine of two turns", *after, "learner forwards", "actors' forwards"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows.values():
        changes = {change.updates: change for change in row.changes}
        moved = [f"{_signed(changes[mark].right, 100)} points" if mark in changes else "-" for mark in marks]
        cosine = "-" if row.cosine is None else _signed(row.cosine)
        lines.append([row.title, str(row.updates), cosine, *moved, _rows(row.learner), _rows(row.actors)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _signed(figure: Estimate, unit: float = 1.0) -> str:
    digits = 3 if unit == 1 else 1
    return f"{unit * figure.mean:+.{digits}f} ± {2 * unit * figure.error:.{digits}f}"


def _rows(forwards: Forwards) -> str:
    return f"{forwards.student:,} + {forwards.discriminator:,} of D"

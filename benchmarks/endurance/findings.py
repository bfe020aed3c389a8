"""What the samples of a run say: for each process what it holds, and how that grows with the groups."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from benchmarks.endurance.slope import Slope, fitted

WARM_UP = 0.25
"""Share of the groups before the fit: imports, caches and the allocator's arenas fill."""
HORIZON = 20_000
"""Groups over which a growth is told."""
SMALL = 0.01
"""Growth over the horizon, as a share of what is held, that is flat."""

KINDS = {"own": ("MB", 1e6), "shared": ("MB", 1e6), "handles": ("", 1.0), "threads": ("", 1.0)}
"""What `Held` has, in which unit it is told, and how much of it that is."""

Verdict = Literal["flat", "no trend", "grows", "shrinks"]
Sample = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of what a process holds.

    Attributes:
        role: Of the process.
        kind: See `Held`.
        median: Bytes or count, median after the warm-up.
        slope: Of that, for each group.
    """

    role: str
    kind: str
    median: float
    slope: Slope

    @property
    def verdict(self) -> Verdict:
        """flat: the whole interval is below 1 % in 20,000 groups. no trend: it is not, but contains 0."""
        if HORIZON * max(abs(self.slope.low), abs(self.slope.high)) <= SMALL * self.median:
            return "flat"
        if self.slope.contains_zero:
            return "no trend"
        return "grows" if self.slope.value > 0 else "shrinks"


def read_samples(path: Path) -> list[Sample]:
    """The whole lines of a samples.jsonl in which all processes were up.

    One that is about to be gone is still there for a moment, without memory.

    Raises:
        ValueError: if there is none.
    """
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    most = max(len(line["roles"]) for line in lines)
    living = [line for line in lines if all(memory["own"] for memory in line["roles"].values())]
    return [line for line in living if len(line["roles"]) == most]


def series(samples: Sequence[Sample], role: str, kind: str) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Groups, and what one role holds of one kind."""
    groups = np.array([sample["groups"] for sample in samples], dtype=np.float64)
    return groups, np.array([sample["roles"][role][kind] for sample in samples], dtype=np.float64)


def findings(samples: Sequence[Sample]) -> list[Finding]:
    """One for each role and kind.

    Raises:
        ValueError: for a run too short to say anything.
    """
    made = []
    for role in samples[-1]["roles"]:
        for kind in KINDS:
            groups, size = series(samples, role, kind)
            after = groups >= WARM_UP * groups[-1]
            made.append(Finding(role, kind, float(np.median(size[after])), fitted(groups[after], size[after])))
    return made


def table(made: Sequence[Finding]) -> str:
    """The findings as lines for a terminal, megabytes of 10^6 bytes."""
    lines = [f"{'process':<31}{'holds':<12}{'median':>8}   growth in {HORIZON:,} groups [95 %]"]
    for each in made:
        unit, much = KINDS[each.kind]
        growth, low, high = (HORIZON * value / much for value in (each.slope.value, each.slope.low, each.slope.high))
        interval = f"{growth:+.2f} [{low:+.2f}, {high:+.2f}]"
        kind = f"{each.kind}, {unit}".removesuffix(", ")
        lines.append(f"{each.role:<31}{kind:<12}{each.median / much:8.1f}   {interval:<26} {each.verdict}")
    return "\n".join(lines) + "\n"

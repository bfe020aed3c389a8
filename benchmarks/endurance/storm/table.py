"""How many faults of each kind there were, and how long the run took to be back."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from benchmarks.endurance.storm.recovery import BACK
from benchmarks.endurance.storm.storm import Strike
from benchmarks.endurance.storm.verdict import Finding


def table(strikes: Sequence[Strike]) -> str:
    """A line for each kind and one for all, and a line with the instants."""
    by_kind: dict[str, list[Strike]] = defaultdict(list)
    for strike in strikes:
        by_kind[strike.kind].append(strike)
    lines = [f"{'fault':<24}{'count':>6}  seconds to {BACK} of the pace: median, p99, most; not in time"]
    lines += [_row(kind, by_kind[kind]) for kind in sorted(by_kind)]
    lines.append(_row("all", strikes))
    instants = [strike.instant for strike in strikes]
    lines.append("at " + ", ".join(f"{name} {instants.count(name)}" for name in sorted(set(instants))))
    return "\n".join(lines) + "\n"


def _row(kind: str, strikes: Sequence[Strike]) -> str:
    took = [strike.recovered_s for strike in strikes if strike.recovered_s is not None]
    figures = "     -      -      -"
    if took:
        figures = f"{np.median(took):6.1f} {np.percentile(took, 99):6.1f} {max(took):6.1f}"
    return f"{kind:<24}{len(strikes):>6}  {figures}  {len(strikes) - len(took):>3}"


def lines(findings: Sequence[Finding]) -> str:
    """The verdict, for a terminal."""
    return "".join(f"{'yes' if each.holds else 'NO '}  {each.says}: {each.evidence}\n" for each in findings)

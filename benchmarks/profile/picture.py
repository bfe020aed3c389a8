"""The profile as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.profile.stacks import Busy

NAMED = 4
"""Functions of each process that have a name; the rest is one bar."""
_COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#bbbbbb")


def draw(processes: Sequence[Busy], path: Path) -> Path:
    """Draws each process as a bar as long as the cores that it kept busy, in its functions; returns the PNG's path."""
    figure = Figure(figsize=(11, 0.8 + 1.1 * len(processes)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for row, each in enumerate(processes):
        left = 0.0
        parts = [*each.shares.items()]
        rest = sum(share for _, share in parts[NAMED:])
        for colour, (_, share) in zip(_COLOURS, [*parts[:NAMED], ("others", rest)], strict=False):
            axes.barh(row, share, left=left, color=colour, edgecolor="white", height=0.5)
            left += share
        named = [f"{name} {share:.0%}" for name, share in parts[:NAMED]]
        lines = " · ".join(named[:2]), " · ".join(named[2:] + [f"others {rest:.0%}"] * bool(rest))
        axes.text(left + 0.01, row, "\n".join(lines), va="center", fontsize=8)
    names = [f"{each.process}\n{each.total:.2f} cores" for each in processes]
    axes.set_yticks(range(len(processes)), names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 3 * max(each.total for each in processes))
    axes.set_xlabel("cores kept busy, by the innermost function of ours")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    return path

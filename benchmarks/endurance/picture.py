"""The memory of a run's processes over the groups, as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.endurance.findings import WARM_UP, Sample, series


def draw(samples: Sequence[Sample], path: Path) -> Path:
    """Draws own memory of every role, each beside its median after the warm-up, as one PNG; returns its path."""
    figure = Figure(figsize=(9, 4.5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for role in samples[-1]["roles"]:
        groups, own = series(samples, role, "own")
        axes.plot(groups, own / 1e6, linewidth=1.2, label=f"{role}: {own[-1] / 1e6:.0f} MB")
    axes.axvspan(0, WARM_UP * samples[-1]["groups"], color="#f0f0f0", label="warm-up")
    axes.set(xlabel="groups that the learner was done with", ylabel="anonymous resident memory, MB")
    axes.set_xlim(0, samples[-1]["groups"])
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path)
    return path

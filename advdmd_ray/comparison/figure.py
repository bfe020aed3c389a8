"""The figure of a comparison: the headline score against the learner compute that it cost."""

import io
import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, PercentFormatter

from advdmd_ray.comparison.results import Results, RivalResult, Spread
from advdmd_ray.evaluation.files import write_atomically

# Okabe and Ito's palette: told apart with every common colour vision; a second round is told apart by its dashes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
LOG_FROM = 30.0
"""Compute of the last judgement over that of the first, from which on the axis is logarithmic."""


def draw_figure(results: Results, path: Path) -> Path:
    """Draws a mean line and a band of one standard deviation for each rival, and the teacher as a dashed line.

    Args:
        results: With at least one finished job.
        path: Where the PNG goes.
    """
    figure = results.figure(results.headline)
    canvas = Canvas(figsize=(9, 5.4), dpi=130, layout="constrained")
    axes = canvas.add_subplot()
    ends: list[float] = []
    for index, rival in enumerate(results.rivals):
        ends += _rival(axes, rival, results.headline, index)
    steps, goal = next(iter(results.teacher.items()))
    level = goal[results.headline]
    if level is not None:
        axes.axhline(level, color="#444444", lw=1.2, ls=(0, (6, 3)), zorder=1)
        label = f"teacher, {steps} steps"
        axes.annotate(
            label, (1, level), xycoords=("axes fraction", "data"), xytext=(-4, 3), textcoords="offset points",
            ha="right", fontsize=9, color="#444444",
        )  # fmt: skip
    if ends and max(ends) > LOG_FROM * min(ends):
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compute_text(value)))
    if figure.share:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_xlabel("learner compute, forward-equivalents")
    axes.set_ylabel(f"{figure.label} ({figure.better} is better)")
    seeds = max((len(rival.runs) for rival in results.rivals), default=0)
    band = f"mean of {seeds} seeds, band: one standard deviation" if seeds > 1 else "one seed"
    axes.set_title(f"{results.name}: {band}", loc="left", fontsize=11)
    axes.grid(visible=True, color="#00000018")
    axes.spines[["top", "right"]].set_visible(False)
    if results.rivals:
        canvas.legend(loc="outside right upper", frameon=False, fontsize=9)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")
    return write_atomically(path, buffer.getvalue())


def _rival(axes: Axes, rival: RivalResult, key: str, index: int) -> list[float]:
    """Draws one rival and returns the compute of its first and last judgement."""
    spent, spreads = rival.curve(key)
    turn, place = divmod(index, len(_COLOURS))
    colour, dashes = _COLOURS[place], _DASHES[min(turn, len(_DASHES) - 1)]
    middle = np.array([spread.mean for spread in spreads])
    times = "step" if rival.steps == 1 else "steps"
    label = f"{rival.title}, {rival.steps} {times}"
    axes.plot(spent, middle, color=colour, ls=dashes, marker="o", ms=3.5, lw=1.8, label=label, zorder=3)
    half = np.array([_half(spread) for spread in spreads])
    axes.fill_between(spent, middle - half, middle + half, color=colour, alpha=0.15, lw=0, zorder=2)
    return [spent[0], spent[-1]] if spent else []


def _half(spread: Spread) -> float:
    return 0.0 if math.isnan(spread.std) else spread.std


def compute_text(value: float) -> str:
    """Forward-equivalents with a letter for thousands or millions: 950, 12.5k, 3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"

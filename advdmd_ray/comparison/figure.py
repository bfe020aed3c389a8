"""The figures of a comparison: the headline score against the learner compute that it cost, and why it came out so."""

import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, PercentFormatter

from advdmd_ray.comparison.results import FINAL, INTERMEDIATE, Results, RivalResult, Spread
from advdmd_ray.files import write_atomically

# Okabe and Ito's palette: told apart with every common colour vision; a second round is told apart by its dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
_REFERENCE = "#444444"
_COMPUTE = "learner compute, forward-equivalents"
_ALIKE = "pairs ordered as by the checker"
_INCHES_OF_A_LETTER, _INCHES_OF_A_LINE = 0.065, 0.2
_EARLIER = "small: earlier judgements"
LOG_FROM = 30.0
"""Compute of the last judgement over that of the first, from which on the axis is logarithmic."""
MOST_LINES = 10
"""Rivals up to which each is a line; more than these cannot be told apart, and have one row each."""


@dataclass(frozen=True, slots=True)
class _Panel:
    """One signal against learner compute.

    Attributes:
        key: Of the learner's notes.
        levels: Those whose mean is drawn.
        title: What is seen.
        label: Its unit.
        chance: Where a line says what a blind guess gives; None for no line.
    """

    key: str
    levels: slice
    title: str
    label: str
    chance: float | None = None


_PANELS = (
    _Panel("reward_mean", FINAL, "reward, final image", "logit, each run's own scale"),
    _Panel("auc", FINAL, "AUC, final image", "real against generated, held out"),
    _Panel("agreement", FINAL, "agreement, final image", _ALIKE, chance=0.5),
    _Panel("agreement", INTERMEDIATE, "agreement, intermediate levels", _ALIKE, chance=0.5),
)


def draw_figure(results: Results, path: Path) -> Path:
    """Draws a mean line and a band of one standard deviation for each rival, and the teacher as a dashed line.

    Rivals of another number of steps have a panel of their own: on one scale close ones would hide each other. More
    than `MOST_LINES` rivals have one row each instead, with a dot for every judgement.

    Args:
        results: With at least one finished job.
        path: Where the PNG goes.
    """
    if len(results.rivals) > MOST_LINES:
        return _draw_rows(results, path)
    figure = results.figure(results.headline)
    counts = sorted({rival.steps for rival in results.rivals}, reverse=True) or [0]
    several = len(counts) > 1
    labels = {index: _label(rival) for index, rival in enumerate(results.rivals)}
    width = 4.0 * len(counts) if several else 9.0
    canvas = Canvas(figsize=(width, 4.8 + _legend_height(labels, width)), dpi=130, layout="constrained")
    panels = dict(zip(counts, canvas.subplots(1, len(counts), sharex=True, squeeze=False)[0], strict=True))
    ends: list[float] = []
    for index, rival in enumerate(results.rivals):
        ends += _rival(panels[rival.steps], rival, results.headline, index)
    text, level = goal(results)
    for count, axes in panels.items():
        if level is not None:
            reference_line(axes, level, text, (0, 4), ha="left", fontsize=9)
        _compute_axis(axes, ends)
        axes.set_xlabel(_COMPUTE, fontsize=9)
        if several:
            axes.set_title(_steps(count), loc="left", fontsize=10)
        if figure.share:
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    panels[counts[0]].set_ylabel(f"{figure.label} ({figure.better} is better)")
    canvas.suptitle(f"{results.name}: {_band(results.rivals)}", x=0.008, ha="left", fontsize=11)
    _legend_below(canvas, labels)
    return saved(canvas, path)


def _draw_rows(results: Results, path: Path) -> Path:
    """The headline score of each rival in a row of its own."""
    figure = results.figure(results.headline)
    canvas = _row_canvas(len(results.rivals), 9)
    axes = canvas.subplots()
    curves = {index: rival.curve(results.headline) for index, rival in enumerate(results.rivals)}
    _rows(axes, curves)
    _row_names(axes, results.rivals, curves)
    text, level = goal(results)
    if level is not None:
        _upright_line(axes, level, text, (1, 0), ha="center", fontsize=9)
    axes.set_xlabel(f"{figure.label} ({figure.better} is better; {_EARLIER})")
    if figure.share:
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    spent = f"after {compute_text(results.budget)} forward-equivalents, {_band(results.rivals)}"
    canvas.suptitle(f"{results.name}: {spent}", x=0.008, ha="left", fontsize=11)
    return saved(canvas, path)


def _row_canvas(rows: int, width: float) -> Canvas:
    return Canvas(figsize=(width, 1.3 + 0.26 * rows), dpi=130, layout="constrained")


def _rows(axes: Axes, curves: Mapping[int, tuple[list[float], list[Spread]]]) -> None:
    """Draws a row for each curve, downwards in their order: a dot for every judgement, the last one with its spread.

    A dotted line goes down from the last dot of the first row, so that what a row changes is seen against it.
    """
    for row, (_, spreads) in enumerate(curves.values()):
        means = [spread.mean for spread in spreads]
        axes.plot(means, [row] * len(means), color=COLOURS[0], lw=1.0, alpha=0.4, marker="o", ms=3, zorder=2)
        axes.errorbar(means[-1], row, xerr=half(spreads[-1]), color=COLOURS[0], marker="o", ms=6.5, lw=1.8, zorder=3)
    _, first = next(iter(curves.values()))
    axes.axvline(first[-1].mean, color=COLOURS[0], lw=1.0, ls=(0, (1, 2)), zorder=1)
    axes.set_ylim(len(curves) - 0.5, -0.5)
    frame(axes)


def _row_names(axes: Axes, rivals: Sequence[RivalResult], rows: Collection[int]) -> None:
    """Names each row after its rival; with its steps only where they differ."""
    several = len({rivals[index].steps for index in rows}) > 1
    names = [_label(rivals[index]) if several else rivals[index].title for index in rows]
    axes.set_yticks(range(len(names)), names, fontsize=9)


def goal(results: Results) -> tuple[str, float | None]:
    """The teacher with the most steps, and its score."""
    steps, figures = next(iter(results.teacher.items()))
    return f"teacher, {_steps(steps)}", figures[results.headline]


def reference_line(axes: Axes, level: float, text: str, place: tuple[float, float], **looks: Any) -> None:
    """A dashed line with its name on it, at a fraction of the axes' width and so many points to the right."""
    fraction, points = place
    axes.axhline(level, color=_REFERENCE, lw=1.2, ls=(0, (6, 3)), zorder=1)
    axes.annotate(
        text, (fraction, level), xycoords=("axes fraction", "data"), xytext=(points, 3), textcoords="offset points",
        color=_REFERENCE, **looks,
    )  # fmt: skip


def _upright_line(axes: Axes, level: float, text: str, place: tuple[float, float], **looks: Any) -> None:
    """As `reference_line`, upright: its name is at a fraction of the axes' height."""
    fraction, points = place
    axes.axvline(level, color=_REFERENCE, lw=1.2, ls=(0, (6, 3)), zorder=1, label=text)
    axes.annotate(
        text, (level, fraction), xycoords=("data", "axes fraction"), xytext=(points, 3), textcoords="offset points",
        color=_REFERENCE, **looks,
    )  # fmt: skip


def draw_signals(results: Results, path: Path) -> Path | None:
    """Draws what the learners noted of their rewards, beside each other: reward, AUC and agreement with the checker.

    The values are means over the cycles since the judgement before; the AUC is the smoothed one at the judgement. More
    than `MOST_LINES` rivals have one row each.

    Args:
        results: Rivals without any reward have no line here; the others have the colours of `draw_figure`.
        path: Where the PNG goes.

    Returns:
        The path; None, and nothing is drawn, if no rival has a signal.
    """
    drawn = [
        (panel, curves)
        for panel in _PANELS
        if (curves := {index: curve for index, rival in enumerate(results.rivals)
                       if (curve := rival.signal(panel.key, panel.levels))[0]})
    ]  # fmt: skip
    if not drawn:
        return None
    shown = sorted({index for _, curves in drawn for index in curves})
    if len(shown) > MOST_LINES:
        return _draw_signal_rows(results, drawn, shown, path)
    labels = {index: _label(results.rivals[index]) for index in shown}
    width = max(3.1 * len(drawn), 6.5)
    canvas = Canvas(figsize=(width, 3.7 + _legend_height(labels, width)), dpi=130, layout="constrained")
    ends = [end for _, curves in drawn for spent, _ in curves.values() for end in (spent[0], spent[-1])]
    first: dict[str, Axes] = {}
    for axes, (panel, curves) in zip(canvas.subplots(1, len(drawn), sharex=True, squeeze=False)[0], drawn, strict=True):
        if (same := first.setdefault(panel.key, axes)) is not axes:
            axes.sharey(same)  # one scale for one figure
        _signal(axes, panel, curves)
        _compute_axis(axes, ends)
    rivals = [results.rivals[index] for index in shown]
    canvas.suptitle(f"{results.name}, the rewards: {_band(rivals)}", x=0.008, ha="left", fontsize=11)
    _legend_below(canvas, labels)
    return saved(canvas, path)


def _draw_signal_rows(
    results: Results,
    drawn: Sequence[tuple[_Panel, Mapping[int, tuple[list[float], list[Spread]]]]],
    shown: Sequence[int],
    path: Path,
) -> Path:
    """The signals of each rival in a row of its own, which is empty where it has none."""
    canvas = _row_canvas(len(shown), 2.6 * len(drawn) + 3)
    panels = canvas.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    unknown: tuple[list[float], list[Spread]] = ([math.nan], [Spread(math.nan, math.nan, 0)])
    for axes, (panel, curves) in zip(panels, drawn, strict=True):
        _rows(axes, {index: curves.get(index, unknown) for index in shown})
        if panel.chance is not None:
            _upright_line(axes, panel.chance, "chance", (0, -3), ha="right", rotation="vertical", fontsize=8)
        axes.set_title(panel.title, loc="left", fontsize=10)
        axes.set_xlabel(panel.label, fontsize=9)
    _row_names(panels[0], results.rivals, shown)
    title = f"{results.name}, the rewards: {_band([results.rivals[index] for index in shown])}; {_EARLIER}"
    canvas.suptitle(title, x=0.008, ha="left", fontsize=11)
    return saved(canvas, path)


def _columns(labels: Collection[str], width: float) -> int:
    """How many columns of these labels fit below a figure of so many inches; one if there are none."""
    longest = max(map(len, labels), default=0)
    return max(1, min(len(labels), int(width / (_INCHES_OF_A_LETTER * longest + 0.65))))


def _legend_height(labels: Mapping[int, str], width: float) -> float:
    """Inches that the legend takes below a figure of so many inches."""
    return _INCHES_OF_A_LINE * math.ceil(len(labels) / _columns(labels.values(), width))


def _legend_below(canvas: Canvas, labels: Mapping[int, str]) -> None:
    """One legend for all panels; labels by the place of their rival."""
    handles = [Line2D([], [], **_style(index), label=label) for index, label in labels.items()]
    columns = _columns(labels.values(), canvas.get_figwidth())
    canvas.legend(handles=handles, loc="outside lower left", ncols=columns, frameon=False, fontsize=9, handlelength=2.6)


def _signal(axes: Axes, panel: _Panel, curves: Mapping[int, tuple[list[float], list[Spread]]]) -> None:
    """Draws one panel: a curve by the place of its rival."""
    for index, (spent, spreads) in curves.items():
        _curve(axes, spent, spreads, index)
    if panel.chance is not None:
        reference_line(axes, panel.chance, "chance", (1, -2), ha="right", fontsize=8)
    axes.set_xlabel(_COMPUTE, fontsize=9)
    axes.set_ylabel(panel.label, fontsize=9)
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.tick_params(labelsize=9)


def _rival(axes: Axes, rival: RivalResult, key: str, index: int) -> list[float]:
    """Draws one rival's score and returns the compute of its first and last judgement."""
    spent, spreads = rival.curve(key)
    _curve(axes, spent, spreads, index)
    return [spent[0], spent[-1]] if spent else []


def _curve(axes: Axes, spent: Sequence[float], spreads: Sequence[Spread], index: int) -> None:
    """Draws means with their band in the style of the rival in this place."""
    style = _style(index)
    middle = np.array([spread.mean for spread in spreads])
    reach = np.array([half(spread) for spread in spreads])
    axes.plot(spent, middle, **style, zorder=3)
    axes.fill_between(spent, middle - reach, middle + reach, color=style["color"], alpha=0.15, lw=0, zorder=2)


def _style(index: int) -> dict[str, Any]:
    """How the lines of the rival in this place look, in every figure."""
    turn, place = divmod(index, len(COLOURS))
    dashes = _DASHES[min(turn, len(_DASHES) - 1)]
    return {"color": COLOURS[place], "ls": dashes, "marker": "o", "ms": 3.5, "lw": 1.8}


def _label(rival: RivalResult) -> str:
    return f"{rival.title}, {_steps(rival.steps)}"


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _band(rivals: Sequence[RivalResult]) -> str:
    seeds = max((len(rival.runs) for rival in rivals), default=0)
    return f"mean of {seeds} seeds, band: one standard deviation" if seeds > 1 else "one seed"


def _compute_axis(axes: Axes, ends: Sequence[float]) -> None:
    """Compute along x, logarithmic if its ends are far apart, over a faint grid."""
    if ends and max(ends) > LOG_FROM * min(ends):
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compute_text(value)))
    frame(axes)


def frame(axes: Axes) -> None:
    """A faint grid, and no lines above and to the right."""
    axes.grid(visible=True, color="#00000018")
    axes.spines[["top", "right"]].set_visible(False)


def saved(canvas: Canvas, path: Path) -> Path:
    """Writes the PNG, whole or not at all."""
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")
    return write_atomically(path, buffer.getvalue())


def half(spread: Spread) -> float:
    """What a spread reaches to either side of its mean; 0 for one seed."""
    return 0.0 if math.isnan(spread.std) else spread.std


def compute_text(value: float) -> str:
    """Forward-equivalents with a letter for thousands or millions: 950, 12.5k, 3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"

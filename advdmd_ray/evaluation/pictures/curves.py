"""Curves of a run, drawn as one PNG."""

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from advdmd_ray.evaluation.pictures.series import Curve, by_label, read_series
from advdmd_ray.files import write_atomically
from advdmd_ray.metrics.catalogue import LABEL_VALUES
from advdmd_ray.metrics.series import parse_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with every common colour vision, and by lightness in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_PHASES = (("warm", "#faf1dc"), ("ramp", "#e8f1f8"), ("full", "#ffffff"))
_LARGEST_RATIO = 3.0
_AGREEMENT = "advdmd_learner_text_agreement"


def plot_curves(
    jsonl: Path, path: Path, *, auc_high: float = 0.98, text_errors: float | None = None, title: str = ""
) -> Path:
    """Draws the run's curves over the learner cycles as one PNG, phases shaded.

    A run that was judged while it learned has one more panel, for the judge's figures; judgements at which the alarm
    for reward hacking fired are marked there and beside the rewards.

    Args:
        jsonl: The run's metrics.jsonl; series that it lacks leave their panel with a line that says so.
        path: Where the PNG goes.
        auc_high: Held-out AUC above which a level gives no RL signal (discriminator.auc_high).
        text_errors: Standard errors above chance that a level's text agreement needs (discriminator.text_errors).
        title: One line above all panels.

    Returns:
        The path.
    """
    figure = curves_figure(read_series(jsonl), auc_high=auc_high, text_errors=text_errors, title=title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return write_atomically(Path(path), buffer.getvalue())


def curves_figure(
    series: Mapping[str, Curve], *, auc_high: float, text_errors: float | None, title: str = ""
) -> "Figure":
    """What `plot_curves` draws, as matplotlib's figure."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = _panels(auc_high, text_errors)
    rows = len(panels) // 2
    judged = bool(by_label(series, "advdmd_run_judge", "figure"))
    figure = Figure(figsize=(12, 3.75 * (rows + judged)), dpi=110, layout="constrained")
    places = figure.add_gridspec(rows + judged, 2)
    grid = [figure.add_subplot(places[index // 2, index % 2]) for index in range(len(panels))]
    if judged:
        panels = (*panels, ("Judge of the student's moving average", "share, or ratio to real images", _judge))
        grid.append(figure.add_subplot(places[rows, :]))
    last = max((int(curve.cycles[-1]) for curve in series.values()), default=1)
    for axes, (heading, unit, draw) in zip(grid, panels, strict=True):
        axes.set_title(heading, fontsize=12, loc="left", fontweight="bold")
        axes.set_xlabel("learner cycle")
        axes.set_ylabel(unit)
        axes.set_xlim(0, max(last, 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, color="#00000018")
        axes.spines[["top", "right"]].set_visible(False)
        _shade_phases(axes, series, last)
        if draw(axes, series):
            # Below the axes, where it covers no curve; a wider one would make the axes narrower.
            axes.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2)
        else:
            axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color="#777777")
    if title:
        figure.suptitle(title, fontsize=14)
    return figure


_Draw = Callable[["Axes", Mapping[str, Curve]], bool]


def _panels(auc_high: float, text_errors: float | None) -> Sequence[tuple[str, str, _Draw]]:
    """Heading, unit and drawing of each, in pairs beside each other."""
    return (
        ("Reward per level", "discriminator logit\n(mean, band: within-group std)", _reward),
        ("Levels open to RL", "level", _open_levels),
        ("Text agreement per level", "own text above a wrong one", lambda axes, s: _texts(axes, s, text_errors)),
        ("Held-out AUC per level", "AUC, real against fake", lambda axes, s: _auc(axes, s, auc_high)),
        (
            "DMD, fake score and discriminator loss",
            "loss",
            lambda a, s: _loss(a, s, ("dmd", "fake_score", "discriminator")),
        ),
        ("RL loss", "loss", lambda axes, s: _loss(axes, s, ("rl",))),
        ("Gradient norm before the clip", "norm (log scale)", _gradients),
        ("Divergence from the behaviour policy", "KL, nats of a whole latent", _divergence),
        ("Age of the groups at take", "versions (largest of a take)", _ages),
        ("Throughput of the rollouts", "trajectories per second", _throughput),
    )


def moving_mean(values: Float[np.ndarray, " n"], window: int) -> Float[np.ndarray, " n"]:
    """Mean over the last `window` finite values up to each point; NaN where there is none. A window of 1 is a copy."""
    known = np.isfinite(values)
    sums = np.cumsum(np.where(known, values, 0.0))
    counts = np.cumsum(known)
    sums[window:], counts[window:] = sums[window:] - sums[:-window], counts[window:] - counts[:-window]
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def _shade_phases(axes: "Axes", series: Mapping[str, Curve], last: int) -> None:
    phase = series.get("advdmd_run_phase")
    if phase is None:
        return
    edges = [0, *(int(phase.cycles[i]) for i in range(1, len(phase.values)) if phase.values[i] != phase.values[i - 1])]
    for start, end in pairwise([*edges, last]):
        inside = phase.values[phase.cycles >= start]
        name, colour = _PHASES[int(inside[0])]
        axes.axvspan(start, end, color=colour, zorder=0, lw=0)
        axes.text(start, 0.985, f" {name}", transform=axes.get_xaxis_transform(), va="top", fontsize=8, color="#666666")


def _line(axes: "Axes", curve: Curve, colour: str, label: str, *, smooth: bool = False) -> None:
    """One curve; smoothed over a fortieth of its length with the raw values faint behind it, if asked for."""
    if not smooth:
        axes.plot(curve.cycles, curve.values, color=colour, label=label, lw=1.8)
        return
    axes.plot(curve.cycles, curve.values, color=colour, alpha=0.3, lw=0.8)
    window = max(1, len(curve.values) // 40)
    axes.plot(curve.cycles, moving_mean(curve.values, window), color=colour, label=label, lw=1.8)


def _level_name(level: str, levels: Sequence[str]) -> str:
    return f"level {level} (final image)" if level == levels[-1] else f"level {level}"


def _reward(axes: "Axes", series: Mapping[str, Curve]) -> bool:
    means = by_label(series, "advdmd_reward_mean", "level")
    spreads = by_label(series, "advdmd_reward_spread", "level")
    for (level, mean), colour in zip(means.items(), _COLOURS * len(means), strict=False):
        _line(axes, mean, colour, _level_name(level, list(means)), smooth=True)
        if level in spreads:
            shared, here, there = np.intersect1d(mean.cycles, spreads[level].cycles, return_indices=True)
            middle, spread = mean.values[here], spreads[level].values[there]
            axes.fill_between(shared, middle - spread, middle + spread, color=colour, alpha=0.10, lw=0)
    _mark_alarms(axes, series)
    return bool(means)


def alarm_cycles(series: Mapping[str, Curve]) -> list[int]:
    """Cycles of the judgements at which the alarm for reward hacking fired."""
    alarm = series.get("advdmd_run_reward_hack_alarm")
    return [] if alarm is None else [int(cycle) for cycle in alarm.cycles[alarm.values > 0]]


def _mark_alarms(axes: "Axes", series: Mapping[str, Curve]) -> None:
    for index, cycle in enumerate(alarm_cycles(series)):
        # One entry in the legend; matplotlib leaves out labels that begin with an underscore.
        label = "_again" if index else "alarm: reward up, judge down"
        axes.axvline(cycle, color="#c8102e", lw=1.5, ls="--", label=label)


def _judge(axes: "Axes", series: Mapping[str, Curve]) -> bool:
    """Shares and ratios on the left axis; what is larger, such as a distance, on an axis of its own."""
    figures = by_label(series, "advdmd_run_judge", "figure")
    large = {name: curve for name, curve in figures.items() if np.nanmax(curve.values) > _LARGEST_RATIO}
    right = axes.twinx() if large else axes
    for index, (name, curve) in enumerate(figures.items()):
        style = {"color": _COLOURS[index % len(_COLOURS)], "ls": ("-", "--", ":")[index // len(_COLOURS)], "lw": 1.8}
        label = f"{name.replace('_', ' ')}{' (right axis)' if name in large else ''}"
        (right if name in large else axes).plot(curve.cycles, curve.values, **style)
        # The legend is that of the left axis.
        axes.plot([], [], label=label, **style)
    if large:
        right.set_ylabel(", ".join(large))
        right.spines["top"].set_visible(False)
    _mark_alarms(axes, series)
    return bool(figures)


def _open_levels(axes: "Axes", series: Mapping[str, Curve]) -> bool:
    """A bar for each level, there where RL might use its reward."""
    levels = by_label(series, "advdmd_learner_rl_gate_open", "level")
    for (level, curve), colour in zip(levels.items(), _COLOURS * len(levels), strict=False):
        bottom = int(level) - 0.4
        axes.fill_between(curve.cycles, bottom, bottom + 0.8 * curve.values, step="pre", color=colour, lw=0)
        axes.plot([], [], color=colour, lw=6, label=_level_name(level, list(levels)))
    axes.set_yticks([int(level) for level in levels])
    axes.set_ylim(0.4, len(levels) + 0.6)
    return bool(levels)


def _texts(axes: "Axes", series: Mapping[str, Curve], errors: float | None) -> bool:
    """Real images with a full line, the student's states with a broken one; shaded what is not above chance."""
    sides = {side: by_label(_of_side(series, side), _AGREEMENT, "level") for side in LABEL_VALUES["side"]}
    for (side, levels), style in zip(sides.items(), ("-", "--"), strict=True):
        for (level, curve), colour in zip(levels.items(), _COLOURS * len(levels), strict=False):
            label = _level_name(level, list(levels)) if side == "real" else None
            axes.plot(curve.cycles, curve.values, color=colour, ls=style, lw=1.5, label=label)
        axes.plot([], [], color="#777777", ls=style, lw=1.5, label=f"{side} states")
    known = [curve for key, curve in series.items() if parse_key(key)[0] == f"{_AGREEMENT}_error"]
    if known and errors is not None:
        cycles = np.unique(np.concatenate([curve.cycles for curve in known]))
        largest = np.nanmax([np.interp(cycles, curve.cycles, curve.values) for curve in known], axis=0)
        label = f"within {errors:g} standard errors"
        axes.fill_between(cycles, 0.5, 0.5 + errors * largest, color="#777777", alpha=0.15, lw=0, label=label)
    axes.axhline(0.5, color="#777777", lw=1, ls=":")
    axes.set_ylim(0.3, 1.01)
    return any(sides.values())


def _of_side(series: Mapping[str, Curve], side: str) -> dict[str, Curve]:
    return {key: curve for key, curve in series.items() if dict(parse_key(key)[1]).get("side") == side}


def _auc(axes: "Axes", series: Mapping[str, Curve], high: float) -> bool:
    levels = by_label(series, "advdmd_learner_discriminator_auc", "level")
    axes.axhspan(high, 1.0, color="#D55E00", alpha=0.10, lw=0, label=f"overpowering, above {high:g}")
    axes.axhline(0.5, color="#777777", lw=1, ls=":", label="chance")
    for (level, curve), colour in zip(levels.items(), _COLOURS * len(levels), strict=False):
        _line(axes, curve, colour, _level_name(level, list(levels)))
    known = [value for curve in levels.values() for value in curve.values if np.isfinite(value)]
    axes.set_ylim(min(0.45, *(value - 0.02 for value in known), 0.45), 1.01)
    return bool(levels)


def _loss(axes: "Axes", series: Mapping[str, Curve], objectives: tuple[str, ...]) -> bool:
    losses = by_label(series, "advdmd_learner_loss", "objective")
    return _objectives(axes, {name: losses[name] for name in objectives if name in losses})


def _gradients(axes: "Axes", series: Mapping[str, Curve]) -> bool:
    norms = by_label(series, "advdmd_learner_gradient_norm", "objective")
    if any((curve.values > 0).any() for curve in norms.values()):
        axes.set_yscale("log")
    return _objectives(axes, norms)


def _objectives(axes: "Axes", curves: Mapping[str, Curve]) -> bool:
    colours: dict[str, str] = dict(zip(LABEL_VALUES["objective"], _COLOURS, strict=False))
    for name, curve in curves.items():
        _line(axes, curve, colours[name], name, smooth=True)
    return bool(curves)


def _divergence(axes: "Axes", series: Mapping[str, Curve]) -> bool:
    curve = series.get("advdmd_learner_kl_nats")
    if curve is not None:
        _line(axes, curve, _COLOURS[0], "KL of the RL batch", smooth=True)
    return curve is not None


def _ages(axes: "Axes", series: Mapping[str, Curve]) -> bool:
    drawn = False
    for (name, label), colour in zip((("policy", "policy age"), ("reward", "reward age")), _COLOURS, strict=False):
        curve = series.get(f"advdmd_buffer_{name}_age_last")
        if curve is not None:
            _line(axes, curve, colour, label, smooth=True)
            drawn = True
    axes.set_ylim(bottom=0)
    return drawn


def _throughput(axes: "Axes", series: Mapping[str, Curve]) -> bool:
    curve = series.get("advdmd_rollout_trajectories_per_second")
    if curve is not None:
        _line(axes, curve, _COLOURS[2], "trajectories/s", smooth=True)
    axes.set_ylim(bottom=0)
    return curve is not None

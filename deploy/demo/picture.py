"""The run as Prometheus saw it, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from deploy.demo.prometheus import Curve
from deploy.demo.seen import Seen
from deploy.demo.story import MORE, Events

MINUTE_S, MARGIN = 60.0, 1.04
COLOURS = ("#4477aa", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#ee6677")


def draw(seen: Seen, events: Events, path: Path) -> Path:
    """Draws the mean rewards by level, and below them actors and groups, over minutes; returns the PNG's path."""
    figure = Figure(figsize=(9, 5.6), dpi=110, layout="constrained")
    reward, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for colour, (level, curves) in zip(COLOURS, seen.reward.items(), strict=False):
        for place, curve in enumerate(curves):
            reward.plot(*_line(curve, events), color=colour, label=None if place else f"level {level}")
    reward.set(ylabel="mean reward (logits)", title="reward by level, as Prometheus has it")
    reward.axhline(0.0, color="#bbbbbb", linewidth=0.8)
    for curve in seen.commits:
        below.plot(*_line(curve, events), color="#4477aa", label="_")
    below.set_ylabel("groups committed", color="#4477aa")
    actors = below.twinx()
    for curve in seen.actors:
        actors.step(*_line(curve, events), color="#aa3377", where="post")
    actors.set_ylabel("rollout actors", color="#aa3377")
    actors.set(ylim=(0, MORE + 1), yticks=range(MORE + 1))
    below.set(xlabel="minutes since the first job was submitted", ylim=(0, None), xlim=(0, _trained_at(seen, events)))
    _mark(reward, events)
    _mark(below, events)
    reward.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path)
    return path


def _trained_at(seen: Seen, events: Events) -> float:
    """Minutes to a little after the last cycle: nothing moves while the judge draws."""
    points = [point for curve in seen.cycles for point in curve.points]
    last = min(at for at, cycle in points if cycle == points[-1][1])
    return MARGIN * _minutes(last, events)


def _mark(axes: Any, events: Events) -> None:
    axes.axvline(_minutes(events.asked, events), color="#aa3377", linestyle=":", label=f"advdmd scale rollout={MORE}")
    axes.axvline(_minutes(events.stopped, events), color="#333333", linestyle=":", label="ray job stop")
    axes.axvline(_minutes(events.saved, events), color="#333333", linestyle="--", label="submitted, --resume auto")


def _line(curve: Curve, events: Events) -> tuple[Sequence[float], Sequence[float]]:
    return [_minutes(at, events) for at, _ in curve.points], [value for _, value in curve.points]


def _minutes(at: float, events: Events) -> float:
    return (at - events.submitted) / MINUTE_S

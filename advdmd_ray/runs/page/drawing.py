"""What the curves of a page are drawn from: panels of some runs as JSON-able facts of bounded size."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from advdmd_ray.config import Config
from advdmd_ray.metrics.catalogue import PHASES
from advdmd_ray.runs.page.names import counted
from advdmd_ray.runs.page.panels import PANELS, Line, Panel, Series
from advdmd_ray.runs.page.thinning import thinned

MOST_LINES = 16
"""Most lines of a panel; of more levels the last are drawn."""


def panel_facts(runs: Sequence[tuple[str, Series, Config | None]]) -> list[dict[str, Any]]:
    """All panels that have something to show, as a page draws them.

    Args:
        runs: Name, series and configuration of each; the first is the one that the page is about.
    """
    facts = list[dict[str, Any]]()
    for panel in PANELS:
        drawn = [(name, panel.lines(series)[-MOST_LINES:]) for name, series, _ in runs]
        if any(lines for _, lines in drawn):
            config = runs[0][2]
            facts.append(
                {
                    "key": panel.key,
                    "title": panel.title,
                    "what": _what(panel, config),
                    "healthy": panel.healthy,
                    "form": panel.form,
                    "log": panel.log,
                    "smooth": panel.smooth,
                    "bars": panel.bars,
                    "span": panel.span,
                    "bands": [
                        {"low": band.low, "high": band.high, "label": band.label, "bad": band.bad}
                        for band in (panel.bands(config) if config is not None else [])
                    ],
                    "runs": [_drawn(lines) for _, lines in drawn],
                }
            )
    return facts


def missing_panels(series: Series) -> list[str]:
    """Titles of the panels for which a run has recorded nothing."""
    return [panel.title for panel in PANELS if not panel.lines(series)]


def _what(panel: Panel, config: Config | None) -> str:
    if panel.names != ("advdmd_run_judge",) or config is None:
        return panel.what
    return f"{panel.what} Each judgement looks at {counted(config.evaluation.judge_samples, 'image')}."


def _drawn(lines: Sequence[Line]) -> dict[str, Any]:
    if not lines:
        return {"cycles": [], "lines": []}
    points = thinned([line.curve for line in lines])
    return {
        "cycles": points.cycles,
        "lines": [
            {"label": line.label, "dashed": line.dashed, "main": line.main, "hue": line.hue, "values": values}
            for line, values in zip(lines, points.values, strict=True)
        ],
    }


def phase_facts(series: Series) -> list[dict[str, Any]]:
    """The phases of the cadence in their order: name, first and last cycle."""
    return [{"name": name, "from": first, "to": last} for name, first, last in _phases(series)]


def _phases(series: Series) -> Iterator[tuple[str, int, int]]:
    curve = series.get("advdmd_run_phase")
    if curve is None:
        return
    changes = np.flatnonzero(np.diff(curve.values)) + 1
    starts = [0, *(int(place) for place in changes)]
    for start, end in zip(starts, [*starts[1:], len(curve.values)], strict=True):
        last = curve.cycles[end] if end < len(curve.cycles) else curve.cycles[-1]
        yield PHASES[int(curve.values[start])], int(curve.cycles[start]), int(last)

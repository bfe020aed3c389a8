"""Everything that a run folder says of its run, read in one go; whatever is not there yet is left out."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from advdmd_ray.config import Config, dump_config, read_config
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.pictures.series import Curve, SeriesReader
from advdmd_ray.evaluation.summary import Summary
from advdmd_ray.metrics.history import Entry, entries_of, is_counter
from advdmd_ray.runs.figures import Figures
from advdmd_ray.runs.folder import RunFolder, is_live
from advdmd_ray.runs.page.faults import Fault, FaultReader
from advdmd_ray.runs.page.panels import SHOWN

RECENT_S = 60.0
"""Rates of a run that is going are those of so many seconds."""

State = Literal["running", "finished", "stopped"]


@dataclass(frozen=True, slots=True)
class Record:
    """What a run folder says.

    Attributes:
        name: To tell the run from others.
        folder: Where it is.
        state: Whether a process is writing it, it came to its end, or neither.
        config: Its configuration, if there is one that can be read.
        trouble: Why there is no configuration, or no summary though there is a file: one line, else empty.
        summary: What it achieved, if it ended.
        series: The series that the page draws, by key.
        figures: The last value of every series.
        rates: What each counter gained a second, by key.
        faults: What went wrong, the newest.
        more_faults: How often anything went wrong in all.
        began: Unix seconds of the first line, or NaN.
        ended: Of the last.
        cycle: Learner cycles made.
        planned: Learner cycles to make; 0: not known.
    """

    name: str
    folder: RunFolder
    state: State
    config: Config | None
    trouble: str
    summary: Summary | None
    series: Mapping[str, Curve]
    figures: Figures
    rates: Mapping[str, float]
    faults: tuple[Fault, ...]
    more_faults: int
    began: float
    ended: float
    cycle: int
    planned: int

    @property
    def config_text(self) -> str:
        """The configuration as YAML, or nothing."""
        return "" if self.config is None else dump_config(self.config)


class _Rates:
    """What each counter gained a second, over the last moments and over all."""

    def __init__(self) -> None:
        self._now: dict[str, float] = {}
        self._times: deque[tuple[float, dict[str, float]]] = deque()
        self._first: tuple[float, dict[str, float]] | None = None
        self.began = self.ended = math.nan

    def see(self, entry: Entry) -> None:
        """Takes one line."""
        if "record" not in entry:  # the totals of a run that goes on: what lies before it is no pace
            self._times.clear()
        self._now |= {key: value for key, value in entry["values"].items() if is_counter(key)}
        self.ended = float(entry["time"])
        if self._first is None:
            self.began, self._first = self.ended, (self.ended, dict(self._now))
        if not self._times or self.ended - self._times[-1][0] > RECENT_S / 20:
            self._times.append((self.ended, dict(self._now)))
        while len(self._times) > 2 and self.ended - self._times[0][0] > RECENT_S:  # noqa: PLR2004 - one before, one after
            self._times.popleft()

    def rates(self, *, recent: bool) -> dict[str, float]:
        """Of the last moments, or of all."""
        since = self._times[0] if recent and self._times else self._first
        if since is None or self.ended <= since[0]:
            return {}
        seconds = self.ended - since[0]
        return {key: max(0.0, value - since[1].get(key, 0.0)) / seconds for key, value in self._now.items()}


def read_record(folder: Path, name: str) -> Record:
    """Reads a run folder, whatever is in it.

    Args:
        folder: Of a run that is going, has ended or was stopped.
        name: To tell it from others.
    """
    run = RunFolder(folder)
    series, faults, rates, last = SeriesReader(SHOWN), FaultReader(), _Rates(), dict[str, Any]()
    if run.metrics.is_file():
        for entry in entries_of(run.metrics, told=False):  # the last line may be half written
            series.see(entry)
            faults.see(entry)
            rates.see(entry)
            if "record" not in entry:  # it goes on, and has not ended like this
                last = {key: value for key, value in last.items() if not key.startswith("advdmd_run_finished")}
            last |= entry["values"]
    config, trouble = _config(run)
    summary, more = _summary(run)
    state: State = "running" if is_live(folder) else "stopped" if summary is None else "finished"
    figures = Figures(last)
    planned = int(figures.one("advdmd_run_cycles_planned")) or (config.run.cycles if config is not None else 0)
    return Record(
        name=name,
        folder=run,
        state=state,
        config=config,
        trouble=trouble or more,
        summary=summary,
        series=series.series(),
        figures=figures,
        rates=rates.rates(recent=state == "running"),
        faults=faults.found,
        more_faults=faults.total,
        began=rates.began,
        ended=rates.ended,
        cycle=int(figures.one("advdmd_run_cycle")),
        planned=planned,
    )


def _config(run: RunFolder) -> tuple[Config | None, str]:
    if not run.config.is_file():
        return None, ""
    try:
        return read_config(run.config), ""
    except UserError as error:
        return None, f"the configuration cannot be read: {error}"


def _summary(run: RunFolder) -> tuple[Summary | None, str]:
    if not run.summary.is_file():
        return None, ""
    try:
        return Summary.model_validate_json(run.summary.read_bytes()), ""
    except ValidationError as error:
        return None, f"{run.summary} is not of this version: {error.errors()[0]['msg'].lower()}"

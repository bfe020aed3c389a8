"""The page of a run: sections in HTML and what its curves are drawn from, frozen as one file or live.

A frozen page needs no other file and no network: style, scripts and pictures are in it, and its policy forbids the
rest. Its size is bounded whatever the run: see `PAGE_BYTES`.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from advdmd_ray.files import write_atomically
from advdmd_ray.runs.page.cards import cards
from advdmd_ray.runs.page.drawing import missing_panels, panel_facts, phase_facts
from advdmd_ray.runs.page.faults import LANES, MOST_FAULTS, fault_text
from advdmd_ray.runs.page.flow import flow
from advdmd_ray.runs.page.names import counted
from advdmd_ray.runs.page.record import Record
from advdmd_ray.runs.page.samples import InPage, Pictures, samples
from advdmd_ray.runs.page.several import side_by_side
from advdmd_ray.runs.page.verdict import headline, judged_on, notes, rows

PAGE_BYTES, RUN_BYTES = 12_000_000, 1_500_000
"""Most bytes of the page of one run, and what each further run adds at most."""
SECTIONS = ("head", "runs", "verdict", "samples", "flow", "faults", "details")
_STYLES = ("uPlot.min.css", "page.css")
_SCRIPTS = ("uPlot.iife.min.js", "theme.js", "chart.js", "charts.js", "samples.js", "live.js")
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'"
_LIVE, _FROZEN = "img-src data: 'self'; connect-src 'self'", "img-src data:"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("advdmd_ray", "assets/page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clock"] = clock
    environment.filters["counted"] = counted
    environment.filters["fault"] = fault_text
    environment.filters["commands"] = with_commands
    return environment


@cache
def _asset(names: tuple[str, ...]) -> str:
    folder = files("advdmd_ray") / "assets" / "page"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def clock(seconds: float) -> str:
    """Unix seconds as a date and a time of day, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def with_commands(text: str) -> Markup:
    """A sentence in HTML, in which a command between backticks stands as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


def sections(records: Sequence[Record], pictures: Pictures, chosen: int = 0, *, live: bool = False) -> dict[str, str]:
    """The sections of a page in HTML, by name.

    Args:
        records: The runs.
        pictures: Where the page finds its pictures.
        chosen: Which of them the page is about.
        live: Whether another run can be chosen.
    """
    record = records[chosen]
    judge = None if record.summary is None else record.summary.judge
    given: dict[str, Any] = {
        "record": record,
        "headline": headline(record),
        "judge": judge,
        "rows": [] if judge is None else rows(judge),
        "notes": [] if judge is None else notes(judge),
        "judged_on": "" if judge is None else judged_on(record),
        "samples": samples(record.folder, pictures),
        "stations": flow(record),
        "lanes": _lanes(record),
        "faults": record.faults[::-1],
        "most_faults": MOST_FAULTS,
        "last": last_cycle(record),
        "phases": phase_facts(record.series),
        "cards": cards(record),
        "missing": missing_panels(record.series),
        "runs": side_by_side(records) if len(records) > 1 else None,
        "chosen": chosen,
        "live": live,
    }
    environment = _environment()
    return {name: environment.get_template(f"{name}.html.j2").render(given).strip() for name in SECTIONS}


def charts(records: Sequence[Record], chosen: int = 0) -> dict[str, Any]:
    """What the curves of a page are drawn from; the run that it is about comes first."""
    order = [records[chosen], *(record for place, record in enumerate(records) if place != chosen)]
    return {
        "runs": [record.name for record in order],
        "panels": panel_facts([(record.name, record.series, record.config) for record in order]),
        "phases": phase_facts(order[0].series),
        "faults": sorted({fault.cycle for fault in order[0].faults}),
        "last": max(last_cycle(record) for record in order),
    }


def last_cycle(record: Record) -> int:
    """Where its scale of cycles ends, at least 1: as far as it has come."""
    return max(1, record.cycle, *(int(curve.cycles[-1]) for curve in record.series.values()))


def _lanes(record: Record) -> list[tuple[str, list[tuple[float, str]]]]:
    """Where faults of each kind lie, in percent of the time line, and what they were."""
    last = last_cycle(record)
    return [
        (
            title,
            [
                (100 * fault.cycle / last, f"cycle {fault.cycle:,}: {fault_text(fault)}")
                for fault in record.faults
                if fault.lane == lane
            ],
        )
        for lane, title in LANES.items()
        if any(fault.lane == lane for fault in record.faults)
    ]


def page_text(records: Sequence[Record], pictures: Pictures, *, chosen: int = 0, live: bool) -> str:
    """The whole page.

    Args:
        records: The runs, at least one.
        pictures: Where it finds its pictures.
        chosen: Which of them it is about.
        live: Whether it asks for news.
    """
    script = _asset(_SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=records[chosen].name,
            style=_asset(_STYLES),
            script=script,
            policy=f"{_POLICY}; script-src 'sha256-{digest}'; {_LIVE if live else _FROZEN}",
            sections=sections(records, pictures, chosen, live=live),
            charts=json.dumps(charts(records, chosen), allow_nan=False).replace("<", "\\u003c"),
            live=live,
            chosen=chosen,
        )
    )


def write_page(path: Path, records: Sequence[Record]) -> Path:
    """Writes the page of some runs, whole or not at all, and returns its path."""
    return write_atomically(path, page_text(records, InPage(path), live=False).encode("utf-8"))

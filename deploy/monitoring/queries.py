"""Queries of panels, in PromQL: each is filtered by the runs that the reader has chosen, and names the run it shows."""

import re
from dataclasses import dataclass

from advdmd_ray.metrics.catalogue import CATALOGUE, Kind

CHOSEN = 'run=~"$run"'
"""The filter of every query; `$run` is Grafana's, several runs joined by |."""
SERIES = re.compile(r"\badvdmd_[a-z_]+")
_SAID = {"level": "level {{level}}", "le": "at most {{le}}"}


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    Attributes:
        expr: PromQL, filtered by run.
        legend: Grafana's name of a line, with labels in double braces.
    """

    expr: str
    legend: str


def formula(expr: str, text: str = "", *labels: str) -> Query:
    """Any PromQL over the catalogue's names, without the filter, which is put in.

    Args:
        expr: Such as `advdmd_run_phase_active == 1`.
        text: What the legend says between the run and the labels.
        labels: Those that tell the lines of one run apart.
    """
    filtered = re.sub(SERIES.pattern + r"(\{)?", lambda found: _chosen(found[0], found[1]), expr)
    said = ["{{run}}", text, *(_SAID.get(label, f"{{{{{label}}}}}") for label in labels)]
    return Query(filtered, " ".join(part for part in said if part))


def value(name: str, text: str = "") -> Query:
    """A gauge as it is, or a counter's total; one line for each of its labels' values."""
    return formula(name, text, *CATALOGUE[name].labels)


def rate(name: str, text: str = "") -> Query:
    """How fast a counter grows, per second."""
    return _over_time("rate", name, text)


def increase(name: str, text: str = "") -> Query:
    """By how much a counter grows within the time that a point of the panel stands for."""
    return _over_time("increase", name, text)


def quantiles(name: str, text: str = "") -> tuple[Query, Query]:
    """Median and 95th percentile of a histogram."""
    within = f"sum by (run, le) (rate({_of_kind(name, Kind.HISTOGRAM)}_bucket[$__rate_interval]))"
    median, high = (formula(f"histogram_quantile({share}, {within})", text) for share in ("0.5", "0.95"))
    return (
        Query(median.expr, f"{median.legend} median"),
        Query(high.expr, f"{high.legend} 95 %"),
    )


def mean(name: str, text: str = "") -> Query:
    """Mean of a histogram's observations."""
    sums, counts = (f"rate({_of_kind(name, Kind.HISTOGRAM)}_{part}[$__rate_interval])" for part in ("sum", "count"))
    return formula(f"sum by (run) ({sums}) / sum by (run) ({counts})", text)


def at_most(name: str) -> Query:
    """The share of a histogram's observations that lie at or below each of its bounds."""
    parts = (f"(rate({_of_kind(name, Kind.HISTOGRAM)}_{part}[$__rate_interval]))" for part in ("bucket", "count"))
    return formula("sum by (run, le) {} / on (run) group_left sum by (run) {}".format(*parts), "", "le")


def _over_time(function: str, name: str, text: str) -> Query:
    labels = CATALOGUE[name].labels
    over = ", ".join(("run", *labels))
    return formula(f"sum by ({over}) ({function}({_of_kind(name, Kind.COUNTER)}[$__rate_interval]))", text, *labels)


def _of_kind(name: str, kind: Kind) -> str:
    if CATALOGUE[name].kind is not kind:
        raise ValueError(f"{name} is a {CATALOGUE[name].kind} in the catalogue, and this query needs a {kind}")
    return name


def _chosen(name: str, brace: str | None) -> str:
    """The selector with the filter: what stood in its braces comes after it."""
    return f"{name.rstrip('{')}{{{CHOSEN}" + ("," if brace else "}")

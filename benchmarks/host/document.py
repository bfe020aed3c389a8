"""What a benchmark of the host leaves: one JSON document, its table, and how it compares with the one before."""

import re
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import psutil

from advdmd_ray.provenance import made_here
from benchmarks.host.contest import OURS, Field, Figures, Row

SCHEMA = 1
"""Counted up whenever a field changes its name or its meaning."""
SHORT_S = 1e-3
"""What is shorter is printed with more digits."""
TOLERANCE = 0.2
"""A ratio may fall by this share of the baseline's before it is called a regression."""


def header() -> dict[str, Any]:
    """Everything but the rows: date, commit (`-dirty` if the checkout has changes), machine and versions."""
    made = made_here()
    machine = made["machine"] | {"memory_bytes": psutil.virtual_memory().total, "flags": _flags()}
    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": made["commit"],
        "machine": machine,
        "versions": made["versions"],
        "rows": {},
    }


def _flags() -> list[str]:
    """The processor's vector extensions, where the system names them."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - a file of the kernel
            line = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return []
    return sorted(flag for flag in line.partition(":")[2].split() if flag.startswith(("avx", "sse", "amx", "sha")))


def machine_kind(document: Mapping[str, Any]) -> str:
    """Names machines whose figures may be compared, by processor and usable cores: `amd-epyc-2`."""
    machine = document["machine"]
    processor = re.sub(r"[^a-z0-9]+", "-", str(machine["processor"]).lower()).strip("-")
    return f"{processor}-{machine['cores']}"


def row_figures(row: Row, figures: Mapping[str, Figures], field: Field) -> dict[str, Any]:
    """One row of the document.

    `ratio` is a contestant's median divided by ours: above 1, ours is faster. Of the facts their medians are kept.
    """
    ours = figures[OURS].median
    contestants = {
        name: {
            "median_s": each.median,
            "quartiles_s": list(each.quartiles),
            "ratio": each.median / ours,
            "goal": row.goals.get(name),
            "seconds": list(each.seconds),
        }
        for name, each in figures.items()
    }
    facts = {name: statistics.median(values) for name, values in field.facts.items()}
    return {"work": row.work, "contestants": contestants, "absent": dict(field.absent), "facts": facts}


def table(document: Mapping[str, Any]) -> str:
    """The document as lines for a terminal."""
    lines = [f"commit {document['commit']}, {machine_kind(document)}, {document['date']}"]
    for name, row in document["rows"].items():
        lines.append(f"\n{name}: {row['work']}")
        lines += [_line(contestant, each) for contestant, each in row["contestants"].items()]
        lines += [f"  {rival:<24} not measured: {why}" for rival, why in row["absent"].items()]
        lines += [f"    {fact}: {value:.4g}" for fact, value in row["facts"].items()]
    return "\n".join(lines) + "\n"


def _line(name: str, each: Mapping[str, Any]) -> str:
    low, high = (_ms(seconds) for seconds in each["quartiles_s"])
    line = f"  {name:<24} {_ms(each['median_s']):>9} ms  [{low}, {high}]"
    if name == OURS:
        return line
    goal = each["goal"]
    wanted = "" if goal is None else f"  goal {goal:g}: {'met' if each['ratio'] >= goal else 'missed'}"
    return f"{line}  {each['ratio']:6.2f} x ours{wanted}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.{2 if seconds >= SHORT_S else 4}f}"


def regressions(document: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    """Ratios that are worse than the baseline's by more than the tolerance, a line each.

    Rows and rivals that only one of the two has are passed over.

    Raises:
        ValueError: if the baseline has another schema or is of another kind of machine.
    """
    for what, ours, theirs in (
        ("schema", document["schema"], baseline["schema"]),
        ("machine", machine_kind(document), machine_kind(baseline)),
    ):
        if ours != theirs:
            raise ValueError(f"the baseline's {what} is {theirs}, this document's is {ours}")
    worse = []
    for name, row in document["rows"].items():
        before: Mapping[str, Any] = baseline["rows"].get(name, {"contestants": {}})["contestants"]
        for rival, each in row["contestants"].items():
            if rival != OURS and rival in before and each["ratio"] < (1 - TOLERANCE) * before[rival]["ratio"]:
                worse.append(f"{name}: {each['ratio']:.2f} x ours for {rival}, {before[rival]['ratio']:.2f} before")
    return worse


def report(document: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> str:
    """The regression report, as lines."""
    if baseline is None:
        return f"no baseline of {machine_kind(document)} is stored: --keep stores this document as one\n"
    worse: Sequence[str] = regressions(document, baseline)
    if not worse:
        return f"no regression against {baseline['commit']} ({baseline['date']})\n"
    return "".join(f"regression: {line}\n" for line in worse)

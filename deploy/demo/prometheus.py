"""Debian's Prometheus with the files of this folder's neighbours, and what its HTTP API answers."""

import json
import shutil
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from advdmd_ray.errors import UserError

DEPLOY = Path(__file__).parents[1]
PROGRAM = "prometheus"
ASK_S = 20.0


@dataclass(frozen=True, slots=True)
class Curve:
    """One series of Prometheus.

    Attributes:
        labels: Its labels.
        points: Unix time and value of each scrape, in order.
    """

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server that runs, or soon does.

    Attributes:
        address: Of its HTTP API.
    """

    address: str

    def ask(self, path: str, **parameters: str) -> Any:
        """What `/api/v1/PATH` answers.

        Raises:
            OSError: if it does not.
        """
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.address}/api/v1/{path}?{query}", timeout=ASK_S) as answer:  # noqa: S310 - it is http
            return json.load(answer)["data"]

    def query(self, expr: str, time: str = "") -> list[dict[str, Any]]:
        """What it finds at this time of its own clock, by default now."""
        return self.ask("query", query=expr, **({"time": time} if time else {}))["result"]

    def newest(self, expr: str) -> float | None:
        """The value of a query with one answer; None: none yet, or no server."""
        try:
            found = self.query(expr)
        except OSError:  # it does not listen yet
            return None
        return float(found[0]["value"][1]) if found else None

    def curves(self, series: str, window_s: int) -> list[Curve]:
        """Every scrape of these series within the last seconds; the series with the oldest scrape is first."""
        found = self.query(f"{series}[{window_s}s]")
        curves = [Curve(each["metric"], [(at, float(value)) for at, value in each["values"]]) for each in found]
        return sorted(curves, key=lambda curve: curve.points[0][0])


def require_program() -> None:
    """Raises UserError, with what to do, if Prometheus is not installed."""
    if shutil.which(PROGRAM) is None:
        raise UserError(f"{PROGRAM} is not installed; on Debian and Ubuntu: apt-get install {PROGRAM}")


def command(folder: Path, port: int, every: Mapping[str, str]) -> list[str]:
    """The command of a server in this folder, into which it writes the shipped configuration and alerts.

    Args:
        folder: Exists. Runs are found by the files in `folder/targets`.
        port: On this machine's loopback.
        every: In place of how often the shipped configuration scrapes and evaluates.
    """
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8")) | {"global": dict(every)}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copy(DEPLOY / "alerts.yml", folder)
    (folder / "targets").mkdir(exist_ok=True)
    options = {"config.file": "prometheus.yml", "storage.tsdb.path": "data", "web.listen-address": f"127.0.0.1:{port}"}
    return [PROGRAM, *(f"--{name}={text}" for name, text in options.items())]

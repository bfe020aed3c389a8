"""The real promtool and Prometheus read the files under deploy/, and every panel and alert finds its series.

They are Debian's package `prometheus`. Without it these tests are skipped, but not where CI is true.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from advdmd_ray.config import Config
from advdmd_ray.metrics.catalogue import CATALOGUE
from advdmd_ray.metrics.exposition import OfRun
from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.metrics.series import Sample
from advdmd_ray.runs.targets import identity_of, targets_told
from deploy.demo.prometheus import Prometheus, command
from deploy.monitoring.dashboard import RUNS
from deploy.monitoring.queries import Query
from deploy.monitoring.table import PANELS
from ports import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
OPEN = {"level": "1", "worker": "rollout-0", "figure": "accuracy", "scorer": "clip_score"}
pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None and os.environ.get("CI") != "true",
    reason="promtool and prometheus are not installed: apt-get install prometheus",
)


def every_series() -> list[Sample]:
    """A value for each series, and for every value of its closed labels."""
    samples = []
    for name, series in CATALOGUE.items():
        rows: list[tuple[tuple[str, str], ...]] = [()]
        for label in series.labels:
            values = series.values_of(label) or (OPEN[label],)
            rows = [(*row, (label, text)) for row in rows for text in values]
        samples += [Sample(name, 1.0, row) for row in rows]
    return samples


def promtool(*arguments: str | Path, text: bytes | None = None) -> None:
    answer = subprocess.run(["promtool", *arguments], input=text, capture_output=True, check=False, timeout=60)
    assert answer.returncode == 0, (answer.stdout + answer.stderr).decode()


@contextmanager
def started(folder: Path) -> Iterator[Prometheus]:
    """The server with the shipped configuration and alerts in this folder, which asks every second."""
    port = free_port()
    run = command(folder, port, {"scrape_interval": "1s", "evaluation_interval": "250ms"})
    with (folder / "log").open("wb") as log, subprocess.Popen(run, cwd=folder, stdout=log, stderr=log) as process:
        try:
            yield Prometheus(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()


def awaited(server: Prometheus, expr: str) -> str:
    """The time at which the query has an answer."""
    until = time.monotonic() + 60
    while True:
        try:
            if found := server.query(expr):
                return str(found[0]["value"][0])
        except OSError:  # it does not listen yet
            pass
        assert time.monotonic() < until, expr
        time.sleep(0.05)


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    promtool("check", "config", DEPLOY / "prometheus.yml")


def test_each_alert_fires_when_it_should_and_not_otherwise() -> None:
    promtool("test", "rules", Path(__file__).parent / "alert_cases.yml")


def test_promtool_accepts_what_a_hub_with_every_series_says() -> None:
    with MetricsHub() as hub:
        hub.record(every_series())
        promtool("check", "metrics", text=generate_latest(OfRun(hub.registry, identity_of(Config())).registry()))


@contextmanager
def told_run(name: str, folder: Path) -> Iterator[MetricsHub]:
    """A run with every series, which Prometheus in this folder finds."""
    run = {"name": name, "output": str(folder)}
    config = Config.model_validate({"run": run, "metrics": {"targets": str(folder / "targets")}})
    with targets_told(config, "127.0.0.1") as tell, MetricsHub(identity=identity_of(config)) as hub:
        hub.record(every_series())
        tell(hub.serve())
        yield hub


def test_every_query_of_the_dashboard_finds_the_run_that_is_chosen_and_no_other(tmp_path: Path) -> None:
    with told_run("demo", tmp_path) as hub, told_run("other", tmp_path), started(tmp_path) as server:
        awaited(server, "count(advdmd_run_info) == 2")
        hub.record(every_series())  # what has not grown has no rate
        # Then and not later: a scrape that takes too long would take everything from sight.
        then = awaited(server, "rate(advdmd_reward_groups_total[1m]) > 0 and on (run) advdmd_run_info")
        queries = [query for panel in PANELS for query in panel.queries]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda query: server.query(filled(query, "absent|demo"), then), queries))
            others = list(pool.map(lambda query: server.query(filled(query, "absent"), then), queries))
        rules = server.ask("rules")["groups"][0]["rules"]
        offered = choices(server, RUNS)
        hub.record([Sample.of("advdmd_run_cycle", 777)])
        hub.finish("completed", 60.0)
        hub.close()  # from now on nobody answers: what was last was scraped while the run waited for that, or never
        awaited(server, 'last_over_time(advdmd_run_cycle{run="demo"}[5m]) == 777')
    for query, series in zip(queries, found, strict=True):
        assert series, query.expr
        for each in series:
            assert each["metric"]["run"] == "demo", query.expr
            assert each["value"][1] not in {"NaN", "+Inf", "-Inf"}, query.expr
            assert set(re.findall(r"{{(\w+)}}", query.legend)) <= set(each["metric"]), query.expr
    assert [query.expr for query, series in zip(queries, others, strict=True) if series] == []
    assert {rule["name"]: rule["health"] for rule in rules if rule["health"] != "ok"} == {}
    assert offered == ["demo", "other"]


def choices(server: Prometheus, variable: str) -> list[str]:
    """What Grafana offers of a variable: it asks Prometheus for the values of a label of a series."""
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable)
    assert asked is not None
    return server.ask(f"label/{asked[2]}/values", **{"match[]": asked[1]})


def filled(query: Query, runs: str) -> str:
    """The query as Grafana sends it."""
    return query.expr.replace("$run", runs).replace("$__rate_interval", "1m").replace("$__range", "1m")

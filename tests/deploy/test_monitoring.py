"""Prometheus, its alerts and the dashboard ask for what the catalogue has; what is generated is what is committed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Dashboard

from advdmd_ray.config import Config
from advdmd_ray.metrics.catalogue import CATALOGUE, LABEL_VALUES, Kind
from advdmd_ray.metrics.exposition import INFO
from advdmd_ray.runs.targets import targets_told
from deploy.monitoring.dashboard import RUNS
from deploy.monitoring.panel import Row
from deploy.monitoring.queries import CHOSEN, SERIES, at_most, increase, mean, quantiles, rate, value
from deploy.monitoring.table import PANELS, WITHOUT_PANEL
from deploy.monitoring.written import WRITTEN

DEPLOY = Path(__file__).parents[2] / "deploy"
EXPRESSIONS = [query.expr for panel in PANELS for query in panel.queries]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return group["rules"]


def exposed_names() -> dict[str, str]:
    """Every name on /metrics and the catalogue's name for it."""
    names = {}
    for name, series in CATALOGUE.items():
        for suffix in ("_bucket", "_sum", "_count") if series.kind is Kind.HISTOGRAM else ("",):
            names[name + suffix] = name
    return names


def alert(name: str) -> str:
    (rule,) = [rule for rule in alerts() if rule["alert"] == name]
    return rule["expr"]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_what_is_committed_is_what_is_generated(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == WRITTEN[path](), "run `make monitoring`"


def test_the_operator_gets_the_rules_of_prometheus() -> None:
    rule = yaml.safe_load((DEPLOY / "prometheusrule.yaml").read_text())
    assert (rule["apiVersion"], rule["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((DEPLOY / "alerts.yml").read_text())


def test_grafanas_types_know_every_key_of_the_dashboard() -> None:
    read = Dashboard.from_json(DASHBOARD)
    assert json.loads(json.dumps(read, default=lambda part: part.to_json())) == DASHBOARD


def test_each_series_has_a_panel_or_a_reason_not_to() -> None:
    names = exposed_names() | {INFO: INFO}
    shown = {names[name] for expression in EXPRESSIONS for name in SERIES.findall(expression)}
    assert {*CATALOGUE, INFO} - shown == set(WITHOUT_PANEL)
    assert all(WITHOUT_PANEL.values())


def test_the_rows_stand_in_their_order_with_panels_that_say_what_they_are() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == list(Row)
    assert len({panel.title for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel.says.endswith("."), panel.title
        assert len(panel.says) <= 130, panel.title


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_query_is_filtered_by_run_and_asks_for_series_and_labels_that_exist(expression: str) -> None:
    names = exposed_names() | {INFO: INFO}
    found = SERIES.findall(expression)
    assert found
    assert set(found) <= set(names)
    assert len(re.findall(rf"{SERIES.pattern}{{{re.escape(CHOSEN)}[,}}]", expression)) == len(found)
    for label, _, text in re.findall(r'[{,](\w+)(=~|!=|!~|=)"([^"]*)"', expression):
        assert label == "run" or text in LABEL_VALUES[label]
    assert all(group.startswith("run") for group in re.findall(r"(?:by|on) \(([^)]*)\)", expression))
    for name in re.findall(rf"(?:rate|increase)\(({SERIES.pattern})", expression):
        assert CATALOGUE[names[name]].kind is not Kind.GAUGE


def test_queries_of_one_kind_of_series_refuse_the_others() -> None:
    gauge, counter, histogram = "advdmd_reward_mean", "advdmd_reward_groups_total", "advdmd_reward_seconds"
    for query, wrong in (
        (rate, gauge),
        (increase, histogram),
        (quantiles, counter),
        (mean, gauge),
        (at_most, gauge),
    ):
        with pytest.raises(ValueError, match=f"{wrong} is a"):
            query(wrong)
    with pytest.raises(KeyError):
        value("advdmd_reward_means")


def test_several_runs_can_be_chosen_of_those_that_say_who_they_are() -> None:
    source, run = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert (run["name"], run["type"], run["multi"], run["includeAll"]) == ("run", "query", True, True)
    assert run["query"]["query"] == RUNS == f"label_values({INFO}, run)"


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_exists_and_says_what_it_means_where_to_look_and_what_to_do(
    rule: dict[str, Any],
) -> None:
    found = set(SERIES.findall(rule["expr"]))
    assert found
    assert found <= {*exposed_names(), INFO}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert "{{ $labels.run }}" in rule["annotations"]["summary"]
    text = rule["annotations"]["description"]
    assert re.fullmatch(r"What it means: .+\. Look at: .+\. Do: .+\.", text)
    for section, key in re.findall(r"([a-z_]+)\.([a-z_]+)", text):
        assert section not in Config.model_fields or key in type(Config().__dict__[section]).model_fields
    for said in re.findall(r"panels? (.+)", text):
        titles = [panel.title for panel in PANELS if said.startswith(panel.title)]
        assert titles, said


def test_the_bounds_in_the_alerts_are_the_defaults_of_the_settings() -> None:
    config = Config()
    assert f"> {config.discriminator.auc_high}\n" in alert("AdvdmdAucOutOfBand")
    assert f" {config.discriminator.text_errors:g} * " in alert("AdvdmdDiscriminatorBlind")
    assert alert("AdvdmdCheckpointOld").count(f" > {2 * config.learner.checkpoint_cycles}\n") == 1
    assert alert("AdvdmdPolicyAgeAtCap").endswith(f">= {config.rollout.max_policy_age}")


def test_each_alert_is_seen_to_fire_and_beside_a_run_that_is_well() -> None:
    cases = yaml.safe_load((Path(__file__).parent / "alert_cases.yml").read_text())["tests"]
    fired: set[str] = set()
    for case in cases:
        assert any('run="well"' in series["series"] for series in case["input_series"]), case["name"]
        said = [sample["labels"] for test in case["promql_expr_test"] for sample in test["exp_samples"]]
        assert not any('run="well"' in labels for labels in said), case["name"]
        fired |= {name for labels in said for name in re.findall(r'alertname="(\w+)"', labels)}
    assert fired == {rule["alert"] for rule in alerts()}


def test_prometheus_finds_the_runs_that_are_told_of_its_folder_and_lets_them_say_their_own_names(
    tmp_path: Path,
) -> None:
    prometheus = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert prometheus["rule_files"] == ["alerts.yml"]
    jobs = {job["job_name"]: job for job in prometheus["scrape_configs"]}
    ((pattern,),) = [places["files"] for places in jobs["advdmd"]["file_sd_configs"]]
    folder = pattern.rpartition("/")[0]
    assert f"metrics.targets=deploy/{folder}" in (DEPLOY / "README.md").read_text()
    run = {"run": {"output": str(tmp_path)}, "metrics": {"targets": str(tmp_path / folder)}}
    with targets_told(Config.model_validate(run), "127.0.0.1") as write:
        write(9464)
        assert len([*tmp_path.glob(pattern)]) == 1
    assert jobs["advdmd"]["honor_labels"], "or a run's own label becomes exported_run"
    assert jobs["ray"]["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]  # noqa: S108

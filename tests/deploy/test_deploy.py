"""The dashboard, the alerts and the scrape say what the catalogue says: names, labels, ports."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from advdmd_ray.config import Config
from advdmd_ray.config.objectives import DiscriminatorSection
from advdmd_ray.metrics.catalogue import CATALOGUE, LABEL_VALUES, Kind, Station
from advdmd_ray.runs.targets import targets_told

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def dashboard_panels() -> list[dict[str, Any]]:
    return json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())["panels"]


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard_panels() for target in panel.get("targets", [])]


def exposed_names() -> dict[str, str]:
    """Every name on /metrics and the catalogue's name for it."""
    names = {}
    for name, series in CATALOGUE.items():
        for suffix in ("_bucket", "_sum", "_count") if series.kind is Kind.HISTOGRAM else ("",):
            names[name + suffix] = name
    return names


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return group["rules"]


def test_prometheus_reads_the_alerts_and_they_ask_for_series_and_settings_that_exist() -> None:
    assert yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["rule_files"] == ["alerts.yml"]
    assert [rule["alert"] for rule in alerts()] == [
        "AdvdmdRewardHacking",
        "AdvdmdGangLost",
        "AdvdmdCheckpointRefused",
    ]
    for rule in alerts():
        names = re.findall(r"advdmd_[a-z_]+", rule["expr"])
        assert names
        assert set(names) <= set(exposed_names())
        for section, key in re.findall(r"([a-z_]+)\.([a-z_]+)", rule["annotations"]["description"]):
            assert section not in Config.model_fields or key in type(Config().__dict__[section]).model_fields


@pytest.mark.parametrize("expression", expressions())
def test_the_dashboard_asks_for_series_and_labels_that_exist(expression: str) -> None:
    names = exposed_names()
    found = re.findall(r"advdmd_[a-z_]+", expression)
    assert found
    labels = set.intersection(*({*CATALOGUE[names[name]].labels, "instance", "le"} for name in found))
    used = re.findall(r"by \(([^)]*)\)", expression)
    assert {label.strip() for group in used for label in group.split(",")} <= labels
    for label, _, value in re.findall(r'[{,](\w+)(=~|!=|!~|=)"([^"]*)"', expression):
        assert label in labels
        assert label not in LABEL_VALUES or value in LABEL_VALUES[label]
    assert re.findall(r"advdmd_[a-z_]+\{instance=~", expression) == [f"{name}{{instance=~" for name in found]


def test_the_dashboard_shows_only_labels_that_its_queries_give() -> None:
    names = exposed_names()
    for panel in dashboard_panels():
        for target in panel.get("targets", []):
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            (name, *_) = re.findall(r"advdmd_[a-z_]+", target["expr"])
            assert shown <= {*CATALOGUE[names[name]].labels, "le"}, panel["title"]


def test_rates_are_taken_of_counters_only() -> None:
    names = exposed_names()
    for expression in expressions():
        for name in re.findall(r"(?:rate|increase)\((advdmd_[a-z_]+)", expression):
            assert CATALOGUE[names[name]].kind is not Kind.GAUGE


def test_every_station_has_a_row_and_nearly_every_series_a_panel() -> None:
    rows = [panel["title"].lower() for panel in dashboard_panels() if panel["type"] == "row"]
    assert sorted(rows) == sorted(Station)
    names = exposed_names()
    shown = {names[name] for expression in expressions() for name in re.findall(r"advdmd_[a-z_]+", expression)}
    # What another panel says better: counts behind the rates shown, the phase as a number, the elapsed time. The
    # start is told by the log. The actions of an RL update follow from the settings. The rest has no panel yet.
    assert set(CATALOGUE) - shown == {
        "advdmd_rollout_groups_total",
        "advdmd_rollout_leases_issued_total",
        "advdmd_reward_groups_total",
        "advdmd_buffer_reward_age",
        "advdmd_learner_rl_actions",
        "advdmd_run_phase",
        "advdmd_run_elapsed_seconds",
        "advdmd_run_start_seconds",
        "advdmd_run_finished",
        "advdmd_run_gpu_memory_bytes",
        "advdmd_run_gpu_utilisation",
        "advdmd_run_object_store_bytes",
        "advdmd_run_object_store_capacity_bytes",
        "advdmd_learner_checkpoint_cycle",
        "advdmd_learner_checkpoint_timestamp_seconds",
        "advdmd_learner_part_seconds_total",
    }


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels = dashboard_panels()
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_auc_threshold_is_the_configured_one() -> None:
    (panel,) = [panel for panel in dashboard_panels() if "AUC" in panel["title"]]
    steps = [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
    assert steps == [None, DiscriminatorSection().auc_high]


def test_prometheus_finds_the_runs_that_are_told_of_its_folder_and_lets_them_say_their_own_names(
    tmp_path: Path,
) -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]}
    ((pattern,),) = [places["files"] for places in jobs["advdmd"]["file_sd_configs"]]
    folder = pattern.rpartition("/")[0]
    assert f"metrics.targets=deploy/{folder}" in (DEPLOY / "README.md").read_text()
    run = {"run": {"output": str(tmp_path)}, "metrics": {"targets": str(tmp_path / folder)}}
    with targets_told(Config.model_validate(run), str) as write:
        write(9464)
        assert len([*tmp_path.glob(pattern)]) == 1
    assert jobs["advdmd"]["honor_labels"], "or a run's own label becomes exported_run"
    assert jobs["ray"]["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]  # noqa: S108

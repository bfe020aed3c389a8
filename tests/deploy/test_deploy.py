"""The files under deploy/ say what the code says: names, labels, ports, options, versions and room."""

import json
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from advdmd_ray import __version__
from advdmd_ray.cli import parse_arguments
from advdmd_ray.config import Config, Resources, read_config
from advdmd_ray.config.objectives import DiscriminatorSection
from advdmd_ray.config.sections import MetricsSection
from advdmd_ray.metrics.catalogue import CATALOGUE, LABEL_VALUES, Kind, Station
from advdmd_ray.runs.needs.node_roles import nodes_of_roles

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DEFINITIONS = ROOT.parent / "shared" / "data" / "kuberay" / "ray.io_rayjobs.yaml"
RAY_METRICS_PORT = 8080


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


def rayjob() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())


def run_arguments() -> list[str]:
    words = shlex.split(rayjob()["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "advdmd_ray.run"]
    return ["run", *words[3:]]


def submitted_config() -> Config:
    args = parse_arguments(run_arguments())
    config = Path(args.config)
    assert config.is_relative_to("/app")
    return read_config(ROOT / config.relative_to("/app"), args.overrides)


def containers() -> dict[str, dict[str, Any]]:
    cluster = rayjob()["spec"]["rayClusterSpec"]
    groups = {"head": cluster["headGroupSpec"], **{group["groupName"]: group for group in cluster["workerGroupSpecs"]}}
    return {name: group["template"]["spec"]["containers"][0] for name, group in groups.items()}


def ports(container: dict[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container["ports"]}


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
    # start is told by the log. The actions of an RL update follow from the settings.
    assert set(CATALOGUE) - shown == {
        "advdmd_rollout_groups_total",
        "advdmd_rollout_leases_issued_total",
        "advdmd_reward_groups_total",
        "advdmd_buffer_reward_age",
        "advdmd_learner_rl_actions",
        "advdmd_run_phase",
        "advdmd_run_elapsed_seconds",
        "advdmd_run_start_seconds",
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


def test_prometheus_scrapes_the_port_of_the_config() -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]}
    assert jobs["advdmd"]["static_configs"] == [{"targets": [f"{MetricsSection().host}:{MetricsSection().port}"]}]
    assert jobs["ray"]["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]  # noqa: S108


def test_the_podmonitor_selects_the_pods_and_ports_of_the_rayjob() -> None:
    monitor = yaml.safe_load((DEPLOY / "podmonitor.yaml").read_text())["spec"]
    cluster = rayjob()["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert monitor["selector"]["matchLabels"].items() <= group["template"]["metadata"]["labels"].items()
    assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == ["run-metrics", "metrics"]


def test_the_submitted_command_is_accepted_by_the_command_line_and_the_config() -> None:
    config = submitted_config()
    assert config.metrics.host == "0.0.0.0"  # noqa: S104 - the pod's own address is not known beforehand
    assert config.policy_gradient.enabled


def test_ports_of_the_pods_are_those_that_the_programs_listen_on() -> None:
    cluster = rayjob()["spec"]["rayClusterSpec"]
    head = ports(containers()["head"])
    assert head["run-metrics"] == submitted_config().metrics.port == MetricsSection().port
    for name, container in containers().items():
        assert ports(container)["metrics"] == RAY_METRICS_PORT, name
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["rayStartParams"]["metrics-export-port"] == str(RAY_METRICS_PORT)


def test_the_worker_groups_have_room_for_the_workers_that_are_asked_for() -> None:
    config = submitted_config()
    groups = {group["groupName"]: group for group in rayjob()["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    assert list(groups) == ["learner", "rollout", "reward"]
    roles: dict[str, tuple[int, Resources]] = {
        "learner": (config.learner.ranks, config.learner),
        "rollout": (config.rollout.actors, config.rollout),
        "reward": (config.reward.workers, config.reward),
    }
    for name, (count, resources) in roles.items():
        cpus = float(containers()[name]["resources"]["limits"]["cpu"])
        assert cpus >= resources.num_cpus
        # The first replicas must do, before an autoscaler has added any.
        assert groups[name]["replicas"] * (cpus // resources.num_cpus) >= count, name
        assert groups[name]["minReplicas"] <= groups[name]["replicas"] <= groups[name]["maxReplicas"]
    assert groups["learner"]["minReplicas"] == groups["learner"]["maxReplicas"]
    assert groups["rollout"]["minReplicas"] < groups["rollout"]["maxReplicas"]
    assert groups["reward"]["minReplicas"] < groups["reward"]["maxReplicas"]


def test_the_run_folder_is_on_a_volume_where_driver_and_learner_write_and_the_judges_workers_read() -> None:
    output = submitted_config().run.output
    for name, container in containers().items():
        assert output in [mount["mountPath"] for mount in container["volumeMounts"]], name


def test_each_role_is_placed_by_the_label_of_its_group_with_an_autoscaler_that_looks_at_labels() -> None:
    cluster = rayjob()["spec"]["rayClusterSpec"]
    assert submitted_config().ray.placement == "labelled"
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["autoscalerOptions"]["version"] == "v2"
    groups = {group["groupName"]: group["labels"] for group in cluster["workerGroupSpecs"]}
    nodes = nodes_of_roles("labelled", groups.values())
    for role, where in nodes.items():
        assert [name for name, labels in groups.items() if labels in where] == [role]
    assert "labels" not in cluster["headGroupSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["restartPolicy"] == "Never", "this autoscaler takes a pod for one node of Ray"


def test_versions_and_image_are_those_of_the_package() -> None:
    job = rayjob()
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == metadata.version("ray")
    assert {container["image"] for container in containers().values()} == {f"advdmd-ray:{__version__}"}
    assert f"-t advdmd-ray:{__version__} ." in (DEPLOY / "Dockerfile").read_text()


def test_the_token_is_a_reference_and_no_file_holds_a_secret() -> None:
    assert rayjob()["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "advdmd-ray-token"}
    readme = (DEPLOY / "README.md").read_text()
    assert "kubectl create secret generic advdmd-ray-token --from-literal=auth_token=" in readme
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            assert not re.search(r"(?i)(token|password|secret)\s*[:=]\s*[\"']?[0-9a-f]{16}", path.read_text()), path


def test_pods_run_as_the_user_of_the_image() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    cluster = rayjob()["spec"]["rayClusterSpec"]
    (user,) = re.findall(r"^USER (\d+)$", dockerfile, flags=re.MULTILINE)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        context = group["template"]["spec"]["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] == int(user) != 0


def test_what_the_image_copies_exists_and_is_in_the_build_context() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    allowed = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"]
    copied = [
        source for line in re.findall(r"^COPY (.+)$", dockerfile, flags=re.MULTILINE) for source in line.split()[:-1]
    ]
    assert sorted(copied) == sorted(allowed)
    for source in copied:
        assert (ROOT / source).exists(), source
    assert "-c constraints.txt" in dockerfile
    assert f"EXPOSE {MetricsSection().port}" in dockerfile


def test_the_image_starts_a_command_that_is_accepted() -> None:
    (command,) = re.findall(r"^CMD (.+)$", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    words = json.loads(command)
    assert words[:3] == ["python", "-m", "advdmd_ray.run"]
    args = parse_arguments(["run", *words[3:]])
    config = read_config(ROOT / Path(args.config).relative_to("/app"), args.overrides)
    assert config.run.output == "/runs"


def test_the_module_that_is_submitted_is_the_run_command() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "advdmd_ray.run", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    for option in (word for word in run_arguments() if word.startswith("--")):
        assert option in answer.stdout


def test_the_rayjob_fits_the_definitions_of_kuberay() -> None:
    if not DEFINITIONS.is_file():
        pytest.skip(f"{DEFINITIONS} is not here")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load(DEFINITIONS.read_text(), Loader=loader)  # noqa: S506 - both loaders are safe ones
    job = rayjob()
    (schema,) = [
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if job["apiVersion"] == f"{definition['spec']['group']}/{version['name']}"
    ]
    assert job["kind"] == definition["spec"]["names"]["kind"]
    closed = close_objects(schema)
    jsonschema.Draft202012Validator(closed).validate(job)
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["tempalte"] = {}
    with pytest.raises(jsonschema.ValidationError, match="tempalte"):
        jsonschema.Draft202012Validator(closed).validate(job)


def close_objects(schema: Any) -> Any:
    """The schema with unknown keys refused: Kubernetes drops them without a word, which hides a slip of the pen."""
    if isinstance(schema, list):
        return [close_objects(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close_objects(value) for key, value in schema.items()}
    properties = schema.get("properties")
    keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and isinstance(properties, dict) and not keeps_unknown:
        closed["additionalProperties"] = False
    return closed

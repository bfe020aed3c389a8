"""The manifests say what the code says, and what Kubernetes and KubeRay take."""

import copy
import functools
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import schema_contents

from advdmd_ray import __version__
from advdmd_ray.config import Config
from advdmd_ray.config.metrics import MetricsSection
from advdmd_ray.runs.doctor.kubernetes import cluster_spec
from advdmd_ray.runs.needs.memory import sizes_of
from advdmd_ray.runs.needs.node_roles import LABEL, nodes_of_roles, of_any_role
from manifests import DEPLOY, JOBS, ROOT, cluster, groups, missing, pods, rayjob, submitted

DEFINITIONS = ROOT.parent / "shared" / "data" / "kuberay" / "ray.io_rayjobs.yaml"
KUBERNETES = "1.37"
NAMESPACE, GPU = "advdmd", "nvidia.com/gpu"
TOKEN_PORT, RAY_METRICS_PORT = 8265, 8080
UNTAINTED = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}

every_job = pytest.mark.parametrize("file", JOBS)


def config_of(file: str) -> Config:
    return submitted(rayjob(file)["spec"]["entrypoint"])


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    return only


def mounts(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is mounted where in a pod: the mount and its volume."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    return {mount["mountPath"]: volumes[mount["name"]] | mount for mount in container(pod)["volumeMounts"]}


def objects() -> list[dict[str, Any]]:
    """What Kubernetes itself knows, in all files."""
    return [
        found
        for file in ("namespace.yaml", "model-job.yaml")
        for found in yaml.safe_load_all((DEPLOY / file).read_text())
    ]


@pytest.fixture(scope="module")
def image_says() -> str:
    return (DEPLOY / "Dockerfile").read_text()


# What the run asks for ----------------------------------------------------------------------------------------------


@every_job
def test_the_submitted_command_is_accepted_and_reached_from_outside_the_pod(file: str) -> None:
    config = config_of(file)
    assert config.metrics.host == "0.0.0.0"  # noqa: S104 - the pod's own address is not known beforehand
    assert config.policy_gradient.enabled
    assert "--resume auto" in rayjob(file)["spec"]["entrypoint"]


def test_the_pods_on_cpus_are_what_the_doctor_prints() -> None:
    """Those on GPUs are in tests/models/test_recipes.py, which makes a folder of the model's headers."""
    config = config_of("rayjob.yaml")
    said = cluster_spec(config, sizes_of(config))
    assert missing(said, cluster("rayjob.yaml")) == []
    smaller = copy.deepcopy(cluster("rayjob.yaml"))
    smaller["workerGroupSpecs"][1]["template"]["spec"]["containers"][0]["resources"]["requests"]["memory"] = "1Gi"
    (lack,) = missing(said, smaller)
    assert "[rollout].template.spec.containers[ray-worker].resources.requests.memory: '1Gi' is there" in lack


@every_job
def test_each_role_is_placed_by_its_label_and_the_head_takes_neither_worker_nor_judge(file: str) -> None:
    config, spec = config_of(file), cluster(file)
    assert config.ray.placement == "labelled"
    assert spec["autoscalerOptions"]["version"] == "v2", "version 1 does not look at labels"
    labels = {group["groupName"]: group["labels"] for group in spec["workerGroupSpecs"]}
    nodes = nodes_of_roles("labelled", labels.values())
    for role, where in nodes.items():
        assert [name for name, label in labels.items() if label in where] == [role]
    head = spec["headGroupSpec"]
    assert head.keys() & {"labels", "resources"} == set()
    assert {} not in of_any_role(nodes), "where the judge's workers may be"
    assert all(role.num_cpus > 0 for role in config.roles.values())
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert GPU not in container(pods(file)["head"])["resources"]["limits"]
    assert "tolerations" not in pods(file)["head"], "nodes with GPUs refuse it"


@every_job
def test_the_autoscaler_brings_every_pod_and_follows_the_run(file: str) -> None:
    config, spec = config_of(file), cluster(file)
    assert spec["enableInTreeAutoscaling"]
    assert config.autoscale.enabled
    for group in spec["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
    for name, pod in pods(file).items():
        assert pod["restartPolicy"] == "Never", f"{name}: this autoscaler takes a pod for one node of Ray"
    # The head alone calls the API server of Kubernetes.
    assert [pod.get("automountServiceAccountToken") for pod in pods(file).values()] == [None, False, False, False]


@every_job
def test_a_run_ends_before_its_deadline_and_has_time_to_save(file: str) -> None:
    config, spec = config_of(file), rayjob(file)["spec"]
    assert config.run.time_limit_s is not None
    tries = 1 + spec["backoffLimit"] if file == "rayjob.yaml" else 1
    assert spec["activeDeadlineSeconds"] > tries * (config.run.time_limit_s + config.ray.start_timeout_s)
    wait = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]
    assert float(wait) >= config.run.drain_s + 60
    assert spec["shutdownAfterJobFinishes"]
    assert spec["ttlSecondsAfterFinished"] > 0


# What pods have -----------------------------------------------------------------------------------------------------


@every_job
def test_every_pod_writes_only_to_the_runs_and_to_memory_or_folders_of_its_own(file: str) -> None:
    config = config_of(file)
    for name, pod in pods(file).items():
        there = mounts(pod)
        assert there[config.run.output]["persistentVolumeClaim"] == {"claimName": "advdmd-runs"}, name
        assert there["/dev/shm"]["emptyDir"]["medium"] == "Memory"  # noqa: S108
        assert "emptyDir" in there["/tmp"]  # noqa: S108
        writable = {path for path, mount in there.items() if not mount.get("readOnly")}
        assert writable == {config.run.output, "/dev/shm", "/tmp"}  # noqa: S108
        assert container(pod)["securityContext"]["readOnlyRootFilesystem"], name


def test_pods_with_gpus_read_models_and_images_from_volumes(image_says: str) -> None:
    config = config_of("rayjob-gpu.yaml")
    (home,) = re.findall(r"HF_HOME=(\S+)", image_says)
    for pod in pods("rayjob-gpu.yaml").values():
        there = mounts(pod)
        for claim, path in (("advdmd-models", home), ("advdmd-data", config.data.path)):
            (at,) = [mount for mount in there if Path(str(path)).is_relative_to(mount)]
            assert there[at]["readOnly"]
            assert there[at]["persistentVolumeClaim"] == {"claimName": claim, "readOnly": True}
    for place in (config.run.output, config.model.embeddings, str(config.latents)):
        assert Path(str(place)).is_relative_to("/runs")


def test_groups_with_gpus_are_let_onto_their_nodes() -> None:
    for name, pod in pods("rayjob-gpu.yaml").items():
        asked = container(pod)["resources"]["limits"].get(GPU)
        assert (asked is not None) == (pod.get("tolerations") == [UNTAINTED]) == (name != "head")


@every_job
def test_pods_run_as_the_user_of_the_image_with_no_rights(file: str, image_says: str) -> None:
    (user,) = set(re.findall(r"^USER (\d+)$", image_says, flags=re.MULTILINE))
    for pod in (*pods(file).values(), model_pod()):
        context, own = pod["securityContext"], container(pod)["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] == context["fsGroup"] == int(user) != 0
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}


@every_job
def test_versions_and_images_are_those_of_the_package(file: str, image_says: str) -> None:
    kind = "cuda" if file == "rayjob-gpu.yaml" else "cpu"
    image = f"advdmd-ray:{__version__}" + ("-cuda" if kind == "cuda" else "")
    assert {container(pod)["image"] for pod in pods(file).values()} == {image}
    assert f"--target {kind} -t {image} ." in image_says
    constraints = (ROOT / "constraints.txt").read_text()
    assert f"\nray=={cluster(file)['rayVersion']}\n" in constraints


# Who reaches whom ---------------------------------------------------------------------------------------------------


@every_job
def test_ports_of_the_pods_are_those_that_the_programs_listen_on(file: str) -> None:
    ports = {
        name: {port["name"]: port["containerPort"] for port in container(pod)["ports"]}
        for name, pod in pods(file).items()
    }
    assert ports["head"]["run-metrics"] == config_of(file).metrics.port == MetricsSection().port
    assert ports["head"]["dashboard"] == TOKEN_PORT
    for name, group in groups(file).items():
        assert ports[name]["metrics"] == RAY_METRICS_PORT
        assert group["rayStartParams"]["metrics-export-port"] == str(RAY_METRICS_PORT)


def test_from_other_namespaces_the_job_server_and_metrics_are_reached_and_nothing_else() -> None:
    (policy,) = [found for found in objects() if found["kind"] == "NetworkPolicy"]
    assert policy["spec"]["podSelector"] == {}
    own, others = policy["spec"]["ingress"]
    assert own == {"from": [{"podSelector": {}}]}
    assert {port["port"] for port in others["ports"]} == {TOKEN_PORT, RAY_METRICS_PORT, MetricsSection().port}


def test_the_podmonitor_selects_the_pods_and_ports_of_the_rayjobs() -> None:
    monitor = yaml.safe_load((DEPLOY / "podmonitor.yaml").read_text())["spec"]
    for file in JOBS:
        for group in groups(file).values():
            assert monitor["selector"]["matchLabels"].items() <= group["template"]["metadata"]["labels"].items()
    assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == ["run-metrics", "metrics"]


def test_secrets_are_references_that_the_readme_makes_and_no_file_holds_one() -> None:
    readme = (DEPLOY / "README.md").read_text()
    for file in JOBS:
        assert cluster(file)["authOptions"] == {"mode": "token", "secretName": "advdmd-ray-token"}
        assert "secretKeyRef" not in (DEPLOY / file).read_text(), "a run needs no token of the hub"
    assert f"--namespace={NAMESPACE} create secret generic advdmd-ray-token --from-literal=auth_token=" in readme
    secret = container(model_pod())["env"][1]["valueFrom"]["secretKeyRef"]
    assert f"--namespace={NAMESPACE} create secret generic {secret['name']} --from-literal={secret['key']}=" in readme
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert not re.search(r"(?i)(token|password|secret)\s*[:=]\s*[\"']?[0-9a-f]{16}", path.read_text()), path


def test_the_model_that_is_downloaded_is_the_one_that_is_distilled() -> None:
    job, config = model_pod(), config_of("rayjob-gpu.yaml")
    assert container(job)["command"] == ["hf", "download", config.model.path]
    assert container(job)["image"] == container(pods("rayjob-gpu.yaml")["head"])["image"]
    assert mounts(job)["/models"]["persistentVolumeClaim"] == {"claimName": "advdmd-models"}


def model_pod() -> dict[str, Any]:
    (job,) = [found for found in objects() if found["kind"] == "Job"]
    return job["spec"]["template"]["spec"]


# Schemas ------------------------------------------------------------------------------------------------------------


def test_objects_and_pods_fit_the_schemas_of_kubernetes_and_claims_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", functools.cache(schema_contents))
    claims = {found["metadata"]["name"] for found in objects() if found["kind"] == "PersistentVolumeClaim"}
    templates = [group["template"] for file in JOBS for group in groups(file).values()]
    found = [{"apiVersion": "v1", "kind": "Pod", **template} for template in templates]
    for each in [*objects(), *found]:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
    for pod in (*(template["spec"] for template in templates), model_pod()):
        assert {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["volumes"]
            if "persistentVolumeClaim" in volume
        } <= claims
    monitor = yaml.safe_load((DEPLOY / "podmonitor.yaml").read_text())
    for each in [*objects()[1:], monitor, *(rayjob(file) for file in JOBS)]:
        assert each["metadata"]["namespace"] == NAMESPACE == objects()[0]["metadata"]["name"]
    slip = {**found[0], "spec": {**found[0]["spec"], "containres": []}}
    with pytest.raises(kubernetes_validate.ValidationError, match="containres"):
        kubernetes_validate.validate(slip, KUBERNETES, strict=True)


def test_the_rayjobs_fit_the_definitions_of_kuberay() -> None:
    if not DEFINITIONS.is_file():
        pytest.skip(f"{DEFINITIONS} is not here")
    definition = yaml.load(DEFINITIONS.read_text(), Loader=yaml.CSafeLoader)
    (schema,) = [
        version["schema"]["openAPIV3Schema"] for version in definition["spec"]["versions"] if version["name"] == "v1"
    ]
    closed = jsonschema.Draft202012Validator(close_objects(schema))
    for file in JOBS:
        job = rayjob(file)
        assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", definition["spec"]["names"]["kind"])
        closed.validate(job)
    slip = copy.deepcopy(rayjob(JOBS[0]))
    slip["spec"]["rayClusterSpec"]["headGroupSpec"]["tempalte"] = {}
    with pytest.raises(jsonschema.ValidationError, match="tempalte"):
        closed.validate(slip)


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


def test_the_label_of_the_groups_is_the_one_that_the_code_reads() -> None:
    for file in JOBS:
        assert all(set(group["labels"]) == {LABEL} for group in cluster(file)["workerGroupSpecs"])

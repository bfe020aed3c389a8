"""The pods that a run needs, as the part of a RayJob that says so."""

from typing import Any

import yaml

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.memory import GIB, Sizes
from advdmd_ray.runs.needs.node_roles import LABEL
from advdmd_ray.runs.needs.pods import Pod, PodGroup, head_pod, pod_groups

GPU = "nvidia.com/gpu"
SHARED_MEMORY = "shared-memory"
"""Name of the volume at /dev/shm."""


def cluster_spec(config: Config, sizes: Sizes) -> dict[str, Any]:
    """Head and worker groups as in `rayClusterSpec`: numbers of pods, labels, what Ray is told, requests and /dev/shm.

    Args:
        config: The configuration.
        sizes: Of the teacher's folder.
    """
    groups = pod_groups(config, sizes)
    return {"headGroupSpec": _pod_spec("ray-head", head_pod(sizes)), "workerGroupSpecs": [*map(_group, groups)]}


def cluster_text(config: Config, sizes: Sizes) -> str:
    """`cluster_spec` as YAML, with a line that says where it goes."""
    said = "# Into spec.rayClusterSpec of a RayJob (deploy/README.md): what this configuration needs.\n"
    return said + yaml.safe_dump(cluster_spec(config, sizes), sort_keys=False)


def _group(group: PodGroup) -> dict[str, Any]:
    return {
        "groupName": group.role,
        "replicas": group.first,
        "minReplicas": group.first,
        "maxReplicas": group.most,
        "labels": {LABEL: group.role},
        **_pod_spec("ray-worker", group.pod),
    }


def _pod_spec(container: str, pod: Pod) -> dict[str, Any]:
    """Requests are limits: a pod has what the plan counts with, and is the last to be evicted."""
    asked = {"cpu": f"{pod.cpus}", "memory": f"{pod.memory // GIB}Gi"}
    if pod.gpus:
        asked[GPU] = f"{pod.gpus}"
    shared = {"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory", "sizeLimit": f"{pod.shared // GIB}Gi"}}
    resources = {"requests": asked, "limits": dict(asked)}
    return {
        "rayStartParams": {"num-cpus": f"{pod.logical_cpus}", "object-store-memory": f"{pod.store}"},
        "template": {"spec": {"containers": [{"name": container, "resources": resources}], "volumes": [shared]}},
    }

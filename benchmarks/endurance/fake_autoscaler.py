"""A Ray cluster on this machine whose nodes come and go as its autoscaler has it.

Ray's fake node provider starts a raylet for each node. Ray's own `AutoscalingCluster` needs a file that its wheel does
not have, and its `ray stop` ends every Ray of the machine.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray.util import get_node_ip_address

from benchmarks.endurance.processes import MARK

HEAD = "f" * 51 + "00000"
"""What the fake provider calls the head."""
STORE = 80 * 2**20
END_S = 20.0
# Of the configuration file of `ray up`, which asks for each.
_EMPTY_LISTS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)


@dataclass(frozen=True, slots=True)
class NodeType:
    """Nodes that the autoscaler may start.

    Attributes:
        cpus: Logical CPUs of one.
        most: Nodes.
        labels: Of each.
    """

    cpus: float
    most: int
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FakeCluster:
    """A cluster that is up.

    Attributes:
        address: To join.
        mark: What all of its processes have in their environment.
    """

    address: str
    mark: str


@contextmanager
def autoscaling(
    folder: Path, port: int, head_cpus: float, types: Mapping[str, NodeType], idle_s: float
) -> Iterator[FakeCluster]:
    """Starts the head and its autoscaler, version 2, which looks every second; all has ended when the context is left.

    Args:
        folder: Takes Ray's files; a short path, as sockets are in it.
        port: Of Ray's control service.
        head_cpus: Logical CPUs of the head.
        types: Nodes that may come, by name.
        idle_s: Seconds after which a node that nobody uses goes.
    """
    mark, address = uuid.uuid4().hex, f"{get_node_ip_address()}:{port}"
    config = folder / "autoscaler.json"
    config.write_text(json.dumps(_configuration(address, head_cpus, types, idle_s)), encoding="utf-8")
    environment = os.environ | {
        MARK: mark,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_autoscaler_v2": "1",
    }
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", f"--port={port}"),
        *(f"--num-cpus={head_cpus:g}", f"--object-store-memory={STORE}", f"--temp-dir={folder / 'ray'}"),
        *("--include-dashboard=false", f"--autoscaling-config={config}"),
    ]
    try:
        with (folder / "ray-start.txt").open("wb") as log:
            subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)  # noqa: S603 - ours
        yield FakeCluster(address, mark)
    finally:
        _end(mark)


def _configuration(address: str, head_cpus: float, types: Mapping[str, NodeType], idle_s: float) -> dict[str, Any]:
    workers = {
        name: {
            "resources": {"CPU": kind.cpus, "object_store_memory": STORE},
            "labels": dict(kind.labels),
            "node_config": {},
            "min_workers": 0,
            "max_workers": kind.most,
        }
        for name, kind in types.items()
    }
    head = {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0}
    module = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    return {
        "cluster_name": "fake",
        "max_workers": sum(kind.most for kind in types.values()),
        "provider": {
            "type": "external",
            "module": module,
            "gcs_address": address,
            "head_node_id": HEAD,
            "launch_multiple": True,
        },
        "available_node_types": {**workers, "ray.head.default": head},
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_s / 60,
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in _EMPTY_LISTS},
    }


def _end(mark: str) -> None:
    """Ends the processes with this mark, and those that they start meanwhile.

    Raises:
        RuntimeError: if some do not end.
    """
    deadline = time.monotonic() + END_S
    while left := marked(mark):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(left)} processes of the cluster do not end: {left}")
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.2)


def marked(mark: str) -> list[psutil.Process]:
    """The living processes with this mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as listening:
        listening.bind(("", 0))
        return listening.getsockname()[1]

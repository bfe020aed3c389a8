"""What machines offer: this one to a local Ray, or the nodes of a cluster, asked in a process of their own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from advdmd_ray.config import Config
from advdmd_ray.runs.doctor.finding import Finding, some
from advdmd_ray.runs.lasting import Mark
from advdmd_ray.runs.needs.amounts import amount
from advdmd_ray.runs.needs.memory import GIB

GPU_GIB: Mapping[str, int] = {
    "T4": 16,
    "L4": 24,
    "A10G": 24,
    "L40S": 48,
    "A100-40G": 40,
    "A100-80G": 80,
    "H100": 80,
    "H200": 141,
}
"""Memory of GPUs that Ray names, where the name says it: there are A100 and V100 of two sizes."""
HERE = "this machine"
"""Name of the one node of a local Ray."""
_ACCELERATOR = "accelerator_type:"


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine offers to a run.

    Attributes:
        name: Its host name.
        cpus: Logical CPUs.
        gpus: GPUs.
        memory: Host memory for workers, bytes.
        object_store: Memory of its object store, bytes.
        gpu: Kind of its GPUs; empty if it has none or does not say.
        gpu_memory: Of one GPU, bytes; None if unknown.
        sees: Whether it sees the folder of the runs; None if it was not asked or did not say.
        labels: Its labels in Ray.
    """

    name: str
    cpus: float
    gpus: float
    memory: float
    object_store: float
    gpu: str = ""
    gpu_memory: float | None = None
    sees: bool | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def node_of(
    name: str, resources: Mapping[str, float], *, sees: bool | None = None, labels: Mapping[str, str] | None = None
) -> Node:
    """A node by Ray's own names of its resources."""
    kinds = [key.removeprefix(_ACCELERATOR) for key in resources if key.startswith(_ACCELERATOR)]
    gpus = resources.get("GPU", 0.0)
    kind = kinds[0] if kinds and gpus else ""
    return Node(
        name=name,
        cpus=resources.get("CPU", 0.0),
        gpus=gpus,
        memory=resources.get("memory", 0.0),
        object_store=resources.get("object_store_memory", 0.0),
        gpu=kind,
        gpu_memory=GPU_GIB[kind] * GIB if kind in GPU_GIB else None,
        sees=sees,
        labels=labels or {},
    )


def this_machine(object_store: int, *, gpus: bool) -> Node:
    """What a local Ray can take: the CPUs that this process may use, free memory, and its GPUs.

    Args:
        object_store: Bytes of the run's object store, which comes out of free memory too.
        gpus: Whether to ask torch for GPUs, which takes seconds.
    """
    count, kind, size = _gpus_here() if gpus else (0, "", None)
    cpus, free = len(os.sched_getaffinity(0)), psutil.virtual_memory().available
    return Node(HERE, cpus, count, free, object_store, kind, size)


def _gpus_here() -> tuple[int, str, int | None]:
    import torch  # noqa: PLC0415 - takes seconds

    if not torch.cuda.is_available():
        return 0, "", None
    return torch.cuda.device_count(), torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory


def ask_cluster(address: str, deadline_s: float, mark: Mark | None = None) -> tuple[Finding, tuple[Node, ...]]:
    """Join a cluster for a moment and list its living nodes, in a process that can be ended.

    Args:
        address: As for a run.
        deadline_s: Seconds in which the answer must be there.
        mark: Of the folder of the runs, which each node is asked for; None: it is not.
    """
    look = ("", "") if mark is None else (str(mark.file), mark.text)
    command = [sys.executable, "-m", "advdmd_ray.runtime.offer", address, *look]
    # The same default as that of `advdmd run`.
    environment = {"RAY_AUTH_MODE": "token", **os.environ}
    try:
        answer = subprocess.run(  # noqa: S603 - no shell
            command, capture_output=True, text=True, timeout=deadline_s, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        text = f"{address} did not answer in {deadline_s:g} s; is the head up and reachable?"
        return Finding("ray", "change", text), ()
    if answer.returncode:
        lines = [line for line in answer.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"exit code {answer.returncode}"
        return Finding("ray", "change", re.sub(r"\x1b\[[0-9;]*m", "", reason)), ()
    listed: list[dict[str, Any]] = json.loads(answer.stdout.splitlines()[-1])
    nodes = tuple(
        node_of(node["name"], node["resources"], sees=node.get("sees"), labels=node.get("labels")) for node in listed
    )
    return Finding("ray", "ok", f"{address} answers: {offer_text(nodes)}"), nodes


def offer_text(nodes: tuple[Node, ...]) -> str:
    """What all nodes offer together."""
    kinds = ", ".join(sorted({node.gpu for node in nodes if node.gpu}))
    gpus = f"{sum(node.gpus for node in nodes):g} GPUs" + (f" ({kinds})" if kinds else "")
    return (
        f"{some(len(nodes), 'node')} with {sum(node.cpus for node in nodes):g} CPUs, {gpus}, "
        f"{amount(sum(node.memory for node in nodes))} of memory and "
        f"{amount(sum(node.object_store for node in nodes))} of object store"
    )


def examine_sight(config: Config, nodes: Sequence[Node], *, everywhere: bool = True) -> Finding | None:
    """Whether a learner rank can be where the folder of the runs is seen; None if no node was asked.

    Args:
        config: The configuration.
        nodes: Those that take learner ranks.
        everywhere: Whether these are all nodes.
    """
    told = [node for node in nodes if node.sees is not None]
    if not told:
        return None
    blind = sorted({node.name for node in told if not node.sees})
    if not blind:
        which = "every node" if everywhere else "every node that takes learner ranks"
        return Finding("sight", "ok", f"{which} sees {config.run.output}")
    learner, names = config.learner, ", ".join(blind)
    homes = [node for node in nodes if node.cpus >= learner.num_cpus and node.gpus >= learner.num_gpus]
    if homes and all(node.sees is False for node in homes):
        text = (
            f"no node with room for a learner rank sees {config.run.output}; set run.output to a folder that they share"
        )
        return Finding("sight", "change", text)
    text = f"{names} does not see {config.run.output}: a learner rank that is placed there ends the start"
    return Finding("sight", "note", text)

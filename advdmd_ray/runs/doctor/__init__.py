"""`advdmd doctor`: looks at machine, packages, cluster and configuration, and says in plain words what to change.

Nothing is loaded and nothing is left behind; a cluster is joined for a moment, by a process of its own.
"""

import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from advdmd_ray.config import Config
from advdmd_ray.data.registry import source_of
from advdmd_ray.errors import UserError
from advdmd_ray.runs.doctor.balance import examine_balance
from advdmd_ray.runs.doctor.finding import Finding, verdict_text
from advdmd_ray.runs.doctor.machine import (
    examine_authentication,
    examine_cuda,
    examine_packages,
    examine_python,
    examine_shared_memory,
)
from advdmd_ray.runs.doctor.nodes import Node, ask_cluster, this_machine
from advdmd_ray.runs.doctor.roles import examine_memory, examine_placement, examine_roles, examine_store
from advdmd_ray.runs.folder import check_writable
from advdmd_ray.runs.needs.memory import placement, ray_address, reserved, sizes_of
from advdmd_ray.runs.preflight import check_model

RAY_DEADLINE_S = 60.0

__all__ = ["Finding", "examine", "verdict_text"]


def examine(config: Config, *, ray_deadline_s: float = RAY_DEADLINE_S) -> list[Finding]:
    """Look at everything a run with this configuration needs. Starts no Ray and leaves nothing behind.

    Args:
        config: The configuration whose model, data, port, folders, memory and placement are checked.
        ray_deadline_s: Seconds a cluster has to answer.
    """
    packages = examine_packages(importlib.metadata.requires("advdmd-ray") or [])
    findings = [examine_python(sys.version_info[:3]), packages]
    if packages.state == "change":
        return findings
    from advdmd_ray.metrics.hub import check_port_free  # noqa: PLC0415 - prometheus_client may be what is missing

    findings.append(_obstacle("pipeline", config.model.path, lambda: check_model(config)))
    findings.append(_obstacle("data", config.data.source, lambda: source_of(config).check()))
    findings.append(_obstacle("run folder", str(config.folder), lambda: check_writable(config.folder)))
    findings.append(
        _obstacle(
            "metrics",
            f"http://{config.metrics.host}:{config.metrics.port}/metrics is free",
            lambda: check_port_free(config.metrics.host, config.metrics.port),
        )
    )
    address = ray_address(config)
    findings.append(examine_authentication(os.environ.get("RAY_AUTH_MODE"), joins=address is not None))
    if address is None:
        findings.append(Finding("ray", "ok", "no address given: the run starts a local Ray and stops it"))
        findings.append(examine_shared_memory(config, Path("/dev/shm")))  # noqa: S108 - where Ray's object store lives
        nodes: Sequence[Node] = (this_machine(config.ray.object_store_bytes, gpus=reserved(placement(config))[1] > 0),)
    else:
        found, nodes = ask_cluster(address, ray_deadline_s)
        findings.append(found)
    findings += _examine_plan(config, nodes)
    cuda = examine_cuda(config, joins=address is not None)
    return findings if cuda is None else [*findings, cuda]


def _examine_plan(config: Config, nodes: Sequence[Node]) -> list[Finding]:
    """What the run needs against what is there; a cluster that did not answer offers nothing to compare with."""
    findings = [examine_placement(config, nodes)] if nodes else []
    try:
        sizes = sizes_of(config)
    except UserError:
        return [*findings, Finding("memory", "note", "no estimate without an intact pipeline")]
    if nodes:
        findings += [*examine_roles(config, sizes, nodes), examine_memory(config, sizes, nodes)]
        findings.append(examine_store(config, sizes, nodes))
    return [*findings, examine_balance(config, sizes.network)]


def _obstacle(subject: str, text: str, check: Callable[[], object]) -> Finding:
    try:
        check()
    except UserError as error:
        return Finding(subject, "change", str(error))
    return Finding(subject, "ok", text)

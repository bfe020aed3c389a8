"""`advdmd doctor`: looks at machine, packages, cluster and configuration, and says in plain words what to change.

Nothing is loaded and nothing is left behind; a cluster is joined for a moment, by a process of its own.
"""

import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.runs.doctor.balance import examine_balance
from advdmd_ray.runs.doctor.finding import Finding, verdict_text
from advdmd_ray.runs.doctor.labels import examine_labels, homes_of
from advdmd_ray.runs.doctor.machine import (
    examine_authentication,
    examine_cuda,
    examine_packages,
    examine_python,
    examine_shared_memory,
)
from advdmd_ray.runs.doctor.nodes import Node, ask_cluster, examine_sight, this_machine
from advdmd_ray.runs.doctor.roles import examine_memory, examine_placement, examine_roles, examine_store, examine_texts
from advdmd_ray.runs.folder import plan_start
from advdmd_ray.runs.lasting import marked
from advdmd_ray.runs.needs.disk import check_disk
from advdmd_ray.runs.needs.memory import placement, ray_address, reserved, sizes_of
from advdmd_ray.runs.outputs import check_writable
from advdmd_ray.runs.preflight import checks

RAY_DEADLINE_S = 60.0
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Ray's object store lives

__all__ = ["Finding", "examine", "examine_room", "room_text", "verdict_text"]


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
    for one in checks(config):
        finding = _obstacle(one.subject, one.found, one.look)
        # What ails the pipeline as a whole is not said again of everything that is compared with it.
        if finding.text not in {found.text for found in findings if found.state == "change"}:
            findings.append(finding)
    findings.append(_earlier_run(config))
    findings.append(_port(config))
    address = ray_address(config)
    findings.append(examine_authentication(os.environ.get("RAY_AUTH_MODE"), joins=address is not None))
    if address is None:
        findings.append(Finding("ray", "ok", "no address given: the run starts a local Ray and stops it"))
        findings.append(examine_shared_memory(config, SHARED_MEMORY))
        nodes: Sequence[Node] = (this_machine(config.ray.object_store_bytes, gpus=reserved(placement(config))[1] > 0),)
    else:
        found, nodes = _asked(config, address, ray_deadline_s)
        findings.append(found)
        homes = homes_of(config, nodes)["learner"]
        seen = examine_sight(config, homes, everywhere=len(homes) == len(nodes)), examine_labels(config, nodes)
        findings += [finding for finding in seen if finding is not None]
    findings += _examine_plan(config, nodes)
    cuda = examine_cuda(config, joins=address is not None)
    return findings if cuda is None else [*findings, cuda]


def _asked(config: Config, address: str, deadline_s: float) -> tuple[Finding, tuple[Node, ...]]:
    """What a cluster offers, and which of its nodes see the folder of the runs, if this one can write there."""
    output = Path(config.run.output)
    try:
        check_writable(output)
    except UserError:
        return ask_cluster(address, deadline_s)
    with marked(output, "run.output") as mark:
        return ask_cluster(address, deadline_s, mark)


def examine_room(config: Config, *, local: bool = False) -> list[Finding]:
    """Whether this machine has the cores, GPUs, memory and port that a run takes; a cluster is not asked.

    Args:
        config: The configuration, whose pipeline is intact.
        local: Whether one process is the whole run, which reserves nothing.
    """
    address = None if local else ray_address(config)
    if address is not None:
        return [
            Finding("ray", "note", f"the cluster at {address} is not asked; advdmd doctor asks what its nodes have")
        ]
    gpus = reserved(placement(config))[1] > 0
    here = this_machine(0 if local else config.ray.object_store_bytes, gpus=gpus)
    sizes, findings = sizes_of(config), [_port(config), _disk(config), examine_texts(config)]
    if local:
        findings.append(examine_memory(config, sizes, [here], processes=False))
    else:
        findings += [examine_placement(config, [here]), *examine_roles(config, sizes, [here])]
        findings += [examine_memory(config, sizes, [here]), examine_store(config, sizes, [here])]
        findings.append(examine_shared_memory(config, SHARED_MEMORY))
    cuda = examine_cuda(config, joins=False)
    return findings if cuda is None else [*findings, cuda]


def room_text(findings: Sequence[Finding]) -> str:
    """What `examine_room` found that a reader should know, and whether a run has room here."""
    lines = [f"  {finding.subject:<14}{finding.text}" for finding in findings if finding.state != "ok"]
    lacks = sum(finding.state == "change" for finding in findings)
    if lacks:
        last = "The configuration is valid, and this machine is too small for it: see above what it lacks."
    elif any(finding.subject == "ray" for finding in findings):
        last = "The configuration is valid."
    else:
        last = "The configuration is valid, and this machine has room for it."
    return "\n".join([*(["this machine", *lines, ""] if lines else []), last])


def _disk(config: Config) -> Finding:
    try:
        return Finding("disk", "ok", check_disk(config))
    except UserError as error:
        return Finding("disk", "change", str(error))


def _port(config: Config) -> Finding:
    from advdmd_ray.metrics.hub import check_port_free  # noqa: PLC0415 - prometheus_client may be what is missing

    host, port = config.metrics.host, config.metrics.port
    return _obstacle("metrics", f"http://{host}:{port}/metrics is free", lambda: check_port_free(host, port))


def _examine_plan(config: Config, nodes: Sequence[Node]) -> list[Finding]:
    """What the run needs against what is there; a cluster that did not answer offers nothing to compare with."""
    findings = [examine_placement(config, nodes)] if nodes else []
    try:
        sizes = sizes_of(config)
    except UserError:
        return [*findings, Finding("memory", "note", "no estimate without an intact pipeline")]
    findings += [_disk(config), examine_texts(config)]
    if nodes:
        findings += [*examine_roles(config, sizes, nodes), examine_memory(config, sizes, nodes)]
        findings.append(examine_store(config, sizes, nodes))
    return [*findings, examine_balance(config, sizes.network)]


def _earlier_run(config: Config) -> Finding:
    """Whether the run folder is free; one that is not needs a choice of the user's."""
    try:
        start = plan_start(config.folder, None, fresh=False)
    except UserError as error:
        return Finding("start", "note", str(error))
    return Finding("start", "ok", start.note)


def _obstacle(subject: str, text: str, check: Callable[[], object]) -> Finding:
    try:
        check()
    except UserError as error:
        return Finding(subject, "change", str(error))
    return Finding(subject, "ok", text)

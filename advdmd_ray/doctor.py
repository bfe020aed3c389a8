"""`advdmd doctor`: looks at the machine, the packages and Ray, and says in plain words what to change."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.estimate import GIB, placement, ray_address, reserved, sizes_of, total_bytes
from advdmd_ray.preflight import check_model, check_writable

OLDEST_PYTHON, FIRST_UNTRIED_PYTHON = (3, 11), (3, 13)
RAY_DEADLINE_S = 15.0
_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)(\[[^]]*\])?(>=(?P<least>[0-9.]+))?$")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        subject: What was looked at.
        state: `ok`; `note`: works, and here is what to know; `change`: a run would fail.
        text: What was found and, for a change, what to do.
    """

    subject: str
    state: Literal["ok", "note", "change"]
    text: str


def examine(config: Config, *, ray_deadline_s: float = RAY_DEADLINE_S) -> list[Finding]:
    """Look at everything a run with this configuration needs. Starts no Ray and leaves nothing behind.

    Args:
        config: The configuration whose model, port, folders and placement are checked.
        ray_deadline_s: Seconds a cluster has to answer.
    """
    packages = examine_packages(importlib.metadata.requires("advdmd-ray") or [])
    findings = [examine_python(sys.version_info[:3]), packages]
    if packages.state == "change":
        return findings
    from advdmd_ray.metrics import check_port_free  # noqa: PLC0415 - prometheus_client may be what is missing

    findings.append(_obstacle("pipeline", config.model.path, lambda: check_model(config)))
    findings.append(_obstacle("run folder", str(config.folder), lambda: check_writable(config.folder)))
    findings.append(
        _obstacle(
            "metrics",
            f"http://{config.metrics.host}:{config.metrics.port}/metrics is free",
            lambda: check_port_free(config.metrics.host, config.metrics.port),
        )
    )
    address = ray_address(config)
    if address is None:
        findings.append(Finding("ray", "ok", "no address given: the run starts a local Ray and stops it"))
        findings.append(examine_placement(config, len(os.sched_getaffinity(0))))
        findings.append(examine_memory(config, psutil.virtual_memory().available))
        findings.append(examine_shared_memory(config, Path("/dev/shm")))  # noqa: S108 - where Ray's object store lives
    else:
        findings.append(examine_cluster(address, ray_deadline_s))
    findings.append(examine_authentication(os.environ.get("RAY_AUTH_MODE"), joins=address is not None))
    return findings


def verdict_text(findings: list[Finding]) -> str:
    """The findings as lines and, last, the verdict."""
    width = max(len(finding.subject) for finding in findings)
    lines = [f"{finding.state:<6}  {finding.subject:<{width}}  {finding.text}" for finding in findings]
    changes = sum(finding.state == "change" for finding in findings)
    if not changes:
        verdict = "Ready: a run with this configuration can start here."
    elif changes == 1:
        verdict = "Not ready: make the one change above."
    else:
        verdict = f"Not ready: make the {changes} changes above."
    return "\n".join([*lines, "", verdict])


def _obstacle(subject: str, text: str, check: Callable[[], object]) -> Finding:
    try:
        check()
    except UserError as error:
        return Finding(subject, "change", str(error))
    return Finding(subject, "ok", text)


def examine_python(version: tuple[int, int, int]) -> Finding:
    """Python must be one that the package is tested with."""
    text = ".".join(str(part) for part in version)
    if OLDEST_PYTHON <= version[:2] < FIRST_UNTRIED_PYTHON:
        return Finding("python", "ok", text)
    return Finding("python", "change", f"{text}; use 3.11 or 3.12, such as make venv PYTHON=python3.11")


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version, without a local or pre-release part."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def examine_packages(requirements: list[str]) -> Finding:
    """Every required package must be installed, and not older than its lower bound.

    Args:
        requirements: In the form of package metadata, such as `ray[default]>=2.60`; those of extras are skipped.
    """
    faults, shown = [], []
    for requirement in (text for text in requirements if "extra ==" not in text):
        parts = _REQUIREMENT.match(requirement.replace(" ", ""))
        if parts is None:
            raise ValueError(f"a requirement in a form that is not read here: {requirement}")
        name, least = parts["name"], parts["least"]
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"{name} is missing")
            continue
        if least and _numbers(version) < _numbers(least):
            faults.append(f"{name} is {version}, needed is {least} or later")
        if name in {"torch", "ray", "deepspeed", "diffusers"}:
            shown.append(f"{name} {version}")
    if faults:
        return Finding("packages", "change", "; ".join(faults) + "; run make venv, or pip install -c constraints.txt .")
    return Finding("packages", "ok", ", ".join(shown))


def examine_placement(config: Config, cores: int) -> Finding:
    """All workers together must fit the logical CPUs of a local Ray, and should not crowd the cores."""
    rows = placement(config)
    cpus, _ = reserved(rows)
    processes = sum(row.workers for row in rows)
    text = f"{processes} worker processes ask for {cpus:g} of {cores} CPUs"
    if cpus > cores:
        return Finding("placement", "change", f"{text}; lower the num_cpus of a role, or rollout.actors")
    threads = (
        config.rollout.actors * config.rollout.threads
        + config.reward.workers * config.reward.threads
        + config.learner.ranks * config.learner.threads
    )
    if threads > 2 * cores:
        return Finding("placement", "note", f"{text}; together they compute with {threads} threads")
    return Finding("placement", "ok", text)


def examine_memory(config: Config, available: int) -> Finding:
    """Networks, optimizer states and the object store must fit into free memory."""
    try:
        needed = total_bytes(config, sizes_of(config))
    except UserError:
        return Finding("memory", "note", f"{available / GIB:.1f} GiB free; no estimate without an intact pipeline")
    text = f"about {needed / GIB:.1f} GiB needed before activations, {available / GIB:.1f} GiB free"
    if needed > available:
        return Finding("memory", "change", f"{text}; lower ray.object_store_bytes, rollout.actors or learner.ranks")
    return Finding("memory", "ok", text)


def examine_shared_memory(config: Config, folder: Path) -> Finding:
    """Ray's object store lives in /dev/shm; where that is too small, Ray falls back to a slow folder on disk."""
    if not folder.is_dir():
        return Finding("object store", "note", f"no {folder}: Ray keeps it on disk, which is slow")
    free = shutil.disk_usage(folder).free
    if free < config.ray.object_store_bytes:
        return Finding(
            "object store",
            "note",
            f"{free / GIB:.2f} GiB free in {folder}, less than ray.object_store_bytes: Ray keeps it on disk, which is "
            "slow; lower ray.object_store_bytes, or give a container more (docker run --shm-size=1g)",
        )
    return Finding("object store", "ok", f"{free / GIB:.2f} GiB free in {folder}")


def examine_cluster(address: str, deadline_s: float) -> Finding:
    """Ask the cluster's head whether it is there, through Ray's own command in a process that can be ended."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    command += [] if address == "auto" else ["--address", address]
    # The same default as that of `advdmd run`.
    environment = {"RAY_AUTH_MODE": "token", **os.environ}
    try:
        answer = subprocess.run(  # noqa: S603 - no shell
            command, capture_output=True, text=True, timeout=deadline_s, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return Finding("ray", "change", f"{address} did not answer in {deadline_s:g} s; is the head up and reachable?")
    if answer.returncode == 0:
        return Finding("ray", "ok", f"{address} answers; its resources are checked when the run starts")
    lines = [line for line in answer.stderr.splitlines() if line.strip()]
    reason = lines[-1].strip() if lines else f"exit code {answer.returncode}"
    return Finding("ray", "change", f"{address}: {reason}; start it with ray start --head, or unset RAY_ADDRESS")


def examine_authentication(mode: str | None, *, joins: bool) -> Finding:
    """Whether Ray's token authentication is on here; both sides of a connection must agree.

    Ray 2.60 switches tokens on for a local cluster that `ray.init` starts, and for `ray start` where a token exists.
    """
    if mode is None and joins:
        return Finding(
            "ray auth",
            "note",
            "RAY_AUTH_MODE is not set: advdmd run will use RAY_AUTH_MODE=token; set it to disabled for a cluster "
            "without tokens",
        )
    if mode is None:
        return Finding("ray auth", "ok", "RAY_AUTH_MODE is not set: a local Ray makes and uses a token by itself")
    if mode.lower() in {"token", "disabled"}:
        return Finding("ray auth", "ok", f"RAY_AUTH_MODE={mode}; every client of the cluster needs the same")
    return Finding("ray auth", "change", f"RAY_AUTH_MODE={mode} is unknown to Ray; set it to token or disabled")

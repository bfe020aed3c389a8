"""Python, packages, CUDA, shared memory and Ray's authentication on this machine."""

import importlib.metadata
import re
import shutil
from pathlib import Path

from advdmd_ray.config import Config
from advdmd_ray.runs.doctor.finding import Finding
from advdmd_ray.runs.needs.amounts import amount

OLDEST_PYTHON, FIRST_UNTRIED_PYTHON = (3, 11), (3, 13)
_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)(\[[^]]*\])?(>=(?P<least>[0-9.]+))?$")


def examine_python(version: tuple[int, int, int]) -> Finding:
    """Python must be one that the package is tested with."""
    text = ".".join(str(part) for part in version)
    if OLDEST_PYTHON <= version[:2] < FIRST_UNTRIED_PYTHON:
        return Finding("python", "ok", text)
    return Finding(
        "python", "change", f"{text}; install into 3.11 or 3.12; in a checkout by make venv PYTHON=python3.11"
    )


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
        remedy = "install the package's wheel again by pip, which brings them, or run make venv in a checkout"
        return Finding("packages", "change", f"{'; '.join(faults)}; {remedy}")
    return Finding("packages", "ok", ", ".join(shown))


def examine_cuda(config: Config, *, joins: bool) -> Finding | None:
    """Where workers ask for GPUs, torch must see one; None where no worker does. Imports torch, which takes seconds.

    Args:
        config: The configuration.
        joins: Whether the workers run in a cluster, on nodes whose torch cannot be seen from here.
    """
    asking = [f"{name}.num_gpus" for name, role in config.roles.items() if role.num_gpus]
    if not asking:
        return None
    import torch  # noqa: PLC0415 - takes seconds

    if torch.cuda.is_available():
        return Finding("cuda", "ok", f"torch {torch.__version__} sees {torch.cuda.device_count()} of them here")
    lacks = "sees no GPU here" if torch.version.cuda else "is a build without CUDA"
    text = f"torch {torch.__version__} {lacks}"
    if joins:
        return Finding("cuda", "note", f"{text}; the cluster's nodes with GPUs need a CUDA build of their own")
    remedy = "check the driver by nvidia-smi" if torch.version.cuda else "install a CUDA build of torch"
    return Finding("cuda", "change", f"{text}; {remedy}, or set {', '.join(asking)} to 0")


def examine_shared_memory(config: Config, folder: Path) -> Finding:
    """Ray's object store lives in /dev/shm; where that is too small, Ray falls back to a slow folder on disk."""
    if not folder.is_dir():
        return Finding("shared memory", "note", f"no {folder}: Ray keeps it on disk, which is slow")
    free = shutil.disk_usage(folder).free
    if free < config.ray.object_store_bytes:
        return Finding(
            "shared memory",
            "note",
            f"{amount(free)} free in {folder}, less than ray.object_store_bytes: Ray keeps it on disk, which is "
            "slow; lower ray.object_store_bytes, or give a container more (docker run --shm-size=1g)",
        )
    return Finding("shared memory", "ok", f"{amount(free)} free in {folder}")


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

"""What figures come from: the host, the versions of the packages, the commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = (
    "advdmd-ray",
    "torch",
    "ray",
    "deepspeed",
    "diffusers",
    "transformers",
    "safetensors",
    "pyarrow",
    "numpy",
    "scikit-learn",
    "prometheus-client",
)


def made_here() -> dict[str, Any]:
    """What a result carries about its making: `{"commit", "machine", "versions"}`."""
    return {"commit": git_commit(), "machine": machine_facts(), "versions": package_versions()}


def machine_facts() -> dict[str, str | int | float]:
    """Host facts that figures depend on: system, processor, usable cores, memory in GiB, Python."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
    }


def usable_cores() -> int:
    """Cores that this process may use, where the system says so, else all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that figures depend on; nothing is imported."""
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit(folder: Path | None = None) -> str:
    """Commit of the checkout that `folder` (default: this package) is tracked in, `-dirty` if it has changes.

    `unknown` elsewhere, such as in an environment that stands inside somebody's checkout, or without git.
    """
    where = Path(__file__).parent if folder is None else Path(folder)
    if not _git(where, "ls-files", "."):
        return "unknown"
    return _git(where, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or "unknown"


def _git(folder: Path, *arguments: str) -> str:
    """What git answers; empty if it fails."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603 - fixed
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

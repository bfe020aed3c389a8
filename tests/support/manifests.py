"""The RayJobs under deploy/, read for tests."""

import functools
import shlex
from pathlib import Path
from typing import Any

import yaml

from advdmd_ray.cli import parse_arguments
from advdmd_ray.config import Config, read_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
JOBS = ("rayjob.yaml", "rayjob-gpu.yaml")
NAMED_BY = ("name", "groupName")
"""What tells the items of a list apart."""


@functools.cache
def rayjob(file: str) -> dict[str, Any]:
    """As it is in the file; to be copied by those who change it."""
    return yaml.safe_load((DEPLOY / file).read_text())


def cluster(file: str) -> dict[str, Any]:
    return rayjob(file)["spec"]["rayClusterSpec"]


def groups(file: str) -> dict[str, dict[str, Any]]:
    """The head and the worker groups by their names."""
    spec = cluster(file)
    return {"head": spec["headGroupSpec"], **{group["groupName"]: group for group in spec["workerGroupSpecs"]}}


def pods(file: str) -> dict[str, dict[str, Any]]:
    """The pod of each group, as `spec` of a pod has it."""
    return {name: group["template"]["spec"] for name, group in groups(file).items()}


def submitted(entrypoint: str, *more: str) -> Config:
    """The configuration of a command that is run in the image."""
    words = shlex.split(entrypoint)
    assert words[:3] == ["python", "-m", "advdmd_ray.run"]
    args = parse_arguments(["run", *words[3:]])
    config = Path(args.config)
    assert config.is_relative_to("/app")
    return read_config(ROOT / config.relative_to("/app"), [*args.overrides, *more])


def missing(part: Any, whole: Any, path: str = "") -> list[str]:
    """Where a part of a manifest does not stand in the whole; items of a list are found by their names."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return [
            line
            for key, value in part.items()
            for line in (missing(value, whole[key], f"{path}.{key}") if key in whole else [f"{path}.{key}: absent"])
        ]
    if isinstance(part, list) and isinstance(whole, list):
        items = {item[key]: item for item in whole for key in NAMED_BY if key in item}
        named = [(next(item[key] for key in NAMED_BY if key in item), item) for item in part]
        return [line for name, item in named for line in missing(item, items.get(name, {}), f"{path}[{name}]")]
    return [] if part == whole else [f"{path}: {whole!r} is there, {part!r} is said"]

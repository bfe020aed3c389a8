"""What a run gives its sinks, and what it refuses before anything starts."""

import importlib.metadata
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.metrics.series import Sample
from advdmd_ray.metrics.sinks import tensorboard_sink, wandb_sink
from advdmd_ray.metrics.sinks.point import Point
from advdmd_ray.runs import sinks
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.preflight import checks
from advdmd_ray.runs.sinks import DrawnPictures, check_sinks, environment, following


def config(folder: Path, *names: str) -> Config:
    return Config.model_validate(
        {"run": {"name": "run", "output": str(folder)}, "model": {"path": "teacher"}, "metrics": {"sinks": names}}
    )


def test_no_sink_is_the_default_and_a_name_twice_is_refused(tmp_path: Path) -> None:
    assert config(tmp_path).metrics.sinks == ()
    assert "sinks" not in [check.subject for check in checks(config(tmp_path))]
    assert "sinks" in [check.subject for check in checks(config(tmp_path, "wandb"))]
    with pytest.raises(ValidationError, match="names a sink twice"):
        config(tmp_path, "wandb", "wandb")


def test_a_sink_whose_package_is_missing_is_refused_before_w_and_b_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def version(package: str) -> str:
        if package in missing:
            raise importlib.metadata.PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(wandb_sink, "check_login", lambda: asked.append("login"))
    both = config(tmp_path, "tensorboard", "wandb")
    for name in ("tensorboard", "wandb"):
        missing = {name}
        with pytest.raises(UserError, match=rf"needs the package {name}, .* run `pip install {name}`"):
            check_sinks(both)
    assert asked == []
    missing = set()
    check_sinks(config(tmp_path, "tensorboard"))
    assert asked == []
    check_sinks(both)
    assert asked == ["login"]


def test_only_what_w_and_b_reads_of_the_environment_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("AWS_SECRET", "s")
    assert environment()["WANDB_MODE"] == "offline"
    assert all(name.startswith("WANDB_") for name in environment())


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_grids_go_with_their_cycle_and_a_comparison_only_if_this_run_drew_it(tmp_path: Path, suffix: str) -> None:
    folder = RunFolder(tmp_path)
    pictures = DrawnPictures(folder)
    assert pictures.of(15) == pictures.last(0.0) == {}
    grid, comparison = folder.grid(15).with_suffix(suffix), folder.comparison.with_suffix(suffix)
    grid.parent.mkdir()
    grid.write_bytes(b"grid")
    comparison.write_bytes(b"comparison")
    assert pictures.of(15) == {"samples/grid": b"grid"}
    for number in (0, 1):
        validation = folder.validation(16, number).with_suffix(suffix)
        validation.parent.mkdir(exist_ok=True)
        validation.write_bytes(b"%d" % number)
    assert pictures.of(16) == {"samples/validation/1": b"0", "samples/validation/2": b"1"}
    assert pictures.of(17) == {}
    now = time.time()
    os.utime(comparison, (now, now))
    assert pictures.last(now - 1) == {"samples/comparison": b"comparison"}
    assert pictures.last(now + 1) == {}


class Shown:
    """Stands for both sinks, and keeps what they are opened with."""

    opened: list[tuple[Any, ...]]
    points: list[Point]

    def __init__(self, *given: Any) -> None:
        self.opened.append(given)
        self.first = 0

    def write(self, point: Point) -> None:
        self.points.append(point)

    def close(self) -> None: ...


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> type[Shown]:
    Shown.opened, Shown.points = [], []
    monkeypatch.setattr(tensorboard_sink, "TensorboardSink", Shown)
    monkeypatch.setattr(wandb_sink, "WandbSink", Shown)
    return Shown


def test_each_sink_has_its_folder_the_configuration_and_the_versions(tmp_path: Path, shown: type[Shown]) -> None:
    run = config(tmp_path, "tensorboard", "wandb")
    folder = RunFolder(run.folder)
    run.folder.mkdir()
    with MetricsHub(folder.metrics) as hub, following(run, folder, hub.cycle):
        hub.record([Sample.of("advdmd_run_cycle", 0)], 0)
    by_folder: dict[str, Mapping[str, Any]] = {given[0].name: given[2] for given in shown.opened}
    assert {*by_folder} == {"tensorboard", "wandb"}
    for facts in by_folder.values():
        assert facts["metrics"] == {**facts["metrics"], "sinks": ["tensorboard", "wandb"]}
        assert {"commit", "machine", "versions"} <= {*facts}
    assert [point.scalars for point in shown.points] == [{"run/advdmd_run_cycle": 0.0}] * 2
    assert (folder.sink("wandb") / "cycle.json").exists()


def test_a_run_that_fails_does_not_wait_for_its_sinks_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(sinks.Sinks, "close", lambda _, within_s=60.0: waited.append(within_s))
    run = config(tmp_path, "tensorboard")
    with pytest.raises(KeyboardInterrupt), following(run, RunFolder(run.folder), 0):
        raise KeyboardInterrupt
    with following(run, RunFolder(run.folder), 0):
        pass
    assert waited == [sinks.FAILED_S, 60.0]

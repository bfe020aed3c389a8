"""Weights & Biases: one run, its own settings, and no step twice. Nothing here reaches a network."""

import io
import json
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advdmd_ray.errors import UserError
from advdmd_ray.metrics.history import cut_back, entries_of
from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.metrics.series import Sample
from advdmd_ray.metrics.sinks.follower import Follower
from advdmd_ray.metrics.sinks.point import Point, histogram, tag_of
from advdmd_ray.metrics.sinks.wandb_sink import PROJECT, WandbSink, check_login

FACTS = {"run": {"cycles": 6}, "commit": "abc"}
LOSS = "advdmd_learner_loss"


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (90, 0, 0)).save(buffer, format=kind)
    return buffer.getvalue()


class Run:
    """What `wandb.init` gives; its server takes a step that it has no second time."""

    def __init__(self, server: dict[int, Mapping[str, Any]], step: int) -> None:
        self.server, self.step, self.finished = server, step, False

    def log(self, data: Mapping[str, Any], *, step: int, commit: bool) -> None:
        assert commit, "a row that waits for the next one shows late"
        assert step not in self.server
        assert not self.finished
        self.server[step] = data

    def finish(self) -> None:
        self.finished = True


class Wandb(ModuleType):
    """The package, online or offline."""

    def __init__(self, *, online: bool) -> None:
        super().__init__("wandb")
        self.online = online
        self.asked: list[dict[str, Any]] = []
        self.runs: list[Run] = []
        self.servers: dict[str, dict[int, Mapping[str, Any]]] = {}
        self.settings = SimpleNamespace(
            mode="online", api_key=None, identity_token_file=None, base_url="https://wandb.example"
        )
        self.torn_down = 0

    def init(self, **asked: Any) -> Run:
        assert (Path(asked["dir"]) / "wandb").is_dir(), "elsewhere it would write into a temporary folder"
        self.asked.append(asked)
        server = self.servers.setdefault(asked["id"], {}) if self.online else {}
        self.runs.append(Run(server, max(server, default=-1) + 1))
        return self.runs[-1]

    def setup(self) -> Any:
        return SimpleNamespace(settings=self.settings)

    def teardown(self) -> None:
        self.torn_down += 1

    @staticmethod
    def Settings(**settings: Any) -> Mapping[str, Any]:  # noqa: N802 - W&B's name
        return settings

    @staticmethod
    def Histogram(*, np_histogram: tuple[Sequence[int], Sequence[float]]) -> Any:  # noqa: N802 - W&B's name
        counts, edges = np_histogram
        assert len(edges) == len(counts) + 1
        return np_histogram

    @staticmethod
    def Image(image: Image.Image, *, file_type: str) -> Any:  # noqa: N802 - W&B's name
        return image.size, file_type


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    package = Wandb(online=True)
    monkeypatch.setitem(sys.modules, "wandb", package)
    return package


def test_a_point_is_one_row_of_its_step(package: Wandb, tmp_path: Path) -> None:
    sink = WandbSink(tmp_path / "wandb", "mine", FACTS)
    pictures = {"samples/grid": picture("PNG"), "samples/comparison": picture("JPEG")}
    sink.write(Point(4, 1.0, 1.0, {"learner/loss": 0.5}, {"rollout/seconds": [1.0, 2.0]}, pictures))
    sink.close()
    assert package.runs[0].server == {
        4: {
            "learner/loss": 0.5,
            "rollout/seconds": histogram([1.0, 2.0]),
            "samples/grid": ((12, 8), "png"),
            "samples/comparison": ((12, 8), "jpg"),
        }
    }
    assert package.runs[0].finished
    assert package.torn_down == 1, "the process that W&B writes with may be behind"
    (asked,) = package.asked
    assert (asked["name"], asked["project"], asked["config"], asked["resume"]) == ("mine", PROJECT, FACTS, "allow")
    assert (asked["dir"], "mode" in asked) == (str(tmp_path), False)
    assert asked["settings"] == {"console": "off", "silent": True}


def test_the_project_is_the_one_that_the_environment_names(
    package: Wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    WandbSink(tmp_path / "wandb", "mine", FACTS)
    assert package.asked[0]["project"] == "theirs"


@pytest.mark.parametrize("online", [True, False])
def test_a_resumed_run_goes_on_with_its_w_and_b_run_which_has_each_cycle_once(
    package: Wandb, tmp_path: Path, online: bool
) -> None:
    package.online = online
    path = tmp_path / "metrics.jsonl"
    for begin, end in [(0, 6), (4, 8)]:
        cut_back(path, begin, {})
        follow_a_run(path, begin, end)
    first, second = (run.server for run in package.runs)
    assert [*second] == [*range(8)], "online what was there and the rest, offline all of it once more"
    assert (first is second) == online
    assert len({asked["id"] for asked in package.asked}) == 1


def test_runs_of_other_folders_are_other_runs(package: Wandb, tmp_path: Path) -> None:
    for name in ("one", "two"):
        WandbSink(tmp_path / name / "wandb", "mine", FACTS)
    assert package.asked[0]["id"] != package.asked[1]["id"]


@pytest.mark.parametrize(
    ("known", "mode"),
    [({"api_key": "k"}, "online"), ({"identity_token_file": "f"}, "online"), ({}, "offline"), ({}, "disabled")],
)
def test_a_run_that_has_a_login_or_needs_none_may_begin(package: Wandb, known: Mapping[str, str], mode: str) -> None:
    package.settings.mode = mode
    vars(package.settings).update(known)
    check_login()
    assert package.torn_down == 1


def test_a_login_is_found_in_the_environment_and_in_netrc(
    package: Wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine wandb.example\n login user\n password k\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    check_login()
    monkeypatch.setenv("NETRC", "/nowhere")
    with pytest.raises(UserError, match=r"no login for https://wandb\.example is found; run `wandb login`"):
        check_login()
    monkeypatch.setenv("WANDB_API_KEY", "k")
    check_login()


def follow_a_run(path: Path, begin: int, end: int) -> None:
    folder = path.parent / "wandb"
    with MetricsHub(path) as hub:
        following = Follower(
            "wandb", lambda _: WandbSink(folder, "mine", FACTS), path, hub.cycle, folder / "cycle.json", Drawn()
        )
        for cycle in range(begin, end):
            hub.record([Sample.of(LOSS, cycle / 3, objective="dmd"), Sample.of("advdmd_rollout_seconds", cycle)], cycle)
        following.close()


class Drawn:
    """A run that draws a grid of cycle 2."""

    def of(self, cycle: int) -> Mapping[str, bytes]:
        return {"samples/grid": picture("PNG")} if cycle == 2 else {}

    def last(self, since: float) -> Mapping[str, bytes]:
        return {}


def history(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a run that was written offline; the file is a LevelDB log behind a head of 7 bytes."""
    records: Any = import_module("wandb.proto.wandb_internal_pb2")
    data, place, parts = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place < len(data):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = records.Record.FromString(parts)
            parts = b""
            if record.WhichOneof("record_type") == "history":
                yield {"/".join(item.nested_key): item.value_json for item in record.history.item}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package itself; a process that a failed test leaves is ended."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb: Any = import_module("wandb")
    yield
    wandb.teardown()


@pytest.mark.usefixtures("offline")
def test_what_was_written_offline_is_what_metrics_jsonl_says(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follow_a_run(path, 0, 6)
    cut_back(path, 3, {})
    follow_a_run(path, 4, 8)
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    (file,) = folders[-1].glob("*.wandb")
    rows = list(history(file))
    assert [int(row["_step"]) for row in rows] == [*range(8)]
    for entry in entries_of(path):
        for key, value in entry["values"].items():
            row, tag = rows[entry["cycle"]], tag_of(key)
            if isinstance(value, list):
                counts, edges = histogram(value)
                assert json.loads(row[f"{tag}/values"]) == counts
                assert np.allclose(json.loads(row[f"{tag}/bins"]), edges, rtol=1e-12)
            else:
                assert np.isclose(float(row[tag]), value, rtol=1e-12)
    assert ["samples/grid/path" in row for row in rows] == [cycle == 2 for cycle in range(8)]
    assert list((folders[-1] / "files" / "media").rglob("*.png"))

"""What a run on Ray says when it starts, and whose room is whose until its workers are up."""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from advdmd_ray.config import Config
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.errors import UserError
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.needs.texts import TextNeed
from advdmd_ray.runtime import cluster as cluster_module
from advdmd_ray.runtime import on_ray
from advdmd_ray.runtime.cluster import connected
from advdmd_ray.runtime.room import Bundle, ClusterRequest
from fake_cluster import FakeCluster


class Cluster:
    """Stands for Ray: two living nodes and a dead one."""

    def __init__(self, store: int) -> None:
        self._store = store

    def cluster_resources(self) -> dict[str, float]:
        return {"object_store_memory": float(self._store)}

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": True}, {"Alive": True}, {"Alive": False}]


class Shell:
    """Its workers take what room there is when they are started."""

    def __init__(self, cluster: FakeCluster, found: list[float]) -> None:
        self._cluster, self._found = cluster, found

    def start(self, *_: object) -> None:
        self._found.append(self._cluster.available_resources()["CPU"])

    def stop(self) -> None:
        pass

    backend = "nothing"


@pytest.mark.parametrize("images", [0, 3])
def test_the_room_of_a_run_is_held_until_its_workers_take_it(
    images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, found, encoded = FakeCluster([({"CPU": 3.0}, {})]), list[float](), list[float]()
    cluster.install(monkeypatch)
    monkeypatch.setattr(cluster_module, "met", lambda *_: nullcontext(True))
    monkeypatch.setattr(on_ray, "RayShell", lambda *_, **__: Shell(cluster, found))
    config = Config.model_validate(
        {
            "run": {"output": str(tmp_path)},
            "learner": {"num_cpus": 1},
            "rollout": {"actors": 1, "num_cpus": 1},
            "reward": {"num_cpus": 1},
        }
    )

    def encode(_config: Config, tasks: list[str], _places: object) -> Iterator[float]:
        yield from (cluster.available_resources()["CPU"] for _ in tasks)

    monkeypatch.setattr(on_ray, "encoded_on_ray", encode)
    monkeypatch.setattr(RunFolder, "mark", lambda _: None)
    with connected(config) as room:
        assert cluster.available_resources() == {"CPU": 0.0}
        place = on_ray.RayPlace(config, None, "", room)  # type: ignore[arg-type]
        encoded += place.encode(["shard"] * images)  # type: ignore[arg-type]
        with place.workers(None, StartClock()):
            pass
    assert encoded == [3.0] * images, "images are encoded in the room of the workers"
    assert found == [3.0]
    assert cluster.groups == []


def test_a_run_that_another_came_before_while_it_encoded_images_waits_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeCluster([({"CPU": 2.0}, {})])
    cluster.install(monkeypatch)
    monkeypatch.setattr(cluster_module, "met", lambda *_: nullcontext(True))
    monkeypatch.setattr(on_ray, "encoded_on_ray", lambda *_: iter(()))
    monkeypatch.setattr(RunFolder, "mark", lambda _: None)
    monkeypatch.setattr(on_ray, "RayShell", lambda *_, **__: Shell(cluster, []))
    config = Config.model_validate({"run": {"output": str(tmp_path)}, "rollout": {"actors": 1, "num_cpus": 1}})
    with connected(config) as room:
        place = on_ray.RayPlace(config, None, "", room)  # type: ignore[arg-type]
        list(place.encode(["shard"]))  # type: ignore[list-item]
        ClusterRequest().ask([Bundle("another's", 2.0)])
        with pytest.raises(UserError, match=r"waited 300 s for room: .* are 0 free"), place.workers(None, StartClock()):
            pytest.fail("its workers would wait for room that another has")


def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, store: int) -> str:
    monkeypatch.setattr(on_ray, "ray", Cluster(store))
    monkeypatch.setattr(on_ray, "text_need", lambda _: TextNeed(texts=4, each=2**30, folder=None, free=0))
    with caplog.at_level(logging.WARNING):
        on_ray._say_what_spills(Config(), joined=True)
    return caplog.text


def test_encoded_texts_on_every_node_fill_its_object_store_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert "groups, snapshots and texts fill 8.0 GiB of 7.0 GiB" in said(monkeypatch, caplog, 7 * 2**30)


def test_a_store_that_holds_them_is_not_spoken_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert said(monkeypatch, caplog, 9 * 2**30) == ""

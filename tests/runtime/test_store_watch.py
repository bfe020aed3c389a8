"""How full Ray's object store is, as a run tells it while its workers are up."""

import threading
from collections.abc import Sequence

import pytest
import ray
from ray.exceptions import RpcError

from advdmd_ray.metrics.series import Sample
from advdmd_ray.runtime.store_watch import store_samples, store_watched


class HubThatCounts:
    """Keeps all samples, and tells when there are enough."""

    def __init__(self, enough: int) -> None:
        self.samples: list[Sample] = []
        self._enough, self.full = enough, threading.Event()

    def record(self, samples: Sequence[Sample], cycle: int | None = None) -> None:
        assert cycle is None, "it belongs to no cycle"
        self.samples += samples
        if len(self.samples) >= self._enough:
            self.full.set()


@pytest.mark.parametrize(("available", "used"), [({"object_store_memory": 30.0}, 70.0), ({}, 100.0)])
def test_what_is_not_available_is_in_use(
    monkeypatch: pytest.MonkeyPatch, available: dict[str, float], used: float
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "object_store_memory": 100.0})
    monkeypatch.setattr(ray, "available_resources", lambda: available)
    assert {sample.name: sample.value for sample in store_samples()} == {
        "advdmd_run_object_store_bytes": used,
        "advdmd_run_object_store_capacity_bytes": 100.0,
    }


def test_where_ray_knows_of_no_store_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    assert store_samples() == []


def test_it_is_told_over_and_over_until_the_workers_are_down_though_ray_may_not_answer_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub, looks = HubThatCounts(3), list[int]()

    def look() -> list[Sample]:
        looks.append(len(looks))
        if len(looks) == 2:
            raise RpcError("the head does not answer")
        return [Sample.of("advdmd_run_object_store_bytes", len(looks))]

    with store_watched(hub, look, 0.001):
        assert hub.full.wait(30)
    told = len(hub.samples)
    assert [sample.value for sample in hub.samples[:3]] == [1, 3, 4]
    assert "stays unknown: the head does not answer" in caplog.text
    threading.Event().wait(0.02)
    assert len(hub.samples) == told

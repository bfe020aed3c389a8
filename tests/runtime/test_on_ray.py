"""What a run on Ray says when it starts."""

import logging

import pytest

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.texts import TextNeed
from advdmd_ray.runtime import on_ray


class Cluster:
    """Stands for Ray: two living nodes and a dead one."""

    def __init__(self, store: int) -> None:
        self._store = store

    def cluster_resources(self) -> dict[str, float]:
        return {"object_store_memory": float(self._store)}

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": True}, {"Alive": True}, {"Alive": False}]


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

"""A run meets Ray while the rest is imported, with a stand-in for Ray."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event
from types import ModuleType

import pytest

from advdmd_ray.config import Config
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.runtime import cluster, run
from advdmd_ray.runtime.on_ray import on_ray

CONFIG = Config()


class Ray:
    """Is up once the imports have begun, and says whether it was left."""

    def __init__(self) -> None:
        self.importing, self.left = Event(), False

    @contextmanager
    def connected(self, config: Config) -> Iterator[bool]:
        assert config is CONFIG
        assert self.importing.wait(20), "nothing is imported while Ray starts"
        try:
            yield True
        finally:
            self.left = True

    def importer(self, name: str) -> ModuleType:
        assert name.startswith("advdmd_ray.")
        self.importing.set()
        return importlib.import_module(name)

    def broken(self, name: str) -> ModuleType:
        self.importing.set()
        raise ImportError(f"no {name}")


def test_ray_starts_while_the_rest_is_imported_and_the_place_is_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, clock = Ray(), StartClock()
    monkeypatch.setattr(cluster, "connected", ray.connected)
    monkeypatch.setattr(run, "import_module", ray.importer)
    with run._on_ray(CONFIG, clock) as place:
        assert isinstance(place, partial)
        assert (place.func, place.keywords) == (on_ray, {"joined": True})
        assert set(clock.seconds) == {"imports"}
        assert not ray.left
    assert ray.left


def test_what_cannot_be_imported_ends_ray_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray()
    monkeypatch.setattr(cluster, "connected", ray.connected)
    monkeypatch.setattr(run, "import_module", ray.broken)
    with pytest.raises(ImportError, match=r"no advdmd_ray\.runtime\.launch"), run._on_ray(CONFIG, StartClock()):
        pytest.fail("there is no place")
    assert ray.left

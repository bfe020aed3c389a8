"""What meeting a cluster leaves behind in the process, with a stand-in for Ray."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from advdmd_ray.config import Config
from advdmd_ray.errors import Interrupted, UserError
from advdmd_ray.runtime import cluster
from advdmd_ray.runtime.on_ray import located


class SilentRay:
    """Takes SIGTERM as Ray does, and starts nothing."""

    def __init__(self) -> None:
        self.up = False
        self.environment: dict[str, str] = {}

    def init(self, **options: object) -> None:
        assert options["address"] == "local"
        self.up, self.environment = True, dict(os.environ)
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))

    def shutdown(self) -> None:
        self.up = False


@pytest.fixture(autouse=True)
def _same_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_scheduler_that_wants_its_machine_back_stops_it_as_ctrl_c_does(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = SilentRay()
    monkeypatch.setattr(cluster, "ray", ray)
    with pytest.raises(Interrupted, match=r"^stopped by SIGTERM$"), cluster.met(None, None):
        os.kill(os.getpid() if ray.up else 0, signal.SIGTERM)
    assert not ray.up


def test_a_local_ray_remembers_few_tasks_as_it_would_grow_with_every_group(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "RAY_task_events_max_num_task_in_gcs"
    ray = SilentRay()
    monkeypatch.setattr(cluster, "ray", ray)
    monkeypatch.setattr(os, "environ", {key: text for key, text in os.environ.items() if key != name})
    with cluster.met(None, None):
        assert int(ray.environment[name]) <= 1000
    os.environ[name] = "5"
    with cluster.met(None, None):
        assert ray.environment[name] == "5", "what the user set stands"


SAID = "no room\nand more"


@pytest.mark.parametrize("error", [RuntimeError(SAID), ValueError(SAID), OSError(SAID), Exception(SAID)])
@pytest.mark.parametrize("address", [None, "auto"])
def test_a_ray_that_does_not_start_or_take_us_is_one_line(
    error: Exception, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise error

    ray = SilentRay()
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(cluster, "ray", ray)
    local = r"^no local Ray starts here \(\w+: no room and more\); look into \S+/ray, free"
    joined = r"^no Ray cluster takes us at auto \(no room and more\); start one"
    with pytest.raises(UserError, match=joined if address else local) as told, cluster.met(address, None):
        pass
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("address", ["nonsense", "http://a:1", "ray://10.0.0.1:10001", "a:port", ":1"])
def test_an_address_that_is_none_is_refused_before_ray_is_asked(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ray", None)
    line = "the Ray address: expected HOST:PORT with a port from 1 to 65535"
    with pytest.raises(UserError, match=line), cluster.met(address, None):
        pass


def test_workers_are_given_absolute_places_to_write_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = Config.model_validate({"model": {"embeddings": "kept"}, "run": {"name": "one"}})
    config = located(given)
    assert config.folder == tmp_path / "runs" / "one"
    assert config.latents == tmp_path / "runs" / "latents"
    assert config.model.embeddings == str(tmp_path / "kept")
    assert config.data.cache is None
    assert located(config) == config
    back = config.run.model_copy(update={"output": "runs"}), config.model.model_copy(update={"embeddings": "kept"})
    assert config.model_copy(update={"run": back[0], "model": back[1]}) == given

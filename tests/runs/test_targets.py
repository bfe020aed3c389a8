"""Where Prometheus finds a run: whole files, of no two runs the same, gone when the run is over."""

import hashlib
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from advdmd_ray import __version__
from advdmd_ray.config import Config, dump_config
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.targets import identity_of, own_address, targets_told


def config(output: Path, shared: Path | None = None, **metrics: Any) -> Config:
    folder = None if shared is None else str(shared)
    run = {"name": "first", "output": str(output)}
    return Config.model_validate({"run": run, "metrics": {"targets": folder, **metrics}})


def never() -> str:
    raise AssertionError("/metrics listens on one address, which is the one to scrape")


def targets(file: Path) -> list[str]:
    (group,) = json.loads(file.read_text())
    assert group["labels"] == {"run": "first"}
    return group["targets"]


def test_a_run_has_one_file_in_its_folder_and_one_where_all_runs_have_theirs_until_it_is_over(tmp_path: Path) -> None:
    run = config(tmp_path, tmp_path / "targets")
    own = RunFolder(run.folder).targets
    with suppress(RuntimeError), targets_told(run, never) as write:
        write(9464)
        (shared,) = (tmp_path / "targets").iterdir()
        assert shared.suffix == ".json"
        assert targets(own) == targets(shared) == ["127.0.0.1:9464"]
        write(4321)  # of a hub in the place of the one before
        assert targets(own) == targets(shared) == ["127.0.0.1:4321"]
        assert [*(tmp_path / "targets").iterdir()] == [shared]
        raise RuntimeError("the run fails")
    assert not own.exists()
    assert [*(tmp_path / "targets").iterdir()] == []


def test_runs_of_one_name_in_different_folders_or_on_different_nodes_do_not_write_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "targets"
    runs = [config(tmp_path / name, shared) for name in ("one", "two")]
    with targets_told(runs[0], never) as first, targets_told(runs[1], never) as second:
        first(1001)
        second(1002)
        monkeypatch.setattr(socket, "gethostname", lambda: "another-node")
        with targets_told(runs[0], never) as third:
            third(1003)
            assert sorted(port for file in shared.iterdir() for port in targets(file)) == [
                f"127.0.0.1:{port}" for port in (1001, 1002, 1003)
            ]


def test_a_run_that_was_killed_is_replaced_by_itself_when_it_goes_on(tmp_path: Path) -> None:
    run, shared = config(tmp_path, tmp_path / "targets"), tmp_path / "targets"
    left: Callable[[int], None]
    with targets_told(run, never) as left:
        pass
    left(1001)  # as if its end had never come
    with targets_told(run, never) as write:
        write(1002)
        assert [targets(file) for file in shared.iterdir()] == [["127.0.0.1:1002"]]


@pytest.mark.parametrize(
    ("host", "address", "expected"),
    [
        ("0.0.0.0", "10.0.0.7", "10.0.0.7:9464"),  # noqa: S104 - every interface
        ("::", "fd00::7", "[fd00::7]:9464"),
        ("::1", None, "[::1]:9464"),
        ("10.1.2.3", None, "10.1.2.3:9464"),
    ],
)
def test_the_target_is_an_address_that_can_be_scraped(
    tmp_path: Path, host: str, address: str | None, expected: str
) -> None:
    run = config(tmp_path, host=host)
    with targets_told(run, never if address is None else lambda: address) as write:
        write(9464)
        assert targets(RunFolder(run.folder).targets) == [expected]


def test_a_folder_that_cannot_be_written_is_a_warning_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "targets").write_text("a file")
    run = config(tmp_path, tmp_path / "targets")
    with targets_told(run, never) as write:
        write(9464)
        assert targets(RunFolder(run.folder).targets) == ["127.0.0.1:9464"]
    assert "Prometheus is not told of the run there" in caplog.text
    assert not RunFolder(run.folder).targets.exists()


def test_the_address_of_this_machine_is_one_that_it_can_listen_on() -> None:
    with socket.socket() as listener:
        listener.bind((own_address(), 0))


def test_a_run_says_what_it_is_by_the_digest_of_its_own_config_file(tmp_path: Path) -> None:
    run = config(tmp_path)
    identity = identity_of(run)
    assert (identity.run, identity.version, identity.model) == ("first", __version__, run.model.path)
    assert hashlib.sha256(dump_config(run).encode()).hexdigest().startswith(identity.config)
    assert len(identity.config) == 12
    assert identity_of(config(tmp_path, port=1)).config != identity.config

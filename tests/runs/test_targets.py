"""Where Prometheus finds a run: whole files, of no two runs the same, gone when the run is over."""

import hashlib
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from advdmd_ray import __version__
from advdmd_ray.config import Config, dump_config
from advdmd_ray.runs.addresses import in_url, own_address
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.targets import clear_replaced, identity_of, targets_told


def config(output: Path, shared: Path | None = None, **metrics: Any) -> Config:
    folder = None if shared is None else str(shared)
    run = {"name": "first", "output": str(output)}
    return Config.model_validate({"run": run, "metrics": {"targets": folder, **metrics}})


def targets(file: Path) -> list[str]:
    (group,) = json.loads(file.read_text())
    assert group["labels"] == {"run": "first"}
    return group["targets"]


def test_a_run_has_one_file_in_its_folder_and_one_where_all_runs_have_theirs_until_it_is_over(tmp_path: Path) -> None:
    run = config(tmp_path, tmp_path / "targets")
    own = RunFolder(run.folder).targets
    with suppress(RuntimeError), targets_told(run, "127.0.0.1") as write:
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
    with targets_told(runs[0], "127.0.0.1") as first, targets_told(runs[1], "127.0.0.1") as second:
        first(1001)
        second(1002)
        runs[0].folder.rename(tmp_path / "first-node")  # another node's disk has its own folder there
        monkeypatch.setattr(socket, "gethostname", lambda: "another-node")
        with targets_told(runs[0], "127.0.0.1") as third:
            third(1003)
            assert sorted(port for file in shared.iterdir() for port in targets(file)) == [
                f"127.0.0.1:{port}" for port in (1001, 1002, 1003)
            ]


@pytest.mark.parametrize("change", ["none", "node", "folder", "unset"])
def test_a_run_that_was_killed_is_replaced_by_itself_wherever_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    shared, other, resumed = tmp_path / "targets", tmp_path / "others", config(tmp_path, tmp_path / "targets")
    killed(resumed, 1001)
    shared.joinpath("another-0123456789ab.json").write_text("another run's")
    if change == "node":
        monkeypatch.setattr(socket, "gethostname", lambda: "another-node")
    elif change != "none":
        resumed = config(tmp_path, other if change == "folder" else None)
    with targets_told(resumed, "10.0.0.7") as write:
        write(1002)
        write(1003)
        left = [file for folder in (shared, other) if folder.exists() for file in folder.iterdir()]
        assert [targets(file) for file in left if file.name.startswith("first-")] == (
            [] if change == "unset" else [["10.0.0.7:1003"]]
        )
    assert [file.name for file in shared.iterdir()] == ["another-0123456789ab.json"]
    assert [*resumed.folder.iterdir()] == []


@pytest.mark.parametrize("node", ["the-same", "another"])
def test_a_killed_run_that_was_moved_aside_is_looked_for_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str
) -> None:
    shared, run, aside = tmp_path / "targets", config(tmp_path, tmp_path / "targets"), tmp_path / "aside"
    monkeypatch.setattr(socket, "gethostname", lambda: "the-same")
    killed(run, 1001)
    run.folder.rename(aside)
    run.folder.mkdir()
    monkeypatch.setattr(socket, "gethostname", lambda: node)
    with targets_told(run, "10.0.0.7") as write:
        write(1002)
        clear_replaced(run, aside)
        assert [targets(file) for file in shared.iterdir()] == [["10.0.0.7:1002"]]
    assert [*shared.iterdir()] == []


def killed(run: Config, port: int) -> None:
    """What a run leaves whose end never comes."""
    left: dict[Path, bytes] = {}
    with targets_told(run, "127.0.0.1") as write:
        write(port)
        folders = [run.folder, *([Path(run.metrics.targets)] if run.metrics.targets else [])]
        left |= {file: file.read_bytes() for folder in folders for file in folder.iterdir()}
    for file, data in left.items():
        file.write_bytes(data)


def test_a_note_that_names_no_such_file_removes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, precious = config(tmp_path, tmp_path / "targets"), tmp_path / "precious.json"
    precious.write_text("mine")
    run.folder.mkdir()
    note = RunFolder(run.folder).shared_target
    for spoiled in (str(precious).encode(), b"\xff", b""):
        note.write_bytes(spoiled)
        with targets_told(run, "127.0.0.1") as write:
            write(9464)
        assert precious.read_text() == "mine"
    assert [record.message.partition(" cannot be read")[0] for record in caplog.records] == [f"{note}:"]


def test_a_hub_that_comes_as_the_run_ends_tells_nobody_of_itself(tmp_path: Path) -> None:
    run = config(tmp_path, tmp_path / "targets")
    with targets_told(run, "127.0.0.1") as write:
        write(9464)
    write(4321)
    assert [*run.folder.iterdir(), *(tmp_path / "targets").iterdir()] == []


@pytest.mark.parametrize(
    ("host", "expected"), [("10.1.2.3", "10.1.2.3:9464"), ("fd00::7", "[fd00::7]:9464"), ("a-node", "a-node:9464")]
)
def test_the_target_is_an_address_that_can_be_scraped(tmp_path: Path, host: str, expected: str) -> None:
    run = config(tmp_path)
    with targets_told(run, host) as write:
        write(9464)
        assert targets(RunFolder(run.folder).targets) == [expected]
    assert f"{in_url(host)}:9464" == expected


def test_a_folder_that_cannot_be_written_is_a_warning_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "targets").write_text("a file")
    run = config(tmp_path, tmp_path / "targets")
    with targets_told(run, "127.0.0.1") as write:
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

"""What the owner of a run asks of it while it trains, through its folder."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from advdmd_ray import cli
from advdmd_ray.controller.staff import Staff
from advdmd_ray.errors import DeadlineError, UserError, WorkerLostError
from advdmd_ray.runs import scaling
from advdmd_ray.runs.folder import RunFolder, Start, claim
from advdmd_ray.runs.scaling import MOST_BYTES, MOST_WORKERS, FolderWishes, ask

STAFF = {"rollout": Staff(2, 2, 0, 0), "reward": Staff(1, 1, 0, 0)}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    """The folder of a run that this process holds."""
    with claim(Start(tmp_path / "run", None, None, "")) as folder:
        yield RunFolder(folder)


def driver(wishes: FolderWishes) -> Callable[[float], None]:
    """A driver that looks while somebody waits: it has what it is asked for, but for those that are coming."""

    def look(_: float) -> None:
        asked = wishes.wanted()
        wishes.tell({role: Staff(n := asked.get(role, was.asked), 1, n - 1, 0) for role, was in STAFF.items()})

    return look


def left(run: RunFolder) -> set[str]:
    return {path.name for path in run.path.iterdir()}


def write(folder: RunFolder, **request: Any) -> None:
    """A request of the right form, or wrong where it is told to be."""
    sound = {"run": folder.mark().text, "id": "0" * 32, "rollout": 3, "reward": None}
    folder.scale.write_text(json.dumps(sound | request))


def test_a_request_is_taken_up_once_and_holds_until_the_next_one_about_its_role(run: RunFolder) -> None:
    wishes = FolderWishes(run)
    assert wishes.wanted() == {}
    answer = ask(run.path, {"rollout": 5}, 10.0, sleep=driver(wishes))
    assert answer.staff["rollout"] == Staff(5, 1, 4, 0)
    assert wishes.wanted() == wishes.wanted() == {"rollout": 5}
    ask(run.path, {"reward": 2}, 10.0, sleep=driver(wishes))
    assert wishes.wanted() == {"rollout": 5, "reward": 2}
    ask(run.path, {"rollout": 1}, 10.0, sleep=driver(wishes))
    assert wishes.wanted() == {"rollout": 1, "reward": 2}
    ask(run.path, {"rollout": "auto"}, 10.0, sleep=driver(wishes))
    assert wishes.wanted() == {"reward": 2}
    ask(run.path, {"rollout": "auto"}, 10.0, sleep=driver(wishes))
    assert left(run) == {"run.lock", "scale.json", "staff.json"}


def test_the_command_prints_what_the_run_has(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ask, "__defaults__", (driver(FolderWishes(run)),))
    assert cli.main(["scale", "--run", str(run.path), "rollout=8", "reward=2"]) == cli.DONE
    said = capsys.readouterr()
    assert (
        said.out
        == "asked for rollout=8 reward=2; there are:\nrollout 1 up of 8, 7 coming\nreward  1 up of 2, 1 coming\n"
    )
    assert said.err == ""


def test_a_run_that_is_not_running_is_bad_input_and_nothing_is_written(tmp_path: Path) -> None:
    with claim(Start(tmp_path / "run", None, None, "")):
        pass
    with pytest.raises(UserError, match=r"run: no process is writing this run now"):
        ask(tmp_path / "run", {"rollout": 2}, 1.0)
    assert left(RunFolder(tmp_path / "run")) == {"run.lock"}


def test_a_folder_that_cannot_be_written_is_bad_input(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scaling, "write_atomically", full)
    with pytest.raises(UserError, match=r"cannot be written \(no space left on device\)"):
        ask(run.path, {"rollout": 2}, 1.0)
    FolderWishes(run).tell(STAFF)  # a run goes on


def test_a_run_that_does_not_look_is_waited_for_no_longer_than_said(run: RunFolder) -> None:
    waited: list[float] = []
    with pytest.raises(
        DeadlineError, match=r"not taken up within 3 s; a run that starts takes up rollout=2 once it trains"
    ):
        ask(run.path, {"rollout": 2}, 3.0, sleep=waited.append)
    assert 2.5 < sum(waited) < 3.5
    assert FolderWishes(run).wanted() == {"rollout": 2}, "and takes it up when it trains"


def test_a_run_that_ends_meanwhile_is_told(tmp_path: Path) -> None:
    with claim(Start(tmp_path / "run", None, None, "")) as folder:
        holding = claim(Start(tmp_path / "other", None, None, ""))
        other = holding.__enter__()

        def end(_: float) -> None:
            holding.__exit__(None, None, None)

        with pytest.raises(WorkerLostError, match=r"other: the run ended before it took up reward=2"):
            ask(other, {"reward": 2}, 5.0, sleep=end)
        assert folder.is_dir()


def test_of_two_requests_the_later_one_holds_and_the_earlier_is_told(run: RunFolder) -> None:
    def another(_: float) -> None:
        write(run, rollout=7)

    with pytest.raises(DeadlineError, match=r"another request came after this one, and holds"):
        ask(run.path, {"rollout": 2}, 5.0, sleep=another)
    assert FolderWishes(run).wanted() == {"rollout": 7}


def test_what_was_asked_of_an_earlier_start_is_not_taken_up(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    write(run, run="vm 1 " + "0" * 32 + "\n")
    wishes = FolderWishes(run)
    assert wishes.wanted() == {}
    assert caplog.messages == []
    wishes.tell(STAFF)
    assert json.loads(run.staff.read_text())["request"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"rollout": 0},
        {"rollout": -3},
        {"rollout": MOST_WORKERS + 1},
        {"rollout": 2.5},
        {"rollout": "3"},
        {"rollout": True},
        {"rollout": "many"},
        {"rollout": [3]},
        {"rollout": None},
        {"learner": 2},
        {"id": "one"},
        {"id": None},
        {"run": 1},
        {"run": "x" * 1000},
    ],
    ids=str,
)
def test_a_request_that_is_wrong_is_passed_over_with_one_line(
    run: RunFolder, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any]
) -> None:
    wishes = FolderWishes(run)
    write(run)
    assert wishes.wanted() == {"rollout": 3}
    write(run, **wrong)
    assert wishes.wanted() == wishes.wanted() == {"rollout": 3}
    (line,) = caplog.messages
    assert "scale.json is passed over, as it is no request of `advdmd scale`: " in line
    assert "\n" not in line
    assert len(line) < 400 + len(str(run.path))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[1]", b"{" * 5000, b'{"a":' * 600, b" " * MOST_BYTES * 9])
def test_bytes_that_are_no_request_are_passed_over_with_one_line(
    run: RunFolder, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    wishes = FolderWishes(run)
    run.scale.write_bytes(data)
    assert wishes.wanted() == wishes.wanted() == {}
    assert len(caplog.messages) == (data != b"")


def test_what_is_no_file_is_not_waited_for(run: RunFolder) -> None:
    wishes = FolderWishes(run)
    run.scale.mkdir()
    assert wishes.wanted() == {}
    run.scale.rmdir()
    os.mkfifo(run.scale)
    assert wishes.wanted() == {}


def test_an_answer_is_written_when_it_changes_and_not_again(run: RunFolder) -> None:
    wishes = FolderWishes(run)
    wishes.tell(STAFF)
    run.staff.unlink()
    wishes.tell(dict(STAFF))
    assert not run.staff.exists()
    wishes.tell(STAFF | {"reward": Staff(2, 1, 1, 0)})
    assert json.loads(run.staff.read_text())["staff"]["reward"] == {"asked": 2, "up": 1, "coming": 1, "leaving": 0}

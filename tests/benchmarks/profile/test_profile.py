"""The command that profiles a run, over stacks that are there already."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.profile import command

STACK = "Rank.cycle (advdmd_ray/learner/worker.py:9);linear (torch/nn/linear.py:1) 25\n"


class Ended:
    """A run of which nothing but its log is asked."""

    def __init__(self, log: Path) -> None:
        self.log = log


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """Stands for a run and its sampling; the settings of each run."""
    settings_of: list[Mapping[str, Any]] = []

    @contextmanager
    def running(folder: Path, settings: Mapping[str, Any]) -> Iterator[Ended]:
        settings_of.append(settings)
        yield Ended(folder / "log.txt")

    def sampled(run: Ended, folder: Path, seconds: int) -> list[tuple[str, Path]]:
        assert seconds == 2
        (folder / "rank.txt").write_text(STACK)
        return [("learner rank", folder / "rank.txt")]

    monkeypatch.setattr(command, "running", running)
    monkeypatch.setattr(command, "sampled", sampled)
    return settings_of


@pytest.mark.parametrize("swings", [True, False])
def test_a_run_leaves_its_document_and_picture_or_says_that_it_was_too_short(
    swings: bool,
    asked: list[Mapping[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "_in_full_swing", lambda _run, after: after == 3 and swings)
    out = tmp_path / "profile"
    code = command.main(["rollout.actors=2", "--seconds", "2", "--after", "3", "--out", str(out)])
    settings = asked[0]
    assert settings["rollout"]["actors"] == 2
    assert (settings["run"]["output"], settings["run"]["time_limit_s"]) == (str(out), None)
    if swings:
        assert code == 0
        (process,) = json.loads((out / "profile.json").read_text())["processes"]
        assert process == {"process": "learner rank", "shares": {"learner/worker.py: Rank.cycle": 0.25}}
        assert (out / "profile.png").is_file()
        assert "25.0%  learner/worker.py: Rank.cycle" in capsys.readouterr().out
    else:
        assert code == 1
        assert "ended before cycle 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seconds", "0"], "at least 1, got 0 and 8"),
        (["--out", "."], "--out . exists"),
        (["--config", "digts"], "digts"),
        (["rollout.actor=2"], "rollout.actors"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1

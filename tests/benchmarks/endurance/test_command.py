"""The command of the memory benchmark, over samples that are there already."""

import json
from pathlib import Path

import pytest

from advdmd_ray.config import Config
from benchmarks.endurance import command
from benchmarks.endurance.tiny import tiny_settings

HELD = {"own": 10**8, "shared": 5, "handles": 40, "threads": 12}


@pytest.mark.parametrize(("count", "code"), [(60, 0), (10, 1)])
def test_a_run_leaves_its_document_and_picture_or_says_that_it_was_too_short(
    count: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def watched(folder: Path, groups: int, limit_s: float | None) -> int:
        assert limit_s is None
        lines = [{"seconds": at, "groups": groups * at // count, "roles": {"hub": HELD}} for at in range(1, count + 1)]
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return 0

    monkeypatch.setattr(command, "watched", watched)
    out = tmp_path / "memory"
    assert command.main(["--groups", "3200", "--out", str(out)]) == code
    if code:
        assert "a slope needs 20 samples at different x, got 8; run longer than 3200 groups" in capsys.readouterr().err
    else:
        assert json.loads((out / "memory.json").read_text())["findings"][0]["verdict"] == "flat"
        assert (out / "memory.png").is_file()
        assert "flat" in capsys.readouterr().out


def test_a_run_of_minutes_ends_by_its_time_and_not_by_its_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def watched(folder: Path, groups: int, limit_s: float | None) -> int:
        config = Config.model_validate(tiny_settings(folder, groups, limit_s))
        assert config.run.time_limit_s == 90
        assert config.run.cycles > 100_000
        return 3

    monkeypatch.setattr(command, "watched", watched)
    assert command.main(["--minutes", "1.5", "--out", str(tmp_path / "memory")]) == 1
    said = capsys.readouterr().err
    assert "running 1.5 minutes" in said
    assert "ended with exit code 3" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--groups", "100"], "multiple of 32"),
        (["--minutes", "0"], "more than 0, got 0"),
        (["--minutes", "nan"], "more than 0, got nan"),
        (["--minutes", "1", "--groups", "64"], "not allowed with"),
        (["--out", "."], "exists"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    assert words in capsys.readouterr().err

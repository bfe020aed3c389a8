"""The command of the memory benchmark, over samples that are there already."""

import json
from pathlib import Path

import pytest

from benchmarks.endurance import command


@pytest.mark.parametrize(("count", "code"), [(60, 0), (10, 1)])
def test_a_run_leaves_its_document_and_picture_or_says_that_it_was_too_short(
    count: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def watched(folder: Path, groups: int) -> int:
        lines = [
            {"seconds": at, "groups": groups * at // count, "roles": {"hub": {"own": 10**8, "shared": 5}}}
            for at in range(1, count + 1)
        ]
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return 0

    monkeypatch.setattr(command, "watched", watched)
    out = tmp_path / "memory"
    assert command.main(["--groups", "3200", "--out", str(out)]) == code
    if code:
        assert "a slope needs 20 samples at different x, got 8; raise --groups, now 3200" in capsys.readouterr().err
    else:
        assert json.loads((out / "memory.json").read_text())["findings"][0]["verdict"] == "flat"
        assert (out / "memory.png").is_file()
        assert "flat" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "words"), [(["--groups", "100"], "multiple of 32"), (["--out", "."], "exists")])
def test_bad_input_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    assert words in capsys.readouterr().err

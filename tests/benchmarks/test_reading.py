"""`python -m benchmarks.reading`."""

import pytest

from benchmarks import reading


def test_a_folder_that_is_none_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert reading.main(["nowhere"]) == reading.BAD_INPUT
    said = capsys.readouterr()
    assert said.err.startswith("reading: ")
    assert said.err.count("\n") == 1
    assert "nowhere" in said.err


def test_the_shipped_shapes_teacher_hears_all_words_and_does_not_say_which_way_round(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reading, "FITTED", 100)
    monkeypatch.setattr(reading, "ASKED", 20)
    assert reading.main(["builtin:shapes"]) == reading.DONE
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows] == ["pooled", "mean token", "all tokens"]
    pooled, _, tokens = (float(row[2].split()[0]) for row in rows)
    assert pooled < 0.7
    assert tokens > 0.8

"""Several storms are told together."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.endurance.storm.storm import Strike
from benchmarks.endurance.storm.told import main


def test_faults_of_all_files_are_counted_and_what_was_wrong_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    strike = Strike("hub SIGKILL", "any", 1.0, 4.0, 3.0, 2.0)
    files = [tmp_path / f"{seed}.json" for seed in (1, 2)]
    for seed, file in enumerate(files, start=1):
        verdict = [{"says": "ages", "holds": seed == 1, "evidence": "4 of 2"}]
        file.write_text(json.dumps({"commit": "c", "seed": seed, "strikes": [asdict(strike)], "verdict": verdict}))
    monkeypatch.setattr(sys, "argv", ["told", *map(str, files)])
    main()
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "say no" in line] == [
        f"{files[0]}: commit c, seed 1, 0 lines say no",
        f"{files[1]}: commit c, seed 2, 1 lines say no",
    ]
    assert "  ages: 4 of 2" in said
    assert next(line.split()[:3] for line in said if line.startswith("hub")) == ["hub", "SIGKILL", "2"]

"""The row of the start: what is read of a run, and its goal."""

import json
from pathlib import Path

from benchmarks.host.contest import OURS
from benchmarks.host.rows.start import START, settings, stages


def test_the_stages_are_read_once_the_first_cycle_is_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert stages(path) == {}
    lines = [{"advdmd_run_cycle": 0.0}]
    path.write_text("".join(json.dumps({"time": 0.0, "cycle": 0, "values": each}) + "\n" for each in lines))
    assert stages(path) == {}
    lines.append({"advdmd_run_start_seconds{stage=imports}": 2.0, "advdmd_run_start_seconds{stage=first_cycle}": 1.5})
    path.write_text("".join(json.dumps({"time": 0.0, "cycle": 1, "values": each}) + "\n" for each in lines))
    assert stages(path) == {"imports": 2.0, "first_cycle": 1.5}


def test_the_run_is_the_digits_as_they_ship(tmp_path: Path) -> None:
    config = settings(tmp_path, cycles=100)
    assert (config.model.path, config.run.cycles) == ("builtin:digits", 100)
    assert config.folder.parent == tmp_path


def test_the_goal_is_of_a_contestant() -> None:
    with START.opened() as field:
        assert START.goals.keys() <= field.turns.keys() - {OURS}

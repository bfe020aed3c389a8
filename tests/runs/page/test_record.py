"""What a run folder says: whatever is there is shown, going, ended or stopped."""

import fcntl
import math
from pathlib import Path

import pytest

from advdmd_ray.runs.page.flow import busy, flow
from advdmd_ray.runs.page.record import read_record
from advdmd_ray.runs.page.several import names_of, side_by_side
from page_runs import line_of, write_lines, write_run
from summaries import summary_with


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    record = read_record(write_run(tmp_path / "demo").path, "demo")
    assert (record.state, record.cycle, record.planned, record.trouble) == ("finished", 40, 40, "")
    assert record.summary == summary_with(run="demo", cycles=40)
    assert record.series["advdmd_reward_mean{level=2}"].values[-1] == 2 + 40 / 7
    assert record.faults == ()
    assert "advdmd_buffer_bytes" not in record.series, "series that no curve shows are not kept"


def test_a_run_is_running_while_its_lock_is_held_and_stopped_after(tmp_path: Path) -> None:
    run = write_lines(tmp_path / "demo", [line_of(1), line_of(2)])
    assert read_record(run.path, "demo").state == "stopped"
    with run.lock.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_record(run.path, "demo").state == "running"


def test_an_empty_folder_and_half_a_line_are_no_errors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = read_record(tmp_path, "new")
    assert (record.state, record.cycle, record.planned, record.config_text) == ("stopped", 0, 0, "")
    assert math.isnan(record.ended)
    run = write_lines(tmp_path, [line_of(1)])
    with run.metrics.open("a") as file:
        file.write('{"time": 1, "cyc')
    assert read_record(tmp_path, "new").cycle == 1
    assert caplog.text == "", "a line that is being written is nothing to warn of, every few seconds"


def test_files_of_another_version_are_told_in_a_line_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo")
    run.summary.write_text('{"run": "demo"}')
    record = read_record(run.path, "demo")
    assert record.summary is None
    assert "is not of this version" in record.trouble
    run.config.write_text("run: {nmae: x}\n")
    record = read_record(run.path, "demo")
    assert record.config is None
    assert "configuration cannot be read" in record.trouble
    assert "\n" not in record.trouble
    assert record.cycle == 40


def test_rates_are_those_of_the_whole_run_or_of_the_last_minute(tmp_path: Path) -> None:
    # Two seconds a cycle at first, at last one: 64 trajectories each.
    lines = [line_of(cycle, 400) for cycle in range(1, 401)]
    for line in lines[200:]:
        line["time"] -= line["cycle"] - 200
    run = write_lines(tmp_path, lines)
    key = "advdmd_rollout_trajectories_total"
    whole = read_record(tmp_path, "run").rates[key]
    assert whole == pytest.approx(64 * 399 / (lines[-1]["time"] - lines[0]["time"]))
    with run.lock.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_record(tmp_path, "run").rates[key] == pytest.approx(64, rel=0.01)


def test_the_flow_says_rates_ages_and_shares_of_time(tmp_path: Path) -> None:
    record = read_record(write_run(tmp_path / "demo").path, "demo")
    rollout, reward, buffer, learner, weights = flow(record)
    assert busy(record, "rollout") == rollout.busy == pytest.approx(0.75)
    assert reward.busy is None
    assert rollout.onward[0] == "32"
    assert reward.onward == ("4", "groups a second")
    assert buffer.onward == ("0 / 1", "versions old: policy, reward")
    assert ("bytes", "250 kB of 256 MB") in buffer.facts
    assert ("a cycle takes", "2.0 s") in learner.facts
    assert ("oldest in use", "1 behind") in weights.facts


def test_runs_beside_each_other_show_the_settings_that_differ(tmp_path: Path) -> None:
    one, two = (write_run(tmp_path / name / "seed-0") for name in ("slow", "fast"))
    two.config.write_text(two.config.read_text().replace("  group_size: 16", "  group_size: 4"))
    names = names_of([one.path, two.path])
    assert names == ["slow/seed-0", "fast/seed-0"]
    assert names_of([one.path, tmp_path / "slow"]) == ["seed-0", "slow"]
    runs = side_by_side([read_record(run.path, name) for run, name in zip((one, two), names, strict=True)])
    settings = {row.name: row.values for row in runs.rows if row.setting}
    assert len(set(settings["rollout.group_size"])) == 2
    assert set(settings) == {"rollout.group_size"}
    assert [row.values[0] for row in runs.rows if row.name == "student"] == ["Fréchet distance 3.90 of 1,000 images"]
